//! Files on their way into a stream that has said how long they are.

use std::fs::File;
use std::io::{self, Read};

use sha2::{Digest, Sha256};

use super::walker::{Node, Root, SourceError};
use crate::progress::Progress;

/// Exactly as many bytes as the header said, hashed on the way. A file that has fewer, or breaks, is filled up with zeros, so that
/// the stream stays whole while the package is given up.
pub(crate) struct FileReader<'a, R> {
    file: R,
    left: u64,
    digest: Sha256,
    /// Why it was filled up; none where it was not.
    pub(crate) fault: Option<ShortRead>,
    progress: &'a Progress,
}

/// Why a file gave fewer bytes than it should.
#[derive(Debug)]
pub(crate) enum ShortRead {
    Shrunk,
    Broken(io::Error),
}

impl From<ShortRead> for io::Error {
    fn from(fault: ShortRead) -> Self {
        match fault {
            ShortRead::Shrunk => io::ErrorKind::UnexpectedEof.into(),
            ShortRead::Broken(error) => error,
        }
    }
}

impl<'a, R: Read> FileReader<'a, R> {
    /// The first `size` bytes of `file`, which is yet to be read. `progress` hears of them.
    pub(crate) fn new(file: R, size: u64, progress: &'a Progress) -> Self {
        Self { file, left: size, digest: Sha256::new(), fault: None, progress }
    }
}

impl FileReader<'_, &File> {
    /// The digest of what was read, if that was the whole file as the walk met it.
    pub(crate) fn finish(self, root: &Root, node: &Node) -> Result<[u8; 32], SourceError> {
        match self.fault {
            Some(ShortRead::Shrunk) => Err(root.changed(&node.path)),
            Some(ShortRead::Broken(error)) => Err(root.unreadable(&node.path, error)),
            None => {
                root.check_unchanged(node, self.file)?;
                Ok(self.digest.finalize().into())
            }
        }
    }
}

impl<R: Read> Read for FileReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let read = match &self.fault {
            Some(_) => 0,
            None => match self.file.read(&mut buffer[..wanted]) {
                Ok(0) => {
                    self.fault = Some(ShortRead::Shrunk);
                    0
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return self.read(buffer),
                Err(error) => {
                    self.fault = Some(ShortRead::Broken(error));
                    0
                }
            },
        };
        let given = if read == 0 {
            buffer[..wanted].fill(0);
            wanted
        } else {
            self.digest.update(&buffer[..read]);
            read
        };
        self.left -= given as u64;
        self.progress.advance(given as u64);
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_shrinks_is_filled_up_and_said_to_have_shrunk() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("f");
        std::fs::write(&path, b"abc").expect("a file");
        let file = File::open(&path).expect("a file");
        let progress = Progress::default();
        let mut reader = FileReader::new(&file, 5, &progress);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).expect("never fails");
        assert_eq!(all, b"abc\0\0");
        assert!(reader.fault.is_some());
    }
}
