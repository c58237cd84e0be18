//! Ways to run a command where the target is.

pub(crate) mod answer;
pub(crate) mod bounded;
mod jumps;
pub(crate) mod known_hosts;
pub(crate) mod libssh2;
pub(crate) mod local;
mod login;
pub(crate) mod login_limit;
pub(crate) mod openssh;
pub(crate) mod peer_detection;
pub(crate) mod policy;
mod private_key;
pub(crate) mod scratch;
mod sessions;
pub(crate) mod tied;

use std::future::Future;
use std::pin::Pin;

use blat_config::SshSettings;
use blat_config::trust::Distrust;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use peer_detection::Listener;

use self::known_hosts::{Acquaintance, entry_name, removal};
use crate::model::error::TargetError;

/// A command that runs on the target. Dropping it closes its standard input, which ends every command of ours.
pub(crate) struct Remote {
    pub(crate) stdin: Pin<Box<dyn AsyncWrite + Send>>,
    pub(crate) stdout: Pin<Box<dyn AsyncRead + Send>>,
    pub(crate) stderr: Pin<Box<dyn AsyncRead + Send>>,
    pub(crate) exit: Pin<Box<dyn Future<Output = Result<Exit, TargetError>> + Send>>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    Openssh(Box<openssh::OpensshLink>),
    /// Over an ssh client of ours in a process of its own, one connection for all commands.
    Libssh2(Box<libssh2::Libssh2Link>),
    /// On this machine, without ssh.
    Local(local::Shell),
}

impl Transport {
    /// Starts `command`, a line for a POSIX shell, in the target user's home directory.
    pub(crate) async fn exec(&self, command: &str) -> Result<Remote, TargetError> {
        match self {
            Self::Openssh(link) => sessions::run(link.as_ref(), command).await,
            Self::Libssh2(link) => sessions::run(link.as_ref(), command).await,
            Self::Local(shell) => shell.exec(command),
        }
    }

    /// Whether bytes cross a network on the way.
    pub(crate) fn is_remote(&self) -> bool {
        match self {
            Self::Openssh(_) | Self::Libssh2(_) => true,
            Self::Local(_) => false,
        }
    }

    /// A number that changes with every new connection: what was found out about the target holds for one only.
    pub(crate) async fn generation(&self) -> Result<u64, TargetError> {
        match self {
            Self::Openssh(link) => sessions::connected(link.as_ref()).await.map(|(generation, _)| generation),
            Self::Libssh2(link) => sessions::connected(link.as_ref()).await.map(|(generation, _)| generation),
            Self::Local(_) => Ok(1),
        }
    }

    /// Makes sure that scripts can serve over the present connection, which takes several sessions at once.
    ///
    /// # Errors
    /// The host allows one. The connection ends then, and the next one tries anew.
    pub(crate) async fn check_sessions(&self) -> Result<(), TargetError> {
        match self {
            Self::Openssh(link) => sessions::check(link.as_ref()).await,
            Self::Libssh2(link) => sessions::check(link.as_ref()).await,
            Self::Local(_) => Ok(()),
        }
    }

    /// Whether our key can run nothing but `blat-receiver` there: whatever command is started, that is what runs.
    pub(crate) async fn is_restricted(&self) -> Result<bool, TargetError> {
        let listener = match self {
            Self::Openssh(link) => sessions::connected(link.as_ref()).await?.1,
            Self::Libssh2(link) => sessions::connected(link.as_ref()).await?.1,
            Self::Local(_) => Listener::Shell,
        };
        Ok(listener == Listener::Receiver)
    }
}

/// An ssh destination as it is shown.
pub(crate) fn place(ssh: &SshSettings) -> String {
    let SshSettings { user, host, port, .. } = ssh;
    if host.contains(':') { format!("{user}@[{host}]:{port}") } else { format!("{user}@{host}:{port}") }
}

/// What a person must know when a host shows a key that is not trusted. `offered` is its fingerprint, where it could be found out.
pub(crate) fn untrusted_host_key(ssh: &SshSettings, known: Acquaintance, offered: Option<&str>) -> TargetError {
    let offered = offered.map(|fingerprint| format!(" (it offers {fingerprint})")).unwrap_or_default();
    let (place, known_hosts, target) = (place(ssh), ssh.known_hosts.display(), &ssh.target);
    TargetError::Operator(match known {
        Acquaintance::Key => format!(
            "the host key of {place} has changed: it is not the one in {known_hosts}{offered}; nothing is sent until its owner confirms the change and \
             the key is replaced: `{}`, then `blat enrol {target}`",
            removal(&entry_name(&ssh.host, ssh.port), &ssh.known_hosts)
        ),
        Acquaintance::Authority => format!(
            "the host key of {place}{offered} has no certificate that counts here: {known_hosts} has an authority for it and no key of its own, \
             and `transport: libssh2` knows no certificates; nothing is sent until the host shows a valid certificate of that authority, or \
             `blat enrol {target}` has stored its key"
        ),
        Acquaintance::Stranger => format!(
            "the host key of {place} is not known yet{offered}: {known_hosts} has no key of that host; nothing is sent until \
             `blat enrol {target}` has stored it, once its owner has confirmed the fingerprint"
        ),
    })
}

/// What a person must know when a host shows a key that known_hosts revokes.
pub(crate) fn revoked_host_key(ssh: &SshSettings) -> TargetError {
    TargetError::Operator(format!(
        "the host key of {} is revoked in {}: whoever has a stolen key can pass for that host; nothing is sent until it has a new key that is stored there",
        place(ssh),
        ssh.known_hosts.display()
    ))
}

/// What a person must know when one of our own files is open to others.
pub(crate) fn distrusted(ssh: &SshSettings, why: &Distrust) -> TargetError {
    TargetError::Operator(format!("cannot log in to {}: {why}", place(ssh)))
}

/// What a person must know when the server refuses our key. `why` is fit for printing.
pub(crate) fn key_refused(ssh: &SshSettings, why: &str) -> TargetError {
    TargetError::Operator(format!(
        "not logged in: {} does not accept the key {}: {why}; add its public half to that user's authorized_keys; where it stands there, the \
         account may be locked or expired, others may write to its home directory or ~/.ssh, or the server takes no keys: its log says which",
        place(ssh),
        ssh.identity.display()
    ))
}
