//! A package's manifest, written as its files are finished.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};

use blat_domain::manifest::line;
use sha2::{Digest as _, Sha256};

use crate::archive::dir::Dir;
use crate::stage::MANIFEST;

/// A manifest on its way to the disk.
#[derive(Debug)]
pub(super) struct Manifest {
    file: BufWriter<File>,
    digest: Sha256,
}

impl Manifest {
    /// Begins a new one in a stage.
    pub(super) fn begin(stage: &Dir) -> io::Result<Self> {
        stage.unlink(MANIFEST)?;
        let file = stage.create(MANIFEST)?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        Ok(Self { file: BufWriter::new(file), digest: Sha256::new() })
    }

    /// Adds a file.
    pub(super) fn add(&mut self, digest: &[u8; 32], path: &[u8]) -> io::Result<()> {
        let line = line(digest, path);
        self.digest.update(&line);
        self.file.write_all(&line)
    }

    /// Ends it; gives its own digest.
    pub(super) fn finish(&mut self) -> io::Result<[u8; 32]> {
        self.file.flush()?;
        Ok(self.digest.clone().finalize().into())
    }
}
