//! `blat ssh`: a login as the agent would do it, for a person.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, anyhow, bail};
use blat_config::{Settings, Transport};

use crate::transport::known_hosts::KnownHost;
use crate::transport::policy::Policy;

/// Becomes the system's ssh client, with the agent's options, for a login or one command. It returns only when it could not.
///
/// # Errors
/// There is no way in by ssh, or no ssh client, or the known hosts cannot be used.
pub(crate) fn become_ssh(settings: &Settings, words: &[OsString]) -> anyhow::Result<std::convert::Infallible> {
    let name = &settings.name;
    let ssh = match &settings.transport {
        Transport::Openssh(ssh) | Transport::Libssh2(ssh) => ssh,
        Transport::Local => bail!(
            "{name} is on this machine (transport: local), so there is nothing to log in to; its archive is {}",
            settings.archive
        ),
        Transport::S3(s3) => {
            bail!(
                "{name} is the bucket {} (type: s3Sync), so there is nothing to log in to; the AWS tools read it",
                s3.bucket
            )
        }
    };
    // The client skips revocations that it does not understand: a file with any is for a person.
    KnownHost::read_all(ssh)?;
    let mut command = Command::new("ssh");
    // The person's terminal is used where there is one, as ssh does by itself.
    let policy = Policy::for_a_person(ssh);
    command.envs(policy.environment).args(policy.arguments).arg("--").arg(&ssh.host).args(words);
    Err(anyhow!(command.exec())).context("cannot run the ssh client; install openssh-client")
}
