//! How many sessions a host allows on one connection, and what is done where that is few.
//!
//! Usually one session is the heartbeat's, and commands have others beside it. Where the host refuses one and nothing else of ours is open, the
//! connection is made anew without a heartbeat, and commands take turns: that serves a receiver, whose conversation is one session with
//! signs of life of its own.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use blat_config::SshSettings;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::known_hosts::Basis;
use super::{Remote, distrusted, place};
use crate::flow::idle_timer;
use crate::model::error::TargetError;
use crate::transport::peer_detection::Listener;

/// The sessions that scripts use at most: heartbeat, two streams of packages, and whatever a tag or a listing asks meanwhile.
const OF_SCRIPTS: u32 = 4;
/// A host counts a session until it has seen its end, which may come after ours: for so long a refusal may mean nothing else.
const SETTLE: Duration = Duration::from_secs(3);
/// How long a command waits for another one to end.
const TURN: Duration = Duration::from_secs(30);
/// It is looked whether a connection is still trusted at every so many of the moments of [`moments`]: every 8 s.
const BEAT: u32 = 2;
/// How often a refused session is asked for again.
const AGAIN: Duration = Duration::from_millis(100);

/// The sessions of one target's connections.
#[derive(Debug)]
pub(super) struct Sessions {
    /// Commands that are open.
    open: Arc<AtomicUsize>,
    /// Taken by a command while they take turns.
    turn: Arc<Semaphore>,
    /// Whether the next connection is to do without a heartbeat.
    next_is_single: AtomicBool,
    /// Whether the present one does.
    is_single: AtomicBool,
}

/// A command's session, until this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    open: Arc<AtomicUsize>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A command's search for a session.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// When the present connection refused it first.
    refused: Option<Instant>,
    /// Whether a connection without a heartbeat was made for it.
    has_moved: bool,
}

/// What to do about a session that was refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AfterRefusal {
    /// Ask again.
    Again,
    /// Connect anew without a heartbeat, then ask again.
    Single,
    /// Report it.
    Hopeless,
}

/// The answer to a request for a session.
pub(super) enum Opening {
    /// It runs the command.
    Open(Remote),
    /// The host refused it, and why, fit for printing.
    Refused(Seat, String),
    /// The host does not answer, and how that shows, fit for printing.
    Unanswered(String),
}

/// The connection that stands, if any.
#[derive(Debug)]
pub(super) struct Standing<L> {
    present: Mutex<Option<Present<L>>>,
    made: AtomicU64,
}

/// A connection with its number, and what the hosts that it goes to were trusted by.
#[derive(Debug)]
struct Present<L> {
    number: u64,
    live: Arc<L>,
    basis: Arc<Basis>,
}

impl<L> Default for Standing<L> {
    fn default() -> Self {
        Self { present: Mutex::default(), made: AtomicU64::new(0) }
    }
}

/// A connection that was made.
pub(super) trait Live: Send + Sync + 'static {
    /// Whether it stands, as far as we know.
    fn stands(&self) -> bool;

    /// Who answers at its far end.
    fn listener(&self) -> Listener;

    /// Ends it at once, with all that runs on it. It stands no more.
    fn end(&self);
}

/// One target's connection, whoever speaks ssh on it.
pub(super) trait SshLink {
    /// A connection that stands.
    type Live: Live;

    /// Where it goes.
    fn settings(&self) -> &SshSettings;

    /// How many sessions it has.
    fn sessions(&self) -> &Sessions;

    /// The connection itself.
    fn standing(&self) -> &Standing<Self::Live>;

    /// Makes a new one.
    async fn connect(&self) -> Result<Self::Live, TargetError>;

    /// Asks for a session that runs `command`.
    async fn open(&self, live: Arc<Self::Live>, command: &str, seat: Seat) -> Result<Opening, TargetError>;
}

/// Connects unless connected, and says which connection it is and who answers.
///
/// # Errors
/// There is no connection.
pub(super) async fn connected(link: &impl SshLink) -> Result<(u64, Listener), TargetError> {
    live(link).await.map(|(number, live)| (number, live.listener()))
}

/// Connects unless connected.
async fn live<C: SshLink>(link: &C) -> Result<(u64, Arc<C::Live>), TargetError> {
    let Standing { present, made } = link.standing();
    let mut present = present.lock().await;
    if let Some(Present { number, live, basis }) = present.as_ref()
        && is_trusted(live.as_ref(), basis, link.settings())
    {
        return Ok((*number, live.clone()));
    }
    *present = None;
    let settings = link.settings();
    settings.check_files().map_err(|why| distrusted(settings, &why))?;
    // The system's client skips revocations that it does not understand: a file with any is for a person.
    let basis = Arc::new(Basis::read(settings)?);
    let live = Arc::new(link.connect().await?);
    let number = made.fetch_add(1, Ordering::Relaxed) + 1;
    tokio::spawn(keep_watch(Arc::downgrade(&live), basis.clone(), settings.clone()));
    *present = Some(Present { number, live: live.clone(), basis });
    Ok((number, live))
}

/// Whether a connection stands, and what it stands on as well; where that does not hold any more, it is ended here.
fn is_trusted(live: &impl Live, basis: &Basis, settings: &SshSettings) -> bool {
    if !live.stands() {
        return false;
    }
    if basis.holds() {
        return true;
    }
    let (target, known_hosts) = (place(settings), settings.known_hosts.display());
    tracing::info!(%target, %known_hosts, "known_hosts does not trust this connection's hosts as before; it is ended, and the next login decides");
    live.end();
    false
}

/// Looks regularly whether a connection is still trusted, also while nobody uses it.
async fn keep_watch(live: Weak<impl Live>, basis: Arc<Basis>, settings: SshSettings) {
    loop {
        sleep_until(idle_timer::after(Instant::now(), BEAT)).await;
        match live.upgrade() {
            Some(live) if is_trusted(live.as_ref(), &basis, &settings) => {}
            Some(_) | None => return,
        }
    }
}

/// Leaves the connection of this number, unless that has been left; none stands for whichever there is.
async fn leave(link: &impl SshLink, number: Option<u64>) {
    let mut present = link.standing().present.lock().await;
    present.take_if(|present| number.is_none_or(|number| present.number == number));
}

/// Runs a command in a session, connecting first where there is no connection.
///
/// # Errors
/// There is no connection, or it broke, or the host has no session for us.
pub(super) async fn run(link: &impl SshLink, command: &str) -> Result<Remote, TargetError> {
    let mut search = Search::default();
    loop {
        let (number, live) = live(link).await?;
        let seat = link.sessions().enter(link.settings()).await?;
        let (seat, why) = match link.open(live, command, seat).await? {
            Opening::Open(remote) => return Ok(remote),
            Opening::Refused(seat, why) => (seat, why),
            Opening::Unanswered(how) => {
                // Signs of life do not tell of it, so nothing else would find out that the host has no session for us any more.
                leave(link, Some(number)).await;
                return Err(broken(link.settings(), &how));
            }
        };
        match link.sessions().refused(seat, &mut search).await {
            AfterRefusal::Again => {}
            AfterRefusal::Single => leave(link, Some(number)).await,
            AfterRefusal::Hopeless => return Err(too_few(link.settings(), &why)),
        }
    }
}

/// That this connection has room for more than one command at a time.
///
/// # Errors
/// It has not; the next one is to be tried anew.
pub(super) async fn check(link: &impl SshLink) -> Result<(), TargetError> {
    if !link.sessions().is_single() {
        return Ok(());
    }
    leave(link, None).await;
    Err(too_few(link.settings(), "it allows one"))
}

/// A connection that broke, and how, fit for printing.
pub(super) fn broken(ssh: &SshSettings, how: &str) -> TargetError {
    TargetError::Link(format!("the ssh link to {} broke: {how}", place(ssh)))
}

impl Default for Sessions {
    fn default() -> Self {
        let (next_is_single, is_single) = (AtomicBool::default(), AtomicBool::default());
        Self { open: Arc::default(), turn: Arc::new(Semaphore::new(1)), next_is_single, is_single }
    }
}

impl Sessions {
    /// Whether the connection that is made now is to do without a heartbeat; the one after it tries anew.
    pub(super) fn begin(&self) -> bool {
        let is_single = self.next_is_single.swap(false, Ordering::Relaxed);
        self.is_single.store(is_single, Ordering::Relaxed);
        is_single
    }

    /// Whether the present connection has room for one command at a time.
    pub(super) fn is_single(&self) -> bool {
        self.is_single.load(Ordering::Relaxed)
    }

    /// Whether commands are open beside one's own.
    pub(super) fn has_others(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 1
    }

    /// A seat for a command, once it is its turn.
    ///
    /// # Errors
    /// Another command does not end.
    pub(super) async fn enter(&self, ssh: &SshSettings) -> Result<Seat, TargetError> {
        let mut turn = None;
        if self.is_single() {
            let waited = timeout(TURN, self.turn.clone().acquire_owned()).await;
            turn = waited.ok().and_then(Result::ok);
            if turn.is_none() {
                return Err(too_few(ssh, "another command of ours runs on its only one"));
            }
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(Seat { open: self.open.clone(), _turn: turn })
    }

    /// What to do about a refusal of the session for this seat. Waits where that helps.
    pub(super) async fn refused(&self, seat: Seat, search: &mut Search) -> AfterRefusal {
        let others = self.has_others();
        drop(seat);
        let since = search.refused.get_or_insert_with(Instant::now);
        let is_young = since.elapsed() < if others { TURN } else { SETTLE };
        if is_young {
            sleep(AGAIN).await;
            return AfterRefusal::Again;
        }
        // Without this, a host that ends each connection without a heartbeat would be asked without end.
        if others || self.is_single() || search.has_moved {
            return AfterRefusal::Hopeless;
        }
        // The next connection may have to settle as well: the heartbeat's session has just ended there.
        *search = Search { refused: None, has_moved: true };
        self.next_is_single.store(true, Ordering::Relaxed);
        AfterRefusal::Single
    }
}

/// What a person must know where a host allows too few sessions. `why` is fit for printing.
pub(super) fn too_few(ssh: &SshSettings, why: &str) -> TargetError {
    TargetError::Operator(format!(
        "{} allows too few sessions on one connection: {why}; scripts need {OF_SCRIPTS} and a receiver needs one: set MaxSessions {OF_SCRIPTS} or \
         more in its sshd_config (10 is usual), or have blat-receiver serve (receiver: auto)",
        place(ssh)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> SshSettings {
        let (identity, known_hosts) = ("/k/id".into(), "/k/known".into());
        let target = "perth".parse().expect("a name");
        SshSettings {
            target,
            host: "h".into(),
            port: 22,
            user: "u".into(),
            jumps: Vec::new(),
            identity,
            known_hosts,
            home: "/".into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_asked_about_again_then_the_heartbeat_makes_room_and_the_next_connection_tries_anew() {
        let (sessions, ssh, since) = (Sessions::default(), settings(), Instant::now());
        let mut search = Search::default();
        assert!(!sessions.begin());
        loop {
            let seat = sessions.enter(&ssh).await.expect("a seat");
            match sessions.refused(seat, &mut search).await {
                AfterRefusal::Again => {}
                AfterRefusal::Single => break,
                AfterRefusal::Hopeless => panic!("nothing else is open"),
            }
        }
        assert!(since.elapsed() >= SETTLE && sessions.begin() && sessions.is_single());

        // Commands take turns then, and wait for a bounded time.
        let first = sessions.enter(&ssh).await.expect("a seat");
        let error = sessions.enter(&ssh).await.expect_err("the first still runs");
        assert!(error.to_string().contains("MaxSessions 4"), "{error}");
        drop(first);
        // That connection has its own time to settle, and is the last one.
        let moved = Instant::now();
        loop {
            let seat = sessions.enter(&ssh).await.expect("its turn");
            match sessions.refused(seat, &mut search).await {
                AfterRefusal::Again => {}
                AfterRefusal::Hopeless => break,
                AfterRefusal::Single => panic!("it is single"),
            }
        }
        assert!(moved.elapsed() >= SETTLE && !sessions.begin());
        let seat = sessions.enter(&ssh).await.expect("its turn");
        assert_eq!(sessions.refused(seat, &mut search).await, AfterRefusal::Hopeless);
    }

    #[tokio::test(start_paused = true)]
    async fn while_others_are_open_a_refusal_is_no_reason_to_give_up_the_heartbeat() {
        let (sessions, ssh, since) = (Sessions::default(), settings(), Instant::now());
        let mut search = Search::default();
        let _other = sessions.enter(&ssh).await.expect("a seat");
        loop {
            let seat = sessions.enter(&ssh).await.expect("a seat");
            match sessions.refused(seat, &mut search).await {
                AfterRefusal::Again => {}
                AfterRefusal::Hopeless => break,
                AfterRefusal::Single => panic!("the other one would end"),
            }
        }
        assert!(since.elapsed() >= TURN && !sessions.begin());
    }
}
