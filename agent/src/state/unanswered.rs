//! `state/TARGET/unanswered`: what the target was asked to do and has not answered. A link may break, or the agent be killed, once the target has
//! done it and before it could say so: a later sync finds it done, and the history says it all the same.
//!
//! The file is a journal: what is asked for is added before, what is answered after. Where nothing is open it begins anew, though not after each tag:
//! to make and remove a file keeps the disk longer than to add a line. As the history, it costs memory of the past when it is lost, never
//! correctness.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use blat_config::replacement::{Outlives, replace};
use blat_domain::package::name::PackageId;
use blat_domain::protocol::history::Operation;
use blat_paths::private;

/// The file is written anew once it has so many bytes, and one that has more than twice as many is not read: that none of ours has.
const LARGEST: u64 = 8 << 20;

/// The file is removed where nothing is open and it has so many bytes.
const ENOUGH: u64 = 64 << 10;

/// The file's name in the target's part of `state/`.
pub(crate) const FILE: &str = "unanswered";

/// What the history says beside a deed that was found done.
pub(crate) const FOUND: &str = "its answer was lost, and it was found done";

/// What one target was asked for, shared by both lanes.
#[derive(Debug)]
pub(crate) struct Unanswered {
    path: PathBuf,
    open: Mutex<BTreeMap<PackageId, PendingOperation>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PendingOperation {
    deed: Operation,
    /// Somebody waits for the answer.
    is_awaited: bool,
    /// An earlier answer was lost.
    was_lost: bool,
}

/// What is asked for now. What has not been answered when this ends has lost its answer.
pub(crate) struct Asking<'a> {
    unanswered: &'a Unanswered,
    packages: Vec<PackageId>,
}

impl Unanswered {
    /// What the last process that served the target left without an answer, by the file at `path`.
    pub(crate) fn load(path: PathBuf) -> Self {
        let mut open = BTreeMap::new();
        // A torn line, or anything else that is none of ours, costs that line.
        let mut text = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(2 * LARGEST + 1).read_to_end(&mut text));
        if read.is_ok_and(|count| count as u64 > 2 * LARGEST) {
            text.clear();
        }
        for line in String::from_utf8_lossy(&text).lines() {
            let Some((word, package)) = line.split_once(' ') else { continue };
            let Ok(package) = package.parse() else { continue };
            match deed(word) {
                Some(deed) => open.insert(package, PendingOperation { deed, is_awaited: false, was_lost: true }),
                None => open.remove(&package),
            };
        }
        Self { path, open: Mutex::new(open) }
    }

    /// Notes down that these packages are to be sent, linked or deleted.
    pub(crate) fn ask<'p>(&self, deed: Operation, packages: impl Iterator<Item = &'p PackageId>) -> Asking<'_> {
        let packages: Vec<PackageId> = packages.cloned().collect();
        let mut open = self.lock();
        for package in &packages {
            let was_lost = open.get(package).is_some_and(|asked| asked.deed == deed && asked.was_lost);
            open.insert(package.clone(), PendingOperation { deed, is_awaited: true, was_lost });
        }
        self.note(&open, &packages, deed.word());
        Asking { unanswered: self, packages }
    }

    /// Whether this was asked for before, and the answer was lost.
    pub(crate) fn was_lost(&self, package: &PackageId) -> bool {
        self.lock().get(package).is_some_and(|asked| asked.was_lost)
    }

    /// These were answered, and the history says what there is to say.
    pub(crate) fn answered<'p>(&self, packages: impl Iterator<Item = &'p PackageId>) {
        let mut open = self.lock();
        let packages: Vec<PackageId> = packages.filter(|package| open.remove(*package).is_some()).cloned().collect();
        self.note(&open, &packages, ANSWERED);
    }

    /// What nobody waits for any more and `is_done` finds done. What was to be deleted and is there still was not done; what was to come may come still.
    pub(crate) fn found(&self, is_done: impl Fn(&PackageId, Operation) -> bool) -> Vec<(PackageId, Operation)> {
        let lost: Vec<(PackageId, Operation)> = self
            .lock()
            .iter()
            .filter(|(_, asked)| !asked.is_awaited)
            .map(|(package, asked)| (package.clone(), asked.deed))
            .collect();
        let (done, not_done): (Vec<_>, Vec<_>) = lost.into_iter().partition(|(package, deed)| is_done(package, *deed));
        let given_up = not_done.iter().filter(|(_, deed)| *deed == Operation::Deleted);
        self.answered(given_up.map(|(package, _)| package));
        done
    }

    /// Another archive is served from here on: nothing that is found there was asked for here.
    pub(crate) fn forget(&self) {
        let mut open = self.lock();
        let mut lost = Vec::new();
        open.retain(|package, asked| {
            lost.extend((!asked.is_awaited).then(|| package.clone()));
            asked.is_awaited
        });
        self.note(&open, &lost, ANSWERED);
    }

    fn note(&self, open: &BTreeMap<PackageId, PendingOperation>, packages: &[PackageId], word: &str) {
        if packages.is_empty() {
            return;
        }
        if let Err(error) = self.write(open, packages, word) {
            tracing::debug!(path = %self.path.display(), %error, "cannot note down what the target is asked for");
        }
    }

    fn write(
        &self,
        asked: &BTreeMap<PackageId, PendingOperation>,
        packages: &[PackageId],
        word: &str,
    ) -> io::Result<()> {
        let lines: String = packages.iter().map(|package| format!("{word} {package}\n")).collect();
        let open = || File::options().append(true).create(true).open(&self.path);
        let opened = open().or_else(|_| {
            private::directory(self.path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
            open()
        });
        let mut file = opened?;
        match file.metadata()?.len() {
            ENOUGH.. if asked.is_empty() => return fs::remove_file(&self.path),
            ..LARGEST => return file.write_all(lines.as_bytes()),
            LARGEST.. => {}
        }
        let lines: String = asked.iter().map(|(package, asked)| format!("{} {package}\n", asked.deed.word())).collect();
        replace(&self.path, Outlives::Process, |file| file.write_all(lines.as_bytes()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PackageId, PendingOperation>> {
        // Each change is whole in itself: a panic elsewhere does not make it unusable.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The word of a line about what was answered.
const ANSWERED: &str = "answered";

fn deed(word: &str) -> Option<Operation> {
    [Operation::Sent, Operation::Linked, Operation::Deleted].into_iter().find(|deed| deed.word() == word)
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut open = self.unanswered.lock();
        for package in &self.packages {
            if let Some(asked) = open.get_mut(package) {
                (asked.is_awaited, asked.was_lost) = (false, true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(text: &str) -> PackageId {
        text.parse().expect("a package")
    }

    #[test]
    fn what_lost_its_answer_is_found_once_by_this_process_or_the_next() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("perth/unanswered");
        let [a, b, c] = ["a@1", "b@1", "c@1"].map(package);
        let unanswered = Unanswered::load(path.clone());
        let asking = unanswered.ask(Operation::Sent, [&a, &b].into_iter());
        unanswered.answered([&a].into_iter());
        assert_eq!(unanswered.found(|_, _| true), [], "somebody waits for it");
        drop(asking);
        drop(unanswered.ask(Operation::Deleted, [&c].into_iter()));
        for unanswered in [&unanswered, &Unanswered::load(path.clone())] {
            assert_eq!(unanswered.found(|package, _| *package == b), [(b.clone(), Operation::Sent)]);
            assert_eq!(
                unanswered.found(|_, _| true),
                [(b.clone(), Operation::Sent)],
                "what is not deleted by then never was"
            );
        }
        unanswered.answered([&b].into_iter());
        for unanswered in [&unanswered, &Unanswered::load(path)] {
            assert_eq!(unanswered.found(|_, _| true), [], "nothing is open");
        }
    }

    #[test]
    fn what_is_asked_for_again_and_was_done_by_then_is_known_to_have_lost_its_answer() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let unanswered = Unanswered::load(scratch.path().join("unanswered"));
        let a = package("a@1");
        drop(unanswered.ask(Operation::Sent, [&a].into_iter()));
        let _asking = unanswered.ask(Operation::Sent, [&a].into_iter());
        assert!(unanswered.was_lost(&a));
        unanswered.answered([&a].into_iter());
        assert!(!unanswered.was_lost(&a));
    }

    #[test]
    fn what_stays_open_makes_the_file_no_longer_than_it_has_to_be() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("unanswered");
        let [stays, comes] = ["stays@1", "comes@1"].map(package);
        let unanswered = Unanswered::load(path.clone());
        drop(unanswered.ask(Operation::Sent, [&stays].into_iter()));
        let filler = "answered comes@1\n".repeat(usize::try_from(LARGEST / 16).expect("a length"));
        File::options()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(filler.as_bytes()))
            .expect("a file");
        drop(unanswered.ask(Operation::Sent, [&comes].into_iter()));
        assert_eq!(fs::read_to_string(&path).expect("a file"), "sent comes@1\nsent stays@1\n");
        assert_eq!(Unanswered::load(path.clone()).found(|_, _| true).len(), 2);
        unanswered.answered([&stays, &comes].into_iter());
        assert!(path.exists(), "a short one is kept");
        let asking = unanswered.ask(Operation::Sent, [&comes].into_iter());
        File::options()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(&filler.as_bytes()[..usize::try_from(ENOUGH).expect("a length")]))
            .expect("a file");
        unanswered.answered([&comes].into_iter());
        drop(asking);
        assert!(!path.exists(), "nothing is open, and it is long");
        fs::write(&path, "sent stays@1\n".repeat(usize::try_from(LARGEST / 5).expect("a length"))).expect("a file");
        assert_eq!(Unanswered::load(path).found(|_, _| true), [], "that is none of ours");
    }

    #[test]
    fn lines_that_are_torn_or_of_others_cost_nothing_else_and_another_archive_has_none() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("unanswered");
        fs::write(&path, b"sent a@1\n\xff\xfe\nsung b@1\nsent\nsent c@1\nanswered c@1\nsent d@")
            .expect("a scratch file");
        let unanswered = Unanswered::load(path);
        assert_eq!(unanswered.lock().keys().cloned().collect::<Vec<_>>(), [package("a@1")]);
        unanswered.forget();
        assert_eq!(unanswered.found(|_, _| true), []);
    }
}
