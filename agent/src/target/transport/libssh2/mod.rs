//! `transport: libssh2`: an ssh client inside the agent, for machines where no ssh client is to be had or may be run.
//!
//! One connection for everything, as with `openssh`. A thread of its own drives it, since libssh2 takes no two calls at
//! once: commands reach that thread as requests, and their streams are pipes, which bound what is buffered on the way.

pub(crate) mod connect;
mod conversation;
mod driver;
pub(crate) mod host_key;
mod relay;
mod unasked;

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use blat_config::SshSettings;
use tokio::net::unix::pipe;
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use self::conversation::{Conversation, Pipes};
use self::driver::Driver;
use self::unasked::Unasked;
use super::greeting::Listener;
use super::handshake::Handshakes;
use super::sessions::{Connection, Opening, Seat, Sessions, broken};
use super::{Exit, Remote, distrusted, place};
use crate::target::TargetError;

/// From the name to the first echo; each step of it has a shorter limit of its own, but for the search for the name.
const CONNECT: Duration = Duration::from_secs(90);
/// Opening a channel on a live connection.
const OPEN_CHANNEL: Duration = Duration::from_secs(30);

/// One target's connection.
#[derive(Debug)]
pub(crate) struct Link {
    settings: SshSettings,
    handshakes: Handshakes,
    state: Mutex<Option<Arc<Connected>>>,
    made: AtomicU64,
    sessions: Sessions,
    /// What its connections were sent that nobody asked for.
    unasked: Arc<AtomicU64>,
}

/// What libssh2 says of a session that the host refuses begins so.
const REFUSED: &str = "Channel open failure";

/// A connection. Dropping it ends its thread.
#[derive(Debug)]
pub(super) struct Connected {
    requests: mpsc::Sender<Conversation>,
    wake: UnixStream,
    /// Whether it stands, as far as we know, and new commands may go over it.
    takes_commands: Arc<AtomicBool>,
    generation: u64,
    listener: Listener,
}

impl Link {
    /// A link that connects when it is first used.
    pub(crate) fn new(settings: SshSettings, handshakes: Handshakes) -> Self {
        let (state, made, sessions) = (Mutex::new(None), AtomicU64::new(0), Sessions::default());
        Self { settings, handshakes, state, made, sessions, unasked: Arc::default() }
    }

    /// Connects unless connected, and says which connection it is and who answers.
    pub(super) async fn connected(&self) -> Result<(u64, Listener), TargetError> {
        self.connection().await.map(|connected| (connected.generation, connected.listener))
    }

    async fn connection(&self) -> Result<Arc<Connected>, TargetError> {
        let mut state = self.state.lock().await;
        if let Some(connected) = state.as_ref().filter(|connected| connected.takes_commands.load(Ordering::Acquire)) {
            return Ok(connected.clone());
        }
        *state = None;
        let connected = Arc::new(self.connect().await?);
        *state = Some(connected.clone());
        Ok(connected)
    }

    async fn connect(&self) -> Result<Connected, TargetError> {
        let place = place(&self.settings);
        let failed = |what: String| TargetError::Link(format!("cannot connect to {place}: {what}"));
        self.settings.check_files().map_err(|why| distrusted(&self.settings, &why))?;
        let slot = self.handshakes.slot().await.map_err(|error| failed(error.to_string()))?;
        let (settings, is_single) = (self.settings.clone(), self.sessions.begin());
        let login = tokio::task::spawn_blocking(move || connect::login(&settings, is_single));
        let line = match timeout(CONNECT, login).await {
            Ok(Ok(line)) => line?,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("no login within {} s", CONNECT.as_secs()))),
        };
        slot.succeeded();
        let listener = line.listener;

        let thread = |error: std::io::Error| failed(format!("cannot start its thread: {error}"));
        let (wake, woken) = UnixStream::pair().map_err(thread)?;
        wake.set_nonblocking(true).and_then(|()| woken.set_nonblocking(true)).map_err(thread)?;
        let (requests, requested) = mpsc::channel();
        let takes_commands = Arc::new(AtomicBool::new(true));
        let driver = Driver::new(
            line,
            requested,
            woken,
            takes_commands.clone(),
            Unasked::new(self.unasked.clone()),
            place.clone(),
        );
        std::thread::Builder::new().name("libssh2".into()).spawn(move || driver.run()).map_err(thread)?;
        let generation = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::debug!(target = %place, "connected");
        Ok(Connected { requests, wake, takes_commands, generation, listener })
    }
}

impl Connection for Link {
    type Live = Arc<Connected>;

    fn settings(&self) -> &SshSettings {
        &self.settings
    }

    fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    async fn live(&self) -> Result<(u64, Arc<Connected>), TargetError> {
        let connected = self.connection().await?;
        Ok((connected.generation, connected))
    }

    async fn open(&self, connected: Self::Live, command: &str, seat: Seat) -> Result<Opening, TargetError> {
        let no_pipe = |error: std::io::Error| TargetError::Link(format!("cannot make a pipe: {error}"));
        let (stdin, input) = pipe::pipe().map_err(no_pipe)?;
        let (output, stdout) = pipe::pipe().map_err(no_pipe)?;
        let (complaints, stderr) = pipe::pipe().map_err(no_pipe)?;
        let pipes = Pipes {
            stdin: input.into_nonblocking_fd().map_err(no_pipe)?,
            stdout: output.into_nonblocking_fd().map_err(no_pipe)?,
            stderr: complaints.into_nonblocking_fd().map_err(no_pipe)?,
        };
        let (opened, is_open) = oneshot::channel();
        let (ended, end) = oneshot::channel();
        let gone = || broken(&self.settings, "it ended");
        connected.requests.send(Conversation::new(command, pipes, opened, ended)).map_err(|_| gone())?;
        // A full socket wakes the thread as well as one more byte would.
        let _ = (&connected.wake).write(&[0]);
        match timeout(OPEN_CHANNEL, is_open).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(why))) if why.starts_with(REFUSED) => return Ok(Opening::Refused(seat, why)),
            Ok(Ok(Err(why))) => return Err(broken(&self.settings, &format!("cannot open a channel: {why}"))),
            Ok(Err(_)) => return Err(gone()),
            // libssh2 asks for no other channel before this one is there. The connection ends once the commands that still run on it have ended.
            Err(_) => return Ok(Opening::Unanswered("cannot open a channel: the far end does not answer".into())),
        }
        let settings = self.settings.clone();
        let exit = async move {
            // The connection outlives its commands.
            let (_connected, _seat) = (connected, seat);
            match end.await {
                Ok(Ok(exit)) => Ok(exit),
                Ok(Err(why)) => Err(broken(&settings, &why)),
                Err(_) => Err(broken(&settings, "it ended")),
            }
        };
        let (stdout, stderr) = (Box::pin(stdout), Box::pin(stderr));
        Ok(Opening::Open(Remote { stdin: Box::pin(stdin), stdout, stderr, exit: Box::pin(exit) }))
    }

    async fn leave(&self, number: Option<u64>) {
        let mut state = self.state.lock().await;
        if state.as_ref().is_some_and(|connected| number.is_none_or(|number| connected.generation == number)) {
            *state = None;
        }
    }
}
