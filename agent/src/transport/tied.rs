//! The ssh client must not outlive the agent, in whatever way that ends: it holds a connection that our key has opened. Nor must what reads
//! a database for it.
//!
//! The system ends a process with its parent where the process itself has asked for that. So our own executable goes first: it asks, looks
//! whether the parent is still there, and becomes the client. The request stays in force through that.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit};

/// The first argument by which this executable knows that it is to become another: no option that a person types.
const BECOME: &str = "--become-tied-to";
/// The exit status where the program cannot be run, as a shell has it.
const CANNOT_RUN: u8 = 127;

/// A command for `program` that ends with this process at the latest: it is killed then. It is of this process's group, so what is sent to the
/// group reaches it too.
///
/// It has to be started by a thread that lives as long as this process: the system takes the end of that thread for its parent's.
pub(crate) fn command(program: impl AsRef<OsStr>) -> tokio::process::Command {
    blocking_command(program).into()
}

/// The same for a thread that waits for it itself.
pub(crate) fn blocking_command(program: impl AsRef<OsStr>) -> std::process::Command {
    let mut command = std::process::Command::new(ourselves());
    command.arg(BECOME).arg(std::process::id().to_string()).arg(program);
    command
}

/// Limits this process, which was started for what strangers send: it takes at most so many bytes of memory, and no more than it was given, and leaves
/// no image of it, where a key or a password may be.
///
/// # Errors
/// The system refuses.
pub(crate) fn confine(most: u64) -> io::Result<()> {
    let limit = |most| Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(Resource::Core, limit(0))?;
    // Nobody may raise what the agent was given.
    let given = getrlimit(Resource::Data).maximum.unwrap_or(u64::MAX);
    Ok(setrlimit(Resource::Data, limit(most.min(given)))?)
}

/// What [`command`] starts, as words for a POSIX shell behind `exec`: `program` ends with the parent of that shell at the latest.
pub(crate) fn shell_command(program: &str, arguments: &[OsString]) -> OsString {
    let mut words = quoted(named_ourselves().as_os_str());
    words.extend_from_slice(format!(" {BECOME} $PPID {program}").as_bytes());
    for argument in arguments {
        words.push(b' ');
        words.extend(quoted(argument));
    }
    OsString::from_vec(words)
}

/// One word that a shell takes as it is.
fn quoted(word: &OsStr) -> Vec<u8> {
    let parts: Vec<&[u8]> = word.as_bytes().split(|byte| *byte == b'\'').collect();
    [b"'", &*parts.join(&b"'\\''"[..]), b"'"].concat()
}

/// This executable by a name that others find it by: its file, or where that has been replaced since, what this process runs.
#[cfg(not(test))]
fn named_ourselves() -> PathBuf {
    // A file that was removed has another name then, at which there is none.
    let file = std::env::current_exe().ok().filter(|file| file.is_file());
    file.unwrap_or_else(|| format!("/proc/{}/exe", std::process::id()).into())
}

#[cfg(test)]
fn named_ourselves() -> PathBuf {
    ourselves()
}

/// This executable as it runs, though its file may have been replaced since.
#[cfg(not(test))]
pub(crate) fn ourselves() -> PathBuf {
    "/proc/self/exe".into()
}

/// The executable that was built beside these tests, which cannot become anything.
#[cfg(test)]
pub(crate) fn ourselves() -> PathBuf {
    let tests = std::env::current_exe().expect("these tests are a file");
    tests.ancestors().nth(2).expect("a folder of builds").join("blat-agent")
}

/// Has the system send this process `signal` once its parent has ended, whose number is `parent`.
///
/// # Errors
/// The system refuses, or this process has another parent: that one has ended already.
pub(crate) fn end_with(parent: i32, signal: Signal) -> io::Result<()> {
    set_parent_process_death_signal(Some(signal))?;
    // It may have ended before it was asked about.
    if getppid() == Pid::from_raw(parent) { Ok(()) } else { Err(io::Error::other("the parent has ended")) }
}

/// Becomes the program that [`command`] names, where this process was started for that; returns only where it was not, or could not: then with
/// the exit status.
pub(crate) fn become_other(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(BECOME)) {
        return None;
    }
    let parent = arguments.next().and_then(|parent| parent.to_str()?.parse().ok());
    let (Some(parent), Some(program)) = (parent, arguments.next()) else {
        eprintln!("blat-agent: {BECOME} takes the number of the parent and a command; only blat-agent itself uses it");
        return Some(ExitCode::from(2));
    };
    if let Err(error) = end_with(parent, Signal::KILL) {
        eprintln!("blat-agent: cannot tie {} to its parent: {error}; it is not started", program.display());
        return Some(ExitCode::from(CANNOT_RUN));
    }
    let error = std::process::Command::new(&program).args(arguments).exec();
    eprintln!("blat-agent: cannot run {}: {error}; install openssh-client", program.display());
    Some(ExitCode::from(CANNOT_RUN))
}
