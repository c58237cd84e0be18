//! What comes from the agent for a lane, and what goes back.

pub(crate) mod inbox;
pub(crate) mod replies;
