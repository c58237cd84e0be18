//! What became of packages at a target.

use blat_domain::package::name::PackageId;
use blat_packing::tree::Digests;

/// What became of a item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// It is published and durable on the target; it was not there before.
    Published,
    /// It is published in the place of one with another `descpkg` time.
    Replaced,
    /// It is a link, and leads where it should now.
    Linked,
    /// The target held it as it is.
    Already,
    /// The target holds one with the same `descpkg` time and other bytes, which was not touched.
    Differs(String),
    /// It is not on the target, and why.
    Failed(String),
}

/// What became of a version that was to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Retired {
    /// As it was asked.
    Done,
    /// It was not there.
    Absent,
    /// The target kept it, and why.
    Kept(String),
    /// It could not be done, and why.
    Failed(String),
}

/// What a target found when it hashed a package again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is as its manifest says, and as its tree file says where it has one: the digests of both.
    Good(Digests),
    /// It is not, and what is wrong.
    Bad(String),
    /// All that the archive's owner may read is as it should be, and something was sent so that they may not.
    Closed(String),
    /// Its manifest is gone, so nobody can tell.
    Unknown(String),
    /// It is not there any more.
    Absent,
}

/// OutcomeSink what became of items, as soon as it is known.
pub(crate) type OutcomeSink<'a> = dyn Fn(Vec<(PackageId, Delivery)>) + Sync + 'a;
