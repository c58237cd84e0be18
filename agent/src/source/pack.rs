//! Packages as the stream that `receive_package` unpacks: a tar of files, then a manifest for each package, and at the very end the batch,
//! which names the packages that are whole. What the batch does not name never happened.
//!
//! Digests are made of the bytes as they are sent, so what is verified on the target is what was read here.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use blat_domain::manifest::{hex, line as manifest_line};
use blat_domain::name::PackageId;
use blat_domain::text::printable;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use walkdir::{DirEntry, WalkDir};

use super::DESCPKG;
use super::encoder::{Chunks, Encoder};
use super::tarball::Tarball;
use crate::orders::Orders;
use crate::progress::Progress;
use crate::target::Parcel;
use crate::target::install::Compression;

/// Pieces that may wait for the link: reading ahead without holding packages in memory.
const AHEAD: usize = 8;
/// One read of a file.
const READ: usize = 256 << 10;

/// What the owner needs to fill a directory and to move it.
const OWNER: u32 = 0o700;
/// Marks the likeness of a directory that its owner may not write: the sticky bit, which no package keeps.
const CLOSED: u32 = 0o1000;

/// Packages that could not be read, with the reason.
pub(crate) type GivenUp = Vec<(PackageId, String)>;

/// Starts packing on a thread of its own. The stream ends early when its receiver is dropped, or when the last piece was taken.
pub(crate) fn start(
    parcels: Vec<Parcel>,
    compression: Compression,
    progress: Arc<Progress>,
) -> (mpsc::Receiver<Vec<u8>>, JoinHandle<GivenUp>) {
    let (sender, chunks) = mpsc::channel(AHEAD);
    let packing = tokio::task::spawn_blocking(move || {
        let mut given_up = GivenUp::new();
        // An error here is a receiver that hung up: whoever runs the command knows why, and says so.
        if let Err(error) = pack(&parcels, compression, &progress, Chunks::new(sender), &mut given_up) {
            tracing::debug!(%error, "the stream was not taken to its end");
        }
        given_up
    });
    (chunks, packing)
}

fn pack(
    parcels: &[Parcel],
    compression: Compression,
    progress: &Progress,
    chunks: Chunks,
    given_up: &mut GivenUp,
) -> io::Result<()> {
    let mut stream = Stream { tar: Tarball::new(Encoder::new(compression, chunks)?), buffer: vec![0; READ] };
    let mut batch = String::new();
    let mut whole = 0;
    for parcel in parcels {
        if parcel.is_superseded() {
            given_up.push((parcel.package.clone(), Orders::problem().text));
            continue;
        }
        progress.begin(&parcel.package, parcel.size);
        match stream.package(parcel, progress)? {
            Ok(line) => {
                batch.push_str(&line);
                whole += 1;
            }
            Err(why) => given_up.push((parcel.package.clone(), why)),
        }
    }
    batch.push_str(&format!("# end {whole}\n"));
    stream.tar.text("batch", batch.as_bytes())?;
    stream.tar.finish()
}

struct Stream {
    tar: Tarball,
    buffer: Vec<u8>,
}

/// What one package comes to: its line of the batch, or why it was given up. Only the stream itself breaking is an `Err` outside.
type Packed<T> = io::Result<Result<T, String>>;

impl Stream {
    fn package(&mut self, parcel: &Parcel, progress: &Progress) -> Packed<String> {
        let unreadable = |error: &dyn std::fmt::Display| format!("cannot read it at the source: {error}");
        let prefix = format!("packages/{}", parcel.package.path());
        let mut manifest = Vec::new();
        let mut directories = Vec::new();
        let mut descpkg = None;
        let mut entries = 0u64;

        for entry in WalkDir::new(&parcel.path).sort_by_file_name() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Ok(Err(unreadable(&error))),
            };
            entries += u64::from(entry.depth() > 0);
            if entry.file_type().is_dir() {
                if let Err(why) = self.directory(&prefix, &entry, parcel)? {
                    return Ok(Err(why));
                }
                directories.push(entry);
            } else if entry.depth() == 1 && entry.file_name() == DESCPKG {
                descpkg = Some(entry);
            } else if let Err(why) = self.leaf(&prefix, &entry, parcel, progress, &mut manifest)? {
                return Ok(Err(why));
            }
        }
        let Some(descpkg) = descpkg else { return Ok(Err("its descpkg vanished from the source".to_owned())) };
        if let Err(why) = self.leaf(&prefix, &descpkg, parcel, progress, &mut manifest)? {
            return Ok(Err(why));
        }
        for entry in directories.iter().rev() {
            if let Err(why) = self.likeness(entry, parcel)? {
                return Ok(Err(why));
            }
        }
        let root_mode = match directories.first().map(DirEntry::metadata) {
            Some(Ok(root)) => root.mode() & 0o777,
            Some(Err(error)) => return Ok(Err(unreadable(&error))),
            None => return Ok(Err("it vanished from the source".to_owned())),
        };
        self.tar.text(&format!("manifests/{}", parcel.package.path()), &manifest)?;
        let rule = parcel.rule.word();
        let (name, version) = (&parcel.package.name, &parcel.package.version);
        let digest = hex(&Sha256::digest(&manifest));
        Ok(Ok(format!("{name} {version} {entries} {} {root_mode:o} {digest} {rule}\n", parcel.time)))
    }

    /// A directory to be filled: it must be writable whatever it will be in the end.
    fn directory(&mut self, prefix: &str, entry: &DirEntry, parcel: &Parcel) -> Packed<()> {
        self.empty_directory(&path_in(prefix, entry.path(), &parcel.path), entry, OWNER)
    }

    /// How a directory is to be in the end, told apart from the directory itself: the target's tar finishes some links only after all
    /// directories, and would find them closed or change their times. Inner ones come first, since making them changes the outer ones' times.
    /// The package's own root stays writable, since it has yet to be moved; the batch says its mode.
    fn likeness(&mut self, entry: &DirEntry, parcel: &Parcel) -> Packed<()> {
        let prefix = format!("dirs/{}", parcel.package.path());
        let closed = entry.depth() > 0 && entry.metadata().is_ok_and(|metadata| metadata.mode() & 0o200 == 0);
        let widen = if closed { OWNER | CLOSED } else { OWNER };
        self.empty_directory(&path_in(&prefix, entry.path(), &parcel.path), entry, widen)
    }

    fn empty_directory(&mut self, path: &[u8], entry: &DirEntry, widen: u32) -> Packed<()> {
        match entry.metadata() {
            Ok(metadata) => self.tar.directory(path, &metadata, widen).map(Ok),
            Err(error) => Ok(Err(format!("cannot read it at the source: {error}"))),
        }
    }

    fn leaf(
        &mut self,
        prefix: &str,
        entry: &DirEntry,
        parcel: &Parcel,
        progress: &Progress,
        manifest: &mut Vec<u8>,
    ) -> Packed<()> {
        let path = path_in(prefix, entry.path(), &parcel.path);
        let shown = printable(&entry.path().to_string_lossy());
        if entry.file_type().is_symlink() {
            return match (entry.metadata(), std::fs::read_link(entry.path())) {
                (Ok(metadata), Ok(to)) => {
                    let to = to.as_os_str().as_bytes();
                    self.tar.link(&path, to, &metadata).map(Ok)
                }
                (Err(error), _) => Ok(Err(format!("cannot read {shown}: {error}"))),
                (_, Err(error)) => Ok(Err(format!("cannot read the link {shown}: {error}"))),
            };
        }
        let (file, metadata) = match open(entry.path()) {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(format!("cannot read {shown} at the source: {error}"))),
        };
        if !metadata.is_file() {
            return Ok(Err(format!("{shown} is neither file, directory nor symbolic link")));
        }
        let mut reader = FileReader::new(&file, metadata.len(), progress);
        self.tar.file(&path, &metadata, &mut reader, &mut self.buffer)?;
        let FileReader { digest, fault, .. } = reader;
        if let Some(fault) = fault {
            return Ok(Err(format!("cannot read {shown} at the source: {fault}")));
        }
        match file.metadata() {
            Ok(after) if same_version(&metadata, &after) => {}
            Ok(_) => return Ok(Err(format!("{shown} changed while it was sent"))),
            Err(error) => return Ok(Err(format!("cannot read {shown} at the source: {error}"))),
        }
        manifest.extend(manifest_line(&digest.finalize(), &below(entry.path(), &parcel.path)));
        Ok(Ok(()))
    }
}

/// The digest of the manifest that a package would be sent with, made by reading all of it.
pub(crate) fn digest(path: &Path) -> Result<String, String> {
    let unreadable = |error: &dyn std::fmt::Display| format!("cannot read it at the source: {error}");
    let mut files = Vec::new();
    for entry in WalkDir::new(path).sort_by_file_name() {
        let entry = entry.map_err(|error| unreadable(&error))?;
        if entry.file_type().is_file() {
            files.push(entry);
        }
    }
    // In the order of the stream: descpkg last.
    files.sort_by_key(|entry| entry.depth() == 1 && entry.file_name() == DESCPKG);
    let mut manifest = Sha256::new();
    for entry in files {
        let (file, metadata) = open(entry.path()).map_err(|error| unreadable(&error))?;
        let unwatched = Progress::default();
        let mut reader = FileReader::new(&file, metadata.len(), &unwatched);
        io::copy(&mut reader, &mut io::sink()).map_err(|error| unreadable(&error))?;
        if let Some(fault) = &reader.fault {
            return Err(unreadable(fault));
        }
        manifest.update(manifest_line(&reader.digest.finalize(), &below(entry.path(), path)));
    }
    Ok(hex(&manifest.finalize()))
}

/// Never follows a link, and never waits for whoever has the other end of a pipe.
pub(crate) fn open(path: &Path) -> io::Result<(File, std::fs::Metadata)> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

pub(crate) fn same_version(before: &std::fs::Metadata, after: &std::fs::Metadata) -> bool {
    let version = |m: &std::fs::Metadata| (m.len(), m.mtime(), m.mtime_nsec());
    version(before) == version(after)
}

/// A path below a package's root, as bytes; empty for the root itself.
pub(super) fn below(path: &Path, root: &Path) -> Vec<u8> {
    path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes().to_vec()
}

fn path_in(prefix: &str, path: &Path, root: &Path) -> Vec<u8> {
    let below = below(path, root);
    let slash: &[u8] = if below.is_empty() { b"" } else { b"/" };
    [prefix.as_bytes(), slash, &below].concat()
}

/// Exactly as many bytes as the header said, hashed on the way. A file that has fewer, or breaks, is filled up with zeros, so that
/// the stream stays whole while the package is given up.
struct FileReader<'a> {
    file: &'a File,
    left: u64,
    digest: Sha256,
    fault: Option<String>,
    progress: &'a Progress,
}

impl<'a> FileReader<'a> {
    fn new(file: &'a File, size: u64, progress: &'a Progress) -> Self {
        Self { file, left: size, digest: Sha256::new(), fault: None, progress }
    }
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let read = match &self.fault {
            Some(_) => 0,
            None => match self.file.read(&mut buffer[..wanted]) {
                Ok(0) => {
                    self.fault = Some("it became shorter while it was sent".into());
                    0
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return self.read(buffer),
                Err(error) => {
                    self.fault = Some(error.to_string());
                    0
                }
            },
        };
        let given = if read == 0 {
            buffer[..wanted].fill(0);
            wanted
        } else {
            self.digest.update(&buffer[..read]);
            read
        };
        self.left -= given as u64;
        self.progress.advance(given as u64);
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_shrinks_is_filled_up_and_said_to_have_shrunk() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("f");
        std::fs::write(&path, b"abc").expect("a file");
        let file = File::open(&path).expect("a file");
        let progress = Progress::default();
        let mut reader = FileReader::new(&file, 5, &progress);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).expect("never fails");
        assert_eq!(all, b"abc\0\0");
        assert!(reader.fault.is_some());
    }
}
