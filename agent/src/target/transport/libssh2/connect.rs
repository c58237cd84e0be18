//! From an address to a connection that is logged in: by a host key that is trusted, with our identity and nothing else.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use blat_config::SshSettings;
use blat_domain::text::printable;
use ssh2::{Channel, MethodType, Session};

use super::host_key::{self, HostKey};
use super::relay::Relay;
use crate::target::TargetError;
use crate::target::transport::greeting::{self, Listener};
use crate::target::transport::known_hosts::{KnownHost, Verdict};
use crate::target::transport::{key_refused, place, revoked_host_key, wrong_host_key};

/// For a host to take a connection, for each address that it has.
const CONNECT: Duration = Duration::from_secs(10);
/// For all the addresses together, beside what the last one takes.
const DIAL: Duration = Duration::from_secs(20);
/// From the connection to the login, whatever the host says meanwhile.
pub(super) const LOGIN: Duration = Duration::from_secs(40);
/// The same where a person types a password meanwhile.
pub(crate) const BY_HAND: Duration = Duration::from_secs(300);
/// For each answer until the login is done.
const ANSWER: Duration = Duration::from_secs(20);
/// Most of what a login shell may print before our first echo, in bytes.
const MOST_NOISE: usize = 64 << 10;
/// The ciphers we offer. It decides how fast a link can be: with the processor's instructions the first costs the least.
const CIPHERS: &str =
    "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr,aes256-ctr";

/// A host that showed its key; nobody is logged in yet, and nothing says that the key is trusted.
pub(crate) struct Greeted {
    /// The session.
    pub(crate) session: Session,
    /// The key that the host proved to have.
    pub(crate) key: HostKey,
    /// What known_hosts says of it.
    pub(crate) verdict: Verdict,
    relay: Relay,
}

impl Greeted {
    /// The connection itself, for whoever wants to hang up.
    ///
    /// # Errors
    /// There are no more file descriptors.
    pub(crate) fn connection(&self) -> std::io::Result<TcpStream> {
        self.relay.connection()
    }

    /// Why the connection ended, where it was cut: for what the host did, or for the time that it took.
    pub(crate) fn cut(&mut self) -> Option<String> {
        self.relay.end()
    }
}

/// A connection that is logged in, its calls no longer blocking.
pub(super) struct Line {
    pub(super) session: Session,
    pub(super) socket: TcpStream,
    /// Runs `cat`, whose echo is the heartbeat, or a receiver in its place.
    pub(super) heart: Channel,
    /// Which of them.
    pub(super) listener: Listener,
}

/// Connects and exchanges keys; all that is done until the login may take so long. The key is judged, not yet acted upon.
///
/// # Errors
/// [`TargetError::Link`] where the host cannot be reached or speaks otherwise, [`TargetError::Operator`] where the
/// known_hosts file cannot be used.
pub(crate) fn greet(settings: &SshSettings, patience: Duration) -> Result<Greeted, TargetError> {
    let failed = |what: &str| TargetError::Link(format!("cannot connect to {}: {what}", place(settings)));
    let known = KnownHost::read(settings)?;
    let socket = dial(settings).map_err(|error| failed(&error.to_string()))?;
    let mut relay = Relay::begin(socket, patience).map_err(|error| failed(&error.to_string()))?;
    let ssh = |error: ssh2::Error| failed(&printable(error.message()));
    let mut session = Session::new().map_err(ssh)?;
    session.set_timeout(u32::try_from(ANSWER.as_millis()).unwrap_or(u32::MAX));
    session.method_pref(MethodType::HostKey, &host_key::preferences(&known)).map_err(ssh)?;
    session.method_pref(MethodType::CryptCs, CIPHERS).map_err(ssh)?;
    session.method_pref(MethodType::CryptSc, CIPHERS).map_err(ssh)?;
    session.set_tcp_stream(relay.near());
    session.handshake().map_err(|error| relay.end().map_or_else(|| ssh(error), |why| failed(&why)))?;
    let key = HostKey::of(&session).ok_or_else(|| failed("its host key is of a kind that is not trusted any more"))?;
    let verdict = known.judge(&key.blob);
    Ok(Greeted { session, key, verdict, relay })
}

fn dial(settings: &SshSettings) -> std::io::Result<TcpStream> {
    let (mut last, begun) = (std::io::Error::other("the host name has no address"), Instant::now());
    for address in (settings.host.as_str(), settings.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) if begun.elapsed() > DIAL => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// As [`greet`], at a host whose key is trusted: only to such a one may anything be told.
///
/// # Errors
/// As those of [`greet`], and [`TargetError::Operator`] where the key is any but a trusted one.
pub(crate) fn greet_trusted(settings: &SshSettings, patience: Duration) -> Result<Greeted, TargetError> {
    let greeted = greet(settings, patience)?;
    match greeted.verdict {
        Verdict::Trusted => Ok(greeted),
        Verdict::Unknown | Verdict::Changed => Err(wrong_host_key(settings, Some(&greeted.key.fingerprint()))),
        Verdict::Revoked => Err(revoked_host_key(settings)),
    }
}

/// Logs in with the identity, at a host whose key is trusted.
pub(super) fn login(settings: &SshSettings) -> Result<Line, TargetError> {
    let mut greeted = greet_trusted(settings, LOGIN)?;
    match first_command(&greeted.session, settings) {
        Ok((mut heart, listener)) => {
            let Greeted { session, relay, .. } = greeted;
            session.set_timeout(0);
            session.set_blocking(false);
            // Reading nothing takes in all that there is.
            let socket = relay.hand_over(|| drop(heart.read(&mut [])));
            let socket =
                socket.map_err(|why| TargetError::Link(format!("cannot log in to {}: {why}", place(settings))))?;
            Ok(Line { session, socket, heart, listener })
        }
        Err(error @ TargetError::Link(_)) => Err(match greeted.cut() {
            Some(why) => TargetError::Link(format!("cannot log in to {}: {why}", place(settings))),
            None => error,
        }),
        Err(error) => Err(error),
    }
}

/// Logs in and starts what the heartbeat goes to.
fn first_command(session: &Session, settings: &SshSettings) -> Result<(Channel, Listener), TargetError> {
    authenticate(session, settings)?;
    let failed = |what: &str| TargetError::Link(format!("cannot log in to {}: {}", place(settings), printable(what)));
    let ssh = |error: ssh2::Error| failed(error.message());
    let mut heart = session.channel_session().map_err(ssh)?;
    heart.exec(greeting::COMMAND).map_err(ssh)?;
    let listener = first_line(&mut heart).map_err(|error| failed(&error.to_string()))?;
    let listener = listener.map_err(|why| greeting::unusable(settings, &why))?;
    let answered = first_answer(&mut heart, listener).map_err(|error| failed(&error.to_string()))?;
    answered.map_err(|why| greeting::unusable(settings, &why))?;
    Ok((heart, listener))
}

/// Logs in with the identity and nothing else: no agent, no password, no other key.
///
/// # Errors
/// [`TargetError::Operator`] where the key cannot be used or is refused, [`TargetError::Link`] where the link broke.
pub(crate) fn authenticate(session: &Session, settings: &SshSettings) -> Result<(), TargetError> {
    // As the system's client does: what others may read is no secret.
    match std::fs::metadata(&settings.identity) {
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            return Err(key_refused(settings, "others may read it, which chmod 600 mends"));
        }
        Ok(_) => {}
        Err(error) => return Err(key_refused(settings, &format!("it cannot be read: {error}"))),
    }
    match session.userauth_pubkey_file(&settings.user, None, &settings.identity, None) {
        Ok(()) => Ok(()),
        Err(error) if is_refusal(&error) => Err(key_refused(settings, &printable(error.message()))),
        Err(error) => {
            let why = printable(error.message());
            Err(TargetError::Link(format!("cannot log in to {}: {why}", place(settings))))
        }
    }
}

/// Whether a login failed for what was offered, rather than for the way there.
pub(crate) fn is_refusal(error: &ssh2::Error) -> bool {
    // libssh2's numbers: file, authentication failed, public key not verified, method unknown, no such method here.
    matches!(error.code(), ssh2::ErrorCode::Session(-16 | -18 | -19 | -33 | -34))
}

/// Past whatever a login shell prints, to the line that says who answers. The inner error is for the operator.
fn first_line(heart: &mut Channel) -> std::io::Result<Result<Listener, String>> {
    let (mut line, mut noise, mut byte) = (Vec::new(), 0, [0]);
    loop {
        // Byte by byte: what follows the line is for others to read.
        if heart.read(&mut byte)? == 0 {
            return Err(std::io::Error::other("the login ended before it answered"));
        }
        line.push(byte[0]);
        noise += 1;
        if byte == *b"\n" {
            match greeting::greeted(&line) {
                Ok(Some(listener)) => return Ok(Ok(listener)),
                Ok(None) => line.clear(),
                Err(why) => return Ok(Err(why)),
            }
        }
        if noise > MOST_NOISE {
            return Err(std::io::Error::other("the login shell prints without end"));
        }
    }
}

/// The first sign of life of who answers. The inner error is for the operator.
fn first_answer(heart: &mut Channel, listener: Listener) -> std::io::Result<Result<(), String>> {
    let question = greeting::question(listener, 0);
    heart.write_all(&question)?;
    let (mut answer, mut byte) = (greeting::Answer::default(), [0]);
    loop {
        // Byte by byte: what follows the answer is for others to read.
        if heart.read(&mut byte)? == 0 {
            return Err(std::io::Error::other("the login ended before it answered"));
        }
        match answer.take(listener, 0, &byte) {
            Ok(true) => return Ok(Ok(())),
            Ok(false) => {}
            Err(why) => return Ok(Err(why)),
        }
    }
}
