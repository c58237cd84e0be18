//! How many bytes may be on their way to a far end, so that they fill the road and hardly wait on it.
//!
//! What was written cannot be overtaken any more, however urgent the next bytes are: pipes, sockets and routers on the way are queues, and together
//! they hold megabytes. So no more is written than the road itself holds. Questions go along with the bytes and are answered at once: the answer says
//! that all before them has arrived, and the time that it took, less the shortest that was ever seen, is what the queues have.

use std::collections::VecDeque;
use std::time::Duration;

use crate::flow::throughput::Sample;

/// The least window, in bytes: a window that holds too little leaves the road empty now and then.
pub const LEAST: u64 = 128 << 10;
/// The largest: more than any road needs that is worth the name.
pub const MOST: u64 = 64 << 20;
/// The window of a road of which nothing is known yet.
const FIRST: u64 = 512 << 10;
/// Bytes from one question to the next, at the least.
const STEP: u64 = 64 << 10;
/// Questions for each window: what arrives is noticed so much late, and one answer may be late by chance.
const QUESTIONS: u64 = 32;
/// How long bytes may wait on the way, so that the road never runs dry while an answer is under way.
const ALLOWANCE: Duration = Duration::from_millis(4);
/// And how many may: a road that is fast at the moment is not when the processors at its ends are wanted elsewhere.
const STANDING: u64 = 512 << 10;
/// What is known of the shortest time holds for one to two such periods: roads change.
const PERIOD: Duration = Duration::from_secs(5);

/// A question that is not answered.
#[derive(Debug, Clone, Copy)]
struct Question {
    /// Bytes written before it.
    after: u64,
    at: Duration,
}

/// What was seen from one look at the window to the next: about one round trip.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    /// Begins when so many bytes have arrived.
    from: u64,
    /// Ends with the first answer to a question that comes after so many bytes.
    until: u64,
    began: Duration,
    quickest: Option<Duration>,
    /// Whether bytes had to wait for the window.
    was_full: bool,
}

/// An answer without a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unasked;

/// The bytes that may be on their way. Times are those since any one moment.
#[derive(Debug)]
pub struct CongestionWindow {
    bytes: u64,
    /// Written, and known to have arrived, since the beginning.
    written: u64,
    arrived: u64,
    /// Written up to the last urgent byte.
    urgent: u64,
    /// Written when last there was room on the way and nothing to be written: until all that has arrived and more, we are slower than the road.
    starved: u64,
    questions: VecDeque<Question>,
    round: Round,
    /// The shortest time of this period, and of the one before.
    shortest: [Option<Duration>; 2],
    period_began: Duration,
    /// Whether nothing has ever waited on the way: then the window doubles.
    begins: bool,
    /// Whether this round is to show how long an answer takes when nothing waits on the way.
    drains: bool,
}

impl Default for CongestionWindow {
    fn default() -> Self {
        Self {
            bytes: FIRST,
            written: 0,
            arrived: 0,
            urgent: 0,
            starved: 0,
            questions: VecDeque::new(),
            round: Round::default(),
            shortest: [None; 2],
            period_began: Duration::ZERO,
            begins: true,
            drains: false,
        }
    }
}

impl CongestionWindow {
    /// Whether more may be written. Asked when there is more.
    pub fn is_open(&mut self) -> bool {
        let is_open = self.on_the_way() < self.bytes();
        self.round.was_full |= !is_open;
        is_open
    }

    /// There is nothing to be written, or nothing that may be.
    pub fn starve(&mut self) {
        if self.on_the_way() < self.bytes() {
            self.starved = self.written;
        }
    }

    /// So many bytes were written that did not wait for the window. They take their place on the way; that answers are later says nothing of it.
    #[must_use]
    pub fn write_urgent(&mut self, bytes: u64) -> bool {
        let should_ask = self.write(bytes);
        self.urgent = self.written;
        should_ask
    }

    /// So many bytes were written. Tells whether a question should follow them.
    #[must_use]
    pub fn write(&mut self, bytes: u64) -> bool {
        self.written += bytes;
        let asked = self.questions.back().map_or(self.arrived, |question| question.after);
        self.written - asked >= (self.bytes() / QUESTIONS).max(STEP)
    }

    /// A question was written. They are answered in their order.
    pub fn ask(&mut self, now: Duration) {
        self.questions.push_back(Question { after: self.written, at: now });
    }

    /// The first question that was not answered is. Gives what a round has shown of the road where it ends with that.
    ///
    /// # Errors
    /// [`Unasked`] where there is no such question.
    pub fn answer(&mut self, now: Duration) -> Result<Option<Sample>, Unasked> {
        let Question { after, at } = self.questions.pop_front().ok_or(Unasked)?;
        self.arrived = after;
        let took = now.saturating_sub(at);
        for known in [&mut self.round.quickest, &mut self.shortest[0]] {
            *known = Some(known.map_or(took, |known| known.min(took)));
        }
        Ok((after >= self.round.until).then(|| self.look(now)))
    }

    /// Bytes that may be on their way at the moment.
    pub fn bytes(&self) -> u64 {
        if self.drains { (self.bytes / 2).max(LEAST) } else { self.bytes }
    }

    fn on_the_way(&self) -> u64 {
        self.written - self.arrived
    }

    /// Makes the window fit what a round has shown, and tells that.
    fn look(&mut self, now: Duration) -> Sample {
        let next = Round { from: self.arrived, until: self.written + 1, began: now, ..Round::default() };
        let round = std::mem::replace(&mut self.round, next);
        let sample = self.sample(round, now);
        let was_drained = std::mem::replace(&mut self.drains, false);
        if let (Some(took), Some(shortest), false) = (round.quickest, self.shortest(), was_drained) {
            self.fit(took, shortest, round.was_full && self.urgent <= round.from);
        }
        if !was_drained && now.saturating_sub(self.period_began) >= PERIOD {
            self.begin_period(now);
        }
        sample
    }

    /// What a round has shown that ends now. The road was full where even the quickest answer waited behind other bytes.
    fn sample(&self, round: Round, now: Duration) -> Sample {
        let has_waited = round.quickest.zip(self.shortest()).is_some_and(|(took, best)| took >= best + ALLOWANCE / 2);
        Sample {
            bytes: self.arrived - round.from,
            took: now.saturating_sub(round.began),
            was_full: has_waited && self.starved < round.from,
        }
    }

    fn begin_period(&mut self, now: Duration) {
        let before = self.shortest();
        self.period_began = now;
        self.shortest = [None, self.shortest[0]];
        self.drains = true;
        // A road that has become longer is another one: the window was narrowed for what nobody could help.
        self.begins |= before.zip(self.shortest()).is_some_and(|(before, now)| now > before + ALLOWANCE);
    }

    fn shortest(&self) -> Option<Duration> {
        self.shortest.iter().flatten().min().copied()
    }

    /// A full window takes `took`, which is to be the shortest time and what may wait: so it should be as much less, or may be as much more. One that
    /// was not full says nothing: answers are late for other reasons as well.
    fn fit(&mut self, took: Duration, shortest: Duration, was_full: bool) {
        if !was_full {
            return;
        }
        let wanted = shortest + ALLOWANCE;
        let scaled = |by: Duration| {
            let bytes = u128::from(self.bytes) * by.as_nanos() / took.as_nanos().max(1);
            u64::try_from(bytes).unwrap_or(u64::MAX)
        };
        self.begins &= took <= wanted;
        let (bytes, carried) = if self.begins {
            (self.bytes * 2, scaled(shortest) * 2)
        } else if took < shortest + ALLOWANCE / 2 {
            (self.bytes + self.bytes / 4, scaled(shortest))
        } else {
            (scaled(wanted).max(self.bytes / 2), scaled(shortest))
        };
        self.bytes = bytes.min(carried.saturating_add(STANDING)).clamp(LEAST, MOST);
    }
}

#[cfg(test)]
mod tests;
