//! Text that is written piece by piece and read as a whole later: in memory while it is short, else in a file without a name.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, Write as _};
use std::path::PathBuf;

/// So much is held in memory, in bytes.
const IN_MEMORY: usize = 1 << 20;

/// Some text that grows.
#[derive(Debug)]
pub(crate) struct Spool {
    /// Where the file is made.
    place: PathBuf,
    file: Option<File>,
    /// What comes after what is in the file.
    end: Vec<u8>,
    bytes: u64,
}

/// The text cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep what it takes to pack it below {}: {why}; make space there", place.display())]
pub(crate) struct SpoolError {
    place: PathBuf,
    why: io::Error,
}

impl Spool {
    /// An empty one, whose file will be in the directory `place`, which need not exist.
    pub(crate) fn new(place: impl Into<PathBuf>) -> Self {
        Self { place: place.into(), file: None, end: Vec::new(), bytes: 0 }
    }

    /// Its length in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends to it.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub(crate) fn add(&mut self, text: &[u8]) -> Result<(), SpoolError> {
        self.end.extend_from_slice(text);
        self.bytes += text.len() as u64;
        if self.end.len() < IN_MEMORY {
            return Ok(());
        }
        self.write_out().map_err(|why| self.error(why))
    }

    fn write_out(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                fs::create_dir_all(&self.place)?;
                none.insert(tempfile::tempfile_in(&self.place)?)
            }
        };
        file.write_all(&self.end)?;
        self.end.clear();
        Ok(())
    }

    /// All of it, from its beginning. Nothing is appended after that.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn reader(&mut self) -> Result<impl Read, SpoolError> {
        let begun = self.file.as_mut().map_or(Ok(()), |file| file.rewind());
        begun.map_err(|why| self.error(why))?;
        let file: Box<dyn Read> = match &self.file {
            Some(file) => Box::new(file),
            None => Box::new(io::empty()),
        };
        Ok(file.chain(&self.end[..]))
    }

    /// What it means that it cannot be kept, or read again.
    pub(crate) fn error(&self, why: io::Error) -> SpoolError {
        SpoolError { place: self.place.clone(), why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_read_from_a_file_and_a_place_that_takes_none_is_named() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let place = scratch.path().join("not/there");
        for pieces in [3_usize, 3 << 12] {
            let mut spool = Spool::new(&place);
            let piece = [b'x'; 300];
            (0..pieces).for_each(|_| spool.add(&piece).expect("room"));
            spool.add(b"end").expect("room");
            assert_eq!((spool.bytes(), spool.file.is_some()), (300 * pieces as u64 + 3, pieces > 100));
            let mut all = Vec::new();
            spool.reader().expect("a file").read_to_end(&mut all).expect("a file");
            assert!(all.len() as u64 == spool.bytes() && all.ends_with(b"xend"));
        }
        assert_eq!(fs::read_dir(&place).expect("a place").count(), 0, "the file has no name");

        fs::write(scratch.path().join("file"), "").expect("a file");
        let mut spool = Spool::new(scratch.path().join("file"));
        let error = spool.add(&[0; IN_MEMORY]).expect_err("no directory");
        assert!(error.to_string().contains("/file: ") && error.to_string().ends_with("make space there"), "{error}");
    }
}
