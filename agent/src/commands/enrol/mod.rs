//! `blat enrol`: all that has to happen once before a target takes packages, in order, and safe to repeat: its host key is
//! approved, our identity made and let in, scripts and receiver installed, the key restricted where that is wished, the login tried.

mod authority;
mod authorized_keys;
mod crontab;
mod host;
mod identity;
mod key;
mod restrict;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use blat_config::{Home, Kind, Settings, SshSettings};

use crate::model::error::TargetError;
use crate::sync::context;
use crate::targets::host::install::EXECUTABLE;
use crate::targets::host::remote::Serves;
use crate::transport::libssh2::connect::{AuthError, BY_HAND, authenticate, greet, greet_trusted};
use crate::transport::{Transport, place};

/// The shell function `await_lock WHAT`: takes the lock on descriptor 9, for which it waits 15 s at most. Where another run has it for longer,
/// the script's own `die` says so.
const AWAIT_LOCK: &str = r#"await_lock() {
    tries=0
    until flock -n 9 9>&9; do
        tries=$((tries + 1))
        [ "$tries" -lt 15 ] || die "another blat enrol changes $1; try again"
        sleep 1
    done
}
"#;

/// What the operator asked for.
pub(crate) struct Wishes {
    /// The host keys' fingerprints as their owners told them, in the order of the hosts on the way: the last one is the target's. Where there are
    /// fewer than hosts, a person is asked about the first ones.
    pub(crate) fingerprints: Vec<String>,
    /// The file whose first line is the password; without it a person is asked.
    pub(crate) password_file: Option<PathBuf>,
    /// Install the crontab lines too.
    pub(crate) cron: bool,
    /// Have the key run nothing but the receiver from then on.
    pub(crate) restrict: bool,
}

/// Enrols the target these settings describe, telling each step on standard output.
///
/// # Errors
/// The first step that did not succeed; what was done before it stays, and another run goes on from there.
pub(crate) async fn run(home: &Home, settings: &Settings, wishes: &Wishes) -> anyhow::Result<()> {
    if settings.kind() == Kind::S3Sync {
        bail!(
            "{0}: a bucket needs no enrolment: there is no key to install and nothing to run; put credentials where the AWS tools look, and \
             try them by `blat check --connect {0}`",
            settings.name
        );
    }
    let visit = || context::visiting_transport(home, settings).context("cannot make a scratch directory");
    let Some(ssh) = settings.transport.ssh() else {
        if wishes.restrict {
            bail!("{}: transport local has no key that could be restricted", settings.name);
        }
        println!("{}: transport local, so there is no host key and no login", settings.name);
        return equip(&visit()?, settings, wishes).await.map(|_| ());
    };
    let public = let_in(ssh, wishes)?;
    let transport = visit()?;
    match transport.is_restricted().await {
        Ok(false) => finish(home, settings, wishes, &transport, &public).await,
        Ok(true) if !wishes.restrict || wishes.password_file.is_none() => {
            println!("key        can run nothing but {EXECUTABLE}, which answers");
            Ok(())
        }
        // The receiver is to be installed anew, or cannot be talked to: for that the key has to be free once more.
        Ok(true) | Err(TargetError::Operator(_)) if wishes.restrict => {
            let greeted = key::login_by_password(ssh, &public, wishes.password_file.as_deref())?;
            let freed = key::Freed::begin(greeted, &public)
                .with_context(|| format!("cannot free the key at {}", place(ssh)))?;
            freed.end(finish(home, settings, wishes, &visit()?, &public).await)
        }
        Ok(true) => finish(home, settings, wishes, &transport, &public).await,
        Err(error) => Err(error.into()),
    }
}

/// All that a key which can run everything has to do: it installs and, where that is wished, is restricted then.
async fn finish(
    home: &Home,
    settings: &Settings,
    wishes: &Wishes,
    transport: &Transport,
    public: &str,
) -> anyhow::Result<()> {
    let serves = equip(transport, settings, wishes).await?;
    if let Some(ssh) = settings.transport.ssh().filter(|_| wishes.restrict) {
        if let Serves::Scripts { why } = serves {
            let why = why.unwrap_or_else(|| "the config says receiver: never".to_owned());
            bail!("the key is not restricted, since only scripts could serve the archive: {why}");
        }
        restrict::restrict(home, settings, ssh, transport, public).await?;
        println!("key        restricted: it can run nothing but {EXECUTABLE} now");
    }
    println!("login      works; `blat check --connect {}` tries the rest", settings.name);
    Ok(())
}

/// Installs what serves the archive and, where that is wished, the crontab lines.
async fn equip(transport: &Transport, settings: &Settings, wishes: &Wishes) -> anyhow::Result<Serves> {
    let found = context::probe(settings).far_end(transport).await.context("cannot install what serves the archive")?;
    if let Serves::Receiver { scripts: Some(why), .. } = &found.serves {
        // A restricted key puts nothing back later, and cron is to run none but ours.
        bail!("{why}");
    }
    println!("scripts    current in {}", settings.bin);
    match &found.serves {
        Serves::Receiver { .. } => println!("receiver   current in {}", settings.bin),
        Serves::Scripts { why: Some(why) } => println!("receiver   none: {why}"),
        Serves::Scripts { why: None } => println!("receiver   none, as the config wants it"),
    }
    if wishes.cron {
        let outcome = crontab::install(transport, settings).await.context("cannot install the crontab lines")?;
        println!("crontab    {outcome}");
    }
    Ok(found.serves)
}

/// Everything up to a login that works, at each host on the way in turn and at last at the target; gives the public key. It blocks: nothing else is
/// to be done meanwhile.
fn let_in(ssh: &SshSettings, wishes: &Wishes) -> anyhow::Result<String> {
    let (hosts, given) = (ssh.jumps.len() + 1, wishes.fingerprints.len());
    let Some(unnamed) = hosts.checked_sub(given) else {
        bail!("--fingerprint is given {given} times, and there are {hosts} host keys on the way to {}", place(ssh));
    };
    let expected = |index: usize| wishes.fingerprints.get(index.checked_sub(unnamed)?).map(String::as_str);
    for (index, way) in ssh.ways_to_jumps().enumerate() {
        println!("jump host  {}", place(&way));
        let_in_at(&way, expected(index), None).with_context(|| {
            format!("at the jump host {} (the last --fingerprint and --password-file are the target's)", place(&way))
        })?;
    }
    if !ssh.jumps.is_empty() {
        println!("target     {}", place(ssh));
    }
    let_in_at(ssh, expected(ssh.jumps.len()), wishes.password_file.as_deref())
}

/// The same at one host.
fn let_in_at(ssh: &SshSettings, expected: Option<&str>, password_file: Option<&Path>) -> anyhow::Result<String> {
    let greeted = greet(ssh, BY_HAND)?;
    host::approve(ssh, &greeted, expected)?;
    let public = identity::ensure(&ssh.identity)?;
    match authenticate(&greeted.session, ssh) {
        Ok(()) => {
            println!("key        already let in by {}", place(ssh));
            return Ok(public);
        }
        // Refused: that is what is to be changed now. A key that cannot be used here would only be let in in vain.
        Err(AuthError::There(_)) => {}
        Err(AuthError::Here(error) | AuthError::Link(error)) => return Err(error.into()),
    }
    // A server counts failed logins, so the password has a connection of its own.
    drop(greeted);
    let greeted = key::login_by_password(ssh, &public, password_file)?;
    key::install(&greeted.session, ssh, &public)
        .with_context(|| format!("cannot install the key at {}", place(ssh)))?;
    let greeted = greet_trusted(ssh, BY_HAND)?;
    authenticate(&greeted.session, ssh).map_err(TargetError::from).map_err(|error| {
        anyhow!(
            "the key is installed, yet not accepted: {error}; on the target, look at the owner and the modes of the \
                 home directory and ~/.ssh, which nobody else may write to, and at sshd's log"
        )
    })?;
    println!("key        let in by {}", place(ssh));
    Ok(public)
}

/// Whether there is somebody to ask.
fn somebody_is_there() -> bool {
    std::fs::File::options().read(true).write(true).open("/dev/tty").is_ok_and(|terminal| terminal.is_terminal())
}
