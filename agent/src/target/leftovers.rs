//! What a target says that it cannot remove: it takes space there, and only somebody with more rights can clear it away.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use blat_domain::text::printable;

/// The most that one sync logs; a far end can say whatever it likes.
const MOST: usize = 20;
/// The most of a line that is logged, in characters.
const LONGEST: usize = 500;

/// What was logged since the sync began.
#[derive(Debug, Default)]
pub(super) struct Leftovers(Mutex<BTreeSet<String>>);

impl Leftovers {
    /// A sync begins: what is still there is logged again.
    pub(super) fn begin(&self) {
        self.lock().clear();
    }

    /// Takes a line of an answer; whether it names a leftover (`leftover PATH TEXT`), which is logged once a sync.
    pub(super) fn hear(&self, line: &str) -> bool {
        let Some(named) = line.strip_prefix("leftover ") else { return false };
        if let Some(text) = self.note(named) {
            tracing::warn!("the target cannot remove a leftover, which takes space there: {text}");
        }
        true
    }

    /// Takes a line that may be nothing else.
    ///
    /// # Errors
    /// That nothing asked for it, fit for printing.
    pub(super) fn take(&self, line: &str) -> Result<(), String> {
        if self.hear(line) {
            Ok(())
        } else {
            Err(format!("it answers \"{}\", which nothing asked for", printable(line)))
        }
    }

    /// What is to be logged, if it has not been.
    fn note(&self, named: &str) -> Option<String> {
        let named: String = printable(named).chars().take(LONGEST).collect();
        let mut noted = self.lock();
        (noted.len() < MOST && noted.insert(named.clone())).then_some(named)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        // Only a memory of what was said.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_leftover_is_said_once_a_sync_and_a_hostile_target_fills_no_log() {
        let leftovers = Leftovers::default();
        assert!(!leftovers.hear("published core 1") && leftovers.hear("leftover a b"));
        assert_eq!(leftovers.note("a b"), None);
        assert_eq!(leftovers.note("c \u{1b}[31m").as_deref(), Some(printable("c \u{1b}[31m").as_str()));
        assert!(leftovers.note(&"x".repeat(4000)).is_some_and(|text| text.chars().count() <= LONGEST));
        let said = (0..1000).filter_map(|number| leftovers.note(&number.to_string())).count();
        assert_eq!(said, MOST - 3);
        leftovers.begin();
        assert_eq!(leftovers.note("a b").as_deref(), Some("a b"));
    }
}
