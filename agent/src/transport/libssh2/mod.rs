//! `transport: libssh2`: an ssh client of ours, for machines where no ssh client is to be had or may be run.
//!
//! One connection for everything, as with `openssh`. A process of its own has it ([`process`], [`entry`]), so that whatever a host makes of libssh2
//! ends no more than the connection. Commands reach it as [`messages`], and their streams are pipes, which bound what is buffered on the way.

pub(crate) mod connect;
mod conversation;
mod driver;
mod entry;
pub(crate) mod host_key;
mod messages;
mod process;
mod relay;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use blat_config::SshSettings;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

pub(crate) use self::entry::speak_instead;
use self::messages::{SshOrder, encoded};
pub(super) use self::process::shown_key;
use self::process::{Attendant, Request, Wish, login};
use super::sessions::{Live, Opening, Seat, Sessions, SshLink, Standing, broken};
use super::{Remote, place};
use crate::model::error::TargetError;
use crate::transport::login_limit::LoginLimit;
use crate::transport::peer_detection::Listener;

/// From the name to the first echo; each step of it has a shorter limit of its own, but for the search for the name.
const CONNECT: Duration = Duration::from_secs(90);
/// Opening a channel on a live connection.
const OPEN_CHANNEL: Duration = Duration::from_secs(30);

/// One target's connection.
#[derive(Debug)]
pub(crate) struct Libssh2Link {
    settings: SshSettings,
    logins: LoginLimit,
    standing: Standing<Libssh2Connection>,
    sessions: Sessions,
}

/// What libssh2 says of a session that the host refuses begins so.
const REFUSED: &str = "Channel open failure";

/// A connection. Dropping it ends its process.
#[derive(Debug)]
pub(super) struct Libssh2Connection {
    wishes: mpsc::UnboundedSender<Wish>,
    /// Whether it stands, as far as we know.
    stands: Arc<AtomicBool>,
    listener: Listener,
    /// OutcomeSink when it is to end, whatever runs on it.
    ending: Arc<Notify>,
    /// How many commands it was asked for.
    asked: AtomicU64,
}

impl Live for Libssh2Connection {
    fn stands(&self) -> bool {
        self.stands.load(Ordering::Acquire)
    }

    fn listener(&self) -> Listener {
        self.listener
    }

    fn end(&self) {
        self.stands.store(false, Ordering::Release);
        self.ending.notify_one();
    }
}

/// A command that is waited for. Dropping it tells the process that it is not any more.
struct Wanted {
    number: u64,
    connected: Arc<Libssh2Connection>,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        // A process that is gone runs nothing.
        let _ = self.connected.wishes.send(Wish::Forget(self.number));
    }
}

impl Libssh2Link {
    /// A link that connects when it is first used.
    pub(crate) fn new(settings: SshSettings, logins: LoginLimit) -> Self {
        Self { settings, logins, standing: Standing::default(), sessions: Sessions::default() }
    }
}

impl SshLink for Libssh2Link {
    type Live = Libssh2Connection;

    fn settings(&self) -> &SshSettings {
        &self.settings
    }

    fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    fn standing(&self) -> &Standing<Libssh2Connection> {
        &self.standing
    }

    async fn connect(&self) -> Result<Libssh2Connection, TargetError> {
        let place = place(&self.settings);
        let failed = |what: String| TargetError::Link(format!("cannot connect to {place}: {what}"));
        let slot = self.logins.slot().await.map_err(|error| failed(error.to_string()))?;
        let (process, listener) = timeout(CONNECT, login(&self.settings, self.sessions.begin()))
            .await
            .map_err(|_| failed(format!("no login within {} s", CONNECT.as_secs())))??;
        slot.succeeded();
        let (wishes, wished) = mpsc::unbounded_channel();
        let stands = Arc::new(AtomicBool::new(true));
        tracing::debug!(target = %place, "connected");
        let ending = Arc::new(Notify::new());
        tokio::spawn(Attendant::new(process, wished).run(stands.clone(), ending.clone(), place));
        Ok(Libssh2Connection { wishes, stands, listener, ending, asked: AtomicU64::new(0) })
    }

    async fn open(&self, connected: Arc<Libssh2Connection>, command: &str, seat: Seat) -> Result<Opening, TargetError> {
        let number = connected.asked.fetch_add(1, Ordering::Relaxed);
        let too_long = |why| TargetError::Refused(format!("cannot run a command at {}: {why}", place(&self.settings)));
        let text = encoded(&SshOrder::Run { number, command: command.to_owned() }).map_err(too_long)?;
        let no_pipe = |error: std::io::Error| TargetError::Link(format!("cannot make a pipe: {error}"));
        let (stdin, input) = pipe::pipe().map_err(no_pipe)?;
        let (output, stdout) = pipe::pipe().map_err(no_pipe)?;
        let (complaints, stderr) = pipe::pipe().map_err(no_pipe)?;
        let streams = vec![
            input.into_nonblocking_fd().map_err(no_pipe)?,
            output.into_nonblocking_fd().map_err(no_pipe)?,
            complaints.into_nonblocking_fd().map_err(no_pipe)?,
        ];
        let (opened, is_open) = oneshot::channel();
        let (ended, end) = oneshot::channel();
        let gone = || broken(&self.settings, "it ended");
        let request = Request { number, text, streams, opened, ended };
        connected.wishes.send(Wish::Run(request)).map_err(|_| gone())?;
        // The connection outlives its commands.
        let wanted = Wanted { number, connected };
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
            let (_wanted, _seat) = (wanted, seat);
            match end.await {
                Ok(Ok(exit)) => Ok(exit),
                Ok(Err(why)) => Err(broken(&settings, &why)),
                Err(_) => Err(broken(&settings, "it ended")),
            }
        };
        let (stdout, stderr) = (Box::pin(stdout), Box::pin(stderr));
        Ok(Opening::Open(Remote { stdin: Box::pin(stdin), stdout, stderr, exit: Box::pin(exit) }))
    }
}
