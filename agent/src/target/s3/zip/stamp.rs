//! Times as a ZIP keeps them, from a package's own: never from a clock, or the same package would give other bytes.

use jiff::Timestamp;
use jiff::tz::Offset;
use zip::DateTime;
use zip::write::FullFileOptions;

use crate::source::walker::Stat;

/// The extra field with seconds since 1970, from which readers restore times whatever their time zone; its header's number and the flag
/// that says that there is a time of change in it.
const EXTENDED_TIMESTAMP: u16 = 0x5455;
const HAS_MTIME: u8 = 1;

/// Options that carry an entry's time: in the old form, which counts two seconds each from 1980 to 2107, here in UTC, and where seconds
/// since 1970 fit into 32 bits also exactly.
pub(super) fn stamped(stat: &Stat) -> zip::result::ZipResult<FullFileOptions<'static, 'static>> {
    let (seconds, _) = stat.modified;
    let mut options = FullFileOptions::default().last_modified_time(dos_time(seconds));
    if let Ok(exact) = i32::try_from(seconds) {
        let [a, b, c, d] = exact.to_le_bytes();
        options.add_extra_field(EXTENDED_TIMESTAMP, [HAS_MTIME, a, b, c, d], false)?;
    }
    Ok(options)
}

/// What is out of range becomes the nearest time within it.
fn dos_time(seconds: i64) -> DateTime {
    let earliest = DateTime::default();
    let latest = DateTime::from_date_and_time(2107, 12, 31, 23, 59, 58).unwrap_or(earliest);
    let fallback = if seconds < 0 { earliest } else { latest };
    let Ok(moment) = Timestamp::from_second(seconds) else { return fallback };
    let civil = Offset::UTC.to_datetime(moment);
    if civil.year() < 1980 {
        return earliest;
    }
    let part = |number: i8| u8::try_from(number).unwrap_or(0);
    let (month, day) = (part(civil.month()), part(civil.day()));
    let (hour, minute, second) = (part(civil.hour()), part(civil.minute()), part(civil.second()));
    let year = u16::try_from(civil.year()).unwrap_or(u16::MAX);
    DateTime::from_date_and_time(year, month, day, hour, minute, second).unwrap_or(latest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_utc_and_kept_within_what_a_zip_can_say() {
        let parts = |seconds: i64| {
            let time = dos_time(seconds);
            (time.year(), time.month(), time.day(), time.hour(), time.minute(), time.second())
        };
        // An odd second is rounded down: an entry is never younger than its file.
        assert_eq!(parts(1_709_208_001), (2024, 2, 29, 12, 0, 0));
        assert_eq!(parts(315_532_800), (1980, 1, 1, 0, 0, 0));
        for early in [i64::MIN, -2_177_452_800, 0, 315_532_799] {
            assert_eq!(parts(early), (1980, 1, 1, 0, 0, 0), "{early}");
        }
        for late in [4_354_819_200, i64::MAX] {
            assert_eq!(parts(late), (2107, 12, 31, 23, 59, 58), "{late}");
        }
    }
}
