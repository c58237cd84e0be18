//! The builds of `blat-receiver` that this agent carries: files beside its own executable, one for each kind of machine.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::targets::host::install::{EXECUTABLE, sha256};

/// What the files are called: `blat-receiver-` and the machine.
const PREFIX: &str = "blat-receiver-";
/// Machines that builds are made for, as the files name them and as `uname -s -m` does.
const MACHINES: [(&str, &str); 2] = [("x86_64-linux", "Linux x86_64"), ("aarch64-linux", "Linux aarch64")];
/// No receiver is nearly as large, in bytes: a path that leads to something else is not read on and on.
const LARGEST: u64 = 64 << 20;

/// A build of `blat-receiver`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Build {
    /// The machine that it is for, as its file names it; empty where only its owner knows.
    pub(super) machine: &'static str,
    /// The executable.
    pub(super) bytes: Vec<u8>,
    /// Its SHA-256.
    pub(super) digest: String,
}

impl Build {
    /// Reads one. The error is fit for printing.
    pub(super) fn read(path: &Path, machine: &'static str) -> Result<Self, String> {
        let wrong = |what: String| format!("cannot read the build {}: {what}", path.display());
        let found = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
        if !found.is_file() || found.len() > LARGEST {
            return Err(wrong("it is no executable".to_owned()));
        }
        let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let digest = sha256(&bytes);
        Ok(Self { machine, bytes, digest })
    }

    /// Whether it is for a machine of which `uname -s -m` says this.
    pub(super) fn is_for(&self, system: &str) -> bool {
        MACHINES.contains(&(self.machine, system))
    }
}

/// The builds in the directories that [`directories`] names; the first directory that has one for a machine counts.
pub(super) fn carried() -> Vec<Build> {
    let found = in_directories(&directories(std::env::current_exe().ok().as_deref()));
    // One that cannot be read is as good as none, and said.
    let read =
        |(machine, path): (_, PathBuf)| Build::read(&path, machine).inspect_err(|why| tracing::warn!("{why}")).ok();
    found.into_iter().filter_map(read).collect()
}

/// The version of this executable, and for which machines it carries builds: what `--version` prints.
pub(crate) fn long_version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let found = in_directories(&directories(std::env::current_exe().ok().as_deref()));
        let machines: Vec<&str> = found.iter().map(|(machine, _)| *machine).collect();
        let machines = if machines.is_empty() { "none".to_owned() } else { machines.join(", ") };
        format!("{}\ncarried builds of {EXECUTABLE}: {machines}", env!("CARGO_PKG_VERSION"))
    });
    &TEXT
}

/// `receivers/` beside the executable, as `make build` leaves them, and `../lib/blat/receivers/`, as `make install` does.
fn directories(executable: Option<&Path>) -> Vec<PathBuf> {
    let Some(folder) = executable.and_then(Path::parent) else { return Vec::new() };
    vec![folder.join("receivers"), folder.join("../lib/blat/receivers")]
}

/// Where the build for each machine is.
fn in_directories(directories: &[PathBuf]) -> Vec<(&'static str, PathBuf)> {
    let one = |machine| {
        let mut paths = directories.iter().map(|directory| directory.join(format!("{PREFIX}{machine}")));
        paths.find(|path| path.exists()).map(|path| (machine, path))
    };
    MACHINES.into_iter().filter_map(|(machine, _)| one(machine)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_are_found_beside_the_executable_and_where_they_are_installed() {
        let prefix = tempfile::tempdir().expect("a scratch directory");
        let bin = prefix.path().join("bin");
        let (beside, installed) = (bin.join("receivers"), prefix.path().join("lib/blat/receivers"));
        for folder in [&beside, &installed] {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        let found = || in_directories(&directories(Some(&bin.join("blat-agent"))));
        assert_eq!(found(), []);

        std::fs::write(installed.join("blat-receiver-x86_64-linux"), "intel").expect("a build");
        std::fs::write(installed.join("blat-receiver-aarch64-linux"), "arm").expect("a build");
        std::fs::write(beside.join("blat-receiver-x86_64-linux"), "newer").expect("a build");
        let read = |(machine, path): (_, PathBuf)| Build::read(&path, machine).expect("a build");
        let builds: Vec<Build> = found().into_iter().map(read).collect();
        assert_eq!((builds[0].machine, builds[0].bytes.as_slice()), ("x86_64-linux", &b"newer"[..]));
        assert_eq!((builds[1].machine, builds[1].bytes.as_slice()), ("aarch64-linux", &b"arm"[..]));
        assert!(builds[0].is_for("Linux x86_64") && !builds[0].is_for("Linux aarch64"));
        assert!(builds[1].is_for("Linux aarch64") && !builds[1].is_for("Darwin aarch64"));
    }

    #[test]
    fn what_is_no_file_is_no_build() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        assert!(Build::read(folder.path(), "").is_err_and(|why| why.contains("no executable")));
        assert!(Build::read(&folder.path().join("none"), "").is_err_and(|why| why.contains("none")));
    }
}
