//! The master's socket below a home tree, however long that tree's path is.
//!
//! The system takes at most 108 bytes for a socket's path. So the directory is opened, and the socket is named through
//! that descriptor. Nothing here speaks: it only makes the two ends.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use blat_paths::private;

use crate::Home;

/// Makes the socket, which only its owner may use, in place of one that a former master left behind; also says which file it is.
///
/// To be called by the holder of the master's lock alone: it takes the place of whatever lies there.
///
/// # Errors
/// When the directory cannot be made, or the socket not in it.
pub fn bind(home: &Home) -> io::Result<(UnixListener, fs::Metadata)> {
    let path = home.socket();
    if let Some(directory) = path.parent() {
        private::directory(directory)?;
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = through_directory(&path, UnixListener::bind)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok((listener, fs::symlink_metadata(&path)?))
}

/// Removes the socket that [`bind`] made, where it still lies in its place. Another master may have put its own there: where the home tree was moved
/// away, the path is that of another one.
///
/// # Errors
/// When it cannot be told or removed.
pub fn remove(home: &Home, made: &fs::Metadata) -> io::Result<()> {
    let path = home.socket();
    if private::is_at(made, &path)? { fs::remove_file(&path) } else { Ok(()) }
}

/// Connects to the running master.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when no master runs.
pub fn connect(home: &Home) -> io::Result<UnixStream> {
    through_directory(&home.socket(), UnixStream::connect)
}

/// Calls `act` with a short name of `path`.
fn through_directory<T>(path: &Path, act: impl FnOnce(PathBuf) -> io::Result<T>) -> io::Result<T> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the socket's path names no file"));
    };
    let directory = File::open(directory)?;
    act(Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_longer_than_the_system_takes_is_no_hindrance() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("a-long-name-".repeat(15)).join("blatd.sock");
        fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
        assert!(UnixListener::bind(&path).is_err(), "the system takes it after all");
        let listener = through_directory(&path, UnixListener::bind).expect("a socket");
        let client = through_directory(&path, UnixStream::connect).expect("a connection");
        let (server, _) = listener.accept().expect("the connection");
        drop((client, server));
    }

    #[test]
    fn a_master_removes_its_own_socket_and_no_other() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        fs::create_dir(scratch.path().join("config")).expect("a directory");
        let home = Home::at(scratch.path()).expect("a home tree");
        let (_old, old) = bind(&home).expect("a socket");
        let (new_listener, new) = bind(&home).expect("another in its place");
        remove(&home, &old).expect("nothing to do");
        drop(connect(&home).expect("the new one is there"));
        drop(new_listener);
        remove(&home, &new).expect("it is its own");
        remove(&home, &new).expect("it is gone already");
        assert!(!home.socket().exists());
    }
}
