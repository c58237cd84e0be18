//! What an agent and its ssh process say to each other: one JSON value a message, over a pair of sockets that keeps messages apart. The streams of
//! a command travel with the message that starts it.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use blat_config::{Jump, SshSettings};
use blat_domain::package::name::TargetName;
use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::error::TargetError;
use crate::transport::Exit;
use crate::transport::known_hosts::HostKeyVerdict;
use crate::transport::peer_detection::Listener;

/// The longest message, in bytes: a command with the longest paths for its archive and its scripts takes a fourth of it.
const LONGEST: usize = 64 << 10;
/// A command's streams: its input, its output and its complaints.
pub(super) const STREAMS: usize = 3;

/// What the agent asks for. The first one says what the process is for: [`Self::Login`] or [`Self::ShowKey`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum SshOrder {
    /// Log in and serve the connection. With `is_single` the heartbeat's session ends once it has said who answers.
    Login { to: Destination, is_single: bool },
    /// Find out the host's key, without a login.
    ShowKey { to: Destination },
    /// Run a command, whose streams come with this.
    Run { number: u64, command: String },
    /// Nobody waits for this command any more.
    Forget { number: u64 },
}

/// What the process reports. Its texts are fit for printing.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum SshEvent {
    /// It is logged in, and who answers.
    LoggedIn(Listener),
    /// The host has this key, and what known_hosts says of it.
    Shown { verdict: HostKeyVerdict, fingerprint: String },
    /// There is no connection, and why.
    Failed(TargetError),
    /// A command runs.
    Opened { number: u64 },
    /// A command was refused, and why.
    Refused { number: u64, why: String },
    /// A command ended, and how.
    Ended { number: u64, exit: Exit },
    /// The connection is gone, and why.
    Broken { why: String },
}

/// [`SshSettings`] in a form that keeps paths of any bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Destination {
    target: TargetName,
    host: String,
    port: u16,
    user: String,
    jumps: Vec<(String, String, u16)>,
    identity: OsString,
    known_hosts: OsString,
    home: OsString,
}

impl From<&SshSettings> for Destination {
    fn from(settings: &SshSettings) -> Self {
        let SshSettings { target, host, port, user, jumps, identity, known_hosts, home } = settings.clone();
        let jumps = jumps.into_iter().map(|Jump { user, host, port }| (user, host, port)).collect();
        let (identity, known_hosts, home) = (identity.into(), known_hosts.into(), home.into());
        Self { target, host, port, user, jumps, identity, known_hosts, home }
    }
}

impl From<Destination> for SshSettings {
    fn from(destination: Destination) -> Self {
        let Destination { target, host, port, user, jumps, identity, known_hosts, home } = destination;
        let jumps = jumps.into_iter().map(|(user, host, port)| Jump { user, host, port }).collect();
        let (identity, known_hosts, home) = (identity.into(), known_hosts.into(), home.into());
        Self { target, host, port, user, jumps, identity, known_hosts, home }
    }
}

/// A message as it travels.
///
/// # Errors
/// It is longer than any message; fit for printing.
pub(super) fn encoded(message: &impl Serialize) -> Result<Vec<u8>, String> {
    let text = serde_json::to_vec(message).map_err(|error| error.to_string())?;
    match text.len() {
        0..=LONGEST => Ok(text),
        long => Err(format!("it takes {long} bytes, and {LONGEST} are the most")),
    }
}

/// The agent's end and that of the process.
///
/// # Errors
/// The system has no more sockets.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message with these streams, or none of it.
///
/// # Errors
/// The other end is gone; `WouldBlock` where a socket that does not block is full.
pub(super) fn send(socket: impl AsFd, encoded: &[u8], streams: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(STREAMS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !streams.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(streams)) {
        return Err(io::Error::other(format!("{} streams are more than a command has", streams.len())));
    }
    sendmsg(socket, &[IoSlice::new(encoded)], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Whether a message is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Until there is one.
    Yes,
    /// Not at all.
    No,
}

/// Takes the next message and its streams; none where the other end is gone.
///
/// # Errors
/// It is no message that can be understood; `WouldBlock` where there is none and it is not waited for.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd, wait: Wait) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let flags = match wait {
        Wait::Yes => RecvFlags::CMSG_CLOEXEC,
        Wait::No => RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    };
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(STREAMS))];
    let (mut beside, mut text) = (RecvAncillaryBuffer::new(&mut space), vec![0; LONGEST]);
    let received = match recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut beside, flags) {
        // It went without having read all that was sent to it.
        Err(Errno::CONNRESET) => return Ok(None),
        received => received?,
    };
    let streams = beside.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(streams) => streams.collect(),
        _ => Vec::new(),
    });
    let streams: Vec<OwnedFd> = streams.collect();
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::other(format!("a message is longer than {LONGEST} bytes, or lost its streams")));
    }
    let message = serde_json::from_slice(&text[..received.bytes]).map_err(io::Error::other)?;
    Ok(Some((message, streams)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_streams_and_the_end_after_it() {
        let (one, other) = pair().expect("sockets");
        let (mut end, stream) = io::pipe().expect("a pipe");
        // Of the longest command that fits, all arrives at once.
        let command = "x".repeat(LONGEST - 100);
        let text = encoded(&SshOrder::Run { number: 7, command: command.clone() }).expect("it fits");
        send(&one, &text, &[stream.as_fd()]).expect("room");
        drop((one, stream));
        let received = receive(&other, Wait::Yes).expect("a message").expect("no end yet");
        let (SshOrder::Run { number: 7, command: arrived }, mut streams) = received else { panic!("{received:?}") };
        assert_eq!(arrived, command);
        File::from(streams.pop().expect("a stream")).write_all(b"it is the same").expect("a reader");
        let mut said = String::new();
        end.read_to_string(&mut said).expect("it ends with the other");
        assert_eq!((said.as_str(), streams.len()), ("it is the same", 0));
        assert!(receive::<SshOrder>(&other, Wait::Yes).expect("an end").is_none());
    }

    #[test]
    fn what_does_not_fit_is_not_sent_and_what_makes_no_sense_is_an_error() {
        let long = encoded(&SshOrder::Run { number: 7, command: "x".repeat(LONGEST) }).expect_err("too long");
        assert!(long.ends_with("65536 are the most"), "{long}");
        let (one, other) = pair().expect("sockets");
        for text in [&vec![b' '; LONGEST + 1][..], b"{\"Run\": {}}", b"\xff"] {
            send(&one, text, &[]).expect("room");
            receive::<SshOrder>(&other, Wait::Yes).expect_err("nonsense");
        }
        let none = receive::<SshOrder>(&other, Wait::No).expect_err("nothing");
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn settings_arrive_as_they_are_whatever_bytes_their_paths_have() {
        let path = |end: &str| OsString::from_vec([b"/h\xff/", end.as_bytes()].concat()).into();
        let jumps = vec![Jump { user: "u".into(), host: "gate".into(), port: 23 }];
        let (target, host, user) = ("perth".parse().expect("a name"), "h".into(), "u".into());
        let (identity, known_hosts, home) = (path("id"), path("known"), path(""));
        let settings = SshSettings { target, host, port: 22, user, jumps, identity, known_hosts, home };
        let text = encoded(&Destination::from(&settings)).expect("it fits");
        let arrived: Destination = serde_json::from_slice(&text).expect("the same");
        assert_eq!(SshSettings::from(arrived), settings);
    }
}
