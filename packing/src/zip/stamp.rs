//! Times as a ZIP keeps them, from a package's own: never from a clock, or the same package would give other bytes.

use jiff::Timestamp;
use jiff::tz::Offset;

use crate::walker::Stat;

/// The extra field with seconds since 1970, from which readers restore times whatever their time zone; its header's number and the flag
/// that says that there is a time of change in it.
const EXTENDED_TIMESTAMP: u16 = 0x5455;
const HAS_MTIME: u8 = 1;

/// The first and the last that the old form can say.
const EARLIEST: Civil = Civil { year: 1980, month: 1, day: 1, hour: 0, minute: 0, second: 0 };
const LATEST: Civil = Civil { year: 2107, month: 12, day: 31, hour: 23, minute: 59, second: 58 };

/// An entry's time: in the old form, which counts two seconds each from 1980 to 2107, here in UTC, and where seconds since 1970 fit into 32 bits
/// also exactly.
#[derive(Debug, Clone, Copy)]
pub(super) struct ZipTime {
    pub(super) time: u16,
    pub(super) date: u16,
    exact: Option<i32>,
}

#[derive(Debug, Clone, Copy)]
struct Civil {
    year: u16,
    month: u16,
    day: u16,
    hour: u16,
    minute: u16,
    second: u16,
}

impl ZipTime {
    pub(super) fn of(stat: &Stat) -> Self {
        let (seconds, _) = stat.modified;
        let Civil { year, month, day, hour, minute, second } = civil(seconds);
        let (time, date) = ((hour << 11) | (minute << 5) | (second / 2), ((year - 1980) << 9) | (month << 5) | day);
        Self { time, date, exact: i32::try_from(seconds).ok() }
    }

    /// The extra field with the exact time, where there is one.
    pub(super) fn extra(&self) -> Vec<u8> {
        let Some(exact) = self.exact else { return Vec::new() };
        let [[a, b], [c, d]] = [EXTENDED_TIMESTAMP, 5].map(u16::to_le_bytes);
        [&[a, b, c, d, HAS_MTIME][..], &exact.to_le_bytes()].concat()
    }
}

/// What is out of range becomes the nearest time within it.
fn civil(seconds: i64) -> Civil {
    let fallback = if seconds < 0 { EARLIEST } else { LATEST };
    let Ok(moment) = Timestamp::from_second(seconds) else { return fallback };
    let civil = Offset::UTC.to_datetime(moment);
    let part = |number: i8| u16::try_from(number).unwrap_or(0);
    match u16::try_from(civil.year()).unwrap_or(0) {
        0..1980 => EARLIEST,
        year @ 1980..=2107 => Civil {
            year,
            month: part(civil.month()),
            day: part(civil.day()),
            hour: part(civil.hour()),
            minute: part(civil.minute()),
            second: part(civil.second()),
        },
        2108.. => LATEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_utc_and_kept_within_what_a_zip_can_say() {
        let parts = |seconds: i64| {
            let Civil { year, month, day, hour, minute, second } = civil(seconds);
            (year, month, day, hour, minute, second)
        };
        assert_eq!(parts(1_709_208_001), (2024, 2, 29, 12, 0, 1));
        assert_eq!(parts(315_532_800), (1980, 1, 1, 0, 0, 0));
        for early in [i64::MIN, -2_177_452_800, 0, 315_532_799] {
            assert_eq!(parts(early), (1980, 1, 1, 0, 0, 0), "{early}");
        }
        for late in [4_354_819_200, i64::MAX] {
            assert_eq!(parts(late), (2107, 12, 31, 23, 59, 58), "{late}");
        }
    }
}
