//! The far end: what an agent can ask of any kind of target.
//!
//! A target is told packages, never plans: it knows how to do one thing, not whether it should be done.

pub(crate) mod answer;
pub(crate) mod bounded;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod far_end;
pub(crate) mod install;
mod leftovers;
mod lines;
mod place;
pub(crate) mod receiver;
mod room;
#[cfg(feature = "s3")]
pub(crate) mod s3;
#[cfg(not(feature = "s3"))]
#[path = "s3_absent.rs"]
pub(crate) mod s3;
pub(crate) mod script;
pub(crate) mod served;
pub(crate) mod transport;
pub(crate) mod valve;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
pub(crate) use blat_domain::frames::{Leaving, Retirement, Rule};
use blat_domain::inventory::Inventory;
use blat_domain::name::PackageId;
use blat_domain::ownership::{Claim, Record, Title};
use blat_domain::package_list::Former;
use blat_domain::plan::{Link, Size};
use blat_domain::status::{FarEnd, Leftover};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::orders::Orders;
use crate::progress::Progress;
use crate::source::pack::{self, Digests};
use crate::source::tree::Print;
use crate::source::walker::Root;

/// A package to be delivered, as the source has it.
#[derive(Debug, Clone)]
pub(crate) struct Parcel {
    /// Which.
    pub(crate) package: PackageId,
    /// The source archive that it lies in.
    pub(crate) archive: Arc<Path>,
    /// Modification time of its `descpkg`, in whole epoch seconds.
    pub(crate) time: i64,
    /// How much it is.
    pub(crate) size: Size,
    /// What to do with a version that is there already.
    pub(crate) rule: Rule,
    /// When the tag that asks for it was dropped, where one does.
    pub(crate) tagged: Option<Timestamp>,
    /// What told it from any other state of itself when it was measured.
    pub(crate) print: Option<Print>,
    /// The settings that want it, where it is not wanted any more once others are in force.
    pub(crate) orders: Option<Orders>,
}

impl Parcel {
    /// Whether it is left to a sync by other settings.
    pub(crate) fn is_superseded(&self) -> bool {
        self.orders.as_ref().is_some_and(Orders::are_superseded)
    }
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

/// What became of a parcel.
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

/// How much a target takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appetite {
    /// The most that parcels of one call come to; a bigger one comes alone.
    pub(crate) size: Size,
    /// Calls under way at once.
    pub(crate) streams: usize,
}

/// Told what became of parcels, as soon as it is known.
pub(crate) type Told<'a> = dyn Fn(Vec<(PackageId, Delivery)>) + Sync + 'a;

/// A remote archive.
#[async_trait]
pub(crate) trait Target: Send + Sync {
    /// How much it takes at once.
    async fn appetite(&self) -> Result<Appetite, TargetError>;

    /// What it holds. An incomplete listing is an error, never a short inventory.
    async fn inventory(&self) -> Result<Arc<Inventory>, TargetError>;

    /// Delivers parcels. `told` hears the outcome of each, in no particular order; an error says nothing about those it has not heard of.
    async fn receive(&self, parcels: &[Parcel], progress: &Arc<Progress>, told: &Told<'_>) -> Result<(), TargetError>;

    /// Makes versions symbolic links to others that are there, in this order; each replaces a link in one step, and nothing else.
    async fn link(&self, links: &[Link]) -> Result<Vec<(PackageId, Delivery)>, TargetError>;

    /// Hashes packages again, and compares them with the manifests that came with them. Changes nothing.
    async fn verify(&self, packages: &[PackageId]) -> Result<Vec<(PackageId, Verdict)>, TargetError>;

    /// The digests that a package is verified by, as they would come out were it sent now from `root`. Reads all of it, and blocks.
    fn digests(&self, root: &Root) -> Result<Digests, String> {
        pack::digests(root).map_err(|error| error.to_string())
    }

    /// Takes versions out of the archive or marks them, each only if that is still right when its turn comes, and only while the archive's
    /// record is `owned`, the one that this was planned by. Fails where one of them is the source's own file. One outcome each, in no
    /// particular order.
    async fn retire(
        &self,
        owned: &Record,
        how: Retirement,
        packages: &[Leaving],
    ) -> Result<Vec<(PackageId, Retired)>, TargetError>;

    /// What serves there, for the status; none before that was found out, or where there is only one thing that could. It asks nobody.
    fn far_end(&self) -> Option<FarEnd> {
        None
    }

    /// What the target said last that it cannot remove, for the status. It asks nobody.
    fn leftovers(&self) -> Vec<Leftover> {
        Vec::new()
    }

    /// Drops what interrupted tries left there, but for packages that are still to come. What somebody works on stays. A target that clears up
    /// by itself has nothing to do.
    async fn sweep(&self, _keep: &BTreeSet<PackageId>) -> Result<(), TargetError> {
        Ok(())
    }

    /// Replaces the PackageList, and says what was in its place. Only the archive's owner may: as with [`Target::retire`], whether
    /// the record still is `owned` is looked at right before.
    async fn store_list(&self, owned: &Record, list: &str) -> Result<Former, TargetError>;

    /// Looks at the archive's record or changes it, then tells how it is.
    async fn claim(&self, how: Claim, record: &Record) -> Result<Title, TargetError>;
}
