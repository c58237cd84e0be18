//! At most eight ssh handshakes at once for all agents of a home tree: a master with hundreds of targets must not
//! look like an attack to a host that many of them share, nor spend all its processor time on key exchanges.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many handshakes may run at once.
const SLOTS: usize = 8;
/// How often a taken slot is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// The places where handshakes queue: files whose kernel locks are the slots, so a killed agent gives its slot back.
#[derive(Debug, Clone)]
pub(crate) struct Handshakes {
    directory: PathBuf,
}

/// A slot that is held until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    _locked: File,
}

impl Handshakes {
    /// The slots of the home tree whose state directory this is.
    pub(crate) fn new(state: &Path) -> Self {
        Self { directory: state.join("handshakes") }
    }

    /// Waits for a free slot.
    pub(crate) async fn slot(&self) -> io::Result<Slot> {
        fs::create_dir_all(&self.directory)?;
        loop {
            for number in 0..SLOTS {
                let file = File::create(self.directory.join(number.to_string()))?;
                match file.try_lock() {
                    Ok(()) => return Ok(Slot { _locked: file }),
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(error)) => return Err(error),
                }
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_ninth_waits_until_one_of_eight_is_done() {
        let state = tempfile::tempdir().expect("a scratch directory");
        let handshakes = Handshakes::new(state.path());
        let mut held = Vec::new();
        for _ in 0..SLOTS {
            held.push(handshakes.slot().await.expect("a free slot"));
        }
        let ninth = tokio::time::timeout(ASK_AGAIN * 3, handshakes.slot()).await;
        assert!(ninth.is_err(), "a ninth handshake must wait");
        held.pop();
        handshakes.slot().await.expect("the slot given back");
    }
}
