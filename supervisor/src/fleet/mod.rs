//! All targets together: one event and the present moment in, what is to be done out.
//!
//! Pure: the event loop waits and performs, this decides. So hundreds of targets, storms of signals and every
//! order of events are tested without a process.

pub(crate) mod sync_waiters;
pub(crate) mod target_status;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use blat_domain::package::name::TargetName;
use blat_domain::policy::restart::{AgentAction, AgentEvent, AgentPhase, Exit, Policy};
use blat_domain::protocol::exit_code;
use blat_domain::protocol::messages::{AgentMessage, Answer, LONGEST_LINE, Order};
use blat_domain::protocol::status::{LastError, SyncReport, TargetStatus};

use sync_waiters::{Asker, SyncWaiters};
use target_status::{Moment, Seen, Target};

/// A master that was not awake for this long heard nobody in that time, so it calls nobody silent.
const ASLEEP: Duration = Duration::from_secs(5);

/// The longest complaint in a status, in bytes.
const LONGEST_TEXT: usize = 16 << 10;
/// The length to which a complaint is cut at most.
const SHORTEST_TEXT: usize = 200;

/// A signal that is passed on to every agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    /// USR1: sync now.
    Sync,
    /// HUP: roll the log.
    RollLog,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A target's configuration is not as it was.
    ConfigSeen(TargetName, PathBuf, Seen),
    /// The process asked for lives.
    Spawned(TargetName, u32),
    /// The process asked for could not be made; why.
    SpawnFailed(TargetName, String),
    /// The process is gone; the last it wrote to its standard error.
    Exited(TargetName, Exit, Option<String>),
    /// The agent said this.
    Said(TargetName, Box<AgentMessage>),
    /// The master got a signal for its agents.
    SignalCame(Passed),
    /// Somebody asks for a sync of these targets (all, when empty), maybe waits for its end, and maybe lets it delete more
    /// than `max_delete`.
    SyncAsked { asker: Asker, targets: Vec<TargetName>, wait: bool, allow_delete: bool },
    /// Whoever asked went away.
    AskerLeft(Asker),
    /// The master is to end in good order.
    StopAsked,
    /// The master is to end now.
    StopAtOnceAsked,
    /// Time passed.
    Ticked,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Make an agent process; answered by [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn(TargetName),
    /// Ask the agent to end.
    Terminate(TargetName),
    /// Kill the agent's process group.
    KillGroup(TargetName),
    /// Give the agent an order.
    Tell(TargetName, Order),
    /// Pass a signal on to the agent.
    Pass(TargetName, Passed),
    /// Tell whoever asked that it is being done.
    Accept(Asker),
    /// Send a line to whoever asked.
    Answer(Asker, Answer),
    /// Whoever asked has all the answers.
    Dismiss(Asker),
    /// Log this about a target.
    Note(TargetName, Note),
}

/// How a sync is wanted.
#[derive(Debug, Clone, Copy)]
struct Wish {
    /// Whoever asks waits for its end.
    wait: bool,
    /// It may mark and delete more than `max_delete`.
    allow_delete: bool,
}

/// What is worth a line in the log.
#[derive(Debug, PartialEq)]
pub(crate) enum Note {
    /// All is as it should be.
    Info(String),
    /// Something went wrong, and what happens next.
    Trouble(LastError),
}

/// How far the master has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Serving,
    Stopping,
    Killing,
}

/// All targets.
#[derive(Debug)]
pub(crate) struct Fleet {
    policy: Policy,
    mode: Mode,
    targets: BTreeMap<TargetName, Target>,
    remembered: BTreeMap<TargetName, SyncReport>,
    waiters: SyncWaiters,
    awake: Duration,
}

impl Fleet {
    /// No targets yet; `remembered` are the last syncs that an earlier master knew of.
    pub(crate) fn new(policy: Policy, remembered: BTreeMap<TargetName, SyncReport>) -> Self {
        let (targets, waiters) = (BTreeMap::new(), SyncWaiters::default());
        Self { policy, mode: Mode::Serving, targets, remembered, waiters, awake: Duration::ZERO }
    }

    /// When [`Event::Ticked`] is due next, since the master came up.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.targets.values().filter_map(Target::deadline).chain(self.waiters.deadline()).min()
    }

    /// Whether the master was told to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.mode != Mode::Serving
    }

    /// Whether the master was told to end, and no agent is left.
    pub(crate) fn is_done(&self) -> bool {
        self.is_stopping() && self.targets.values().all(|target| target.phase() == AgentPhase::Stopped)
    }

    /// Every target, by name. Together they fit into one line of the protocol, so with very many targets that have much
    /// to complain about, each complaint is cut short; the log and `blat check` have all of it.
    pub(crate) fn status(&self) -> Vec<TargetStatus> {
        let room = (LONGEST_LINE / 8 / self.targets.len().max(1)).clamp(SHORTEST_TEXT, LONGEST_TEXT);
        self.targets.iter().map(|(name, target)| target.status(name, room)).collect()
    }

    /// Takes note of `event` and says what is to be done about it, in this order.
    pub(crate) fn step(&mut self, event: Event, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        if now.elapsed.saturating_sub(self.awake) >= ASLEEP {
            self.each(AgentEvent::Heard, now, &mut actions);
        }
        self.awake = now.elapsed;
        match event {
            Event::ConfigSeen(name, path, seen) => self.config_seen(name, path, seen, now, &mut actions),
            Event::Spawned(name, pid) => {
                actions.push(Action::Note(name.clone(), Note::Info(format!("agent started, process {pid}"))));
                self.with(&name, &mut actions, |target| target.spawned(pid, now));
            }
            Event::SpawnFailed(name, why) => {
                self.with(&name, &mut actions, |target| target.spawn_failed(&why, now));
                self.note_trouble(&name, &mut actions);
            }
            Event::Exited(name, exit, last_words) => {
                self.with(&name, &mut actions, |target| target.exited(exit, last_words.as_deref(), now));
                self.note_exit(&name, exit, now, &mut actions);
            }
            Event::Said(name, told) => self.said(&name, *told, now, &mut actions),
            Event::SignalCame(signal) => self.pass(signal, &mut actions),
            Event::SyncAsked { asker, targets, wait, allow_delete } => {
                self.sync_asked(asker, targets, Wish { wait, allow_delete }, now, &mut actions);
            }
            Event::AskerLeft(asker) => self.waiters.drop_asker(asker),
            Event::StopAsked => {
                if self.mode == Mode::Serving {
                    self.mode = Mode::Stopping;
                }
                self.each(AgentEvent::StopRequested, now, &mut actions);
            }
            Event::StopAtOnceAsked => {
                self.mode = Mode::Killing;
                self.each(AgentEvent::StopAtOnce, now, &mut actions);
            }
            Event::Ticked => self.tick(now, &mut actions),
        }
        actions
    }

    fn config_seen(&mut self, name: TargetName, path: PathBuf, seen: Seen, now: Moment, actions: &mut Vec<Action>) {
        if self.is_stopping() || (seen == Seen::Removed && !self.targets.contains_key(&name)) {
            return;
        }
        let note = match &seen {
            Seen::Valid { .. } => Note::Info("config read".to_owned()),
            Seen::Invalid { verdict, error } => Note::Trouble(LastError {
                at: now.wall,
                package: None,
                text: format!("the config {verdict}, so it changes nothing: {error}"),
                retry_at: None,
            }),
            Seen::Conflicting { error } => Note::Trouble(LastError {
                at: now.wall,
                package: None,
                text: format!("the config is in another target's way, so it changes nothing: {error}"),
                retry_at: None,
            }),
            Seen::Removed => Note::Info("config removed; the agent is being stopped".to_owned()),
        };
        actions.push(Action::Note(name.clone(), note));
        let (policy, last_sync) = (&self.policy, self.remembered.get(&name));
        let target = self
            .targets
            .entry(name.clone())
            .or_insert_with(|| Target::new(policy.clone(), path, last_sync.cloned(), now));
        let steps = target.config_seen(seen, now);
        self.carry(&name, steps, actions);
    }

    fn said(&mut self, name: &TargetName, told: AgentMessage, now: Moment, actions: &mut Vec<Action>) {
        match told {
            AgentMessage::Report(report) => self.with(name, actions, |target| target.reported(report, now)),
            AgentMessage::SyncFinished { tickets, report, error } => {
                let answers = self.waiters.finished(name, &tickets, &report, error.as_ref());
                self.with(name, actions, |target| target.synced(report, now));
                self.answer(answers, actions);
            }
        }
    }

    /// One line for an exit that nobody asked for, and an end to all that waits for the agent.
    fn note_exit(&mut self, name: &TargetName, exit: Exit, now: Moment, actions: &mut Vec<Action>) {
        let trouble = self.targets.get(name).and_then(|target| target.last_error().cloned());
        match &trouble {
            Some(trouble) => actions.push(Action::Note(name.clone(), Note::Trouble(trouble.clone()))),
            None => actions.push(Action::Note(name.clone(), Note::Info(format!("agent ended as asked ({exit:?})")))),
        }
        let gone = LastError { at: now.wall, package: None, text: "the agent was stopped".to_owned(), retry_at: None };
        let answers = self.waiters.lost(name, trouble.unwrap_or(gone));
        self.answer(answers, actions);
    }

    fn note_trouble(&self, name: &TargetName, actions: &mut Vec<Action>) {
        if let Some(trouble) = self.targets.get(name).and_then(Target::last_error) {
            actions.push(Action::Note(name.clone(), Note::Trouble(trouble.clone())));
        }
    }

    /// An agent that has not said anything may not have its handlers yet, and a signal would kill it: it gets an order.
    fn pass(&self, signal: Passed, actions: &mut Vec<Action>) {
        for (name, target) in self.targets.iter().filter(|(_, target)| target.phase() == AgentPhase::Running) {
            actions.push(match signal {
                _ if target.has_reported() => Action::Pass(name.clone(), signal),
                // It begins with a sync anyhow.
                Passed::Sync => continue,
                Passed::RollLog => Action::Tell(name.clone(), Order::RollLog),
            });
        }
    }

    fn sync_asked(&mut self, asker: Asker, names: Vec<TargetName>, wish: Wish, now: Moment, actions: &mut Vec<Action>) {
        let Wish { wait, allow_delete } = wish;
        if let Err((error, exit_code)) = self.judge_sync(&names, wish) {
            actions.push(Action::Answer(asker, Answer::Refused { error, exit_code }));
            actions.push(Action::Dismiss(asker));
            return;
        }
        let names = if names.is_empty() { self.targets.keys().cloned().collect() } else { names };
        for name in names {
            let Some(target) = self.targets.get(&name) else { continue };
            if target.phase() == AgentPhase::Running {
                let ticket = self.waiters.ticket();
                if wait {
                    self.waiters.open(asker, ticket, name.clone());
                }
                actions.push(Action::Tell(name, Order::Sync { ticket, allow_delete }));
            } else if wait {
                let text = format!("no agent runs for {name}: {}", target.why_unavailable());
                let retry_at = target.last_error().and_then(|error| error.retry_at);
                let error = Some(LastError { at: now.wall, package: None, text, retry_at });
                actions.push(Action::Answer(asker, Answer::SyncFinished { target: name, report: None, error }));
            }
        }
        if !wait {
            actions.push(Action::Accept(asker));
        }
        if self.waiters.is_served(asker) {
            actions.push(Action::Dismiss(asker));
        }
    }

    /// Why a sync cannot be asked for, with the exit code for `blat`.
    fn judge_sync(&self, names: &[TargetName], wish: Wish) -> Result<(), (String, u8)> {
        if self.is_stopping() {
            return Err(("the master is stopping; start it again first".to_owned(), exit_code::BUSY));
        }
        let is_asked = |name: &TargetName| names.is_empty() || names.contains(name);
        let mut starting =
            self.targets.iter().filter(|(name, target)| target.phase() == AgentPhase::Starting && is_asked(name));
        // Its first sync would not be the one that was confirmed.
        if wish.allow_delete
            && !wish.wait
            && let Some((name, _)) = starting.next()
        {
            return Err((format!("the agent of {name} is only starting; confirm again in a moment"), exit_code::BUSY));
        }
        for name in names {
            let Some(target) = self.targets.get(name) else {
                return Err((
                    format!("there is no target {name}: config/{name}.conf does not exist"),
                    exit_code::USAGE,
                ));
            };
            let code = match target.phase() {
                AgentPhase::Misconfigured => exit_code::BAD_CONFIG,
                AgentPhase::Waiting { .. } | AgentPhase::Stopping | AgentPhase::Stopped => exit_code::BUSY,
                // A new agent begins with a sync, which is what was asked for.
                AgentPhase::Starting | AgentPhase::Running => continue,
            };
            if !wish.wait {
                return Err((format!("no agent runs for {name}: {}", target.why_unavailable()), code));
            }
        }
        Ok(())
    }

    fn tick(&mut self, now: Moment, actions: &mut Vec<Action>) {
        self.each(AgentEvent::Tick, now, actions);
        let targets = &self.targets;
        let answers = self.waiters.beat(now.elapsed, |name| {
            let report = targets.get(name)?.report()?;
            Some((report.state, report.queue, report.current.clone()))
        });
        self.answer(answers, actions);
    }

    /// The same event for every target.
    fn each(&mut self, event: AgentEvent, now: Moment, actions: &mut Vec<Action>) {
        let steps: Vec<_> =
            self.targets.iter_mut().map(|(name, target)| (name.clone(), target.step(event, now))).collect();
        for (name, steps) in steps {
            if event == AgentEvent::Tick && steps.contains(&AgentAction::Terminate) {
                self.note_trouble(&name, actions);
            }
            self.carry(&name, steps, actions);
        }
    }

    /// An event for one target; one that is not known any more needs nothing.
    fn with(
        &mut self,
        name: &TargetName,
        actions: &mut Vec<Action>,
        step: impl FnOnce(&mut Target) -> Vec<AgentAction>,
    ) {
        if let Some(target) = self.targets.get_mut(name) {
            let steps = step(target);
            self.carry(name, steps, actions);
        }
    }

    fn carry(&mut self, name: &TargetName, steps: Vec<AgentAction>, actions: &mut Vec<Action>) {
        for step in steps {
            actions.push(match step {
                AgentAction::Spawn => Action::Spawn(name.clone()),
                AgentAction::Terminate => Action::Terminate(name.clone()),
                AgentAction::KillGroup => Action::KillGroup(name.clone()),
                AgentAction::Reload => Action::Tell(name.clone(), Order::Reload),
                AgentAction::Forget => {
                    self.targets.remove(name);
                    self.remembered.remove(name);
                    continue;
                }
            });
        }
    }

    /// Sends the answers, then lets those go who wait for nothing more.
    fn answer(&self, answers: Vec<(Asker, Answer)>, actions: &mut Vec<Action>) {
        let mut served = BTreeSet::new();
        for (asker, answer) in answers {
            if self.waiters.is_served(asker) {
                served.insert(asker);
            }
            actions.push(Action::Answer(asker, answer));
        }
        actions.extend(served.into_iter().map(Action::Dismiss));
    }
}

#[cfg(test)]
mod tests;
