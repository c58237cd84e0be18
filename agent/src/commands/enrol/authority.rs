//! Certificate authorities of hosts: where known_hosts trusts one for a host, nobody has to confirm a fingerprint.
//!
//! libssh2 knows no certificates, so the system's ssh client is asked. What it prints is no answer: whoever passes for the host has it print lines
//! of his own before it knows the host's key. So the client is given an agent, a socket of ours, which it turns to only when it has accepted
//! the host's certificate and the host has proved to have its key. The first that it tells an agent, from OpenSSH 8.9 on, is just that
//! certificate (`session-bind@openssh.com`). An older client does not tell it, and a person is asked.

use std::fs::write;
use std::io::{Error, ErrorKind, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use blat_config::{Home, SshSettings};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::transport::libssh2::host_key::HostKey;
use crate::transport::policy::Policy;
use crate::transport::{known_hosts, place, scratch};

/// From starting the client to its end.
const PATIENCE: Duration = Duration::from_secs(30);
/// The least that is waited for the client's next byte.
const LEAST: Duration = Duration::from_millis(1);
/// The longest request to an agent that OpenSSH makes, in bytes.
const LONGEST: usize = 256 << 10;
/// How often a client may turn to its agent, and how much it may ask each time. It tells the host's key first of all.
const MOST_ASKED: usize = 8;
/// A request that has a name: its first byte, and the name by which the client tells the host's key.
const EXTENSION: u8 = 27;
const BIND: &[u8] = b"session-bind@openssh.com";
/// What an agent answers that does not do what it is asked for, with its length.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];
/// What the type of a certificate has behind that of its key.
const CERTIFICATE: &str = "-cert-v01@openssh.com";

/// The host's key of this kind that a trusted authority has signed for this host; none where none has, or where the client does not say.
///
/// # Errors
/// The client cannot be run, or does not end.
pub(super) fn certified_key(ssh: &SshSettings, kind: &'static str) -> anyhow::Result<Option<HostKey>> {
    let home = Home::at(&ssh.home).context("cannot find the home tree")?;
    let directory = scratch::directory(&home).context("cannot make a scratch directory")?;
    let (socket, authorities) = (directory.path().join("agent"), directory.path().join("known_hosts"));
    // Only an authority is to vouch, and no key that the client takes for this host's by a rule of its own.
    known_hosts::marked_lines(&ssh.known_hosts)
        .and_then(|lines| write(&authorities, lines))
        .with_context(|| format!("cannot copy the authorities in {}", ssh.known_hosts.display()))?;
    let agent = UnixListener::bind(&socket).with_context(|| {
        format!("cannot make the socket {}; where its path is too long, set TMPDIR to a shorter one that nobody else may write", socket.display())
    })?;
    let policy = Policy::for_certificates(ssh, &algorithms(kind), &authorities, &socket);
    let mut client = Command::new("ssh")
        .envs(policy.environment)
        .args(policy.arguments)
        .args(["-T", "--", &ssh.host, "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run the ssh client, which checks certificates of hosts; install openssh-client")?;
    let output = client.stdout.take().context("the ssh client has no standard output");
    let told = output.and_then(|output| told(&agent, &output, ssh));
    // It has nothing to do any more that anybody waits for.
    client.kill().and_then(|()| client.wait()).context("cannot end the ssh client")?;
    Ok(told?.and_then(|certificate| key_in(&certificate, kind)))
}

/// The algorithms by which a host proves to have a certificate of a key of this kind.
fn algorithms(kind: &str) -> String {
    match kind {
        "ssh-rsa" => ["rsa-sha2-512", "rsa-sha2-256"].map(|algorithm| format!("{algorithm}{CERTIFICATE}")).join(","),
        other => format!("{other}{CERTIFICATE}"),
    }
}

/// What the client tells its agent that the host has for a key; none where it ends before that.
fn told(agent: &UnixListener, client: &ChildStdout, ssh: &SshSettings) -> anyhow::Result<Option<Vec<u8>>> {
    let due = Instant::now() + PATIENCE;
    for _ in 0..MOST_ASKED {
        if !turns_to(agent, client, due).with_context(|| format!("cannot check the certificate of {}", place(ssh)))? {
            return Ok(None);
        }
        let (connection, _) = agent.accept().context("cannot hear the ssh client")?;
        if let Some(key) = heard(connection, due).context("cannot hear the ssh client")? {
            return Ok(Some(key));
        }
    }
    bail!("cannot check the certificate of {}: the ssh client does not say which it accepted", place(ssh))
}

/// Whether the client turns to its agent, or ends.
fn turns_to(agent: &UnixListener, client: &ChildStdout, due: Instant) -> std::io::Result<bool> {
    loop {
        let rest = due.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Err(Error::other(format!("the ssh client does not end within {} s", PATIENCE.as_secs())));
        }
        let rest = Timespec::try_from(rest).map_err(Error::other)?;
        // Of what it prints only the end counts.
        let mut both = [PollFd::new(agent, PollFlags::IN), PollFd::new(client, PollFlags::empty())];
        match poll(&mut both, Some(&rest)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(both[0].revents().contains(PollFlags::IN)),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The host's key, where this connection of the client to its agent tells it. Whatever it asks for is refused.
fn heard(mut connection: UnixStream, due: Instant) -> std::io::Result<Option<Vec<u8>>> {
    for _ in 0..MOST_ASKED {
        let Some(request) = request(&mut connection, due)? else { return Ok(None) };
        if let Some(key) = bound(&request) {
            return Ok(Some(key.to_vec()));
        }
        connection.write_all(&FAILURE)?;
    }
    Ok(None)
}

/// The client's next request; none where it has no more.
fn request(connection: &mut UnixStream, due: Instant) -> std::io::Result<Option<Vec<u8>>> {
    let mut read = |into: &mut [u8]| {
        let rest = due.saturating_duration_since(Instant::now());
        connection.set_read_timeout(Some(rest.max(LEAST)))?;
        connection.read_exact(into)
    };
    let mut length = [0; 4];
    match read(&mut length) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        done => done?,
    }
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(Error::other)?;
    if length > LONGEST {
        return Err(Error::other(format!("it asks its agent for something in {length} bytes")));
    }
    let mut request = vec![0; length];
    read(&mut request)?;
    Ok(Some(request))
}

/// The host's key that a request to an agent tells, as the host showed it; none where it is another request.
fn bound(request: &[u8]) -> Option<&[u8]> {
    let (_, mut rest) = request.split_first().filter(|(first, _)| **first == EXTENSION)?;
    (part(&mut rest)? == BIND).then_some(())?;
    part(&mut rest)
}

/// The key of this kind that a certificate is of; none where it is no certificate of such a key.
fn key_in(certificate: &[u8], kind: &'static str) -> Option<HostKey> {
    let mut rest = certificate;
    (part(&mut rest)? == format!("{kind}{CERTIFICATE}").as_bytes()).then_some(())?;
    let _random = part(&mut rest)?;
    let mut blob = Vec::new();
    let mut add = |part: &[u8]| {
        blob.extend_from_slice(&u32::try_from(part.len()).ok()?.to_be_bytes());
        blob.extend_from_slice(part);
        Some(())
    };
    add(kind.as_bytes())?;
    for _ in 0..if kind == "ssh-ed25519" { 1 } else { 2 } {
        add(part(&mut rest)?)?;
    }
    Some(HostKey { kind, blob })
}

/// The next part of a message: its length stands before it.
fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, more) = rest.split_first_chunk::<4>()?;
    let (part, more) = more.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *rest = more;
    Some(part)
}

#[cfg(test)]
mod tests;
