//! What an operator sees: the value behind `blat status --json`.
//!
//! Field names are public (docs/commands.md describes them): fields are added, never renamed. Times are RFC 3339, sizes bytes.

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::package::name::{PackageId, TargetName};

/// Everything `blat status` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The home tree this is about.
    pub home: PathBuf,
    /// The running master; none when this is the last known state of one that is gone.
    pub supervisor: Option<SupervisorStatus>,
    /// One entry a configured target, by name.
    pub targets: Vec<TargetStatus>,
}

/// The master itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SupervisorStatus {
    /// Its process.
    pub pid: u32,
    /// The version it was built as.
    pub version: String,
    /// When it came up.
    pub started: Timestamp,
    /// What goes wrong with the master itself and still stands, such as a log that it cannot write.
    #[serde(default)]
    pub last_error: Option<LastError>,
}

/// One target: what the master knows of its process joined with what its agent last reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// The target's name.
    pub name: TargetName,
    /// `dpkg_archive` or `s3Sync`; empty while the config was never readable.
    #[serde(rename = "type")]
    pub kind: String,
    /// The agent's process, while one runs.
    pub pid: Option<u32>,
    /// How often the agent was started again after an exit nobody asked for.
    pub restarts: u64,
    /// Since when the present state holds.
    pub since: Timestamp,
    /// What it is doing.
    pub state: State,
    /// The last full sync that ended, if any did.
    pub last_sync: Option<SyncReport>,
    /// What is known to be waiting.
    pub queue: Queue,
    /// The package now on its way.
    pub current: Option<Current>,
    /// The last thing that went wrong and still stands.
    pub last_error: Option<LastError>,
    /// What serves the archive at the far end; none before the agent was there.
    #[serde(default)]
    pub far_end: Option<FarEnd>,
    /// What the agent waits for before it can go on, such as its turn to log in; none while nothing holds it up.
    #[serde(default)]
    pub waits_for: Option<String>,
    /// What the target cannot remove, which takes space there until somebody with more rights does; as it was named last.
    #[serde(default)]
    pub leftovers: Vec<Leftover>,
    /// The target's configuration.
    pub config: ConfigStatus,
}

/// What a target is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The agent was started and has not reported yet.
    Starting,
    /// Nothing to do.
    Idle,
    /// A full sync runs.
    Syncing,
    /// Tagged packages are being sent.
    Sending,
    /// Backing off after a failure.
    Waiting,
    /// The agent keeps exiting; it is still restarted, at the longest interval.
    Failing,
    /// The config never was valid, so no agent runs.
    Misconfigured,
    /// No agent runs, on purpose.
    Stopped,
}

impl State {
    /// Whether packages are on their way or being looked for.
    pub fn is_working(self) -> bool {
        matches!(self, Self::Syncing | Self::Sending)
    }

    /// The word in status output and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Syncing => "syncing",
            Self::Sending => "sending",
            Self::Waiting => "waiting",
            Self::Failing => "failing",
            Self::Misconfigured => "misconfigured",
            Self::Stopped => "stopped",
        }
    }
}

/// How a full sync went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncReport {
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// Whether everything it set out to do was done.
    pub result: SyncResult,
    /// Packages that should be on the target.
    pub wanted: u64,
    /// Wanted packages that are there, now.
    pub present: u64,
    /// Packages sent or replaced by this sync.
    pub sent: u64,
    /// Packages this sync could not send.
    pub failed: u64,
    /// Packages marked for deletion by this sync.
    pub marked: u64,
    /// Packages deleted by this sync.
    pub deleted: u64,
    /// Bytes of the packages sent, unpacked.
    pub bytes: u64,
    /// When the answer was given that stood in for Release Manager, where that could not be asked: this sync marked and deleted
    /// nothing.
    #[serde(default)]
    pub snapshot: Option<Timestamp>,
    /// Why this sync marked and deleted nothing although the config asks for it, where that is for Release Manager's answer.
    #[serde(default)]
    pub held_back: Option<String>,
    /// Packages that are wanted and were held: they are not there, and this sync did not try to send them.
    #[serde(default)]
    pub held: u64,
    /// The first few of them.
    #[serde(default)]
    pub held_packages: Vec<HeldPackage>,
}

/// A package that is wanted and was not sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPackage {
    /// Which.
    pub package: PackageId,
    /// Why, in words for the operator.
    pub why: String,
}

impl SyncReport {
    /// A report of a sync that began at `now` and has done nothing yet; until it ends well it counts as failed.
    pub fn begun(now: Timestamp) -> Self {
        Self {
            started: now,
            finished: now,
            result: SyncResult::Failed,
            wanted: 0,
            present: 0,
            sent: 0,
            failed: 0,
            marked: 0,
            deleted: 0,
            bytes: 0,
            snapshot: None,
            held_back: None,
            held: 0,
            held_packages: Vec::new(),
        }
    }

    /// The most packages that a report names; `blat plan` has all of them.
    pub const MOST_HELD: usize = 5;
    /// The longest reason, in bytes.
    const LONGEST_REASON: usize = 400;

    /// Takes note of a package that is held.
    pub fn hold(&mut self, package: &PackageId, why: &impl fmt::Display) {
        self.held += 1;
        if self.held_packages.len() < Self::MOST_HELD {
            let mut why = why.to_string();
            if why.len() > Self::LONGEST_REASON {
                let end = (0..=Self::LONGEST_REASON).rev().find(|end| why.is_char_boundary(*end)).unwrap_or(0);
                why.truncate(end);
                why.push_str(" …");
            }
            self.held_packages.push(HeldPackage { package: package.clone(), why });
        }
    }

    /// Whether the target held all that is wanted when this sync ended.
    pub fn is_complete(&self) -> bool {
        self.result == SyncResult::Ok && self.held == 0 && self.present >= self.wanted
    }
}

/// The outcome of a sync in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncResult {
    /// All wanted packages are on the target, and the PackageList names them.
    Ok,
    /// Something was left undone; `last_error` says what.
    Failed,
}

/// Work that is known but not done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Tags in the tag directory.
    pub tags: u64,
    /// Packages still to be sent by the running sync and by tags.
    pub packages: u64,
    /// Their bytes, unpacked.
    pub bytes: u64,
}

/// A package on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    /// Which.
    pub package: PackageId,
    /// Bytes read and handed to the link so far, unpacked.
    pub done: u64,
    /// Bytes in all, unpacked.
    pub total: u64,
}

/// A failure that still stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// When it happened.
    pub at: Timestamp,
    /// The package concerned, when it was one.
    pub package: Option<PackageId>,
    /// What was attempted, on what, why it failed, what to do.
    pub text: String,
    /// When it is tried again; none when only a person can help.
    pub retry_at: Option<Timestamp>,
}

/// What serves a target's archive there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum FarEnd {
    /// `blat-receiver`.
    Receiver {
        /// Whether our key can run nothing else.
        restricted: bool,
        /// Why scripts beside it are not as they should be, which only cron runs then; none where all are, or nobody may look.
        #[serde(default)]
        scripts: Option<String>,
    },
    /// Our scripts.
    Scripts {
        /// Why not `blat-receiver`; none where the config wants it so.
        why: Option<String>,
    },
}

impl FarEnd {
    /// The word in status output.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Receiver { restricted: false, .. } => "receiver",
            Self::Receiver { restricted: true, .. } => "receiver only",
            Self::Scripts { .. } => "scripts",
        }
    }
}

/// Something in a target's archive that was to be removed and cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// Below the archive; signs that cannot be printed are `?`.
    pub path: String,
    /// The number, on the target, of the user who owns the folder or file that is in the way; none where the target does not say.
    pub owner: Option<u32>,
    /// Why it cannot be removed, and what to do.
    pub text: String,
}

/// A target's configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The file.
    pub path: PathBuf,
    /// When the settings in force were read; none while no version of the file was valid.
    pub loaded: Option<Timestamp>,
    /// Why the file as it is now is not in force: all its complaints with positions.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_from_before_it_told_of_snapshots_is_read() {
        let text = r#"{"started": "2026-11-21T12:00:00Z", "finished": "2026-11-21T12:01:00Z", "result": "ok", "wanted": 1, "present": 1,
            "sent": 0, "failed": 0, "marked": 0, "deleted": 0, "bytes": 0}"#;
        let report: SyncReport = serde_json::from_str(text).expect("a report");
        assert!(report.is_complete() && report.held_packages.is_empty());
        assert_eq!((report.wanted, report.snapshot, report.held_back), (1, None, None));
    }

    #[test]
    fn a_report_names_the_first_held_packages_in_bounded_space_and_counts_all() {
        let text = r#"{"started": "2026-11-21T12:00:00Z", "finished": "2026-11-21T12:01:00Z", "result": "ok", "wanted": 8, "present": 1,
            "sent": 0, "failed": 0, "marked": 0, "deleted": 0, "bytes": 0}"#;
        let mut report: SyncReport = serde_json::from_str(text).expect("a report");
        assert!(!report.is_complete(), "seven are not there, whatever the agent says of them");
        for version in 1..=7 {
            let package = format!("core@{version}").parse().expect("a package");
            report.hold(&package, &"it waits: é".repeat(if version == 2 { 1000 } else { 1 }));
        }
        assert_eq!((report.held, report.held_packages.len(), report.is_complete()), (7, 5, false));
        assert_eq!(report.held_packages[0].why, "it waits: é");
        assert!(report.held_packages[1].why.len() < 410 && report.held_packages[1].why.ends_with(" …"));
    }
}
