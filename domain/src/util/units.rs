//! Durations and sizes as the configuration writes them.

use std::time::Duration;

use crate::util::text::printable;

/// Why a text is not a duration or a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration at all.
    #[error("\"{0}\" is not a duration: expected numbers with the units s, m, h or d, such as 90, 30m or 1d12h")]
    Duration(String),
    /// A duration where the unit must be said.
    #[error("\"{0}\" has no unit: expected s, m, h or d after each number, such as 30d")]
    UnitMissing(String),
    /// Not a size at all.
    #[error("\"{0}\" is not a size: expected a number of blocks of 1 KiB, or one with k, m or g, such as 512m")]
    Size(String),
    /// A number too large to mean anything.
    #[error("\"{0}\" is too large")]
    TooLarge(String),
}

/// The longest duration that is believed: a hundred years.
const LONGEST: u64 = 100 * 365 * 86_400;

/// `1h10h` is eleven hours; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    if let Some(seconds) = digits(text) {
        return bounded(text, seconds);
    }
    age(text).map_err(|error| match error {
        UnitError::UnitMissing(text) => UnitError::Duration(text),
        other => other,
    })
}

/// As [`duration`], where every number must carry its unit: an age in days must not be taken for one in seconds.
pub fn age(text: &str) -> Result<Duration, UnitError> {
    if digits(text).is_some() {
        return Err(UnitError::UnitMissing(printable(text)));
    }
    let malformed = || UnitError::Duration(printable(text));
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(malformed)?;
        let (number, tail) = rest.split_at(unit_at);
        let seconds = match tail.as_bytes().first() {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 3_600,
            Some(b'd') => 86_400,
            _ => return Err(malformed()),
        };
        let number = digits(number).ok_or_else(malformed)?.ok_or_else(|| too_large(text))?;
        total = number.checked_mul(seconds).and_then(|part| total.checked_add(part)).ok_or_else(|| too_large(text))?;
        rest = &tail[1..];
    }
    if text.is_empty() {
        return Err(malformed());
    }
    bounded(text, Some(total))
}

/// A size in bytes: a number of blocks of 1 KiB (`k` and `b` say the same), of MiB (`m`) or of GiB (`g`).
pub fn size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = match text.as_bytes().last() {
        Some(b'k' | b'b') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm') => (&text[..text.len() - 1], 1 << 20),
        Some(b'g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1u64 << 10),
    };
    digits(number)
        .ok_or_else(|| UnitError::Size(printable(text)))?
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| too_large(text))
}

/// None: not only digits. Some(None): digits, but more than a u64 holds.
fn digits(text: &str) -> Option<Option<u64>> {
    let all_digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| text.parse().ok())
}

fn bounded(text: &str, seconds: Option<u64>) -> Result<Duration, UnitError> {
    seconds.filter(|s| *s <= LONGEST).map(Duration::from_secs).ok_or_else(|| too_large(text))
}

fn too_large(text: &str) -> UnitError {
    UnitError::TooLarge(printable(text))
}

/// A size for people: `0 B`, `17.3 KiB`, `1.2 GiB`.
pub fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A duration for people, to two units: `4h`, `1d 12h`, `3m 20s`, `850ms`.
pub fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 {
        return format!("{}ms", duration.as_millis());
    }
    let parts = [("d", seconds / 86_400), ("h", seconds / 3_600 % 24), ("m", seconds / 60 % 60), ("s", seconds % 60)];
    let first = parts.iter().position(|(_, n)| *n > 0).unwrap_or(3);
    parts[first..]
        .iter()
        .take(2)
        .filter(|(_, n)| *n > 0)
        .map(|(unit, n)| format!("{n}{unit}"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_summed_and_bare_numbers_are_seconds() {
        for (text, seconds) in [
            ("0", 0),
            ("90", 90),
            ("5s", 5),
            ("30m", 1_800),
            ("1h10h", 39_600),
            ("1d12h", 129_600),
            ("2m3s", 123),
            ("012", 12),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "-1", "1.5h", "h", "1x", "1h5", "1e3", " 5s", "5 s", "4H", "99999999999999999999d", "1000000d"]
        {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_age_must_say_its_unit() {
        assert_eq!(age("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(age("30"), Err(UnitError::UnitMissing("30".into())));
    }

    #[test]
    fn sizes_are_in_blocks_of_one_kibibyte() {
        for (text, bytes) in [("0", 0), ("1", 1024), ("1k", 1024), ("1b", 1024), ("512m", 512 << 20), ("2g", 2 << 30)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "-1m", "1.5g", "1e3", "1kb", "1 m", "1G", "99999999999999999999", "99999999999999g"] {
            assert!(size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn people_read_them_back() {
        assert_eq!(show_size(1023), "1023 B");
        assert_eq!(show_size(1536), "1.5 KiB");
        assert_eq!(show_size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(show_duration(Duration::from_secs(4 * 3_600)), "4h");
        assert_eq!(show_duration(Duration::from_secs(129_600)), "1d 12h");
        assert_eq!(show_duration(Duration::from_millis(850)), "850ms");
    }
}
