//! What a person asks for once, by `blat …`: each ends when it is done.

pub(crate) mod check;
pub(crate) mod enrol;
pub(crate) mod shell;
pub(crate) mod verify;
