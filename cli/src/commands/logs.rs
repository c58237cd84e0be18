//! `blat logs`: a target's log, with whatever could disturb a terminal escaped.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use blat_config::Home;
use blat_config::pid_file::PidFile;
use blat_domain::package::name::TargetName;
use blat_domain::util::text::{escaped, printable};

use crate::args::LogsArgs;
use crate::commands::targets;
use crate::failure::{Exit, Failure, Outcome};

/// How often a followed log is looked at.
const BEAT: Duration = Duration::from_millis(200);
/// How long a running agent may take to write its log anew, where another process moved or removed that.
const REOPENED: Duration = Duration::from_secs(3);
/// The longest line that is held in memory, in bytes; a longer one is printed in pieces.
const LONGEST: u64 = 64 << 10;

/// Prints the log, and goes on with it when it is to be followed.
pub(crate) fn run(home: &Home, args: &LogsArgs) -> Outcome {
    let path = home.agent_log(&args.target);
    let mut log = find(home, &args.target, &path)?;
    let mut out = io::stdout().lock();
    loop {
        log.copy(&mut out)?;
        out.flush()?;
        if !args.follow {
            log.finish(&mut out)?;
            return Ok(Exit::DONE);
        }
        thread::sleep(BEAT);
        if let Some(next) = log.successor(&path).map_err(|error| cannot_read(&path, &error))? {
            // What was written between the last look and the roll belongs to the old log.
            log.copy(&mut out)?;
            log.finish(&mut out)?;
            log = next;
        }
    }
}

/// The log, once there is one where an agent runs that writes it. One without a line was made a moment ago.
fn find(home: &Home, target: &TargetName, path: &Path) -> Result<Log, Failure> {
    let deadline = Instant::now() + REOPENED;
    loop {
        let empty = match Log::open(path) {
            Ok(log) if log.is_empty => Some(log),
            Ok(log) => return Ok(log),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(cannot_read(path, &error)),
        };
        targets::known(home, target)?;
        let pid_file = home.agent_pid(target);
        let holder = PidFile::holder(&pid_file).map_err(|error| cannot_read(&pid_file, &error))?;
        if let Some(log) = empty
            && (holder.is_none() || Instant::now() > deadline)
        {
            return Ok(log);
        }
        let Some(pid) = holder else {
            return Err(Failure::failed(format!("target {target} has no log, and no agent runs that writes one"))
                .hint("its agent writes it as soon as the master runs: `blat start`"));
        };
        if Instant::now() > deadline {
            return Err(Failure::failed(format!(
                "target {target} has no log, and its agent (pid {pid}) does not write it anew"
            ))
            .hint("look whether log/ is there and its disk takes files; log/blatd.log may say more"));
        }
        thread::sleep(BEAT);
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot read {}: {error}", printable(&path.to_string_lossy())))
}

/// An open log, read up to some line.
#[derive(Debug)]
struct Log {
    reader: BufReader<File>,
    inode: (u64, u64),
    /// Whether nothing was in it when it was opened.
    is_empty: bool,
    /// A last line without its end: the rest of it is still being written.
    begun: Vec<u8>,
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let inode = (metadata.dev(), metadata.ino());
        Ok(Self { reader: BufReader::new(file), inode, is_empty: metadata.len() == 0, begun: Vec::new() })
    }

    /// The log that stands in this one's place, once it was rolled. Between the two steps of a roll there is none.
    fn successor(&mut self, path: &Path) -> io::Result<Option<Self>> {
        let next = match Self::open(path) {
            Ok(next) => next,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if next.inode != self.inode {
            return Ok(Some(next));
        }
        // Somebody emptied it in place: begin again.
        if next.reader.get_ref().metadata()?.len() < self.reader.stream_position()? {
            self.reader.seek(SeekFrom::Start(0))?;
            self.begun.clear();
        }
        Ok(None)
    }

    /// Writes all whole lines that have come, and an unfinished one that grew too long.
    fn copy(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        loop {
            let room = LONGEST.saturating_sub(self.begun.len() as u64);
            let read = io::Read::take(&mut self.reader, room)
                .read_until(b'\n', &mut self.begun)
                .map_err(|error| Failure::failed(format!("cannot read the log: {error}")))?;
            let whole = self.begun.last() == Some(&b'\n');
            if whole || self.begun.len() as u64 >= LONGEST {
                self.finish(out)?;
            } else if read == 0 {
                return Ok(());
            }
        }
    }

    /// Writes the line in hand as it is, when there is one.
    fn finish(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        if !self.begun.is_empty() {
            let line = self.begun.strip_suffix(b"\n").unwrap_or(&self.begun);
            writeln!(out, "{}", escaped(&String::from_utf8_lossy(line)))?;
            self.begun.clear();
        }
        Ok(())
    }
}
