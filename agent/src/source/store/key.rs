//! The name of an entry: a digest of everything that its frames follow from.
//!
//! No file is read for that. A package's tree is fingerprinted by what `lstat` says, times of change and inode numbers included, which nobody
//! can set back; so a key costs far less than what it saves.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use blat_domain::frames::PROTOCOL;
use blat_domain::manifest::hex;
use blat_domain::name::{PackageId, Version};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::source::pack::below;

/// What an entry looks like: another number for every change of the format.
const FORMAT: u32 = 1;

/// What a package's frames follow from.
#[derive(Debug, Clone, Copy)]
pub(in crate::source) struct Ingredients<'a> {
    /// Which package.
    pub(in crate::source) package: &'a PackageId,
    /// The time of its `descpkg`, in whole epoch seconds.
    pub(in crate::source) time: i64,
    /// Its directory.
    pub(in crate::source) root: &'a Path,
    /// How it is packed: everything about that which may differ from agent to agent or from version to version.
    pub(in crate::source) form: &'a str,
    /// The version that its frames may refer to: which, the time of its `descpkg`, and its directory.
    pub(in crate::source) base: Option<(&'a Version, i64, &'a Path)>,
}

/// The name of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::source) struct Key(pub(super) String);

impl Key {
    /// The name of the entry that is made from these.
    ///
    /// # Errors
    /// Where a directory cannot be walked.
    pub(in crate::source) fn of(ingredients: &Ingredients<'_>) -> io::Result<Self> {
        let Ingredients { package, time, root, form, base } = ingredients;
        let mut sum = Sum(Sha256::new());
        sum.bytes(format!("{FORMAT} {PROTOCOL} {} {package} {time}", env!("CARGO_PKG_VERSION")).as_bytes());
        sum.bytes(form.as_bytes());
        sum.tree(root)?;
        if let Some((version, time, root)) = base {
            sum.bytes(format!("{version} {time}").as_bytes());
            sum.tree(root)?;
        }
        Ok(Self(hex(&sum.0.finalize())))
    }
}

/// A digest of parts that cannot be mistaken for others, however they are cut.
struct Sum(Sha256);

impl Sum {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn tree(&mut self, root: &Path) -> io::Result<()> {
        let mut entries = 0u64;
        for entry in WalkDir::new(root).sort_by_file_name() {
            let entry = entry?;
            let found = entry.metadata()?;
            self.bytes(&below(entry.path(), root));
            self.0.update(found.mode().to_le_bytes());
            for number in [found.size(), found.dev(), found.ino()] {
                self.0.update(number.to_le_bytes());
            }
            for time in [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()] {
                self.0.update(time.to_le_bytes());
            }
            if found.is_symlink() {
                self.bytes(std::fs::read_link(entry.path())?.as_os_str().as_bytes());
            }
            entries += 1;
        }
        self.0.update(entries.to_le_bytes());
        Ok(())
    }
}
