//! Whose settings are in force. Settings carry a generation: a counter of this process that each accepted reload raises.
//!
//! The PackageList, marks and deletions follow the settings in force and no others. Each batch of them holds a [`Permit`], and other settings
//! come into force between two batches only: from the moment at which the log says so, nothing is done by older ones. What they leave undone
//! is left to the sync that follows.
//!
//! A config that changed on disk and is not in force yet stops the next batch too: whoever asks for a permit looks whether it changed, and reads
//! it again then. A config that is gone, cannot be read or is not valid gives no permit at all: nobody knows what its owner wants now. Packages
//! are sent all the same, since that loses nothing.
//!
//! The known downside: new settings wait for the batch in hand.

mod unchanged;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use blat_config::{Home, Settings, load_target};
use blat_domain::policy::retry::Backoff;
use tokio::sync::{Notify, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

use self::unchanged::{LastRead, Stamps};
use crate::model::problem::Problem;

/// A file counts as changed when two looks so far apart found the same.
const SETTLES: Duration = Duration::from_millis(150);

/// What all settings of one process share.
#[derive(Debug, Default)]
struct Gate {
    /// The generation of the newest settings that were accepted, whether they are in force or about to be.
    newest: AtomicU64,
    /// Held for reading by each batch, for writing while other settings come into force.
    batches: Arc<RwLock<()>>,
    /// Settings that somebody found on disk in place of those in force.
    noticed: Mutex<Option<Settings>>,
    notice: Notify,
}

/// The settings of one generation, as seen by one piece of work that follows them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Orders {
    gate: Arc<Gate>,
    generation: u64,
    /// Whether this piece of work found that the config on disk says something else.
    saw_others: Arc<AtomicBool>,
    /// Whether all that goes on under these settings is to end at once.
    cut: Arc<watch::Sender<bool>>,
    /// How the files were when they were found to say what these settings say.
    last_read: Arc<LastRead>,
}

impl blat_packing::item::Orders for Orders {
    fn superseded(&self) -> Option<String> {
        self.are_superseded().then(|| Self::problem().text)
    }
}

/// While this is held, no other settings come into force.
pub(crate) type Permit = OwnedRwLockReadGuard<()>;

/// While this is held, no batch is under way.
pub(crate) type Pause = OwnedRwLockWriteGuard<()>;

impl Orders {
    /// The same settings, for a new piece of work.
    pub(crate) fn afresh(&self) -> Self {
        Self { saw_others: Arc::default(), ..self.clone() }
    }

    /// Whether other settings are in force by now, or about to be.
    pub(crate) fn are_superseded(&self) -> bool {
        self.gate.newest.load(Ordering::Acquire) != self.generation || self.saw_others.load(Ordering::Acquire)
    }

    /// What is left undone because [`Self::are_superseded`].
    pub(crate) fn problem() -> Problem {
        stopped("the config changed; the next sync takes over".to_owned())
    }

    /// Other settings were accepted: no permit is given under older ones any more. They are in force once there is a [`Pause`].
    pub(crate) fn announce(&self) -> Self {
        let generation = self.gate.newest.fetch_add(1, Ordering::AcqRel) + 1;
        Self { gate: self.gate.clone(), generation, ..Self::default() }
    }

    /// What goes on under these settings ends at once, as by a link that breaks: the settings in force lead elsewhere.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// The outcome of `work`, unless it is cut before.
    pub(crate) async fn unless_cut<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut cut = self.cut.subscribe();
        tokio::select! {
            biased;
            done = work => Some(done),
            // Its sender lives as long as this.
            _ = cut.wait_for(|is_cut| *is_cut) => None,
        }
    }

    /// A pause, where no batch is under way.
    pub(crate) fn pause_now(&self) -> Option<Pause> {
        self.gate.batches.clone().try_write_owned().ok()
    }

    /// A pause, once the batch in hand is done.
    pub(crate) async fn pause(&self) -> Pause {
        self.gate.batches.clone().write_owned().await
    }

    /// Waits until somebody who asked for a permit has found other settings on disk; [`Self::noticed`] are those.
    pub(crate) async fn notice(&self) {
        self.gate.notice.notified().await;
    }

    /// Settings that were found on disk, once.
    pub(crate) fn noticed(&self) -> Option<Settings> {
        self.gate.noticed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A permit for one batch of at most 200 packages, where `settings` are those in force and those on disk.
    ///
    /// # Errors
    /// Why nothing may be done by them any more.
    pub(crate) async fn permit(&self, home: &Home, settings: &Arc<Settings>) -> Result<Permit, Problem> {
        let permit = self.gate.batches.clone().read_owned().await;
        if self.are_superseded() {
            return Err(Self::problem());
        }
        let (home, present, last_read) = (home.clone(), settings.clone(), self.last_read.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let stamps = Stamps::of(&[&present.path, &home.master_config(), &home.config_dir()]);
            last_read.unless_unchanged(stamps, OnDisk::Same, || settled(&home, &present))
        });
        let found = looking.await.map_err(|error| stopped(format!("reading the config again failed: {error}")))?;
        match found {
            OnDisk::Same => Ok(permit),
            OnDisk::Other(settings) => {
                self.saw_others.store(true, Ordering::Release);
                *self.gate.noticed.lock().unwrap_or_else(PoisonError::into_inner) = Some(*settings);
                self.gate.notice.notify_one();
                Err(Self::problem())
            }
            OnDisk::Unusable => Err(stopped(format!(
                "{} changed and cannot be read or is not valid: nothing is listed, marked or deleted until it is right again, and packages \
                 are sent by its last good settings; `blat check {}` shows what is wrong",
                settings.path.display(),
                settings.name
            ))),
            OnDisk::Gone => Err(stopped(format!(
                "{} is gone: nothing is listed, marked or deleted on a target that has no config",
                settings.path.display()
            ))),
            OnDisk::OtherKind => Err(stopped(format!(
                "{} asks for another type of target: nothing is listed, marked or deleted by its former settings; \
                 another agent takes over",
                settings.path.display()
            ))),
        }
    }
}

/// What the config on disk says beside the settings in force.
#[derive(Debug, PartialEq)]
enum OnDisk {
    /// The same.
    Same,
    /// Something that cannot be read, or is not valid.
    Unusable,
    /// Other settings.
    Other(Box<Settings>),
    /// Something that takes another agent.
    OtherKind,
    /// There is none.
    Gone,
}

/// What two looks found in a row: editors and copies leave a file half-written or absent for a moment.
fn settled(home: &Home, present: &Settings) -> OnDisk {
    let mut found = on_disk(home, present);
    while found != OnDisk::Same {
        std::thread::sleep(SETTLES);
        let again = on_disk(home, present);
        if again == found {
            break;
        }
        found = again;
    }
    found
}

fn on_disk(home: &Home, present: &Settings) -> OnDisk {
    match load_target(home, &present.name) {
        Ok(found) if found == *present => OnDisk::Same,
        Ok(found) if found.kind() != present.kind() => OnDisk::OtherKind,
        Ok(found) => OnDisk::Other(Box::new(found)),
        // Nobody can tell whether a file is there that cannot be looked at.
        Err(_) if matches!(present.path.try_exists(), Ok(false)) => OnDisk::Gone,
        // The last good settings stay in force for sending. The master reports what is wrong, and so does whoever reloads.
        Err(_) => OnDisk::Unusable,
    }
}

fn stopped(text: String) -> Problem {
    Problem { package: None, text, retry: Backoff::PACKAGE }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use blat_domain::policy::retention::Aging;

    use super::*;

    struct Scene {
        _scratch: tempfile::TempDir,
        home: Home,
        settings: Arc<Settings>,
    }

    const TEXT: &str = "transport: local\nsource: /nowhere/source\narchive: /nowhere/archive\n";

    fn scene() -> Scene {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        fs::create_dir(scratch.path().join("config")).expect("an own folder");
        let home = Home::at(scratch.path()).expect("a path");
        let name = "perth".parse().expect("a name");
        fs::write(home.target_config(&name), TEXT).expect("a config");
        let settings = Arc::new(load_target(&home, &name).expect("valid settings"));
        Scene { _scratch: scratch, home, settings }
    }

    #[tokio::test]
    async fn no_permit_is_given_under_older_settings_and_none_come_into_force_during_a_batch() {
        let Scene { _scratch, home, settings } = scene();
        let old = Orders::default();
        let batch = old.permit(&home, &settings).await.expect("they are in force");
        assert!(old.pause_now().is_none(), "a batch is under way");
        let new = old.announce();
        assert!(old.are_superseded() && !new.are_superseded());
        drop(batch);
        let refused = old.permit(&home, &settings).await.expect_err("others were accepted");
        assert!(refused.text.contains("the next sync takes over"), "{}", refused.text);
        drop(new.pause_now().expect("no batch is under way"));
        drop(new.permit(&home, &settings).await.expect("these are in force"));
    }

    #[tokio::test]
    async fn a_config_that_changed_on_disk_stops_the_next_batch_before_anybody_reloads() {
        let Scene { _scratch, home, settings } = scene();
        let orders = Orders::default();
        let path = home.target_config(&settings.name);
        fs::write(&path, format!("{TEXT}aging: immediate\n")).expect("a config");
        assert!(orders.permit(&home, &settings).await.is_err());
        assert!(orders.are_superseded());
        orders.notice().await;
        assert_eq!(orders.noticed().map(|found| found.aging), Some(Aging::Immediate));
        assert!(!orders.afresh().are_superseded(), "another piece of work looks for itself");
        fs::write(&path, "aging: [\n").expect("a config");
        let again = orders.afresh();
        let unusable = again.permit(&home, &settings).await.expect_err("nobody knows what is wanted now");
        assert!(unusable.text.contains("not valid") && !again.are_superseded(), "{}", unusable.text);
        fs::write(&path, TEXT).expect("a config");
        drop(again.permit(&home, &settings).await.expect("it says again what is in force"));
        fs::remove_file(&path).expect("a config");
        let gone = again.permit(&home, &settings).await.expect_err("no config, no deletions");
        assert!(gone.text.contains("is gone") && !again.are_superseded(), "{}", gone.text);
    }
}
