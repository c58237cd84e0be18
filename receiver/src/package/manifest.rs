//! A package's manifest, written as its files are finished, and its tree file, written as its entries come.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::PermissionsExt as _;

use blat_domain::package::manifest::line;
use blat_domain::package::tree::{self, Node};
use sha2::{Digest as _, Sha256};

use crate::archive::dir::Dir;
use crate::staging::{MANIFEST, TREE};

/// A manifest and a tree file on their way to the disk.
#[derive(Debug)]
pub(super) struct Manifest {
    file: BufWriter<File>,
    digest: Sha256,
    tree: BufWriter<File>,
}

impl Manifest {
    /// Begins new ones in a stage.
    pub(super) fn begin(stage: &Dir) -> io::Result<Self> {
        let [file, tree] = [begin(stage, MANIFEST), begin(stage, TREE)];
        Ok(Self { file: file?, digest: Sha256::new(), tree: tree? })
    }

    /// Adds an entry to the tree file. The package's root has an empty path.
    pub(super) fn entry(&mut self, path: &[u8], node: Node<'_>) -> io::Result<()> {
        self.tree.write_all(&tree::line(path, node))
    }

    /// Adds a file to the manifest.
    pub(super) fn add(&mut self, digest: &[u8; 32], path: &[u8]) -> io::Result<()> {
        let line = line(digest, path);
        self.digest.update(&line);
        self.file.write_all(&line)
    }

    /// Ends both; gives the manifest's digest.
    pub(super) fn finish(&mut self) -> io::Result<[u8; 32]> {
        self.file.flush()?;
        self.tree.flush()?;
        Ok(self.digest.clone().finalize().into())
    }
}

fn begin(stage: &Dir, name: &str) -> io::Result<BufWriter<File>> {
    stage.unlink(name)?;
    let file = stage.create(name)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    Ok(BufWriter::new(file))
}
