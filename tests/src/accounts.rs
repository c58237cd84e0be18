//! The people around an archive, each with an account of its own. Root may do everything, so whoever runs the product as root sees no
//! bug of permissions and no attack: run as root, a lab gives each of them the account that `tests/lab/setup` makes. Run by anybody else,
//! all of them are that user; tests that need them apart are named `as_root_…`.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Whose account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// The master's: runs `blatd`, its agents and `blat`, and owns the home tree.
    Master,
    /// The target's: logins lead there, and it owns the target's archive.
    Target,
    /// Release Manager's: drops tags and writes packages.
    ReleaseManager,
    /// Anybody's who may log in to either machine.
    Stranger,
}

impl Account {
    /// Its name, as `tests/lab/common.sh` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Master => "blatmaster",
            Self::Target => "blatlab",
            Self::ReleaseManager => "blatrm",
            Self::Stranger => "blatother",
        }
    }

    /// A command that this account runs, without any right of root's. Where the tests' user is not root, that user runs it.
    pub fn command(self, program: impl AsRef<Path>) -> Command {
        if !is_root() {
            return Command::new(program.as_ref());
        }
        let (uid, gid) = self.ids();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--init-groups", "--no-new-privs"]);
        command.arg("--").arg("env").arg(format!("HOME={}", home_of(self.name()))).arg(program.as_ref());
        command
    }

    /// Gives it a file, or a folder with all that is in it; links are not followed. Nothing changes where the tests' user is not root.
    pub fn own(self, path: &Path) {
        if !is_root() {
            return;
        }
        let (uid, gid) = self.ids();
        give(path, uid, gid);
    }

    /// Its user and group number.
    pub fn ids(self) -> (u32, u32) {
        let line = passwd(self.name());
        let field = |number: usize| line.split(':').nth(number).and_then(|field| field.parse().ok());
        let ids = field(2).zip(field(3));
        ids.unwrap_or_else(|| panic!("the account {} has no numbers: {line:?}", self.name()))
    }
}

/// Whether the tests' user is root.
pub fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// Gives what a test made as root in somebody's folder to the owner of that folder, as if its owner had made it.
pub(crate) fn as_its_folder(path: &Path) {
    if let Some(folder) = path.parent().filter(|_| is_root()) {
        let owner = fs::metadata(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        give(path, owner.uid(), owner.gid());
    }
}

/// The folder of the executables, where the master's account can run them. A checkout may lie in a folder that only its owner may enter: then
/// they are put where everybody may, once a build.
pub fn executables(built: &Path) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    if !is_root() {
        return built.to_owned();
    }
    let is_reachable = || {
        let mut try_it = Account::Master.command("test");
        try_it.arg("-x").arg(built.join("blatd")).status().is_ok_and(|status| status.success())
    };
    FOLDER.get_or_init(|| if is_reachable() { built.to_owned() } else { within_reach(built) }).clone()
}

/// Tests run side by side in processes of their own: the first puts the folder there in one step, and the folders of earlier builds go.
fn within_reach(built: &Path) -> PathBuf {
    let cache = Path::new("/var/cache/blat-lab/executables");
    let made = fs::metadata(built.join("blatd")).expect("a built executable");
    let folder = cache.join(format!("{}-{}.{}", made.ino(), made.mtime(), made.mtime_nsec()));
    if folder.exists() {
        return folder;
    }
    let aside = cache.join(format!(".{}", std::process::id()));
    for file in ["blat", "blatd", "blat-agent"].map(PathBuf::from).into_iter().chain(receivers(built)) {
        let (from, to) = (built.join(&file), aside.join(&file));
        fs::create_dir_all(to.parent().expect("a folder of the copy")).expect("a scratch folder");
        let linked = fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop));
        linked.unwrap_or_else(|error| panic!("could not copy {}: {error}", from.display()));
    }
    let earlier = fs::read_dir(cache).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_hidden = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    for path in earlier.filter(|path| *path != folder && !is_hidden(path)) {
        crate::tree::remove(&path);
    }
    if fs::rename(&aside, &folder).is_err() {
        // Another test was faster.
        crate::tree::remove(&aside);
    }
    folder
}

fn receivers(built: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(built.join("receivers")).into_iter().flatten().flatten();
    found.map(|entry| Path::new("receivers").join(entry.file_name())).collect()
}

/// An agent that runs meanwhile may remove what is its own: what is gone needs no owner.
fn give(path: &Path, uid: u32, gid: u32) {
    let done = (|| -> io::Result<()> {
        let found = fs::symlink_metadata(path)?;
        lchown(path, Some(uid), Some(gid))?;
        if found.is_file() && found.mode() & 0o7000 != 0 {
            // The system takes these bits away with the owner.
            fs::set_permissions(path, found.permissions())?;
        }
        if found.is_dir() {
            fs::read_dir(path)?.flatten().for_each(|entry| give(&entry.path(), uid, gid));
        }
        Ok(())
    })();
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        done => done.unwrap_or_else(|error| panic!("could not give {} away: {error}", path.display())),
    }
}

fn home_of(name: &str) -> String {
    passwd(name).split(':').nth(5).unwrap_or("/").to_owned()
}

fn passwd(name: &str) -> String {
    let accounts = fs::read_to_string("/etc/passwd").expect("/etc/passwd is there");
    let line = accounts.lines().find(|line| line.split(':').next() == Some(name));
    line.unwrap_or_else(|| panic!("there is no account {name}: run tests/lab/setup test")).to_owned()
}
