//! One target as the master knows it: its restart policy, what its agent last said, and the status they make together.
//!
//! Pure: nothing here touches a process, a file or a clock.

use std::path::PathBuf;
use std::time::Duration;

use blat_domain::package::name::TargetName;
use blat_domain::policy::restart::{AgentAction, AgentEvent, AgentPhase, Change, Exit, Policy, Restart};
use blat_domain::protocol::messages::AgentReport;
use blat_domain::protocol::status::{
    ConfigStatus, FarEnd, HeldPackage, LastError, Leftover, Queue, State, SyncReport, TargetStatus,
};
use blat_domain::util::text::printable;
use jiff::{SignedDuration, Timestamp};

/// A moment: on the clock that only goes forward, and on the wall.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Time since the master came up.
    pub(crate) elapsed: Duration,
    /// The same moment for people.
    pub(crate) wall: Timestamp,
    /// Uniform in 0..1, drawn for this moment.
    pub(crate) chance: f64,
}

impl Moment {
    /// A later moment on the wall.
    fn wall_at(&self, elapsed: Duration) -> Timestamp {
        let away = SignedDuration::try_from(elapsed.saturating_sub(self.elapsed)).unwrap_or(SignedDuration::MAX);
        self.wall.checked_add(away).unwrap_or(Timestamp::MAX)
    }
}

/// What was found in place of a target's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Valid settings, of this `type`.
    Valid {
        /// The word in the file.
        kind: String,
    },
    /// All complaints about it.
    Invalid {
        /// What they come to: it is not valid, or cannot be read.
        verdict: &'static str,
        /// For the operator, with positions.
        error: String,
    },
    /// Valid settings that claim what another target has.
    Conflicting {
        /// For the operator.
        error: String,
    },
    /// No file.
    Removed,
}

/// One target.
#[derive(Debug)]
pub(crate) struct Target {
    restart: Restart,
    kind: String,
    config: ConfigStatus,
    pid: Option<u32>,
    /// What the living process last said.
    report: Option<AgentReport>,
    /// The last sync that is known of, maybe from before this process and this master.
    last_sync: Option<SyncReport>,
    /// Why there is no process, or was none until lately.
    trouble: Option<LastError>,
    shown: State,
    since: Timestamp,
}

impl Target {
    /// A target whose file was found at `path`; `last_sync` is remembered from an earlier master.
    pub(crate) fn new(policy: Policy, path: PathBuf, last_sync: Option<SyncReport>, now: Moment) -> Self {
        Self {
            restart: Restart::new(policy),
            kind: String::new(),
            config: ConfigStatus { path, loaded: None, error: None },
            pid: None,
            report: None,
            last_sync,
            trouble: None,
            shown: State::Misconfigured,
            since: now.wall,
        }
    }

    /// Feeds the restart policy alone.
    pub(crate) fn step(&mut self, event: AgentEvent, now: Moment) -> Vec<AgentAction> {
        let actions = self.restart.step(event, now.elapsed, now.chance);
        if event == AgentEvent::Tick && actions.contains(&AgentAction::Terminate) {
            self.note_trouble("the agent said nothing for too long and is being stopped".to_owned(), now);
        }
        self.refresh(now);
        actions
    }

    /// Takes note of what became of the configuration.
    pub(crate) fn config_seen(&mut self, seen: Seen, now: Moment) -> Vec<AgentAction> {
        let event = match seen {
            Seen::Valid { kind } => {
                let change = if self.kind.is_empty() || self.kind == kind { Change::Valid } else { Change::OtherType };
                self.kind = kind;
                self.config.loaded = Some(now.wall);
                self.config.error = None;
                AgentEvent::ConfigChanged(change)
            }
            Seen::Invalid { error, .. } => {
                self.config.error = Some(error);
                AgentEvent::ConfigChanged(Change::Invalid)
            }
            Seen::Conflicting { error } => {
                self.config.error = Some(error);
                AgentEvent::ConfigChanged(Change::Conflicting)
            }
            Seen::Removed => AgentEvent::Removed,
        };
        self.step(event, now)
    }

    /// A process lives.
    pub(crate) fn spawned(&mut self, pid: u32, now: Moment) -> Vec<AgentAction> {
        self.pid = Some(pid);
        self.step(AgentEvent::Spawned, now)
    }

    /// No process could be made.
    pub(crate) fn spawn_failed(&mut self, why: &str, now: Moment) -> Vec<AgentAction> {
        let actions = self.restart.step(AgentEvent::SpawnFailed, now.elapsed, now.chance);
        if matches!(self.restart.phase(), AgentPhase::Waiting { .. }) {
            self.note_trouble(why.to_owned(), now);
        }
        self.refresh(now);
        actions
    }

    /// The process is gone; `last_words` is what it wrote last to its standard error.
    pub(crate) fn exited(&mut self, exit: Exit, last_words: Option<&str>, now: Moment) -> Vec<AgentAction> {
        self.pid = None;
        self.report = None;
        let was_ending = self.restart.phase() == AgentPhase::Stopping;
        let actions = self.restart.step(AgentEvent::Exited(exit), now.elapsed, now.chance);
        match self.restart.phase() {
            AgentPhase::Waiting { .. } | AgentPhase::Misconfigured => {
                let words = last_words.map(|words| format!(": {}", printable(words))).unwrap_or_default();
                let how = if was_ending { "said nothing for too long and was stopped".to_owned() } else { how(exit) };
                self.note_trouble(format!("the agent {how}{words}"), now);
            }
            AgentPhase::Starting | AgentPhase::Running | AgentPhase::Stopping | AgentPhase::Stopped => {
                self.trouble = None
            }
        }
        self.refresh(now);
        actions
    }

    /// The process told its state.
    pub(crate) fn reported(&mut self, report: AgentReport, now: Moment) -> Vec<AgentAction> {
        if report.last_sync.is_some() {
            self.last_sync.clone_from(&report.last_sync);
        }
        self.report = Some(report);
        if self.restart.phase() == AgentPhase::Running && !self.restart.is_failing() {
            self.trouble = None;
        }
        self.step(AgentEvent::Heard, now)
    }

    /// A sync ended: that is newer than what the last report says.
    pub(crate) fn synced(&mut self, sync: SyncReport, now: Moment) -> Vec<AgentAction> {
        self.last_sync = Some(sync);
        self.step(AgentEvent::Heard, now)
    }

    fn note_trouble(&mut self, text: String, now: Moment) {
        let retry_at = match self.restart.phase() {
            AgentPhase::Waiting { until } => Some(now.wall_at(until)),
            AgentPhase::Starting
            | AgentPhase::Running
            | AgentPhase::Stopping
            | AgentPhase::Misconfigured
            | AgentPhase::Stopped => None,
        };
        self.trouble = Some(LastError { at: now.wall, package: None, text, retry_at });
    }

    /// A state is shown with the time since which it holds.
    fn refresh(&mut self, now: Moment) {
        let state = self.state();
        if state != self.shown {
            (self.shown, self.since) = (state, now.wall);
        }
        // A config that changed while the next start was awaited brings that start forward.
        if let (AgentPhase::Waiting { until }, Some(trouble)) = (self.restart.phase(), &mut self.trouble) {
            trouble.retry_at = Some(now.wall_at(until));
        }
    }

    /// What the target is doing.
    pub(crate) fn state(&self) -> State {
        let starting = if self.restart.is_failing() { State::Failing } else { State::Starting };
        match self.restart.phase() {
            AgentPhase::Starting => starting,
            AgentPhase::Running | AgentPhase::Stopping => self.report.as_ref().map_or(starting, |report| report.state),
            AgentPhase::Waiting { .. } if self.restart.is_failing() => State::Failing,
            AgentPhase::Waiting { .. } => State::Waiting,
            AgentPhase::Misconfigured => State::Misconfigured,
            AgentPhase::Stopped => State::Stopped,
        }
    }

    /// Where the process stands.
    pub(crate) fn phase(&self) -> AgentPhase {
        self.restart.phase()
    }

    /// When the policy wants to be woken, since the master came up.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.restart.deadline()
    }

    /// Whether the living process has said anything yet, and so has its signal handlers in place.
    pub(crate) fn has_reported(&self) -> bool {
        self.report.is_some()
    }

    /// What is left to do, as the living process last said.
    pub(crate) fn report(&self) -> Option<&AgentReport> {
        self.report.as_ref()
    }

    /// The failure that still stands: the agent's own or, where there is none, why it is not there.
    pub(crate) fn last_error(&self) -> Option<&LastError> {
        self.report.as_ref().and_then(|report| report.last_error.as_ref()).or(self.trouble.as_ref())
    }

    /// Why no agent can be asked for anything now, for the operator.
    pub(crate) fn why_unavailable(&self) -> String {
        let state = match self.phase() {
            AgentPhase::Misconfigured => "it waits for a valid config",
            AgentPhase::Waiting { .. } => "it is waiting to be started again",
            AgentPhase::Starting => "it is just being started",
            AgentPhase::Running | AgentPhase::Stopping => "it is being stopped",
            AgentPhase::Stopped => "it is stopped",
        };
        let cause = self.last_error().map(|error| error.text.as_str()).or(self.config.error.as_deref());
        cause.map_or_else(|| state.to_owned(), |cause| format!("{state}: {cause}"))
    }

    /// The entry in `blat status`, with no text of more than about `room` bytes.
    pub(crate) fn status(&self, name: &TargetName, room: usize) -> TargetStatus {
        let report = self.report.as_ref();
        let last_error = self.last_error().map(|error| LastError { text: shorten(&error.text, room), ..error.clone() });
        let config_error = self.config.error.as_ref().map(|error| shorten(error, room));
        TargetStatus {
            name: name.clone(),
            kind: self.kind.clone(),
            pid: self.pid,
            restarts: self.restart.restarts(),
            since: self.since,
            state: self.state(),
            last_sync: self.last_sync.as_ref().map(|sync| in_room(sync, room)),
            queue: report.map_or_else(Queue::default, |report| report.queue),
            current: report.and_then(|report| report.current.clone()),
            last_error,
            far_end: report.and_then(|report| report.far_end.clone()).map(|far_end| bounded(far_end, room)),
            waits_for: report.and_then(|report| report.waits_for.as_ref()).map(|text| shorten(text, room)),
            leftovers: report.map(|report| fitting(&report.leftovers, room)).unwrap_or_default(),
            config: ConfigStatus { error: config_error, ..self.config.clone() },
        }
    }
}

/// What it says of the far end, with no text of more than about `room` bytes.
fn bounded(far_end: FarEnd, room: usize) -> FarEnd {
    match far_end {
        FarEnd::Receiver { restricted, scripts } => {
            FarEnd::Receiver { restricted, scripts: scripts.map(|why| shorten(&why, room)) }
        }
        FarEnd::Scripts { why } => FarEnd::Scripts { why: why.map(|why| shorten(&why, room)) },
    }
}

/// How a sync went, with no text of more than about `room` bytes, and with as many held packages as take about so much; at least the first one is
/// named.
fn in_room(sync: &SyncReport, room: usize) -> SyncReport {
    let mut left = room;
    let held = sync.held_packages.iter().enumerate().map_while(|(place, HeldPackage { package, why })| {
        let most = left;
        left = left.saturating_sub(why.len());
        (place == 0 || left > 0).then(|| HeldPackage { package: package.clone(), why: shorten(why, most) })
    });
    SyncReport {
        held_back: sync.held_back.as_ref().map(|text| shorten(text, room)),
        held_packages: held.collect(),
        ..sync.clone()
    }
}

/// As many of them as take about `room` bytes; at least the first one is named.
fn fitting(leftovers: &[Leftover], room: usize) -> Vec<Leftover> {
    let mut left = room;
    let cut = leftovers.iter().enumerate().map_while(|(place, Leftover { path, owner, text })| {
        let most = left;
        left = left.saturating_sub(path.len() + text.len());
        (place == 0 || left > 0).then(|| Leftover {
            path: shorten(path, most),
            owner: *owner,
            text: shorten(text, most),
        })
    });
    cut.collect()
}

/// The beginning of `text`, where it is longer than `room` bytes.
fn shorten(text: &str, room: usize) -> String {
    if text.len() <= room {
        return text.to_owned();
    }
    let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{} …", &text[..end])
}

/// An exit in words.
fn how(exit: Exit) -> String {
    match exit {
        Exit::Code(0) => "ended without being asked to by the master".to_owned(),
        Exit::Code(code) => format!("exited with code {code}"),
        Exit::Signal(signal) => format!("was killed by signal {signal}"),
    }
}
