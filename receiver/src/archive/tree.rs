//! Whole trees: removing them, counting and syncing what they hold. Links are never followed.

use std::fs::File;
use std::io;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::dir::{Dir, kind, permissions};

/// Threads that make a tree durable.
const SYNCING: usize = 8;

/// Removes whatever is under a name, trees with closed directories included. What is not there is no error.
pub(crate) fn remove(dir: &Dir, name: impl AsRef<[u8]>) -> io::Result<()> {
    let name = name.as_ref();
    match dir.unlink(name) {
        Ok(()) => return Ok(()),
        Err(error) if is(&error, Errno::ISDIR) || is(&error, Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let inner = match dir.open(name) {
        Ok(inner) => inner,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if is(&error, Errno::ACCESS) => dir.open_up(name)?,
        Err(error) => return Err(error),
    };
    if permissions(&inner.own_stat()?) & 0o700 != 0o700 {
        inner.set_mode(0o700)?;
    }
    let mut first = Ok(());
    for found in inner.entries()? {
        let removed = found.and_then(|found| remove(&inner, found.name));
        first = first.and(removed);
    }
    first?;
    if dir.remove_empty(name) || dir.stat(name)?.is_none() { Ok(()) } else { Err(Errno::NOTEMPTY.into()) }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// Calls `see` with everything below a directory: the directory that it is in, and what it is.
pub(crate) fn walk(dir: &Dir, see: &mut impl FnMut(&Dir, &[u8], FileType) -> io::Result<()>) -> io::Result<()> {
    for found in dir.entries()? {
        let found = found?;
        let of = match found.kind {
            FileType::Unknown => dir.stat(found.name.as_slice())?.map_or(FileType::Unknown, |stat| kind(&stat)),
            known => known,
        };
        see(dir, &found.name, of)?;
        if of == FileType::Directory {
            walk(&dir.open(&found.name)?, see)?;
        }
    }
    Ok(())
}

/// Makes everything below a directory durable, and the directory itself. Holds a handle of all of it, so it is for small trees.
pub(crate) fn sync(dir: &Dir) -> io::Result<()> {
    let mut all = vec![dir.open_again()?.into_file()];
    walk(dir, &mut |parent, name, of| {
        match of {
            FileType::RegularFile => all.push(parent.read(name)?),
            FileType::Directory => all.push(parent.open(name)?.into_file()),
            _ => {}
        }
        Ok(())
    })?;
    // Those that are synced at the same time share the journal's commits.
    let share = all.len().div_ceil(SYNCING);
    std::thread::scope(|scope| {
        let sync = |files: &[File]| files.iter().try_for_each(File::sync_all);
        let mut shares = all.chunks(share);
        let own = shares.next().unwrap_or_default();
        let helpers: Vec<_> = shares.map(|files| scope.spawn(move || sync(files))).collect();
        let synced = sync(own);
        helpers.into_iter().fold(synced, |synced, helper| match helper.join() {
            Ok(result) => synced.and(result),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}
