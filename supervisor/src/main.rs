//! `blatd`: the master. It starts, restarts, stops and reports one agent process per target, and does nothing else.
//!
//! One loop waits ([`crate::event_loop`]), a pure [`fleet`] decides, and the loop performs. No target's business is done here.

mod agent;
mod event_loop;
mod fleet;
mod server;
mod status_file;
mod watching;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use blat_config::pid_file::{PidFile, PidFileError};
use blat_config::{Home, LogSettings, account, surroundings};
use blat_domain::policy::restart::Policy;
use blat_domain::util::text::escaped_lines;
use blat_logging::Log;
use clap::Parser;
use rustix::process::Signal;
use signal_hook_tokio::Signals;
use tokio::sync::mpsc;

use crate::agent::Launcher;
use crate::event_loop::{Daemon, LoopState, Sources};
use crate::fleet::Fleet;
use crate::server::Server;
use crate::watching::notices::Notices;

/// Events that may wait for the loop; whoever brings more waits.
const WAITING: usize = 1_024;

/// How long threads may take to notice that the master ends; one in a hanging file system never does.
const WIND_UP: Duration = Duration::from_millis(200);

/// How long the thread is kept that saves the status. Where the account may have no more threads, there would be no other one, which is the end of
/// the process (tokio panics). So there is one from the start, for good.
const FOR_GOOD: Duration = Duration::from_secs(u32::MAX as u64);

/// How much is logged while blat.yaml says nothing, or nothing valid.
const VERBOSE: u8 = 1;

/// Runs one agent for every config/TARGET.conf and keeps them running, in the foreground.
///
/// `blat start` runs it in the background. It logs to log/blatd.log and is asked and told through run/blatd.sock.
/// USR1 makes every agent sync, HUP makes all roll their logs, TERM and INT stop everything, a second one at once.
#[derive(Debug, Parser)]
#[command(name = "blatd", version, max_term_width = 100)]
struct Args {
    /// The home tree; else the current directory where it holds config/
    #[arg(long, value_name = "DIR", env = "BLAT_HOME")]
    home: Option<PathBuf>,

    /// The agent's program, for packaging and tests; else blat-agent beside this program, else on the search path
    #[arg(long, value_name = "FILE", env = "BLAT_AGENT")]
    agent: Option<PathBuf>,

    /// Seconds an agent may take to end before its process group is killed
    #[arg(long, value_name = "SECONDS", default_value = "30", hide = true)]
    grace: u64,
}

fn main() -> ExitCode {
    if let Err(error) = surroundings::settle() {
        eprintln!("blatd: cannot start: {error}");
        return ExitCode::FAILURE;
    }
    let args = Args::parse();
    // Before anything is opened or made. Where there is no home tree, that is said below.
    if let Ok(home) = Home::locate(args.home.as_deref())
        && let Err(error) = account::expect_owner(home.root(), "blatd")
    {
        eprintln!("{}", escaped_lines(&format!("blatd: {error}")));
        return ExitCode::FAILURE;
    }
    // One thread: agents are children of this one, and nothing happens between two lines of the loop.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let built = surroundings::expect_threads().and_then(|()| runtime.enable_all().thread_keep_alive(FOR_GOOD).build());
    let runtime = match built {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{}", escaped_lines(&format!("blatd: cannot start: {error}")));
            return ExitCode::FAILURE;
        }
    };
    drop(runtime.spawn_blocking(|| {}));
    let result = runtime.block_on(run(args));
    runtime.shutdown_timeout(WIND_UP);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", escaped_lines(&format!("blatd: {error:#}")));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    // Before anything else: a signal that comes early must find its handler.
    let signals = [Signal::USR1, Signal::HUP, Signal::TERM, Signal::INT].map(Signal::as_raw);
    let signals = Signals::new(signals).context("cannot handle signals")?;
    let home = Home::locate(args.home.as_deref()).context("cannot find the home tree")?;
    home.close_to_others().context("cannot make a place for the master's own files")?;
    let pid_file = PidFile::acquire(&home.master_pid()).map_err(|error| refused(&home, error))?;
    let LogSettings { max, keep } = LogSettings::default();
    let (log, _flushed_when_dropped) =
        Log::open(&home.master_log(), max, keep, VERBOSE).context("cannot open the log")?;
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(pid = std::process::id(), version, home = %home.root().display(), "master started");

    let (listener, socket) = blat_config::socket::bind(&home)
        .and_then(|(listener, made)| listener.set_nonblocking(true).map(|()| (listener, made)))
        .and_then(|(listener, made)| Ok((tokio::net::UnixListener::from_std(listener)?, made)))
        .with_context(|| format!("cannot make the socket {}", home.socket().display()))?;
    let (heard_by, heard) = mpsc::channel(WAITING);
    let (found_by, found) = mpsc::channel(WAITING);
    let (called_by, calls) = mpsc::channel(WAITING);
    let server = Server::new(called_by);
    let policy = Policy { grace: Duration::from_secs(args.grace), ..Policy::default() };
    let notices = Notices::start();
    let daemon = Daemon {
        fleet: Fleet::new(policy, crate::status_file::remembered(&home.status_snapshot())),
        launcher: Launcher { program: agent::program(args.agent), home: home.root().to_owned(), heard: heard_by },
        server: server.clone(),
        log,
        pid_file,
        socket,
        notices,
        state: LoopState::new(),
        home: home.clone(),
    };
    watching::start(home, found_by).context("cannot watch the configuration")?;
    tokio::spawn(server.serve(listener));
    daemon.serve(Sources { signals, heard, found, calls }).await;
    Ok(())
}

/// Why there is no second master.
fn refused(home: &Home, error: PidFileError) -> anyhow::Error {
    match error {
        PidFileError::Busy { holder, .. } => {
            let who = holder.map_or("another process".to_owned(), |pid| format!("process {pid}"));
            anyhow!("a master runs already for {}: {who}; stop it with `blat stop`", home.root().display())
        }
        error @ PidFileError::Io { .. } => anyhow!(error),
    }
}
