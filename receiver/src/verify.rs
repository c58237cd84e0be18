//! Hashing a package again and comparing it with its manifest and its tree file. Changes nothing and takes no lock. The words of the answer are
//! those of `get_plist --verify`.

mod entries;
mod files;

use std::fs::File;
use std::io;

use blat_domain::archive::CONTROL;
use blat_domain::package::DESCPKG;
use blat_domain::package::name::PackageId;
use blat_domain::package::tree as tree_file;
use blat_domain::protocol::outcome::Finding;
use blat_domain::util::text::hex;
use rustix::fs::FileType;

use crate::archive::dir::{Dir, is_absence, kind};
use crate::archive::{Archive, tree};
use crate::wire::inbox::Inbox;
use crate::wire::replies::line;
use files::Files;

/// What is exchanged while it is hashed belongs to two packages: then it is hashed again, so often at most.
const TRIES: usize = 3;

/// The line for one package.
pub(crate) fn verify(archive: &Archive, package: &PackageId, inbox: &Inbox) -> String {
    let (mut stamp, mut finding) = judge(archive, package, inbox);
    for _ in 1..TRIES {
        if stamp == stamp_of(archive, package) {
            break;
        }
        (stamp, finding) = judge(archive, package, inbox);
    }
    line(package, finding)
}

/// The most of a finding that is said, in bytes.
const LONGEST_FINDING: usize = 300;

/// What tells one package and manifest from others in their places.
type Stamp = [Option<(u64, i64, i64, i64)>; 2];

fn stamp_of(archive: &Archive, package: &PackageId) -> Stamp {
    [package.path(), format!("{CONTROL}/manifests/{}", package.path())].map(|path| {
        let stat = archive.root.stat(path.as_str()).ok().flatten()?;
        Some((stat.st_ino, stat.st_mtime, stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0)))
    })
}

fn judge(archive: &Archive, package: &PackageId, inbox: &Inbox) -> (Stamp, Finding) {
    let stamp = stamp_of(archive, package);
    let finding =
        find(archive, package, inbox).unwrap_or_else(|error| Finding::Bad(format!("it cannot be read: {error}")));
    (stamp, finding)
}

/// What can be read is as it should be; this cannot, and was sent so.
fn closed(path: String) -> Finding {
    Finding::Closed(format!("{path}: the archive's owner may not read it, so nobody can compare it"))
}

fn find(archive: &Archive, package: &PackageId, inbox: &Inbox) -> io::Result<Finding> {
    let absent = || Finding::Absent("no package is there any more".into());
    let root = match archive.root.open_if_there(package.path()) {
        Ok(Some(root)) => root,
        Ok(None) => return Ok(absent()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Ok(Finding::Bad("its directory cannot be entered".into()));
        }
        Err(error) => return Err(error),
    };
    if root.stat(DESCPKG)?.is_none_or(|stat| kind(&stat) != FileType::RegularFile) {
        return Ok(absent());
    }
    let manifest = match record(archive, &format!("{CONTROL}/manifests/{}", package.path())) {
        Ok(Record::File(manifest)) => manifest,
        Ok(Record::Other(place)) => return Ok(Finding::Bad(format!("its manifest {place} is no regular file"))),
        Ok(Record::Nothing) | Err(_) => {
            return Ok(Finding::Unknown("its manifest is gone, so nobody can tell what it should be".into()));
        }
    };
    let files = match files::check(&root, manifest, inbox)? {
        Ok(files) => files,
        Err(why) => return Ok(Finding::Bad(why)),
    };
    let path = format!("{CONTROL}/manifests/{}/{}", package.name, tree_file::file_name(&package.version));
    match record(archive, &path)? {
        Record::Other(place) => Ok(Finding::Bad(format!("its tree file {place} is no regular file"))),
        Record::File(file) => with_tree(root, file, files, inbox),
        Record::Nothing => without_tree(&root, files),
    }
}

/// What its other entries come to, beside its tree file.
fn with_tree(root: Dir, file: File, files: Files, inbox: &Inbox) -> io::Result<Finding> {
    match (entries::check(root, file, inbox), files.closed) {
        (Ok(Ok(_)), Some(path)) => Ok(closed(path)),
        (Ok(Ok(tree)), None) => Ok(Finding::Good { manifest: files.digest, tree: Some(hex(&tree)) }),
        (Ok(Err(mut why)), _) => {
            why.truncate(LONGEST_FINDING);
            Ok(Finding::Bad(why))
        }
        (Err(error), path) if error.kind() == io::ErrorKind::PermissionDenied => {
            Ok(closed(path.unwrap_or_else(|| error.to_string())))
        }
        (Err(error), _) => Err(error),
    }
}

/// The same where it was published before trees were recorded: nobody can tell whether what is closed was sent so.
fn without_tree(root: &Dir, files: Files) -> io::Result<Finding> {
    if let Some(path) = files.closed {
        return Ok(Finding::Bad(format!("{path}: FAILED open or read")));
    }
    let mut found = 0u64;
    tree::walk(root, &mut |_, _, of| {
        found += u64::from(of == FileType::RegularFile);
        Ok(())
    })?;
    Ok(match found == files.listed {
        true => Finding::Good { manifest: files.digest, tree: None },
        false => Finding::Bad("it holds more or fewer files than its manifest says".into()),
    })
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
