//! Hashing a file while somebody still wants it.

use std::fs::File;
use std::io::{self, Read as _};

use sha2::{Digest as _, Sha256};

use crate::wire::inbox::Inbox;

/// Bytes that are hashed at once.
const READ: usize = 128 << 10;

/// The SHA-256 of a file, up to the length that it was seen to have: others may make it longer meanwhile, again and again.
pub(crate) fn digest(file: &File, length: u64, inbox: &Inbox) -> io::Result<[u8; 32]> {
    let mut file = file.take(length);
    let mut digest = Sha256::new();
    let mut buffer = vec![0; READ];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(digest.finalize().into()),
            Ok(read) => digest.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        inbox.get_on();
    }
}
