//! Where the ZIP's bytes go: hashed, counted, gathered into larger pieces, and shut off when the ZIP is given up.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use sha2::{Digest, Sha256};

/// Headers are a few bytes each: what goes on comes in pieces of this size.
const PIECE: usize = 128 << 10;

/// Shuts a sink off, and knows why.
///
/// The library completes a ZIP whose writer is dropped, and complains on standard error where it cannot. So a sink shows it
/// no error: what is written after the first one leads nowhere, and whoever packs asks the valve.
#[derive(Debug, Clone, Default)]
pub(super) struct Valve(Rc<RefCell<State>>);

#[derive(Debug, Default)]
struct State {
    shut: bool,
    why: Option<io::Error>,
}

impl Valve {
    /// Nothing goes through any more.
    pub(super) fn shut(&self) {
        self.0.borrow_mut().shut = true;
    }

    /// The error that shut it, told once.
    pub(super) fn check(&self) -> io::Result<()> {
        self.0.borrow_mut().why.take().map_or(Ok(()), Err)
    }

    fn hold(&self, result: io::Result<()>) {
        if let Err(error) = result {
            *self.0.borrow_mut() = State { shut: true, why: Some(error) };
        }
    }
}

/// The end of the stream.
pub(super) struct Sink<W> {
    out: W,
    piece: Vec<u8>,
    digest: Sha256,
    bytes: u64,
    valve: Valve,
}

impl<W: Write> Sink<W> {
    pub(super) fn new(out: W, valve: Valve) -> Self {
        Self { out, piece: Vec::with_capacity(PIECE), digest: Sha256::new(), bytes: 0, valve }
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
        if self.valve.0.borrow().shut {
            return Ok(bytes.len());
        }
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            let sent = self.send();
            self.valve.hold(sent);
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
