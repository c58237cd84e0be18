//! What a known_hosts file says of a host, read as the ssh client reads it: the same for every way there.
//!
//! A line that should trust and cannot be understood trusts nobody. A line with a marker has to be understood: the ssh client skips in silence what
//! it does not understand there, and a revocation that it skips lets in the very host that it should keep out. Such a file is refused, whichever
//! client is about to use it, so that both come to the same verdict.

mod basis;

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blat_config::SshSettings;
use blat_domain::util::text::{printable, typed};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha1::Sha1;

pub(super) use self::basis::Basis;
use crate::model::error::TargetError;

/// No such file is nearly as long, in bytes.
const LONGEST: u64 = 16 << 20;
/// From this length on, in bytes, the ssh client takes no part of a list of hosts for a pattern.
const LONGEST_PATTERN: usize = 1023;
/// The first word of a line whose key must not be trusted.
const REVOKED: &str = "@revoked";
/// The first word of a line whose key signs host keys.
const AUTHORITY: &str = "@cert-authority";

/// What a file says of a host's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HostKeyVerdict {
    /// It is this host's.
    Trusted,
    /// Nothing is known of this host.
    Unknown,
    /// The host had another.
    Changed,
    /// It must not be trusted any more.
    Revoked,
}

/// The name of a host in known_hosts: with its port unless that is the usual one.
pub(crate) fn entry_name(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

/// The command by which the keys of the host with this [`entry_name`] are removed from a file, as any shell takes it.
pub(crate) fn removal(name: &str, known_hosts: &Path) -> String {
    format!("ssh-keygen -R {} -f {}", typed(name), typed(&known_hosts.to_string_lossy()))
}

/// All that a file says of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KnownHost {
    trusted: Vec<WireKey>,
    revoked: Vec<WireKey>,
    /// Those of authorities that may sign its key.
    authorities: Vec<WireKey>,
}

/// How well a file knows a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acquaintance {
    /// It has a key of that host.
    Key,
    /// It has an authority that may sign that host's key, and no key of the host.
    Authority,
    /// It has nothing that trusts the host: it was never enrolled.
    Stranger,
}

impl KnownHost {
    /// What the settings' file says of their host. A file that is not there knows nobody.
    ///
    /// # Errors
    /// [`TargetError::Operator`] where the file cannot be read, or says of keys what only some clients understand.
    pub(crate) fn read(settings: &SshSettings) -> Result<Self, TargetError> {
        let path = settings.known_hosts.display();
        let failed = |why: String| TargetError::Operator(format!("cannot use the known hosts in {path}: {why}"));
        let text = text(&settings.known_hosts).map_err(|error| failed(error.to_string()))?;
        Self::parse(&text, &settings.host, settings.port)
            .map_err(|why| failed(format!("{why}; nothing is sent until then")))
    }

    /// What the settings' file says of each host on the way there, in their order, and at last of the host.
    ///
    /// # Errors
    /// As [`KnownHost::read`].
    pub(crate) fn read_all(settings: &SshSettings) -> Result<Vec<Self>, TargetError> {
        settings.ways_to_jumps().chain([settings.clone()]).map(|way| Self::read(&way)).collect()
    }

    /// What `text` says of the host. The error says what to do about which line, and is fit for printing.
    pub(crate) fn parse(text: &[u8], host: &str, port: u16) -> Result<Self, String> {
        let name = entry_name(host, port);
        let bare = entry_name(host, 22);
        let mut known = Self::default();
        // Revocations of the host by its bare name, which the ssh client does not heed at another port.
        let mut unheeded = Vec::new();
        for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            let entry = entry(line).map_err(|why| format!("line {number} {why}; correct or remove it"))?;
            match entry {
                Some(HostLine { marker: Marker::Revoked, hosts, key }) if matches(&hosts, &name) => {
                    known.revoked.push(key)
                }
                Some(HostLine { marker: Marker::Revoked, hosts, key })
                    if !excludes(&hosts, &name) && matches(&hosts, &bare) =>
                {
                    unheeded.push((number, key))
                }
                Some(HostLine { marker: Marker::None, hosts, key }) if matches(&hosts, &name) => {
                    known.trusted.push(key)
                }
                // As the ssh client does, which asks an authority about a host by its bare name too.
                Some(HostLine { marker: Marker::Authority, hosts, key })
                    if matches(&hosts, &name) || matches(&hosts, &bare) =>
                {
                    known.authorities.push(key)
                }
                Some(_) | None => {}
            }
        }
        if let Some((number, _)) =
            unheeded.iter().find(|(_, key)| known.trusted.contains(key) || known.authorities.contains(key))
        {
            return Err(format!(
                "line {number} revokes a key for {bare}, which the ssh client takes for port 22 alone, and another line trusts it for \
                 {name}; write {name} in that line, or * for every host"
            ));
        }
        // None of them is trusted yet, and none shall be.
        known.revoked.extend(unheeded.into_iter().map(|(_, key)| key));
        Ok(known)
    }

    /// Whether whatever was trusted by this is trusted by what the file says `now`, which may trust more.
    fn holds_in(&self, now: &Self) -> bool {
        let are_in = |some: &[WireKey], others: &[WireKey]| some.iter().all(|key| others.contains(key));
        are_in(&self.trusted, &now.trusted)
            && are_in(&self.authorities, &now.authorities)
            && are_in(&now.revoked, &self.revoked)
    }

    /// Whether the key with these bytes, as they go over the wire, is to be trusted.
    pub(crate) fn judge(&self, blob: &[u8]) -> HostKeyVerdict {
        let Some(key) = WireKey::parse(blob) else {
            return if self.trusted.is_empty() { HostKeyVerdict::Unknown } else { HostKeyVerdict::Changed };
        };
        if self.revoked.contains(&key) {
            HostKeyVerdict::Revoked
        } else if self.trusted.contains(&key) {
            HostKeyVerdict::Trusted
        } else if self.trusted.is_empty() {
            HostKeyVerdict::Unknown
        } else {
            HostKeyVerdict::Changed
        }
    }

    /// How well the file knows the host.
    pub(crate) fn acquaintance(&self) -> Acquaintance {
        match (self.trusted.is_empty(), self.authorities.is_empty()) {
            (false, _) => Acquaintance::Key,
            (true, false) => Acquaintance::Authority,
            (true, true) => Acquaintance::Stranger,
        }
    }

    /// Whether a key of this type is trusted.
    pub(crate) fn trusts_a(&self, kind: &str) -> bool {
        self.trusted.iter().any(|key| key.kind() == kind.as_bytes() && !self.revoked.contains(key))
    }
}

/// The lines of a file that have a marker, as they are: authorities and revocations, and no key of a host.
///
/// # Errors
/// The file cannot be read, or is too long. One that is not there has none.
pub(crate) fn marked_lines(path: &Path) -> std::io::Result<Vec<u8>> {
    let text = text(path)?;
    let is_marked = |line: &&[u8]| line.iter().find(|byte| !b" \t".contains(byte)) == Some(&b'@');
    Ok(text.split_inclusive(|byte| *byte == b'\n').filter(is_marked).flatten().copied().collect())
}

fn text(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(text),
        opened => opened?.take(LONGEST + 1).read_to_end(&mut text)?,
    };
    if text.len() as u64 > LONGEST {
        let why = format!("it is longer than {} MiB", LONGEST >> 20);
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, why));
    }
    Ok(text)
}

/// What stands before the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    /// The key is to be trusted.
    None,
    /// The key signs host keys.
    Authority,
    /// The key must not be trusted.
    Revoked,
}

/// A line that says something.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HostLine {
    marker: Marker,
    hosts: String,
    key: WireKey,
}

/// What a line says; none for a comment, and for one without a marker that cannot be understood. The error says what is wrong with the line.
fn entry(line: &[u8]) -> Result<Option<HostLine>, String> {
    let text = String::from_utf8_lossy(line);
    let line = text.trim_end_matches('\r').trim_start_matches(BLANK);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if line.contains('\0') {
        return Err("has a NUL byte, behind which the ssh client reads nothing".into());
    }
    let (marker, rest) = marker(line)?;
    let (hosts, rest) = word(rest);
    let (kind, rest) = word(rest);
    let (key, _) = word(rest);
    if kind.starts_with('@') {
        return Err(format!("has the marker {:?} in the place of its key", printable(kind)));
    }
    let key =
        STANDARD.decode(key).ok().and_then(|blob| WireKey::parse(&blob)).filter(|key| key.kind() == kind.as_bytes());
    match (marker, key) {
        (Marker::Revoked, None) => {
            Err(format!("revokes a key that is none, or of a kind that cannot be read here: {:?}", printable(kind)))
        }
        (Marker::Revoked, Some(_)) if !is_understood(hosts) => {
            Err(format!("revokes a key for hosts that cannot be read: {:?}", printable(hosts)))
        }
        (_, Some(key)) => Ok(Some(HostLine { marker, hosts: hosts.to_owned(), key })),
        (Marker::None | Marker::Authority, None) => Ok(None),
    }
}

/// What separates the words of a line.
const BLANK: [char; 2] = [' ', '\t'];

/// The first word of a line and what follows it.
fn word(line: &str) -> (&str, &str) {
    let (word, rest) = line.split_once(BLANK).unwrap_or((line, ""));
    (word, rest.trim_start_matches(BLANK))
}

/// A line's marker, and what follows it.
fn marker(line: &str) -> Result<(Marker, &str), String> {
    let (first, rest) = word(line);
    // No host's name has that sign: a marker in disguise is none that the ssh client heeds.
    if !first.contains('@') {
        return Ok((Marker::None, line));
    }
    let marker = match first {
        REVOKED => Marker::Revoked,
        AUTHORITY => Marker::Authority,
        other => {
            return Err(format!(
                "begins with {:?}, which is no marker: there are {REVOKED} and {AUTHORITY}",
                printable(other)
            ));
        }
    };
    // The ssh client looks for the first blank of the line, and only without any for a tab.
    if line[first.len()..].starts_with('\t') && line.contains(' ') {
        return Err(format!("has a tab behind {first}, where the ssh client wants a blank: it would skip the line"));
    }
    if rest.starts_with('@') {
        return Err("has two markers, of which the ssh client takes one".into());
    }
    Ok((marker, rest))
}

/// A public key: its type and numbers, each as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
struct WireKey(Vec<Vec<u8>>);

impl WireKey {
    /// The key in these bytes; none where they are no whole key of a type that hosts have.
    fn parse(blob: &[u8]) -> Option<Self> {
        let (mut parts, mut rest) = (Vec::new(), blob);
        while !rest.is_empty() {
            let (length, more) = rest.split_first_chunk::<4>()?;
            let (part, more) = more.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
            parts.push(part.to_vec());
            rest = more;
        }
        let (kind, numbers) = parts.split_first_mut()?;
        let is_whole = match (kind.as_slice(), &*numbers) {
            (b"ssh-ed25519", [point]) | (b"sk-ssh-ed25519@openssh.com", [point, _]) => point.len() == 32,
            (b"ssh-rsa", [_, _]) | (b"ssh-dss", [_, _, _, _]) => true,
            (b"sk-ecdsa-sha2-nistp256@openssh.com", [curve, _, _]) => curve == b"nistp256",
            (kind, [curve, _]) => {
                kind.strip_prefix(b"ecdsa-sha2-").is_some_and(|of| of == curve.as_slice() && CURVES.contains(&of))
            }
            _ => false,
        };
        if kind == b"ssh-rsa" {
            // The same number can be written with zeros before it, and is the same key.
            for number in numbers {
                let zeros = number.iter().take_while(|byte| **byte == 0).count();
                number.drain(..zeros);
            }
        }
        is_whole.then_some(Self(parts))
    }

    fn kind(&self) -> &[u8] {
        self.0.first().map_or(&[], Vec::as_slice)
    }
}

/// The curves of ECDSA keys.
const CURVES: [&[u8]; 3] = [b"nistp256", b"nistp384", b"nistp521"];

/// Whether hosts are written so that it is clear whom they match.
fn is_understood(hosts: &str) -> bool {
    match hosts.strip_prefix('|') {
        Some(_) => hashed(hosts).is_some(),
        None => hosts.split(',').all(|pattern| pattern.len() < LONGEST_PATTERN),
    }
}

/// Whether the hosts of a line are, or include, the one with this [`entry_name`].
fn matches(hosts: &str, name: &str) -> bool {
    if hosts.starts_with('|') {
        let Some((salt, digest)) = hashed(hosts) else { return false };
        let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(&salt) else { return false };
        mac.update(name.as_bytes());
        return mac.verify_slice(&digest).is_ok();
    }
    is_understood(hosts) && !excludes(hosts, name) && hosts.split(',').any(|pattern| is_like(name, pattern))
}

/// Whether the hosts of a line leave this one out by name.
fn excludes(hosts: &str, name: &str) -> bool {
    hosts.split(',').filter_map(|pattern| pattern.strip_prefix('!')).any(|pattern| is_like(name, pattern))
}

/// Salt and digest of a hashed name, `|1|SALT|DIGEST`.
fn hashed(hosts: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let (salt, digest) = hosts.strip_prefix("|1|")?.split_once('|')?;
    let (salt, digest) = (STANDARD.decode(salt).ok()?, STANDARD.decode(digest).ok()?);
    (salt.len() == 20 && digest.len() == 20).then_some((salt, digest))
}

/// Whether a name is like a pattern, in which `*` stands for any characters and `?` for one. Takes time by the product of their lengths at most.
fn is_like(name: &str, pattern: &str) -> bool {
    let pattern = pattern.to_ascii_lowercase();
    let (name, pattern) = (name.as_bytes(), pattern.as_bytes());
    let (mut at, mut of, mut star) = (0, 0, None);
    while at < name.len() {
        match pattern.get(of) {
            Some(b'*') => {
                star = Some((of + 1, at));
                of += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[at] => (at, of) = (at + 1, of + 1),
            Some(_) | None => match star {
                // The last star takes one more.
                Some((after, taken)) => {
                    star = Some((after, taken + 1));
                    (at, of) = (taken + 1, after);
                }
                None => return false,
            },
        }
    }
    pattern[of..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests;
