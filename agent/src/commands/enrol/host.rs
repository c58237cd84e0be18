//! The host key: shown, compared with what its owner says, stored only then.

use std::fs::{DirBuilder, File};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use blat_config::SshSettings;

use super::authority;
use crate::transport::known_hosts::{Acquaintance, HostKeyVerdict, entry_name, removal};
use crate::transport::libssh2::connect::Greeted;
use crate::transport::libssh2::host_key::HostKey;
use crate::transport::place;

/// Makes sure that the host's key is in our known_hosts, with the operator's consent: `expected`, the fingerprint that the host's
/// owner told, or else an answer at the terminal.
pub(super) fn approve(ssh: &SshSettings, greeted: &Greeted, expected: Option<&str>) -> anyhow::Result<()> {
    let (key, fingerprint) = (&greeted.key, greeted.key.fingerprint());
    let known_hosts = ssh.known_hosts.display();
    let name = entry_name(&ssh.host, ssh.port);
    println!("host key   {} {fingerprint}", key.kind);
    if let Some(expected) = expected
        && !is_same(expected, &fingerprint)
    {
        bail!(
            "the host key of {} is {fingerprint}, not {expected}: this is not that host; nothing is stored",
            place(ssh)
        );
    }
    match greeted.verdict {
        HostKeyVerdict::Trusted => {
            println!("           already trusted in {known_hosts}");
            return Ok(());
        }
        HostKeyVerdict::Revoked => bail!("the host key {fingerprint} is revoked in {known_hosts}; nothing is done"),
        HostKeyVerdict::Changed => bail!(
            "{known_hosts} has another key for {name} than {fingerprint}; if its owner confirms the change, remove the old \
             one with `{}`, then enrol again",
            removal(&name, &ssh.known_hosts)
        ),
        HostKeyVerdict::Unknown => {}
    }
    if expected.is_none() && !is_vouched_for(ssh, greeted)? {
        ask(ssh, &fingerprint)?;
    }
    store(&ssh.known_hosts, &name, key).with_context(|| format!("cannot store the host key in {known_hosts}"))?;
    println!("           now trusted in {known_hosts}");
    Ok(())
}

/// Whether a certificate authority in known_hosts has signed the key. It is stored all the same, since libssh2 knows no certificates.
fn is_vouched_for(ssh: &SshSettings, greeted: &Greeted) -> anyhow::Result<bool> {
    if greeted.acquaintance() != Acquaintance::Authority {
        return Ok(false);
    }
    let known_hosts = ssh.known_hosts.display();
    match authority::certified_key(ssh, greeted.key.kind)? {
        Some(certified) if certified == greeted.key => {
            println!("           signed by a certificate authority in {known_hosts}");
            return Ok(true);
        }
        Some(other) => {
            let other = other.fingerprint();
            println!("           a certificate authority in {known_hosts} has signed another key of it, {other}");
        }
        None => println!(
            "           not signed by a certificate authority in {known_hosts}, or not validly; an ssh client before OpenSSH 8.9 cannot say"
        ),
    }
    Ok(false)
}

/// A fingerprint may be given with its `SHA256:` or without.
fn is_same(expected: &str, fingerprint: &str) -> bool {
    let bare = |text: &str| text.trim().trim_start_matches("SHA256:").trim_end_matches('=').to_owned();
    bare(expected) == bare(fingerprint)
}

fn ask(ssh: &SshSettings, fingerprint: &str) -> anyhow::Result<()> {
    let nobody =
        || anyhow!("nobody is there to confirm the host key; give --fingerprint {fingerprint} if it is the right one");
    if !super::somebody_is_there() {
        return Err(nobody());
    }
    let mut terminal = File::options().read(true).write(true).open("/dev/tty").map_err(|_| nobody())?;
    let mut answers = BufReader::new(terminal.try_clone().map_err(|_| nobody())?);
    write!(
        terminal,
        "{} is not known yet. Its owner can tell this fingerprint, say by\n  \
         ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\nIs it the right one? [yes/no] ",
        place(ssh)
    )?;
    loop {
        let mut answer = String::new();
        let ended = answers.read_line(&mut answer)? == 0;
        match answer.trim() {
            "yes" => return Ok(()),
            "no" => bail!("the host key was not confirmed; nothing is stored"),
            _ if ended => return Err(nobody()),
            _ => write!(terminal, "Please say yes or no: ")?,
        }
    }
}

/// Adds one line; what is there stays as it is.
fn store(path: &Path, name: &str, key: &HostKey) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut file = File::options().read(true).append(true).create(true).mode(0o644).open(path)?;
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    let separator = if last == [b'\n'] { "" } else { "\n" };
    file.write_all(format!("{separator}{}\n", key.line(name)).as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_compared_with_or_without_its_prefix() {
        assert!(is_same("SHA256:abc", "SHA256:abc") && is_same(" abc= ", "SHA256:abc"));
        assert!(!is_same("SHA256:abd", "SHA256:abc") && !is_same("", "SHA256:abc"));
    }

    #[test]
    fn a_key_is_added_behind_a_line_without_its_end() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let path = folder.path().join("ssh/known_hosts");
        let key = HostKey { kind: "ssh-ed25519", blob: b"key".to_vec() };
        store(&path, "perth", &key).expect("a new file");
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "perth ssh-ed25519 a2V5\n");
        std::fs::write(&path, "sydney ssh-rsa x").expect("a file");
        store(&path, "perth", &key).expect("an old file");
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "sydney ssh-rsa x\nperth ssh-ed25519 a2V5\n");
    }
}
