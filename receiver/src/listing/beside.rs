//! What is installed beside the receiver: the scripts, some of which cron runs, and the receiver's own file. Whatever somebody removes or changes
//! there is found out within the conversation, since the host may allow no other session.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use blat_domain::util::text::printable;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

use crate::archive::is_plain;

/// The longest file that is looked into, in bytes: ours are shorter by far.
const LONGEST: u64 = 1 << 20;
/// The bit by which a file's owner may execute it. What is mounted so that nothing is executed has it as well.
const EXECUTABLE: u32 = 0o100;
/// The file that this process runs, whatever became of its name.
const RUNNING: &str = "/proc/self/exe";

/// A line for each of these files that is missing or another one, and for the receiver's own where another one would be started now. None where
/// nothing is asked about.
pub(crate) fn outdated(files: &[(&str, [u8; 32])]) -> Vec<String> {
    let started = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let mut lines = Vec::new();
    // One that was found by the PATH does not know where it lies.
    let bin = started.parent().filter(|bin| !bin.as_os_str().is_empty() && !files.is_empty());
    if let Some(bin) = bin {
        let mut name_where = |is_current: bool, name: &str| {
            if !is_current {
                lines.push(format!("outdated {}\n", printable(name)));
            }
        };
        for (name, digest) in files {
            let is_name = is_plain(name.as_bytes()) && !name.contains('/');
            // What cannot be looked at cannot be run either.
            name_where(is_name && is_whole(&bin.join(name), digest).unwrap_or(false), name);
        }
        name_where(is_running(&started), &started.file_name().unwrap_or_default().to_string_lossy());
    }
    lines
}

/// Whether an executable file of this digest is there. Never waits for whoever has the other end of a pipe.
fn is_whole(path: &Path, digest: &[u8; 32]) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let found = file.metadata()?;
    if !found.is_file() || found.mode() & EXECUTABLE == 0 || found.len() > LONGEST {
        return Ok(false);
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(Sha256::digest(&text)[..] == digest[..])
}

/// Whether the file of this path is the one that runs. Nobody writes into a program that runs, so a changed one is another file; some file systems
/// give a file other numbers later, so its size and time tell.
fn is_running(path: &Path) -> bool {
    let facts = |path: &Path| {
        std::fs::metadata(path).map(|found| (found.len(), found.mtime(), found.mtime_nsec(), found.mode()))
    };
    match facts(Path::new(RUNNING)) {
        Ok(running) => facts(path).is_ok_and(|there| there == running && there.3 & EXECUTABLE != 0),
        // A system without /proc does not tell.
        Err(_) => true,
    }
}
