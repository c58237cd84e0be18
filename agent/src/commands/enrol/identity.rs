//! Our identity: made once, where there is none, and never changed.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use blat_domain::util::text::printable;

/// The public half of the identity, one line, as authorized_keys takes it. Makes an ed25519 key where there is none.
pub(super) fn ensure(identity: &Path) -> anyhow::Result<String> {
    let shown = identity.display();
    if identity.exists() {
        println!("identity   {shown}");
    } else {
        if let Some(folder) = identity.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        keygen(&["-q", "-t", "ed25519", "-N", "", "-C", "blat", "-f"], identity).context("cannot make an identity")?;
        println!("identity   {shown}, newly made");
    }
    let public = PathBuf::from(format!("{shown}.pub"));
    let line = match std::fs::read_to_string(&public) {
        Ok(text) => text,
        // The private half knows it, unless it wants a passphrase, with which no agent could log in.
        Err(_) => {
            keygen(&["-y", "-P", "", "-f"], identity).with_context(|| format!("cannot read the identity {shown}"))?
        }
    };
    let line = line.trim();
    let is_key = line.lines().count() == 1 && line.split(' ').count() >= 2 && printable(line) == line;
    if !is_key {
        bail!("{} holds no public key on one line", public.display());
    }
    Ok(line.to_owned())
}

fn keygen(arguments: &[&str], identity: &Path) -> anyhow::Result<String> {
    let output = Command::new("ssh-keygen")
        .args(arguments)
        .arg(identity)
        .output()
        .context("cannot run ssh-keygen; install openssh-client")?;
    if !output.status.success() {
        bail!("ssh-keygen says: {}", printable(String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
