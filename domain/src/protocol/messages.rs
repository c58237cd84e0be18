//! What the processes of one home tree say to each other: one JSON object a line, in every direction.
//!
//! - master → agent, on the agent's standard input: [`Order`]. End of file means that the master is gone. Before any order there may be a
//!   blank, which carries a descriptor: the master's inotify instance, to which the agent adds its tag directory.
//! - agent → master, on the agent's standard output: [`AgentMessage`].
//! - `blat` → master, on `run/blatd.sock`: one [`MasterRequest`], answered by [`Answer`] lines until the connection closes.
//!
//! Both ends come from one build, but may not run the same one for a while after an upgrade: unknown fields are
//! ignored, and an unknown message is an error that is logged and survived.

use serde::{Deserialize, Serialize};

use crate::package::name::TargetName;
use crate::protocol::news::News;
use crate::protocol::status::{Current, FarEnd, LastError, Leftover, Queue, State, Status, SyncReport};

/// The longest line that either end accepts, in bytes.
pub const LONGEST_LINE: usize = 1 << 20;

/// Names one request for a sync, so that whoever asked hears how just that sync went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// What the master tells an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Start a full sync; after the present one, if one runs.
    Sync {
        /// Comes back in the [`AgentMessage::SyncFinished`] of the sync that answers this order.
        ticket: Ticket,
        /// Whether this sync may mark and delete more than `max_delete`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        allow_delete: bool,
    },
    /// The configuration changed and is valid: read it again.
    Reload,
    /// Roll the log.
    RollLog,
    /// Write the log anew where somebody moved or removed it.
    KeepLog,
    /// This was heard of the tag directory that the agent watches under this number.
    Noticed {
        /// The number.
        watch: i32,
        /// What was heard.
        news: News,
    },
}

/// What an agent tells its master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AgentMessage {
    /// The whole state of the agent: sent at every change that matters and at least every ten seconds (the heartbeat).
    Report(AgentReport),
    /// A full sync ended.
    SyncFinished {
        /// The orders that this sync answers.
        tickets: Vec<Ticket>,
        /// How it went.
        report: SyncReport,
        /// What went wrong, when something did.
        error: Option<LastError>,
    },
}

/// An agent's state as it tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentReport {
    /// What it is doing.
    pub state: State,
    /// The last full sync that ended in this process's life.
    pub last_sync: Option<SyncReport>,
    /// What is waiting.
    pub queue: Queue,
    /// The package on its way.
    pub current: Option<Current>,
    /// The failure that still stands.
    pub last_error: Option<LastError>,
    /// What serves the archive at the far end, once that is known.
    #[serde(default)]
    pub far_end: Option<FarEnd>,
    /// What the agent waits for before it can go on, in words for the operator.
    #[serde(default)]
    pub waits_for: Option<String>,
    /// What the target cannot remove, as it was named last.
    #[serde(default)]
    pub leftovers: Vec<Leftover>,
    /// Whether the tag directory is watched by the master's inotify instance.
    #[serde(default)]
    pub watch: Watch,
}

/// Whether an agent's tag directory is watched by the master's inotify instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watch {
    /// It is not, or not yet: the agent has not got the instance, cannot reach the directory, or watches it itself.
    #[default]
    No,
    /// It is, under this number of the system's.
    Under(i32),
    /// The system refuses: why, for the operator.
    Refused(String),
}

/// What `blat` asks of the master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum MasterRequest {
    /// The present state: one [`Answer::Status`].
    Status,
    /// A full sync of these targets (all, when empty).
    Sync {
        /// Which.
        targets: Vec<TargetName>,
        /// Answer with [`Answer::Progress`] and at last [`Answer::SyncFinished`] for each target, rather than at once.
        wait: bool,
        /// Whether these syncs may mark and delete more than `max_delete`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        allow_delete: bool,
    },
    /// Stop all agents and exit: [`Answer::Accepted`], then the connection closes when the master does.
    Stop,
}

/// What the master answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The whole state.
    Status(Status),
    /// The request is being carried out, by the process named.
    Accepted {
        /// The master's process.
        pid: u32,
    },
    /// Where a target's awaited sync stands.
    Progress {
        /// The target.
        target: TargetName,
        /// What it is doing.
        state: State,
        /// What is left.
        queue: Queue,
        /// The package on its way.
        current: Option<Current>,
    },
    /// An awaited sync ended; none means that the agent went away before it did.
    SyncFinished {
        /// The target.
        target: TargetName,
        /// How it went.
        report: Option<SyncReport>,
        /// What went wrong, when something did.
        error: Option<LastError>,
    },
    /// The request cannot be carried out.
    Refused {
        /// What is wrong with it, for the operator.
        error: String,
        /// The exit code `blat` should end with.
        exit_code: u8,
    },
}
