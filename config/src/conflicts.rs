//! Targets that would get into each other's way. Each is valid by itself, so only a look at all of them can tell.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use crate::settings::{S3Settings, Settings, SshSettings, Transport};

/// How long a look at the folders of this machine may take: a dead network mount must not hold up the targets beside it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is wrong between targets, one line a pair, fit for printing: two archives that are the same directory of the same
/// host or lie inside each other, or one place in a bucket for two, so that each would undo what the other does; or one tag directory for two, so that a
/// tag reaches only whichever is first.
pub fn conflicts(targets: &[Settings]) -> Vec<String> {
    let targets: Vec<Claim> = targets.iter().cloned().map(Claim::new).collect();
    let mut told = Vec::new();
    for (index, first) in targets.iter().enumerate() {
        told.extend(targets[index + 1..].iter().flat_map(|second| first.conflicts(second)));
    }
    told
}

/// A target's settings, and the folders of this machine that they claim for it alone, by whatever names they go.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    settings: Settings,
    /// The archive, where it is on this machine.
    archive: Option<Folder>,
    tags: Option<Folder>,
}

/// A folder of this machine as the system knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Folder {
    /// Device and number: of the folder, then of each that it lies in.
    chain: Vec<(u64, u64)>,
}

impl Claim {
    /// Looks at the folders that the settings name. One that is not there, or cannot be looked at in time, goes by its name alone.
    pub fn new(settings: Settings) -> Self {
        // A relative one begins at the home directory of whoever runs the agent, who is the same for all of them.
        let here = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let archive = (settings.transport == Transport::Local).then(|| here.join(&settings.archive));
        let paths = [archive, Some(settings.tags.clone())];
        let [archive, tags] = looked_at(paths);
        Self { settings, archive, tags }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is wrong between these two; nothing where they go well together.
    pub fn conflicts(&self, other: &Self) -> Vec<String> {
        let (first, second) = (&self.settings, &other.settings);
        let mut told = Vec::new();
        match (&first.transport, &second.transport) {
            (Transport::S3(a), Transport::S3(b)) => told.extend(buckets((first, a), (second, b))),
            (Transport::S3(_), _) | (_, Transport::S3(_)) => {}
            _ => match (&self.archive, &other.archive) {
                (Some(a), Some(b)) if a.is_within(b) || b.is_within(a) => told.push(same_folders(first, second, a, b)),
                _ if same_machine(first, second) => told.extend(archives(first, second)),
                _ => {}
            },
        }
        let same_tags = self.tags.as_ref().zip(other.tags.as_ref()).is_some_and(|(a, b)| a.is_same(b));
        if same_tags || first.tags == second.tags {
            let tags = first.tags.display();
            told.push(format!("{} and {} share the tag directory {tags}: give each its own", first.name, second.name));
        }
        told
    }
}

impl Folder {
    fn look(path: &Path) -> Option<Self> {
        let real = fs::canonicalize(path).ok()?;
        let id = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        real.ancestors().map(id).collect::<Option<_>>().map(|chain| Self { chain })
    }

    fn is_same(&self, other: &Self) -> bool {
        self.chain.first() == other.chain.first()
    }

    /// Whether it is the other one, or lies in it.
    fn is_within(&self, other: &Self) -> bool {
        other.chain.first().is_some_and(|other| self.chain.contains(other))
    }
}

/// What is found at these paths, as far as it is found in time.
fn looked_at(paths: [Option<PathBuf>; 2]) -> [Option<Folder>; 2] {
    let (finished, results) = mpsc::channel();
    let look = move || {
        // Nobody waits any longer where it cannot be sent.
        let _ = finished.send(paths.map(|path| path.and_then(|path| Folder::look(&path))));
    };
    match std::thread::Builder::new().name("folders".to_owned()).spawn(look) {
        Ok(_) => results.recv_timeout(PATIENCE).unwrap_or_default(),
        Err(_) => [None, None],
    }
}

/// Whether a path means the same to both. A relative one begins at the user's home directory, an absolute one does not care
/// who the user is.
fn same_machine(first: &Settings, second: &Settings) -> bool {
    match (first.transport.ssh(), second.transport.ssh()) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            let absolute = first.archive.starts_with('/') && second.archive.starts_with('/');
            // The same address behind other hosts is rather another machine.
            let jumps = |ssh: &SshSettings| -> Vec<(String, u16)> {
                ssh.jumps.iter().map(|jump| (host(&jump.host), jump.port)).collect()
            };
            let same_host = host(&a.host) == host(&b.host) && a.port == b.port && jumps(a) == jumps(b);
            same_host && (absolute || a.user == b.user)
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}

/// A host by one name, as far as that can be told without asking anybody.
fn host(name: &str) -> String {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let is_this_machine = match name.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => {
            address.to_ipv4_mapped().map_or(address.is_loopback(), |mapped| mapped.is_loopback())
        }
        Ok(IpAddr::V4(address)) => address.is_loopback(),
        Err(_) => name == "localhost" || name.ends_with(".localhost"),
    };
    match name.parse::<IpAddr>() {
        _ if is_this_machine => "localhost".to_owned(),
        Ok(address) => address.to_canonical().to_string(),
        Err(_) => name,
    }
}

fn buckets((first, a): (&Settings, &S3Settings), (second, b): (&Settings, &S3Settings)) -> Option<String> {
    let server = |settings: &S3Settings| settings.endpoint.as_ref().map(|endpoint| endpoint.to_ascii_lowercase());
    let is_same = (&a.bucket, &a.prefix, server(a)) == (&b.bucket, &b.prefix, server(b));
    let line = || format!("{} and {} are the same place, {}/{}", first.name, second.name, a.bucket, a.prefix);
    is_same.then(line)
}

fn same_folders(first: &Settings, second: &Settings, a: &Folder, b: &Folder) -> String {
    match archives(first, second) {
        Some(line) => line,
        None if a.is_same(b) => format!(
            "{} and {} are the same archive: {} and {} are one directory",
            first.name, second.name, first.archive, second.archive
        ),
        None => {
            let (inner, outer) = if a.is_within(b) { (first, second) } else { (second, first) };
            lies_inside(inner, outer)
        }
    }
}

fn archives(first: &Settings, second: &Settings) -> Option<String> {
    let (outer, inner) = match first.archive.len() <= second.archive.len() {
        true => (first, second),
        false => (second, first),
    };
    if first.archive == second.archive {
        return Some(format!("{} and {} are the same archive, {}", first.name, second.name, first.archive));
    }
    Path::new(&inner.archive).starts_with(&outer.archive).then(|| lies_inside(inner, outer))
}

fn lies_inside(inner: &Settings, outer: &Settings) -> String {
    format!("{}'s archive {} lies inside {}'s, {}", inner.name, inner.archive, outer.name, outer.archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_name() {
        for name in ["localhost", "LocalHost.", "127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1", "a.localhost"] {
            assert_eq!(host(name), "localhost", "{name}");
        }
        assert_eq!(host("Perth.Example.com."), "perth.example.com");
        assert_eq!(host("2001:DB8:0::1"), host("2001:db8::1"));
        assert_eq!(host("::ffff:10.0.0.1"), "10.0.0.1");
        assert_ne!(host("127.0.0.1.example.com"), "localhost");
    }
}
