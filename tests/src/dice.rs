//! Chance that can be had again: every draw follows from a seed that is printed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A small generator (xorshift) for moments and choices in chaos tests.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Seeded from `BLAT_SEED`, else from the clock; prints the seed, so that a failure can be rolled again.
    pub fn cast() -> Self {
        let seed = match std::env::var("BLAT_SEED") {
            Ok(text) => text.parse().expect("BLAT_SEED is a number"),
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").subsec_nanos().into(),
        };
        println!("the dice were cast with BLAT_SEED={seed}");
        Self::seeded(seed)
    }

    /// Always the same row of draws for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number, uniform over all.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number in `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// A moment up to `longest`.
    pub fn moment(&mut self, longest: Duration) -> Duration {
        Duration::from_micros(self.below(longest.as_micros().max(1) as u64))
    }

    /// Bytes that no compression makes smaller.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}
