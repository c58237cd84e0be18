//! What goes to the agent: frames of all lanes, whole ones, sent at the end of each group of them.

use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use blat_domain::package::name::PackageId;
use blat_domain::protocol::frames::{self, Class, Lane, MARKER, Reply};
use blat_domain::protocol::outcome::Line;

use crate::failure::Failure;

/// Bytes of lines in one frame: short of the longest body, so that one long line more still fits.
pub(crate) const MOST_LINES: usize = 64 << 10;
/// Bytes that are gathered before they are sent without being asked to.
const GATHERED: usize = 128 << 10;

/// The way to the agent, shared by all lanes.
#[derive(Debug)]
pub(crate) struct Replies(Mutex<Output>);

#[derive(Debug)]
struct Output {
    pipe: File,
    waiting: Vec<u8>,
}

impl Replies {
    /// Greets: from here on everything is a frame.
    pub(crate) fn new(pipe: OwnedFd) -> io::Result<Self> {
        let mut output = Output { pipe: pipe.into(), waiting: format!("{MARKER}\n").into_bytes() };
        output.flush()?;
        Ok(Self(Mutex::new(output)))
    }

    /// Sends messages of one lane, at once.
    pub(crate) fn send(&self, lane: Lane, messages: &[Reply<'_>]) -> io::Result<()> {
        self.put(lane, messages, true)
    }

    /// Sends messages with the next ones.
    pub(crate) fn gather(&self, lane: Lane, messages: &[Reply<'_>]) -> io::Result<()> {
        self.put(lane, messages, false)
    }

    fn put(&self, lane: Lane, messages: &[Reply<'_>], at_once: bool) -> io::Result<()> {
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for message in messages {
            frames::append(&mut output.waiting, lane, message).map_err(io::Error::other)?;
        }
        if at_once || output.waiting.len() >= GATHERED { output.flush() } else { Ok(()) }
    }

    /// Sends lines, as many to a frame as fit.
    pub(crate) fn lines(&self, lane: Lane, lines: &[String]) -> io::Result<()> {
        let mut text = String::new();
        for line in lines {
            text.push_str(line);
            if text.len() >= MOST_LINES {
                self.gather(lane, &[Reply::Lines(&text)])?;
                text.clear();
            }
        }
        if text.is_empty() { Ok(()) } else { self.gather(lane, &[Reply::Lines(&text)]) }
    }

    /// Ends a request: done, or why not.
    pub(crate) fn end(&self, lane: Lane, result: &Result<(), Failure>) -> io::Result<()> {
        match result {
            Ok(()) => self.send(lane, &[Reply::Done]),
            Err(Failure { class, text }) => self.send(lane, &[Reply::Failed { class: *class, text }]),
        }
    }

    /// Says why the conversation ends.
    pub(crate) fn refuse(&self, lane: Lane, text: &str) -> io::Result<()> {
        self.send(lane, &[Reply::Failed { class: Class::Refused, text }])
    }
}

/// A line of an answer, with its end.
pub(crate) fn line<T>(package: &PackageId, says: T) -> String
where
    Line<T>: fmt::Display,
{
    format!("{}\n", Line { package: package.clone(), says })
}

impl Output {
    fn flush(&mut self) -> io::Result<()> {
        self.pipe.write_all(&self.waiting)?;
        self.waiting.clear();
        Ok(())
    }
}
