//! A version that the target holds already, as the source has it: files of it that the next version repeats or resembles.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use blat_domain::package::DESCPKG;
use blat_domain::package::ancestry::stem;
use blat_domain::package::name::{PackageId, Version};
use blat_domain::protocol::frames::{Base, Copy, MOST_BASE};
use sha2::{Digest, Sha256};

use super::tree::Tree;
use super::walker::{Node, Root, SourceError, WalkOrder};
use crate::item::Fingerprint;

/// Bytes that are compared at once.
const BLOCK: usize = 256 << 10;
/// A file that refers to another one may do so to so many bytes before and after the place that it would have there.
const REACH: u64 = 4 << 20;

/// Files of a delta base that are kept in mind, and bytes of their paths: bounds memory.
const MOST_KIN: usize = 50_000;
const MOST_KIN_PATHS: usize = 8 << 20;
/// Files of one stem that are kept in mind: bounds the time to choose from them.
const MOST_OF_A_STEM: usize = 64;

/// One version of a package, beside a later one that is to be sent.
#[derive(Debug, Clone)]
pub struct DeltaBase {
    package: PackageId,
    archive: Arc<Path>,
    time: i64,
    /// The later version.
    next: Version,
    /// Its tree, where that was looked at a moment ago.
    print: Option<Fingerprint>,
    /// Its directory, opened when it is first needed; none where that fails.
    root: OnceLock<Option<Arc<Root>>>,
    similar: OnceLock<SimilarFiles>,
}

/// Files of a delta base by the stems of their names, each with its path below the delta base and its size.
type SimilarFiles = HashMap<Vec<u8>, Vec<(Vec<u8>, u64)>>;

/// A file of a delta base.
#[derive(Debug)]
pub(crate) struct BaseFile {
    version: Version,
    root: Arc<Root>,
    node: Node,
}

impl DeltaBase {
    /// `version` of a package, whose `descpkg` has this time on the target, and which lies beside `next` in the archive.
    pub fn new(version: Version, time: i64, print: Option<Fingerprint>, next: &PackageId, archive: &Arc<Path>) -> Self {
        let (package, archive) = (PackageId { name: next.name.clone(), version }, archive.clone());
        let (root, similar) = (OnceLock::new(), OnceLock::new());
        Self { package, archive, time, next: next.version.clone(), print, root, similar }
    }

    /// Whether the source has that very version still.
    pub fn is_here(&self) -> bool {
        let descpkg = self.root().and_then(|root| root.stat_of(DESCPKG).ok()?);
        descpkg.is_some_and(|stat| stat.is_file() && stat.modified.0 == self.time)
    }

    /// Which version it is, and the time of its `descpkg`.
    pub fn identity(&self) -> (&Version, i64) {
        (&self.package.version, self.time)
    }

    /// Its tree; none where it cannot be walked.
    pub fn print(&self) -> Option<Fingerprint> {
        self.print.or_else(|| Some(Tree::look(self.root()?).ok()?.print))
    }

    fn root(&self) -> Option<&Arc<Root>> {
        self.root.get_or_init(|| Root::open(&self.archive, &self.package).ok().map(Arc::new)).as_ref()
    }

    /// The file that one with this path and size most likely came from: the same path, else that with the version in it replaced, else
    /// the one of the same stem that is nearest in size.
    pub(crate) fn base_file(&self, path: &[u8], size: u64) -> Option<BaseFile> {
        let renamed = replaced(path, self.next.as_str().as_bytes(), self.package.version.as_str().as_bytes());
        let same_place = [Some(path.to_vec()), renamed].into_iter().flatten().find_map(|path| self.file(path));
        same_place.or_else(|| {
            let stem = stem(path.rsplit(|byte| *byte == b'/').next().unwrap_or(path));
            let similar = self.similar.get_or_init(|| self.look_for_similar()).get(&stem)?;
            let (path, _) = similar.iter().min_by_key(|(other, others)| (others.abs_diff(size), other != path))?;
            self.file(path.clone())
        })
    }

    /// Walks over the delta base. What cannot be read is no help, and no harm either.
    fn look_for_similar(&self) -> SimilarFiles {
        let mut similar = SimilarFiles::new();
        let Some(root) = self.root() else { return similar };
        let files = root.walk(WalkOrder::Name).map_while(Result::ok).filter(|node| node.stat.is_file());
        let mut paths = 0;
        for node in files.take(MOST_KIN) {
            paths += node.path.len();
            if paths > MOST_KIN_PATHS {
                break;
            }
            let of_stem = similar.entry(stem(node.name())).or_default();
            if of_stem.len() < MOST_OF_A_STEM {
                of_stem.push((node.path, node.stat.size));
            }
        }
        similar
    }

    fn file(&self, path: Vec<u8>) -> Option<BaseFile> {
        let root = self.root()?;
        // What cannot be read here is no help, and no harm either.
        let node = root.look(path).filter(|node| node.stat.is_file() && node.stat.size > 0)?;
        Some(BaseFile { version: self.package.version.clone(), root: root.clone(), node })
    }
}

impl BaseFile {
    /// How the target is told to copy it, and the digest of both, if it holds the same bytes as this file of a package.
    pub(crate) fn copy_of(&self, root: &Root, node: &Node) -> Option<(Copy, [u8; 32])> {
        if node.stat.size != self.node.stat.size {
            return None;
        }
        // Where either cannot be read, the bytes are sent, and what is wrong shows then.
        let digest = same_bytes((root, node), (&self.root, &self.node)).ok()??;
        let there = (self.node.path != node.path).then(|| self.node.path.clone());
        Some((Copy { version: self.version.clone(), path: there }, digest))
    }

    /// Appends to `prefix` what `bytes` bytes from `offset` on of a file of `size` bytes may refer to, and says what that is.
    pub(crate) fn prefix(
        &self,
        (offset, bytes, size): (u64, u64, u64),
        prefix: &mut Vec<u8>,
    ) -> Result<Option<Base>, SourceError> {
        let room = MOST_BASE.saturating_sub(prefix.len() as u64);
        // Where the bytes would be if the file had grown evenly.
        let even = |at: u64| {
            u64::try_from(u128::from(at) * u128::from(self.node.stat.size) / u128::from(size.max(1))).unwrap_or(0)
        };
        let start = even(offset).saturating_sub(REACH);
        let end = (even(offset.saturating_add(bytes)) + REACH).min(self.node.stat.size).min(start.saturating_add(room));
        let length = u32::try_from(end.saturating_sub(start)).unwrap_or(0);
        if length == 0 {
            return Ok(None);
        }
        let file = self.root.file(&self.node)?;
        let before = prefix.len();
        prefix.resize(before + length as usize, 0);
        let read = file.read_exact_at(&mut prefix[before..], start);
        let read = read.map_err(|error| self.root.unreadable(&self.node.path, error));
        if let Err(error) = read.and_then(|()| self.root.check_unchanged(&self.node, &file)) {
            prefix.truncate(before);
            return Err(error);
        }
        Ok(Some(Base { version: self.version.clone(), path: self.node.path.clone(), offset: start, bytes: length }))
    }
}

/// The digest of both files, whose sizes are the same, if they hold the same bytes.
fn same_bytes(ours: (&Root, &Node), theirs: (&Root, &Node)) -> Result<Option<[u8; 32]>, SourceError> {
    let (mut one, mut two) = (ours.0.file(ours.1)?, theirs.0.file(theirs.1)?);
    let mut left = ours.1.stat.size;
    let most = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK);
    let (mut one_block, mut other_block) = (vec![0; most], vec![0; most]);
    let mut digest = Sha256::new();
    let broken = |(root, node): (&Root, &Node), error: io::Error| root.unreadable(&node.path, error);
    while left > 0 {
        let block = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK);
        one.read_exact(&mut one_block[..block]).map_err(|error| broken(ours, error))?;
        two.read_exact(&mut other_block[..block]).map_err(|error| broken(theirs, error))?;
        if one_block[..block] != other_block[..block] {
            return Ok(None);
        }
        digest.update(&one_block[..block]);
        left -= block as u64;
    }
    ours.0.check_unchanged(ours.1, &one)?;
    theirs.0.check_unchanged(theirs.1, &two)?;
    Ok(Some(digest.finalize().into()))
}

/// `text` with every `from` replaced by `to`; none where there is none.
fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let (mut rest, mut is_changed) = (text, false);
    while let Some(first) = rest.first() {
        if rest.starts_with(from) && !from.is_empty() {
            out.extend_from_slice(to);
            rest = &rest[from.len()..];
            is_changed = true;
        } else {
            out.push(*first);
            rest = &rest[1..];
        }
    }
    is_changed.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_in_a_path_is_replaced() {
        let renamed =
            |path: &str| replaced(path.as_bytes(), b"1.10", b"1.9").map(|path| String::from_utf8(path).expect("text"));
        assert_eq!(renamed("lib/a-1.10.so").as_deref(), Some("lib/a-1.9.so"));
        assert_eq!(renamed("x-1.10/x-1.10.txt").as_deref(), Some("x-1.9/x-1.9.txt"));
        assert_eq!(renamed("lib/a.so"), None);
    }
}
