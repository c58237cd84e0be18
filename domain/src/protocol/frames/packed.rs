//! Lists inside of messages, packed by zstd: paths that follow each other resemble each other, and a package whose files are copied at the target
//! consists of little else.
//!
//! On the wire such a list is the length that it unpacks to and its bytes: a zstd frame, or, where the length is 0, the list as it is.

use std::borrow::Cow;

use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{LONGEST_BODY, bytes};

/// Takes a fifth less than the fastest level for paths; what lists take is next to nothing beside the files that they tell of.
const LEVEL: i32 = 6;
/// The most that a list unpacks to, in bytes: no more than would fit into a body as it is.
const MOST: usize = LONGEST_BODY;

/// A list on the wire.
#[derive(Serialize, Deserialize)]
struct Packed<'a> {
    unpacked: u32,
    #[serde(serialize_with = "bytes::serialize")]
    bytes: &'a [u8],
}

pub(super) fn serialize<T: Serialize, S: Serializer>(list: &[T], to: S) -> Result<S::Ok, S::Error> {
    let mut plain = Vec::new();
    bytes::append(&mut plain, list).map_err(S::Error::custom)?;
    let unpacked = u32::try_from(plain.len()).ok().filter(|_| plain.len() <= MOST);
    let unpacked = unpacked.ok_or_else(|| S::Error::custom(format!("a list takes {} bytes", plain.len())))?;
    let packed = zstd::bulk::compress(&plain, LEVEL).map_err(S::Error::custom)?;
    let is_shorter = packed.len() < plain.len();
    let (unpacked, bytes) = if is_shorter { (unpacked, &packed) } else { (0, &plain) };
    Packed { unpacked, bytes }.serialize(to)
}

pub(super) fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    let Packed { unpacked, bytes } = Packed::deserialize(from)?;
    let unpacked = usize::try_from(unpacked).unwrap_or(usize::MAX);
    if unpacked > MOST {
        return Err(D::Error::custom("a list is longer than any may be"));
    }
    let plain = match unpacked {
        0 => Cow::Borrowed(bytes),
        _ => Cow::Owned(zstd::bulk::decompress(bytes, unpacked).map_err(D::Error::custom)?),
    };
    if plain.len() != unpacked && unpacked > 0 {
        return Err(D::Error::custom("a list has another length than was said"));
    }
    match postcard::take_from_bytes(&plain) {
        Ok((list, [])) => Ok(list),
        Ok(_) => Err(D::Error::custom("a list has bytes left over")),
        Err(error) => Err(D::Error::custom(error)),
    }
}
