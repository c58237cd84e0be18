//! Which account works in a home tree: its owner's, and no other.
//!
//! Whatever root makes in a home of somebody else, a tag, a log, a running master, is root's afterwards, and the owner's master can neither
//! remove nor read it. Becoming the owner on the way would hand root's terminal, open files and environment to whatever that home's configs
//! run. So everybody but the owner is refused, root too, and told how to run it as the owner: `sudo` knows how to change accounts.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use blat_domain::util::text::printable;
use blat_paths::namespace;
use rustix::process::geteuid;

use crate::trust::{self, Distrust};

/// Why this process may not work in a home tree.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// It runs as somebody else.
    #[error(
        "the home tree {} belongs to {owner}, and this is {us}: run it as the owner, with `sudo -u {who} {what} …`",
        home.display()
    )]
    NotTheOwner {
        /// The home tree.
        home: PathBuf,
        /// Its owner, as it is shown.
        owner: String,
        /// Its owner, as sudo takes it.
        who: String,
        /// Who runs this process.
        us: String,
        /// The executable's name.
        what: String,
    },
    /// This process was led here by somebody else, who can put another directory in the place of this one.
    #[error("{us} does not work in {}: {why}", home.display())]
    LedByOthers {
        /// The home tree, or the directory in which it is to be made.
        home: PathBuf,
        /// Who runs this process.
        us: String,
        /// What on the way there is somebody else's.
        why: Distrust,
    },
    /// The system shows this process as the same user as everybody whom its namespace does not know.
    #[error(
        "nobody can tell whose the home tree {} is: this process runs in a user namespace that does not know its own user (shown as {us}), as it \
         does not know others; start it in one that maps that user, for example with `unshare --map-current-user`",
        home.display()
    )]
    Unknown {
        /// The home tree.
        home: PathBuf,
        /// The number that stands for all who are not known.
        us: u32,
    },
    /// It cannot be told whose it is.
    #[error("cannot look at the home tree {}: {error}", home.display())]
    Io {
        /// The home tree.
        home: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
}

/// Makes sure that this process runs as the account that owns the directory at `home`. To be called first, by `what`, the executable's name,
/// before anything is read, made or opened.
///
/// # Errors
/// Where another account runs this, or where it is root and somebody else can exchange the directory. Nothing was touched then.
pub fn expect_owner(home: &Path, what: &str) -> Result<(), AccountError> {
    let found = fs::metadata(home).map_err(|error| AccountError::Io { home: home.to_owned(), error })?;
    let (owner, us) = (found.uid(), geteuid().as_raw());
    if !namespace::is_known(us) {
        return Err(AccountError::Unknown { home: home.to_owned(), us });
    }
    if owner == us {
        return expect_own_way(home);
    }
    let account = Account::of(owner);
    let (who, owner, us) = (account.for_sudo(), account.shown(), Account::of(us).shown());
    Err(AccountError::NotTheOwner { home: home.to_owned(), owner, who, us, what: what.to_owned() })
}

/// Makes sure that nobody else leads this process here, who could put another directory in the place of this one while it works there.
///
/// # Errors
/// Where somebody else owns a directory or link on the way to it; where this is root, also where somebody else may write one.
pub fn expect_own_way(directory: &Path) -> Result<(), AccountError> {
    // In a user namespace of its own an account is called root, has no other rights than before, and finds the system's directories to be
    // nobody's.
    if !namespace::is_the_machines() {
        return Ok(());
    }
    let us = geteuid();
    let looked = if us.is_root() { trust::check_folder(directory) } else { trust::check_owners(directory) };
    let shown = || if us.is_root() { "root".to_owned() } else { Account::of(us.as_raw()).shown() };
    looked.map_err(|why| AccountError::LedByOthers { home: directory.to_owned(), us: shown(), why })
}

/// The home directory of the account that runs this, as the system's databases have it, which is where the ssh client looks too.
pub(crate) fn own_home() -> Option<PathBuf> {
    Account::of(geteuid().as_raw()).entry.map(|entry| entry.home).filter(|home| home.is_absolute())
}

/// An account, as the system's databases know it.
#[derive(Debug)]
struct Account {
    number: u32,
    entry: Option<PasswdEntry>,
}

/// Its line in passwd(5).
#[derive(Debug, PartialEq, Eq)]
struct PasswdEntry {
    name: String,
    group: u32,
    home: PathBuf,
}

impl Account {
    /// Asks the file first, since small systems have no more, then whatever else knows of accounts.
    fn of(number: u32) -> Self {
        let file = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let asked = || {
            let output = Command::new("getent").args(["passwd", &number.to_string()]).output().ok()?;
            entry(&String::from_utf8_lossy(&output.stdout), number)
        };
        Self { number, entry: entry(&file, number).or_else(asked) }
    }

    fn shown(&self) -> String {
        match &self.entry {
            Some(entry) => format!("{} (user {})", printable(&entry.name), self.number),
            None => format!("user {}", self.number),
        }
    }

    fn for_sudo(&self) -> String {
        self.entry.as_ref().map_or_else(|| format!("'#{}'", self.number), |entry| printable(&entry.name))
    }
}

/// `name:password:number:group:comment:home:shell`
fn entry(passwd: &str, number: u32) -> Option<PasswdEntry> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, group, _, home, ..] = fields[..] else { return None };
        let is_it = uid.parse() == Ok(number) && !name.is_empty() && !name.starts_with(['-', '#', '+']);
        is_it
            .then(|| Some(PasswdEntry { name: name.to_owned(), group: group.parse().ok()?, home: home.into() }))
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_number() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\n+nis::12::::\nblat:x:12:34:,,,:/srv/blat:/bin/sh\nbad:x:12x:0::/:/\n";
        let found = PasswdEntry { name: "blat".into(), group: 34, home: "/srv/blat".into() };
        assert_eq!((entry(passwd, 12), entry(passwd, 13)), (Some(found), None));
    }

    #[test]
    fn the_owner_stays_who_he_is() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        expect_owner(scratch.path(), "blat").expect("an own home");
        assert!(matches!(expect_owner(&scratch.path().join("none"), "blat"), Err(AccountError::Io { .. })));
    }

    #[test]
    fn root_is_led_by_nobody_else() {
        use std::os::unix::fs::chown;
        if !geteuid().is_root() {
            return;
        }
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (theirs, home) = (scratch.path().join("theirs"), scratch.path().join("theirs/home"));
        fs::create_dir_all(&home).expect("a home of root's");
        expect_owner(&home, "blat").expect("nobody else is on the way");
        chown(&theirs, Some(12345), None).expect("root may");
        let error = expect_owner(&home, "blat").expect_err("theirs").to_string();
        assert!(error.contains("theirs belongs to user 12345"), "{error}");
        let error = expect_owner(&theirs, "blat").expect_err("theirs").to_string();
        assert!(error.ends_with("`sudo -u '#12345' blat …`"), "{error}");
    }

    #[test]
    fn whoever_is_neither_owner_nor_root_is_told_how() {
        if geteuid().is_root() {
            return;
        }
        let error = expect_owner(Path::new("/"), "blat").expect_err("root's").to_string();
        assert!(error.contains("belongs to root (user 0)") && error.ends_with("`sudo -u root blat …`"), "{error}");
    }
}
