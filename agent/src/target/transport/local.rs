//! `transport: local`: the target is a directory of this machine.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;

use super::{Exit, Remote};
use crate::target::TargetError;

/// Runs commands in the user's home directory.
#[derive(Debug)]
pub(crate) struct Shell {
    home: PathBuf,
}

impl Shell {
    /// A shell that starts where `HOME` says, as an ssh login would.
    pub(crate) fn new() -> Self {
        Self { home: std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from) }
    }

    /// Starts `command` in a process group of its own, so that a signal to the agent does not reach it.
    pub(super) fn exec(&self, command: &str) -> Result<Remote, TargetError> {
        let failed = |what: &str| TargetError::Link(format!("cannot run a shell on this machine: {what}"));
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .current_dir(&self.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(&error.to_string()))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed("it has no pipes"));
        };
        let exit = async move {
            let status = child.wait().await.map_err(|error| TargetError::Link(format!("cannot wait: {error}")))?;
            Ok(match status.code() {
                Some(127) => Exit::NotFound,
                Some(code) => Exit::Code(code),
                None => Exit::Killed,
            })
        };
        Ok(Remote { stdin: Box::pin(stdin), stdout: Box::pin(stdout), stderr: Box::pin(stderr), exit: Box::pin(exit) })
    }
}
