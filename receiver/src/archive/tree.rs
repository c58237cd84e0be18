//! Whole trees: removing them and counting what they hold. Links are never followed.

use std::io;

use blat_domain::ownership::FILE;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::HOUSE;
use super::dir::{Dir, kind, permissions};
use crate::failure::shown;

/// What cannot be removed, for example since it belongs to root.
#[derive(Debug)]
pub(crate) struct Stuck {
    /// Where it is, below the directory that the tree is in.
    pub(crate) path: Vec<u8>,
    /// Why it cannot be removed.
    pub(crate) why: io::Error,
    /// The user who owns the directory that is in the way; none where nobody has looked.
    pub(crate) owner: Option<u32>,
}

impl Stuck {
    /// What one name refuses.
    pub(crate) fn at(path: impl AsRef<[u8]>, why: io::Error) -> Self {
        Self { path: path.as_ref().to_vec(), why, owner: None }
    }

    /// The same as seen from further up.
    pub(crate) fn below(self, dir: impl AsRef<[u8]>) -> Self {
        Self { path: [dir.as_ref(), b"/", &self.path].concat(), ..self }
    }
}

impl From<Stuck> for io::Error {
    fn from(stuck: Stuck) -> Self {
        Self::new(stuck.why.kind(), format!("removing {}: {}", shown(&stuck.path), stuck.why))
    }
}

/// Removes whatever is under a name, trees with closed directories included. What is not there is no error. What cannot be removed does not keep the
/// rest from going; the first of it is named.
pub(crate) fn remove(dir: &Dir, name: impl AsRef<[u8]>) -> Result<(), Stuck> {
    remove_from(dir, name.as_ref())
}

fn remove_from(dir: &Dir, name: &[u8]) -> Result<(), Stuck> {
    let own = |why: io::Error| Stuck { owner: owner(dir, name), ..Stuck::at(name, why) };
    let inner = match open_up(dir, name) {
        Ok(Some(inner)) => inner,
        Ok(None) => return Ok(()),
        // Somebody else's; it can go as long as it is empty.
        Err(error) => return dir.remove_directory(name).map_err(|_| own(error)),
    };
    let mut first = Ok(());
    for found in inner.entries().map_err(own)? {
        let removed =
            found.map_err(own).and_then(|found| remove_from(&inner, &found.name).map_err(|stuck| stuck.below(name)));
        first = first.and(removed);
    }
    first?;
    dir.remove_directory(name).map_err(own)
}

/// Of the directory with this name, or of the one that holds it where it is something else.
fn owner(dir: &Dir, name: &[u8]) -> Option<u32> {
    let found = dir.stat(name).ok().flatten().filter(|stat| kind(stat) == FileType::Directory);
    found.or_else(|| dir.own_stat().ok()).map(|stat| stat.st_uid)
}

/// Removes what is no directory; else opens it, with all that its owner may do in it.
fn open_up(dir: &Dir, name: &[u8]) -> io::Result<Option<Dir>> {
    match dir.unlink(name) {
        Ok(()) => return Ok(None),
        Err(error) if is(&error, Errno::ISDIR) || is(&error, Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let inner = match dir.open_unmounted(name) {
        Ok(inner) => inner,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if is(&error, Errno::ACCESS) => dir.open_up(name, 0)?,
        Err(error) => return Err(error),
    };
    if permissions(&inner.own_stat()?) & 0o700 != 0o700 {
        inner.set_mode(0o700)?;
    }
    Ok(Some(inner))
}

/// What would go together with the directory of this name, and is not part of it: something that is mounted in it or in its place, or an archive.
/// What cannot be looked into may hold either. A closed folder of our own is opened for the look, and gets its mode back.
pub(crate) fn foreign_part(dir: &Dir, name: &[u8]) -> io::Result<Option<String>> {
    let mut path = Vec::new();
    Ok(look_for_foreign(dir, name, &mut path)?.map(|why| {
        path.truncate(MOST_SHOWN);
        match why {
            Foreign::Mount => "something is mounted in it, which would go with it; unmount that first".into(),
            Foreign::Archive => "another archive is in it, which would go with it; move that away first".into(),
            Foreign::Closed => format!(
                "its folder {} cannot be looked into, and another archive or a mount in it would go with it; as that folder's owner or as root \
                 look into it, then remove it or open it to this account",
                shown(&path)
            ),
        }
    }))
}

/// The most bytes of a path that an answer shows.
const MOST_SHOWN: usize = 500;

enum Foreign {
    Mount,
    Archive,
    Closed,
}

/// `path` becomes that of what is found.
fn look_for_foreign(dir: &Dir, name: &[u8], path: &mut Vec<u8>) -> io::Result<Option<Foreign>> {
    let before = path.len();
    if before > 0 {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    let (inner, mode) = match dir.open_for_a_look(name) {
        Ok(opened) => opened,
        Err(error) if is(&error, Errno::XDEV) => return Ok(Some(Foreign::Mount)),
        Err(error) if is(&error, Errno::ACCESS) || is(&error, Errno::PERM) => return Ok(Some(Foreign::Closed)),
        Err(error) => return Err(error),
    };
    let found = look_at_entries(&inner, name, path);
    mode.map_or(Ok(()), |mode| inner.set_mode(mode))?;
    if matches!(found, Ok(None)) {
        path.truncate(before);
    }
    match found {
        Err(error) if is(&error, Errno::ACCESS) => Ok(Some(Foreign::Closed)),
        found => found,
    }
}

fn look_at_entries(inner: &Dir, name: &[u8], path: &mut Vec<u8>) -> io::Result<Option<Foreign>> {
    for found in inner.entries()? {
        let found = found?;
        if name == HOUSE.as_bytes() && found.name == FILE.as_bytes() {
            return Ok(Some(Foreign::Archive));
        }
        if inner.kind_of(&found)? == FileType::Directory
            && let Some(why) = look_for_foreign(inner, &found.name, path)?
        {
            return Ok(Some(why));
        }
    }
    Ok(None)
}

/// Whether something is mounted in the place of this name.
pub(crate) fn is_mount(dir: &Dir, name: &str) -> bool {
    dir.open_unmounted(name.as_bytes()).is_err_and(|error| is(&error, Errno::XDEV))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// What hears of each entry: the directory that it is in, its name there, what it is.
type See<'a> = dyn FnMut(&Dir, &[u8], FileType) -> io::Result<()> + 'a;

/// Calls `see` with everything below a directory: the directory that it is in, and what it is.
pub(crate) fn walk(dir: &Dir, see: &mut See<'_>) -> io::Result<()> {
    for found in dir.entries()? {
        let found = found?;
        let of = dir.kind_of(&found)?;
        see(dir, &found.name, of)?;
        if of == FileType::Directory {
            walk(&dir.open(&found.name)?, see)?;
        }
    }
    Ok(())
}
