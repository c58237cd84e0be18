//! Bytes on their way into a frame. Serde hands a slice over one byte after the other, each with a check of its own; as bytes they go in one
//! step. On the wire both are the same: a length, and what it counts.

use postcard::ser_flavors::Flavor;
use serde::{Serialize, Serializer};

pub(super) fn serialize<S: Serializer>(bytes: &impl AsRef<[u8]>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes.as_ref())
}

/// Appends `message` to `out`. After an error a part of it may be there.
pub(super) fn append<T: Serialize + ?Sized>(out: &mut Vec<u8>, message: &T) -> postcard::Result<()> {
    postcard::serialize_with_flavor(message, Appending(out))
}

/// Where postcard writes to.
struct Appending<'a>(&'a mut Vec<u8>);

impl Flavor for Appending<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::append;
    use crate::protocol::frames::{Entry, Kind, Request, Time};

    #[test]
    fn on_the_wire_bytes_are_what_serde_makes_of_a_slice() {
        for bytes in [&b""[..], b"a", &[0xff; 300]] {
            let (mut whole, mut alone) = (Vec::new(), Vec::new());
            append(&mut whole, &Request::Data(bytes)).expect("it fits into memory");
            append(&mut alone, bytes).expect("it fits into memory");
            assert_eq!(whole[1..], alone);

            let entry = Entry {
                path: bytes.to_vec(),
                kind: Kind::Directory { mode: 0o755 },
                time: Time { seconds: 0, nanoseconds: 0 },
            };
            let mut whole = Vec::new();
            append(&mut whole, &entry).expect("it fits into memory");
            assert!(whole.starts_with(&alone));
        }
    }
}
