//! The agent as a daemon: one loop that waits for an event, lets the session decide, and performs.

mod master;
pub(crate) mod tags;
pub(crate) mod watcher;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use blat_config::notifications::Notifications;
use blat_config::pid_file::{PidFile, PidFileError, Presence};
use blat_config::{Home, Settings};
use blat_domain::archive::record::Owner;
use blat_domain::package::name::{PackageId, TargetName};
use blat_domain::policy::retry::Backoff;
use blat_domain::protocol::exit_code::BUSY;
use blat_domain::protocol::messages::{AgentMessage, AgentReport, Order};
use blat_domain::protocol::status::{LastError, Queue, SyncReport};
use blat_logging::{Log, LogHandle, Trouble};
use futures_util::StreamExt;
use jiff::{SignedDuration, Timestamp};
use rustix::process::Signal;
use signal_hook_tokio::Signals;
use tokio::sync::mpsc;
use tokio::time::Instant;

use tags::Tags;
use watcher::Origin;

use self::master::{Master, MasterInput};
use crate::FatalError;
use crate::flow::idle_timer;
use crate::model::orders::{Orders, Pause};
use crate::session::{Action, Event, Failure, Moment, Pace, Session};
use crate::sync::context::SyncContext;
use crate::sync::outcome::Dropped;
use crate::sync::{Synced, problem};

/// At how many of the moments of [`moments`] the pid file and the clock are looked at.
const TICK: u32 = 1;
/// How often the same is done, and how often progress is told, while something is under way.
const BUSY_TICK: Duration = Duration::from_millis(200);
/// The longest silence towards the master.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Clocks that differ by more than this were set apart, not drifted.
const CLOCK_WAS_SET: SignedDuration = SignedDuration::from_secs(2);
/// What takes longer in the tag directory is reported.
const HANGING: Duration = Duration::from_secs(30);
/// How long a former agent of this target may take to leave.
const FORMER_LEAVES: Duration = Duration::from_secs(10);

/// Takes the target's lock: one agent per target.
pub(crate) fn lock(home: &Home, target: &TargetName) -> Result<PidFile, FatalError> {
    PidFile::acquire(&home.agent_pid(target)).map_err(|error| match error {
        PidFileError::Busy { .. } => FatalError(BUSY, anyhow!(error).context(format!("another agent serves {target}"))),
        PidFileError::Io { .. } => FatalError::from(anyhow!(error)),
    })
}

/// As [`lock`], giving an agent whose master was just killed time to notice and leave.
async fn lock_in_time(home: &Home, target: &TargetName) -> Result<PidFile, FatalError> {
    let deadline = Instant::now() + FORMER_LEAVES;
    loop {
        match lock(home, target) {
            Err(FatalError(BUSY, _)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await
            }
            locked => return locked,
        }
    }
}

/// Serves the target until told to stop.
pub(crate) async fn run(home: Home, settings: Settings, owner: Owner, supervised: bool) -> Result<(), FatalError> {
    // Before anything else: a signal that comes early must find its handler.
    let signals = [Signal::USR1, Signal::HUP, Signal::TERM, Signal::INT].map(Signal::as_raw);
    let signals = Signals::new(signals).context("cannot handle signals")?;
    let pid_file = lock_in_time(&home, &settings.name).await?;
    if !supervised {
        crate::refuse_rivals(&home, &settings)?;
    }
    let limits = &settings.log;
    let (log, _flushed_when_dropped) =
        Log::open(&home.agent_log(&settings.name), limits.max, limits.keep, settings.verbose)
            .context("cannot open the log")?;
    tracing::info!(target_name = %settings.name, pid = std::process::id(), version = env!("CARGO_PKG_VERSION"), "agent started");

    let master = Master::new(supervised).context("cannot start a thread for the line to the master")?;
    let origin = master.origin();
    let tags =
        tag_directory(&home, &settings, origin.clone()).context("cannot start a thread for the tag directory")?;
    let session = Session::new(pace(&settings));
    let (finished, results) = mpsc::channel(4);
    let daemon = Daemon {
        context: SyncContext::new(&home, settings, owner),
        home,
        tags,
        session,
        started: Instant::now(),
        started_at: Timestamp::now(),
        ticked: Instant::now(),
        finished,
        pid_file,
        log,
        master,
        origin,
        coming: None,
    };
    daemon.serve(signals, results).await;
    tracing::info!("agent stopped");
    Ok(())
}

fn pace(settings: &Settings) -> Pace {
    Pace { sync: settings.sync, tag_poll: settings.tag_poll }
}

fn tag_directory(home: &Home, settings: &Settings, origin: Origin) -> std::io::Result<Tags> {
    Tags::new(settings.tags.clone(), home.target_state_dir(&settings.name).join(tags::FILE), origin)
}

struct Daemon {
    home: Home,
    context: SyncContext,
    tags: Tags,
    session: Session,
    started: Instant,
    /// The same by the wall clock.
    started_at: Timestamp,
    /// The last [`TICK`] or [`BUSY_TICK`].
    ticked: Instant,
    finished: mpsc::Sender<Event>,
    pid_file: PidFile,
    log: LogHandle,
    master: Master,
    /// Where notifications of the tag directory come from.
    origin: Origin,
    /// Settings that were accepted, and come into force once the batch in hand is done.
    coming: Option<(Settings, Orders)>,
}

/// What the loop woke up for.
enum Woken {
    By(Event),
    ByOrder(Order),
    /// The master gives its inotify instance.
    ByInstance(Arc<Notifications>),
    /// The config on disk is another than the one in force.
    OtherConfig,
    /// No batch is under way, so that the coming settings can come into force.
    Pause(Pause),
    RollLog,
    Stop(&'static str),
}

impl Daemon {
    async fn serve(mut self, mut signals: Signals, mut results: mpsc::Receiver<Event>) {
        let mut woken = Woken::By(Event::Ticked);
        loop {
            let event = match woken {
                Woken::By(Event::SyncSuperseded) => {
                    // The next one begins at once, and not by the former settings again.
                    let noticed = self.context.orders.noticed();
                    if let Some(reloaded) = noticed.and_then(|settings| self.accept(settings)) {
                        self.decide_and_perform(reloaded).await;
                    }
                    Some(Event::SyncSuperseded)
                }
                Woken::By(event) => Some(event),
                Woken::ByOrder(Order::Sync { ticket, allow_delete }) => {
                    // What status shows at this moment, not what the sync that runs may come to hold back.
                    let confirmed = allow_delete.then(|| self.context.lasting.held_back());
                    Some(Event::SyncAsked { ticket: Some(ticket), confirmed })
                }
                Woken::ByOrder(Order::Reload) => self.reload(),
                Woken::OtherConfig => self.context.orders.noticed().and_then(|settings| self.accept(settings)),
                Woken::Pause(pause) => self.change_settings(pause),
                Woken::RollLog | Woken::ByOrder(Order::RollLog) => {
                    self.log.roll();
                    None
                }
                Woken::ByOrder(Order::KeepLog) => {
                    self.log.keep_in_place();
                    None
                }
                Woken::ByOrder(Order::Noticed { watch, news }) => {
                    self.tags.noticed(watch, news);
                    None
                }
                Woken::ByInstance(instance) => {
                    self.origin = Origin::Master(Some(instance.clone()));
                    self.tags.set_instance(instance);
                    None
                }
                Woken::Stop(why) => {
                    tracing::info!(why, "stopping; what was not published yet is sent again next time");
                    self.tags.close().await;
                    return;
                }
            };
            if let Some(event) = event {
                self.decide_and_perform(event).await;
            }
            self.master.report(self.report());
            woken = self.wait(&mut signals, &mut results).await;
        }
    }

    async fn wait(&mut self, signals: &mut Signals, results: &mut mpsc::Receiver<Event>) -> Woken {
        loop {
            let is_working = self.session.state().is_working();
            let tick = if is_working { self.ticked + BUSY_TICK } else { idle_timer::after(self.ticked, TICK) };
            let deadline = Instant::now().checked_add(self.session.deadline().saturating_sub(self.now()));
            let due = deadline.map_or(tick, |deadline| deadline.min(tick));
            tokio::select! {
                // Stopping first, then what workers finished, then the clock: the rest only brings more to do.
                biased;
                signal = signals.next() => return signal.map_or(Woken::Stop("signals ended"), woken_by_signal),
                input = self.master.input() => return match input {
                    Some(MasterInput::Order(order)) => Woken::ByOrder(order),
                    Some(MasterInput::Instance(instance)) => Woken::ByInstance(instance),
                    None => Woken::Stop("the master is gone"),
                },
                pause = self.context.orders.pause(), if self.coming.is_some() => return Woken::Pause(pause),
                Some(event) = results.recv() => return Woken::By(event),
                event = self.tags.next() => return Woken::By(event),
                () = self.context.orders.notice() => return Woken::OtherConfig,
                () = tokio::time::sleep_until(due) => {
                    if Instant::now() >= tick {
                        self.ticked = Instant::now();
                        self.follow_clock();
                        // Else the master looks whether it is in its place.
                        if self.log.trouble().is_some() {
                            self.log.keep_in_place();
                        }
                        match self.pid_file.look() {
                            Presence::Removed => return Woken::Stop("the pid file was removed"),
                            Presence::Unclear { error, is_news: true } => tracing::warn!(
                                %error,
                                "cannot look at the pid file, which means nothing; looking again"
                            ),
                            Presence::InPlace | Presence::Unclear { .. } => {}
                        }
                        self.master.report(self.report());
                        if let Some(event) = self.hanging_tags() {
                            return Woken::By(event);
                        }
                    }
                    if self.session.deadline() <= self.now() {
                        return Woken::By(Event::Ticked);
                    }
                }
            }
        }
    }

    async fn decide_and_perform(&mut self, event: Event) {
        for action in self.session.step(event, self.now(), chance()) {
            match action {
                Action::LookAtTags(look) => self.tags.look(look),
                Action::RemoveTags(removals) => self.tags.remove(removals),
                Action::Sync { confirmed } => {
                    let context = self.context.clone();
                    let syncing = async move {
                        match context.orders.unless_cut(context.sync(confirmed)).await {
                            Some(Synced::Ended(report, problem)) => Event::SyncEnded(report, problem),
                            Some(Synced::Superseded) | None => Event::SyncSuperseded,
                        }
                    };
                    self.work(syncing, sync_broke_off);
                }
                Action::Send(packages) => {
                    let (context, dropped) = (self.context.clone(), self.dropped(&packages));
                    let sending = async move {
                        let sending = context.send_tagged(packages, &dropped);
                        Event::TagsSent(context.orders.unless_cut(sending).await.unwrap_or_default())
                    };
                    // Tags without a result are tried again, later and later.
                    self.work(sending, || Event::TagsSent(Vec::new()));
                }
                Action::Answer(tickets, report, failure) => {
                    self.log_sync(&report, failure.as_ref());
                    let error = failure.map(|failure| self.last_error(&failure));
                    // The state goes first: it says in one how the sync went and what went wrong, while this event is about the sync alone.
                    self.master.report_surely(self.report()).await;
                    self.master.tell(AgentMessage::SyncFinished { tickets, report: *report, error }).await;
                }
            }
        }
    }

    /// Runs work beside the loop; its last word is an event. `broken` is that of work that broke off in a panic.
    fn work(&self, work: impl Future<Output = Event> + Send + 'static, broken: fn() -> Event) {
        let (finished, working) = (self.finished.clone(), tokio::spawn(work));
        tokio::spawn(async move {
            let event = working.await.unwrap_or_else(|error| {
                tracing::error!(%error, "work broke off; it is tried again; report this as a bug");
                broken()
            });
            // The loop is gone only when the whole process is about to be.
            let _ = finished.send(event).await;
        });
    }

    /// A report that the tag directory does not answer, once it is due and until it does.
    fn hanging_tags(&self) -> Option<Event> {
        let since = self.now().checked_sub(self.tags.busy_for().checked_sub(HANGING)?)?;
        Some(Event::TagsHang { since, retry_at: self.now() + HANGING })
    }

    /// When the tags were dropped that ask for these packages.
    fn dropped(&self, packages: &BTreeSet<PackageId>) -> Dropped {
        let since = |package: &PackageId| {
            let ago = self.session.asked_for_since(package, self.now())?;
            let dropped = Timestamp::now().checked_sub(SignedDuration::try_from(ago).ok()?).ok()?;
            Some((package.clone(), dropped))
        };
        packages.iter().filter_map(since).collect()
    }

    /// Reads the config again. What is wrong with it leaves everything as it is: the master shows the complaint.
    fn reload(&mut self) -> Option<Event> {
        match blat_config::load_target(&self.home, &self.context.settings.name) {
            Ok(settings) => self.accept(settings),
            Err(complaints) => {
                let verdict = complaints.verdict();
                tracing::warn!("the config changed and {verdict}, so the former settings stay in force: {complaints}");
                None
            }
        }
    }

    /// Lets other settings come into force, now or when the batch in hand is done.
    fn accept(&mut self, settings: Settings) -> Option<Event> {
        if settings == *self.context.settings && self.coming.is_none() {
            return None;
        }
        if settings.kind() != self.context.settings.kind() {
            tracing::info!("the config asks for another type of target, which takes another agent");
            return None;
        }
        self.coming = Some((settings, self.context.orders.announce()));
        let pause = self.context.orders.pause_now();
        if pause.is_none() {
            tracing::info!("the config changed; it comes into force when the batch in hand is done");
        }
        pause.and_then(|pause| self.change_settings(pause))
    }

    /// Lets the coming settings come into force, while no batch is under way.
    fn change_settings(&mut self, pause: Pause) -> Option<Event> {
        let (settings, orders) = self.coming.take()?;
        self.log.set_verbose(settings.verbose);
        self.log.set_limits(settings.log.max, settings.log.keep);
        if settings.tags != self.tags.path() {
            match tag_directory(&self.home, &settings, self.origin.clone()) {
                Ok(tags) => self.tags = tags,
                Err(error) => tracing::error!(
                    %error,
                    "cannot start a thread for the new tag directory; the former one is looked at until the agent restarts"
                ),
            }
        }
        let (pace, is_elsewhere) = (pace(&settings), !self.context.serves_tags_as(&settings));
        let present = self.context.with(&self.home, settings, orders);
        let former = std::mem::replace(&mut self.context, present);
        if is_elsewhere {
            former.orders.cut();
            former.progress.clear();
        }
        tracing::info!("the config changed and is in force");
        drop(pause);
        Some(Event::Reloaded { pace, is_elsewhere })
    }

    fn log_sync(&self, report: &SyncReport, failure: Option<&Failure>) {
        let summary = crate::ui::bars::summary(report);
        match failure {
            None => tracing::info!("{summary}"),
            Some(failure) => {
                let package = failure.package.as_ref().map(ToString::to_string).unwrap_or_default();
                let wait = failure.retry_at.saturating_sub(self.now());
                let retry_s = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                let target = &self.context.settings.name;
                tracing::warn!(target_name = %target, package, retry_in_s = retry_s, "{summary}: {}", failure.text);
            }
        }
    }

    fn report(&self) -> AgentReport {
        let progress = self.context.progress.snapshot();
        AgentReport {
            state: self.session.state(),
            last_sync: self.session.last_sync().cloned(),
            queue: Queue { tags: self.session.tags_waiting(), packages: progress.packages, bytes: progress.bytes },
            current: progress.current,
            last_error: self.standing_error(),
            far_end: self.context.target.far_end(),
            waits_for: self.context.logins.waits_for(),
            leftovers: self.context.target.leftovers(),
            watch: self.tags.watch(),
        }
    }

    /// What is shown as wrong: the session's failure, the log's, or both in one.
    fn standing_error(&self) -> Option<LastError> {
        let failure = self.session.failure().map(|failure| self.last_error(failure));
        match (failure, self.log.trouble()) {
            (Some(failure), Some(trouble)) => {
                Some(LastError { text: format!("{}; {}", failure.text, trouble.text), ..failure })
            }
            (None, Some(Trouble { since, text })) => Some(LastError { at: since, package: None, text, retry_at: None }),
            (failure, None) => failure,
        }
    }

    fn last_error(&self, failure: &Failure) -> LastError {
        LastError {
            at: self.wall(failure.at),
            package: failure.package.clone(),
            text: failure.text.clone(),
            retry_at: Some(self.wall(failure.retry_at)),
        }
    }

    fn now(&self) -> Moment {
        self.started.elapsed()
    }

    /// A moment by the wall clock.
    fn wall(&self, moment: Moment) -> Timestamp {
        let since = SignedDuration::try_from(moment).unwrap_or(SignedDuration::MAX);
        self.started_at.checked_add(since).unwrap_or(Timestamp::MAX)
    }

    /// Follows a wall clock that was set. Between that, the same moment is always told as the same time, however the two clocks tremble.
    fn follow_clock(&mut self) {
        let wall = Timestamp::now();
        let expected = self.wall(self.now());
        if wall.duration_since(expected).abs() > CLOCK_WAS_SET {
            let since = SignedDuration::try_from(self.now()).unwrap_or(SignedDuration::ZERO);
            self.started_at = wall.checked_sub(since).unwrap_or(wall);
        }
    }
}

fn woken_by_signal(signal: i32) -> Woken {
    match Signal::from_named_raw(signal) {
        Some(Signal::USR1) => Woken::By(Event::SyncAsked { ticket: None, confirmed: None }),
        Some(Signal::HUP) => Woken::RollLog,
        _ => Woken::Stop("a signal to stop"),
    }
}

/// How a sync ended that broke off in a panic.
fn sync_broke_off() -> Event {
    let now = Timestamp::now();
    let text = "the sync broke off within the agent; the log says more; report this as a bug".to_owned();
    Event::SyncEnded(Box::new(SyncReport::begun(now)), Some(problem(None, text, Backoff::PACKAGE)))
}

/// A number in 0..1 that differs from agent to agent and from time to time: all that jitter needs.
fn chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let bits = RandomState::new().hash_one(std::process::id()) >> 11;
    bits as f64 / (1u64 << 53) as f64
}
