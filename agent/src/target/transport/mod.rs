//! Ways to run a command where the target is.

pub(crate) mod handshake;
pub(crate) mod local;
pub(crate) mod openssh;

use std::future::Future;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

use super::TargetError;

/// A command that runs on the target. Dropping it closes its standard input, which ends every command of ours.
pub(crate) struct Remote {
    pub(crate) stdin: Pin<Box<dyn AsyncWrite + Send>>,
    pub(crate) stdout: Pin<Box<dyn AsyncRead + Send>>,
    pub(crate) stderr: Pin<Box<dyn AsyncRead + Send>>,
    pub(crate) exit: Pin<Box<dyn Future<Output = Result<Exit, TargetError>> + Send>>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// With this status.
    Code(i32),
    /// The shell did not find it.
    NotFound,
    /// Something killed it.
    Killed,
}

/// The configured way.
#[derive(Debug)]
pub(crate) enum Transport {
    /// Over the system's ssh client, one connection for all commands.
    Openssh(Box<openssh::Link>),
    /// On this machine, without ssh.
    Local(local::Shell),
}

impl Transport {
    /// Starts `command`, a line for a POSIX shell, in the target user's home directory.
    pub(crate) async fn exec(&self, command: &str) -> Result<Remote, TargetError> {
        match self {
            Self::Openssh(link) => link.exec(command).await,
            Self::Local(shell) => shell.exec(command),
        }
    }

    /// Whether bytes cross a network on the way.
    pub(crate) fn is_remote(&self) -> bool {
        match self {
            Self::Openssh(_) => true,
            Self::Local(_) => false,
        }
    }

    /// A number that changes with every new connection: what was found out about the target holds for one only.
    pub(crate) async fn generation(&self) -> Result<u64, TargetError> {
        match self {
            Self::Openssh(link) => link.connected().await,
            Self::Local(_) => Ok(1),
        }
    }
}
