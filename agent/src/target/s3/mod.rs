//! A bucket as a target: each package is one object, a ZIP.

pub(crate) mod zip;
