//! What the configuration means, once it is known to be valid.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blat_domain::flow::bandwidth::Bandwidth;
use blat_domain::package::name::TargetName;
use blat_domain::policy::guard::MaxDelete;
use blat_domain::policy::release::Selection;
use blat_domain::policy::retention::Aging;
use blat_domain::util::text::printable;
use serde::{Deserialize, Serialize};

use crate::any_path;
use crate::trust::{self, Distrust};

/// One target's settings: every value is valid, every path of this machine absolute.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The target's name, the stem of its file.
    pub name: TargetName,
    /// The file they were read from.
    pub path: PathBuf,
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
    /// The most that the packages of the archive may hold together, in bytes; 0 means no limit.
    pub max_size: u64,
    /// How fast may be sent, by the master's local time.
    pub bandwidth: Bandwidth,
    /// Whether `blat-receiver` serves the archive, and which build of it.
    pub receiver: Receiver,
    /// How much is logged: 0 errors, 1 packages, 2 decisions, 3 everything.
    pub verbose: u8,
    /// How the log is rolled.
    pub log: LogSettings,
}

impl Settings {
    /// What kind of target it is: the way there tells.
    pub fn kind(&self) -> Kind {
        match self.transport {
            Transport::Openssh(_) | Transport::Libssh2(_) | Transport::Local => Kind::DpkgArchive,
            Transport::S3(_) => Kind::S3Sync,
        }
    }

    /// Where the scripts lie, where that is on this machine. A relative path begins at the user's home directory, as over ssh.
    pub fn local_bin(&self) -> Option<PathBuf> {
        (self.transport == Transport::Local).then(|| user_home().join(&self.bin))
    }
}

/// The home directory of whoever runs this; the root where the environment names none.
pub fn user_home() -> PathBuf {
    std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute()).unwrap_or_else(|| "/".into())
}

/// Whether a target is served by `blat-receiver`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receiver {
    /// Where a carried build runs, by scripts elsewhere.
    Auto,
    /// By scripts.
    Never,
    /// By this build, a file of this machine, and by nothing else.
    Build(PathBuf),
}

/// The kind of a target, as `type` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A package archive on a host.
    DpkgArchive,
    /// A bucket of an S3 server.
    S3Sync,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DpkgArchive => f.write_str("dpkg_archive"),
            Self::S3Sync => f.write_str("s3Sync"),
        }
    }
}

/// The way to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// The system's ssh client.
    Openssh(SshSettings),
    /// An ssh client inside the agent.
    Libssh2(SshSettings),
    /// The same machine, without ssh.
    Local,
    /// HTTP, to a bucket that takes the place of an archive: `archive`, `bin`, `disk_reserve` and `receiver` mean nothing there.
    S3(S3Settings),
}

impl Transport {
    /// Where ssh leads; none where it is not used.
    pub fn ssh(&self) -> Option<&SshSettings> {
        match self {
            Self::Openssh(ssh) | Self::Libssh2(ssh) => Some(ssh),
            Self::Local | Self::S3(_) => None,
        }
    }
}

/// A place in a bucket. What it leaves open, the environment or the profile of the AWS tools says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket's name.
    pub bucket: String,
    /// What all keys begin with, without a slash at either end; may be empty.
    pub prefix: String,
    /// The bucket's region.
    pub region: Option<String>,
    /// The server, as `http://…` or `https://…` without a slash at its end, where it is not AWS's own.
    pub endpoint: Option<String>,
    /// Whether the bucket's name goes into the URL's path instead of its host.
    pub path_style: Option<bool>,
    /// What requests say because the bucket demands it.
    pub demands: Demands,
}

/// What requests to a bucket say because its policy demands it. What is not set is not said: then the bucket's own defaults hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demands {
    /// How the server encrypts each object: `AES256`, `aws:kms` or `aws:kms:dsse`.
    pub sse: Option<&'static str>,
    /// The key for that, as the server names it; only with `aws:kms` and `aws:kms:dsse`.
    pub kms_key_id: Option<String>,
    /// How each object is kept.
    pub storage_class: Option<String>,
    /// The access control list that each object gets, by its name.
    pub acl: Option<&'static str>,
    /// Whether the requests are at the expense of whoever makes them.
    pub is_requester_paying: bool,
}

/// An ssh destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSettings {
    /// The target that this leads to, as commands name it.
    pub target: TargetName,
    /// Host name or address; never begins with a hyphen.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The user to log in as.
    pub user: String,
    /// The hosts that the connection goes through, in their order; none where the host is reached directly.
    pub jumps: Vec<Jump>,
    /// The private key.
    pub identity: PathBuf,
    /// The file of host keys that are trusted.
    pub known_hosts: PathBuf,
    /// The home tree whose owner is believed, besides root, in these two files.
    pub home: PathBuf,
}

/// A host that connections to another one go through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jump {
    /// The user to log in as.
    pub user: String,
    /// Host name or address, as the machine before it knows it; never begins with a hyphen.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl SshSettings {
    /// The way to a jump host, by its place in the order from 0 on: through those before it, with our identity and known hosts. None where there
    /// are not so many.
    pub fn way_to_jump(&self, index: usize) -> Option<Self> {
        let Jump { user, host, port } = self.jumps.get(index)?.clone();
        let jumps = self.jumps.iter().take(index).cloned().collect();
        Some(Self { user, host, port, jumps, ..self.clone() })
    }

    /// The ways to each jump host, in their order.
    pub fn ways_to_jumps(&self) -> impl DoubleEndedIterator<Item = Self> {
        (0..self.jumps.len()).filter_map(|index| self.way_to_jump(index))
    }

    /// Looks whether the private key and the host keys are files that nobody can have written but root and the home's owner. To be called
    /// before they are used: they may have been changed since the settings were read. One that is not there is none.
    ///
    /// # Errors
    /// Where others may write one of them, or it cannot be looked at.
    pub fn check_files(&self) -> Result<(), Distrust> {
        [&self.identity, &self.known_hosts].into_iter().try_for_each(|path| match trust::check(&self.home, path) {
            Err(why) if why.is_absence() => Ok(()),
            // What the system says names no file.
            Err(Distrust::Io(error)) => {
                let shown = printable(&path.to_string_lossy());
                Err(Distrust::Io(std::io::Error::other(format!("{shown} cannot be used: {error}"))))
            }
            Err(why) => Err(why),
            Ok(()) => Ok(()),
        })
    }
}

/// Where the wanted set is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseManager {
    /// What is asked.
    pub source: ReleaseSource,
    /// What happens when it does not answer.
    pub mode: Mode,
    /// How long it may take to answer.
    pub timeout: Duration,
}

impl ReleaseManager {
    /// The files of this machine that act or speak for the master and that others may write, each with what is wrong and what to do: a program
    /// that is named by its path; a password, and what says whom to take for the database. What holds releases may be anybody's. To be called
    /// before it is asked, too: they may have been changed since the settings were read. `home` is the root of the home tree.
    pub fn distrusted(&self, home: &Path) -> Vec<(PathBuf, String)> {
        match &self.source {
            ReleaseSource::Postgres(database) | ReleaseSource::MySql(database) => database.distrusted(home),
            ReleaseSource::Command { argv } => {
                let program = argv.first().map(Path::new).filter(|program| program.is_absolute());
                program.and_then(|program| trust::open_to_others(home, program)).into_iter().collect()
            }
            ReleaseSource::Sqlite { .. } | ReleaseSource::File { .. } | ReleaseSource::PackageList { .. } => Vec::new(),
        }
    }

    /// How a stranger may answer in the place of what is asked, although the settings are valid, and what to do about it.
    pub fn exposure(&self) -> Option<String> {
        match &self.source {
            ReleaseSource::Postgres(database) | ReleaseSource::MySql(database) => database.exposure(),
            ReleaseSource::Sqlite { .. }
            | ReleaseSource::File { .. }
            | ReleaseSource::Command { .. }
            | ReleaseSource::PackageList { .. } => None,
        }
    }
}

/// What knows the wanted set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReleaseSource {
    /// A SQLite database.
    Sqlite {
        /// The database file.
        #[serde(with = "any_path")]
        path: PathBuf,
        /// What is asked in place of the documented schema.
        queries: Queries,
    },
    /// A PostgreSQL server.
    Postgres(Database),
    /// A MySQL or MariaDB server.
    MySql(Database),
    /// A YAML file in the documented form.
    File {
        /// The file.
        #[serde(with = "any_path")]
        path: PathBuf,
    },
    /// A program that prints the documented form as JSON.
    Command {
        /// The program and its arguments; never empty.
        argv: Vec<String>,
    },
    /// A PackageList, which is the wanted set itself.
    PackageList {
        /// The file.
        #[serde(with = "any_path")]
        path: PathBuf,
    },
}

/// A database on a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// The way there, without a password.
    pub url: String,
    /// The file whose first line is the password; else the environment has it, or nobody.
    #[serde(with = "any_path::optional")]
    pub password_file: Option<PathBuf>,
    /// What is asked in place of the documented schema.
    pub queries: Queries,
}

/// Queries of a site whose schema is another than the documented one: each gives the columns of the table it stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queries {
    /// In place of the table `project`.
    pub projects: Option<String>,
    /// In place of the table `release`.
    pub releases: Option<String>,
    /// In place of the table `release_package`.
    pub packages: Option<String>,
}

/// What a sync does when Release Manager does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It fails.
    Strict,
    /// It goes by the last good answer, and deletes nothing.
    Fallback,
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
