//! What a process takes over from whoever starts it, and what is made of it before anything else happens: its umask and its limits.
//!
//! A cron job, a boot script or a careless login starts `blat`, and what that one set reaches every file that is made here. A private
//! file gets its own mode. An open umask opens no file to more accounts than are meant, and a shut one closes no file to its owner.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::Mode;
use rustix::process::{Resource, Signal, getrlimit, setrlimit, umask};

/// The fewest open files by which a master or an agent can work: its own, and those of the programs that it runs.
const FEWEST_FILES: u64 = 64;

/// Makes a thread and waits for its end, which is at once. What makes threads later on does not always say why it cannot.
///
/// # Errors
/// Where the account may not have one more.
pub fn expect_threads() -> io::Result<()> {
    let trial = std::thread::Builder::new().name("trial".to_owned()).spawn(|| {});
    let trial = trial.map_err(|error| {
        io::Error::other(format!(
            "cannot make a thread: {error}; let the account run more processes (ulimit -u, or TasksMax= of the service)"
        ))
    })?;
    trial.join().map_err(|_| io::Error::other("a thread that does nothing panicked; report this as a bug"))
}

/// Puts this process's surroundings right. To be called first of all in every executable, while it has one thread.
///
/// - Nobody but the owner may write what is made, and the owner may always use it. A stricter umask stays in force. What this process starts inherits that.
/// - A file that may not grow any further (`ulimit -f`) is an error of the write, and does not end the process.
/// - As many files may be open as the system allows to this account.
///
/// # Errors
/// Where the system lets this process have so few open files that nothing would work, or takes no handler for a signal.
pub fn settle() -> io::Result<()> {
    let given = umask(Mode::RWXU);
    umask((given | Mode::WGRP | Mode::WOTH) - Mode::RWXU);
    // A handler and not "ignore", which those whom this process starts would inherit: they may count on being ended.
    signal_hook::flag::register(Signal::XFSZ.as_raw(), Arc::new(AtomicBool::new(false)))?;
    let mut files = getrlimit(Resource::Nofile);
    if files.current != files.maximum {
        files.current = files.maximum;
        // Where that is refused, the lower limit is what there is.
        let _ = setrlimit(Resource::Nofile, files);
    }
    match getrlimit(Resource::Nofile).current {
        Some(most) if most < FEWEST_FILES => Err(io::Error::other(format!(
            "the limit of open files is {most}, and {FEWEST_FILES} are needed; raise it (ulimit -Hn, or LimitNOFILE= of the service)"
        ))),
        Some(_) | None => Ok(()),
    }
}
