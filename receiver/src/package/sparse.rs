//! Writing a file so that long runs of zeros take no space: what was sparse where it came from is so here.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};

/// Zeros are looked for in blocks of so many bytes.
const BLOCK: usize = 4096;
static ZEROS: [u8; BLOCK] = [0; BLOCK];
/// So many zeros in a row are left out. Fewer are written: holes save little then, and a file in many parts is slow to read.
const RUN: u64 = 64 << 10;

/// A file that is written from its beginning to its end.
#[derive(Debug)]
pub(super) struct Sparse {
    file: File,
    /// Zeros that belong behind what is written.
    zeros: u64,
}

impl Sparse {
    /// A new file, which is empty.
    pub(super) fn new(file: File) -> Self {
        Self { file, zeros: 0 }
    }

    /// Appends these bytes.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut blocks = bytes.chunks(BLOCK);
            let data: usize = blocks.by_ref().take_while(|block| !is_zero(block)).map(<[u8]>::len).sum();
            let (now, later) = bytes.split_at(if data == 0 { bytes.len().min(BLOCK) } else { data });
            if data == 0 {
                self.zeros += now.len() as u64;
            } else {
                self.pass_zeros()?;
                self.file.write_all(now)?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// The file, with all its bytes.
    pub(super) fn finish(mut self) -> io::Result<File> {
        if self.zeros >= RUN {
            let end = self.file.stream_position()? + self.zeros;
            self.file.set_len(end)?;
        } else {
            self.pass_zeros()?;
        }
        Ok(self.file)
    }

    /// Goes on behind the zeros.
    fn pass_zeros(&mut self) -> io::Result<()> {
        let mut left = std::mem::take(&mut self.zeros);
        if left >= RUN {
            let distance = i64::try_from(left).map_err(io::Error::other)?;
            self.file.seek(SeekFrom::Current(distance))?;
            return Ok(());
        }
        while left > 0 {
            let now = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
            self.file.write_all(&ZEROS[..now])?;
            left -= now as u64;
        }
        Ok(())
    }
}

/// Of a block, or of less at an end.
fn is_zero(block: &[u8]) -> bool {
    ZEROS.starts_with(block)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn bytes_are_the_same_however_they_come_and_long_runs_of_zeros_take_no_space() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("f");
        let zeros = |count| vec![0; count];
        let data = |count| vec![7; count];
        let cases: [(Vec<Vec<u8>>, bool); 8] = [
            (vec![], false),
            (vec![zeros(1)], false),
            (vec![data(9_999), zeros(9_999), data(5_000)], false),
            (vec![data(5_000), zeros(60_000)], false),
            (vec![zeros(1 << 20)], true),
            (vec![data(10), zeros(1 << 20), data(10)], true),
            (vec![data(10), zeros(1 << 20)], true),
            (vec![zeros(1 << 20), data(1 << 16), zeros(1 << 19), data(1)], true),
        ];
        for (parts, is_sparse) in cases {
            let whole = parts.concat();
            for size in [1_000, 4_096, 65_536, 70_001, 4 << 20] {
                let mut sparse = Sparse::new(File::create(&path).expect("a file"));
                whole.chunks(size).for_each(|chunk| sparse.write(chunk).expect("room"));
                let file = sparse.finish().expect("room");
                assert!(fs::read(&path).expect("a file") == whole, "{} in pieces of {size}", whole.len());
                file.sync_all().expect("a disk");
                let taken = file.metadata().expect("a file").blocks() * 512;
                // Some file systems save space by themselves, so nothing is said of the others.
                assert!(
                    !is_sparse || taken < whole.len() as u64 / 2,
                    "{} take {taken} in pieces of {size}",
                    whole.len()
                );
                fs::remove_file(&path).expect("a file");
            }
        }
    }
}
