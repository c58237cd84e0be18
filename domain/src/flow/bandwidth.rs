//! How fast may be sent when: one limit for all times, or limits by the day of the week and the time of day.
//!
//! Times are those of a week, which begins on Monday at 00:00. Whoever asks knows the clock, and asks again now and then: clocks are set, and
//! a day on which summer time begins or ends has not 24 hours.

use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use crate::util::text::printable;

/// Bytes a second; none: no limit.
pub type Rate = Option<NonZeroU64>;

const MINUTE: u32 = 60;
const DAY: u32 = 86_400;
const WEEK: u32 = 7 * DAY;
/// The days as the configuration writes them.
const WORDS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Why something is no part of a bandwidth.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BandwidthError {
    /// Not a time of day.
    #[error("\"{0}\" is not a time of day: expected hours and minutes from 00:00 to 24:00, such as 08:30")]
    Time(String),
    /// Not a day.
    #[error("\"{0}\" is not a day: expected mon, tue, wed, thu, fri, sat or sun")]
    Day(String),
    /// A window of which nobody can tell whether it holds never or always.
    #[error("this window ends when it begins; a whole day is from 00:00 to 24:00")]
    Empty,
    /// A window that begins at the end of its day.
    #[error("a window cannot begin at 24:00, which is 00:00 of the next day")]
    BeginsLate,
    /// A window without a day.
    #[error("no day is named")]
    NoDay,
}

/// A time of day, to the minute: 24:00 is the end of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay {
    seconds: u32,
}

impl FromStr for TimeOfDay {
    type Err = BandwidthError;

    fn from_str(text: &str) -> Result<Self, BandwidthError> {
        let two_digits = |text: &str| match text.as_bytes() {
            [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => Some(u32::from(tens - b'0') * 10 + u32::from(ones - b'0')),
            _ => None,
        };
        let parts = text.split_once(':').and_then(|(hours, minutes)| two_digits(hours).zip(two_digits(minutes)));
        match parts {
            Some((hours, minutes)) if minutes < 60 && hours * 60 + minutes <= 24 * 60 => {
                Ok(Self { seconds: (hours * 60 + minutes) * MINUTE })
            }
            Some(_) | None => Err(BandwidthError::Time(printable(text))),
        }
    }
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day {
    /// From 0, which is Monday, to 6.
    number: u32,
}

impl Day {
    /// All seven.
    pub fn all() -> Vec<Self> {
        (0..7).map(|number| Self { number }).collect()
    }
}

impl FromStr for Day {
    type Err = BandwidthError;

    fn from_str(text: &str) -> Result<Self, BandwidthError> {
        let known = (0..7).zip(WORDS).find(|(_, word)| *word == text);
        known.map(|(number, _)| Self { number }).ok_or_else(|| BandwidthError::Day(printable(text)))
    }
}

/// A moment of a week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeekTime {
    /// Since Monday at 00:00; always below a week.
    seconds: u32,
}

impl WeekTime {
    /// `days` after Monday, at this many seconds of that day.
    pub fn new(days: u32, seconds: u32) -> Self {
        Self { seconds: (days % 7 * DAY + seconds.min(DAY)) % WEEK }
    }

    /// Seconds since it was last so late in the week.
    fn since(self, then: u32) -> u32 {
        (self.seconds + WEEK - then % WEEK) % WEEK
    }

    /// Seconds until it is so late in the week.
    fn until(self, then: u32) -> u32 {
        (then % WEEK + WEEK - self.seconds) % WEEK
    }
}

/// Hours of some days with a limit of their own. One that ends earlier than it begins goes on past midnight, and belongs to the day on
/// which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateWindow {
    from: TimeOfDay,
    to: TimeOfDay,
    days: Vec<Day>,
    rate: Rate,
}

impl RateWindow {
    /// From `from` to just before `to`, beginning on each of `days`.
    ///
    /// # Errors
    /// Where nobody could tell when it holds, or it never does.
    pub fn new(from: TimeOfDay, to: TimeOfDay, days: Vec<Day>, rate: Rate) -> Result<Self, BandwidthError> {
        if from.seconds == DAY {
            return Err(BandwidthError::BeginsLate);
        }
        if from == to {
            return Err(BandwidthError::Empty);
        }
        if days.is_empty() {
            return Err(BandwidthError::NoDay);
        }
        Ok(Self { from, to, days, rate })
    }

    fn holds(&self, at: WeekTime) -> bool {
        self.starts().any(|start| at.since(start) < self.length())
    }

    /// When it begins, in seconds of the week.
    fn starts(&self) -> impl Iterator<Item = u32> {
        self.days.iter().map(|day| day.number * DAY + self.from.seconds)
    }

    fn length(&self) -> u32 {
        let end = if self.to > self.from { self.to.seconds } else { self.to.seconds + DAY };
        end - self.from.seconds
    }
}

/// How fast may be sent to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bandwidth {
    /// The same at all times.
    Always(Rate),
    /// By the first window that holds; outside of all of them without limit.
    Windows(Vec<RateWindow>),
}

impl Bandwidth {
    /// The limit at this time.
    pub fn rate(&self, at: WeekTime) -> Rate {
        match self {
            Self::Always(rate) => *rate,
            Self::Windows(windows) => windows.iter().find(|window| window.holds(at)).and_then(|window| window.rate),
        }
    }

    /// How long from this time until the limit is another; none where it never is.
    pub fn changes_in(&self, at: WeekTime) -> Option<Duration> {
        let Self::Windows(windows) = self else { return None };
        let now = self.rate(at);
        let bounds = windows.iter().flat_map(|w| w.starts().flat_map(|start| [start, start + w.length()]));
        let mut waits: Vec<u32> = bounds.map(|bound| at.until(bound)).collect();
        waits.sort_unstable();
        waits.dedup();
        let other = |wait: &u32| self.rate(WeekTime { seconds: (at.seconds + wait) % WEEK }) != now;
        waits.into_iter().find(other).map(|wait| Duration::from_secs(wait.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u32 = 3_600;
    const MON: u32 = 0;
    const TUE: u32 = 1;
    const FRI: u32 = 4;
    const SAT: u32 = 5;
    const SUN: u32 = 6;

    fn window(from: &str, to: &str, days: &str, rate: u64) -> RateWindow {
        let days = days.split_whitespace().map(|day| day.parse().expect("a day")).collect();
        RateWindow::new(from.parse().expect("a time"), to.parse().expect("a time"), days, NonZeroU64::new(rate))
            .expect("a window")
    }

    fn at(day: u32, hours: u32, minutes: u32) -> WeekTime {
        WeekTime::new(day, hours * HOUR + minutes * MINUTE)
    }

    fn rates(bandwidth: &Bandwidth, times: &[WeekTime]) -> Vec<u64> {
        times.iter().map(|at| bandwidth.rate(*at).map_or(0, NonZeroU64::get)).collect()
    }

    #[test]
    fn a_window_holds_from_its_beginning_to_just_before_its_end_on_its_days() {
        let office = Bandwidth::Windows(vec![window("08:00", "18:00", "mon fri", 5)]);
        let times = [at(MON, 7, 59), at(MON, 8, 0), at(MON, 17, 59), at(MON, 18, 0), at(TUE, 9, 0), at(FRI, 9, 0)];
        assert_eq!(rates(&office, &times), [0, 5, 5, 0, 0, 5]);
        let whole_day = Bandwidth::Windows(vec![window("00:00", "24:00", "sun", 5)]);
        assert_eq!(rates(&whole_day, &[at(SAT, 23, 59), at(SUN, 0, 0), at(SUN, 23, 59), at(MON, 0, 0)]), [0, 5, 5, 0]);
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let night = Bandwidth::Windows(vec![window("22:00", "06:00", "sun", 5)]);
        let times = [at(SUN, 5, 0), at(SUN, 22, 0), at(MON, 5, 59), at(MON, 6, 0), at(MON, 22, 0)];
        assert_eq!(rates(&night, &times), [0, 5, 5, 0, 0], "also over the end of the week");
    }

    #[test]
    fn the_first_window_that_holds_counts_and_outside_of_all_there_is_no_limit() {
        let lunch = window("12:00", "13:00", "mon", 0);
        let both = Bandwidth::Windows(vec![lunch, window("08:00", "18:00", "mon", 5)]);
        assert_eq!(rates(&both, &[at(MON, 11, 0), at(MON, 12, 30), at(MON, 13, 0), at(MON, 20, 0)]), [5, 0, 5, 0]);
    }

    #[test]
    fn it_is_known_when_the_limit_changes_next() {
        let hours = |hours| Some(Duration::from_secs(hours * u64::from(HOUR)));
        let office = Bandwidth::Windows(vec![window("08:00", "18:00", "mon fri", 5)]);
        assert_eq!(office.changes_in(at(MON, 7, 0)), hours(1));
        assert_eq!(office.changes_in(at(MON, 8, 0)), hours(10));
        assert_eq!(office.changes_in(at(FRI, 18, 0)), hours(6 + 48 + 8), "over the end of the week");
        let seamless = Bandwidth::Windows(vec![window("08:00", "12:00", "mon", 5), window("12:00", "18:00", "mon", 5)]);
        assert_eq!(seamless.changes_in(at(MON, 9, 0)), hours(9), "from 5 to 5 is no change");
        let all_week = window("00:00", "24:00", "mon tue wed thu fri sat sun", 5);
        for steady in [Bandwidth::Always(NonZeroU64::new(5)), Bandwidth::Windows(vec![all_week])] {
            assert_eq!(steady.changes_in(at(MON, 9, 0)), None);
        }
    }

    #[test]
    fn times_and_days_are_written_in_one_way() {
        assert_eq!("24:00".parse(), Ok(TimeOfDay { seconds: DAY }));
        for bad in ["", "8:00", "08:0", "24:01", "08:60", "0800", "08:00:00", "08:00 ", "+8:00", "é8:00"] {
            assert!(bad.parse::<TimeOfDay>().is_err(), "{bad:?}");
        }
        for bad in ["", "Mon", "monday", "mo"] {
            assert!(bad.parse::<Day>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn windows_that_cannot_be_meant_are_refused() {
        let window = |from: &str, to: &str, days| {
            let time = |text: &str| text.parse().expect("a time");
            RateWindow::new(time(from), time(to), days, None)
        };
        assert_eq!(window("08:00", "08:00", Day::all()), Err(BandwidthError::Empty));
        assert_eq!(window("24:00", "08:00", Day::all()), Err(BandwidthError::BeginsLate));
        assert_eq!(window("08:00", "09:00", Vec::new()), Err(BandwidthError::NoDay));
        assert!(window("00:00", "24:00", Day::all()).is_ok());
    }
}
