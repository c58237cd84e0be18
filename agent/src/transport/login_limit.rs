//! At most eight ssh logins at once for all agents of a home tree: a master with hundreds of targets must not
//! look like an attack to a host that many of them share, nor spend all its processor time on key exchanges.
//!
//! Hosts that are dead or stand still must not use up the slots of the living. So a slot is given back after the time in which a login to a
//! host that answers is done, whatever becomes of that login; and an agent whose last login failed has half of the slots to wait for, while
//! the other half is for those whose hosts answered. Nobody waits for ever, and whoever waits says so.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use blat_paths::private;
use tokio::sync::oneshot;

/// How many logins may run at once.
const SLOTS: usize = 8;
/// How many of these may lead to hosts to which the last login failed.
const OF_THE_FAILING: usize = SLOTS / 2;
/// The longest that a slot is held. The ssh client gives up connecting after the same time.
const HELD: Duration = Duration::from_secs(10);
/// How long a slot is waited for. With hundreds of targets at once, each has its turn within that.
const PATIENCE: Duration = Duration::from_secs(120);
/// A wait is worth a line in the log when it lasts longer than a login that goes well.
const WORTH_TELLING: Duration = Duration::from_secs(2);
/// How often a taken slot is asked for again: the longer it was waited for, the less often.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// The places where logins queue: files whose kernel locks are the slots, so a killed agent gives its slot back.
#[derive(Debug, Clone)]
pub(crate) struct LoginLimit {
    directory: PathBuf,
    /// There as long as the last login of this target failed, also after a restart of its agent.
    failed: PathBuf,
    is_waiting: Arc<AtomicBool>,
    held: Duration,
    patience: Duration,
}

/// A slot that is held until it is dropped, or for the longest time that a slot is held. A login that does not end in [`Slot::succeeded`]
/// has failed.
#[derive(Debug)]
pub(crate) struct Slot {
    failed: PathBuf,
    has_succeeded: bool,
    _given_back: oneshot::Sender<()>,
}

/// Why there is no slot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoSlot {
    /// The others were not done in time.
    #[error("no login slot came free within {} s: {}", .0.as_secs(), who(*.1))]
    Busy(Duration, usize),
    /// The files that stand for the slots cannot be used.
    #[error("cannot use the login slots in {}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// Who has the slots that are asked for.
fn who(slots: usize) -> &'static str {
    if slots == SLOTS { "eight logins are under way" } else { "four logins to hosts that failed lately are under way" }
}

impl LoginLimit {
    /// The slots of the home tree whose state directory this is, for the target whose state directory is that.
    pub(crate) fn new(state: &Path, target: &Path) -> Self {
        let (directory, failed) = (state.join("handshakes"), target.join("login-failed"));
        Self { directory, failed, is_waiting: Arc::default(), held: HELD, patience: PATIENCE }
    }

    /// What is waited for, where a slot is waited for now, in words for the operator.
    pub(crate) fn waits_for(&self) -> Option<String> {
        self.is_waiting
            .load(Ordering::Relaxed)
            .then(|| format!("waiting for a login slot: {}", who(self.may_use().len())))
    }

    /// Waits for a free slot.
    pub(crate) async fn slot(&self) -> Result<Slot, NoSlot> {
        let waiting = SlotWaiter(&self.is_waiting);
        let begun = Instant::now();
        let mut is_told = false;
        loop {
            if let Some(locked) = self.free_slot()? {
                drop(waiting);
                return Ok(self.hold(locked));
            }
            self.is_waiting.store(true, Ordering::Relaxed);
            let waited = begun.elapsed();
            let slots = self.may_use().len();
            if waited >= self.patience {
                return Err(NoSlot::Busy(self.patience, slots));
            }
            if waited >= WORTH_TELLING && !is_told {
                is_told = true;
                tracing::info!("waiting for a login slot: {}", who(slots));
            }
            let (least, most) = ASK_AGAIN;
            tokio::time::sleep((waited / 8).clamp(least, most)).await;
        }
    }

    /// The slots that this target may have, those first that no failing one may have.
    fn may_use(&self) -> Vec<usize> {
        let living = if self.failed.exists() { OF_THE_FAILING..OF_THE_FAILING } else { OF_THE_FAILING..SLOTS };
        living.chain(0..OF_THE_FAILING).collect()
    }

    fn free_slot(&self) -> Result<Option<File>, NoSlot> {
        let failed = |path: &Path, error| NoSlot::Io { path: path.to_owned(), error };
        private::directory(&self.directory).map_err(|error| failed(&self.directory, error))?;
        for number in self.may_use() {
            let path = self.directory.join(number.to_string());
            if let Some(file) = private::try_lock(&path).map_err(|error| failed(&path, error))? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    fn hold(&self, locked: File) -> Slot {
        let (given_back, is_given_back) = oneshot::channel();
        let held = self.held;
        tokio::spawn(async move {
            // Either ends it; nothing is ever sent.
            let _ = tokio::time::timeout(held, is_given_back).await;
            drop(locked);
        });
        Slot { failed: self.failed.clone(), has_succeeded: false, _given_back: given_back }
    }
}

/// Takes back that a slot is waited for, however the wait ends.
struct SlotWaiter<'a>(&'a AtomicBool);

impl Drop for SlotWaiter<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Slot {
    /// The host let us in.
    pub(crate) fn succeeded(mut self) {
        self.has_succeeded = true;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let noted = if self.has_succeeded {
            match fs::remove_file(&self.failed) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            }
        } else {
            let folder = self.failed.parent().unwrap_or(Path::new("."));
            private::directory(folder).and_then(|()| fs::write(&self.failed, ""))
        };
        if let Err(error) = noted {
            let path = self.failed.display();
            tracing::warn!(%path, %error, "cannot note how the login went; the target may wait longer than needed for its next one");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slots of a home tree, as the agent of one target sees them.
    fn logins(home: &tempfile::TempDir, target: &str) -> LoginLimit {
        LoginLimit { patience: ASK_AGAIN.0 * 4, ..LoginLimit::new(home.path(), &home.path().join(target)) }
    }

    async fn taken(logins: &LoginLimit, count: usize) -> Vec<Slot> {
        let mut held = Vec::new();
        for _ in 0..count {
            held.push(logins.slot().await.expect("a free slot"));
        }
        held
    }

    #[tokio::test]
    async fn the_ninth_waits_until_one_of_eight_is_done_and_not_for_ever() {
        let home = tempfile::tempdir().expect("a scratch directory");
        let logins = logins(&home, "perth");
        let mut held = taken(&logins, SLOTS).await;
        let ninth = logins.slot();
        tokio::pin!(ninth);
        assert!(tokio::time::timeout(ASK_AGAIN.0, &mut ninth).await.is_err(), "a ninth handshake must wait");
        assert_eq!(logins.waits_for().as_deref(), Some("waiting for a login slot: eight logins are under way"));
        let error = ninth.await.expect_err("nobody gives one back").to_string();
        assert!(error.ends_with("eight logins are under way"), "{error}");
        assert_eq!(logins.waits_for(), None);
        held.pop().expect("eight").succeeded();
        logins.slot().await.expect("the slot given back").succeeded();
    }

    #[tokio::test]
    async fn a_login_that_stands_still_keeps_its_slot_for_a_bounded_time() {
        let home = tempfile::tempdir().expect("a scratch directory");
        let tarpits = LoginLimit { held: ASK_AGAIN.0, ..logins(&home, "tarpit") };
        let held = taken(&tarpits, SLOTS).await;
        logins(&home, "perth").slot().await.expect("a slot that came free by itself").succeeded();
        drop(held);
    }

    #[tokio::test]
    async fn dead_hosts_leave_half_of_the_slots_to_the_living() {
        let home = tempfile::tempdir().expect("a scratch directory");
        let mut dead = Vec::new();
        for number in 0..20 {
            let agent = logins(&home, &format!("dead{number}"));
            // The first login fails, and the agent is started anew.
            drop(agent.slot().await.expect("nobody else is there"));
            dead.push(logins(&home, &format!("dead{number}")));
        }
        let mut held = Vec::new();
        for agent in &dead {
            match agent.slot().await {
                Ok(slot) => held.push(slot),
                Err(error) => assert!(error.to_string().contains("hosts that failed lately"), "{error}"),
            }
        }
        assert_eq!(held.len(), OF_THE_FAILING);
        let perth = logins(&home, "perth");
        for slot in taken(&perth, OF_THE_FAILING).await {
            slot.succeeded();
        }
        // One that answers again has the same rights as any.
        held.pop().expect("four").succeeded();
        assert_eq!(dead.iter().filter(|agent| agent.may_use().len() == SLOTS).count(), 1);
    }

    #[tokio::test]
    async fn what_was_open_to_strangers_is_closed() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().expect("a scratch directory");
        let folder = home.path().join("handshakes");
        let old = folder.join("4");
        fs::create_dir(&folder).and_then(|()| fs::write(&old, "")).expect("a former version's");
        for (path, mode) in [(&folder, 0o755), (&old, 0o644)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("an own file");
        }
        logins(&home, "perth").slot().await.expect("a slot").succeeded();
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&old)), (0o700, 0o600));
    }
}
