//! `blat start`: the master in the background, in a session of its own, and not before it answers is it called started.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use blat_config::Home;
use blat_domain::util::text::printable;
use blat_paths::private;

use crate::args::DETACH;
use crate::failure::{Exit, Failure, Outcome};
use crate::master::Master;
use crate::sibling;

/// How long the master may take until it answers.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked meanwhile.
const BEAT: Duration = Duration::from_millis(50);
/// The most of the master's complaint that is shown, in bytes from its end.
const MOST_SAID: u64 = 4 << 10;

/// Starts the master unless it runs.
pub(crate) fn run(home: &Home) -> Outcome {
    if let Some(pid) = serving(home)? {
        writeln!(io::stdout(), "already running, pid {pid}")?;
        return Ok(Exit::DONE);
    }
    let mut said = complaints(home)?;
    let mut child = spawn(home, &said)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ended =
            child.try_wait().map_err(|error| Failure::failed(format!("cannot wait for the master: {error}")))?;
        if let Some(pid) = serving(home)? {
            // Two starts at the same time: one master won, and the answer is the same for both.
            let how = if pid == child.id() { "started" } else { "already running" };
            writeln!(io::stdout(), "{how}, pid {pid}")?;
            return Ok(Exit::DONE);
        }
        if let Some(status) = ended {
            return Err(ended_early(status, &mut said));
        }
        if Instant::now() >= deadline {
            return Err(too_slow(&child));
        }
        thread::sleep(BEAT);
    }
}

/// The process number of the master that answers, if one does.
fn serving(home: &Home) -> Result<Option<u32>, Failure> {
    let Some(master) = Master::find(home)? else { return Ok(None) };
    Ok(master.status()?.supervisor.map(|supervisor| supervisor.pid))
}

/// Where the master's standard error goes: what it says before its log is open, or when it panics. Kept until the next start.
fn complaints(home: &Home) -> Result<File, Failure> {
    let path = home.state_dir().join("blatd.stderr");
    private::directory(&home.state_dir())
        .and_then(|()| File::create(&path))
        .and_then(|_| OpenOptions::new().read(true).append(true).open(&path))
        .map_err(|error| Failure::failed(format!("cannot write {}: {error}", printable(&path.to_string_lossy()))))
}

/// Starts this executable again as [`become_master`].
fn spawn(home: &Home, said: &File) -> Result<Child, Failure> {
    let executable = sibling::find("blatd")?;
    let cannot = |error: io::Error| Failure::failed(format!("cannot start {}: {error}", executable.display()));
    let own = std::env::current_exe().map_err(cannot)?;
    let stderr = said.try_clone().map_err(cannot)?;
    Command::new(own)
        .arg(DETACH)
        .arg(&executable)
        .arg(home.root())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(cannot)
}

/// Turns this process into the master, in a session without a terminal, so that neither a closed terminal nor an interrupt
/// typed there reaches it. Returns only when that failed.
pub(crate) fn become_master(executable: &Path, home: &Path) -> Failure {
    if let Err(error) = rustix::process::setsid() {
        return Failure::failed(format!("cannot begin a session for the master: {error}"));
    }
    // Nor what whoever typed this had open, a lock for example, which would be held for as long as the master lives.
    close_fds::set_fds_cloexec(3, &[]);
    let error = Command::new(executable).arg("--home").arg(home).exec();
    Failure::failed(format!("cannot run {}: {error}", executable.display()))
}

/// The master ended before it answered: its own words say why.
fn ended_early(status: ExitStatus, said: &mut File) -> Failure {
    let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown cause".to_owned(),
    };
    let words = tail(said).unwrap_or_else(|error| format!("its complaint cannot be read: {error}"));
    let mut lines = words.lines().map(str::trim).filter(|line| !line.is_empty());
    let exit = code.map_or(Exit::FAILED, Exit);
    match lines.next() {
        None => Failure::new(exit, format!("the master did not start: it ended with {how}"))
            .hint("look into log/blatd.log, or run `blatd` in the foreground"),
        Some(first) => {
            let rest: Vec<String> = lines.map(printable).collect();
            let first = first.strip_prefix("blatd: ").unwrap_or(first);
            let text = format!("the master did not start ({how}): {}", printable(first));
            if rest.is_empty() {
                Failure::new(exit, text)
            } else {
                Failure::new(exit, text).hint(rest.join("\n      "))
            }
        }
    }
}

/// The end of what the master said.
fn tail(said: &mut File) -> io::Result<String> {
    let length = said.seek(SeekFrom::End(0))?;
    said.seek(SeekFrom::Start(length.saturating_sub(MOST_SAID)))?;
    let mut bytes = Vec::new();
    said.take(MOST_SAID).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn too_slow(child: &Child) -> Failure {
    let text = format!("the master, pid {}, runs but does not answer after {} s", child.id(), PATIENCE.as_secs());
    Failure::failed(text).hint("look into log/blatd.log; `blat stop` ends it")
}
