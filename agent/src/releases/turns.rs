//! A long text of releases takes many times its size in memory while it is understood. So the agents of a home tree read two of them at once, and
//! the others wait for their turn: a master with hundreds of targets often has one such text for all of them.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use blat_domain::util::units::show_duration;
use blat_paths::private;

/// Long texts that are read at once.
const AT_ONCE: usize = 2;
/// A text of fewer bytes is short: what it takes in memory is little.
pub(super) const LONG: u64 = 1 << 20;
/// How often a turn is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Waits until a text of so many bytes may be read, for half of the `limit` that reading it has, so that half is left for the reading. Whoever
/// has a turn has it until what this gives is dropped, or his process ends. `place` is the target's part of `state/`.
pub(super) async fn turn(place: &Path, bytes: u64, limit: Duration) -> Result<Option<File>, String> {
    if bytes < LONG {
        return Ok(None);
    }
    // Beside the slots of logins, where no target has its part.
    let folder = place.parent().unwrap_or(Path::new(".")).join("handshakes");
    let failed = |error| format!("cannot use the places of readers in {}: {error}", folder.display());
    private::directory(&folder).map_err(failed)?;
    let begun = Instant::now();
    loop {
        for number in 0..AT_ONCE {
            if let Some(locked) = private::try_lock(&folder.join(format!("reader-{number}"))).map_err(failed)? {
                return Ok(Some(locked));
            }
        }
        if begun.elapsed() >= limit / 2 {
            return Err(format!(
                "it has {} MiB or more, and other targets have been reading {AT_ONCE} long texts of releases for {}; it is tried again; timeout sets how \
                 long reading may take",
                bytes >> 20,
                show_duration(limit / 2)
            ));
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_long_texts_are_read_at_once_and_short_ones_wait_for_nobody() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let place = scratch.path().join("state/perth");
        let take = |bytes| turn(&place, bytes, ASK_AGAIN * 4);
        let mut held: Vec<Option<File>> = Vec::new();
        for _ in 0..AT_ONCE {
            held.push(take(LONG).await.expect("nobody else is there"));
        }
        let why = take(LONG).await.expect_err("two are there");
        assert!(why.contains("other targets have been reading 2 long texts"), "{why}");
        assert!(take(LONG - 1).await.expect("it takes no turn").is_none());
        held.pop();
        assert!(take(LONG).await.expect("one is done").is_some());
    }
}
