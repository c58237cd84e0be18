//! `config/home-id`: the home tree's random id, made once. Archives remember it as their owner's, so it must stay as it is: who restores a home
//! tree from a backup restores it too, and a home tree that is made anew has to take its archives over with `blat adopt`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use blat_domain::util::random_id::RandomId;
use blat_domain::util::text::printable;

use crate::Home;
use crate::trust::{self, Distrust};

/// The most of the file that is read, in bytes.
const LONGEST: u64 = 4 << 10;

/// Why there is no id to go by.
#[derive(Debug, thiserror::Error)]
pub enum HomeIdError {
    /// The file says something else.
    #[error(
        "{} is damaged: it says {text:?} where 32 hexadecimal digits are expected; restore it from a backup, or remove it, start again, \
         and take each archive over with `blat adopt TARGET`", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it says, fit for printing.
        text: String,
    },
    /// Others may write it, and so decide which archives the home tree owns.
    #[error("{0}")]
    Distrusted(Distrust),
    /// It can be neither read nor made.
    #[error("cannot {what} {}: {error}; it has to be readable for the account that runs Blat, and is made by `blat init`", path.display())]
    Io {
        /// Read or make.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// What is wrong with the home tree's id as it is, where anything is. One that is not there is made at the first start.
///
/// # Errors
/// As [`ensure`].
pub fn check(home: &Home) -> Result<(), HomeIdError> {
    match fs::symlink_metadata(home.id_file()) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(_) | Err(_) => ensure(home).map(|_| ()),
    }
}

/// The home tree's id, which is made where there is none yet. Of several that make it at once, one wins.
///
/// # Errors
/// The file cannot be made or read, others may write it, or it holds no id.
pub fn ensure(home: &Home) -> Result<RandomId, HomeIdError> {
    let path = home.id_file();
    let failed = |what, error| HomeIdError::Io { what, path: path.clone(), error };
    let read = || match trust::read(home.root(), &path, LONGEST) {
        Ok(text) => Ok(Some(text)),
        Err(Distrust::Io(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(Distrust::Io(error)) => Err(failed("read", error)),
        Err(distrusted @ Distrust::OpenToOthers { .. }) => Err(HomeIdError::Distrusted(distrusted)),
    };
    let text = match read()? {
        Some(text) => text,
        None => {
            make(&home.config_dir(), &path).map_err(|error| failed("make", error))?;
            read()?.ok_or_else(|| failed("read", ErrorKind::NotFound.into()))?
        }
    };
    text.trim_end().parse().map_err(|_| HomeIdError::Damaged { path, text: printable(text.trim_end()) })
}

/// A new random id.
///
/// # Errors
/// The system gives no random bytes.
pub fn random() -> io::Result<RandomId> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(RandomId::from_random(bytes))
}

/// Makes the file, whole and durable, or not at all; one that appeared meanwhile stays.
fn make(directory: &Path, path: &Path) -> io::Result<()> {
    let aside = directory.join(format!(".home-id.{}", random()?));
    let written = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&aside).and_then(|mut file| {
        file.write_all(format!("{}\n", random()?).as_bytes())?;
        file.sync_all()
    });
    let linked = written.and_then(|()| match fs::hard_link(&aside, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    let removed = fs::remove_file(&aside);
    linked.and(removed)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        fs::create_dir(scratch.path().join("config")).expect("config/");
        let home = Home::locate(Some(scratch.path())).expect("a home tree");
        (scratch, home)
    }

    #[test]
    fn it_is_made_once_by_whoever_comes_first_and_stays() {
        let (_scratch, home) = home();
        let made: Vec<RandomId> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8).map(|_| scope.spawn(|| ensure(&home).expect("an id"))).collect();
            makers.into_iter().map(|maker| maker.join().expect("no panic")).collect()
        });
        assert!(made.iter().all(|id| *id == made[0]), "{made:?}");
        assert_eq!(ensure(&home).expect("an id"), made[0]);
        let left = fs::read_dir(home.config_dir()).expect("config/").count();
        assert_eq!(left, 1, "nothing else is left");
        assert_ne!(random().expect("random bytes"), made[0]);
    }

    #[test]
    fn a_damaged_one_is_told_and_never_made_anew() {
        let (_scratch, home) = home();
        for text in ["", "\n", "abc\n", "\u{1b}[2J"] {
            fs::write(home.id_file(), text).expect("an own file");
            let error = ensure(&home).expect_err("no id").to_string();
            assert!(error.contains("home-id is damaged") && error.contains("blat adopt"), "{error}");
            assert_eq!(fs::read_to_string(home.id_file()).expect("the same file"), text);
        }
        fs::remove_file(home.id_file()).expect("an own file");
        std::os::unix::fs::symlink("/dev/zero", home.id_file()).expect("a link");
        assert!(ensure(&home).is_err(), "it is no regular file");
    }

    #[test]
    fn one_that_others_may_write_is_not_obeyed() {
        let (_scratch, home) = home();
        check(&home).expect("it is made later");
        let made = ensure(&home).expect("an id");
        for mode in [0o666, 0o664] {
            fs::set_permissions(home.id_file(), Permissions::from_mode(mode)).expect("an own file");
            let error = ensure(&home).expect_err("others may write it").to_string();
            assert!(error.contains("config/home-id") && error.contains("chmod go-w"), "{error}");
            assert_eq!(check(&home).expect_err("the same").to_string(), error);
        }
        fs::set_permissions(home.id_file(), Permissions::from_mode(0o644)).expect("an own file");
        assert_eq!(ensure(&home).expect("an id"), made);
    }

    #[test]
    fn as_root_one_of_another_account_is_not_obeyed() {
        let (_scratch, home) = home();
        ensure(&home).expect("an id");
        std::os::unix::fs::chown(home.id_file(), Some(1234), None).expect("root may");
        let error = check(&home).expect_err("a stranger's").to_string();
        assert!(error.contains("belongs to user 1234") && error.contains("chown"), "{error}");
    }
}
