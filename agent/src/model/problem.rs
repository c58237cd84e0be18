//! What failed, in words for operators, and how soon trying again makes sense.

use blat_domain::package::name::PackageId;
use blat_domain::policy::retry::Backoff;

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The package concerned, when it was one.
    pub(crate) package: Option<PackageId>,
    /// What was attempted, why it failed, what to do.
    pub(crate) text: String,
    /// How soon trying again makes sense.
    pub(crate) retry: Backoff,
}
