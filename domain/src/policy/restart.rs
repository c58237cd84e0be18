//! When the agent of one target is started, told to read its config again, stopped and started again.
//!
//! What is wanted ([`Want`]) and what is ([`Is`]) are kept apart: configuration and stop requests edit the want, the
//! fate of the process edits the is, and [`Restart::step`] closes the gap. Nothing here touches a process: time comes
//! in as the duration since some fixed start, chance as a number, and what is to be done goes out as [`AgentAction`]s.
//!
//! Invariants, all under test: there are never two processes for a target; whenever an agent is wanted and none lives,
//! a [`Restart::deadline`] is pending or [`Restart::phase`] says what is waited for; every stop ends.

use std::collections::VecDeque;
use std::time::Duration;

use crate::policy::retry::Backoff;
use crate::protocol::exit_code::BAD_CONFIG;

/// The numbers of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How long an agent may take to end after it was asked to, before its whole process group is killed.
    pub grace: Duration,
    /// How long a live agent may say nothing before it is taken for hung.
    pub silence: Duration,
    /// An agent that was up this long is healthy: its earlier exits no longer count.
    pub steady: Duration,
    /// The time in which exits are counted to tell a failing agent.
    pub window: Duration,
    /// So many exits within the window are borne; one more and the agent is failing.
    pub exits_borne: usize,
    /// The wait before an agent that exited is started again.
    pub exited: Backoff,
    /// The wait before a start that was itself impossible (executable missing, no memory, no descriptors) is tried
    /// again: cheap to try, and over as soon as the machine is healed, so it never grows as long as the other.
    pub unspawnable: Backoff,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(30),
            silence: Duration::from_secs(60),
            steady: Duration::from_secs(600),
            window: Duration::from_secs(60),
            exits_borne: 5,
            exited: Backoff::PROCESS,
            unspawnable: Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(20) },
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

/// What became of a target's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is valid, and a running agent can take it over.
    Valid,
    /// It is valid, but of another `type`: only a new process can take it over.
    OtherType,
    /// It is not valid: whatever runs goes on with the settings it has.
    Invalid,
    /// It claims what another target has. Whatever runs goes on with the settings it has, and nothing is started with these.
    Conflicting,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentEvent {
    /// The process asked for by [`AgentAction::Spawn`] lives.
    Spawned,
    /// The process asked for by [`AgentAction::Spawn`] could not be made.
    SpawnFailed,
    /// The process is gone, and was reaped.
    Exited(Exit),
    /// The process said something.
    Heard,
    /// The configuration was looked at and is not as it was.
    ConfigChanged(Change),
    /// The configuration file is gone.
    Removed,
    /// The master is to end: stop the agent in good order.
    StopRequested,
    /// The master is to end now: kill the agent.
    StopAtOnce,
    /// Time passed; whatever is due by now is done.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentAction {
    /// Make a process; answered by [`AgentEvent::Spawned`] or [`AgentEvent::SpawnFailed`].
    Spawn,
    /// Ask the process to end (TERM).
    Terminate,
    /// Kill the process and its whole group (KILL).
    KillGroup,
    /// Tell the process to read its configuration again.
    Reload,
    /// The target is gone and so is its process: drop all that is remembered of it.
    Forget,
}

/// Where a target's process stands, for status and log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentPhase {
    /// A process is being made.
    Starting,
    /// A process lives and is wanted.
    Running,
    /// A process lives and is on its way out.
    Stopping,
    /// The next start comes at this time.
    Waiting {
        /// When, since the fixed start.
        until: Duration,
    },
    /// No valid configuration was ever seen, or the agent refused the one there is; a change is waited for.
    Misconfigured,
    /// Nothing runs, on purpose.
    Stopped,
}

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// A running agent.
    Running,
    /// One as soon as there is a valid configuration.
    ValidConfig,
    /// None, and nothing remembered.
    Gone,
    /// None, in good order: the master ends. Nothing changes this any more, except to hurry it.
    Stopped,
    /// None, at once.
    Killed,
}

/// What is the case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    /// Nothing, and nothing due.
    Down,
    /// Nothing, since the agent refused its configuration at that time.
    Refused { exited: Duration },
    /// Nothing, until then.
    Waiting { exited: Duration, until: Duration, start: Start },
    /// A process is being made.
    Spawning { then: Then, start: Start },
    /// A process lives. `changed`: its configuration changed since it was started.
    Up { since: Duration, heard: Duration, changed: bool },
    /// A process lives and was told to end.
    Ending { since: Duration, rung: Rung, until: Duration, cause: Cause },
}

/// What kind of start comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// One that was asked for.
    Asked,
    /// One that replaces a process which ended unasked.
    Again,
}

/// What a new process needs at once, because of what happened while it was being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    Reload,
    Replace,
}

/// How far up the ladder a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rung {
    Terminated,
    Killed,
}

/// Why a process was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The want says so.
    Asked,
    /// It was silent for too long: a failure like any other exit.
    Silent,
}

/// How well the agent did lately.
#[derive(Debug, Clone, PartialEq, Eq)]
enum RestartRecord {
    /// So many exits since it was last healthy, the latest of them at these times.
    Counting { failures: u32, recent: VecDeque<Duration> },
    /// Too many exits in a short time; only a long healthy life mends that.
    Failing,
}

impl RestartRecord {
    fn clean() -> Self {
        Self::Counting { failures: 0, recent: VecDeque::new() }
    }
}

/// The restart policy of one target.
#[derive(Debug, Clone)]
pub struct Restart {
    policy: Policy,
    want: Want,
    is: Is,
    record: RestartRecord,
    unspawnable: u32,
    restarts: u64,
    /// Whether a new process would take what another target has.
    is_barred: bool,
}

impl Restart {
    /// A target that nothing is known of yet; the first [`AgentEvent::ConfigChanged`] sets it going.
    pub fn new(policy: Policy) -> Self {
        let record = RestartRecord::clean();
        Self { policy, want: Want::ValidConfig, is: Is::Down, record, unspawnable: 0, restarts: 0, is_barred: false }
    }

    /// How often an agent was started in place of one that ended unasked.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Whether a process lives.
    pub fn is_alive(&self) -> bool {
        match self.is {
            Is::Up { .. } | Is::Ending { .. } => true,
            Is::Down | Is::Refused { .. } | Is::Waiting { .. } | Is::Spawning { .. } => false,
        }
    }

    /// Whether it ended too often in too short a time, and was not up for long since.
    pub fn is_failing(&self) -> bool {
        self.record == RestartRecord::Failing
    }

    /// Where the process stands.
    pub fn phase(&self) -> AgentPhase {
        match self.is {
            Is::Down if self.want == Want::ValidConfig => AgentPhase::Misconfigured,
            Is::Down => AgentPhase::Stopped,
            Is::Refused { .. } => AgentPhase::Misconfigured,
            Is::Waiting { until, .. } => AgentPhase::Waiting { until },
            Is::Spawning { .. } => AgentPhase::Starting,
            Is::Up { .. } => AgentPhase::Running,
            Is::Ending { .. } => AgentPhase::Stopping,
        }
    }

    /// When the next [`AgentEvent::Tick`] is due, if one is.
    pub fn deadline(&self) -> Option<Duration> {
        match self.is {
            Is::Down | Is::Refused { .. } | Is::Spawning { .. } => None,
            Is::Waiting { until, .. } | Is::Ending { until, .. } => Some(until),
            Is::Up { heard, .. } => Some(heard + self.policy.silence),
        }
    }

    /// Takes note of `event` and says what is to be done about it, in this order.
    ///
    /// `now` is the time since the fixed start and never goes back; `chance` is uniform in 0..1 and spreads the waits.
    pub fn step(&mut self, event: AgentEvent, now: Duration, chance: f64) -> Vec<AgentAction> {
        match event {
            AgentEvent::Spawned => self.spawned(now),
            AgentEvent::SpawnFailed => self.spawn_failed(now, chance),
            AgentEvent::Exited(exit) => self.exited(exit, now, chance),
            AgentEvent::Heard => {
                if let Is::Up { heard, .. } = &mut self.is {
                    *heard = now;
                }
                Vec::new()
            }
            AgentEvent::ConfigChanged(change) => self.config_changed(change, now),
            AgentEvent::Removed => self.unwanted(Want::Gone, now),
            AgentEvent::StopRequested => self.unwanted(Want::Stopped, now),
            AgentEvent::StopAtOnce => self.unwanted(Want::Killed, now),
            AgentEvent::Tick => self.tick(now),
        }
    }

    fn spawned(&mut self, now: Duration) -> Vec<AgentAction> {
        let Is::Spawning { then, start } = self.is else { return Vec::new() };
        self.unspawnable = 0;
        match start {
            Start::Asked => {}
            Start::Again => self.restarts += 1,
        }
        self.is = Is::Up { since: now, heard: now, changed: then == Then::Reload };
        match (self.want, then) {
            // It has read what came between.
            (Want::Running, _) if self.is_barred => self.end(Cause::Asked, now),
            (Want::Running, Then::Nothing) => Vec::new(),
            (Want::Running, Then::Reload) => vec![AgentAction::Reload],
            (Want::Running, Then::Replace) | (Want::ValidConfig | Want::Gone | Want::Stopped | Want::Killed, _) => {
                self.end(Cause::Asked, now)
            }
        }
    }

    fn spawn_failed(&mut self, now: Duration, chance: f64) -> Vec<AgentAction> {
        let Is::Spawning { start, .. } = self.is else { return Vec::new() };
        if self.want != Want::Running {
            return self.settle_down();
        }
        self.unspawnable = self.unspawnable.saturating_add(1);
        let until = now + self.policy.unspawnable.wait(self.unspawnable, chance);
        self.is = Is::Waiting { exited: now, until, start };
        Vec::new()
    }

    fn exited(&mut self, exit: Exit, now: Duration, chance: f64) -> Vec<AgentAction> {
        let (since, asked, refusable) = match self.is {
            Is::Up { since, changed, .. } => (since, false, !changed),
            Is::Ending { since, cause, .. } => (since, cause == Cause::Asked, false),
            Is::Down | Is::Refused { .. } | Is::Waiting { .. } | Is::Spawning { .. } => return Vec::new(),
        };
        if self.want != Want::Running {
            return self.settle_down();
        }
        if self.is_barred {
            self.is = Is::Refused { exited: now };
            return Vec::new();
        }
        if asked {
            return self.spawn(Start::Asked);
        }
        // What it refused may be what was there before the change, so a change since its start earns another try.
        if exit == Exit::Code(i32::from(BAD_CONFIG)) && refusable {
            self.is = Is::Refused { exited: now };
            return Vec::new();
        }
        let until = now + self.note_exit(since, now, chance);
        self.is = Is::Waiting { exited: now, until, start: Start::Again };
        Vec::new()
    }

    /// Enters an unasked exit into the record, and says how long to wait.
    fn note_exit(&mut self, since: Duration, now: Duration, chance: f64) -> Duration {
        if now.saturating_sub(since) >= self.policy.steady {
            self.record = RestartRecord::clean();
        }
        let backoff = self.policy.exited;
        if let RestartRecord::Counting { failures, recent } = &mut self.record {
            *failures = failures.saturating_add(1);
            recent.push_back(now);
            recent.retain(|exit| now.saturating_sub(*exit) < self.policy.window);
            if recent.len() <= self.policy.exits_borne {
                return backoff.wait(*failures, chance);
            }
            self.record = RestartRecord::Failing;
        }
        backoff.wait(u32::MAX, chance)
    }

    fn config_changed(&mut self, change: Change, now: Duration) -> Vec<AgentAction> {
        self.is_barred = match change {
            Change::Conflicting => true,
            Change::Valid | Change::OtherType => false,
            Change::Invalid => self.is_barred,
        };
        if let (true, Is::Waiting { exited, .. }) = (self.is_barred, self.is) {
            self.is = Is::Refused { exited };
        }
        match (self.want, change) {
            (Want::Stopped | Want::Killed, _) => return Vec::new(),
            (Want::Running | Want::ValidConfig, Change::Invalid | Change::Conflicting) => return Vec::new(),
            (Want::Gone, Change::Invalid | Change::Conflicting) => {
                self.want = Want::ValidConfig;
                return Vec::new();
            }
            (Want::Running | Want::ValidConfig | Want::Gone, Change::Valid | Change::OtherType) => {}
        }
        self.want = Want::Running;
        match (&mut self.is, change) {
            (Is::Down, _) => self.spawn(Start::Asked),
            (Is::Refused { exited }, _) => {
                let until = now.max(*exited + self.policy.exited.first);
                self.is = Is::Waiting { exited: *exited, until, start: Start::Asked };
                self.tick(now)
            }
            (Is::Waiting { exited, until, .. }, _) => {
                // The change may be the cure, so the long wait is over; the shortest one still holds.
                *until = (*until).min(now.max(*exited + self.policy.exited.first));
                Vec::new()
            }
            (Is::Spawning { then, .. }, Change::OtherType) => {
                *then = Then::Replace;
                Vec::new()
            }
            (Is::Spawning { then, .. }, Change::Valid | Change::Invalid | Change::Conflicting) => {
                *then = if *then == Then::Nothing { Then::Reload } else { *then };
                Vec::new()
            }
            (Is::Up { .. }, Change::OtherType) => self.end(Cause::Asked, now),
            (Is::Up { changed, .. }, Change::Valid | Change::Invalid | Change::Conflicting) => {
                *changed = true;
                vec![AgentAction::Reload]
            }
            (Is::Ending { .. }, _) => Vec::new(),
        }
    }

    /// No agent is wanted any more, for the reason given.
    fn unwanted(&mut self, want: Want, now: Duration) -> Vec<AgentAction> {
        self.want = match (self.want, want) {
            (Want::Killed, _) => Want::Killed,
            (Want::Stopped, Want::Gone) => Want::Stopped,
            (Want::Stopped | Want::Running | Want::ValidConfig | Want::Gone, want) => want,
        };
        match &mut self.is {
            Is::Spawning { .. } => Vec::new(),
            Is::Up { .. } => self.end(Cause::Asked, now),
            Is::Ending { rung: Rung::Terminated, .. } if self.want == Want::Killed => self.end(Cause::Asked, now),
            Is::Ending { .. } => Vec::new(),
            Is::Down | Is::Refused { .. } | Is::Waiting { .. } => self.settle_down(),
        }
    }

    fn tick(&mut self, now: Duration) -> Vec<AgentAction> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        match &mut self.is {
            Is::Waiting { start, .. } => {
                let start = *start;
                self.spawn(start)
            }
            Is::Up { .. } => self.end(Cause::Silent, now),
            // A process in an uninterruptible call outlives even KILL for a while; it is told again.
            Is::Ending { rung, until, .. } => {
                *rung = Rung::Killed;
                *until = now + self.policy.grace;
                vec![AgentAction::KillGroup]
            }
            Is::Down | Is::Refused { .. } | Is::Spawning { .. } => Vec::new(),
        }
    }

    fn spawn(&mut self, start: Start) -> Vec<AgentAction> {
        self.is = Is::Spawning { then: Then::Nothing, start };
        vec![AgentAction::Spawn]
    }

    /// Tells a live process to end: kindly, unless there is no time for that.
    fn end(&mut self, cause: Cause, now: Duration) -> Vec<AgentAction> {
        let since = match self.is {
            Is::Up { since, .. } | Is::Ending { since, .. } => since,
            Is::Down | Is::Refused { .. } | Is::Waiting { .. } | Is::Spawning { .. } => return Vec::new(),
        };
        let (rung, action) = match self.want {
            Want::Killed => (Rung::Killed, AgentAction::KillGroup),
            Want::Running | Want::ValidConfig | Want::Gone | Want::Stopped => {
                (Rung::Terminated, AgentAction::Terminate)
            }
        };
        self.is = Is::Ending { since, rung, until: now + self.policy.grace, cause };
        vec![action]
    }

    /// Nothing lives and nothing is wanted.
    fn settle_down(&mut self) -> Vec<AgentAction> {
        self.is = Is::Down;
        match self.want {
            Want::Gone => vec![AgentAction::Forget],
            Want::Running | Want::ValidConfig | Want::Stopped | Want::Killed => Vec::new(),
        }
    }
}
