//! A package's files beside its manifest: all bytes of them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;

use blat_domain::package::manifest::parse;
use blat_domain::protocol::frames::{MOST_SHARED, shared_cost};
use blat_domain::util::text::hex;
use blat_paths::is_own;
use sha2::{Digest as _, Sha256};

use crate::archive::dir::Dir;
use crate::archive::hash::digest;
use crate::failure::shown;
use crate::wire::inbox::Inbox;

/// The longest line of a manifest, in bytes: a path, each byte of it escaped, and its digest.
const LONGEST_LINE: u64 = 16 << 10;

/// Of a mode: everybody may write.
const OPEN_TO_ALL: u32 = 0o002;
/// The longest file, in bytes, that is hashed where everybody may write it and it was changed since it came. Holes and blocks that several files
/// share cost a stranger nothing, and hashing them takes as long as anything else.
const MOST_CHANGED: u64 = 1 << 30;

/// What is known once every file that may be read is as its manifest says.
pub(super) struct Files {
    /// The manifest's own digest, in hexadecimal digits.
    pub(super) digest: String,
    /// How many files it names.
    pub(super) listed: u64,
    /// The first of them that the archive's owner may not read.
    pub(super) closed: Option<String>,
}

/// Hashes all files that a manifest names; else says what is wrong with it or with the first file that differs.
pub(super) fn check(root: &Dir, manifest: File, inbox: &Inbox) -> io::Result<Result<Files, String>> {
    let stat = manifest.metadata()?;
    let came = (stat.ctime(), stat.ctime_nsec());
    let mut lines = BufReader::new(manifest);
    let (mut whole, mut listed, mut line) = (Sha256::new(), 0, Vec::new());
    let (mut closed, mut hashed) = (None, Hashed { owner: root.own_stat()?.st_uid, came, known: HashMap::new() });
    loop {
        line.clear();
        if io::Read::take(&mut lines, LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        whole.update(&line);
        let Some((expected, path)) = parse(line.strip_suffix(b"\n").unwrap_or(&line)) else {
            return Ok(Err("its manifest is damaged".into()));
        };
        listed += 1;
        match differs(root, &path, &expected, &mut hashed, inbox) {
            None => {}
            Some(Difference::Closed(path)) => closed = closed.or(Some(path)),
            Some(Difference::Bad(why)) => return Ok(Err(why)),
        }
    }
    Ok(Ok(Files { digest: hex(&whole.finalize()), listed, closed }))
}

/// Digests of files with several names, by device and inode, so that none is hashed for each of its names.
struct Hashed {
    /// Whose the package is.
    owner: u32,
    /// When its manifest came, which nobody can set back.
    came: (i64, i64),
    known: HashMap<(u64, u64), [u8; 32]>,
}

impl Hashed {
    /// The digest of what is in a file. No package that was sent has more files with several names than are remembered; of one that got them
    /// otherwise the rest are hashed for each name.
    fn digest(&mut self, file: File, inbox: &Inbox) -> io::Result<[u8; 32]> {
        let stat = file.metadata()?;
        if !is_own(stat.uid()) && stat.uid() != self.owner {
            // Whoever put it there may have made it as large as they like.
            return Err(io::Error::other("it is another account's"));
        }
        let is_changed = (stat.ctime(), stat.ctime_nsec()) > self.came;
        if stat.mode() & OPEN_TO_ALL != 0 && is_changed && stat.len() > MOST_CHANGED {
            return Err(io::Error::other("everybody may write it, and it was changed since it came"));
        }
        let identity = (stat.dev(), stat.ino());
        if let Some(known) = self.known.get(&identity) {
            inbox.get_on();
            return Ok(*known);
        }
        let digest = digest(&file, stat.len(), inbox)?;
        if stat.nlink() > 1 && self.known.len() < MOST_SHARED / shared_cost(b"") {
            self.known.insert(identity, digest);
        }
        Ok(digest)
    }
}

/// What is wrong with a file.
enum Difference {
    /// Its owner may not read it.
    Closed(String),
    /// In the words of `sha256sum -c`.
    Bad(String),
}

fn differs(root: &Dir, path: &[u8], expected: &[u8; 32], hashed: &mut Hashed, inbox: &Inbox) -> Option<Difference> {
    let path_below = path.strip_prefix(b"./").unwrap_or(path);
    let read = root.read(path_below).and_then(|file| hashed.digest(file, inbox));
    if path.contains(&b'\n') || path.contains(&b'\\') || path.contains(&b'\r') {
        return (!read.is_ok_and(|found| found == *expected))
            .then(|| Difference::Bad("a file with an odd name differs".to_owned()));
    }
    let name = shown(path).trim_matches('"').to_owned();
    match read {
        Ok(found) if found == *expected => None,
        Ok(_) => Some(Difference::Bad(format!("{name}: FAILED"))),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Some(Difference::Closed(name)),
        Err(_) => Some(Difference::Bad(format!("{name}: FAILED open or read"))),
    }
}
