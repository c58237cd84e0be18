//! All of a package, entry by entry, in memory that is bounded, whatever it holds.
//!
//! A directory comes in batches: of the names that have not come yet, those that are first in order, as many as there is room for. One with more
//! is listed again for the next batch. Where directories with many names lie in each other, the outer ones give up what is left of their batch
//! and are listed again as well. So nothing but time grows with the number of names.

use std::collections::BinaryHeap;
use std::os::fd::OwnedFd;
use std::vec;

use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::Errno;

use super::{DIRECTORY, LONGEST_PATH, Node, Root, SourceError, Stat};

/// What one call that lists a directory may fill, in bytes.
const LISTING: usize = 32 << 10;
/// What a name takes beside its bytes: its pointer, and what the allocator needs.
const NAME: usize = 32;

/// How much a walk holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// What the names of one batch may take, in bytes. All batches may take twice as much: so a directory only gives up its own where as much lies in it.
    pub(super) batch: usize,
    /// How many entries are looked at in one go, while their directory is open.
    pub(super) looked_at: usize,
}

const ROOM: Room = Room { batch: 8 << 20, looked_at: 1024 };

/// In which order a directory's entries come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WalkOrder {
    /// By their names, bytewise.
    Name,
    /// By their paths, bytewise, where a directory's ends in a slash.
    Path,
}

/// What an entry is sorted by: its name, with a slash behind it where the order wants one.
type SortKey = Box<[u8]>;

/// An entry of a directory.
type KeyedEntry = (SortKey, Stat);

/// A directory on the way to the present entry.
#[derive(Debug)]
struct Folder {
    stat: Stat,
    /// The length of its path.
    length: usize,
    /// What comes next, looked at.
    entries: vec::IntoIter<KeyedEntry>,
    /// What comes after that, in order.
    names: vec::IntoIter<SortKey>,
    /// What these two took at first, in bytes.
    taken: usize,
    /// What comes after those is still to be listed, if anything does: all that is greater than this.
    rest: Option<SortKey>,
}

impl Folder {
    fn new(stat: Stat, length: usize) -> Self {
        let (entries, names) = Default::default();
        Self { stat, length, entries, names, taken: 0, rest: Some(SortKey::default()) }
    }
}

/// A walk over a package. It ends after its first error.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    root: &'a Root,
    order: WalkOrder,
    room: Room,
    folders: Vec<Folder>,
    /// What the names of all of them took at first, in bytes.
    taken: usize,
    /// The entry that was given last.
    last: Option<Node>,
    is_begun: bool,
    /// The directory that was looked at last, with its handle: the way from there to one within it is short, however deep the tree is.
    open: Option<(Vec<u8>, OwnedFd)>,
    buffer: Vec<u8>,
    #[cfg(test)]
    listings: usize,
}

impl Iterator for Walk<'_> {
    type Item = Result<Node, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(Node { mut path, stat }) = self.last.take() else {
            if std::mem::replace(&mut self.is_begun, true) {
                return None;
            }
            return self.give(Node { path: Vec::new(), stat: self.root.stat });
        };
        if stat.is_directory() {
            self.folders.push(Folder::new(stat, path.len()));
        }
        let (key, stat) = loop {
            let folder = self.folders.last_mut()?;
            if let Some(entry) = folder.entries.next() {
                path.truncate(folder.length);
                break entry;
            }
            if let Err(error) = self.look_on(&path) {
                return Some(Err(error));
            }
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name(&key));
        if path.len() > LONGEST_PATH {
            return Some(Err(SourceError::TooDeep(self.root.shown(&path[..100]))));
        }
        self.give(Node { path, stat })
    }
}

impl<'a> Walk<'a> {
    /// A walk that has not begun.
    pub(super) fn new(root: &'a Root, order: WalkOrder) -> Self {
        Self {
            root,
            order,
            room: ROOM,
            folders: Vec::new(),
            taken: 0,
            last: None,
            is_begun: false,
            open: None,
            buffer: Vec::with_capacity(LISTING),
            #[cfg(test)]
            listings: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn with_room(self, room: Room) -> Self {
        Self { room, ..self }
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    #[cfg(test)]
    pub(super) fn listings(&self) -> usize {
        self.listings
    }

    fn give(&mut self, node: Node) -> Option<Result<Node, SourceError>> {
        self.last = Some(node.clone());
        Some(Ok(node))
    }

    /// Looks at what comes next in the innermost directory, or leaves it where nothing does. `path` is the entry that was given last.
    fn look_on(&mut self, path: &[u8]) -> Result<(), SourceError> {
        let Some(mut folder) = self.folders.pop() else { return Ok(()) };
        if folder.names.as_slice().is_empty() && folder.rest.is_none() {
            self.taken -= folder.taken;
            return Ok(());
        }
        let node = Node { path: path[..folder.length].to_vec(), stat: folder.stat };
        let handle = self.open(&node)?;
        if folder.names.as_slice().is_empty()
            && let Some(after) = folder.rest.take()
        {
            self.taken -= folder.taken;
            (folder.names, folder.rest) = self.list(&node, &handle, &after)?;
            let names = folder.names.as_slice();
            folder.taken = size_of::<KeyedEntry>() * names.len().min(self.room.looked_at)
                + names.iter().map(|key| cost(key)).sum::<usize>();
            self.taken += folder.taken;
            self.make_room(path);
        }
        let entries = folder.names.by_ref().take(self.room.looked_at).map(|key| self.look_at(&node, &handle, key));
        folder.entries = entries.collect::<Result<Vec<_>, _>>()?.into_iter();
        self.folders.push(folder);
        self.open = Some((node.path, handle));
        Ok(())
    }

    /// A directory's handle, if it is what it was when the walk met it.
    fn open(&mut self, folder: &Node) -> Result<OwnedFd, SourceError> {
        let Some((path, handle)) = self.open.take() else { return self.root.open_node(folder, DIRECTORY) };
        match folder.path.strip_prefix(&path[..]) {
            Some(b"") => match Stat::of_handle(&handle) {
                Ok(stat) if stat == folder.stat => Ok(handle),
                Ok(_) => Err(self.root.changed(&path)),
                Err(error) => Err(self.root.unreadable(&path, error)),
            },
            Some(rest) if path.is_empty() => self.root.open_from(&handle, rest, folder, DIRECTORY),
            Some([b'/', rest @ ..]) => self.root.open_from(&handle, rest, folder, DIRECTORY),
            Some(_) | None => self.root.open_node(folder, DIRECTORY),
        }
    }

    /// The next batch of a directory: its first names of those greater than `after`, and the last of them where there are more.
    fn list(
        &mut self,
        folder: &Node,
        handle: &OwnedFd,
        after: &[u8],
    ) -> Result<(vec::IntoIter<SortKey>, Option<SortKey>), SourceError> {
        #[cfg(test)]
        {
            self.listings += 1;
        }
        let unreadable = |error| self.root.unreadable(&folder.path, error);
        if !after.is_empty() {
            seek(handle, SeekFrom::Start(0)).map_err(unreadable)?;
        }
        let (mut few, mut many, mut taken) = (Vec::new(), BinaryHeap::new(), 0);
        let mut listing = RawDir::new(handle, self.buffer.spare_capacity_mut());
        while let Some(entry) = listing.next() {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let key = match (self.order, entry.file_type()) {
                (WalkOrder::Path, FileType::Directory) => [name, b"/"].concat().into(),
                // Some file systems do not say it here.
                (WalkOrder::Path, FileType::Unknown) => {
                    let slash: &[u8] = if self.root.stat_in(folder, handle, name)?.is_directory() { b"/" } else { b"" };
                    [name, slash].concat().into()
                }
                _ => SortKey::from(name),
            };
            if *key <= *after || many.peek().is_some_and(|last| key > *last) {
                continue;
            }
            taken += cost(&key);
            few.push(key);
            // Which is the last of them only matters once there are too many.
            if many.is_empty() && taken <= self.room.batch {
                continue;
            }
            many.extend(few.drain(..));
            while taken > self.room.batch
                && let Some(last) = many.pop()
            {
                taken -= cost(&last);
            }
        }
        let rest = many.peek().cloned();
        few.extend(many);
        few.sort_unstable();
        Ok((few.into_iter(), rest))
    }

    /// Has the outer directories give up what is left of their batches, the outermost first, until there is room for all. `path` is the entry that was
    /// given last: it leads through the last one that each of them gave.
    fn make_room(&mut self, path: &[u8]) {
        for folder in &mut self.folders {
            if self.taken <= 2 * self.room.batch {
                break;
            }
            if folder.taken == 0 {
                continue;
            }
            let below = &path[folder.length..];
            let below = below.strip_prefix(b"/").unwrap_or(below);
            let name = below.split(|byte| *byte == b'/').next().unwrap_or_default();
            let slash: &[u8] = if self.order == WalkOrder::Path { b"/" } else { b"" };
            self.taken -= folder.taken;
            *folder = Folder { rest: Some([name, slash].concat().into()), ..Folder::new(folder.stat, folder.length) };
        }
    }

    fn look_at(&self, folder: &Node, handle: &OwnedFd, key: SortKey) -> Result<KeyedEntry, SourceError> {
        let stat = self.root.stat_in(folder, handle, name(&key))?;
        // It comes at the place of what was listed.
        if self.order == WalkOrder::Path && stat.is_directory() != key.ends_with(b"/") {
            return Err(self.root.changed(&below(folder, name(&key))));
        }
        Ok((key, stat))
    }
}

impl Root {
    /// What the system says of what was in a directory a moment ago.
    fn stat_in(&self, folder: &Node, handle: &OwnedFd, name: &[u8]) -> Result<Stat, SourceError> {
        Stat::of(handle, name).map_err(|error| match error {
            Errno::NOENT => self.changed(&below(folder, name)),
            error => self.unreadable(&below(folder, name), error),
        })
    }
}

fn name(key: &[u8]) -> &[u8] {
    key.strip_suffix(b"/").unwrap_or(key)
}

fn cost(key: &[u8]) -> usize {
    key.len() + NAME
}

fn below(folder: &Node, name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if folder.path.is_empty() { b"" } else { b"/" };
    [&folder.path, slash, name].concat()
}
