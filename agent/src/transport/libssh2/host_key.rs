//! Which host keys are trusted: those in our own known_hosts, for just this host and port, and no other.
//!
//! libssh2 compares the entries, plain and hashed. What it does not know stays untrusted: patterns with wildcards, and
//! certificate authorities.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256};
use ssh2::{HostKeyType, Session};

use crate::transport::known_hosts::KnownHost;

/// The algorithms that a host may prove itself with, best first, and the word that known_hosts has for their keys.
const ALGORITHMS: [(&str, &str); 6] = [
    ("ssh-ed25519", "ssh-ed25519"),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
    ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"),
    ("ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-512", "ssh-rsa"),
    ("rsa-sha2-256", "ssh-rsa"),
];

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

/// The host key algorithms to ask for: those of known keys first, so that the host shows one that can be compared.
pub(crate) fn preferences(known: &KnownHost) -> String {
    let is_known = |(_, kind): &&(&str, &str)| known.trusts_a(kind);
    let first = ALGORITHMS.iter().filter(|algorithm| is_known(algorithm));
    let rest = ALGORITHMS.iter().filter(|algorithm| !is_known(algorithm));
    let words: Vec<&str> = first.chain(rest).map(|(algorithm, _)| *algorithm).collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIKtQoI0yVXDCsnEYvXsFhMWcFhvWJGHvS2eyFhrlTbJb";
    fn blob(text: &str) -> Vec<u8> {
        STANDARD.decode(text).expect("base64")
    }

    #[test]
    fn the_kind_of_key_that_is_known_is_asked_for_first() {
        let curve = "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBK5qBfG3bXjxdbVdEFhj9TlQf5dRr+PEJ8C9rQ0Bc0lPNMhM2Zpl9kJ8wRWcr5Vd\
                     E0vG2nLtq4mW8a6Vd8mJ1f0=";
        let text = format!("sydney ssh-ed25519 {ONE}\nperth ecdsa-sha2-nistp256 {curve}\n");
        let preferences = |host: &str| preferences(&KnownHost::parse(text.as_bytes(), host, 22).expect("a file"));
        assert!(preferences("perth").starts_with("ecdsa-sha2-nistp256,ssh-ed25519"), "{}", preferences("perth"));
        assert!(preferences("hobart").starts_with("ssh-ed25519,"));
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
