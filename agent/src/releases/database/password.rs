//! `password_file`: the one place where a password is read. It goes to the driver, and nowhere else.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use blat_domain::util::text::unmarked;
use rustix::process::geteuid;
use tokio::io::AsyncReadExt;

use crate::releases::file;

/// No password is longer, in bytes.
const LONGEST: u64 = 4096;

/// The file's first line.
pub(super) async fn read(path: &Path) -> Result<String, String> {
    let failed = |why: &str| format!("cannot take the password from {}: {why}", path.display());
    let (file, found) = file::open(path).await.map_err(|why| failed(&why))?;
    if found.mode() & 0o007 != 0 {
        return Err(failed("everybody may read or write it; take that away with chmod o="));
    }
    if found.mode() & 0o020 != 0 || ![0, geteuid().as_raw()].contains(&found.uid()) {
        return Err(failed(
            "others may write it; it must be the home's owner's or root's, and nobody else's to write: chmod g-w",
        ));
    }
    let mut text = String::new();
    // The error may quote what it cannot read, so it is not shown.
    file.take(LONGEST).read_to_string(&mut text).await.map_err(|_| failed("it cannot be read as UTF-8 text"))?;
    match unmarked(&text).lines().next().unwrap_or_default() {
        "" => Err(failed("its first line is empty")),
        password => Ok(password.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn the_first_line_is_the_password_and_strangers_may_not_read_it() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("password");
        write(&path, " s3cret word \nanother line\n").expect("written");
        set_permissions(&path, Permissions::from_mode(0o640)).expect("an own file");
        assert_eq!(read(&path).await.as_deref(), Ok(" s3cret word "));
        write(&path, "\u{feff}s3cret\r\n").expect("written");
        assert_eq!(read(&path).await.as_deref(), Ok("s3cret"), "an editor's mark and line end are none of it");
        for (mode, who) in [(0o644, "everybody"), (0o602, "everybody"), (0o660, "others may write it")] {
            set_permissions(&path, Permissions::from_mode(mode)).expect("an own file");
            let why = read(&path).await.expect_err("open to others");
            assert!(why.contains(who) && !why.contains("s3cret"), "{why}");
        }
    }

    #[tokio::test]
    async fn what_holds_no_password_is_told_without_its_content() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("password");
        for content in [&b""[..], b"\ns3cret\n", b"s3cret\xff\n"] {
            write(&path, content).expect("written");
            set_permissions(&path, Permissions::from_mode(0o600)).expect("an own file");
            let why = read(&path).await.expect_err("no password");
            assert!(!why.contains("s3cret"), "{why}");
        }
        assert!(read(scratch.path()).await.expect_err("a directory").contains("regular"));
        assert!(read(&scratch.path().join("none")).await.is_err());
    }
}
