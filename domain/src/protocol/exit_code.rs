//! Exit codes of all executables and scripts: a public table, which scripts of users read. Those from 64 on are of sysexits(3).

/// Done.
pub const DONE: u8 = 0;
/// It was tried and failed, or a sync left something undone.
pub const FAILED: u8 = 1;
/// Wrong usage: nothing was tried.
pub const USAGE: u8 = 2;
/// The target has no space left (the number of ENOSPC); of target scripts only.
pub const NO_SPACE: u8 = 28;
/// No master is running.
pub const NO_MASTER: u8 = 69;
/// Somebody else is at it: try later.
pub const BUSY: u8 = 75;
/// The configuration is not valid; whoever ends so waits until it changes.
pub const BAD_CONFIG: u8 = 78;
