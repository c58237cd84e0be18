//! What is known of a package while it is packed: entries that gather until they are told, and the files among them.

use blat_domain::frames::{Entry, Kind};
use sha2::{Digest, Sha256};

use super::{Attempt, Held, Packed};
use crate::progress::Progress;
use crate::source::ancestor::{Ancestor, Relative};
use crate::source::names::{Meeting, Names};
use crate::source::walker::{Node, Root, Stat};

/// A file that has been told of, or will be next.
pub(super) struct Waiting {
    pub(super) number: u32,
    pub(super) node: Node,
    /// Its digest, where the target copies it from what it holds.
    pub(super) copied: Option<[u8; 32]>,
    /// What it most likely came from.
    pub(super) relative: Option<Relative>,
    /// Whether it is another name of a file that came before.
    pub(super) is_again: bool,
}

/// A package on its way.
pub(super) struct Course<'a> {
    pub(super) root: &'a Root,
    pub(super) attempt: &'a Attempt,
    pub(super) ancestor: Option<&'a Ancestor>,
    pub(super) progress: &'a Progress,
    pub(super) held: &'a std::sync::mpsc::Receiver<Held>,
    /// Entries not told of yet, with the files among them.
    pub(super) entries: Vec<Entry>,
    pub(super) files: Vec<Waiting>,
    pub(super) waiting_bytes: u64,
    pub(super) told_bytes: usize,
    pub(super) count: u32,
    pub(super) lines: Sha256,
    pub(super) names: Names,
}

impl<'a> Course<'a> {
    /// Nothing is known yet. `ancestor` is a version that the target holds, which may be made use of.
    pub(super) fn new(
        root: &'a Root,
        attempt: &'a Attempt,
        ancestor: Option<&'a Ancestor>,
        progress: &'a Progress,
        held: &'a std::sync::mpsc::Receiver<Held>,
    ) -> Self {
        Self {
            root,
            attempt,
            ancestor,
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
            self.files.push(Waiting {
                number: self.count,
                node: node.clone(),
                copied: None,
                relative: None,
                is_again: true,
            });
            return Ok(Kind::HardLink { to });
        }
        let shared = matches!(meeting, Meeting::First);
        let relative = self.ancestor.and_then(|ancestor| ancestor.relative(&node.path, size));
        let copy = relative.as_ref().and_then(|relative| relative.copy_of(self.root, node));
        match &copy {
            Some(_) => self.progress.advance(size),
            None => self.waiting_bytes += size,
        }
        let (copy, copied) = copy.unzip();
        self.files.push(Waiting { number: self.count, node: node.clone(), copied, relative, is_again: false });
        Ok(Kind::File { mode: permissions(&node.stat), size, copy, shared })
    }
}

/// The nine bits that a package keeps.
pub(in crate::source) fn permissions(stat: &Stat) -> u16 {
    stat.permissions() as u16
}

pub(super) fn path_of(kind: &Kind) -> &[u8] {
    match kind {
        Kind::Link { to } => to,
        Kind::Directory { .. } | Kind::File { .. } | Kind::HardLink { .. } => &[],
    }
}
