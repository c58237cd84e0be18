//! Where the ZIP's bytes go: hashed, counted, and gathered into larger pieces.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

/// Headers are a few bytes each: what goes on comes in pieces of this size.
const PIECE: usize = 128 << 10;

/// The end of the stream.
pub(super) struct Sink<W> {
    out: W,
    piece: Vec<u8>,
    digest: Sha256,
    bytes: u64,
}

impl<W: Write> Sink<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, piece: Vec::with_capacity(PIECE), digest: Sha256::new(), bytes: 0 }
    }

    /// How many bytes were written to it.
    pub(super) fn written(&self) -> u64 {
        self.bytes + self.piece.len() as u64
    }

    /// Hands on what was held back. Gives the digest and number of all bytes.
    pub(super) fn finish(mut self) -> io::Result<([u8; 32], u64)> {
        self.send()?;
        self.out.flush()?;
        Ok((self.digest.finalize().into(), self.bytes))
    }

    fn send(&mut self) -> io::Result<()> {
        self.out.write_all(&self.piece)?;
        self.digest.update(&self.piece);
        self.bytes += self.piece.len() as u64;
        self.piece.clear();
        Ok(())
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
