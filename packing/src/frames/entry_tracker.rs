//! What is known of a package while it is packed: entries that gather until they are told, and the files among them.

use blat_domain::protocol::frames::{Entry, Kind};
use sha2::{Digest, Sha256};

use super::{Attempt, Packed, PartialFiles};
use crate::delta_base::{BaseFile, DeltaBase};
use crate::names::{Meeting, Names};
use crate::progress::Progress;
use crate::walker::{Node, Root, Stat};

/// A file that has been told of, or will be next.
pub(super) struct PendingFile {
    pub(super) number: u32,
    pub(super) node: Node,
    /// Its digest, where the target copies it from what it holds.
    pub(super) copied: Option<[u8; 32]>,
    /// What it most likely came from.
    pub(super) base_file: Option<BaseFile>,
    /// Whether it is another name of a file that came before.
    pub(super) is_again: bool,
}

/// A package on its way.
pub(super) struct EntryTracker<'a> {
    pub(super) root: &'a Root,
    pub(super) attempt: &'a Attempt,
    pub(super) delta_base: Option<&'a DeltaBase>,
    pub(super) progress: &'a Progress,
    pub(super) held: &'a std::sync::mpsc::Receiver<PartialFiles>,
    /// Entries not told of yet, with the files among them.
    pub(super) entries: Vec<Entry>,
    pub(super) files: Vec<PendingFile>,
    pub(super) waiting_bytes: u64,
    pub(super) told_bytes: usize,
    pub(super) count: u32,
    pub(super) lines: Sha256,
    pub(super) names: Names,
}

impl<'a> EntryTracker<'a> {
    /// Nothing is known yet. `delta_base` is a version that the target holds, which may be made use of.
    pub(super) fn new(
        root: &'a Root,
        attempt: &'a Attempt,
        delta_base: Option<&'a DeltaBase>,
        progress: &'a Progress,
        held: &'a std::sync::mpsc::Receiver<PartialFiles>,
    ) -> Self {
        Self {
            root,
            attempt,
            delta_base,
            progress,
            held,
            entries: Vec::new(),
            files: Vec::new(),
            waiting_bytes: 0,
            told_bytes: 0,
            count: 0,
            lines: Sha256::new(),
            names: Names::default(),
        }
    }

    /// A file, which is copied at the target where it holds the same bytes already, and linked where they came under another name.
    pub(super) fn file(&mut self, node: &Node) -> Packed<Kind> {
        let size = node.stat.size;
        let meeting = self.names.meet(node, self.count);
        if let Meeting::Again(first) = meeting {
            let to = first.entry;
            // It must be ours to send under this name too, and still the same file.
            self.root.file(node)?;
            self.files.push(PendingFile {
                number: self.count,
                node: node.clone(),
                copied: None,
                base_file: None,
                is_again: true,
            });
            return Ok(Kind::HardLink { to });
        }
        let shared = matches!(meeting, Meeting::First);
        let base_file = self.delta_base.and_then(|delta_base| delta_base.base_file(&node.path, size));
        let copy = base_file.as_ref().and_then(|base_file| base_file.copy_of(self.root, node));
        match &copy {
            Some(_) => self.progress.advance(size),
            None => self.waiting_bytes += size,
        }
        let (copy, copied) = copy.unzip();
        self.files.push(PendingFile { number: self.count, node: node.clone(), copied, base_file, is_again: false });
        Ok(Kind::File { mode: permissions(&node.stat), size, copy, shared })
    }
}

/// The nine bits that a package keeps.
pub fn permissions(stat: &Stat) -> u16 {
    stat.permissions() as u16
}

pub(super) fn path_of(kind: &Kind) -> &[u8] {
    match kind {
        Kind::Link { to } => to,
        Kind::Directory { .. } | Kind::File { .. } | Kind::HardLink { .. } => &[],
    }
}
