//! `blat enrol`: all that has to happen once before a target takes packages, in order, and safe to repeat: its host key is
//! approved, our identity made and let in, the scripts installed, the login tried.

mod crontab;
mod host;
mod identity;
mod key;

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use blat_config::{Home, Settings, SshSettings};

use crate::target::TargetError;
use crate::target::far_end::Serves;
use crate::target::transport::libssh2::connect::{authenticate, greet, greet_trusted};
use crate::target::transport::place;
use crate::workplace;

/// What the operator asked for.
pub(crate) struct Wishes {
    /// The host key's fingerprint as its owner told it; without it a person is asked.
    pub(crate) fingerprint: Option<String>,
    /// The file whose first line is the password; without it a person is asked.
    pub(crate) password_file: Option<PathBuf>,
    /// Install the crontab lines too.
    pub(crate) cron: bool,
}

/// Enrols the target these settings describe, telling each step on standard output.
///
/// # Errors
/// The first step that did not succeed; what was done before it stays, and another run goes on from there.
pub(crate) async fn run(home: &Home, settings: &Settings, wishes: &Wishes) -> anyhow::Result<()> {
    match settings.transport.ssh() {
        Some(ssh) => let_in(ssh, wishes)?,
        None => println!("{}: transport local, so there is no host key and no login", settings.name),
    }
    let transport = workplace::visiting_transport(home, settings).context("cannot make a scratch directory")?;
    let found =
        workplace::scout(settings).far_end(&transport).await.context("cannot install what serves the archive")?;
    println!("scripts    current in {}", settings.bin);
    match &found.serves {
        Serves::Receiver { .. } => println!("receiver   current in {}", settings.bin),
        Serves::Scripts { why: Some(why) } => println!("receiver   none: {why}"),
        Serves::Scripts { why: None } => println!("receiver   none, as the config wants it"),
    }
    if wishes.cron {
        let outcome = crontab::install(&transport, settings).await.context("cannot install the crontab lines")?;
        println!("crontab    {outcome}");
    }
    println!("login      works; `blat check --connect {}` tries the rest", settings.name);
    Ok(())
}

/// Everything up to a login that works. It blocks: nothing else is to be done meanwhile.
fn let_in(ssh: &SshSettings, wishes: &Wishes) -> anyhow::Result<()> {
    let greeted = greet(ssh)?;
    host::approve(ssh, &greeted, wishes.fingerprint.as_deref())?;
    let public = identity::ensure(&ssh.identity)?;
    match authenticate(&greeted.session, ssh) {
        Ok(()) => {
            println!("key        already let in by {}", place(ssh));
            return Ok(());
        }
        // Refused: that is what is to be changed now.
        Err(TargetError::Operator(_)) => {}
        Err(error) => return Err(error.into()),
    }
    // A server counts failed logins, so the password has a connection of its own.
    drop(greeted);
    let session = key::login_by_password(ssh, &public, wishes.password_file.as_deref())?;
    key::install(&session, &public).with_context(|| format!("cannot install the key at {}", place(ssh)))?;
    let session = greet_trusted(ssh)?.session;
    authenticate(&session, ssh).map_err(|error| {
        anyhow!(
            "the key is installed, yet not accepted: {error}; on the target, look at the owner and the modes of the \
                 home directory and ~/.ssh, which nobody else may write to, and at sshd's log"
        )
    })?;
    println!("key        let in by {}", place(ssh));
    Ok(())
}

/// Whether there is somebody to ask.
fn somebody_is_there() -> bool {
    std::fs::File::options().read(true).write(true).open("/dev/tty").is_ok_and(|terminal| terminal.is_terminal())
}
