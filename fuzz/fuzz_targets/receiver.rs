//! The receiver's end: a whole conversation of any bytes with an archive in a scratch directory. It never panics, answers in frames, and
//! leaves alone what is outside of the archive.
#![no_main]

mod seeds;
#[path = "../../receiver/tests/support/world.rs"]
#[allow(dead_code, reason = "shared with the receiver's tests")]
mod world;

use libfuzzer_sys::fuzz_target;
use world::{World, conversation};

fuzz_target!(
    init: {
        for path in ["lib/new", "../evil", "out/evil"] {
            seeds::put("receiver", &path.replace('/', "-"), &conversation(&[path.as_bytes()]).concat());
        }
    },
    |said: &[u8]| {
        let world = World::new().expect("a scratch directory");
        world.hear(said).expect("a conversation");
        assert!(world.is_untouched().expect("a picture"), "something outside of the archive was touched");
    }
);
