//! What a command of a release_manager starts ends with it, also where it left its process group.
//!
//! The command runs below a process of ours that takes over whatever loses its parent below it. That one ends all of it as soon as the command's
//! own process has ended, or the agent no longer waits, or is gone: then its standard input ends.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, setrlimit, wait,
};

use crate::transport::tied::ourselves;

/// The first argument by which this executable knows that it is to run a command: no option that a person types.
const KEEP: &str = "--keep-command";
/// The exit status where the program cannot be started, as a shell has it.
const CANNOT_RUN: u8 = 127;

/// The time between two looks at what is left to end.
const PAUSE: Duration = Duration::from_millis(10);

/// A command for `argv`, which ends with all that it started: by itself, or when its standard input, to be a pipe, is closed.
pub(super) fn command(argv: &[String]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(ourselves());
    // What is sent to the agent's group does not reach it: it has to end the others first.
    command.arg(KEEP).args(argv).stdin(Stdio::piped()).process_group(0);
    command
}

/// Runs the command that [`command`] names, where this process was started for that; else gives nothing.
pub(crate) fn keep_instead(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(KEEP)) {
        return None;
    }
    let Some(program) = arguments.next() else {
        eprintln!("blat-agent: {KEEP} takes a command; only blat-agent itself uses it");
        return Some(ExitCode::from(2));
    };
    Some(match keep(&program, arguments) {
        Ok(status) => end_like(status),
        Err(error) => {
            eprintln!("cannot start it: {error}");
            ExitCode::from(CANNOT_RUN)
        }
    })
}

fn keep(program: &OsStr, arguments: impl Iterator<Item = OsString>) -> io::Result<ExitStatus> {
    set_child_subreaper(Some(getpid()))?;
    let child = Command::new(program).args(arguments).stdin(Stdio::null()).process_group(0).spawn()?;
    let ending = Arc::new(Mutex::new(()));
    let listening = ending.clone();
    std::thread::spawn(move || {
        // Whatever ends it, nobody listens any more.
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        let _alone = listening.lock().unwrap_or_else(PoisonError::into_inner);
        end_all();
        std::process::exit(1);
    });
    let status = end_of(&child);
    // Where all is being ended, that ends this process too.
    std::mem::forget(ending.lock().unwrap_or_else(PoisonError::into_inner));
    end_all();
    status
}

/// Waits for a child of ours, and takes notice of the end of all that lost its parent meanwhile.
fn end_of(child: &Child) -> io::Result<ExitStatus> {
    loop {
        let dead = wait(WaitOptions::empty())?;
        if let Some((number, status)) = dead
            && u32::try_from(number.as_raw_pid()) == Ok(child.id())
        {
            return Ok(ExitStatus::from_raw(status.as_raw()));
        }
    }
}

/// Ends all below this process. Whatever loses its parent by that becomes a child of ours, and is next.
fn end_all() {
    // One that may not be killed, since it became somebody else's, is not waited for.
    while children().into_iter().filter(|child| kill_process(*child, Signal::KILL).is_ok()).count() > 0 {
        // Another thread may wait for one of them, too: so this one never sleeps in a wait of its own.
        while wait(WaitOptions::NOHANG).is_ok_and(|dead| dead.is_some()) {}
        std::thread::sleep(PAUSE);
    }
}

/// Processes whose parent is this one, dead ones included.
fn children() -> Vec<Pid> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter(|number| parent(*number) == Some(getpid().as_raw_pid())).filter_map(Pid::from_raw).collect()
}

/// The parent of a process: the second word after its name, which is in brackets and may hold any.
fn parent(number: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{number}/stat")).ok()?;
    let after = stat.iter().rposition(|byte| *byte == b')')?;
    str::from_utf8(&stat[after + 1..]).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Ends this process as the command ended.
fn end_like(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal().and_then(Signal::from_named_raw) {
        // The command had its own image of memory, if any.
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        let _ = setrlimit(Resource::Core, none);
        let _ = kill_process(getpid(), signal);
    }
    // A signal that this process does not die of is told as a shell does.
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
