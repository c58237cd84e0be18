//! Scratch directories: for what one process needs for a moment, such as the socket of a connection that only looks.
//!
//! In a directory that others may write, and that has no sticky bit, they can put another in the place of ours, and what we wrote there is not
//! what the ssh client reads.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use blat_config::{Home, trust};
use blat_paths::private;
use tempfile::TempDir;

/// A fresh directory that only this account can enter or exchange: where `TMPDIR` says, or in `state/` where others can exchange what lies there.
///
/// # Errors
/// Where it cannot be made, or others can exchange what lies in `state/` too.
pub(crate) fn directory(home: &Home) -> io::Result<TempDir> {
    in_either(&std::env::temp_dir(), home)
}

fn in_either(temporary: &Path, home: &Home) -> io::Result<TempDir> {
    let make = |folder: &Path| {
        tempfile::Builder::new().prefix(".blat-").permissions(Permissions::from_mode(0o700)).tempdir_in(folder)
    };
    let is_safe = temporary.is_absolute() && trust::check_folder(temporary).is_ok();
    if is_safe {
        return make(temporary);
    }
    let state = home.state_dir();
    private::directory(&state)?;
    trust::check_place(home.root(), &state).map_err(io::Error::other)?;
    make(&state)
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, set_permissions};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_others_could_exchange_is_made_in_the_home_tree() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (open, root) = (scratch.path().join("open"), scratch.path().join("home"));
        create_dir_all(open.join("below")).expect("a folder");
        create_dir_all(root.join("config")).expect("a folder");
        symlink("open/below", scratch.path().join("link")).expect("a link");
        let home = Home::locate(Some(&root)).expect("a home tree");
        let set = |mode| set_permissions(&open, Permissions::from_mode(mode)).expect("an own folder");
        for name in ["open", "open/below", "link"] {
            for (mode, in_home) in [(0o755, false), (0o1777, false), (0o777, true), (0o775, true)] {
                set(mode);
                let made = in_either(&scratch.path().join(name), &home).expect("a scratch directory");
                assert_eq!(made.path().starts_with(home.state_dir()), in_home, "{name} {mode:o}");
                let found = made.path().metadata().expect("a folder").permissions().mode() & 0o777;
                assert_eq!(found, 0o700);
            }
        }
        set_permissions(&root, Permissions::from_mode(0o777)).expect("an own folder");
        let why = in_either(&open, &home).expect_err("nowhere").to_string();
        assert!(why.contains("chmod go-w"), "{why}");
    }
}
