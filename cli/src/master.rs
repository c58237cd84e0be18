//! Talking to the master over its socket: one request a connection, answers line by line.
//!
//! The master is trusted to be ours, but not to be of this build or in good health: lines are bounded, and every read
//! ends at a deadline.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use blat_config::{Home, socket};
use blat_domain::protocol::messages::{Answer, LONGEST_LINE, MasterRequest};
use blat_domain::protocol::status::Status;
use blat_domain::util::text::printable;

use crate::failure::{Exit, Failure};

/// How long the master may take for an answer that it has at hand.
const PROMPT: Duration = Duration::from_secs(10);
/// How long it may be silent while a sync is awaited before it is asked whether it is well: it tells only what is new.
const SILENCE: Duration = Duration::from_secs(30);

/// A connection to the running master.
#[derive(Debug)]
pub(crate) struct Master {
    home: Home,
    stream: UnixStream,
}

impl Master {
    /// Connects to the master of a home tree; none when none is running.
    pub(crate) fn find(home: &Home) -> Result<Option<Self>, Failure> {
        match socket::connect(home) {
            Ok(stream) => Ok(Some(Self { home: home.clone(), stream })),
            // A socket without a listener is what a master that was killed leaves behind.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
            Err(error) => Err(Failure::failed(format!(
                "cannot connect to the master at {}: {error}",
                printable(&home.socket().to_string_lossy())
            ))),
        }
    }

    /// Connects to the master; its absence is a failure.
    pub(crate) fn required(home: &Home) -> Result<Self, Failure> {
        Self::find(home)?.ok_or_else(Failure::no_master)
    }

    /// Sends the request, and hands over the answers as they come, until the master closes the connection.
    pub(crate) fn ask(mut self, request: &MasterRequest) -> Result<Answers, Failure> {
        let awaited = matches!(request, MasterRequest::Sync { wait: true, .. });
        let patience = if awaited { SILENCE } else { PROMPT };
        let mut line = serde_json::to_vec(request)
            .map_err(|error| Failure::failed(format!("cannot put the request to the master into words: {error}")))?;
        line.push(b'\n');
        self.stream
            .set_read_timeout(Some(patience))
            .and_then(|()| self.stream.set_write_timeout(Some(PROMPT)))
            .and_then(|()| self.stream.write_all(&line))
            .map_err(|error| lost(&error))?;
        Ok(Answers { reader: BufReader::new(self.stream), begun: Vec::new(), probed: awaited.then_some(self.home) })
    }

    /// The present state.
    pub(crate) fn status(self) -> Result<Status, Failure> {
        match self.ask(&MasterRequest::Status)?.only()? {
            Answer::Status(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }
}

/// What the master answers to one request.
#[derive(Debug)]
pub(crate) struct Answers {
    reader: BufReader<UnixStream>,
    /// What has come of the line in hand.
    begun: Vec<u8>,
    /// Where to ask again when the master is silent, if it may be.
    probed: Option<Home>,
}

impl Answers {
    /// The next answer; none when the master has closed the connection. A refusal is a failure.
    pub(crate) fn next(&mut self) -> Result<Option<Answer>, Failure> {
        let Some(line) = self.line()? else { return Ok(None) };
        let answer = serde_json::from_slice(&line).map_err(|error| {
            Failure::failed(format!("the master's answer cannot be understood: {error}"))
                .hint("after an upgrade, run `blat restart`")
        })?;
        match answer {
            Answer::Refused { error, exit_code } => Err(Failure::new(Exit(exit_code), printable(&error))),
            Answer::Status(_) | Answer::Accepted { .. } | Answer::Progress { .. } | Answer::SyncFinished { .. } => {
                Ok(Some(answer))
            }
        }
    }

    /// The next line without its end, however long the master is silent, as long as it is well.
    fn line(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            let room = (LONGEST_LINE as u64 + 1).saturating_sub(self.begun.len() as u64);
            match self.reader.by_ref().take(room).read_until(b'\n', &mut self.begun) {
                Ok(_) => break,
                Err(error) => match &self.probed {
                    Some(home) if is_silence(&error) => Master::required(home)?.status().map(drop)?,
                    Some(_) | None => return Err(lost(&error)),
                },
            }
        }
        let mut line = std::mem::take(&mut self.begun);
        match line.pop() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(line)),
            Some(_) => Err(Failure::failed("the master's answer breaks off or is too long")),
        }
    }

    /// The one answer to a request that has only one.
    pub(crate) fn only(&mut self) -> Result<Answer, Failure> {
        self.next()?.ok_or_else(|| Failure::failed("the master closed the connection without an answer"))
    }
}

/// Whether a read or write ended at its deadline.
fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// The connection failed in the middle.
fn lost(error: &io::Error) -> Failure {
    if is_silence(error) {
        return Failure::new(Exit::BUSY, "the master does not answer in time").hint("look into log/blatd.log");
    }
    Failure::failed(format!("lost the connection to the master: {error}"))
}

/// An answer to another question than ours.
pub(crate) fn unexpected(answer: &Answer) -> Failure {
    let what = match answer {
        Answer::Status(_) => "a status",
        Answer::Accepted { .. } => "an acceptance",
        Answer::Progress { .. } => "progress",
        Answer::SyncFinished { .. } => "a finished sync",
        Answer::Refused { .. } => "a refusal",
    };
    Failure::failed(format!("the master answered with {what}, which was not asked for"))
        .hint("after an upgrade, run `blat restart`")
}
