//! The file behind the log: whole lines in, rolled between lines.
//!
//! It runs on the log's own thread and never reports an error to it: what cannot be written is counted.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// So long after somebody moved the log away, one request for a new file is taken for the end of that: the new file is there already.
const OF_THE_MOVER: Duration = Duration::from_secs(600);

/// What may be changed from outside while the file is written.
#[derive(Debug)]
pub(crate) struct Controls {
    /// Moves when a new file is asked for.
    pub(crate) generation: AtomicU64,
    /// The size in bytes at which a new file begins; 0: never.
    pub(crate) max: AtomicU64,
    /// How many old files are kept.
    pub(crate) keep: AtomicU32,
    /// Device and inode of the file that is open; none while none is.
    open: Mutex<Option<(u64, u64)>>,
}

impl Controls {
    pub(crate) fn new(max: u64, keep: u32) -> Self {
        Self {
            generation: AtomicU64::new(0),
            max: AtomicU64::new(max),
            keep: AtomicU32::new(keep),
            open: Mutex::default(),
        }
    }

    /// Whether the file at `path` is the one that is open. A place that cannot be looked at means nothing.
    pub(crate) fn is_in_place(&self, path: &Path) -> bool {
        let open = *self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.is_some_and(|open| match fs::metadata(path) {
            Ok(there) => identity(&there) == open,
            Err(error) => !is_absence(&error),
        })
    }

    fn note_open(&self, open: Option<(u64, u64)>) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = open;
    }
}

/// A log file being written.
pub(crate) struct LogFile {
    path: PathBuf,
    controls: Arc<Controls>,
    generation: u64,
    open: Option<Open>,
    lost: u64,
    /// What the log is to say about itself, before the next line.
    note: Option<&'static str>,
    /// When somebody else moved the file away, until a new one was asked for because of that.
    moved: Option<Instant>,
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
        let generation = controls.generation.load(Ordering::Acquire);
        let mut log =
            Self { path: path.to_owned(), controls, generation, open: None, lost: 0, note: None, moved: None };
        log.open_anew()?;
        Ok(log)
    }

    /// Opens the file at the path. Its directory is made again where that alone is gone: without the home tree above it there is no place for a log.
    fn open_anew(&mut self) -> io::Result<()> {
        let opened = match (Open::at(&self.path), self.path.parent()) {
            (Err(error), Some(directory)) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir(directory)?;
                Open::at(&self.path)
            }
            (opened, _) => opened,
        };
        let (open, identity) = opened?;
        self.controls.note_open(Some(identity));
        self.open = Some(open);
        Ok(())
    }

    fn close(&mut self) {
        self.controls.note_open(None);
        self.open = None;
    }

    /// Looks whether the open file still is the log, since others may move, remove or empty it.
    fn look(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        // A file that does not even answer is as good as removed: a file server forgot it.
        let (length, links) = open.file.metadata().map_or((open.size, 0), |ours| (ours.len(), ours.nlink()));
        if self.controls.is_in_place(&self.path) {
            if length < open.size {
                open.size = length;
                self.note = Some("another process emptied the log; its earlier lines are lost");
            }
            return Ok(());
        }
        self.moved = Some(Instant::now());
        let is_still_somewhere = links > 0;
        match self.open_anew() {
            Ok(()) if is_still_somewhere => {
                self.note = Some("another process moved the log; its earlier lines are in the file that was moved");
            }
            Ok(()) => self.note = Some("another process removed the log; its earlier lines are lost"),
            // Lines that go on into the file that was moved are not lost.
            Err(_) if is_still_somewhere => {}
            Err(error) => {
                self.close();
                return Err(error);
            }
        }
        Ok(())
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
            self.close();
            shift(&self.path, self.controls.keep.load(Ordering::Acquire))?;
        }
        Ok(())
    }

    /// Gets the file ready for `more` bytes, and says in it what became of the log before.
    fn prepare(&mut self, more: u64) -> io::Result<&mut Open> {
        self.look()?;
        // A log that cannot be rolled is still written: too large a file is better than none.
        let _rolled = self.roll_if_due(more);
        if self.open.is_none() {
            self.open_anew()?;
        }
        let open = self.open.as_mut().ok_or(ErrorKind::NotFound)?;
        if let Some(note) = self.note {
            open.append(format!("{:.3} WARN  {note}\n", Timestamp::now()).as_bytes())?;
            self.note = None;
        }
        if self.lost > 0 {
            let note =
                format!("{:.3} ERROR {} lines were lost: the log could not be written\n", Timestamp::now(), self.lost);
            open.append(note.as_bytes())?;
            self.lost = 0;
        }
        Ok(open)
    }
}

impl Open {
    /// The file, with its device and inode.
    fn at(path: &Path) -> io::Result<(Self, (u64, u64))> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let metadata = file.metadata()?;
        Ok((Self { file, size: metadata.len() }, identity(&metadata)))
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
        if self.prepare(line.len() as u64).and_then(|open| open.append(line)).is_err() {
            self.lost += 1;
        }
        Ok(line.len())
    }

    /// Called whenever the queue is empty, so also after a wake-up that brings no line.
    fn flush(&mut self) -> io::Result<()> {
        // What fails now is tried with the next line and the next wake-up, and lines that it costs are counted then.
        let _prepared = self.prepare(0);
        Ok(())
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
        assert_eq!(text.lines().count(), 4, "{text}");
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

    /// A log of two old files and a present one of one line, with whoever writes it.
    fn log_with_old_files(path: &Path) -> (LogFile, Arc<Controls>) {
        let controls = Arc::new(Controls::new(0, 5));
        let mut log = LogFile::open(path, Arc::clone(&controls)).expect("it can be opened");
        for line in ["oldest\n", "old\n", "present\n"] {
            controls.generation.fetch_add(u64::from(line != "oldest\n"), Ordering::AcqRel);
            log.write_all(line.as_bytes()).expect("written");
        }
        assert_eq!(
            [read(path), read(&numbered(path, 1)), read(&numbered(path, 2))],
            ["present\n", "old\n", "oldest\n"]
        );
        (log, controls)
    }

    #[test]
    fn a_log_that_was_moved_goes_on_in_its_place_and_hup_leaves_the_old_files_to_the_mover() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        for goes_on_at_once in [false, true] {
            let path = scratch.path().join(format!("{goes_on_at_once}.log"));
            let (mut log, controls) = log_with_old_files(&path);
            // As logrotate does it, the old files first.
            fs::rename(numbered(&path, 1), numbered(&path, 2)).expect("a move");
            fs::rename(&path, numbered(&path, 1)).expect("a move");
            if goes_on_at_once {
                log.write_all(b"before HUP\n").expect("written");
            }
            controls.generation.fetch_add(1, Ordering::AcqRel);
            log.flush().expect("woken");
            log.write_all(b"after HUP\n").expect("written");
            assert_eq!([read(&numbered(&path, 1)), read(&numbered(&path, 2))], ["present\n", "old\n"]);
            assert!(!numbered(&path, 3).exists(), "the mover's files stay where they are");
            let text = read(&path);
            assert!(text.contains(" WARN  another process moved the log; its earlier lines are in"), "{text}");
            assert_eq!((text.contains("before HUP"), text.ends_with("after HUP\n")), (goes_on_at_once, true), "{text}");
            assert_eq!(text.matches("another process").count(), 1, "{text}");
            // The next HUP is an ordinary one again.
            controls.generation.fetch_add(1, Ordering::AcqRel);
            log.flush().expect("woken");
            assert_eq!([read(&path), read(&numbered(&path, 2))], ["", "present\n"]);
        }
    }

    #[test]
    fn a_log_that_was_removed_replaced_or_emptied_or_lost_its_directory_goes_on_and_says_so() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let home = scratch.path();
        let path = home.join("log/t.log");
        let mut log = LogFile::open(&path, Arc::new(Controls::new(0, 3))).expect("it can be opened");
        let mut goes_on = |what: &str, words: &str| {
            log.write_all(format!("after {what}\n").as_bytes()).expect("written");
            let text = read(&path);
            assert!(text.contains(words) && text.ends_with(&format!("\nafter {what}\n")), "{what}: {text}");
            assert!(!text.contains('\0') && text.matches("another process").count() == 1, "{what}: {text}");
        };
        fs::remove_file(&path).expect("removed");
        goes_on("removing", "removed the log; its earlier lines are lost");
        fs::write(home.join("other"), "").expect("another file");
        fs::rename(home.join("other"), &path).expect("replaced");
        goes_on("replacing", "removed the log");
        fs::rename(home.join("log"), home.join("log.old")).expect("moved");
        goes_on("moving the directory", "moved the log");
        fs::remove_dir_all(home.join("log")).expect("removed");
        goes_on("removing the directory", "removed the log");
        File::options().write(true).open(&path).and_then(|file| file.set_len(0)).expect("emptied");
        goes_on("emptying", "emptied the log; its earlier lines are lost");
    }

    #[test]
    fn lines_go_on_into_the_moved_file_while_there_is_no_place_for_a_new_one() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (home, moved) = (scratch.path().join("home"), scratch.path().join("moved"));
        let path = home.join("log/t.log");
        let mut log = LogFile::open(&path, Arc::new(Controls::new(0, 3))).expect("it can be opened");
        fs::rename(&home, &moved).expect("moved with all that is in it");
        log.write_all(b"kept\n").expect("nobody is held up");
        assert_eq!(read(&moved.join("log/t.log")), "kept\n");
        assert!(!home.exists(), "a home tree is not made for the log's sake");
        fs::remove_dir_all(&moved).expect("removed");
        log.write_all(b"lost\n").expect("nobody is held up");
        fs::create_dir(&home).expect("healed");
        log.write_all(b"kept too\n").expect("nobody is held up");
        assert!(read(&path).contains("1 lines were lost") && read(&path).ends_with("kept too\n"), "{}", read(&path));
    }
}
