//! What a person sees at a terminal.

pub(crate) mod bars;
