//! What a receiver says.

use serde::{Deserialize, Serialize};

use crate::package::name::PackageId;

/// One message to an agent, on the lane that it concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply<'a> {
    /// The answer to `Hello`.
    Welcome {
        /// [`super::PROTOCOL`] of the receiver.
        protocol: u16,
        /// The receiver's own version.
        version: &'a str,
        /// Packages of which an interrupted attempt left something.
        remains: Vec<PackageId>,
    },
    /// The answer to `Ping`.
    Pong {
        /// What the question had.
        beat: u64,
        /// For each lane, something that changes whenever it gets on.
        work: Vec<u64>,
    },
    /// So many bytes of bodies were taken off this lane: as many more may be sent.
    Credit {
        /// How many.
        bytes: u32,
    },
    /// Lines of an answer, each with its line end, as the scripts of the same purpose print them (docs/target-scripts.md).
    Lines(&'a str),
    /// The listing's lines were all of these buckets; what the agent knows of the others holds.
    Listed {
        /// Their numbers.
        buckets: Vec<u16>,
    },
    /// Files of a package that an interrupted attempt left whole: by the number of their entry, with the SHA-256 of what is there. One for
    /// each `Entries` of a package whose `ask` is set.
    Held {
        /// The package's number.
        number: u32,
        /// Which files.
        files: Vec<(u32, [u8; 32])>,
    },
    /// What the package took from held files did not come to what it should be: it is to be sent again, without them.
    Lacks {
        /// The package's number.
        number: u32,
    },
    /// The request is done.
    Done,
    /// The request, or all that was sent on this lane and is not published, came to nothing.
    Failed {
        /// What kind of failure.
        class: Class,
        /// What was attempted, on what, why it failed, what to do.
        text: &'a str,
    },
    /// The lock is held and the request can be done: is it still wanted? `Go` says so; where that does not come in time, it is left undone.
    Ready,
}

/// What can be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// Try again when there is space.
    Space,
    /// Try again later: another process holds the archive.
    Busy,
    /// It was refused, or failed here.
    Refused,
}
