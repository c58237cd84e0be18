//! Frames of a receiver, as the agent reads them: no bytes make the reader panic, and what it understood is written as it was meant.
#![no_main]

mod seeds;

use blat_domain::protocol::frames::{HEADER, Reply, append, decode, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: seeds::put_samples("replies", include_str!("../../domain/tests/frames/replies")),
    |frame: &[u8]| {
        let Some((head, body)) = frame.split_first_chunk::<HEADER>() else { return };
        let Ok((_, lane)) = header(*head) else { return };
        let Ok(reply) = decode::<Reply<'_>>(body) else { return };
        let mut written = Vec::new();
        // What is longer than a frame is never read from one.
        if append(&mut written, lane, &reply).is_ok() {
            assert_eq!(decode::<Reply<'_>>(&written[HEADER..]), Ok(reply));
        }
    }
);
