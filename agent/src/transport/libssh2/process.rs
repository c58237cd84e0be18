//! The agent's side of its ssh process. What a host makes of libssh2 ends that process and nothing else: it has faults, and keeps whatever a host
//! sends that nobody asked for, so the memory of the process has a limit.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blat_config::SshSettings;
use blat_domain::util::text::printable;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::messages::{SshEvent, SshOrder, Wait, encoded, pair, receive, send};
use crate::model::error::TargetError;
use crate::transport::bounded::StderrExcerpt;
use crate::transport::known_hosts::HostKeyVerdict;
use crate::transport::peer_detection::Listener;
use crate::transport::{Exit, place, tied};

/// The first argument by which this executable knows that it is to speak ssh: no option that a person types.
pub(super) const SPEAK: &str = "--speak-ssh";
/// The most memory that an ssh process takes, in bytes. A sync of big packages with tags beside it takes 3 MiB; and where the agent does not read,
/// each command's window of 2 MiB waits there, which libssh2 keeps at up to three times its size.
pub(super) const MOST_MEMORY: u64 = 64 << 20;
/// For a host to show its key once more.
pub(super) const SHOW_KEY: Duration = Duration::from_secs(10);
/// For a process that has closed its end, to end itself.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A connection that takes more than [`MOST_MEMORY`], in words.
pub(super) fn too_much_memory() -> String {
    format!(
        "what the host sends takes more than {} MiB of memory; look whether it is the right host, or set `transport: openssh`, which keeps nothing \
         that nobody asked for",
        MOST_MEMORY >> 20
    )
}

/// An ssh process. It ends with this.
pub(super) struct Process {
    child: Child,
    socket: UnixStream,
    said: ChildStderr,
}

impl Process {
    /// Starts one for this purpose.
    async fn start(purpose: &SshOrder) -> Result<Self, String> {
        let failed = |error: io::Error| format!("cannot start the process that speaks ssh: {error}");
        let text = encoded(purpose).map_err(|why| failed(io::Error::other(why)))?;
        let process = Self::begin(tied::command(tied::ourselves()).arg(SPEAK)).map_err(failed)?;
        // One that is gone already says why by its status.
        let _ = process.send(&text, &[]).await;
        Ok(process)
    }

    /// Runs this, with one end of a pair of sockets as its standard input.
    fn begin(command: &mut Command) -> io::Result<Self> {
        let (own, other) = pair()?;
        // Used only for waiting: the calls themselves are those for messages.
        let socket = std::os::unix::net::UnixStream::from(own);
        socket.set_nonblocking(true)?;
        let socket = UnixStream::from_std(socket)?;
        // A trace would push the reason out of what is heard.
        command.env("RUST_BACKTRACE", "0").kill_on_drop(true);
        let mut child = command.stdin(other).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        // The command holds the other end, too.
        command.stdin(Stdio::null());
        let said = child.stderr.take().ok_or_else(|| io::Error::other("it has no pipe"))?;
        Ok(Self { child, socket, said })
    }

    async fn send(&self, text: &[u8], streams: &[OwnedFd]) -> io::Result<()> {
        let streams: Vec<_> = streams.iter().map(|stream| stream.as_fd()).collect();
        self.socket.async_io(Interest::WRITABLE, || send(&self.socket, text, &streams)).await
    }

    /// What it reports next; none once it has closed its end.
    async fn next(&self) -> io::Result<Option<SshEvent>> {
        let received = self.socket.async_io(Interest::READABLE, || receive(&self.socket, Wait::No)).await?;
        Ok(received.map(|(event, _)| event))
    }

    /// All that it reports before it ends, or how it ended; that is fit for printing.
    async fn only_answer(mut self) -> Result<SshEvent, String> {
        let next = self.next().await;
        match next {
            Ok(Some(event)) => {
                self.kill().await;
                Ok(event)
            }
            ended => Err(self.ended(ended.err()).await),
        }
    }

    /// How it ended, or was ended since it said what makes no `sense`; fit for printing.
    async fn ended(&mut self, nonsense: Option<io::Error>) -> String {
        if let Some(error) = nonsense {
            self.kill().await;
            return format!("cannot understand the process that speaks ssh: {}", printable(&error.to_string()));
        }
        let waited = timeout(LAST_WORDS, self.child.wait()).await;
        self.kill().await;
        let mut said = StderrExcerpt::default();
        // All of it is there by now.
        let _ = timeout(LAST_WORDS, said.read(&mut self.said)).await;
        match waited {
            Ok(Ok(status)) => how_it_ended(status, &said.all()),
            Ok(Err(error)) => format!("cannot wait for the process that speaks ssh: {error}"),
            Err(_) => "the process that speaks ssh does not end".into(),
        }
    }

    /// Ends it at once.
    async fn kill(&mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::debug!(%error, "the process that speaks ssh had already ended");
        }
    }
}

fn how_it_ended(status: ExitStatus, said: &str) -> String {
    if said.contains("memory allocation of") {
        return too_much_memory();
    }
    let said = if said.is_empty() { String::new() } else { format!("; it said: {said}") };
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!(
            "the process that speaks ssh ended with signal {signal}{said}; where nobody ended it, the host has met a fault of libssh2: look whether \
             it is the right host, or set `transport: openssh`"
        ),
        (None, Some(code)) => format!("the process that speaks ssh ended with status {code}{said}"),
        (None, None) => format!("the process that speaks ssh ended with {status}{said}"),
    }
}

/// What known_hosts says of the key that a host proves to have, and its fingerprint: the words of the system's client are no proof. None where
/// there is no connection.
pub(crate) async fn shown_key(settings: &SshSettings) -> Option<(HostKeyVerdict, String)> {
    let shown = async { Process::start(&SshOrder::ShowKey { to: settings.into() }).await?.only_answer().await };
    match timeout(SHOW_KEY, shown).await {
        Ok(Ok(SshEvent::Shown { verdict, fingerprint })) => Some((verdict, fingerprint)),
        // It was there a moment ago: the next try says more.
        Ok(Ok(_) | Err(_)) | Err(_) => None,
    }
}

/// Logs in, and says who answers. With `is_single` the heartbeat's session ends once it has said that.
///
/// # Errors
/// Those of the login, or [`TargetError::Link`] where the process cannot be started or does not report.
pub(super) async fn login(settings: &SshSettings, is_single: bool) -> Result<(Process, Listener), TargetError> {
    let failed = |why: String| TargetError::Link(format!("cannot connect to {}: {why}", place(settings)));
    let mut process = Process::start(&SshOrder::Login { to: settings.into(), is_single }).await.map_err(failed)?;
    let other = match process.next().await {
        Ok(Some(SshEvent::LoggedIn(listener))) => return Ok((process, listener)),
        Ok(Some(SshEvent::Failed(error))) => error,
        Ok(Some(event)) => failed(unexpected(&event)),
        ended => failed(process.ended(ended.err()).await),
    };
    process.kill().await;
    Err(other)
}

fn unexpected(event: &SshEvent) -> String {
    format!("the process that speaks ssh reports what it was not asked for: {event:?}")
}

/// A command to be run, and who waits for it.
pub(super) struct Request {
    pub(super) number: u64,
    pub(super) text: Vec<u8>,
    /// The far ends of its streams.
    pub(super) streams: Vec<OwnedFd>,
    pub(super) opened: oneshot::Sender<Result<(), String>>,
    pub(super) ended: oneshot::Sender<Result<Exit, String>>,
}

/// What an attended process is asked for.
pub(super) enum Wish {
    /// A command.
    Run(Request),
    /// Nobody waits for this one any more.
    Forget(u64),
}

/// Whoever waits for a command.
struct CommandWaiter {
    opened: Option<oneshot::Sender<Result<(), String>>>,
    ended: oneshot::Sender<Result<Exit, String>>,
}

/// Passes on what is asked of a process that is logged in and what it reports, until it ends or nobody can ask any more.
pub(super) struct Attendant {
    process: Process,
    wishes: mpsc::UnboundedReceiver<Wish>,
    /// What the process has not taken yet.
    unsent: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    waiting: HashMap<u64, CommandWaiter>,
}

impl Attendant {
    /// For this process.
    pub(super) fn new(process: Process, wishes: mpsc::UnboundedReceiver<Wish>) -> Self {
        Self { process, wishes, unsent: VecDeque::new(), waiting: HashMap::new() }
    }

    /// Watches over it until it ends, or until it has to be ended. Afterwards no connection stands, and all who wait get the reason.
    pub(super) async fn run(mut self, stands: Arc<AtomicBool>, ending: Arc<Notify>, place: String) {
        let why = tokio::select! {
            why = self.attend() => why,
            () = ending.notified() => "it was ended here".into(),
        };
        stands.store(false, Ordering::Release);
        tracing::debug!(target = %place, %why, "the connection is gone");
        self.process.kill().await;
        // Whoever does not listen any more has gone on without the answer.
        for CommandWaiter { opened, ended } in self.waiting.into_values() {
            opened.map(|opened| opened.send(Err(why.clone())));
            let _ = ended.send(Err(why.clone()));
        }
    }

    /// Why it ended.
    async fn attend(&mut self) -> String {
        loop {
            let Self { process, wishes, unsent, .. } = self;
            tokio::select! {
                next = process.next() => match next {
                    Ok(Some(SshEvent::Broken { why })) => return why,
                    Ok(Some(event)) => if let Err(why) = self.take(event) { return why },
                    ended => return process.ended(ended.err()).await,
                },
                sent = send_first(process, unsent), if !unsent.is_empty() => {
                    // Where it is gone, it says so itself.
                    if let Err(error) = sent { tracing::debug!(%error, "the process that speaks ssh hears nothing") }
                    unsent.pop_front();
                }
                wish = wishes.recv() => match wish {
                    Some(wish) => self.pass_on(wish),
                    None => return "nobody needs it".into(),
                },
            }
        }
    }

    fn pass_on(&mut self, wish: Wish) {
        match wish {
            Wish::Run(Request { number, text, streams, opened, ended }) => {
                self.waiting.insert(number, CommandWaiter { opened: Some(opened), ended });
                self.unsent.push_back((text, streams));
            }
            Wish::Forget(number) if self.waiting.remove(&number).is_some() => {
                let text = encoded(&SshOrder::Forget { number }).expect("a number fits");
                self.unsent.push_back((text, Vec::new()));
            }
            // It has ended.
            Wish::Forget(_) => {}
        }
    }

    /// Takes in what is reported of a command. The error says what is wrong with it.
    fn take(&mut self, event: SshEvent) -> Result<(), String> {
        // Whoever is not found, or does not listen any more, has gone on without it.
        match event {
            SshEvent::Opened { number } => {
                let opened = self.waiting.get_mut(&number).and_then(|waiting| waiting.opened.take());
                opened.map(|opened| opened.send(Ok(())));
            }
            SshEvent::Refused { number, why } => {
                let opened = self.waiting.remove(&number).and_then(|waiting| waiting.opened);
                opened.map(|opened| opened.send(Err(why)));
            }
            SshEvent::Ended { number, exit } => {
                self.waiting.remove(&number).map(|waiting| waiting.ended.send(Ok(exit)));
            }
            event
            @ (SshEvent::LoggedIn(_) | SshEvent::Shown { .. } | SshEvent::Failed(_) | SshEvent::Broken { .. }) => {
                return Err(unexpected(&event));
            }
        }
        Ok(())
    }
}

async fn send_first(process: &Process, unsent: &VecDeque<(Vec<u8>, Vec<OwnedFd>)>) -> io::Result<()> {
    match unsent.front() {
        Some((text, streams)) => process.send(text, streams).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_process_ended_is_said_in_words_that_help() {
        let signal = how_it_ended(ExitStatus::from_raw(11), "");
        assert!(signal.contains("ended with signal 11;") && signal.contains("`transport: openssh`"), "{signal}");
        let status = how_it_ended(ExitStatus::from_raw(101 << 8), "thread 'main' panicked");
        assert!(status.ends_with("ended with status 101; it said: thread 'main' panicked"), "{status}");
        let memory = how_it_ended(ExitStatus::from_raw(6), "memory allocation of 65536 bytes failed");
        assert_eq!(memory, too_much_memory());
    }

    /// The process is not trusted: a report that makes no sense ends it.
    #[tokio::test]
    async fn a_process_that_makes_no_sense_or_closes_its_end_is_ended_and_reported() {
        for (script, words) in [
            ("kill -SEGV $$", "ended with signal 11"),
            ("echo it is over >&2; exit 3", "ended with status 3; it said: it is over"),
            ("exec 0<&-; exec sleep 1000", "does not end"),
            ("printf '{\"Opened\": 7}' >&0; exec sleep 1000", "cannot understand"),
            (
                "printf '{\"Shown\": {\"verdict\": \"Trusted\", \"fingerprint\": \"x\"}}' >&0; exec sleep 1000",
                "not asked for",
            ),
        ] {
            let mut command = tokio::process::Command::new("sh");
            let process = Process::begin(command.arg("-c").arg(script)).expect("a shell");
            let (_wishes, wished) = mpsc::unbounded_channel();
            let mut attendant = Attendant::new(process, wished);
            let why = attendant.attend().await;
            assert!(why.contains(words), "{script}: {why}");
        }
    }
}
