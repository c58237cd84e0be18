//! Why a request to a target did not succeed, sorted by what can be done about it.

use serde::{Deserialize, Serialize};

/// Why a request to a target did not succeed, by what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub(crate) enum TargetError {
    /// The way there is broken: try again soon.
    #[error("{0}")]
    Link(String),
    /// The target's disk is full: try again when there is space.
    #[error("{0}")]
    Space(String),
    /// The target refused or could not do it: try again later.
    #[error("{0}")]
    Refused(String),
    /// Only a person can mend it.
    #[error("{0}")]
    Operator(String),
}

impl TargetError {
    /// Whether asking at once for less could succeed where asking for all did not.
    pub(crate) fn may_concern_one_package(&self) -> bool {
        match self {
            Self::Space(_) | Self::Refused(_) => true,
            Self::Link(_) | Self::Operator(_) => false,
        }
    }
}
