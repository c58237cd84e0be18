//! The file behind the log: whole lines in, rolled between lines.
//!
//! It runs on the log's own thread and never reports an error to it: what cannot be written goes to standard error and is counted, and the
//! [`Trouble`] stands in the process's status until the log can be written again.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, OFlags};

/// So long after somebody moved the log away, one request for a new file is taken for the end of that: the new file is there already.
const OF_THE_MOVER: Duration = Duration::from_secs(600);

/// The longest piece that a pipe takes at once, as POSIX says for Linux. Longer lines are cut on the way to standard error.
const LONGEST_AT_ONCE: usize = 4096;

/// How many bytes of one trouble's lines go to standard error: it may be a file that nobody rolls.
const MOST_ASIDE: usize = 1 << 20;

/// Why the log cannot be written in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Since when.
    pub since: Timestamp,
    /// What was attempted, on what, why it failed, where the lines go meanwhile, what to do.
    pub text: String,
}

/// What may be changed, and asked, from outside while the file is written.
#[derive(Debug)]
pub(crate) struct Controls {
    /// Moves when a new file is asked for.
    pub(crate) generation: AtomicU64,
    /// The size in bytes at which a new file begins; 0: never.
    pub(crate) max: AtomicU64,
    /// How many old files are kept.
    pub(crate) keep: AtomicU32,
    /// What stands in the way now.
    trouble: Mutex<Option<Trouble>>,
}

impl Controls {
    pub(crate) fn new(max: u64, keep: u32) -> Self {
        Self {
            generation: AtomicU64::new(0),
            max: AtomicU64::new(max),
            keep: AtomicU32::new(keep),
            trouble: Mutex::default(),
        }
    }

    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes note of what stands in the way now. It stands since it was noted first.
    fn note(&self, text: Option<String>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (text, &mut *trouble) {
            (None, trouble) => *trouble = None,
            (Some(text), Some(trouble)) => trouble.text = text,
            (Some(text), None) => *trouble = Some(Trouble { since: Timestamp::now(), text }),
        }
    }
}

/// A log file being written.
pub(crate) struct LogFile {
    path: PathBuf,
    controls: Arc<Controls>,
    generation: u64,
    open: Option<Open>,
    /// Lines that the log did not take, and how many of them went to standard error, with their bytes.
    missing: u64,
    aside: u64,
    aside_bytes: usize,
    /// Why the open file is not, or not only, the log as it should be.
    astray: Option<String>,
    /// What the log is to say about itself, before the next line.
    note: Option<&'static str>,
    /// When somebody else moved the file away, until a new one was asked for because of that.
    moved: Option<Instant>,
}

/// The file, and how much of it is whole lines.
struct Open {
    file: File,
    size: u64,
    identity: (u64, u64),
}

impl LogFile {
    /// Opens or makes the file at `path`, and its directory.
    pub(crate) fn open(path: &Path, controls: Arc<Controls>) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let generation = controls.generation.load(Ordering::Acquire);
        let mut log = Self {
            path: path.to_owned(),
            controls,
            generation,
            open: None,
            missing: 0,
            aside: 0,
            aside_bytes: 0,
            astray: None,
            note: None,
            moved: None,
        };
        log.open_anew()?;
        Ok(log)
    }

    /// Opens the file at the path. Its directory is made again where that alone is gone: without the home tree above it there is no place for a log.
    fn open_anew(&mut self) -> io::Result<()> {
        let opened = match (Open::at(&self.path), self.path.parent()) {
            (Err(error), Some(directory)) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir(directory).map_err(|_| error).and_then(|()| Open::at(&self.path))
            }
            (opened, _) => opened,
        };
        self.open = Some(opened?);
        Ok(())
    }

    /// Looks whether the open file still is the log, since others may move, remove or empty it.
    fn look(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        // A file that does not even answer is as good as removed: a file server forgot it.
        let (length, links) = open.file.metadata().map_or((open.size, 0), |ours| (ours.len(), ours.nlink()));
        match fs::metadata(&self.path) {
            Ok(there) if identity(&there) != open.identity => {}
            Ok(_) => {
                if length < open.size {
                    open.size = length;
                    self.note = Some("another process emptied the log; its earlier lines are lost");
                }
                return Ok(());
            }
            Err(error) if is_absence(&error) => {}
            // A place that cannot be looked at means nothing about the open file.
            Err(error) => {
                self.astray = Some(self.elsewhere("look at", &error));
                return Ok(());
            }
        }
        self.moved = Some(Instant::now());
        let is_still_somewhere = links > 0;
        match self.open_anew() {
            Ok(()) if is_still_somewhere => {
                self.note = Some("another process moved the log; its earlier lines are in the file that was moved");
            }
            Ok(()) => self.note = Some("another process removed the log; its earlier lines are lost"),
            // Lines that go on into the file that was moved are not lost.
            Err(error) if is_still_somewhere => self.astray = Some(self.elsewhere("open", &error)),
            Err(error) => {
                self.open = None;
                return Err(error);
            }
        }
        Ok(())
    }

    /// What is said where lines go on into a file that is not in the log's place, or may not be.
    fn elsewhere(&self, what: &str, error: &io::Error) -> String {
        let path = self.path.display();
        format!(
            "cannot {what} the log {path}: {error}; its lines go into the file that was there before; \
             give {path} and its directory back to the home's owner"
        )
    }

    /// Begins a new file where one was asked for, or where `more` bytes would make this one too large.
    fn roll_if_due(&mut self, more: u64) -> io::Result<()> {
        let generation = self.controls.generation.load(Ordering::Acquire);
        let max = self.controls.max.load(Ordering::Acquire);
        let full = self.open.as_ref().is_some_and(|open| max > 0 && open.size > 0 && open.size + more > max);
        let is_asked_for = std::mem::replace(&mut self.generation, generation) != generation;
        // Whoever moves a log away asks for a new file then. The old files are in his care: ours would be moved into their places.
        let is_done = is_asked_for && self.moved.take().is_some_and(|at| at.elapsed() < OF_THE_MOVER);
        if full || (is_asked_for && !is_done) {
            // The old file stays open until there is a new one: it takes the lines as long as there is none.
            shift(&self.path, self.controls.keep.load(Ordering::Acquire))?;
            self.open_anew()?;
        }
        Ok(())
    }

    /// Gets the file ready for `more` bytes, and says in it what became of the log before.
    fn prepare(&mut self, more: u64) -> io::Result<&mut Open> {
        self.astray = None;
        self.look()?;
        // A log that cannot be rolled is still written: too large a file is better than none.
        if let Err(error) = self.roll_if_due(more) {
            let path = self.path.display();
            self.astray = Some(format!(
                "cannot roll the log {path}: {error}; the old file grows; let the home's owner write in its directory"
            ));
        }
        if self.open.is_none() {
            self.open_anew()?;
        }
        let open = self.open.as_mut().ok_or(ErrorKind::NotFound)?;
        if let Some(note) = self.note {
            open.append(format!("{:.3} WARN  {note}\n", Timestamp::now()).as_bytes())?;
            self.note = None;
        }
        if self.missing > 0 {
            let note = format!(
                "{:.3} ERROR {} lines are missing: the log could not be written; {} of them went to standard error\n",
                Timestamp::now(),
                self.missing,
                self.aside
            );
            open.append(note.as_bytes())?;
            (self.missing, self.aside, self.aside_bytes) = (0, 0, 0);
        }
        Ok(open)
    }

    /// Hands a line that the log does not take to standard error, as far as that takes it at once: nobody waits for a reader there.
    fn put_aside(&mut self, line: &[u8]) {
        self.missing += 1;
        let mut line = line.to_owned();
        if line.len() > LONGEST_AT_ONCE {
            line.truncate(LONGEST_AT_ONCE - 1);
            line.push(b'\n');
        }
        let stderr = io::stderr();
        let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
        let takes = poll(&mut ready, Some(&Timespec::default()))
            .is_ok_and(|_| ready.iter().all(|one| one.revents() == PollFlags::OUT));
        if takes && self.aside_bytes + line.len() <= MOST_ASIDE && (&stderr).write_all(&line).is_ok() {
            self.aside += 1;
            self.aside_bytes += line.len();
        }
    }

    /// Takes note of how it goes, for the status.
    fn report(&self, failed: Option<&io::Error>) {
        let path = self.path.display();
        let failed = failed.map(|error| {
            format!(
                "cannot write the log {path}: {error}; its lines go to standard error, at most {} KiB of them; \
                 make space, or give {path} and its directory back to the home's owner",
                MOST_ASIDE >> 10
            )
        });
        self.controls.note(failed.or_else(|| self.astray.clone()));
    }
}

impl Open {
    /// Opens or makes the file. Whatever else is in its place, nobody waits for it.
    fn at(path: &Path) -> io::Result<Self> {
        let file = options().create(true).open(path)?;
        let metadata = file.metadata()?;
        Ok(Self { file, size: metadata.len(), identity: identity(&metadata) })
    }

    /// Appends all of `bytes` or, when the disk takes only a part, cuts that off again.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.size += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.file.set_len(self.size)?;
                Err(error)
            }
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let failed = self.prepare(line.len() as u64).and_then(|open| open.append(line)).err();
        if failed.is_some() {
            self.put_aside(line);
        }
        self.report(failed.as_ref());
        Ok(line.len())
    }

    /// Called whenever the queue is empty, so also after a wake-up that brings no line.
    fn flush(&mut self) -> io::Result<()> {
        // What fails now is tried with the next line and the next wake-up, and lines that it costs are counted then.
        let failed = self.prepare(0).err();
        self.report(failed.as_ref());
        Ok(())
    }
}

/// How a log is opened. A pipe that nobody reads fails at once, and one that is full takes no line.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    options
}

/// Whether a process of this account can write the log at `path`, now or once it makes it. Nothing is made or written.
pub(crate) fn try_open(path: &Path) -> io::Result<()> {
    match options().open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => match path.parent()
        {
            Some(directory) if directory.exists() => {
                Ok(rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
            }
            // It is made with the log.
            Some(_) | None => Ok(()),
        },
        Err(error) => Err(error),
    }
}

/// What tells one file from all others, as long as it is open.
fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Whether there certainly is no file, as opposed to one that cannot be looked at.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// `log` becomes `log.1`, `log.1` becomes `log.2` …; what would be beyond `keep` goes.
fn shift(path: &Path, keep: u32) -> io::Result<()> {
    let mut surplus = keep.max(1);
    while absent_is_fine(fs::remove_file(numbered(path, surplus)))? {
        surplus += 1;
    }
    if keep == 0 {
        absent_is_fine(fs::remove_file(path))?;
        return Ok(());
    }
    for number in (1..keep).rev() {
        absent_is_fine(fs::rename(numbered(path, number), numbered(path, number + 1)))?;
    }
    absent_is_fine(fs::rename(path, numbered(path, 1)))?;
    Ok(())
}

/// The path of an old file.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Whether there was a file.
fn absent_is_fine(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
