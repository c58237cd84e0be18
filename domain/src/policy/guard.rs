//! The last word before anything is marked or deleted: a plan that would take too much of a target away is not obeyed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::util::text::printable;

/// How much of a target one sync may mark or delete (`max_delete`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxDelete {
    /// This many of a hundred packages that the target holds.
    Percent(u8),
    /// This many packages.
    Count(u64),
}

impl Default for MaxDelete {
    fn default() -> Self {
        Self::Percent(10)
    }
}

/// Why a text is not a `max_delete`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is neither a number of packages nor a percentage up to 100%", printable(.0))]
pub struct MaxDeleteError(String);

impl FromStr for MaxDelete {
    type Err = MaxDeleteError;

    fn from_str(text: &str) -> Result<Self, MaxDeleteError> {
        let wrong = || MaxDeleteError(text.to_owned());
        let (digits, is_percent) = text.strip_suffix('%').map_or((text, false), |digits| (digits, true));
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        if is_percent {
            return digits.parse().ok().filter(|percent| *percent <= 100).map(Self::Percent).ok_or_else(wrong);
        }
        digits.parse().map(Self::Count).map_err(|_| wrong())
    }
}

impl fmt::Display for MaxDelete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Count(count) => write!(f, "{count}"),
        }
    }
}

/// A plan that the guard did not let pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Packages that would have been marked or deleted.
    pub touched: u64,
    /// Packages that the target holds.
    pub held: u64,
    /// The limit, as the config writes it.
    pub limit: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { touched, held, limit } = self;
        write!(
            f,
            "{touched} of {held} packages would be marked or deleted, more than max_delete: {limit}, so none is; \
             look at blat plan, and confirm once with blat sync --allow-delete"
        )
    }
}

/// A sync marks and deletes by an answer of Release Manager that is at most so old; an older one is asked for again.
pub const ANSWER_HOLDS: Duration = Duration::from_secs(300);

/// Whether a target that holds `held` packages may lose `touched` of them, now or later, in one sync.
pub fn judge(touched: u64, held: u64, limit: MaxDelete) -> Result<(), Refusal> {
    let is_too_much = match limit {
        MaxDelete::Percent(percent) => u128::from(touched) * 100 > u128::from(held) * u128::from(percent),
        MaxDelete::Count(count) => touched > count,
    };
    if is_too_much { Err(Refusal { touched, held, limit: limit.to_string() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_count_or_a_percentage() {
        assert_eq!("10%".parse(), Ok(MaxDelete::Percent(10)));
        assert_eq!("100%".parse(), Ok(MaxDelete::Percent(100)));
        assert_eq!("0".parse(), Ok(MaxDelete::Count(0)));
        assert_eq!("250".parse(), Ok(MaxDelete::Count(250)));
        for text in ["", "%", "101%", "-1", "10 %", "1.5%", "1e3", "ten", "+5", "300%", "99999999999999999999"] {
            assert!(text.parse::<MaxDelete>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_limit_itself_may_be_reached_and_not_passed() {
        for (limit, held, most) in [
            (MaxDelete::Percent(10), 100, 10),
            (MaxDelete::Percent(10), 19, 1),
            (MaxDelete::Percent(10), 9, 0),
            (MaxDelete::Percent(0), 1000, 0),
            (MaxDelete::Percent(100), 7, 7),
            (MaxDelete::Count(3), 4, 3),
        ] {
            assert_eq!(judge(most, held, limit), Ok(()), "{limit} of {held}");
            if most < held {
                assert!(judge(most + 1, held, limit).is_err(), "{limit} of {held}");
            }
        }
    }

    #[test]
    fn a_refusal_says_how_much_and_how_to_confirm() {
        let text = judge(20, 40, MaxDelete::Percent(10)).expect_err("half of it").to_string();
        assert!(text.contains("20 of 40") && text.contains("10%") && text.contains("--allow-delete"), "{text}");
    }
}
