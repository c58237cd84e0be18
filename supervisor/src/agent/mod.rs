//! Agent processes: made, listened to, signalled and reaped. Nothing is decided here.
//!
//! An agent is known by its child handle, never by a pid file. It is signalled through a process descriptor, and its
//! group only while its leader is not yet reaped, so no signal ever reaches a process that took over a number.

pub(crate) mod lines;
pub(crate) mod mailbox;
pub(crate) mod output;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blat_domain::package::name::TargetName;
use blat_domain::policy::restart::Exit;
use blat_domain::protocol::messages::{AgentMessage, Order};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use mailbox::Mailbox;

/// What the master hears from and of an agent.
#[derive(Debug)]
pub(crate) enum Heard {
    /// It said this.
    Said(Box<AgentMessage>),
    /// It is gone and reaped; what it wrote last to its standard error. Nothing comes from it after this.
    Exited(Exit, Option<String>),
}

/// How long output of an agent that is gone may still come from processes that it left behind.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Makes agents.
#[derive(Debug)]
pub(crate) struct Launcher {
    /// The program; looked for again at every start, since an upgrade may be replacing it.
    pub(crate) program: PathBuf,
    /// The home tree.
    pub(crate) home: PathBuf,
    /// Where everything that is heard goes.
    pub(crate) heard: mpsc::Sender<(TargetName, Heard)>,
}

impl Launcher {
    /// Starts the agent of `target` in a process group of its own.
    ///
    /// # Errors
    /// Why there is no process, for the operator.
    pub(crate) fn launch(&self, target: &TargetName) -> Result<Agent, String> {
        let failed = |error: io::Error| format!("cannot start the agent {}: {error}", self.program.display());
        // A socket and no pipe, since it carries descriptors too.
        let (ours, its) = UnixStream::pair().map_err(failed)?;
        let mut child = Command::new(&self.program)
            .envs(memory())
            .arg("--home")
            .arg(&self.home)
            .args(["--target", target.as_str(), "--supervised"])
            .current_dir(&self.home)
            .stdin(OwnedFd::from(its))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        Agent::adopt(&mut child, ours)
            .map(|(agent, pidfd)| {
                tokio::spawn(attend(target.clone(), child, pidfd, Arc::clone(&agent.reaped), self.heard.clone()));
                agent
            })
            .map_err(failed)
    }
}

/// Has the C library keep one store of free memory for all threads of an agent, unless the operator sets that: with a store for each thread, the
/// memory of a large sync is freed in one of them and taken from the system again by the next sync, which runs in another thread.
fn memory() -> Option<(&'static str, &'static str)> {
    const STORES: &str = "MALLOC_ARENA_MAX";
    std::env::var_os(STORES).is_none().then_some((STORES, "1"))
}

/// The program of the agents: `named`, else the one beside our own, else whatever the search path has.
pub(crate) fn program(named: Option<PathBuf>) -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("blat-agent"));
    match named.or_else(|| beside.filter(|path| path.exists())) {
        // Agents run in the home tree, from where a relative path would name something else.
        Some(path) => std::path::absolute(&path).unwrap_or(path),
        None => PathBuf::from("blat-agent"),
    }
}

/// A living agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pid: Pid,
    pidfd: OwnedFd,
    mailbox: Arc<Mailbox>,
    reaped: Arc<AtomicBool>,
}

impl Agent {
    /// Takes a new process over, or ends it where there are no descriptors left for that.
    fn adopt(child: &mut Child, input: UnixStream) -> io::Result<(Self, AsyncFd<OwnedFd>)> {
        let adopted = (|| {
            let gone = || io::Error::other("it ended before it was looked at");
            let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or_else(gone)?;
            let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
            let watched = readable(pidfd.as_fd().try_clone_to_owned()?)?;
            input.set_nonblocking(true)?;
            let input = tokio::net::UnixStream::from_std(input)?;
            let agent = Self { pid, pidfd, mailbox: Arc::default(), reaped: Arc::default() };
            tokio::spawn(mailbox::deliver(Arc::clone(&agent.mailbox), input));
            Ok((agent, watched))
        })();
        if adopted.is_err() {
            // Dropping the child leaves its reaping to the runtime; its input ends, so it leaves in any case.
            child.start_kill()?;
        }
        adopted
    }

    /// Its process number, for status and log.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Sends a signal to the agent alone. One that is just gone needs none.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(&self.pidfd, signal) {
            tracing::debug!(pid = self.pid(), ?signal, %error, "cannot signal the agent");
        }
    }

    /// Kills the agent and everything in its process group.
    pub(crate) fn kill_group(&self) {
        // Once it is reaped its number may belong to anybody. Reaping happens on this same thread, never in between.
        if !self.reaped.load(Ordering::Acquire) {
            kill_remains(self.pid);
        }
    }

    /// Gives an order. Says whether there was room for it.
    pub(crate) fn tell(&self, order: Order) -> bool {
        self.mailbox.post(order)
    }

    /// What is on its way to it.
    pub(crate) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }
}

#[expect(
    deprecated,
    reason = "the successor is unsafe for types that may close early, which an owned descriptor does not"
)]
fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

/// Listens to an agent to its end, ends what is left of its group, and reaps it.
async fn attend(
    target: TargetName,
    mut child: Child,
    pidfd: AsyncFd<OwnedFd>,
    reaped: Arc<AtomicBool>,
    heard: mpsc::Sender<(TargetName, Heard)>,
) {
    let said = child.stdout.take().map(|stdout| tokio::spawn(output::events(target.clone(), stdout, heard.clone())));
    let wrote = child.stderr.take().map(|stderr| tokio::spawn(output::complaints(target.clone(), stderr)));
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    // The descriptor becomes readable when the process has ended, and until it is reaped its number stays its own.
    if let Err(error) = pidfd.readable().await {
        tracing::warn!(%target, %error, "cannot watch the agent's process; waiting for it directly");
    } else if let Some(pid) = pid {
        kill_remains(pid);
    }
    let status = child.wait().await;
    reaped.store(true, Ordering::Release);
    let exit = match status {
        Ok(status) => exit(status),
        Err(error) => {
            tracing::error!(%target, %error, "cannot learn how the agent ended");
            Exit::Code(1)
        }
    };
    ended(said).await;
    let last_words = ended(wrote).await.flatten();
    // The loop is gone only when the whole master is about to be.
    let _ = heard.send((target, Heard::Exited(exit, last_words))).await;
}

/// What a listener came to; one that a left-behind process keeps from ending is given up.
async fn ended<T>(listener: Option<JoinHandle<T>>) -> Option<T> {
    let mut listener = listener?;
    match tokio::time::timeout(LAST_WORDS, &mut listener).await {
        Ok(result) => result.ok(),
        Err(_) => {
            listener.abort();
            None
        }
    }
}

/// Kills every process of the group that is still there. None is fine.
fn kill_remains(group: Pid) {
    if let Err(error) = kill_process_group(group, Signal::KILL) {
        tracing::debug!(group = group.as_raw_nonzero(), %error, "nothing to kill in the agent's group");
    }
}

fn exit(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Code(1),
    }
}
