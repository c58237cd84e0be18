//! Packages of a test: written to a directory, or sent.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use blat_domain::package::manifest;
use blat_domain::package::name::PackageId;
use blat_domain::package::tree;
use blat_domain::protocol::frames::{Base, Copy, Entry, Kind, Lane, MOST_DATA, Part, Piece, Request, Rule, Time};
use sha2::{Digest as _, Sha256};

use super::Agent;

/// What is at one path of a package.
#[derive(Clone)]
pub enum Node {
    Directory(u16),
    Link(Vec<u8>),
    File(Vec<u8>, u16),
    /// Another name of the file at this path.
    Name(Vec<u8>),
}

/// A package as a test wants it. Names sort parents before what is in them.
#[derive(Clone)]
pub struct Package {
    pub id: PackageId,
    pub nodes: BTreeMap<Vec<u8>, Node>,
    pub mode: u16,
    pub time: Time,
}

/// How a package is sent.
#[derive(Clone)]
pub struct How {
    pub lane: Lane,
    pub number: u32,
    pub rule: Rule,
    pub ask: bool,
    pub zstd: bool,
    /// Bytes of one piece.
    pub piece: usize,
    /// The version that files of the same path refer to.
    pub base: Option<Package>,
    /// Whether files that are the same there are copied.
    pub copy: bool,
    pub manifest: Option<[u8; 32]>,
}

impl Default for How {
    fn default() -> Self {
        Self {
            lane: Lane::BULK,
            number: 1,
            rule: Rule::New,
            ask: false,
            zstd: true,
            piece: 1 << 20,
            base: None,
            copy: false,
            manifest: None,
        }
    }
}

impl Package {
    /// A package with a descpkg and nothing else.
    pub fn new(name: &str, version: &str) -> Self {
        let id = PackageId::new(name, version).expect("a package");
        let time = Time { seconds: 1_700_000_000, nanoseconds: 123_456_789 };
        Self { id, nodes: BTreeMap::new(), mode: 0o755, time }.file("descpkg", format!("{name} {version}\n"))
    }

    pub fn file(self, path: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.node(path.as_bytes(), Node::File(bytes.as_ref().to_vec(), 0o644))
    }

    pub fn link(self, path: &str, to: &str) -> Self {
        self.node(path.as_bytes(), Node::Link(to.as_bytes().to_vec()))
    }

    pub fn name(self, path: &str, of: &str) -> Self {
        self.node(path.as_bytes(), Node::Name(of.as_bytes().to_vec()))
    }

    pub fn directory(self, path: &str, mode: u16) -> Self {
        self.node(path.as_bytes(), Node::Directory(mode))
    }

    pub fn node(mut self, path: &[u8], node: Node) -> Self {
        for (at, byte) in path.iter().enumerate() {
            if *byte == b'/' {
                self.nodes.entry(path[..at].to_vec()).or_insert(Node::Directory(0o755));
            }
        }
        self.nodes.insert(path.to_vec(), node);
        self
    }

    pub fn mode(mut self, mode: u16) -> Self {
        self.mode = mode;
        self
    }

    pub fn time(mut self, seconds: i64) -> Self {
        self.time.seconds = seconds;
        self
    }

    /// Entries in the order of the wire: descpkg last.
    pub fn ordered(&self) -> Vec<(&[u8], &Node)> {
        let last = |path: &[u8]| path == b"descpkg";
        let mut nodes: Vec<_> = self.nodes.iter().map(|(path, node)| (path.as_slice(), node)).collect();
        nodes.sort_by_key(|(path, _)| last(path));
        nodes
    }

    /// A file's bytes and mode, by whatever name; none of what is no file.
    pub fn content<'a>(&'a self, node: &'a Node) -> Option<(&'a [u8], u16)> {
        match node {
            Node::File(bytes, mode) => Some((bytes, *mode)),
            Node::Name(of) => self.content(&self.nodes[of]),
            Node::Directory(_) | Node::Link(_) => None,
        }
    }

    pub fn manifest(&self) -> Vec<u8> {
        let files = self.ordered().into_iter().filter_map(|(path, node)| {
            let (bytes, _) = self.content(node)?;
            Some(manifest::line(&Sha256::digest(bytes), path))
        });
        files.collect::<Vec<_>>().concat()
    }

    pub fn manifest_digest(&self) -> [u8; 32] {
        Sha256::digest(self.manifest()).into()
    }

    pub fn tree(&self) -> Vec<u8> {
        let root = tree::line(b"", tree::Node::Directory(self.mode));
        let lines = self.ordered().into_iter().map(|(path, node)| {
            let node = match node {
                Node::Directory(mode) => tree::Node::Directory(*mode),
                Node::Link(to) => tree::Node::Link(to),
                Node::File(_, mode) => tree::Node::File(mode & 0o777),
                Node::Name(of) => tree::Node::File(self.content(&self.nodes[of]).expect("a file").1 & 0o777),
            };
            tree::line(path, node)
        });
        std::iter::once(root).chain(lines).collect::<Vec<_>>().concat()
    }

    /// Writes it into an archive by hand, with its manifest and its tree file.
    pub fn write(&self, archive: &Path) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        let root = archive.join(self.id.path());
        fs::create_dir_all(&root).expect("a directory");
        for (path, node) in self.ordered() {
            let path = root.join(std::ffi::OsStr::from_bytes(path));
            match node {
                Node::Directory(_) => fs::create_dir(path).expect("a directory"),
                Node::Link(to) => symlink(std::ffi::OsStr::from_bytes(to), path).expect("a link"),
                Node::Name(of) => fs::hard_link(root.join(std::ffi::OsStr::from_bytes(of)), path).expect("a file"),
                Node::File(bytes, mode) => {
                    fs::write(&path, bytes).expect("a file");
                    fs::set_permissions(&path, Permissions::from_mode((*mode).into())).expect("a mode");
                    let time = std::time::UNIX_EPOCH
                        + std::time::Duration::from_secs(self.time.seconds.try_into().expect("a late time"));
                    fs::File::options()
                        .append(true)
                        .open(&path)
                        .and_then(|file| file.set_modified(time))
                        .expect("a time");
                }
            }
        }
        for (path, node) in self.ordered().into_iter().rev() {
            if let Node::Directory(mode) = node {
                let path = root.join(std::ffi::OsStr::from_bytes(path));
                fs::set_permissions(path, Permissions::from_mode((*mode).into())).expect("a mode");
            }
        }
        fs::set_permissions(&root, Permissions::from_mode(self.mode.into())).expect("a mode");
        let manifests = archive.join(".dpkg_archive/manifests").join(self.id.name.as_str());
        fs::create_dir_all(&manifests).expect("a directory");
        fs::write(manifests.join(self.id.version.as_str()), self.manifest()).expect("a manifest");
        fs::write(manifests.join(tree::file_name(&self.id.version)), self.tree()).expect("a tree file");
        root
    }

    /// Sends all of it but its end.
    pub fn send_entries(&self, agent: &mut Agent, how: &How) -> Vec<Entry> {
        let Package { id, mode, time, .. } = self;
        let (number, rule, ask, manifest) = (how.number, how.rule, how.ask, how.manifest);
        let package =
            Request::Package { number, package: id.clone(), time: time.seconds, mode: *mode, rule, manifest, ask };
        agent.send(how.lane, &package);
        let entries = self.entries(how);
        for some in entries.chunks(500) {
            agent.send(how.lane, &Request::Entries { entries: some.to_vec() });
        }
        entries
    }

    pub fn entries(&self, how: &How) -> Vec<Entry> {
        let root = Entry { path: vec![], kind: Kind::Directory { mode: self.mode }, time: self.time };
        let others = self.ordered().into_iter().map(|(path, node)| {
            let kind = match node {
                Node::Directory(mode) => Kind::Directory { mode: *mode },
                Node::Link(to) => Kind::Link { to: to.clone() },
                Node::File(bytes, mode) => {
                    let shared = self.nodes.values().any(|other| matches!(other, Node::Name(of) if of == path));
                    let (size, copy) = (bytes.len() as u64, self.copy_of(path, bytes, how));
                    Kind::File { mode: *mode, size, copy, shared }
                }
                Node::Name(of) => Kind::HardLink { to: self.number(of) },
            };
            Entry { path: path.to_vec(), kind, time: self.time }
        });
        std::iter::once(root).chain(others).collect()
    }

    /// The number of the entry at this path.
    pub fn number(&self, path: &[u8]) -> u32 {
        (1u32..).zip(self.ordered()).find(|(_, (other, _))| *other == path).expect("an entry").0
    }

    fn copy_of(&self, path: &[u8], bytes: &[u8], how: &How) -> Option<Copy> {
        let base = how.base.as_ref().filter(|_| how.copy)?;
        let is_same = |node: &Node| matches!(node, Node::File(there, _) if there == bytes);
        let (there, _) = match base.nodes.get_key_value(path).filter(|(_, node)| is_same(node)) {
            Some(same_place) => same_place,
            None => base.nodes.iter().find(|(_, node)| is_same(node))?,
        };
        let path = (there != path).then(|| there.clone());
        Some(Copy { version: base.id.version.clone(), path })
    }

    /// Sends its files but those of these entries: small ones share a piece, large ones take several.
    pub fn send_files(&self, agent: &mut Agent, how: &How, but: &[u32]) {
        let mut parts: Vec<Part> = Vec::new();
        let mut bytes = Vec::new();
        let mut base = Vec::new();
        for (number, (path, node)) in (1u32..).zip(self.ordered()) {
            let Node::File(content, _) = node else { continue };
            if but.contains(&number) || self.copy_of(path, content, how).is_some() {
                continue;
            }
            let mut rest = &content[..];
            loop {
                let taken = rest.len().min(how.piece - bytes.len());
                let last = taken == rest.len();
                parts.push(Part { entry: number, bytes: taken as u32 });
                bytes.extend(&rest[..taken]);
                if let Some(Node::File(old, _)) = how.base.as_ref().and_then(|base| base.nodes.get(path)) {
                    base.push((path.to_vec(), old.clone()));
                }
                rest = &rest[taken..];
                if bytes.len() >= how.piece || !base.is_empty() {
                    send_piece(
                        agent,
                        how,
                        std::mem::take(&mut parts),
                        &std::mem::take(&mut bytes),
                        &std::mem::take(&mut base),
                    );
                }
                if last {
                    break;
                }
            }
        }
        if !parts.is_empty() {
            send_piece(agent, how, parts, &bytes, &base);
        }
    }

    /// Sends all of it.
    pub fn send(&self, agent: &mut Agent, how: &How) {
        let entries = self.send_entries(agent, how);
        self.send_files(agent, how, &[]);
        agent.send(how.lane, &Request::Whole { entries: entries.len() as u64, manifest: self.manifest_digest() });
    }

    /// Sends it and has it published; its line.
    pub fn deliver(&self, agent: &mut Agent, how: &How) -> String {
        self.send(agent, how);
        let lines = agent.ask(how.lane, &Request::Publish).expect("an answer");
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.concat()
    }
}

fn send_piece(agent: &mut Agent, how: &How, parts: Vec<Part>, bytes: &[u8], base: &[(Vec<u8>, Vec<u8>)]) {
    let prefix: Vec<u8> = base.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    let packed = if how.zstd { compress(bytes, &prefix) } else { bytes.to_vec() };
    let version = how.base.as_ref().map(|base| base.id.version.clone());
    let base = base.iter().map(|(path, bytes)| {
        let version = version.clone().expect("a base");
        Base { version, path: path.clone(), offset: 0, bytes: bytes.len() as u32 }
    });
    let piece = Piece { packed: packed.len() as u32, zstd: how.zstd, parts, base: base.collect() };
    agent.send(how.lane, &Request::Piece(piece));
    for data in packed.chunks(MOST_DATA) {
        agent.send(how.lane, &Request::Data(data));
    }
}

/// A zstd frame with a prefix.
pub fn compress(bytes: &[u8], prefix: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    use zstd::stream::raw::CParameter;
    let mut encoder = match prefix.is_empty() {
        true => zstd::stream::write::Encoder::new(Vec::new(), 3),
        false => zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), 3, prefix),
    }
    .expect("an encoder");
    if !prefix.is_empty() {
        encoder.set_parameter(CParameter::EnableLongDistanceMatching(true)).expect("a parameter");
        encoder.set_parameter(CParameter::WindowLog(26)).expect("a parameter");
    }
    encoder.write_all(bytes).expect("a frame");
    encoder.finish().expect("a frame")
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
