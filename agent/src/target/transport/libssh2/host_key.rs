//! Which host keys are trusted: those in our own known_hosts, for just this host and port, and no other.
//!
//! libssh2 compares the entries, plain and hashed. What it does not know stays untrusted: patterns with wildcards, and
//! certificate authorities.

use std::io::ErrorKind;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256};
use ssh2::{CheckResult, HostKeyType, KnownHostFileKind, Session};

/// The algorithms that a host may prove itself with, best first, and the word that known_hosts has for their keys.
const ALGORITHMS: [(&str, &str); 6] = [
    ("ssh-ed25519", "ssh-ed25519"),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
    ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"),
    ("ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-512", "ssh-rsa"),
    ("rsa-sha2-256", "ssh-rsa"),
];

/// What known_hosts says of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is this host's.
    Trusted,
    /// Nothing is known of this host.
    Unknown,
    /// The host had another.
    Changed,
    /// It must not be trusted any more.
    Revoked,
}

/// A host's public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostKey {
    /// Its type, as known_hosts names it.
    pub(crate) kind: &'static str,
    /// The key as it goes over the wire.
    pub(crate) blob: Vec<u8>,
}

impl HostKey {
    /// The key that a connected host showed; none where its type is unknown to us.
    pub(crate) fn of(session: &Session) -> Option<Self> {
        let (blob, kind) = session.host_key()?;
        let kind = match kind {
            HostKeyType::Ed25519 => "ssh-ed25519",
            HostKeyType::Ecdsa256 => "ecdsa-sha2-nistp256",
            HostKeyType::Ecdsa384 => "ecdsa-sha2-nistp384",
            HostKeyType::Ecdsa521 => "ecdsa-sha2-nistp521",
            HostKeyType::Rsa => "ssh-rsa",
            HostKeyType::Dss | HostKeyType::Unknown => return None,
        };
        Some(Self { kind, blob: blob.to_vec() })
    }

    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub(crate) fn fingerprint(&self) -> String {
        format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&self.blob)))
    }

    /// Its line for known_hosts, for the host with this [`entry_name`].
    pub(crate) fn line(&self, name: &str) -> String {
        format!("{name} {} {}", self.kind, STANDARD.encode(&self.blob))
    }
}

/// The name of a host in known_hosts: with its port unless that is the usual one.
pub(crate) fn entry_name(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

/// The text of a known_hosts file. One that is not there knows nobody.
pub(crate) fn read(path: &Path) -> std::io::Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

/// The host key algorithms to ask for: those of known keys first, so that the host shows one that can be compared.
pub(crate) fn preferences(session: &Session, known_hosts: &str, name: &str) -> String {
    let known: Vec<&str> = lines(known_hosts)
        .filter(|line| !line.revoked && !matches!(line.compare(session, name, b"any"), CheckResult::NotFound))
        .map(|line| line.kind)
        .collect();
    let is_known = |(_, kind): &&(&str, &str)| known.contains(kind);
    let first = ALGORITHMS.iter().filter(|algorithm| is_known(algorithm));
    let rest = ALGORITHMS.iter().filter(|algorithm| !is_known(algorithm));
    let words: Vec<&str> = first.chain(rest).map(|(algorithm, _)| *algorithm).collect();
    words.join(",")
}

/// Whether the key of the host with this [`entry_name`] is to be trusted.
pub(crate) fn judge(session: &Session, known_hosts: &str, name: &str, blob: &[u8]) -> Verdict {
    let mut verdict = Verdict::Unknown;
    for line in lines(known_hosts) {
        verdict = match (line.compare(session, name, blob), line.revoked) {
            (CheckResult::Match, true) => return Verdict::Revoked,
            (CheckResult::Match, false) => Verdict::Trusted,
            (CheckResult::Mismatch, false) if verdict == Verdict::Unknown => Verdict::Changed,
            (CheckResult::Mismatch | CheckResult::NotFound | CheckResult::Failure, _) => verdict,
        };
    }
    verdict
}

struct Line<'t> {
    revoked: bool,
    kind: &'t str,
    /// The line without its marker.
    entry: &'t str,
}

impl Line<'_> {
    fn compare(&self, session: &Session, name: &str, blob: &[u8]) -> CheckResult {
        let Ok(mut hosts) = session.known_hosts() else { return CheckResult::Failure };
        match hosts.read_str(self.entry, KnownHostFileKind::OpenSSH) {
            Ok(()) => hosts.check(name, blob),
            // A line that is none trusts nobody.
            Err(_) => CheckResult::NotFound,
        }
    }
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let (revoked, entry) = match line.strip_prefix("@revoked ") {
            Some(entry) => (true, entry.trim_start()),
            None => (false, line),
        };
        if entry.starts_with(['#', '@']) {
            return None;
        }
        Some(Line { revoked, kind: entry.split_whitespace().nth(1)?, entry })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIKtQoI0yVXDCsnEYvXsFhMWcFhvWJGHvS2eyFhrlTbJb";
    const TWO: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIF7YFGSyeZmwyWXpN1tq0s0tnEItGXq4w1TnZyX3kqWT";

    fn blob(text: &str) -> Vec<u8> {
        STANDARD.decode(text).expect("base64")
    }

    fn verdict(known_hosts: &str, name: &str, key: &str) -> Verdict {
        judge(&Session::new().expect("libssh2"), known_hosts, name, &blob(key))
    }

    #[test]
    fn a_key_counts_for_its_host_and_its_port_only() {
        let known =
            format!("# ours\nperth ssh-ed25519 {ONE}\n[perth]:2222,[10.0.0.1]:2222 ssh-ed25519 {TWO} comment\n");
        assert_eq!(verdict(&known, &entry_name("Perth", 22), ONE), Verdict::Trusted);
        assert_eq!(verdict(&known, &entry_name("perth", 2222), TWO), Verdict::Trusted);
        assert_eq!(verdict(&known, &entry_name("10.0.0.1", 2222), TWO), Verdict::Trusted);
        assert_eq!(verdict(&known, &entry_name("perth", 2222), ONE), Verdict::Changed, "that is another port's key");
        assert_eq!(verdict(&known, &entry_name("perth", 23), ONE), Verdict::Unknown);
        assert_eq!(verdict("", &entry_name("perth", 22), ONE), Verdict::Unknown);
        assert_eq!(verdict("nonsense\n\u{1b}[31m x\n", &entry_name("perth", 22), ONE), Verdict::Unknown);
    }

    #[test]
    fn hashed_names_are_found_and_revoked_keys_are_not_trusted() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let path = folder.path().join("known_hosts");
        std::fs::write(&path, format!("perth ssh-ed25519 {ONE}\n[perth]:2222 ssh-ed25519 {TWO}\n")).expect("a file");
        let hashed = std::process::Command::new("ssh-keygen").arg("-q").arg("-H").arg("-f").arg(&path).output();
        assert!(hashed.expect("ssh-keygen, of OpenSSH's client").status.success());
        let known = read(&path).expect("a file");
        assert!(!known.contains("perth"), "{known}");
        assert_eq!(verdict(&known, &entry_name("perth", 22), ONE), Verdict::Trusted);
        assert_eq!(verdict(&known, &entry_name("perth", 2222), TWO), Verdict::Trusted);
        assert_eq!(verdict(&known, &entry_name("perth", 22), TWO), Verdict::Changed);
        assert_eq!(verdict(&known, &entry_name("sydney", 22), ONE), Verdict::Unknown);

        let revoked = format!("{known}@revoked perth ssh-ed25519 {ONE}\n");
        assert_eq!(verdict(&revoked, &entry_name("perth", 22), ONE), Verdict::Revoked);
    }

    #[test]
    fn the_kind_of_key_that_is_known_is_asked_for_first() {
        let session = Session::new().expect("libssh2");
        let known = format!("sydney ssh-ed25519 {ONE}\nperth ssh-rsa {TWO}\n");
        assert!(preferences(&session, &known, "perth").starts_with("rsa-sha2-512,rsa-sha2-256,ssh-ed25519"));
        assert!(preferences(&session, &known, "hobart").starts_with("ssh-ed25519,"));
    }

    #[test]
    fn a_fingerprint_is_the_one_that_ssh_keygen_prints() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let path = folder.path().join("key.pub");
        std::fs::write(&path, format!("ssh-ed25519 {ONE}\n")).expect("a file");
        let printed = std::process::Command::new("ssh-keygen").arg("-l").arg("-f").arg(&path).output();
        let printed = String::from_utf8(printed.expect("ssh-keygen").stdout).expect("text");
        let key = HostKey { kind: "ssh-ed25519", blob: blob(ONE) };
        assert!(printed.contains(&format!(" {} ", key.fingerprint())), "{printed}");
    }
}
