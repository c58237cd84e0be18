//! From a writer on a packing thread to the link: compressed, cut into pieces, and held back when the link is slow.

use std::io::{self, Write};

use flate2::write::GzEncoder;

use super::PieceSink;

/// One piece of the stream on its way to the link.
const CHUNK: usize = 128 << 10;
/// The level at which zstd keeps up with a fast link on one core.
const ZSTD_LEVEL: i32 = 1;

/// The chosen compression, ended properly.
pub(crate) enum Encoder {
    Plain(Chunks),
    Gzip(GzEncoder<Chunks>),
    Zstd(zstd::Encoder<'static, Chunks>),
}

impl Encoder {
    pub(crate) fn new(compression: Compression, chunks: Chunks) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(chunks),
            Compression::Gzip => Self::Gzip(GzEncoder::new(chunks, flate2::Compression::fast())),
            Compression::Zstd => Self::Zstd(zstd::Encoder::new(chunks, ZSTD_LEVEL)?),
        })
    }

    pub(crate) fn finish(self) -> io::Result<()> {
        let mut chunks = match self {
            Self::Plain(chunks) => chunks,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
        };
        chunks.send()
    }
}

impl Write for Encoder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(chunks) => chunks.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collects bytes into pieces for the sink.
pub(crate) struct Chunks {
    piece: Vec<u8>,
    sink: PieceSink,
}

impl Chunks {
    pub(crate) fn new(sink: PieceSink) -> Self {
        Self { piece: Vec::with_capacity(CHUNK), sink }
    }

    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(CHUNK));
        if (self.sink)(piece) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == CHUNK {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How packages are packed on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
    /// By zstd.
    Zstd,
}

impl Compression {
    /// The word that `receive_package` knows it by.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}
