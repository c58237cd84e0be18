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
        // A log that cannot be rolled is still written: too large a file is better than none.
        let _rolled = self.roll_if_due(line.len() as u64);
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open::at(&self.path)?),
        };
        if self.lost > 0 {
            let note =
                format!("{:.3} ERROR {} lines were lost: the log could not be written\n", Timestamp::now(), self.lost);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).expect("the log is text")
    }

    #[test]
    fn a_full_disk_costs_lines_and_says_how_many_once_it_is_over() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("t.log");
        std::os::unix::fs::symlink("/dev/full", &path).expect("a disk that is always full");
        let controls = Arc::new(Controls::new(0, 3));
        let mut log = LogFile::open(&path, Arc::clone(&controls)).expect("it can be opened");
        for _ in 0..7 {
            log.write_all(b"lost\n").expect("nobody is held up");
        }
        fs::remove_file(&path).expect("healed");
        controls.generation.fetch_add(1, Ordering::AcqRel);
        log.write_all(b"kept\n").expect("nobody is held up");
        log.write_all(b"kept too\n").expect("nobody is held up");
        let text = read(&path);
        assert!(text.contains(" ERROR 7 lines were lost") && text.ends_with("\nkept\nkept too\n"), "{text}");
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn as_many_old_files_are_kept_as_told_and_a_lower_number_removes_the_rest() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("t.log");
        let controls = Arc::new(Controls::new(10, 3));
        let mut log = LogFile::open(&path, Arc::clone(&controls)).expect("it can be opened");
        for number in 0..9 {
            log.write_all(format!("line {number}\n").as_bytes()).expect("written");
        }
        let old = |number| numbered(&path, number);
        assert_eq!([read(&path), read(&old(1)), read(&old(3))], ["line 8\n", "line 7\n", "line 5\n"]);
        assert!(!old(4).exists());
        controls.keep.store(1, Ordering::Release);
        controls.generation.fetch_add(1, Ordering::AcqRel);
        log.flush().expect("woken by nothing");
        assert_eq!([read(&path), read(&old(1))], ["", "line 8\n"]);
        assert!(!old(2).exists() && !old(3).exists());
    }
}
