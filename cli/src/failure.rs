//! How a command ends: its exit code, and what is said when it did not do what it was asked.
//!
//! Only `main` exits; everything else hands one of these values up.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitStatus;

use blat_domain::protocol::exit_code;
use blat_domain::util::text::escaped_lines;

/// How `blat` ends: one of [`exit_code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    /// Done.
    pub const DONE: Self = Self(exit_code::DONE);
    /// It was tried and failed.
    pub const FAILED: Self = Self(exit_code::FAILED);
    /// Wrong usage: nothing was tried.
    pub const USAGE: Self = Self(exit_code::USAGE);
    /// No master is running.
    pub const NO_MASTER: Self = Self(exit_code::NO_MASTER);
    /// Busy: try later.
    pub const BUSY: Self = Self(exit_code::BUSY);
    /// The configuration is not valid.
    pub const CONFIG: Self = Self(exit_code::BAD_CONFIG);
}

/// Why a command ended without doing what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    text: String,
    hint: Option<String>,
}

impl Exit {
    /// The exit code of an executable that was run for this one; one that was killed failed.
    pub(crate) fn of(status: ExitStatus) -> Self {
        status.code().and_then(|code| u8::try_from(code).ok()).map_or(Self::FAILED, Self)
    }
}

/// What every command hands to `main`.
pub(crate) type Outcome = Result<Exit, Failure>;

impl Failure {
    /// A failure with its exit code. `text` says what was attempted, on what and why it failed, all fit for printing.
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into(), hint: None }
    }

    /// A failure of which somebody else, such as an executable run for this one, has told already.
    pub(crate) fn told(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// Something was tried and failed.
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::new(Exit::FAILED, text)
    }

    /// The command cannot have been meant as it was given.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::USAGE, text)
    }

    /// The command needs the master, and there is none.
    pub(crate) fn no_master() -> Self {
        Self::new(Exit::NO_MASTER, "no master is running").hint("start it with `blat start`")
    }

    /// Adds what the operator can do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says it on standard error. Where that is gone too, nobody is left to tell.
    pub(crate) fn say(&self) {
        let _ = write!(io::stderr(), "{self}");
    }

    /// The code to exit with.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            return Ok(());
        }
        writeln!(f, "blat: {}", escaped_lines(&self.text))?;
        match &self.hint {
            Some(hint) => writeln!(f, "hint: {}", escaped_lines(hint)),
            None => Ok(()),
        }
    }
}

/// Writing to standard output failed.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // A reader that went away (`blat status | head`) needs no message.
            return Self::told(Exit::DONE);
        }
        Self::failed(format!("cannot write to standard output: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_and_a_hint() {
        assert_eq!(Failure::no_master().to_string(), "blat: no master is running\nhint: start it with `blat start`\n");
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit(), failure.to_string()), (Exit::DONE, String::new()));
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::StorageFull)).exit(), Exit::FAILED);
    }
}
