//! Frames of an agent, as the receiver reads them: no bytes make the reader panic, and what it understood is written as it was meant.
#![no_main]

mod seeds;

use blat_domain::protocol::frames::{HEADER, Request, append, decode, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: seeds::put_samples("requests", include_str!("../../domain/tests/frames/requests")),
    |frame: &[u8]| {
        let Some((head, body)) = frame.split_first_chunk::<HEADER>() else { return };
        let Ok((_, lane)) = header(*head) else { return };
        let Ok(request) = decode::<Request<'_>>(body) else { return };
        let mut written = Vec::new();
        // What is longer than a frame is never read from one.
        if append(&mut written, lane, &request).is_ok() {
            assert_eq!(decode::<Request<'_>>(&written[HEADER..]), Ok(request));
        }
    }
);
