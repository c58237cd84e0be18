//! The commented samples that `blat init` lays out. Each is a test of this crate: it must parse.

/// `config/blat.yaml`.
pub const MASTER: &str = include_str!("../samples/blat.yaml");
/// A target over ssh with what it needs and no more.
pub const TARGET: &str = include_str!("../samples/perth.conf");
/// A target with every key.
pub const FULL: &str = include_str!("../samples/full.conf");
/// A target on the same machine.
pub const LOCAL: &str = include_str!("../samples/local.conf");
/// A target that is a bucket.
pub const BUCKET: &str = include_str!("../samples/bucket.conf");
