//! What a package was written by: the handles by which it becomes durable. An error of the disk is reported to whoever had the file open when it
//! happened, once; another handle may never learn of it. Nor does anybody have to be able to open the file again.

use std::fs::File;
use std::io;
use std::thread::{Builder, ScopedJoinHandle};

use crate::archive::Archive;
use crate::publish::{FEW_ENTRIES, most_at_once};

/// Threads that make a package durable.
const SYNCING: usize = 8;

/// Handles of a package's files and directories.
#[derive(Debug, Default)]
pub(crate) struct Written {
    handles: Vec<File>,
    /// Whether some were given up, so that only the whole file system can be made durable.
    has_gaps: bool,
}

impl Written {
    /// Keeps a handle of what was written to the end. Of a large package none are kept: its file system is made durable as a whole, or, where
    /// the kernel would not report errors of that, what is kept so far is made durable now.
    pub(crate) fn keep(&mut self, file: File, archive: &Archive) -> io::Result<()> {
        if self.has_gaps {
            return Ok(());
        }
        self.handles.push(file);
        if self.handles.len() <= most_at_once().min(FEW_ENTRIES) {
            return Ok(());
        }
        if archive.syncfs_reports {
            self.give_up();
            return Ok(());
        }
        sync(&std::mem::take(&mut self.handles))
    }

    /// Keeps no handles: there are too many in all.
    pub(crate) fn give_up(&mut self) {
        (self.handles, self.has_gaps) = (Vec::new(), true);
    }

    /// Whether making what is kept durable makes everything durable.
    pub(crate) fn is_all(&self) -> bool {
        !self.has_gaps
    }

    /// Makes durable what is kept, and these.
    pub(crate) fn sync_with(&mut self, others: Vec<File>) -> io::Result<()> {
        self.handles.extend(others);
        sync(&std::mem::take(&mut self.handles))
    }
}

/// Those that are synced at the same time share the journal's commits.
fn sync(files: &[File]) -> io::Result<()> {
    let share = files.len().div_ceil(SYNCING).max(1);
    std::thread::scope(|scope| {
        let sync = |files: &[File]| files.iter().try_for_each(File::sync_all);
        let mut shares = files.chunks(share);
        let own = shares.next().unwrap_or_default();
        // What no more threads are given for is done by this one.
        let start = |files| Builder::new().spawn_scoped(scope, move || sync(files)).map_err(|_| files);
        let helpers: Vec<_> = shares.map(start).collect();
        let synced = sync(own);
        helpers.into_iter().fold(synced, |synced, helper| match helper.map(ScopedJoinHandle::join) {
            Ok(Ok(result)) => synced.and(result),
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(files) => synced.and(sync(files)),
        })
    })
}
