//! The numbers that this target's agents leave in its archives, see [`blat_domain::archive::record::VISIT`]. One that is there and not known here was left
//! by an agent whose memory is newer than this one: this one was put back, in whatever way, and lacks what tags brought since.
//!
//! A number is noted down here before it is left there, so that an agent that ends in between knows both. Nobody waits for it but a process that
//! meets an archive for the first time.

use std::time::{Duration, Instant};

use blat_config::home_id;
use blat_domain::archive::record::Found;
use blat_domain::util::random_id::RandomId;

use super::{Kept, LastingMemory};

/// Numbers that are remembered. A former one shows in a listing that was under way when the next was left.
const MOST: usize = 64;
/// Batches of tags that come within this time share a number.
const SHARED: Duration = Duration::from_secs(5);

/// What is left to do. The file does not have it.
#[derive(Debug)]
pub(super) struct Visits {
    /// When a number was left last.
    last: Option<Instant>,
    /// Whether something is noted since that a memory without it would lack.
    pub(super) has_news: bool,
    /// Whether somebody waits for the time to leave one.
    is_coming: bool,
}

impl Default for Visits {
    fn default() -> Self {
        Self { last: None, has_news: true, is_coming: false }
    }
}

impl LastingMemory {
    /// Whether the number that was found was left by an agent that had this memory. Where there is none, nothing speaks against it.
    pub(crate) fn knows_visit(&self, found: &Found) -> bool {
        match found {
            Found::Nothing => true,
            Found::Record(visit) => self.lock().kept.visits.contains(&visit.archive.to_string()),
            Found::Malformed(_) => false,
        }
    }

    /// Whether another number is due and nobody writes one already.
    pub(crate) fn visit_is_due(&self) -> bool {
        let visits = &self.lock().visits;
        self.serves && visits.has_news && !visits.is_coming
    }

    /// In how long another number is to be left by whoever asks; nothing where none is due.
    pub(crate) fn begin_visit(&self) -> Option<Duration> {
        if !self.visit_is_due() {
            return None;
        }
        let visits = &mut self.lock().visits;
        visits.is_coming = true;
        Some(visits.last.map_or(Duration::ZERO, |last| SHARED.saturating_sub(last.elapsed())))
    }

    /// A number to be left, which is noted down by now.
    ///
    /// # Errors
    /// Why it is not, so that it must not be left.
    pub(crate) fn new_visit(&self) -> Result<RandomId, String> {
        let number = home_id::random().map_err(|error| format!("cannot read random bytes: {error}"))?;
        {
            let visits = &mut self.lock().visits;
            *visits = Visits { last: Some(Instant::now()), has_news: false, is_coming: false };
        }
        let noted = self.change(|kept| kept.note_visit(&number));
        noted.inspect_err(|_| self.visit_failed()).map(|()| number)
    }

    /// The number may not have been left.
    pub(crate) fn visit_failed(&self) {
        self.lock().visits.has_news = true;
    }
}

impl Kept {
    /// This number is one of ours.
    pub(super) fn note_visit(&mut self, number: &RandomId) {
        self.visits.push(number.to_string());
        let surplus = self.visits.len().saturating_sub(MOST);
        self.visits.drain(..surplus);
    }
}

#[cfg(test)]
mod tests;
