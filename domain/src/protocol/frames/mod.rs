//! What an agent and a receiver say to each other, and how it lies on the wire. `docs/protocol.md` is the specification.
//!
//! A frame is a header of five bytes and a body. The header holds the length of the body (32 bits, least significant byte first) and the
//! lane it belongs to; the body is one message in [postcard]'s format. Lanes are independent of each other: what happens on one
//! never waits for another.
//!
//! Both ends take what the other says for hostile: bodies are bounded, names are checked while they are decoded, and whatever does not
//! decode ends the conversation.
//!
//! [postcard]: https://postcard.jamesmunns.com/wire-format

mod bytes;
mod packed;
mod reply;
mod request;

pub use reply::{Class, Reply};
pub use request::{Base, Copy, Entry, Kind, Leaving, Part, Piece, Request, Retirement, Rule, Time};

use serde::{Deserialize, Serialize};

/// The line after which a receiver speaks in frames. Whatever comes before it is a login shell's noise.
pub const MARKER: &str = "# blat-receiver 1";
/// The version of what follows the marker. Ends with different ones do not talk.
pub const PROTOCOL: u16 = 7;
/// Bytes of a frame's header.
pub const HEADER: usize = 5;
/// The longest body, in bytes: what a frame of another lane may have to wait for.
pub const LONGEST_BODY: usize = 256 << 10;
/// The most data in one frame, in bytes: leaves room for the rest of its message.
pub const MOST_DATA: usize = 64 << 10;
/// Bytes of bodies that may be on their way to one lane of a receiver before it gives more credit.
pub const FIRST_CREDIT: u64 = 4 << 20;
/// The most bytes that one piece unpacks to.
pub const MOST_PIECE: u64 = 16 << 20;
/// The most bytes of held files that one piece may refer to.
pub const MOST_BASE: u64 = 32 << 20;
/// The most memory that a package's shared files take, in bytes of [`shared_cost`]. Of a package with more, the rest are not shared.
pub const MOST_SHARED: usize = 8 << 20;
/// The most lanes of one conversation.
pub const LANES: u8 = 8;

/// One strand of the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lane(pub u8);

impl Lane {
    /// Greeting, heartbeats, and requests that are one question and one answer.
    pub const CONTROL: Self = Self(0);
    /// Packages that tags ask for.
    pub const TAGS: Self = Self(1);
    /// The first lane for packages of full syncs; the rest follow.
    pub const BULK: Self = Self(2);
}

/// Why bytes are not a conversation of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A body longer than any.
    #[error("a frame of {0} bytes came; the longest is {LONGEST_BODY}")]
    TooLong(u64),
    /// A lane that is none.
    #[error("a frame for lane {0} came; there are {LANES}")]
    NoLane(u8),
    /// A body that is no message.
    #[error("a frame came that cannot be understood: {0}")]
    Nonsense(String),
    /// A message that cannot be sent since it does not fit into a frame.
    #[error("a message does not fit into a frame: {0}")]
    Unsendable(String),
}

/// What it takes to remember a shared file with this path, in bytes.
pub fn shared_cost(path: &[u8]) -> usize {
    path.len() + 128
}

/// A frame's header, checked: how long its body is, and whose.
pub fn header(bytes: [u8; HEADER]) -> Result<(usize, Lane), FrameError> {
    let [a, b, c, d, lane] = bytes;
    let length = u32::from_le_bytes([a, b, c, d]);
    if lane >= LANES {
        return Err(FrameError::NoLane(lane));
    }
    match usize::try_from(length) {
        Ok(length) if length <= LONGEST_BODY => Ok((length, Lane(lane))),
        Ok(_) | Err(_) => Err(FrameError::TooLong(length.into())),
    }
}

/// Appends a whole frame to `out`. After an error `out` is as it was.
pub fn append(out: &mut Vec<u8>, lane: Lane, message: &impl Serialize) -> Result<(), FrameError> {
    let start = out.len();
    let result = encode(out, lane, message, start);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn encode(out: &mut Vec<u8>, lane: Lane, message: &impl Serialize, start: usize) -> Result<(), FrameError> {
    out.extend_from_slice(&[0, 0, 0, 0, lane.0]);
    bytes::append(out, message).map_err(|error| FrameError::Unsendable(error.to_string()))?;
    let length = out.len() - start - HEADER;
    match u32::try_from(length) {
        Ok(said) if length <= LONGEST_BODY => out[start..start + 4].copy_from_slice(&said.to_le_bytes()),
        Ok(_) | Err(_) => return Err(FrameError::Unsendable(format!("it takes {length} bytes"))),
    }
    Ok(())
}

/// The message in a body, all of it.
pub fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(FrameError::Nonsense(format!("{} bytes are left over", rest.len()))),
        Err(error) => Err(FrameError::Nonsense(error.to_string())),
    }
}
