//! Which account works in a home tree: its owner's, and no other.
//!
//! Whatever root makes in a home of somebody else, a tag, a log, a running master, is root's afterwards, and the owner's master can neither
//! remove nor read it. So root becomes the owner before anything is touched; everybody else is told how to.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use blat_domain::text::printable;
use rustix::process::geteuid;

/// What the login of another account would have set. What is not here stays as it is: credentials of databases and buckets come this way.
const NOT_THEIRS: [&str; 4] = ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK", "MAIL"];

/// Why this process may not work in a home tree.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// It runs as somebody else, who may not become the owner.
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
    /// Root cannot become the owner.
    #[error(
        "the home tree {} belongs to {owner}, and root cannot become that account: {why}; run `sudo -u {who} {what} …`",
        home.display()
    )]
    Stuck {
        /// The home tree.
        home: PathBuf,
        /// Its owner, as it is shown.
        owner: String,
        /// Its owner, as sudo takes it.
        who: String,
        /// The executable's name.
        what: String,
        /// What went wrong.
        why: String,
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

/// Makes sure that this process runs as the account that owns the directory at `home`. Where root runs it, it is replaced by the same
/// executable with the same arguments in that account; a home of root's own stays root's. To be called first, by `what`, the executable's name,
/// before anything is read, made or opened.
///
/// # Errors
/// Where another account runs this, or root cannot become the owner. Nothing was touched then.
pub fn be_the_owner_of(home: &Path, what: &str) -> Result<(), AccountError> {
    let found = fs::metadata(home).map_err(|error| AccountError::Io { home: home.to_owned(), error })?;
    let (owner, us) = (found.uid(), geteuid().as_raw());
    if owner == us {
        return Ok(());
    }
    let account = Account::of(owner);
    let (home, what) = (home.to_owned(), what.to_owned());
    let (who, shown) = (account.for_sudo(), account.shown());
    if us != 0 {
        return Err(AccountError::NotTheOwner { home, owner: shown, who, us: Account::of(us).shown(), what });
    }
    match become_account(&account, found.gid(), &home) {
        Ok(never) => match never {},
        Err(why) => Err(AccountError::Stuck { home, owner: shown, who, what, why }),
    }
}

/// An account, as the system's databases know it.
#[derive(Debug)]
struct Account {
    number: u32,
    entry: Option<Entry>,
}

/// Its line in passwd(5).
#[derive(Debug, PartialEq, Eq)]
struct Entry {
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
fn entry(passwd: &str, number: u32) -> Option<Entry> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, group, _, home, ..] = fields[..] else { return None };
        let is_it = uid.parse() == Ok(number) && !name.is_empty() && !name.starts_with(['-', '#', '+']);
        is_it.then(|| Some(Entry { name: name.to_owned(), group: group.parse().ok()?, home: home.into() })).flatten()
    })
}

/// Replaces this process. util-linux's setpriv takes on groups, group and user in the order that leaves nothing of root's, and knows the
/// groups of every account that the system knows, wherever it knows them from.
fn become_account(account: &Account, home_group: u32, home: &Path) -> Result<Infallible, String> {
    let own = std::env::current_exe().map_err(|error| format!("cannot tell which executable this is: {error}"))?;
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={}", account.number));
    match &account.entry {
        Some(entry) => {
            command.arg(format!("--regid={}", entry.group)).arg("--init-groups");
            command.env("HOME", &entry.home).env("USER", &entry.name).env("LOGNAME", &entry.name);
        }
        None => {
            command.arg(format!("--regid={home_group}")).arg("--clear-groups");
            command.env("HOME", home).env_remove("USER").env_remove("LOGNAME");
        }
    }
    for variable in NOT_THEIRS {
        command.env_remove(variable);
    }
    let error = command.arg("--").arg(own).args(std::env::args_os().skip(1)).exec();
    Err(match error.kind() {
        io::ErrorKind::NotFound => "setpriv is not installed; it is part of util-linux".to_owned(),
        _ => format!("cannot run setpriv: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_number() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\n+nis::12::::\nblat:x:12:34:,,,:/srv/blat:/bin/sh\nbad:x:12x:0::/:/\n";
        let found = Entry { name: "blat".into(), group: 34, home: "/srv/blat".into() };
        assert_eq!((entry(passwd, 12), entry(passwd, 13)), (Some(found), None));
    }

    #[test]
    fn the_owner_stays_who_he_is() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        be_the_owner_of(scratch.path(), "blat").expect("an own home");
        assert!(matches!(be_the_owner_of(&scratch.path().join("none"), "blat"), Err(AccountError::Io { .. })));
    }

    #[test]
    fn whoever_is_neither_owner_nor_root_is_told_how() {
        if geteuid().is_root() {
            return;
        }
        let error = be_the_owner_of(Path::new("/"), "blat").expect_err("root's").to_string();
        assert!(error.contains("belongs to root (user 0)") && error.ends_with("`sudo -u root blat …`"), "{error}");
    }
}
