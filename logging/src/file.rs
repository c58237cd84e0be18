//! The file behind the log: whole lines in, rolled between lines.
//!
//! It runs on the log's own thread and never reports an error to it: what cannot be written is counted.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use jiff::Timestamp;

/// What may be changed from outside while the file is written.
#[derive(Debug)]
pub(crate) struct Controls {
    /// Moves when a new file is asked for.
    pub(crate) generation: AtomicU64,
    /// The size in bytes at which a new file begins; 0: never.
    pub(crate) max: AtomicU64,
    /// How many old files are kept.
    pub(crate) keep: AtomicU32,
}

impl Controls {
    pub(crate) fn new(max: u64, keep: u32) -> Self {
        Self { generation: AtomicU64::new(0), max: AtomicU64::new(max), keep: AtomicU32::new(keep) }
    }
}

/// A log file being written.
pub(crate) struct LogFile {
    path: PathBuf,
    controls: Arc<Controls>,
    generation: u64,
    open: Option<Open>,
    lost: u64,
}

/// The file, and how much of it is whole lines.
struct Open {
    file: File,
    size: u64,
}

impl LogFile {
    /// Opens or makes the file at `path`, and its directory.
    pub(crate) fn open(path: &Path, controls: Arc<Controls>) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let open = Some(Open::at(path)?);
        let generation = controls.generation.load(Ordering::Acquire);
        Ok(Self { path: path.to_owned(), controls, generation, open, lost: 0 })
    }

    /// Begins a new file where one was asked for, or where `more` bytes would make this one too large.
    fn roll_if_due(&mut self, more: u64) -> io::Result<()> {
        let generation = self.controls.generation.load(Ordering::Acquire);
        let max = self.controls.max.load(Ordering::Acquire);
        let full = self.open.as_ref().is_some_and(|open| max > 0 && open.size > 0 && open.size + more > max);
        if generation != self.generation || full {
            self.generation = generation;
            self.open = None;
            shift(&self.path, self.controls.keep.load(Ordering::Acquire))?;
        }
        Ok(())
    }

    /// Puts one whole line, or leaves no trace of it.
    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        if self.roll_if_due(line.len() as u64).is_err() {
            // A log that cannot be rolled is still written: too large a file is better than none.
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open::at(&self.path)?),
        };
        if self.lost > 0 {
            let note = format!("{:.3} ERROR {} lines were lost: the log could not be written\n", Timestamp::now(), self.lost);
            open.append(note.as_bytes())?;
            self.lost = 0;
        }
        open.append(line)
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file, size })
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
        if self.put(line).is_err() {
            self.lost += 1;
        }
        Ok(line.len())
    }

    /// Called whenever the queue is empty, so also after a wake-up that brings no line.
    fn flush(&mut self) -> io::Result<()> {
        if self.roll_if_due(0).is_ok() && self.open.is_none() {
            self.open = Open::at(&self.path).ok();
        }
        Ok(())
    }
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
