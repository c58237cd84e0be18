//! What a target says that it cannot remove: it takes space there, and only somebody with more rights can clear it away.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use blat_domain::protocol::status::Leftover;
use blat_domain::util::text::printable;

/// The most that one sync logs and the status shows; a far end can say whatever it likes.
const MOST: usize = 20;
/// The most of a line that is kept, in characters.
const LONGEST: usize = 500;

/// What a target named.
#[derive(Debug, Default)]
pub(crate) struct Leftovers(Mutex<NamedLeftovers>);

#[derive(Debug, Default)]
struct NamedLeftovers {
    /// Since the sync began.
    logged: BTreeSet<String>,
    shown: Vec<Leftover>,
    /// Whether nobody has looked for any since the sync began.
    is_of_former_sync: bool,
}

impl NamedLeftovers {
    /// The first who looked in this sync has answered: what was named before may be gone.
    fn renew(&mut self) {
        if std::mem::take(&mut self.is_of_former_sync) {
            self.shown.clear();
        }
    }
}

impl Leftovers {
    /// A sync begins: what is still there is logged again.
    pub(crate) fn begin(&self) {
        let mut named = self.lock();
        named.logged.clear();
        named.is_of_former_sync = true;
    }

    /// An answer ended of somebody who looks for leftovers, and all that it names was heard.
    pub(crate) fn are_heard(&self) {
        self.lock().renew();
    }

    /// Whether there were some, and nobody has looked since the sync began.
    pub(crate) fn are_in_doubt(&self) -> bool {
        let named = self.lock();
        named.is_of_former_sync && !named.shown.is_empty()
    }

    /// Those that were named last.
    pub(crate) fn shown(&self) -> Vec<Leftover> {
        self.lock().shown.clone()
    }

    /// Takes a line of an answer; whether it names a leftover (`leftover PATH [user=NUMBER] TEXT`), which is logged once a sync.
    pub(crate) fn hear(&self, line: &str) -> bool {
        let Some(named) = line.strip_prefix("leftover ") else { return false };
        if let Some(Leftover { path, owner, text }) = self.note(named) {
            let owner = owner.map(|owner| format!(" of user {owner}")).unwrap_or_default();
            tracing::warn!("the target cannot remove a leftover{owner}, which takes space there: {path} {text}");
        }
        true
    }

    /// Takes a line that may be nothing else.
    ///
    /// # Errors
    /// That nothing asked for it, fit for printing.
    pub(crate) fn take(&self, line: &str) -> Result<(), String> {
        if self.hear(line) {
            Ok(())
        } else {
            Err(format!("it answers \"{}\", which nothing asked for", printable(line)))
        }
    }

    /// What is to be logged, if it has not been.
    fn note(&self, line: &str) -> Option<Leftover> {
        let line: String = printable(line).chars().take(LONGEST).collect();
        let mut named = self.lock();
        named.renew();
        if named.logged.len() >= MOST || !named.logged.insert(line.clone()) {
            return None;
        }
        let leftover = read(&line);
        if named.shown.len() < MOST && !named.shown.contains(&leftover) {
            named.shown.push(leftover.clone());
        }
        Some(leftover)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, NamedLeftovers> {
        // Only a memory of what was said.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `PATH [user=NUMBER] TEXT`
fn read(line: &str) -> Leftover {
    let (path, text) = line.split_once(' ').unwrap_or((line, ""));
    let with_owner = text.strip_prefix("user=").and_then(|rest| {
        let (number, text) = rest.split_once(' ')?;
        Some((number.parse().ok()?, text))
    });
    let (owner, text) = with_owner.map_or((None, text), |(owner, text)| (Some(owner), text));
    Leftover { path: path.to_owned(), owner, text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leftover(path: &str, owner: Option<u32>, text: &str) -> Leftover {
        Leftover { path: path.into(), owner, text: text.into() }
    }

    #[test]
    fn each_leftover_is_said_once_a_sync_and_a_hostile_target_fills_no_log() {
        let leftovers = Leftovers::default();
        assert!(!leftovers.hear("published core 1") && leftovers.hear("leftover a b"));
        assert_eq!(leftovers.note("a b"), None);
        let odd = leftovers.note("c \u{1b}[31m").expect("a new one");
        assert_eq!(odd.text, printable("\u{1b}[31m"));
        let long = leftovers.note(&"x".repeat(4000)).expect("a new one");
        assert!(long.path.chars().count() <= LONGEST);
        let said = (0..1000).filter_map(|number| leftovers.note(&number.to_string())).count();
        assert_eq!((said, leftovers.shown().len()), (MOST - 3, MOST));
        leftovers.begin();
        assert_eq!(leftovers.note("a b"), Some(leftover("a", None, "b")));
    }

    #[test]
    fn the_status_shows_what_was_named_last_until_somebody_looks_again() {
        let leftovers = Leftovers::default();
        leftovers.hear("leftover trash/x user=0 removing it failed; remove it as root");
        leftovers.hear("leftover trash/y user=z it failed");
        let first = leftover("trash/x", Some(0), "removing it failed; remove it as root");
        let second = leftover("trash/y", None, "user=z it failed");
        assert_eq!(leftovers.shown(), [first.clone(), second.clone()]);
        leftovers.are_heard();
        assert!(!leftovers.are_in_doubt());
        leftovers.begin();
        assert_eq!((leftovers.shown(), leftovers.are_in_doubt()), (vec![first, second.clone()], true));
        leftovers.hear("leftover trash/y user=z it failed");
        leftovers.are_heard();
        assert_eq!((leftovers.shown(), leftovers.are_in_doubt()), (vec![second], false), "the other one is gone");
        leftovers.begin();
        leftovers.are_heard();
        assert_eq!(leftovers.shown(), []);
    }
}
