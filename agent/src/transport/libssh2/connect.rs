//! From an address to a connection that is logged in: by a host key that is trusted, with our identity and nothing else.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use blat_config::SshSettings;
use blat_domain::util::text::printable;
use ssh2::{Channel, MethodType, Session};

use super::host_key::{self, HostKey};
use super::relay::{Pump, Relay};
use crate::model::error::TargetError;
use crate::transport::jumps::Through;
use crate::transport::known_hosts::{Acquaintance, HostKeyVerdict, KnownHost};
use crate::transport::login::{LoginOutput, in_vain, said_before};
use crate::transport::peer_detection::Listener;
use crate::transport::private_key::Flaw;
use crate::transport::{key_refused, peer_detection, place, private_key, revoked_host_key, untrusted_host_key};

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
/// For what a login that failed says last.
const LAST_WORDS: Duration = Duration::from_secs(1);
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
    pub(crate) verdict: HostKeyVerdict,
    known: KnownHost,
    relay: Relay,
    /// What carries the connection, where that goes through other hosts.
    _through: Option<Through>,
}

impl Greeted {
    /// The connection itself, for whoever wants to hang up.
    ///
    /// # Errors
    /// There are no more file descriptors.
    pub(crate) fn connection(&self) -> std::io::Result<TcpStream> {
        self.relay.connection()
    }

    /// How well known_hosts knows the host.
    pub(crate) fn acquaintance(&self) -> Acquaintance {
        self.known.acquaintance()
    }

    /// Why the connection ended, where it was cut: for what the host did, or for the time that it took.
    pub(crate) fn cut(&mut self) -> Option<String> {
        self.relay.end()
    }
}

/// A connection that is logged in, its calls no longer blocking.
pub(super) struct AuthenticatedSession {
    pub(super) session: Session,
    /// What passes on what goes back and forth.
    pub(super) pump: Pump,
    /// Runs `cat`, whose echo is the heartbeat, or a receiver in its place; none where the host has no room for it.
    pub(super) heartbeat: Option<Channel>,
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
    let (socket, mut through) = reach(settings).map_err(|error| failed(&error.to_string()))?;
    let (mut relay, near) = Relay::begin(socket, patience).map_err(|error| failed(&error.to_string()))?;
    let ssh = |error: ssh2::Error| failed(&printable(error.message()));
    let mut session = Session::new().map_err(ssh)?;
    session.set_timeout(u32::try_from(ANSWER.as_millis()).unwrap_or(u32::MAX));
    session.method_pref(MethodType::HostKey, &host_key::preferences(&known)).map_err(ssh)?;
    session.method_pref(MethodType::CryptCs, CIPHERS).map_err(ssh)?;
    session.method_pref(MethodType::CryptSc, CIPHERS).map_err(ssh)?;
    session.set_tcp_stream(near);
    session.handshake().map_err(|error| {
        let on_the_way = through.as_mut().and_then(Through::words);
        on_the_way.or_else(|| relay.end()).map_or_else(|| ssh(error), |why| failed(&why))
    })?;
    let key = HostKey::of(&session).ok_or_else(|| failed("its host key is of a kind that is not trusted any more"))?;
    let verdict = known.judge(&key.blob);
    Ok(Greeted { session, key, verdict, known, relay, _through: through })
}

/// A connection to the host, directly or through the hosts on the way.
fn reach(settings: &SshSettings) -> std::io::Result<(TcpStream, Option<Through>)> {
    match settings.ways_to_jumps().last() {
        None => dial(settings).map(|socket| (socket, None)),
        Some(last) => Through::begin(&last, settings).map(|(socket, through)| (socket, Some(through))),
    }
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
        HostKeyVerdict::Trusted => Ok(greeted),
        HostKeyVerdict::Unknown | HostKeyVerdict::Changed => {
            let offered = greeted.key.fingerprint();
            Err(untrusted_host_key(settings, greeted.known.acquaintance(), Some(&offered)))
        }
        HostKeyVerdict::Revoked => Err(revoked_host_key(settings)),
    }
}

/// Logs in with the identity, at a host whose key is trusted. With `is_single` the heartbeat's session ends once it has said who answers.
pub(super) fn login(settings: &SshSettings, is_single: bool) -> Result<AuthenticatedSession, TargetError> {
    let mut greeted = greet_trusted(settings, LOGIN)?;
    match first_command(&greeted.session, settings) {
        Ok((heartbeat, listener)) => {
            let Greeted { session, relay, .. } = greeted;
            let heartbeat = if is_single { end(settings, heartbeat)? } else { Some(heartbeat) };
            session.set_timeout(0);
            session.set_blocking(false);
            let cut = |why| TargetError::Link(format!("cannot log in to {}: {why}", place(settings)));
            let pump = relay.hand_over().map_err(cut)?;
            Ok(AuthenticatedSession { session, pump, heartbeat, listener })
        }
        Err(error @ TargetError::Link(_)) => Err(match greeted.cut() {
            Some(why) => TargetError::Link(format!("{error} ({why})")),
            None => error,
        }),
        Err(error) => Err(error),
    }
}

/// Ends the heartbeat's session, which leaves none.
fn end(settings: &SshSettings, mut heartbeat: Channel) -> Result<Option<Channel>, TargetError> {
    let ended = heartbeat
        .send_eof()
        .and_then(|()| heartbeat.wait_eof())
        .and_then(|()| heartbeat.close())
        .and_then(|()| heartbeat.wait_close());
    let link = |why: &str| TargetError::Link(format!("logged in to {}, then the link broke: {why}", place(settings)));
    ended.map(|()| None).map_err(|error| link(&printable(error.message())))
}

/// Logs in and starts what the heartbeat goes to.
fn first_command(session: &Session, settings: &SshSettings) -> Result<(Channel, Listener), TargetError> {
    authenticate(session, settings)?;
    let mut printed = LoginOutput::default();
    let refused = |error: ssh2::Error| {
        let how = format!("it takes no command ({})", printable(error.message()));
        in_vain(settings, &how, &LoginOutput::default())
    };
    let mut heartbeat = session.channel_session().map_err(refused)?;
    heartbeat.exec(peer_detection::COMMAND).map_err(refused)?;
    let listener = match first_line(&mut heartbeat, &mut printed) {
        Ok(listener) => listener.map_err(|why| peer_detection::unusable(settings, &why))?,
        Err(error) => return Err(without_answer(session, settings, &mut heartbeat, printed, &error)),
    };
    match first_answer(&mut heartbeat, listener) {
        Ok(answered) => answered.map_err(|why| peer_detection::unusable(settings, &why))?,
        Err(error) => return Err(without_answer(session, settings, &mut heartbeat, printed, &error)),
    }
    Ok((heartbeat, listener))
}

/// Why a login did not answer, with what it printed.
fn without_answer(
    session: &Session,
    settings: &SshSettings,
    heartbeat: &mut Channel,
    mut printed: LoginOutput,
    error: &std::io::Error,
) -> TargetError {
    // Errors of the connection itself are of no kind of their own.
    let has_ended = error.kind() == ErrorKind::UnexpectedEof;
    // What comes by now is all that helps.
    session.set_timeout(u32::try_from(LAST_WORDS.as_millis()).unwrap_or(u32::MAX));
    let mut some = [0; 4 << 10];
    while let Ok(count @ 1..) = heartbeat.stderr().read(&mut some) {
        printed.add(&some[..count]);
        if printed.count() > MOST_NOISE {
            break;
        }
    }
    if !has_ended {
        let words = printable(&error.to_string());
        return match error.kind() {
            ErrorKind::TimedOut | ErrorKind::InvalidData => {
                in_vain(settings, &format!("it does not answer ({words})"), &printed)
            }
            _ => {
                let printed = printed.shown().map(|text| format!("; it printed \"{text}\"")).unwrap_or_default();
                TargetError::Link(format!("logged in to {}, then the link broke: {words}{printed}", place(settings)))
            }
        };
    }
    let status = heartbeat.wait_close().and_then(|()| heartbeat.exit_status());
    match status {
        Ok(status) => in_vain(settings, &format!("it ended with status {status} before it answered"), &printed),
        Err(_) => in_vain(settings, "it ended before it answered", &printed),
    }
}

/// Why a login with the identity came to nothing.
pub(crate) enum AuthError {
    /// The key cannot be used here, whatever the server thinks of it.
    Here(TargetError),
    /// The server refuses it.
    There(TargetError),
    /// The way there broke.
    Link(TargetError),
}

impl From<AuthError> for TargetError {
    fn from(denied: AuthError) -> Self {
        match denied {
            AuthError::Here(error) | AuthError::There(error) | AuthError::Link(error) => error,
        }
    }
}

/// Logs in with the identity and nothing else: no agent, no password, no other key.
///
/// # Errors
/// Where the key cannot be used or is refused, or the link broke.
pub(crate) fn authenticate(session: &Session, settings: &SshSettings) -> Result<(), AuthError> {
    let flaw = private_key::flaw(settings);
    // As the system's client does: what others may read is no secret.
    if let Some(flaw) = flaw.clone().filter(Flaw::is_open_to_others) {
        return Err(AuthError::Here(private_key::unusable(settings, Some(flaw), None)));
    }
    let Err(error) = session.userauth_pubkey_file(&settings.user, None, &settings.identity, None) else {
        return Ok(());
    };
    let words = printable(error.message());
    let has_failed_here = error.code() == UNREADABLE || (flaw.is_some() && error.code() != REFUSED);
    if has_failed_here && !is_broken(&error) {
        return Err(AuthError::Here(private_key::unusable(settings, flaw, Some(("libssh2", &words)))));
    }
    if is_refusal(&error) {
        let words = format!("{words}{}", refused_by(session, settings));
        return Err(AuthError::There(key_refused(settings, &words)));
    }
    // What a host says of an account before it hangs up, libssh2 keeps to itself.
    Err(AuthError::Link(TargetError::Link(format!(
        "not logged in: cannot log in to {}: {words}; if that goes on, the account may be expired or locked: the server's log says which",
        place(settings)
    ))))
}

/// What more is to be known of a server that refused a key; empty where there is nothing. It says more only when it is asked how one can log in.
fn refused_by(session: &Session, settings: &SshSettings) -> String {
    let methods = session.auth_methods(&settings.user).map(printable).unwrap_or_default();
    let mut printed = LoginOutput::default();
    if let Ok(Some(banner)) = session.userauth_banner() {
        printed.add(banner.as_bytes());
    }
    let takes_no_keys = !methods.is_empty() && !methods.split(',').any(|method| method == "publickey");
    let takes = if takes_no_keys { format!(" (it takes only {methods})") } else { String::new() };
    format!("{takes}{}", said_before(&printed))
}

/// libssh2's number for a key that it cannot read from its file.
const UNREADABLE: ssh2::ErrorCode = ssh2::ErrorCode::Session(-16);
/// Its number for a key that the server refuses.
const REFUSED: ssh2::ErrorCode = ssh2::ErrorCode::Session(-18);

/// Whether the way there broke while something was waited for: libssh2 gives that the number of what it waited for.
fn is_broken(error: &ssh2::Error) -> bool {
    error.message().starts_with("Waiting for ")
        || matches!(error.code(), ssh2::ErrorCode::Session(-9 | -13 | -30 | -43))
}

/// Whether a login failed for what was offered, rather than for the way there.
pub(crate) fn is_refusal(error: &ssh2::Error) -> bool {
    // libssh2's numbers: file, authentication failed, public key not verified, method unknown, no such method here.
    matches!(error.code(), ssh2::ErrorCode::Session(-16 | -18 | -19 | -33 | -34)) && !is_broken(error)
}

/// Past whatever a login shell prints, to the line that says who answers. The inner error is for the operator.
fn first_line(heartbeat: &mut Channel, printed: &mut LoginOutput) -> std::io::Result<Result<Listener, String>> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        // Byte by byte: what follows the line is for others to read.
        if heartbeat.read(&mut byte)? == 0 {
            return Err(std::io::Error::new(ErrorKind::UnexpectedEof, "the login ended before it answered"));
        }
        line.push(byte[0]);
        printed.add(&byte);
        if byte == *b"\n" {
            match peer_detection::greeted(&line) {
                Ok(Some(listener)) => return Ok(Ok(listener)),
                Ok(None) => line.clear(),
                Err(why) => return Ok(Err(why)),
            }
        }
        if printed.count() > MOST_NOISE {
            return Err(std::io::Error::new(ErrorKind::InvalidData, "it prints without end"));
        }
    }
}

/// The first sign of life of who answers. The inner error is for the operator.
fn first_answer(heartbeat: &mut Channel, listener: Listener) -> std::io::Result<Result<(), String>> {
    let question = peer_detection::question(listener, 0);
    heartbeat.write_all(&question)?;
    let (mut answer, mut byte) = (peer_detection::HeartbeatAnswer::default(), [0]);
    loop {
        // Byte by byte: what follows the answer is for others to read.
        if heartbeat.read(&mut byte)? == 0 {
            return Err(std::io::Error::new(ErrorKind::UnexpectedEof, "the login ended before it answered"));
        }
        match answer.take(listener, 0, &byte) {
            Ok(true) => return Ok(Ok(())),
            Ok(false) => {}
            Err(why) => return Ok(Err(why)),
        }
    }
}
