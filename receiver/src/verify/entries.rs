//! A package's entries beside its tree file: links, modes, directories, what is missing and what is too many.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};

use blat_domain::package::tree::{Node, parse, what, written};
use rustix::fs::FileType;
use sha2::{Digest as _, Sha256};

use crate::archive::dir::{Dir, is_absence, kind};
use crate::archive::tree::{check_depth, shortened};
use crate::package::Places;
use crate::wire::inbox::Inbox;

/// The longest line of a tree file, in bytes: a path and a link's text, each byte of them escaped.
const LONGEST_LINE: u64 = 32 << 10;
/// Bytes of paths that are kept in mind to name an entry that is too many. With more it is only counted.
const MOST_KEPT: usize = 8 << 20;

/// The tree file's digest where the package below `root` is as it says; else the first difference. The error is `PermissionDenied` and names the
/// place alone where all is as it says as far as the owner may look.
pub(super) fn check(root: Dir, file: File, inbox: &Inbox) -> io::Result<Result<[u8; 32], String>> {
    let mut places = Places::new(root);
    let mut lines = BufReader::new(file);
    let (mut whole, mut listed, mut line) = (Sha256::new(), 0u64, Vec::new());
    let (mut known, mut kept, mut closed) = (HashSet::new(), 0, None);
    loop {
        line.clear();
        if io::Read::take(&mut lines, LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        whole.update(&line);
        let Some((sent, path)) = parse(line.strip_suffix(b"\n").unwrap_or(&line)) else {
            return Ok(Err("its tree file is damaged".into()));
        };
        match what_is_at(&mut places, &path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => closed = closed.or(Some(path.clone())),
            Err(error) => return Err(error),
            Ok(None) => return Ok(Err(format!("{}: missing", shown_path(&path)))),
            Ok(Some(there)) if there != sent => {
                let (there, sent) = (shown(&there), shown(sent));
                return Ok(Err(format!("{}: is {there}, was sent as {sent}", shown_path(&path))));
            }
            Ok(Some(_)) => {}
        }
        listed += 1;
        kept += path.len();
        if kept <= MOST_KEPT {
            known.insert(path);
        }
        inbox.get_on();
    }
    let mut search = Search { known: (kept <= MOST_KEPT).then_some(&known), found: 1, extra: None, closed };
    search.below(places.root(), &mut Vec::new(), 0, inbox)?;
    Ok(match (search.extra, search.closed) {
        (Some(path), _) => Err(format!("{}: was not sent", shown_path(&path))),
        (None, Some(path)) => {
            let path = shown_path(shortened(&path));
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, path));
        }
        (None, None) if search.found != listed => Err("it holds more or fewer entries than its tree file says".into()),
        (None, None) => Ok(whole.finalize().into()),
    })
}

/// What a tree file would say of what is at a path; none where nothing is.
fn what_is_at(places: &mut Places, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
    if path.is_empty() {
        let stat = places.root().own_stat()?;
        return Ok(Some(what(Node::Directory(mode(stat.st_mode)))));
    }
    let (parent, name) = match places.parent(path) {
        Ok(found) => found,
        Err(error) if is_absence(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(stat) = parent.stat(name)? else { return Ok(None) };
    Ok(match kind(&stat) {
        FileType::Directory => Some(what(Node::Directory(mode(stat.st_mode)))),
        FileType::RegularFile => Some(what(Node::File(mode(stat.st_mode)))),
        FileType::Symlink => parent.link_target(name)?.map(|to| what(Node::Link(&to))),
        _ => Some(b"something else".to_vec()),
    })
}

/// All bits of a mode: what was published has no special ones.
fn mode(raw: u32) -> u16 {
    u16::try_from(raw & 0o7777).unwrap_or(0)
}

/// A walk that counts entries, and looks for the first one that is not known.
struct Search<'a> {
    known: Option<&'a HashSet<Vec<u8>>>,
    found: u64,
    extra: Option<Vec<u8>>,
    /// The first entry that we may not look at or into.
    closed: Option<Vec<u8>>,
}

impl Search<'_> {
    fn below(&mut self, dir: &Dir, path: &mut Vec<u8>, depth: usize, inbox: &Inbox) -> io::Result<()> {
        check_depth(depth)?;
        let length = path.len();
        for found in dir.entries()? {
            let found = found?;
            if length > 0 {
                path.push(b'/');
            }
            path.extend(&found.name);
            self.found += 1;
            let is_unknown = self.known.is_some_and(|known| !known.contains(path));
            if is_unknown && self.extra.as_ref().is_none_or(|first| path.as_slice() < first.as_slice()) {
                self.extra = Some(path.clone());
            }
            // What is in a directory that was not sent was not sent either, however much and deep.
            if !is_unknown && matches!(found.kind, FileType::Directory | FileType::Unknown) {
                match dir.open_if_there(&found.name) {
                    Ok(Some(inner)) => self.below(&inner, path, depth + 1, inbox)?,
                    Ok(None) => {}
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        self.closed.get_or_insert_with(|| path.clone());
                    }
                    Err(error) => return Err(error),
                }
            }
            path.truncate(length);
            inbox.get_on();
        }
        Ok(())
    }
}

fn shown_path(path: &[u8]) -> String {
    shown(&written(path))
}

/// Foreign bytes, fit for an answer, as the scripts show them.
fn shown(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '?' }).collect()
}
