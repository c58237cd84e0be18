//! `transport: local`: the target is a directory of this machine.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use blat_config::trust::{self, Distrust};
use blat_config::user_home;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{Exit, Remote};
use crate::model::error::TargetError;

/// So often a command is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// What a command that has ended left behind may hold its output open for so long.
const GRACE: Duration = Duration::from_secs(10);

/// Runs commands in the user's home directory.
#[derive(Debug)]
pub(crate) struct Shell {
    home: PathBuf,
    /// The root of the home tree, and where the scripts lie that it runs.
    scripts: Option<(PathBuf, PathBuf)>,
}

impl Shell {
    /// A shell that starts where `HOME` says, as an ssh login would, and runs what is its own.
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Self { home: user_home(), scripts: None }
    }

    /// One that runs scripts in `bin`, with the rights of the master: only while nobody else can exchange them. `home` is the root of the home tree.
    pub(crate) fn running(home: &Path, bin: Option<PathBuf>) -> Self {
        Self { home: user_home(), scripts: bin.map(|bin| (home.to_owned(), bin)) }
    }

    /// What is wrong with the scripts' directory is no affair of the link's.
    fn check(&self) -> Result<(), TargetError> {
        let Some((home, bin)) = &self.scripts else { return Ok(()) };
        match trust::check_place(home, bin) {
            Err(why @ Distrust::OpenToOthers { .. }) => {
                Err(TargetError::Operator(format!("nothing is run in {} of this machine: {why}", bin.display())))
            }
            // What cannot be looked at cannot be run either, and whoever tries says why.
            Err(Distrust::Io(_)) | Ok(()) => Ok(()),
        }
    }

    /// Starts `command` in a process group of its own, so that a signal to the agent does not reach it.
    pub(super) fn exec(&self, command: &str) -> Result<Remote, TargetError> {
        self.check()?;
        let failed = |what: &str| TargetError::Link(format!("cannot run a shell on this machine: {what}"));
        let child = Command::new("/bin/sh")
            .args(["-c", command])
            .current_dir(&self.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| failed(&error.to_string()))?;
        let mut group = Group::of(child);
        let Group { child, .. } = &mut group;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed("it has no pipes"));
        };
        let exit = async move {
            let status =
                group.child.wait().await.map_err(|error| TargetError::Link(format!("cannot wait: {error}")))?;
            Ok(match status.code() {
                Some(127) => Exit::NotFound,
                Some(code) => Exit::Code(code),
                None => Exit::Killed,
            })
        };
        Ok(Remote { stdin: Box::pin(stdin), stdout: Box::pin(stdout), stderr: Box::pin(stderr), exit: Box::pin(exit) })
    }
}

/// A child and all that it started in its process group, which is killed with it: stopped ones do not hear the end of their input.
struct Group {
    child: Child,
    /// Ends what outlives the child: whoever reads its output would wait for that.
    watch: Option<JoinHandle<()>>,
}

impl Group {
    fn of(child: Child) -> Self {
        let mut group = Self { child, watch: None };
        group.watch = group.number().map(|number| tokio::spawn(end_what_is_left(number)));
        group
    }

    fn number(&self) -> Option<Pid> {
        self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
    }
}

impl Drop for Group {
    /// Once it was waited for it has no number, and there is nothing to end.
    fn drop(&mut self) {
        self.watch.iter().for_each(JoinHandle::abort);
        self.number().into_iter().for_each(kill);
    }
}

fn kill(group: Pid) {
    if let Err(error) = kill_process_group(group, Signal::KILL)
        && error != Errno::SRCH
    {
        tracing::warn!(%error, "cannot end a command on this machine");
    }
}

/// Whether a child of ours has ended, and nobody has waited for it: then its number is nobody else's. One that was waited for is no child any more.
fn has_ended(child: Pid) -> Result<bool, Errno> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    waitid(WaitId::Pid(child), look).map(|ended| ended.is_some())
}

async fn end_what_is_left(leader: Pid) {
    while has_ended(leader) == Ok(false) {
        sleep(LOOK).await;
    }
    sleep(GRACE).await;
    if has_ended(leader) == Ok(true) {
        kill(leader);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

    use super::*;

    #[tokio::test]
    async fn a_command_that_nobody_waits_for_ends_with_what_it_started_though_it_is_stopped() {
        let script = "sleep 1000 & echo $!; kill -STOP $! $$; echo it goes on";
        let remote = Shell::new().exec(script).expect("a shell");
        let number = BufReader::new(remote.stdout).lines().next_line().await.expect("a line").expect("a number");
        drop(remote.exit);
        let command_line = format!("/proc/{number}/cmdline");
        let deadline = Instant::now() + Duration::from_secs(20);
        // A zombie that nobody has taken notice of yet has an empty command line.
        while !std::fs::read(&command_line).unwrap_or_default().is_empty() {
            assert!(Instant::now() < deadline, "process {number} lives");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_command_that_is_killed_has_ended_though_what_it_started_holds_its_output_open() {
        let script = "{ while sleep 1; do echo alive; done; } & kill -9 $$";
        let mut remote = Shell::new().exec(script).expect("a shell");
        let mut said = String::new();
        let reading = remote.stdout.read_to_string(&mut said);
        tokio::time::timeout(GRACE * 3, reading).await.expect("it ends").expect("a pipe");
        assert!(said.starts_with("alive"), "what goes on for a moment may end by itself: {said}");
        assert_eq!(remote.exit.await.expect("our own child"), Exit::Killed);
    }
}
