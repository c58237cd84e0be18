//! Packages as the stream that `receive_package` unpacks: a tar of files, then a manifest and a tree file for each package, and at the very end the batch,
//! which names the packages that are whole. What the batch does not name never happened.
//!
//! Digests are made of the bytes as they are sent, so what is verified on the target is what was read here.

pub mod encoder;
pub(crate) mod tarball;

use std::io;
use std::path::Path;

use blat_domain::package::manifest::line as manifest_line;
use blat_domain::package::name::PackageId;
use blat_domain::package::tree;
use blat_domain::util::text::hex;
use sha2::{Digest, Sha256};

use encoder::{Chunks, Encoder};
use tarball::Tarball;

use super::file_reader::FileReader;
use super::names::{Meeting, Names};
use super::spool::{Spool, SpoolError};
use super::walker::{FileType, Node, Root, SourceError, WalkOrder};
use crate::frames::permissions;
use crate::item::TransferItem;
use crate::progress::Progress;
use crate::tar::encoder::Compression;
use crate::tree::Digests;

/// One read of a file.
const READ: usize = 256 << 10;

/// What the owner needs to fill a directory and to move it.
const OWNER: u32 = 0o700;
/// Marks the likeness of a directory that its owner may not write: the sticky bit, which no package keeps.
const CLOSED: u32 = 0o1000;

/// Packages that could not be read, with the reason.
pub(crate) type GivenUp = Vec<(PackageId, String)>;

/// Takes pieces of the stream in their order, when there is room for one; false where nobody takes any more.
pub(crate) type PieceSink = Box<dyn FnMut(Vec<u8>) -> bool + Send>;

/// Packs the items, and gives back those that could not be read. It ends early when nobody takes the pieces any more. What does not fit into memory
/// meanwhile is kept below `place`.
pub fn pack(
    items: &[TransferItem],
    compression: Compression,
    progress: &Progress,
    place: &Path,
    sink: PieceSink,
) -> GivenUp {
    let mut given_up = GivenUp::new();
    // An error here is a receiver that hung up: whoever runs the command knows why, and says so.
    if let Err(error) = pack_all(items, compression, progress, place, Chunks::new(sink), &mut given_up) {
        tracing::debug!(%error, "the stream was not taken to its end");
    }
    given_up
}

fn pack_all(
    items: &[TransferItem],
    compression: Compression,
    progress: &Progress,
    place: &Path,
    chunks: Chunks,
    given_up: &mut GivenUp,
) -> io::Result<()> {
    let mut stream = Stream { tar: Tarball::new(Encoder::new(compression, chunks)?), buffer: vec![0; READ], place };
    let mut batch = String::new();
    let mut whole = 0;
    for item in items {
        if let Some(why) = item.superseded() {
            given_up.push((item.package.clone(), why));
            continue;
        }
        progress.begin(&item.package, item.size);
        match stream.package(item, progress)? {
            Ok(line) => {
                batch.push_str(&line);
                whole += 1;
            }
            Err(why) => given_up.push((item.package.clone(), why)),
        }
    }
    batch.push_str(&format!("# end {whole}\n"));
    stream.tar.text("batch", batch.len() as u64, batch.as_bytes())?;
    stream.tar.finish()?.finish()
}

struct Stream<'a> {
    tar: Tarball<Encoder>,
    buffer: Vec<u8>,
    place: &'a Path,
}

/// What is said of a package beside its entries.
struct Papers {
    /// The digests of its files.
    manifest: Paper,
    /// What its entries are.
    tree: Paper,
    /// Which of its files are the same.
    names: Names,
}

/// Lines, and the digest of all of them.
struct Paper {
    lines: Spool,
    digest: Sha256,
}

impl Paper {
    fn new(place: &Path) -> Self {
        Self { lines: Spool::new(place), digest: Sha256::new() }
    }

    fn add(&mut self, line: &[u8]) -> Result<(), SpoolError> {
        self.digest.update(line);
        self.lines.add(line)
    }
}

/// Why a package does not get into the stream.
enum TarError {
    /// It cannot be sent; the stream goes on without it.
    Package(SourceError),
    /// Its descpkg is not there.
    NoDescpkg,
    /// What is said of it cannot be kept until it is sent.
    Paper(SpoolError),
    /// The stream itself broke.
    Stream(io::Error),
}

impl From<SourceError> for TarError {
    fn from(error: SourceError) -> Self {
        Self::Package(error)
    }
}

impl From<SpoolError> for TarError {
    fn from(error: SpoolError) -> Self {
        Self::Paper(error)
    }
}

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        Self::Stream(error)
    }
}

impl Stream<'_> {
    /// What one package comes to: its line of the batch, or why it was given up. Only the stream itself breaking is an `Err` outside.
    fn package(&mut self, item: &TransferItem, progress: &Progress) -> io::Result<Result<String, String>> {
        match self.read(item, progress) {
            Ok(line) => Ok(Ok(line)),
            Err(TarError::Package(error)) => Ok(Err(error.to_string())),
            Err(TarError::Paper(error)) => Ok(Err(error.to_string())),
            Err(TarError::NoDescpkg) => Ok(Err("its descpkg vanished from the source".to_owned())),
            Err(TarError::Stream(error)) => Err(error),
        }
    }

    fn read(&mut self, item: &TransferItem, progress: &Progress) -> Result<String, TarError> {
        let root = Root::open(&item.archive, &item.package)?;
        let [manifest, tree] = [(); 2].map(|()| Paper::new(self.place));
        let mut papers = Papers { manifest, tree, names: Names::default() };
        let path = item.package.path();
        let prefix = format!("packages/{path}");
        // The directories that the walk is in, and the likenesses of those that it has left.
        let (mut around, mut left): (Vec<Node>, _) = (Vec::new(), Spool::new(self.place));
        let (mut descpkg, mut entries) = (None, 0u64);
        for node in root.walk(WalkOrder::Name) {
            let node = node?;
            entries += u64::from(!node.path.is_empty());
            while let Some(directory) = around.pop_if(|around| !is_in(around, &node)) {
                left.add(&likeness(&directory, &path)?)?;
            }
            if node.stat.is_directory() {
                // To be filled: it must be writable whatever it will be in the end.
                self.tar.directory(&path_in(&prefix, &node.path), &node.stat, OWNER)?;
                papers.tree.add(&entry_line(&root, &node)?)?;
                around.push(node);
            } else if node.is_descpkg() {
                descpkg = Some(node);
            } else {
                self.leaf(&prefix, &root, &node, progress, &mut papers)?;
            }
        }
        self.leaf(&prefix, &root, &descpkg.ok_or(TarError::NoDescpkg)?, progress, &mut papers)?;
        while let Some(directory) = around.pop() {
            left.add(&likeness(&directory, &path)?)?;
        }
        self.spooled(&mut left, |tar, entries| tar.entries(entries))?;
        let PackageId { name, version } = &item.package;
        let digest = self.paper(&format!("manifests/{path}"), papers.manifest)?;
        let tree = self.paper(&format!("manifests/{name}/{}", tree::file_name(version)), papers.tree)?;
        let (root_mode, rule) = (root.stat().permissions(), item.rule.word());
        Ok(format!("{name} {version} {entries} {} {root_mode:03o} {digest} {tree} {rule}\n", item.time))
    }

    /// Writes a paper, and gives its digest.
    fn paper(&mut self, path: &str, Paper { mut lines, digest }: Paper) -> Result<String, TarError> {
        let bytes = lines.bytes();
        self.spooled(&mut lines, |tar, text| tar.text(path, bytes, text))?;
        Ok(hex(&digest.finalize()))
    }

    /// Writes what was kept until now.
    fn spooled(
        &mut self,
        kept: &mut Spool,
        write: impl FnOnce(&mut Tarball<Encoder>, &mut dyn io::Read) -> io::Result<()>,
    ) -> Result<(), TarError> {
        let (bytes, unwatched) = (kept.bytes(), Progress::default());
        let mut reader = FileReader::new(kept.reader()?, bytes, &unwatched);
        write(&mut self.tar, &mut reader)?;
        match reader.fault.take() {
            None => Ok(()),
            Some(fault) => {
                drop(reader);
                Err(kept.error(fault.into()).into())
            }
        }
    }

    /// Writes a file or a link.
    fn leaf(
        &mut self,
        prefix: &str,
        root: &Root,
        node: &Node,
        progress: &Progress,
        papers: &mut Papers,
    ) -> Result<(), TarError> {
        let path = path_in(prefix, &node.path);
        if node.stat.kind() == FileType::Symlink {
            let to = root.link(node)?;
            self.tar.link(&path, &to, &node.stat)?;
            papers.tree.add(&tree::line(&node.path, tree::Node::Link(&to)))?;
            return Ok(());
        }
        // It must be ours to send under each of its names, and still the same file.
        let file = root.file(node)?;
        let digest = if let Meeting::Again(first) = papers.names.meet(node, 0) {
            self.tar.hard_link(&path, &path_in(prefix, &first.path), &node.stat)?;
            papers.names.digest(root, node)?
        } else {
            let mut reader = FileReader::new(&file, node.stat.size, progress);
            self.tar.file(&path, &node.stat, &mut reader, &mut self.buffer)?;
            reader.finish(root, node)?
        };
        papers.names.keep(node, &digest);
        papers.manifest.add(&manifest_line(&digest, &node.path))?;
        papers.tree.add(&entry_line(root, node)?)?;
        Ok(())
    }
}

/// How a directory is to be in the end, told apart from the directory itself: the target's tar finishes some links only after all
/// directories, and would find them closed or change their times. Inner ones come first, since making them changes the outer ones' times; and all
/// of them after all that is in the package, since a tar that is elsewhere gives the directories that it made their modes, and so no group any more.
/// The package's own root stays writable, since it has yet to be moved; the batch says its mode.
fn likeness(node: &Node, package: &str) -> io::Result<Vec<u8>> {
    let closed = !node.path.is_empty() && node.stat.mode & 0o200 == 0;
    let widen = if closed { OWNER | CLOSED } else { OWNER };
    tarball::directory(&path_in(&format!("dirs/{package}"), &node.path), &node.stat, widen)
}

/// Whether an entry lies in a directory, however deep.
fn is_in(directory: &Node, node: &Node) -> bool {
    let below = node.path.strip_prefix(&directory.path[..]);
    below.is_some_and(|below| directory.path.is_empty() || below.starts_with(b"/"))
}

/// An entry's line in the tree file.
fn entry_line(root: &Root, node: &Node) -> Result<Vec<u8>, SourceError> {
    let mode = permissions(&node.stat);
    Ok(match node.stat.kind() {
        FileType::Symlink => tree::line(&node.path, tree::Node::Link(&root.link(node)?)),
        FileType::Directory => tree::line(&node.path, tree::Node::Directory(mode)),
        // The walk gives nothing else.
        _ => tree::line(&node.path, tree::Node::File(mode)),
    })
}

/// The digests of the manifest and of the tree file that a package would be sent with, made by reading all of it.
pub fn digests(root: &Root) -> Result<Digests, SourceError> {
    let (mut manifest, mut tree, mut names) = (Sha256::new(), Sha256::new(), Names::default());
    let mut add = |node: &Node| -> Result<(), SourceError> {
        tree.update(entry_line(root, node)?);
        if !node.stat.is_file() {
            return Ok(());
        }
        let file = root.file(node)?;
        let digest = if let Meeting::Again(_) = names.meet(node, 0) {
            names.digest(root, node)?
        } else {
            let unwatched = Progress::default();
            let mut reader = FileReader::new(&file, node.stat.size, &unwatched);
            io::copy(&mut reader, &mut io::sink()).map_err(|error| root.unreadable(&node.path, error))?;
            reader.finish(root, node)?
        };
        names.keep(node, &digest);
        manifest.update(manifest_line(&digest, &node.path));
        Ok(())
    };
    // In the order of the stream: descpkg last.
    let mut descpkg = None;
    for node in root.walk(WalkOrder::Name) {
        let node = node?;
        if node.is_descpkg() { descpkg = Some(node) } else { add(&node)? }
    }
    descpkg.iter().try_for_each(add)?;
    Ok(Digests { bytes: hex(&manifest.finalize()), tree: Some(hex(&tree.finalize())) })
}

fn path_in(prefix: &str, below: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if below.is_empty() { b"" } else { b"/" };
    [prefix.as_bytes(), slash, below].concat()
}
