//! A laboratory for Blat's executables: a scratch home tree, a source archive, a target behind a real sshd, and the
//! means to look at all of it and to break it.
//!
//! Tests drive the executables as an operator would and know only what operators know (files, formats, exit codes):
//! nothing of the product is linked in. Each [`Lab`] is a world of its own, so tests run side by side. A failure prints the
//! command, both its streams, what lies in the lab and all logs; `BLAT_KEEP=1` keeps the lab itself.

pub mod accounts;
mod aws_client;
pub mod database;
pub mod dice;
pub mod disk;
pub mod fake_database;
pub mod hostile;
pub mod lab;
pub mod memory;
pub mod package;
pub mod process;
pub mod relay;
pub mod s3;
pub mod s3_identity;
pub mod s3_liar;
pub mod s3_proxy;
mod scene;
pub mod tree;
pub mod tunnel;
pub mod way;

pub use accounts::Account;
pub use database::{Database, Kind};
pub use dice::Dice;
pub use disk::Disk;
pub use lab::Lab;
pub use process::Outcome;
pub use s3::{Bucket, Store};
pub use way::Way;
