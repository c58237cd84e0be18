//! `blat stop`: the master and all its agents, and not before they are gone is it called stopped.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use blat_config::Home;
use blat_config::pid_file::PidFile;
use blat_domain::protocol::messages::{Answer, MasterRequest};
use blat_domain::protocol::status::Status;
use blat_domain::util::text::printable;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::failure::{Exit, Failure, Outcome};
use crate::master::{Master, unexpected};

/// How long the master may take: its agents have 30 s to finish, and then some to be killed.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long a wait for one process lasts before the lock is looked at again.
const BEAT: Duration = Duration::from_millis(100);

/// A process whose end is awaited. The handle stays its own, even when its number goes to another process.
#[derive(Debug)]
struct Awaited {
    what: String,
    pid: u32,
    handle: OwnedFd,
}

/// Stops the master if one runs, and waits until nothing of it is left.
pub(crate) fn run(home: &Home) -> Outcome {
    let mut awaited = match Master::find(home)? {
        Some(master) => order(home, master)?,
        None => match holder(home)? {
            Some(pid) => insist(pid)?,
            None => {
                writeln!(io::stdout(), "not running")?;
                return Ok(Exit::DONE);
            }
        },
    };
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        awaited = still_running(awaited)?;
        if awaited.is_empty() && holder(home)?.is_none() {
            writeln!(io::stdout(), "stopped")?;
            return Ok(Exit::DONE);
        }
        wait(&awaited)?;
    }
    Err(remains(&awaited))
}

/// Asks the master to stop. All that it runs now is awaited, so that an agent which outlives it is noticed.
fn order(home: &Home, master: Master) -> Result<Vec<Awaited>, Failure> {
    let mut awaited = agents(&master.status()?)?;
    // It may have ended between the two questions: then only its agents are left to wait for.
    let Some(master) = Master::find(home)? else { return Ok(awaited) };
    match master.ask(&MasterRequest::Stop)?.only()? {
        Answer::Accepted { pid } => awaited.extend(watch("the master", pid)?),
        other
        @ (Answer::Status(_) | Answer::Progress { .. } | Answer::SyncFinished { .. } | Answer::Refused { .. }) => {
            return Err(unexpected(&other));
        }
    }
    Ok(awaited)
}

fn agents(status: &Status) -> Result<Vec<Awaited>, Failure> {
    let mut agents = Vec::new();
    for target in &status.targets {
        if let Some(pid) = target.pid {
            agents.extend(watch(&format!("the agent of {}", target.name), pid)?);
        }
    }
    Ok(agents)
}

/// A master that holds its lock but does not listen gets the signal instead: it is starting, ending or stuck.
fn insist(pid: u32) -> Result<Vec<Awaited>, Failure> {
    let Some(number) = number(pid) else { return Ok(Vec::new()) };
    match kill_process(number, Signal::TERM) {
        Ok(()) => watch("the master", pid).map(|awaited| awaited.into_iter().collect()),
        Err(rustix::io::Errno::SRCH) => Ok(Vec::new()),
        Err(error) => Err(Failure::failed(format!("cannot signal the master, pid {pid}: {error}"))),
    }
}

/// A handle on a process; none when it is gone already.
fn watch(what: &str, pid: u32) -> Result<Option<Awaited>, Failure> {
    let Some(number) = number(pid) else { return Ok(None) };
    match pidfd_open(number, PidfdFlags::empty()) {
        Ok(handle) => Ok(Some(Awaited { what: what.to_owned(), pid, handle })),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(Failure::failed(format!("cannot watch {what}, pid {pid}: {error}"))),
    }
}

fn number(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Those that have not ended. A process that ended and was not collected by its parent counts as ended.
fn still_running(awaited: Vec<Awaited>) -> Result<Vec<Awaited>, Failure> {
    let mut running = Vec::new();
    for process in awaited {
        if !ended(&process, Duration::ZERO)? {
            running.push(process);
        }
    }
    Ok(running)
}

/// Waits a beat, or until the first process ends.
fn wait(awaited: &[Awaited]) -> Result<(), Failure> {
    match awaited.first() {
        Some(process) => ended(process, BEAT).map(|_| ()),
        None => {
            std::thread::sleep(BEAT);
            Ok(())
        }
    }
}

/// Whether a process ends within `patience`.
fn ended(process: &Awaited, patience: Duration) -> Result<bool, Failure> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(patience.subsec_nanos()) };
    match poll(&mut [PollFd::new(&process.handle, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(Failure::failed(format!("cannot wait for {}, pid {}: {error}", process.what, process.pid))),
    }
}

/// Who holds the master's lock.
fn holder(home: &Home) -> Result<Option<u32>, Failure> {
    let path = home.master_pid();
    PidFile::holder(&path)
        .map_err(|error| Failure::failed(format!("cannot read {}: {error}", printable(&path.to_string_lossy()))))
}

fn remains(awaited: &[Awaited]) -> Failure {
    let who: Vec<String> = awaited.iter().map(|process| format!("{}, pid {}", process.what, process.pid)).collect();
    let who = if who.is_empty() { "the holder of run/blatd.pid".to_owned() } else { who.join("; ") };
    Failure::failed(format!("after {} s there still runs: {who}", PATIENCE.as_secs()))
        .hint("look into log/blatd.log; a second `blat stop` tries again")
}
