//! Hashing a package again and comparing it with its manifest and its tree file. Changes nothing and takes no lock. The words of the answer are
//! those of `get_plist --verify`.

mod entries;

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};

use blat_domain::manifest::{hex, parse};
use blat_domain::name::PackageId;
use blat_domain::tree as tree_file;
use rustix::fs::FileType;
use sha2::{Digest as _, Sha256};

use crate::archive::dir::{Dir, is_absence, kind};
use crate::archive::{Archive, DESCPKG, HOUSE, tree};
use crate::failure::shown;
use crate::inbox::Inbox;
use crate::package::digest;

/// What is exchanged while it is hashed belongs to two packages: then it is hashed again, so often at most.
const TRIES: usize = 3;
/// The longest line of a manifest, in bytes: a path, each byte of it escaped, and its digest.
const LONGEST_LINE: u64 = 16 << 10;

/// The line for one package.
pub(crate) fn verify(archive: &Archive, package: &PackageId, inbox: &Inbox) -> String {
    let (mut stamp, mut verdict) = judge(archive, package, inbox);
    for _ in 1..TRIES {
        if stamp == stamp_of(archive, package) {
            break;
        }
        (stamp, verdict) = judge(archive, package, inbox);
    }
    let (word, why) = verdict;
    format!("{word} {} {} {why}\n", package.name, package.version)
}

/// The most of a finding that is said, in bytes.
const LONGEST_FINDING: usize = 300;

/// What tells one package and manifest from others in their places.
type Stamp = [Option<(u64, i64, i64, i64)>; 2];

fn stamp_of(archive: &Archive, package: &PackageId) -> Stamp {
    [package.path(), format!("{HOUSE}/manifests/{}", package.path())].map(|path| {
        let stat = archive.root.stat(path.as_str()).ok().flatten()?;
        Some((stat.st_ino, stat.st_mtime, stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0)))
    })
}

fn judge(archive: &Archive, package: &PackageId, inbox: &Inbox) -> (Stamp, (&'static str, String)) {
    let stamp = stamp_of(archive, package);
    let verdict = match Checked::of(archive, package, inbox) {
        Ok(Checked::Absent) => ("absent", "no package is there any more".to_owned()),
        Ok(Checked::Unknown) => ("unknown", "its manifest is gone, so nobody can tell what it should be".to_owned()),
        Ok(Checked::Bad(why)) => ("bad", why),
        Ok(Checked::Closed(path)) => {
            ("closed", format!("{path}: the archive's owner may not read it, so nobody can compare it"))
        }
        Ok(Checked::Good(digest)) => ("good", digest),
        Err(error) => ("bad", format!("it cannot be read: {error}")),
    };
    (stamp, verdict)
}

enum Checked {
    Absent,
    Unknown,
    Bad(String),
    /// What can be read is as it should be; this cannot, and was sent so.
    Closed(String),
    Good(String),
}

impl Checked {
    fn of(archive: &Archive, package: &PackageId, inbox: &Inbox) -> io::Result<Self> {
        let root = match archive.root.open_if_there(package.path()) {
            Ok(Some(root)) => root,
            Ok(None) => return Ok(Self::Absent),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(Self::Bad("its directory cannot be entered".into()));
            }
            Err(error) => return Err(error),
        };
        if root.stat(DESCPKG)?.is_none_or(|stat| kind(&stat) != FileType::RegularFile) {
            return Ok(Self::Absent);
        }
        let manifest = match record(archive, &format!("{HOUSE}/manifests/{}", package.path())) {
            Ok(Record::File(manifest)) => manifest,
            Ok(Record::Other(place)) => return Ok(Self::Bad(format!("its manifest {place} is no regular file"))),
            Ok(Record::Nothing) | Err(_) => return Ok(Self::Unknown),
        };
        let mut lines = BufReader::new(manifest);
        let (mut whole, mut listed, mut line) = (Sha256::new(), 0u64, Vec::new());
        let mut closed = None;
        loop {
            line.clear();
            if io::Read::take(&mut lines, LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            whole.update(&line);
            let Some((expected, path)) = parse(line.strip_suffix(b"\n").unwrap_or(&line)) else {
                return Ok(Self::Bad("its manifest is damaged".into()));
            };
            listed += 1;
            match differs(&root, &path, &expected, inbox) {
                None => {}
                Some(Difference::Closed(path)) => closed = closed.or(Some(path)),
                Some(Difference::Bad(why)) => return Ok(Self::Bad(why)),
            }
        }
        let digest = hex(&whole.finalize());
        let path = format!("{HOUSE}/manifests/{}/{}", package.name, tree_file::file_name(&package.version));
        match record(archive, &path)? {
            Record::Other(place) => Ok(Self::Bad(format!("its tree file {place} is no regular file"))),
            Record::File(file) => match (entries::check(root, file, inbox), closed) {
                (Ok(Ok(_)), Some(path)) => Ok(Self::Closed(path)),
                (Ok(Ok(tree)), None) => Ok(Self::Good(format!("{digest} {}", hex(&tree)))),
                (Ok(Err(mut why)), _) => {
                    why.truncate(LONGEST_FINDING);
                    Ok(Self::Bad(why))
                }
                (Err(error), closed) if error.kind() == io::ErrorKind::PermissionDenied => {
                    Ok(Self::Closed(closed.unwrap_or_else(|| error.to_string())))
                }
                (Err(error), _) => Err(error),
            },
            Record::Nothing => {
                // It was published before trees were recorded: nobody can tell whether what is closed was sent so.
                if let Some(path) = closed {
                    return Ok(Self::Bad(format!("{path}: FAILED open or read")));
                }
                let mut files = 0u64;
                tree::walk(&root, &mut |_, _, of| {
                    files += u64::from(of == FileType::RegularFile);
                    Ok(())
                })?;
                Ok(match files == listed {
                    true => Self::Good(digest),
                    false => Self::Bad("it holds more or fewer files than its manifest says".into()),
                })
            }
        }
    }
}

/// What lies in the place of a manifest or a tree file.
enum Record {
    Nothing,
    File(File),
    /// A link, a pipe, a directory or the like, and where.
    Other(String),
}

fn record(archive: &Archive, path: &str) -> io::Result<Record> {
    match archive.root.read(path) {
        Ok(file) => Ok(Record::File(file)),
        Err(error) if is_absence(&error) => match archive.root.stat(path) {
            Ok(Some(stat)) if kind(&stat) != FileType::RegularFile => Ok(Record::Other(path.to_owned())),
            // It has just appeared.
            Ok(Some(_)) => Err(error),
            Ok(None) | Err(_) => Ok(Record::Nothing),
        },
        Err(error) => Err(error),
    }
}

/// What is wrong with a file.
enum Difference {
    /// Its owner may not read it.
    Closed(String),
    /// In the words of `sha256sum -c`.
    Bad(String),
}

fn differs(root: &Dir, path: &[u8], expected: &[u8; 32], inbox: &Inbox) -> Option<Difference> {
    let path_below = path.strip_prefix(b"./").unwrap_or(path);
    let read = root.read(path_below).and_then(|mut file| digest(&mut file, inbox));
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
