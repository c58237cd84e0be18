//! The home tree: where everything of one master lies.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use blat_domain::archive::CONTROL;
use blat_domain::package::DESCPKG;
use blat_domain::package::name::{NameError, TargetName};
use blat_domain::util::text::printable;
use blat_paths::private;

/// The root of a home tree, as an absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

/// Why there is no home tree to work in.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Neither named nor standing in one.
    #[error(
        "no home tree: the current directory holds no config/; name one with --home DIR or BLAT_HOME, or make one with `blat init DIR`"
    )]
    NotNamed,
    /// Named, but not one.
    #[error("{} is no home tree: it holds no config/; `blat init {}` makes one", .0.display(), .0.display())]
    NotOne(PathBuf),
    /// It is a package, or lies in an archive: whoever wrote that would be obeyed.
    #[error(
        "{} is a package or lies in an archive of packages, so that no config there is obeyed; name the home tree with --home DIR or BLAT_HOME",
        .0.display()
    )]
    InArchive(PathBuf),
    /// The file system says no.
    #[error("cannot use {} of the home tree: {error}", path.display())]
    Io {
        /// What was looked at.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

/// Whether the directory at `root`, or its `config/`, came with a package: authors of packages call their packages and folders as they like.
fn lies_in_archive(root: &Path) -> bool {
    let config = fs::canonicalize(root.join("config")).unwrap_or_else(|_| root.join("config"));
    let is_package = |folder: &Path| fs::symlink_metadata(folder.join(DESCPKG)).is_ok();
    let is_archive = |folder: &Path| is_package(folder) || folder.join(CONTROL).is_dir();
    let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    // `config` may be the name of a package with versions in it.
    let has_versions =
        || fs::read_dir(&config).is_ok_and(|entries| entries.flatten().any(|entry| is_package(&entry.path())));
    root.ancestors().chain(config.ancestors()).any(is_archive) || has_versions()
}

/// A file in `config/` that should be a target's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetFile {
    /// Its stem is the target's name.
    Named(TargetName),
    /// Its stem is no name, so it configures nothing; the text says why, fit for printing.
    Misnamed(String),
}

impl Home {
    /// The home tree named by `explicit` (from `--home` or `BLAT_HOME`), else the current directory where it holds `config/`.
    ///
    /// # Errors
    /// Where that is no home tree.
    pub fn locate(explicit: Option<&Path>) -> Result<Self, HomeError> {
        let path = explicit.unwrap_or(Path::new("."));
        let root = std::path::absolute(path).map_err(|error| HomeError::Io { path: path.to_owned(), error })?;
        match (root.join("config").is_dir(), explicit) {
            (true, _) if lies_in_archive(&root) => Err(HomeError::InArchive(root)),
            (true, _) => Ok(Self { root: clean(&root) }),
            (false, Some(_)) => Err(HomeError::NotOne(root)),
            (false, None) => Err(HomeError::NotNamed),
        }
    }

    /// A tree at `root`, whether it exists yet or not.
    ///
    /// # Errors
    /// Where the path cannot be made absolute.
    pub fn at(root: &Path) -> io::Result<Self> {
        std::path::absolute(root).map(|root| Self { root: clean(&root) })
    }

    /// The tree's root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `config/`.
    pub fn config_dir(&self) -> PathBuf {
        self.root.join("config")
    }

    /// `config/blat.yaml`.
    pub fn master_config(&self) -> PathBuf {
        self.config_dir().join("blat.yaml")
    }

    /// `config/home-id`: see [`crate::home_id`].
    pub fn id_file(&self) -> PathBuf {
        self.config_dir().join("home-id")
    }

    /// `config/.known/TARGET.json`: what an agent must not forget, whatever becomes of `state/`.
    pub fn known_file(&self, target: &TargetName) -> PathBuf {
        self.config_dir().join(".known").join(format!("{target}.json"))
    }

    /// `config/TARGET.conf`.
    pub fn target_config(&self, target: &TargetName) -> PathBuf {
        self.config_dir().join(format!("{target}.conf"))
    }

    /// `tags/TARGET`, where the target's config names no other directory.
    pub fn tags_dir(&self, target: &TargetName) -> PathBuf {
        self.root.join("tags").join(target.as_str())
    }

    /// `ssh/`: identities and known hosts.
    pub fn ssh_dir(&self) -> PathBuf {
        self.root.join("ssh")
    }

    /// `run/`: pid files and the socket.
    pub fn run_dir(&self) -> PathBuf {
        self.root.join("run")
    }

    /// `run/blatd.pid`.
    pub fn master_pid(&self) -> PathBuf {
        self.run_dir().join("blatd.pid")
    }

    /// `run/TARGET.pid`.
    pub fn agent_pid(&self, target: &TargetName) -> PathBuf {
        self.run_dir().join(format!("{target}.pid"))
    }

    /// `run/blatd.sock`.
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("blatd.sock")
    }

    /// `log/`.
    pub fn log_dir(&self) -> PathBuf {
        self.root.join("log")
    }

    /// `log/blatd.log`.
    pub fn master_log(&self) -> PathBuf {
        self.log_dir().join("blatd.log")
    }

    /// `log/TARGET.log`.
    pub fn agent_log(&self, target: &TargetName) -> PathBuf {
        self.log_dir().join(format!("{target}.log"))
    }

    /// `state/`: may be deleted while nothing runs.
    pub fn state_dir(&self) -> PathBuf {
        self.root.join("state")
    }

    /// `state/TARGET`: what one agent keeps.
    pub fn target_state_dir(&self, target: &TargetName) -> PathBuf {
        self.state_dir().join(target.as_str())
    }

    /// `state/status.json`: the last known state, for when no master runs.
    pub fn status_snapshot(&self) -> PathBuf {
        self.state_dir().join("status.json")
    }

    /// `state/history/`: what was done to each target.
    pub fn history_dir(&self) -> PathBuf {
        self.state_dir().join("history")
    }

    /// `state/history/TARGET.jsonl`; the one before it ends in `.1`.
    pub fn history(&self, target: &TargetName) -> PathBuf {
        self.history_dir().join(format!("{target}.jsonl"))
    }

    /// `state/TARGET/already.jsonl`: which tagged packages the agent found there already; the one before it ends in `.1`.
    pub fn already(&self, target: &TargetName) -> PathBuf {
        self.target_state_dir(target).join("already.jsonl")
    }

    /// `state/store/`: packages as they were packed for one target, for the agents of the others. May be deleted at any time.
    pub fn store_dir(&self) -> PathBuf {
        self.state_dir().join("store")
    }

    /// Makes `run/`, `state/` and `log/` where they are missing, and closes them to others where a former version left them open:
    /// `run/` and `state/` altogether, `log/` for writing.
    ///
    /// # Errors
    /// Where that cannot be done, or one of them belongs to somebody else.
    pub fn close_to_others(&self) -> Result<(), HomeError> {
        let closed = [(self.run_dir(), true), (self.state_dir(), true), (self.log_dir(), false)];
        for (path, altogether) in closed {
            let result = if altogether { private::directory(&path) } else { private::readable_directory(&path) };
            result.map_err(|error| HomeError::Io { path, error })?;
        }
        Ok(())
    }

    /// A path below the root as it is shown to people.
    pub fn shown<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }

    /// Every `config/*.conf`, sorted. Other names and dotfiles are none of ours.
    ///
    /// # Errors
    /// Where the directory cannot be read: that must not be taken for one without targets.
    pub fn target_files(&self) -> Result<Vec<TargetFile>, HomeError> {
        let directory = self.config_dir();
        let failed = |error| HomeError::Io { path: directory.clone(), error };
        let mut files = Vec::new();
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_string_lossy();
            let Some(stem) = name.strip_suffix(".conf").filter(|stem| !stem.starts_with('.') && !stem.is_empty())
            else {
                continue;
            };
            let target = stem.parse().map_err(|error: NameError| error.to_string());
            files.push(match target.and_then(|target| reserved(&target).map_or(Ok(target), Err)) {
                Ok(target) => TargetFile::Named(target),
                Err(why) => TargetFile::Misnamed(format!("config/{}: {why}; rename the file", printable(&name))),
            });
        }
        files.sort_by_key(|file| match file {
            TargetFile::Named(name) => name.to_string(),
            TargetFile::Misnamed(why) => why.clone(),
        });
        Ok(files)
    }

    /// The names of all targets that have a file.
    ///
    /// # Errors
    /// As [`Home::target_files`].
    pub fn target_names(&self) -> Result<Vec<TargetName>, HomeError> {
        let named = |file| match file {
            TargetFile::Named(name) => Some(name),
            TargetFile::Misnamed(_) => None,
        };
        Ok(self.target_files()?.into_iter().filter_map(named).collect())
    }
}

/// Why no target can have this name, where none can: its pid file, log or state would be the master's own.
pub(crate) fn reserved(name: &TargetName) -> Option<String> {
    const RESERVED: [&str; 6] = ["blatd", "blatd.stderr", "handshakes", "history", "status.json", "store"];
    let taken = RESERVED.contains(&name.as_str());
    taken.then(|| format!("no target can be named {name}: the master has files of that name"))
}

/// Without `.` components, which `std::path::absolute` leaves at the end.
fn clean(path: &Path) -> PathBuf {
    path.components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_with_a_package_is_no_home() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let archive = scratch.path().join("archive");
        let package = archive.join("core/1");
        for home in [&package, &package.join("deep/home"), &scratch.path().join("home")] {
            fs::create_dir_all(home.join("config")).expect("a scratch directory");
        }
        Home::locate(Some(&package.join("deep/home"))).expect("nothing says that it lies in an archive");
        fs::write(package.join("descpkg"), "").expect("a file");
        for home in [&package, &package.join("deep/home")] {
            assert!(matches!(Home::locate(Some(home)), Err(HomeError::InArchive(_))), "{}", home.display());
        }
        fs::remove_file(package.join("descpkg")).expect("a file");
        fs::create_dir(archive.join(".dpkg_archive")).expect("a scratch directory");
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink(package.join("deep/home"), &link).expect("a free name");
        for home in [package.join("deep/home"), link] {
            assert!(matches!(Home::locate(Some(&home)), Err(HomeError::InArchive(_))), "{}", home.display());
        }
        Home::locate(Some(&scratch.path().join("home"))).expect("it lies beside the archive");
    }

    #[test]
    fn a_package_or_a_version_called_config_makes_no_home() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        for descpkg in ["source/config/1.0", "other/core/config"] {
            let package = scratch.path().join(descpkg);
            fs::create_dir_all(&package).expect("a scratch directory");
            fs::write(package.join("descpkg"), "").expect("a file");
        }
        fs::create_dir(scratch.path().join("linked")).expect("a scratch directory");
        let link = scratch.path().join("linked/config");
        std::os::unix::fs::symlink("../other/core/config", link).expect("a free name");
        for home in ["source", "other/core", "linked"].map(|home| scratch.path().join(home)) {
            assert!(matches!(Home::locate(Some(&home)), Err(HomeError::InArchive(_))), "{}", home.display());
        }
    }

    #[test]
    fn only_conf_files_are_targets_and_bad_names_are_told() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let config = scratch.path().join("config");
        fs::create_dir(&config).expect("config/");
        for name in ["perth.conf", "blat.yaml", ".oslo.conf", "x.conf~", "a b.conf", "berlin.conf.sample", "blatd.conf"]
        {
            fs::write(config.join(name), "").expect(name);
        }
        let home = Home::locate(Some(scratch.path())).expect("a home tree");
        assert_eq!(home.target_names().expect("readable"), ["perth".parse().expect("a name")]);
        assert_eq!(home.target_files().expect("readable").len(), 3);
    }

    #[test]
    fn a_directory_without_config_is_no_home() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        assert!(matches!(Home::locate(Some(scratch.path())), Err(HomeError::NotOne(_))));
    }
}
