//! The log of a daemon: plain lines in a file that rolls by size and on request, written by a thread of its own.
//!
//! `blatd` and `blat-agent` share it. No line is lost or torn by rolling, and a log that cannot be written (disk
//! full, directory gone) never stops the daemon: lost lines are counted, and the count is the first line once writing
//! works again. What stands in the way is [`LogHandle::trouble`], for the process's status. A log that somebody else moves, removes or empties goes on in its place within a second, and says so. This crate knows nothing of targets or packages; of ours it depends on
//! `blat-domain` alone, for the one way in which foreign text is escaped.

mod file;
mod line;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::Level;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{Registry, fmt, reload};

pub use tracing_appender::non_blocking::WorkerGuard;

pub use crate::file::Trouble;
use crate::file::{Controls, LogFile};
use crate::line::LineFormat;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened or made.
    #[error("cannot open the log {path}: {source}", path = path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The process has a log already.
    #[error("cannot log to {path}: this process has a log already", path = path.display())]
    Installed {
        /// Which file was not opened.
        path: PathBuf,
    },
}

/// Makes the log of a process.
#[derive(Debug)]
pub struct Log;

impl Log {
    /// Opens `path` (making its directory if need be) and sends everything that this process logs from now on there.
    ///
    /// The file is rolled to `.1`, `.2` … before it would exceed `max` bytes (0: never), and `keep` old ones are kept.
    /// `verbose` is as in [`LogHandle::set_verbose`]. Dropping the guard writes what is still queued, as far as that
    /// takes no more than a second, so it must live as long as the process.
    ///
    /// # Errors
    /// When the file cannot be opened at all, or a process calls this twice.
    pub fn open(path: &Path, max: u64, keep: u32, verbose: u8) -> Result<(LogHandle, WorkerGuard), LogError> {
        let controls = Arc::new(Controls::new(max, keep));
        let file = LogFile::open(path, Arc::clone(&controls))
            .map_err(|source| LogError::Open { path: path.to_owned(), source })?;
        let (queue, guard) = NonBlockingBuilder::default().lossy(false).thread_name("log").finish(file);
        let (filter, levels) = reload::Layer::new(filter(verbose));
        let lines = fmt::layer().event_format(LineFormat).with_ansi(false).with_writer(queue.clone());
        tracing::subscriber::set_global_default(Registry::default().with(lines.with_filter(filter)))
            .map_err(|_| LogError::Installed { path: path.to_owned() })?;
        Ok((LogHandle { controls, queue, levels: Arc::new(move |verbose| set(&levels, verbose)) }, guard))
    }
}

/// Whether the log at `path` can be written by this account, now or once it is made. Nothing is made or written.
///
/// # Errors
/// What the system says, where it cannot.
pub fn expect_writable(path: &Path) -> Result<(), LogError> {
    file::try_open(path).map_err(|source| LogError::Open { path: path.to_owned(), source })
}

/// Changes a log while it is written. Clones speak to the same log.
#[derive(Clone)]
pub struct LogHandle {
    controls: Arc<Controls>,
    queue: NonBlocking,
    levels: Arc<dyn Fn(u8) + Send + Sync>,
}

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogHandle").field("controls", &self.controls).finish_non_exhaustive()
    }
}

impl LogHandle {
    /// Begins a new file: the present one becomes `.1`, unless somebody else moved it away just before. Lines logged before this call are in the old file or, where
    /// they were still queued, in the new one; none is lost. Many calls before the writer gets to it roll once.
    pub fn roll(&self) {
        self.controls.generation.fetch_add(1, Ordering::AcqRel);
        self.wake();
    }

    /// Has the file looked at, and written anew where others moved or removed it. The next line does that too, but often nothing is logged for
    /// hours, and whoever reads the log then is to find one.
    pub fn keep_in_place(&self) {
        self.wake();
    }

    /// Why the log cannot be written in its place, as it was found last; none where it can.
    pub fn trouble(&self) -> Option<Trouble> {
        self.controls.trouble()
    }

    /// The writer sees to its file when it is woken, even by nothing. It can only be gone at the very end of the process, when there is nothing left
    /// to see to.
    fn wake(&self) {
        self.queue.clone().write_all(b"").unwrap_or_default();
    }

    /// Says how much is logged: 0 errors, 1 what happens to packages (and warnings), 2 decisions, 3 everything.
    pub fn set_verbose(&self, verbose: u8) {
        (self.levels)(verbose);
    }

    /// Says at which size the log is rolled (bytes; 0: never) and how many old files are kept.
    pub fn set_limits(&self, max: u64, keep: u32) {
        self.controls.max.store(max, Ordering::Release);
        self.controls.keep.store(keep, Ordering::Release);
    }
}

fn set<S>(levels: &reload::Handle<Targets, S>, verbose: u8) {
    // It fails only when the subscriber is gone, and then nobody logs.
    levels.reload(filter(verbose)).unwrap_or_default();
}

/// What is logged at `verbose`: our own crates by level; other people's only when they warn, or at 3.
fn filter(verbose: u8) -> Targets {
    let (ours, others) = match verbose {
        0 => (Level::ERROR, Level::ERROR),
        1 => (Level::INFO, Level::WARN),
        2 => (Level::DEBUG, Level::WARN),
        _ => (Level::TRACE, Level::DEBUG),
    };
    Targets::new().with_target("blat", ours).with_default(LevelFilter::from_level(others))
}
