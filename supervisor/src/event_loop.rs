//! The master's one loop: waits for one event, lets the fleet decide, performs.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use blat_config::Home;
use blat_config::pid_file::{PidFile, Presence};
use blat_domain::package::name::TargetName;
use blat_domain::protocol::messages::{AgentMessage, Answer, MasterRequest, Order};
use blat_domain::protocol::status::{LastError, Status, SupervisorStatus};
use blat_logging::{LogHandle, Trouble};
use futures_util::StreamExt;
use jiff::Timestamp;
use rustix::process::Signal;
use signal_hook_tokio::Signals;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::agent::{Agent, Heard, Launcher};
use crate::fleet::sync_waiters::Asker;
use crate::fleet::target_status::Moment;
use crate::fleet::{Action, Event, Fleet, Note, Passed};
use crate::server::{Call, Reply, Server};
use crate::status_file;
use crate::watching::Found;
use crate::watching::notices::Notices;

/// How often the pid file is looked at and the status saved, and the longest time between two events for the fleet.
const SECOND: Duration = Duration::from_secs(1);

/// Where events come from.
pub(crate) struct Sources {
    /// The process's signals.
    pub(crate) signals: Signals,
    /// The agents.
    pub(crate) heard: mpsc::Receiver<(TargetName, Heard)>,
    /// The configuration.
    pub(crate) found: mpsc::Receiver<Found>,
    /// The socket.
    pub(crate) calls: mpsc::Receiver<Call>,
}

/// The master.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// The home tree.
    pub(crate) home: Home,
    /// What decides.
    pub(crate) fleet: Fleet,
    /// What makes agents.
    pub(crate) launcher: Launcher,
    /// The socket's side.
    pub(crate) server: Server,
    /// Our log.
    pub(crate) log: LogHandle,
    /// Our lock.
    pub(crate) pid_file: PidFile,
    /// Which file our socket is.
    pub(crate) socket: std::fs::Metadata,
    /// Notifications for the agents.
    pub(crate) notices: Notices,
    /// What runs.
    pub(crate) state: LoopState,
}

/// What the loop holds while it runs.
#[derive(Debug)]
pub(crate) struct LoopState {
    started: (Instant, Timestamp),
    agents: HashMap<TargetName, Agent>,
    /// Agents to be started: one between two events, so that hundreds do not hold up the loop.
    to_spawn: VecDeque<TargetName>,
    askers: HashMap<Asker, Reply>,
    chances: RandomState,
    saved: Option<Status>,
    saving: Option<JoinHandle<()>>,
    /// Whether every config was looked at: before that, nobody is told what there is.
    knows_targets: bool,
    /// Which file each agent's log was, as far as the agent knows; none where it cannot be seen.
    logs: HashMap<TargetName, Option<(u64, u64)>>,
    next_second: Instant,
}

impl LoopState {
    /// Nothing runs yet; time counts from now on.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            started: (now, Timestamp::now()),
            agents: HashMap::new(),
            to_spawn: VecDeque::new(),
            askers: HashMap::new(),
            chances: RandomState::new(),
            saved: None,
            saving: None,
            knows_targets: false,
            logs: HashMap::new(),
            next_second: now + SECOND,
        }
    }
}

/// What the loop woke up for.
enum Woken {
    Signal(i32),
    Heard(TargetName, Heard),
    Found(Found),
    Called(Call),
    SpawnDue(TargetName),
    TimePassed,
}

impl Daemon {
    /// Serves until told to stop and every agent is gone.
    pub(crate) async fn serve(mut self, mut sources: Sources) {
        while !self.fleet.is_done() {
            let woken = self.wait(&mut sources).await;
            if let Some(event) = self.event(woken) {
                self.decide_and_perform(event);
            }
        }
        self.end().await;
    }

    async fn wait(&mut self, sources: &mut Sources) -> Woken {
        if let Some(target) = self.state.to_spawn.pop_front() {
            // Everything that is there already goes first, but nothing is waited for.
            return tokio::select! {
                biased;
                Some(signal) = sources.signals.next() => self.later(target, Woken::Signal(signal)),
                Some(call) = sources.calls.recv(), if self.state.knows_targets => self.later(target, Woken::Called(call)),
                () = std::future::ready(()) => Woken::SpawnDue(target),
            };
        }
        let due = self.fleet.deadline().map_or(self.state.next_second, |deadline| self.state.started.0 + deadline);
        tokio::select! {
            Some(signal) = sources.signals.next() => Woken::Signal(signal),
            Some((target, heard)) = sources.heard.recv() => Woken::Heard(target, heard),
            Some(found) = sources.found.recv() => Woken::Found(found),
            Some(call) = sources.calls.recv(), if self.state.knows_targets => Woken::Called(call),
            () = tokio::time::sleep_until(due.min(self.state.next_second)) => Woken::TimePassed,
        }
    }

    /// Puts a start off for something more urgent.
    fn later(&mut self, target: TargetName, woken: Woken) -> Woken {
        self.state.to_spawn.push_front(target);
        woken
    }

    /// What the fleet has to decide about, if anything.
    fn event(&mut self, woken: Woken) -> Option<Event> {
        match woken {
            Woken::Signal(signal) => self.signal_came(signal),
            Woken::Heard(target, Heard::Said(told)) => {
                if let AgentMessage::Report(report) = &*told {
                    self.notices.follow(&target, &report.watch);
                }
                Some(Event::Said(target, told))
            }
            Woken::Heard(target, Heard::Exited(exit, last_words)) => {
                self.state.agents.remove(&target);
                self.notices.remove(&target);
                Some(Event::Exited(target, exit, last_words))
            }
            Woken::Found(Found::Target(target, path, seen)) => Some(Event::ConfigSeen(target, path, seen)),
            Woken::Found(Found::Master { verbose, max, keep }) => {
                self.log.set_verbose(verbose);
                self.log.set_limits(max, keep);
                None
            }
            Woken::Found(Found::All) => {
                self.state.knows_targets = true;
                None
            }
            Woken::Called(Call::Left(asker)) => {
                self.state.askers.remove(&asker);
                Some(Event::AskerLeft(asker))
            }
            Woken::Called(Call::Asked(asker, request, reply)) => self.asked(asker, request, reply),
            Woken::SpawnDue(target) => Some(self.spawn(target)),
            Woken::TimePassed => self.time_passed(),
        }
    }

    fn signal_came(&mut self, signal: i32) -> Option<Event> {
        match Signal::from_named_raw(signal) {
            Some(Signal::USR1) => Some(Event::SignalCame(Passed::Sync)),
            Some(Signal::HUP) => {
                self.log.roll();
                Some(Event::SignalCame(Passed::RollLog))
            }
            _ if self.fleet.is_stopping() => {
                tracing::info!("told to stop again: stopping at once");
                Some(Event::StopAtOnceAsked)
            }
            _ => {
                tracing::info!("stopping: told so by a signal");
                Some(Event::StopAsked)
            }
        }
    }

    fn asked(&mut self, asker: Asker, request: MasterRequest, reply: Reply) -> Option<Event> {
        match request {
            MasterRequest::Status => {
                reply.send(Answer::Status(self.status(true)));
                None
            }
            MasterRequest::Sync { targets, wait, allow_delete } => {
                self.state.askers.insert(asker, reply);
                Some(Event::SyncAsked { asker, targets, wait, allow_delete })
            }
            MasterRequest::Stop => {
                tracing::info!("stopping: asked to over the socket");
                reply.send(Answer::Accepted { pid: std::process::id() });
                // It stays open until this process ends, which is how the other end learns that it did.
                self.state.askers.insert(asker, reply);
                Some(Event::StopAsked)
            }
        }
    }

    fn spawn(&mut self, target: TargetName) -> Event {
        if self.fleet.is_stopping() {
            return Event::SpawnFailed(target, "the master is stopping".to_owned());
        }
        match self.launcher.launch(&target) {
            Ok(agent) => {
                let pid = agent.pid();
                self.notices.add(&target, agent.mailbox().clone());
                self.state.agents.insert(target.clone(), agent);
                Event::Spawned(target, pid)
            }
            Err(why) => Event::SpawnFailed(target, why),
        }
    }

    fn time_passed(&mut self) -> Option<Event> {
        if Instant::now() >= self.state.next_second {
            self.state.next_second = Instant::now() + SECOND;
            self.save();
            self.keep_logs();
            self.notices.look();
            match self.pid_file.look() {
                Presence::Removed if !self.fleet.is_stopping() => {
                    tracing::info!("stopping: the pid file was removed");
                    return Some(Event::StopAsked);
                }
                Presence::Unclear { error, is_news: true } => {
                    tracing::warn!(%error, "cannot look at the pid file, which means nothing; looking again");
                }
                Presence::InPlace | Presence::Removed | Presence::Unclear { .. } => {}
            }
        }
        Some(Event::Ticked)
    }

    /// Has logs written anew that somebody moved, removed or replaced. The master looks for all of them, so that an agent with nothing to do need not
    /// wake.
    fn keep_logs(&mut self) {
        self.log.keep_in_place();
        for (target, agent) in &self.state.agents {
            let place = std::fs::symlink_metadata(self.home.agent_log(target));
            let place = place.ok().map(|place| (place.dev(), place.ino()));
            if self.state.logs.get(target) != Some(&place) && agent.tell(Order::KeepLog) {
                self.state.logs.insert(target.clone(), place);
            }
        }
    }

    fn decide_and_perform(&mut self, event: Event) {
        for action in self.fleet.step(event, self.now()) {
            match action {
                Action::Spawn(target) => self.state.to_spawn.push_back(target),
                Action::Terminate(target) => self.with(&target, |agent| agent.signal(Signal::TERM)),
                Action::KillGroup(target) => {
                    tracing::warn!(%target, "killing the agent and its process group");
                    self.with(&target, Agent::kill_group);
                }
                Action::Pass(target, Passed::Sync) => self.with(&target, |agent| agent.signal(Signal::USR1)),
                Action::Pass(target, Passed::RollLog) => self.with(&target, |agent| agent.signal(Signal::HUP)),
                Action::Tell(target, order) => self.with(&target, |agent| {
                    tracing::debug!(%target, ?order, "telling the agent");
                    if !agent.tell(order) {
                        tracing::warn!(%target, "the agent does not read its orders; one more is dropped");
                    }
                }),
                Action::Accept(asker) => self.reply(asker, Answer::Accepted { pid: std::process::id() }),
                Action::Answer(asker, answer) => self.reply(asker, answer),
                Action::Dismiss(asker) => drop(self.state.askers.remove(&asker)),
                Action::Note(target, note) => note_down(&target, &note),
            }
        }
    }

    fn with(&self, target: &TargetName, act: impl FnOnce(&Agent)) {
        if let Some(agent) = self.state.agents.get(target) {
            act(agent);
        }
    }

    fn reply(&self, asker: Asker, answer: Answer) {
        if let Some(reply) = self.state.askers.get(&asker) {
            reply.send(answer);
        }
    }

    fn now(&self) -> Moment {
        let elapsed = self.state.started.0.elapsed();
        // A random hash of the time: no good for secrets, but all that jitter needs.
        let bits = self.state.chances.hash_one(elapsed) >> 11;
        Moment { elapsed, wall: Timestamp::now(), chance: bits as f64 / (1u64 << 53) as f64 }
    }

    fn status(&self, running: bool) -> Status {
        let supervisor = running.then(|| SupervisorStatus {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.state.started.1,
            last_error: self.trouble(),
        });
        Status { home: self.home.root().to_owned(), supervisor, targets: self.fleet.status() }
    }

    /// What is wrong with the master itself: with its log, with notifications, or both in one.
    fn trouble(&self) -> Option<LastError> {
        let log = self.log.trouble();
        let log = log.map(|Trouble { since, text }| LastError { at: since, package: None, text, retry_at: None });
        match (log, self.notices.trouble()) {
            (Some(log), Some(notices)) => Some(LastError { text: format!("{}; {}", log.text, notices.text), ..log }),
            (log, notices) => log.or(notices),
        }
    }

    /// Saves the status where it changed; beside the loop, since the disk may be slow, and one at a time.
    fn save(&mut self) {
        if self.state.saving.as_ref().is_some_and(|saving| !saving.is_finished()) {
            return;
        }
        // The saved state is for readers that find no master, so it names none.
        let status = self.status(false);
        if self.state.saved.as_ref() == Some(&status) {
            return;
        }
        let path = self.home.status_snapshot();
        self.state.saved = Some(status.clone());
        self.state.saving = Some(tokio::task::spawn_blocking(move || save(&path, &status)));
    }

    /// Leaves the house clean: state saved, socket and pid file gone, every answer out.
    async fn end(mut self) {
        if let Some(saving) = self.state.saving.take() {
            // One that hangs is left behind with its disk.
            let _ = tokio::time::timeout(SECOND, saving).await;
        }
        self.save();
        if let Some(saving) = self.state.saving.take() {
            let _ = tokio::time::timeout(SECOND, saving).await;
        }
        if let Err(error) = blat_config::socket::remove(&self.home, &self.socket) {
            tracing::debug!(%error, "cannot remove the socket");
        }
        self.server.flushed().await;
        tracing::info!("stopped");
    }
}

fn save(path: &Path, status: &Status) {
    if let Err(error) = status_file::save(path, status) {
        tracing::warn!(path = %path.display(), %error, "cannot save the status; trying again at the next change");
    }
}

fn note_down(target: &TargetName, note: &Note) {
    match note {
        Note::Info(text) => tracing::info!(%target, "{text}"),
        Note::Trouble(trouble) => match trouble.retry_at {
            Some(retry_at) => tracing::warn!(%target, %retry_at, "{}", trouble.text),
            None => tracing::warn!(%target, "{}", trouble.text),
        },
    }
}
