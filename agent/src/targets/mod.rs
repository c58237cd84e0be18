//! The far end: what an agent can ask of any kind of target.
//!
//! A target is told packages, never plans: it knows how to do one thing, not whether it should be done.

#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod host;
#[cfg(feature = "s3")]
pub(crate) mod s3;
#[cfg(not(feature = "s3"))]
#[path = "s3_absent.rs"]
pub(crate) mod s3;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use blat_domain::archive::inventory::Inventory;
use blat_domain::archive::package_list::{Former, Purge};
use blat_domain::archive::record::{Claim, Found, Record};
use blat_domain::archive::title::Title;
use blat_domain::package::name::PackageId;
use blat_domain::policy::plan::Link;
pub(crate) use blat_domain::protocol::frames::{Leaving, Retirement, Rule};
use blat_domain::protocol::status::{FarEnd, Leftover};
use blat_packing::item::TransferItem;
use blat_packing::progress::Progress;
use blat_packing::tar;
use blat_packing::tree::Digests;
use blat_packing::walker::Root;

use crate::model::batch_limits::BatchLimits;
use crate::model::error::TargetError;
use crate::model::outcome::{Delivery, OutcomeSink, Retired, Verdict};

/// A remote archive.
#[async_trait]
pub(crate) trait Target: Send + Sync {
    /// How much it takes at once.
    async fn batch_limits(&self) -> Result<BatchLimits, TargetError>;

    /// What it holds. An incomplete listing is an error, never a short inventory.
    async fn inventory(&self) -> Result<Arc<Inventory>, TargetError>;

    /// Delivers items. `told` hears the outcome of each, in no particular order; an error says nothing about those it has not heard of.
    async fn receive(
        &self,
        items: &[TransferItem],
        progress: &Arc<Progress>,
        told: &OutcomeSink<'_>,
    ) -> Result<(), TargetError>;

    /// Makes versions symbolic links to others that are there, in this order; each replaces a link in one step, and nothing else.
    async fn link(&self, links: &[Link]) -> Result<Vec<(PackageId, Delivery)>, TargetError>;

    /// Hashes packages again, and compares them with the manifests that came with them. Changes nothing.
    async fn verify(&self, packages: &[PackageId]) -> Result<Vec<(PackageId, Verdict)>, TargetError>;

    /// The digests that a package is verified by, as they would come out were it sent now from `root`. Reads all of it, and blocks.
    fn digests(&self, root: &Root) -> Result<Digests, String> {
        tar::digests(root).map_err(|error| error.to_string())
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
    async fn store_list(&self, owned: &Record, list: &str, purge: Purge) -> Result<Former, TargetError>;

    /// What was found in the record's place was judged. A target that has no far end of its own to look after that tells the archive by it from
    /// another one that answers in its place later.
    fn met(&self, _found: &Found) {}

    /// Looks at the archive's record or changes it, then tells how it is.
    async fn claim(&self, how: Claim, record: &Record) -> Result<Title, TargetError>;
}
