//! What fuzzing begins with: written when a target starts, before the fuzzer reads its corpus.

use std::fs;
use std::path::Path;

/// Puts one seed into a target's corpus.
pub fn put(target: &str, name: &str, bytes: &[u8]) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&corpus).expect("a corpus");
    fs::write(corpus.join(name), bytes).expect("a seed");
}

/// Puts the frames of a file of samples, lines `NAME HEX`, into a target's corpus.
#[allow(dead_code, reason = "only the targets that decode use it")]
pub fn put_samples(target: &str, samples: &str) {
    for line in samples.lines() {
        let (name, digits) = line.split_once(' ').expect("NAME HEX");
        let pairs = digits.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).expect("digits"));
        let frame: Vec<u8> = pairs.map(|pair| u8::from_str_radix(pair, 16).expect("digits")).collect();
        put(target, name, &frame);
    }
}
