//! What keeps our private key from being used on this machine, before any server is asked about it.
//!
//! The clients say little of that: each reads its own forms, and calls most of what it cannot read an error of its library. So the
//! client is asked first, and where it cannot use the file, the file is looked at for a reason that a person can act upon.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blat_config::SshSettings;
use blat_config::trust;
use blat_domain::util::text::{printable, typed};
use rustix::process::geteuid;
use tokio::process::Command;
use tokio::time::timeout;

use super::place;
use crate::model::error::TargetError;

/// No private key is nearly as long, in bytes.
const LONGEST: u64 = 64 << 10;
/// For `ssh-keygen` to read one file.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the first line of every form of private key begins with that both clients read.
const BEGIN: &str = "-----BEGIN ";
/// What the last line begins with.
const END: &str = "-----END ";

/// A reason why a client cannot use the file, and what to do about it here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flaw {
    what: String,
    remedy: String,
    is_open_to_others: bool,
}

impl Flaw {
    /// Whether others may read the key, which not every client looks at.
    pub(super) fn is_open_to_others(&self) -> bool {
        self.is_open_to_others
    }
}

/// The flaw of the settings' private key, as far as its file shows one. A file may have a flaw that one of the clients overlooks.
pub(super) fn flaw(ssh: &SshSettings) -> Option<Flaw> {
    let found = |what: String, remedy: String| Some(Flaw { what, remedy, is_open_to_others: false });
    let file = match trust::open(&ssh.home, &ssh.identity) {
        Ok(file) => file,
        Err(why) if why.is_absence() => {
            return found("there is no such file".into(), format!("`blat enrol {}` makes a key there", ssh.target));
        }
        Err(why) => {
            let account = geteuid().as_raw();
            let remedy = format!("give the file to the account that the agent runs as (uid {account}), with mode 600");
            return found(format!("it cannot be read: {why}"), remedy);
        }
    };
    let mode = file.metadata().map_or(0, |found| found.permissions().mode());
    match text(file) {
        Ok(text) => of_text(&text, mode, &ssh.identity),
        Err(error) => found(format!("it cannot be read: {error}"), "look at the disk that it lies on".into()),
    }
}

fn text(file: File) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(text)
}

/// The flaw of a file at `path` with this text and mode.
fn of_text(text: &[u8], mode: u32, path: &Path) -> Option<Flaw> {
    let shown = typed(&path.to_string_lossy());
    let found = |what: &str, remedy: String| Some(Flaw { what: what.to_owned(), remedy, is_open_to_others: false });
    let text = String::from_utf8_lossy(text);
    if is_public(&text) {
        let private = path.with_extension("");
        let remedy = match path.extension() {
            Some(extension) if extension == "pub" => format!("its private half is mostly {}", private.display()),
            Some(_) | None => "put the private half there".to_owned(),
        };
        return found(
            "it holds the public half of a key",
            format!("`identity` has to name the private half: {remedy}"),
        );
    }
    if text.starts_with("PuTTY-User-Key-File") {
        let remedy = format!("convert it by `puttygen {shown} -O private-openssh -o NEW`");
        return found("it is in the form of PuTTY", remedy);
    }
    if mode & 0o077 != 0 {
        let (what, remedy) =
            (format!("others may read it (mode {:04o})", mode & 0o7777), format!("run `chmod 600 {shown}`"));
        return Some(Flaw { what, remedy, is_open_to_others: true });
    }
    let Some(start) = text.find(BEGIN) else {
        let what = if text.trim().is_empty() { "it is empty" } else { "it is no private key" };
        return found(what, restore());
    };
    if text.contains("\r\n") {
        return found("its lines end in CR LF, as on Windows", format!("run `sed -i 's/\\r$//' {shown}`"));
    }
    if start > 0 {
        return found("something stands before its first line, -----BEGIN", format!("remove that from {shown}"));
    }
    if !text.contains(END) {
        return found("its end is missing: there is no line -----END", restore());
    }
    if !text.ends_with('\n') {
        return found("its last line has no line end", format!("run `echo >> {shown}`"));
    }
    if is_encrypted(&text) {
        let remedy =
            format!("remove that by `ssh-keygen -p -N '' -f {shown}`, or use a key of its own for this master");
        return found("it wants a passphrase, which no agent can type", remedy);
    }
    None
}

fn restore() -> String {
    "put the right file there, or remove it and have `blat enrol` make a new key".to_owned()
}

/// Whether a text is one of the forms that public keys have.
fn is_public(text: &str) -> bool {
    let kinds = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"];
    let first = text.trim_start();
    kinds.iter().any(|kind| first.starts_with(kind))
        || first.starts_with("---- BEGIN SSH2 PUBLIC KEY")
        || (first.starts_with(BEGIN) && first.lines().next().is_some_and(|line| line.contains(" PUBLIC KEY-----")))
}

/// Whether a private key is encrypted, in whichever form.
fn is_encrypted(text: &str) -> bool {
    if text.contains("ENCRYPTED") {
        return true;
    }
    let body: String = text.lines().filter(|line| !line.starts_with('-')).map(str::trim).collect();
    // The name of the cipher follows the magic, with its length before it.
    const PLAIN: &[u8] = b"openssh-key-v1\0\0\0\0\x04none";
    const MAGIC: &[u8] = b"openssh-key-v1\0";
    STANDARD.decode(body).is_ok_and(|key| key.starts_with(MAGIC) && !key.starts_with(PLAIN))
}

/// What a person must know when a client cannot use the key. `client` and `words` are who says what of it, fit for printing.
pub(super) fn unusable(ssh: &SshSettings, flaw: Option<Flaw>, said: Option<(&str, &str)>) -> TargetError {
    let (what, remedy) = flaw.map_or_else(
        || ("it is no key that the client reads".to_owned(), restore()),
        |Flaw { what, remedy, .. }| (what, remedy),
    );
    let said = said.map(|(client, words)| format!("; {client} says: {words}")).unwrap_or_default();
    TargetError::Operator(format!(
        "not logged in to {}: the private key {} cannot be used here: {what}{said}; {remedy}",
        place(ssh),
        ssh.identity.display()
    ))
}

/// Why the system's ssh client cannot use the key; none where it can. `said` is what it and the host said when it tried: the host may use the
/// client's words, so they count only where the file itself is at fault.
pub(super) async fn trouble(ssh: &SshSettings, said: &str) -> Option<TargetError> {
    let flaw = flaw(ssh);
    let own = said.lines().rev().find(|line| line.starts_with("Load key ") || line.starts_with("no such identity: "));
    let loaded = load(&ssh.identity).await;
    if let Some(words) = own.filter(|_| flaw.is_some() || matches!(loaded, Ok(Some(_)))) {
        return Some(unusable(ssh, flaw, Some(("the ssh client", &printable(words)))));
    }
    // It says nothing of a passphrase that it may not ask for, and of nothing else where it did not come to use the key.
    match loaded {
        Ok(None) => None,
        Ok(Some(words)) => Some(unusable(ssh, flaw, Some(("ssh-keygen", &words)))),
        Err(error) => {
            tracing::debug!(%error, "cannot run ssh-keygen");
            flaw.map(|flaw| unusable(ssh, Some(flaw), None))
        }
    }
}

/// What `ssh-keygen` says when it cannot load a private key without a passphrase, fit for printing.
async fn load(path: &Path) -> std::io::Result<Option<String>> {
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-y", "-P", "", "-f"]).arg(path).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, keygen.output()).await.map_err(|_| std::io::Error::other("it does not end"))??;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    Ok(Some(last.map_or_else(|| "nothing".to_owned(), printable)))
}

#[cfg(test)]
mod tests;
