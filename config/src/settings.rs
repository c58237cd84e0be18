//! What the configuration means, once it is known to be valid.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use blat_domain::guard::MaxDelete;
use blat_domain::name::TargetName;
use blat_domain::release::Selection;
use blat_domain::retention::Aging;

/// One target's settings: every value is valid, every path of this machine absolute.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The target's name, the stem of its file.
    pub name: TargetName,
    /// The file they were read from.
    pub path: PathBuf,
    /// What kind of target it is.
    pub kind: Kind,
    /// The way there.
    pub transport: Transport,
    /// The archive on the target: absolute, or relative to the user's home directory there.
    pub archive: String,
    /// Where our scripts live on the target: absolute, or relative to the user's home directory there.
    pub bin: String,
    /// The master's archive.
    pub source: PathBuf,
    /// The tag directory.
    pub tags: PathBuf,
    /// How often the tag directory is looked at where no notification comes.
    pub tag_poll: Duration,
    /// From the start of one full sync to the start of the next.
    pub sync: Duration,
    /// How long a package that is still writable waits.
    pub writable: Duration,
    /// Which releases, projects and packages are wanted.
    pub selection: Selection,
    /// Where releases are looked up.
    pub release_manager: Option<ReleaseManager>,
    /// What becomes of packages that nothing wants any more.
    pub aging: Aging,
    /// How much of the target one sync may mark or delete.
    pub max_delete: MaxDelete,
    /// Bytes that stay free on the target's disk.
    pub disk_reserve: u64,
    /// How much is logged: 0 errors, 1 packages, 2 decisions, 3 everything.
    pub verbose: u8,
    /// How the log is rolled.
    pub log: LogSettings,
}

/// The kind of a target, as `type` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A package archive on a host.
    DpkgArchive,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DpkgArchive => f.write_str("dpkg_archive"),
        }
    }
}

/// The way to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// The system's ssh client.
    Openssh(SshSettings),
    /// The same machine, without ssh.
    Local,
}

/// An ssh destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSettings {
    /// Host name or address; never begins with a hyphen.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The user to log in as.
    pub user: String,
    /// The private key.
    pub identity: PathBuf,
    /// The file of host keys that are trusted.
    pub known_hosts: PathBuf,
}

/// Where releases are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReleaseManager {
    /// A SQLite database in the documented schema.
    Sqlite {
        /// The database file.
        path: PathBuf,
    },
    /// A YAML file in the documented form.
    File {
        /// The file.
        path: PathBuf,
    },
}

/// How a log is rolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// A log of this many bytes is rolled.
    pub max: u64,
    /// This many old ones are kept.
    pub keep: u32,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { max: 10 << 20, keep: 5 }
    }
}
