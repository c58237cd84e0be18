//! What went wrong, in the words of an answer.

use std::fmt::Display;
use std::io;

use blat_domain::protocol::frames::{Class, FrameError, PROTOCOL};
use blat_domain::protocol::outcome::{FailedFor, Outcome};
use blat_domain::util::limits::Limit;
use blat_domain::util::text::printable;
use rustix::io::Errno;

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    /// What can be done about it.
    pub(crate) class: Class,
    /// What was attempted, on what, why it failed, what to do.
    pub(crate) text: String,
}

impl Failure {
    /// What is refused, or failed for a reason of ours.
    pub(crate) fn refused(what: impl Display, why: impl Display, advice: &str) -> Self {
        Self { class: Class::Refused, text: text(&what, &why, advice) }
    }

    /// What another process keeps us from.
    pub(crate) fn busy(what: impl Display, why: impl Display) -> Self {
        Self { class: Class::Busy, text: text(&what, &why, "try again later") }
    }

    /// What the system refused.
    pub(crate) fn io(what: impl Display, error: &io::Error, advice: &str) -> Self {
        let (class, advice) =
            if is_full(error) { (Class::Space, "make space on this host") } else { (Class::Refused, advice) };
        Self { class, text: text(&what, error, better_advice(error).unwrap_or(advice)) }
    }
}

/// One copy for every kind of text: a receiver travels to its targets, so it is kept small.
#[inline(never)]
fn text(what: &dyn Display, why: &dyn Display, advice: &str) -> String {
    format!("{what} failed: {why}; {advice}")
}

/// What to do about an error that says by itself what it is about: mostly a limit of this account.
fn better_advice(error: &io::Error) -> Option<&'static str> {
    let limit = match error.kind() {
        io::ErrorKind::FileTooLarge => Limit::FileSize,
        io::ErrorKind::QuotaExceeded => Limit::Quota,
        io::ErrorKind::OutOfMemory => Limit::Memory,
        io::ErrorKind::InvalidFilename => {
            return Some("the file system there takes no name that long; choose a shorter one");
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            return Some("the file system there is mounted read-only; mount it for writing, or repair it");
        }
        _ => match Errno::from_io_error(error) {
            Some(Errno::MFILE) => Limit::OpenFiles,
            Some(Errno::IO) => return Some("the disk there reports errors; check it"),
            _ => return None,
        },
    };
    Some(limit.words())
}

/// The longest file that this account may write, in bytes; none where there is no limit.
pub(crate) fn file_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Fsize).current
}

/// The class of what the system refused.
pub(crate) fn refused_by_system(error: &io::Error) -> FailedFor {
    if is_full(error) { FailedFor::Space } else { FailedFor::Io }
}

/// Whether space, inodes or quota ran out.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Why one package cannot be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setback {
    pub(crate) class: FailedFor,
    /// The rest of the line.
    pub(crate) text: String,
}

impl Setback {
    /// What was staged is not what it should be.
    pub(crate) fn digest(why: impl Display) -> Self {
        Self { class: FailedFor::Digest, text: format!("{why}; send it again") }
    }

    /// The package holds what none may.
    pub(crate) fn foreign(why: impl Display) -> Self {
        Self { class: FailedFor::Foreign, text: format!("{why}; remove it at the source") }
    }

    /// What the system refused.
    pub(crate) fn io(what: impl Display, error: &io::Error) -> Self {
        let class = refused_by_system(error);
        let advice = better_advice(error).unwrap_or("check owners, modes and space there");
        Self { class, text: text(&what, error, advice) }
    }

    /// What it makes of a package.
    pub(crate) fn into_outcome(self) -> Outcome {
        Outcome::Failed(self.class, self.text)
    }
}

/// A path of foreign bytes, fit for an answer.
pub(crate) fn shown(path: &[u8]) -> String {
    format!("\"{}\"", printable(&String::from_utf8_lossy(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_account_are_named_in_the_place_of_any_other_advice() {
        for (errno, class, words) in [
            (Errno::FBIG, "io", "(ulimit -f); raise that limit"),
            (Errno::MFILE, "io", "(ulimit -n); raise that limit"),
            (Errno::NOMEM, "io", "(ulimit -v, or what the host has); raise that limit"),
            (Errno::DQUOT, "space", "the disk quota of the target's account is used up; make space in it, or raise it"),
            (Errno::NAMETOOLONG, "io", "; the file system there takes no name that long; choose a shorter one"),
            (Errno::IO, "io", "; the disk there reports errors; check it"),
            (Errno::ROFS, "io", "; the file system there is mounted read-only; mount it for writing, or repair it"),
            (Errno::NOSPC, "space", "check owners, modes and space there"),
            (Errno::ACCESS, "io", "check owners, modes and space there"),
        ] {
            let error = io::Error::from(errno);
            let setback = Setback::io("writing it", &error);
            assert!(setback.class.to_string() == class && setback.text.ends_with(words), "{errno}: {setback:?}");
            let failure = Failure::io("writing it", &error, "check owners, modes and space there");
            assert_eq!(failure.class == Class::Space, class == "space", "{failure}");
            assert!(errno == Errno::NOSPC || failure.text.ends_with(words), "{failure}");
        }
    }
}

/// Why a conversation cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ending {
    /// The archive cannot be served.
    #[error(transparent)]
    Archive(#[from] Failure),
    /// What came is no frame of ours.
    #[error("reading the agent's frames failed: {0}; check that blat-agent and blat-receiver are of one version")]
    Frame(#[from] FrameError),
    /// A frame came that has no place there.
    #[error("following the agent failed: {0}; check that blat-agent and blat-receiver are of one version")]
    Violation(&'static str),
    /// The agent speaks another protocol.
    #[error(
        "talking to the agent failed: it speaks version {0} of the protocol, and this is version {PROTOCOL}; install both of one version"
    )]
    Protocol(u16),
    /// The way to the agent is gone.
    #[error("talking to the agent failed: {0}; connect again")]
    Link(#[from] io::Error),
    /// The system makes no more threads.
    #[error("starting a thread failed: {0}; {words}", words = Limit::Processes.words())]
    Thread(#[source] io::Error),
    /// The agent has ended it.
    #[error("the agent has ended the conversation")]
    Over,
}
