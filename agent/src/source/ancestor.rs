//! A version that the target holds already, as the source has it: files of it that the next version repeats or resembles.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use blat_domain::ancestry::stem;
use blat_domain::frames::{Base, Copy, MOST_BASE};
use blat_domain::name::{PackageId, Version};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use super::DESCPKG;
use super::pack::{below, open};
use super::tree::Print;

/// Bytes that are compared at once.
const BLOCK: usize = 256 << 10;
/// A file that refers to another one may do so to so many bytes before and after the place that it would have there.
const REACH: u64 = 4 << 20;

/// Files of an ancestor that are kept in mind: bounds memory.
const MOST_KIN: usize = 50_000;
/// Files of one stem that are kept in mind: bounds the time to choose from them.
const MOST_OF_A_STEM: usize = 64;

/// One version of a package, beside a later one that is to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Ancestor {
    version: Version,
    root: PathBuf,
    time: i64,
    /// The later version.
    next: Version,
    /// Its tree, where that was looked at a moment ago.
    print: Option<Print>,
    kin: OnceLock<Kin>,
}

/// Files of an ancestor by the stems of their names, each with its path below the ancestor and its size.
type Kin = HashMap<Vec<u8>, Vec<(Vec<u8>, u64)>>;

/// A file of an ancestor.
#[derive(Debug)]
pub(super) struct Relative {
    version: Version,
    path: Vec<u8>,
    here: PathBuf,
    size: u64,
}

impl Ancestor {
    /// `version` of a package, whose `descpkg` has this time on the target, and which lies beside `next` in the archive.
    pub(crate) fn new(version: Version, time: i64, print: Option<Print>, next: &PackageId, next_root: &Path) -> Self {
        let root = next_root.with_file_name(version.as_str());
        Self { version, root, time, next: next.version.clone(), print, kin: OnceLock::new() }
    }

    /// Whether the source has that very version still.
    pub(super) fn is_here(&self) -> bool {
        let is_the_same = |descpkg: std::fs::Metadata| descpkg.is_file() && descpkg.mtime() == self.time;
        std::fs::symlink_metadata(self.root.join(DESCPKG)).is_ok_and(is_the_same)
    }

    /// Which version it is, the time of its `descpkg`, where it lies here, and its tree where that is known.
    pub(super) fn place(&self) -> (&Version, i64, &Path, Option<Print>) {
        (&self.version, self.time, &self.root, self.print)
    }

    /// The file that one with this path and size most likely came from: the same path, else that with the version in it replaced, else
    /// the one of the same stem that is nearest in size.
    pub(super) fn relative(&self, path: &[u8], size: u64) -> Option<Relative> {
        let renamed = replaced(path, self.next.as_str().as_bytes(), self.version.as_str().as_bytes());
        let same_place = [Some(path.to_vec()), renamed].into_iter().flatten().find_map(|path| self.file(path));
        same_place.or_else(|| {
            let stem = stem(path.rsplit(|byte| *byte == b'/').next().unwrap_or(path));
            let kin = self.kin.get_or_init(|| self.look_for_kin()).get(&stem)?;
            let (path, _) = kin.iter().min_by_key(|(other, others)| (others.abs_diff(size), other != path))?;
            self.file(path.clone())
        })
    }

    /// Walks over the ancestor. What cannot be read is no help, and no harm either.
    fn look_for_kin(&self) -> Kin {
        let mut kin = Kin::new();
        let files = WalkDir::new(&self.root).into_iter().flatten().filter(|entry| entry.file_type().is_file());
        for entry in files.take(MOST_KIN) {
            let size = entry.metadata().map_or(0, |metadata| metadata.len());
            let of_stem = kin.entry(stem(entry.file_name().as_bytes())).or_default();
            if of_stem.len() < MOST_OF_A_STEM {
                of_stem.push((below(entry.path(), &self.root), size));
            }
        }
        kin
    }

    fn file(&self, path: Vec<u8>) -> Option<Relative> {
        let here = self.root.join(OsStr::from_bytes(&path));
        // What cannot be read here is no help, and no harm either.
        let metadata = std::fs::symlink_metadata(&here).ok()?;
        let relative = || Relative { version: self.version.clone(), path, here, size: metadata.len() };
        (metadata.is_file() && metadata.len() > 0).then(relative)
    }
}

impl Relative {
    /// How the target is told to copy it, and the digest of both, if it holds the same bytes as the file at `path`, whose size is `size`, and
    /// which is `below` its package's root.
    pub(super) fn copy_of(&self, path: &Path, below: &[u8], size: u64) -> Option<(Copy, [u8; 32])> {
        if size != self.size {
            return None;
        }
        // Where either cannot be read, the bytes are sent, and what is wrong shows then.
        let digest = same_bytes(path, &self.here, size).ok()??;
        let there = (self.path != below).then(|| self.path.clone());
        Some((Copy { version: self.version.clone(), path: there }, digest))
    }

    /// Appends to `prefix` what `bytes` bytes from `offset` on of a file of `size` bytes may refer to, and says what that is.
    pub(super) fn prefix(
        &self,
        (offset, bytes, size): (u64, u64, u64),
        prefix: &mut Vec<u8>,
    ) -> io::Result<Option<Base>> {
        let room = MOST_BASE.saturating_sub(prefix.len() as u64);
        // Where the bytes would be if the file had grown evenly.
        let even =
            |at: u64| u64::try_from(u128::from(at) * u128::from(self.size) / u128::from(size.max(1))).unwrap_or(0);
        let start = even(offset).saturating_sub(REACH);
        let end = (even(offset.saturating_add(bytes)) + REACH).min(self.size).min(start.saturating_add(room));
        let length = u32::try_from(end.saturating_sub(start)).unwrap_or(0);
        if length == 0 {
            return Ok(None);
        }
        let before = prefix.len();
        prefix.resize(before + length as usize, 0);
        let (file, _) = open(&self.here)?;
        if let Err(error) = file.read_exact_at(&mut prefix[before..], start) {
            prefix.truncate(before);
            return Err(error);
        }
        Ok(Some(Base { version: self.version.clone(), path: self.path.clone(), offset: start, bytes: length }))
    }
}

/// The digest of both files, if they hold the same bytes.
fn same_bytes(path: &Path, other: &Path, size: u64) -> io::Result<Option<[u8; 32]>> {
    let ((mut one, _), (mut two, _)) = (open(path)?, open(other)?);
    let most = usize::try_from(size).unwrap_or(usize::MAX).min(BLOCK);
    let (mut ours, mut theirs) = (vec![0; most], vec![0; most]);
    let (mut digest, mut left) = (Sha256::new(), size);
    while left > 0 {
        let block = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK);
        one.read_exact(&mut ours[..block])?;
        two.read_exact(&mut theirs[..block])?;
        if ours[..block] != theirs[..block] {
            return Ok(None);
        }
        digest.update(&ours[..block]);
        left -= block as u64;
    }
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
