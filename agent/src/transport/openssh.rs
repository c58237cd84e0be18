//! `transport: openssh`: the system's ssh client, one connection for everything, made again when it breaks.
//!
//! The client runs as our own child: it runs `cat` at the far end, whose echo is the heartbeat. Where the key can run nothing but a receiver,
//! that is in the place of `cat`. Where the host allows no second session, the client runs nothing itself ([`sessions`](super::sessions)). When this process dies in whatever way, the client is killed ([`tied`]): the end of its standard input would
//! end it too, but only at a far end that heeds it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use blat_config::{Home, SshSettings};
use blat_domain::util::text::printable;
use openssh::{Error as SshError, Session, Stdio as SshStdio};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep_until, timeout};

use super::known_hosts::KnownHost;
use super::login::{Cause, End, Exited, LoginOutput, in_vain, report, words_of_both};
use super::policy::Policy;
use super::sessions::{Live, Opening, Seat, Sessions, SshLink, Standing, broken};
use super::{Exit, Remote, jumps, peer_detection, place, scratch, tied};
use crate::flow::{STALL_TIMEOUT, idle_timer};
use crate::model::error::TargetError;
use crate::transport::bounded::{StderrExcerpt, read_line};
use crate::transport::login_limit::LoginLimit;
use crate::transport::peer_detection::Listener;

/// The name of the control socket in the link's directory.
const SOCKET: &str = "mux";
/// From starting the client to the first echo; the client itself gives up connecting after 10 s. Each host on the way may take as long again.
const CONNECT: Duration = Duration::from_secs(30);
/// The far end is asked for an echo at every so many of the moments of [`moments`]: every 8 s.
const BEAT: u32 = 2;
/// What the client says of a session that the host refuses.
const REFUSED: &str = "Session open refused";
/// How often it is looked whether the client has logged in that runs nothing.
const LOOK: Duration = Duration::from_millis(20);
/// Opening a channel on a live connection.
const OPEN_CHANNEL: Duration = Duration::from_secs(30);
/// For what a client that is to end says last, and for its end.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Most of what a login shell may print before our first echo, in bytes.
const MOST_NOISE: usize = 64 << 10;

/// One target's connection.
#[derive(Debug)]
pub(crate) struct OpensshLink {
    settings: SshSettings,
    directory: SocketDirectory,
    logins: LoginLimit,
    standing: Standing<OpensshConnection>,
    sessions: Sessions,
    /// Who answered last.
    listener: std::sync::Mutex<Listener>,
}

/// Where a link's control socket lies. Two links in one directory would end each other.
#[derive(Debug)]
pub(crate) enum SocketDirectory {
    /// That of whoever holds the target's lock: a former one's client is found there and ended.
    Served(PathBuf),
    /// One of its own, for somebody who only looks, beside whoever serves the target.
    Passing(TempDir),
}

impl SocketDirectory {
    /// A fresh one for somebody who only looks.
    ///
    /// # Errors
    /// Where no scratch directory can be made.
    pub(crate) fn passing(home: &Home) -> std::io::Result<Self> {
        scratch::directory(home).map(Self::Passing)
    }

    /// When something in it came or went last: seconds and nanoseconds.
    fn changed(&self) -> Option<(i64, i64)> {
        std::fs::metadata(self.path()).ok().map(|found| (found.mtime(), found.mtime_nsec()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Served(path) => path,
            Self::Passing(directory) => directory.path(),
        }
    }
}

/// A connection that stands, as far as we know.
#[derive(Debug)]
pub(super) struct OpensshConnection {
    session: Arc<Session>,
    alive: Arc<AtomicBool>,
    listener: Listener,
    /// Keeps the socket's directory open: the socket is reached through this descriptor, whatever the length of its path.
    _directory: File,
    watch: tokio::task::JoinHandle<()>,
}

impl Live for OpensshConnection {
    fn stands(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    fn listener(&self) -> Listener {
        self.listener
    }

    fn end(&self) {
        self.alive.store(false, Ordering::Release);
        self.watch.abort();
    }
}

impl Drop for OpensshConnection {
    fn drop(&mut self) {
        self.end();
    }
}

impl OpensshLink {
    /// A link that connects when it is first used.
    pub(crate) fn new(settings: SshSettings, directory: SocketDirectory, logins: LoginLimit) -> Self {
        let listener = std::sync::Mutex::new(Listener::Shell);
        let (standing, sessions) = (Standing::default(), Sessions::default());
        Self { settings, directory, logins, standing, sessions, listener }
    }

    /// Waits until a client that runs nothing has logged in.
    async fn logged_in(&self, client: &mut Child) -> Result<(), Silence> {
        let socket = self.directory.path().join(SOCKET);
        while !socket.exists() {
            if client.try_wait()?.is_some() {
                return Err(Silence::Broken(std::io::ErrorKind::UnexpectedEof.into()));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Who answers: whoever did now, or where nobody was asked, whoever did last.
    fn heard(&self, is_single: bool, now: Listener) -> Listener {
        let mut last = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_single {
            *last = now;
        }
        *last
    }

    /// The ssh client with our policy in front of everything: no configuration of the user's or the system's is read.
    fn command(&self) -> Command {
        let mut command = tied::command("ssh");
        let policy = Policy::of(&self.settings);
        command.current_dir(self.directory.path()).envs(policy.environment).args(policy.arguments).args([
            "-o",
            "RequestTTY=no",
            "-o",
            "EscapeChar=none",
        ]);
        command.kill_on_drop(true);
        command
    }

    /// A client whose agent was killed may still hang on a dead link; it must not keep our socket's name.
    async fn end_former_client(&self) {
        let socket = self.directory.path().join(SOCKET);
        if !socket.exists() {
            return;
        }
        let mut exit = self.command();
        exit.args(["-S", SOCKET, "-O", "exit", "--", &self.settings.host]);
        exit.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It answers at once or is dead: either way the name is free afterwards, and a failure changes nothing.
        let _ = timeout(Duration::from_secs(2), exit.status()).await;
        if let Err(error) = std::fs::remove_file(&socket)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(socket = %socket.display(), %error, "cannot remove an old control socket");
        }
    }

    /// Why there is no connection, from what came of the client and what was said.
    ///
    /// `before` is when the socket's directory had changed last before the client was started.
    async fn explain(
        &self,
        mut client: Child,
        stderr: ChildStderr,
        echo: Echo,
        before: Option<(i64, i64)>,
    ) -> TargetError {
        let settings = &self.settings;
        let mut said = StderrExcerpt::default();
        // What it has said by now is all that helps; when it says nothing, that is the answer.
        let _ = timeout(LAST_WORDS, said.read(stderr)).await;
        let exit = timeout(LAST_WORDS, client.wait()).await.ok().map(Exited::of);
        if let Err(error) = client.start_kill() {
            tracing::debug!(%error, "the ssh client had already ended");
        }
        let (said, mut printed) = (said.both_ends(), echo.printed());
        // The client's control socket comes with the login, and is gone with the client.
        let logged_in = printed.count() > 0 || self.directory.changed() != before;
        let cause = Cause::of(End { exit, logged_in }, &said);
        if let Cause::LoggedIn(how) = cause {
            let how = if printed.count() > MOST_NOISE { "it prints without end".to_owned() } else { how };
            printed.add(said.as_bytes());
            return in_vain(settings, &how, &printed);
        }
        // What the client says of the way itself may be the fault of a host on it.
        if let Cause::Other(_) = cause
            && let Some(fault) = jumps::fault(settings, self.directory.path()).await
        {
            return fault;
        }
        printed.add(words_of_both(&said).0.as_bytes());
        match KnownHost::read(settings) {
            Ok(known) => report(settings, &known, cause, &said, &printed).await,
            Err(error) => error,
        }
    }

    fn place(&self) -> String {
        place(&self.settings)
    }
}

impl SshLink for OpensshLink {
    type Live = OpensshConnection;

    fn settings(&self) -> &SshSettings {
        &self.settings
    }

    fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    fn standing(&self) -> &Standing<OpensshConnection> {
        &self.standing
    }

    async fn connect(&self) -> Result<OpensshConnection, TargetError> {
        let failed = |what: String| TargetError::Link(format!("cannot connect to {}: {what}", self.place()));
        std::fs::create_dir_all(self.directory.path())
            .map_err(|error| failed(format!("cannot make {}: {error}", self.directory.path().display())))?;
        let slot = self.logins.slot().await.map_err(|error| failed(error.to_string()))?;
        self.end_former_client().await;
        let before = self.directory.changed();

        let is_single = self.sessions.begin();
        let mut command = self.command();
        command.args(["-M", "-S", SOCKET, "-T"]);
        match is_single {
            true => command.args(["-N", "--", &self.settings.host]),
            false => command.args(["--", &self.settings.host, peer_detection::COMMAND]),
        };
        let mut client = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("cannot start the ssh client: {error}")))?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (client.stdin.take(), client.stdout.take(), client.stderr.take())
        else {
            return Err(failed("the ssh client has no pipes".into()));
        };
        let mut echo = Echo::new(stdin, stdout);
        let patience = CONNECT + jumps::EACH * u32::try_from(self.settings.jumps.len()).unwrap_or_default();
        let greeted = match is_single {
            true => timeout(patience, self.logged_in(&mut client)).await,
            false => timeout(patience, echo.first()).await,
        };
        match greeted {
            Ok(Ok(())) => {}
            Ok(Err(Silence::Unusable(why))) => return Err(peer_detection::unusable(&self.settings, &why)),
            Ok(Err(Silence::Broken(_))) | Err(_) => {
                return Err(self.explain(client, stderr, echo, before).await);
            }
        }
        let listener = self.heard(is_single, echo.listener);
        slot.succeeded();

        let directory = File::open(self.directory.path()).map_err(|error| failed(error.to_string()))?;
        let socket = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(SOCKET);
        let session = Arc::new(Session::resume_mux(socket.into_boxed_path(), None));
        let alive = Arc::new(AtomicBool::new(true));
        let heartbeat = (!is_single).then_some(echo);
        let watch = tokio::spawn(watch(client, stderr, heartbeat, alive.clone(), self.place()));
        tracing::debug!(target = %self.place(), "connected");
        Ok(OpensshConnection { session, alive, listener, _directory: directory, watch })
    }

    async fn open(&self, connected: Arc<OpensshConnection>, command: &str, seat: Seat) -> Result<Opening, TargetError> {
        let mut remote = connected.session.clone().arc_raw_command(command);
        // Whoever leaves the connection ends it now, and not once this has been answered.
        drop(connected);
        remote.stdin(SshStdio::piped()).stdout(SshStdio::piped()).stderr(SshStdio::piped());
        let opened = timeout(OPEN_CHANNEL, remote.spawn()).await;
        let mut child = match opened {
            Ok(Ok(child)) => child,
            Ok(Err(error)) if chain(&error).contains(REFUSED) => return Ok(Opening::Refused(seat, chain(&error))),
            Ok(Err(error)) => return Err(broken(&self.settings, &format!("cannot open a channel: {}", chain(&error)))),
            Err(_) => {
                let how = "cannot open a channel: the far end does not answer";
                // What else runs on the connection would end with it.
                let others = self.sessions.has_others();
                return if others { Err(broken(&self.settings, how)) } else { Ok(Opening::Unanswered(how.into())) };
            }
        };
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin().take(), child.stdout().take(), child.stderr().take())
        else {
            return Err(broken(&self.settings, "a channel has no pipes"));
        };
        let settings = self.settings.clone();
        let exit = async move {
            let _seat = seat;
            match child.wait().await {
                Ok(status) => Ok(status.code().map_or(Exit::Killed, Exit::Code)),
                Err(SshError::Remote(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(Exit::NotFound),
                Err(SshError::RemoteProcessTerminated) => Ok(Exit::Killed),
                Err(error) => Err(broken(&settings, &chain(&error))),
            }
        };
        let (stdout, stderr) = (Box::pin(stdout), Box::pin(stderr));
        Ok(Opening::Open(Remote { stdin: Box::pin(stdin), stdout, stderr, exit: Box::pin(exit) }))
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    printable(&causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

/// The far end's `cat`, or the receiver in its place.
struct Echo {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    listener: Listener,
    count: u64,
    /// What a login shell printed before our first echo: whole lines, and the one that is on its way in.
    noise: LoginOutput,
    line: Vec<u8>,
}

/// Why a sign of life did not come.
enum Silence {
    /// The stream broke, or something else came.
    Broken(std::io::Error),
    /// A receiver answers that we cannot talk to, and why.
    Unusable(String),
}

impl From<std::io::Error> for Silence {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(error)
    }
}

impl Echo {
    fn new(stdin: ChildStdin, stdout: ChildStdout) -> Self {
        let (noise, line) = (LoginOutput::default(), Vec::new());
        Self { stdin, stdout: BufReader::new(stdout), listener: Listener::Shell, count: 0, noise, line }
    }

    /// Past whatever a login shell prints, to the line that says who answers; and its first answer.
    async fn first(&mut self) -> Result<(), Silence> {
        loop {
            if !read_line(&mut self.stdout, MOST_NOISE, &mut self.line).await? {
                return Err(Silence::Broken(std::io::ErrorKind::UnexpectedEof.into()));
            }
            if let Some(listener) = peer_detection::greeted(&self.line).map_err(Silence::Unusable)? {
                self.listener = listener;
                self.line.clear();
                return self.ask().await;
            }
            self.noise.add(&self.line);
            self.line.clear();
            if self.noise.count() > MOST_NOISE {
                return Err(std::io::Error::other("the login shell prints without end").into());
            }
        }
    }

    /// All that a login shell has printed by now.
    fn printed(self) -> LoginOutput {
        let Self { mut noise, line, .. } = self;
        noise.add(&line);
        noise
    }

    async fn beat(&mut self) -> Result<(), Silence> {
        self.count += 1;
        self.ask().await
    }

    async fn ask(&mut self) -> Result<(), Silence> {
        let question = peer_detection::question(self.listener, self.count);
        self.stdin.write_all(&question).await?;
        self.stdin.flush().await?;
        let mut answer = peer_detection::HeartbeatAnswer::default();
        let mut some = [0; 256];
        loop {
            let count = self.stdout.read(&mut some).await?;
            if count == 0 {
                return Err(Silence::Broken(std::io::ErrorKind::UnexpectedEof.into()));
            }
            if answer.take(self.listener, self.count, &some[..count]).map_err(Silence::Unusable)? {
                return Ok(());
            }
        }
    }
}

/// Owns the client for as long as the connection stands, and says when it no longer does.
///
/// Where nothing echoes, the client's own keep-alive finds a dead link.
async fn watch(mut client: Child, stderr: ChildStderr, echo: Option<Echo>, alive: Arc<AtomicBool>, place: String) {
    let beats = async {
        let Some(mut echo) = echo else { return std::future::pending().await };
        loop {
            sleep_until(idle_timer::after(Instant::now(), BEAT)).await;
            match timeout(STALL_TIMEOUT, echo.beat()).await {
                Ok(Ok(())) => {}
                Ok(Err(Silence::Broken(error))) => return format!("its heartbeat failed: {error}"),
                Ok(Err(Silence::Unusable(why))) => return format!("its heartbeat failed: {why}"),
                Err(_) => return format!("no heartbeat for {} s", STALL_TIMEOUT.as_secs()),
            }
        }
    };
    // Whatever the client says while it runs is read, so that it never blocks on it; the last line tells why it ended.
    let sayings = async {
        let mut complaints = StderrExcerpt::default();
        let read = complaints.read(stderr).await;
        read.err().or_else(|| complaints.last()).unwrap_or_else(|| "the ssh client ended".into())
    };
    let why = tokio::select! {
        why = beats => why,
        why = sayings => why,
        status = client.wait() => status.map_or_else(|e| e.to_string(), |s| format!("the ssh client ended ({s})")),
    };
    alive.store(false, Ordering::Release);
    tracing::debug!(target = %place, %why, "the connection is gone");
    if let Err(error) = client.kill().await {
        tracing::debug!(target = %place, %error, "the ssh client had already ended");
    }
}
