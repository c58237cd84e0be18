//! Whole trees: removing them and counting what they hold. Links are never followed.

use std::io;

use blat_domain::archive::CONTROL;
use blat_domain::archive::record::FILE;
use rustix::fs::FileType;
use rustix::io::Errno;

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

    /// The same with the owner of what has this name.
    fn of(dir: &Dir, name: &[u8], why: io::Error) -> Self {
        Self { owner: owner(dir, name), ..Self::at(name, why) }
    }

    /// The same as seen from further up.
    pub(crate) fn below(self, dir: impl AsRef<[u8]>) -> Self {
        let slash = if self.path.is_empty() { "" } else { "/" };
        Self { path: [dir.as_ref(), slash.as_bytes(), &self.path].concat(), ..self }
    }
}

impl From<Stuck> for io::Error {
    fn from(stuck: Stuck) -> Self {
        Self::new(stuck.why.kind(), format!("removing {}: {}", shown(shortened(&stuck.path)), stuck.why))
    }
}

/// So many folders deep a package may be, and nothing is looked through that is deeper: each takes handles and room on the stack, and whoever may
/// write a folder of a package can make any number of them.
pub(crate) const DEEPEST: usize = 256;
/// What is to be removed and lies deeper is moved up first.
const MOST_DOWN: usize = 64;
/// Where it cannot be moved, it is removed in its place as deep as a package in the trash.
const MOST_DOWN_IN_PLACE: usize = DEEPEST + 8;
/// The most bytes of a path that an answer shows.
const MOST_SHOWN: usize = 500;

/// The path, or that of a folder above it where it is too long for an answer.
pub(crate) fn shortened(path: &[u8]) -> &[u8] {
    match path.get(..MOST_SHOWN) {
        Some(start) => &start[..start.iter().rposition(|byte| *byte == b'/').unwrap_or(MOST_SHOWN)],
        None => path,
    }
}

/// Removes whatever is under a name, trees of any depth with closed directories included. What is not there is no error. What cannot be removed does
/// not keep the rest from going; the first of it is named.
pub(crate) fn remove(dir: &Dir, name: impl AsRef<[u8]>) -> Result<(), Stuck> {
    remove_from(dir, name.as_ref())
}

fn remove_from(dir: &Dir, name: &[u8]) -> Result<(), Stuck> {
    let Some(root) = open_or_remove(dir, name)? else { return Ok(()) };
    let mut removal = Removal { root: &root, moved: Vec::new(), names: 0 };
    let mut first = removal.clear(&root, 1);
    while let Some(moved) = removal.moved.pop() {
        first = first.and(removal.remove(&root, Removal::name(moved).as_bytes(), 1));
    }
    first.map_err(|stuck| stuck.below(name))?;
    dir.remove_directory(name).map_err(|why| Stuck::of(dir, name, why))
}

/// A tree that is being removed.
struct Removal<'a> {
    root: &'a Dir,
    /// The numbers of what was moved to the root, and is still to be removed there.
    moved: Vec<u32>,
    /// The last number that was tried.
    names: u32,
}

impl Removal<'_> {
    fn name(number: u32) -> String {
        format!(".deeper-{number}")
    }

    /// Removes all that is in a directory so far below the root.
    fn clear(&mut self, dir: &Dir, depth: usize) -> Result<(), Stuck> {
        let mut first = Ok(());
        let own = |why: io::Error| Stuck { owner: dir.own_stat().ok().map(|stat| stat.st_uid), ..Stuck::at("", why) };
        for found in dir.entries().map_err(own)? {
            let removed = found.map_err(own).and_then(|found| self.remove(dir, &found.name, depth));
            first = first.and(removed);
        }
        first
    }

    fn remove(&mut self, dir: &Dir, name: &[u8], depth: usize) -> Result<(), Stuck> {
        let Some(inner) = open_or_remove(dir, name)? else { return Ok(()) };
        if depth > MOST_DOWN {
            match self.move_up(dir, name) {
                Ok(()) => return Ok(()),
                Err(why) if depth > MOST_DOWN_IN_PLACE => {
                    return dir.remove_directory(name).map_err(|_| Stuck::of(dir, name, why));
                }
                Err(_) => {}
            }
        }
        self.clear(&inner, depth + 1).map_err(|stuck| stuck.below(name))?;
        dir.remove_directory(name).map_err(|why| Stuck::of(dir, name, why))
    }

    /// Gives a directory a new name in the root; where that is taken, the next directory tries the next one. All of it is to go, so what is
    /// exchanged for it meanwhile may be moved, or moved over, as well.
    fn move_up(&mut self, dir: &Dir, name: &[u8]) -> io::Result<()> {
        self.names += 1;
        dir.rename(name, self.root, Self::name(self.names))?;
        self.moved.push(self.names);
        Ok(())
    }
}

/// Opens a directory that is to be removed; none where it was something else, which is gone.
fn open_or_remove(dir: &Dir, name: &[u8]) -> Result<Option<Dir>, Stuck> {
    open_up(dir, name).or_else(|error| {
        let stuck = Stuck::of(dir, name, error);
        // Somebody else's; it can go as long as it is empty.
        dir.remove_directory(name).map(|()| None).map_err(|_| stuck)
    })
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
    let mode = permissions(&inner.own_stat()?);
    if mode & 0o700 != 0o700 {
        inner.set_mode(0o700)?;
    } else if mode & 0o022 != 0 {
        // So that nobody puts more into it. Only its owner can close it: another owner can still add to it.
        let _ = inner.set_mode(0o700);
    }
    Ok(Some(inner))
}

/// What would go together with the directory of this name, and is not part of it: something that is mounted in it or in its place, or an archive.
/// What cannot be looked into may hold either. A closed folder of our own is opened for the look, and gets its mode back.
pub(crate) fn foreign_part(dir: &Dir, name: &[u8]) -> io::Result<Option<String>> {
    let mut path = Vec::new();
    Ok(look_for_foreign(dir, name, &mut path, 0)?.map(|why| {
        let path = shortened(&path);
        match why {
            Foreign::Mount => "something is mounted in it, which would go with it; unmount that first".into(),
            Foreign::Archive => "another archive is in it, which would go with it; move that away first".into(),
            Foreign::Closed => format!(
                "its folder {} cannot be looked into, and another archive or a mount in it would go with it; as that folder's owner or as root \
                 look into it, then remove it or open it to this account",
                shown(path)
            ),
            Foreign::Deep => format!("{TOO_DEEP}, and another archive or a mount in them would go with it; look into {}, then remove that", shown(&path[..path.len().min(MOST_OF_DEEP)])),
        }
    }))
}

/// Why what is deeper than [`DEEPEST`] is not looked through.
const TOO_DEEP: &str = "its folders are nested deeper than a package's may be";

/// The most bytes that are shown of a path of so many folders.
const MOST_OF_DEEP: usize = 60;

enum Foreign {
    Mount,
    Archive,
    Closed,
    Deep,
}

/// `path` becomes that of what is found, so many folders below the package.
fn look_for_foreign(dir: &Dir, name: &[u8], path: &mut Vec<u8>, depth: usize) -> io::Result<Option<Foreign>> {
    let before = path.len();
    if before > 0 {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    if depth > DEEPEST {
        return Ok(Some(Foreign::Deep));
    }
    let (inner, mode) = match dir.open_for_a_look(name) {
        Ok(opened) => opened,
        Err(error) if is(&error, Errno::XDEV) => return Ok(Some(Foreign::Mount)),
        Err(error) if is(&error, Errno::ACCESS) || is(&error, Errno::PERM) => return Ok(Some(Foreign::Closed)),
        Err(error) => return Err(error),
    };
    let found = look_at_entries(&inner, name, path, depth);
    mode.map_or(Ok(()), |mode| inner.set_mode(mode))?;
    if matches!(found, Ok(None)) {
        path.truncate(before);
    }
    match found {
        Err(error) if is(&error, Errno::ACCESS) => Ok(Some(Foreign::Closed)),
        found => found,
    }
}

fn look_at_entries(inner: &Dir, name: &[u8], path: &mut Vec<u8>, depth: usize) -> io::Result<Option<Foreign>> {
    for found in inner.entries()? {
        let found = found?;
        if name == CONTROL.as_bytes() && found.name == FILE.as_bytes() {
            return Ok(Some(Foreign::Archive));
        }
        if inner.kind_of(&found)? == FileType::Directory
            && let Some(why) = look_for_foreign(inner, &found.name, path, depth + 1)?
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
    walk_from(dir, see, 0)
}

fn walk_from(dir: &Dir, see: &mut See<'_>, depth: usize) -> io::Result<()> {
    check_depth(depth)?;
    for found in dir.entries()? {
        let found = found?;
        let of = dir.kind_of(&found)?;
        see(dir, &found.name, of)?;
        if of == FileType::Directory {
            walk_from(&dir.open(&found.name)?, see, depth + 1)?;
        }
    }
    Ok(())
}

/// Whether a directory so far below a package may be looked through.
pub(crate) fn check_depth(depth: usize) -> io::Result<()> {
    if depth > DEEPEST { Err(io::Error::other(TOO_DEEP)) } else { Ok(()) }
}
