//! Modes and times of a package's directories, which are set at the very end, from the leaves up: making what is in them changes their times, and
//! a closed one could not be filled.

use std::fs::File;
use std::io;

use blat_domain::protocol::frames::Time;

use super::place::Places;

/// What follows each path: mode, seconds, nanoseconds, length of the path.
const TRAILER: usize = 2 + 8 + 4 + 4;

/// Directories in the order in which they came, end to end: a few dozen bytes for each.
#[derive(Debug, Default)]
pub(super) struct Closing {
    records: Vec<u8>,
}

impl Closing {
    /// Notes a directory, parents first.
    pub(super) fn push(&mut self, path: &[u8], mode: u16, time: Time) {
        self.records.extend(path);
        self.records.extend(mode.to_le_bytes());
        self.records.extend(time.seconds.to_le_bytes());
        self.records.extend(time.nanoseconds.to_le_bytes());
        // A path is shorter than its frame.
        self.records.extend(u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes());
    }

    /// Gives all of them their times and modes, and each one's handle to `keep`. The root may have to stay open for its owner, for it is yet to be
    /// moved.
    pub(super) fn close(
        &self,
        places: &Places,
        root_stays_open: bool,
        keep: &mut dyn FnMut(File) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut rest = &self.records[..];
        while let Some((path, mode, time, before)) = last(rest) {
            let mode = if path.is_empty() && root_stays_open { mode | 0o700 } else { mode };
            keep(places.close_directory(path, mode, time)?)?;
            rest = before;
        }
        Ok(())
    }
}

/// The last record, and what comes before it.
fn last(records: &[u8]) -> Option<(&[u8], u16, Time, &[u8])> {
    let (paths, trailer) = records.split_at_checked(records.len().checked_sub(TRAILER)?)?;
    let (mode, rest) = trailer.split_first_chunk()?;
    let (seconds, rest) = rest.split_first_chunk()?;
    let (nanoseconds, rest) = rest.split_first_chunk()?;
    let length = u32::from_le_bytes(*rest.first_chunk()?) as usize;
    let (before, path) = paths.split_at_checked(paths.len().checked_sub(length)?)?;
    let time = Time { seconds: i64::from_le_bytes(*seconds), nanoseconds: u32::from_le_bytes(*nanoseconds) };
    Some((path, u16::from_le_bytes(*mode), time, before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_backwards() {
        let mut closing = Closing::default();
        let time = |seconds| Time { seconds, nanoseconds: 999_999_999 };
        for (path, mode, seconds) in [("", 0o755, 1), ("a", 0o500, -2), ("a/b", 0o777, i64::MAX)] {
            closing.push(path.as_bytes(), mode, time(seconds));
        }
        let mut seen = Vec::new();
        let mut rest = &closing.records[..];
        while let Some((path, mode, time, before)) = last(rest) {
            seen.push((path.to_vec(), mode, time));
            rest = before;
        }
        assert!(rest.is_empty());
        let expected = [("a/b", 0o777, i64::MAX), ("a", 0o500, -2), ("", 0o755, 1)];
        assert_eq!(seen, expected.map(|(path, mode, seconds)| (path.as_bytes().to_vec(), mode, time(seconds))));
    }
}
