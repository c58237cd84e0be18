//! Unpacking a piece as its data come, never more than its parts have.

use std::os::unix::fs::FileExt as _;

use blat_domain::package::name::PackageId;
use blat_domain::protocol::frames::Piece;
use zstd::stream::raw::{DParameter, Decoder, Operation as _};

use super::{Incoming, Outcome};
use crate::failure::Setback;
use crate::package::held::Held;
use crate::wire::inbox::Inbox;

/// Bytes that are unpacked at once.
const UNPACKED: usize = 128 << 10;
/// The largest window of a frame, as a power of two: holds the longest base and the largest piece.
const WINDOW: u32 = 26;

/// Files of other versions that a piece refers to, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Base(Vec<u8>);

impl Base {
    /// All of them.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Reads what a piece refers to. What is not there as it was said is a lack.
pub(crate) fn read_base(incoming: &Incoming, piece: &Piece, held: &Held<'_>) -> Result<Base, Outcome> {
    // Bounded when the piece was begun.
    let mut bytes = Vec::with_capacity(piece.base.iter().map(|base| base.bytes as usize).sum());
    for base in &piece.base {
        let version = PackageId { name: incoming.package().name.clone(), version: base.version.clone() };
        let start = bytes.len();
        bytes.resize(start + base.bytes as usize, 0);
        let read =
            held.open(&version, &base.path).and_then(|file| file.read_exact_at(&mut bytes[start..], base.offset));
        read.map_err(|_| Outcome::Lacks)?;
    }
    Ok(Base(bytes))
}

/// A piece on its way.
pub(crate) enum Unpacking<'a> {
    /// The bytes are the files'.
    Plain,
    /// They are a zstd frame.
    Zstd {
        /// What unpacks it.
        decoder: Decoder<'a>,
        /// Where it goes.
        unpacked: Vec<u8>,
        /// Whether the frame has ended.
        ended: bool,
    },
}

impl<'a> Unpacking<'a> {
    /// Gets ready for a piece.
    pub(crate) fn new(piece: &Piece, base: &'a [u8]) -> std::io::Result<Self> {
        if !piece.zstd {
            return Ok(Self::Plain);
        }
        let mut decoder = if base.is_empty() { Decoder::new()? } else { Decoder::with_ref_prefix(base)? };
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW))?;
        Ok(Self::Zstd { decoder, unpacked: vec![0; UNPACKED], ended: false })
    }

    /// Takes the next data.
    pub(crate) fn feed(
        &mut self,
        mut data: &[u8],
        incoming: &mut Incoming,
        held: &Held<'_>,
        inbox: &Inbox,
    ) -> Result<(), Outcome> {
        let Self::Zstd { decoder, unpacked, ended } = self else { return incoming.fill(data, held, inbox) };
        loop {
            if *ended {
                return if data.is_empty() { Ok(()) } else { Err(incoming.spoiled("a piece goes on after its end")) };
            }
            let status = decoder.run_on_buffers(data, unpacked).map_err(|error| incoming.spoiled(damaged(&error)))?;
            incoming.fill(&unpacked[..status.bytes_written], held, inbox)?;
            data = &data[status.bytes_read..];
            *ended = status.remaining == 0;
            if data.is_empty() && status.bytes_written < unpacked.len() {
                return Ok(());
            }
        }
    }

    /// All data have come.
    pub(crate) fn finish(self, incoming: &mut Incoming) -> Result<(), Outcome> {
        match self {
            Self::Plain | Self::Zstd { ended: true, .. } => incoming.end_piece(),
            Self::Zstd { ended: false, .. } => Err(Setback::digest("a piece ends early").into()),
        }
    }
}

fn damaged(error: &std::io::Error) -> String {
    format!("a piece cannot be unpacked: {error}")
}
