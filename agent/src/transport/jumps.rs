//! Hosts on the way to a target (`proxy_jump`): a connection through them for an ssh client within this process, and which of them is at fault
//! where there is no connection. How the system's client goes through them, [`policy`](super::policy) says.

use std::io::Read as _;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Stdio};
use std::time::{Duration, Instant};

use blat_config::SshSettings;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::known_hosts::KnownHost;
use super::login::{Cause, End, Exited, LoginOutput, report, words_of_both};
use super::policy::{Policy, onward};
use super::{place, tied};
use crate::model::error::TargetError;
use crate::transport::bounded::StderrExcerpt;

/// What each host on the way may take to let us through, beside what the client itself waits.
pub(super) const EACH: Duration = Duration::from_secs(10);
/// For what a client that is to end says last.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often its end is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// The most of what a client says that is read, in bytes: a pipe holds no more, and a client with more to say waits.
const MOST_SAID: u64 = 64 << 10;
/// What the client says last when a host does not let it through to the next.
const NOT_PASSED_ON: &str = "stdio forwarding failed";

/// A connection to a host through those before it. It ends with this.
#[derive(Debug)]
pub(crate) struct Through {
    client: Child,
    complaints: Option<ChildStderr>,
}

impl Through {
    /// Has the system's ssh client at the last host on the way pass on what goes to and from the host of these settings.
    ///
    /// # Errors
    /// There are no more sockets, or no ssh client.
    pub(super) fn begin(last: &SshSettings, settings: &SshSettings) -> std::io::Result<(TcpStream, Self)> {
        let (near, inner) = UnixStream::pair()?;
        let (input, output) = (OwnedFd::from(inner.try_clone()?), OwnedFd::from(inner));
        let policy = Policy::of(last);
        let mut command = tied::blocking_command("ssh");
        command.envs(policy.environment).args(policy.arguments).args(onward(settings)).arg("--").arg(&last.host);
        let mut client = command.stdin(input).stdout(output).stderr(Stdio::piped()).spawn()?;
        let complaints = client.stderr.take();
        complaints.as_ref().map_or(Ok(()), |pipe| rustix::io::ioctl_fionbio(pipe, true))?;
        // Whoever uses it makes such calls alone as every stream socket takes.
        Ok((TcpStream::from(OwnedFd::from(near)), Self { client, complaints }))
    }

    /// What the client said, on one line and fit for printing, where it has ended.
    pub(super) fn words(&mut self) -> Option<String> {
        let begun = Instant::now();
        while self.client.try_wait().ok()?.is_none() {
            if begun.elapsed() > LAST_WORDS {
                return None;
            }
            std::thread::sleep(LOOK);
        }
        let (mut text, mut printed) = (Vec::new(), LoginOutput::default());
        // What is there by now; clients of its own may hold the pipe longer, and their end is not waited for.
        let _ = self.complaints.take()?.take(MOST_SAID).read_to_end(&mut text);
        printed.add(&text);
        printed.shown()
    }
}

impl Drop for Through {
    fn drop(&mut self) {
        // It may have ended by itself, which is the same.
        let _ = self.client.kill().and_then(|()| self.client.wait());
    }
}

/// Looks at each host on the way in turn, once there is no connection: what is wrong with the first that does not let us through. None where all do.
pub(super) async fn fault(settings: &SshSettings, directory: &Path) -> Option<TargetError> {
    let ways: Vec<SshSettings> = settings.ways_to_jumps().collect();
    let after = ways.iter().skip(1).chain([settings]);
    for (way, next) in ways.iter().zip(after) {
        let found = match look(way, next, directory).await {
            Ok(()) => continue,
            Err(found) => found,
        };
        let on_the_way = |why: String| format!("on the way to {}: {why}", place(settings));
        return Some(match found {
            TargetError::Link(why) => TargetError::Link(on_the_way(why)),
            TargetError::Operator(why) => TargetError::Operator(on_the_way(why)),
            other @ (TargetError::Space(_) | TargetError::Refused(_)) => other,
        });
    }
    None
}

/// Whether this host on the way lets us through to the next.
async fn look(way: &SshSettings, next: &SshSettings, directory: &Path) -> Result<(), TargetError> {
    let failed = |what: String| TargetError::Link(format!("cannot connect to {}: {what}", place(way)));
    let known = KnownHost::read(way)?;
    let policy = Policy::of(way);
    let mut command = tied::command("ssh");
    command.current_dir(directory).envs(policy.environment).args(policy.arguments).args(onward(next));
    command.arg("--").arg(&way.host).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = command.spawn().map_err(|error| failed(format!("cannot start the ssh client: {error}")))?;
    let (Some(_input), Some(mut output), Some(complaints)) =
        (client.stdin.take(), client.stdout.take(), client.stderr.take())
    else {
        return Err(failed("the ssh client has no pipes".into()));
    };
    // A server shows its version to whoever connects to it.
    let patience = EACH * u32::try_from(way.jumps.len() + 2).unwrap_or(u32::MAX);
    match timeout(patience, output.read(&mut [0])).await {
        Ok(Ok(1..)) => return Ok(()),
        Ok(Ok(0) | Err(_)) => {}
        Err(_) => {
            let waited = patience.as_secs();
            return Err(failed(format!("{} does not answer through it within {waited} s", place(next))));
        }
    }
    let mut said = StderrExcerpt::default();
    // What it has said by then is all that helps.
    let _ = timeout(LAST_WORDS, said.read(complaints)).await;
    let exit = timeout(LAST_WORDS, client.wait()).await.ok().map(Exited::of);
    Err(explain(way, next, &known, End { exit, logged_in: false }, &said.both_ends()).await)
}

/// Why this host on the way does not let us through.
async fn explain(way: &SshSettings, next: &SshSettings, known: &KnownHost, end: End, said: &str) -> TargetError {
    let mut printed = LoginOutput::default();
    let (of_the_host, last) = words_of_both(said);
    printed.add(of_the_host.as_bytes());
    if last == NOT_PASSED_ON {
        let words = printed.shown().map(|words| format!(" ({words})")).unwrap_or_default();
        return TargetError::Link(format!(
            "logged in to {}, which does not pass the connection on to {}{words}; look there whether it reaches that host and port, and whether its \
             sshd and authorized_keys allow that: AllowTcpForwarding, PermitOpen, no-port-forwarding",
            place(way),
            place(next)
        ));
    }
    report(way, known, Cause::of(end, said), said, &printed).await
}
