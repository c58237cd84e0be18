//! A target as it is: served by its receiver where that runs, by the scripts elsewhere.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use blat_domain::inventory::Inventory;
use blat_domain::name::PackageId;
use blat_domain::ownership::{Claim, Owner, Record, Title};
use blat_domain::package_list::Former;
use blat_domain::plan::Link;
use blat_domain::status::{FarEnd, Leftover};

use super::far_end::{Knowledge, Serves};
use super::receiver::ReceiverTarget;
use super::script::ScriptTarget;
use super::{Appetite, Delivery, Leaving, Parcel, Retired, Retirement, Target, TargetError, Told, Verdict};
use crate::progress::Progress;
use crate::source::store::Store;

/// A target that asks, once a connection, who serves it.
pub(crate) struct ServedTarget {
    knowledge: Arc<Knowledge>,
    scripts: ScriptTarget,
    receiver: ReceiverTarget,
}

impl ServedTarget {
    /// A target whose archive and scripts are at these paths there. `reserve` bytes stay free on its disk; `store` is what it
    /// shares with other targets; `owner` is on whose behalf it lists and deletes; what does not fit into memory is kept below `place` on
    /// this machine while it is packed.
    pub(crate) fn new(
        knowledge: Knowledge,
        archive: String,
        bin: String,
        reserve: u64,
        store: Arc<Store>,
        owner: Owner,
        place: PathBuf,
    ) -> Self {
        let knowledge = Arc::new(knowledge);
        let receiver = ReceiverTarget::new(knowledge.clone(), reserve, store, owner.clone());
        let scripts = ScriptTarget::new(knowledge.clone(), archive, bin, reserve, owner, place);
        Self { scripts, receiver, knowledge }
    }

    async fn target(&self) -> Result<&dyn Target, TargetError> {
        Ok(match self.knowledge.far_end().await?.serves {
            Serves::Receiver { .. } => &self.receiver,
            Serves::Scripts { .. } => &self.scripts,
        })
    }
}

#[async_trait]
impl Target for ServedTarget {
    async fn appetite(&self) -> Result<Appetite, TargetError> {
        self.target().await?.appetite().await
    }

    async fn inventory(&self) -> Result<Arc<Inventory>, TargetError> {
        self.target().await?.inventory().await
    }

    async fn receive(&self, parcels: &[Parcel], progress: &Arc<Progress>, told: &Told<'_>) -> Result<(), TargetError> {
        self.target().await?.receive(parcels, progress, told).await
    }

    async fn link(&self, links: &[Link]) -> Result<Vec<(PackageId, Delivery)>, TargetError> {
        self.target().await?.link(links).await
    }

    async fn verify(&self, packages: &[PackageId]) -> Result<Vec<(PackageId, Verdict)>, TargetError> {
        self.target().await?.verify(packages).await
    }

    async fn retire(
        &self,
        owned: &Record,
        how: Retirement,
        packages: &[Leaving],
    ) -> Result<Vec<(PackageId, Retired)>, TargetError> {
        self.target().await?.retire(owned, how, packages).await
    }

    async fn sweep(&self, keep: &BTreeSet<PackageId>) -> Result<(), TargetError> {
        self.target().await?.sweep(keep).await
    }

    async fn store_list(&self, owned: &Record, list: &str) -> Result<Former, TargetError> {
        self.target().await?.store_list(owned, list).await
    }

    async fn claim(&self, how: Claim, record: &Record) -> Result<Title, TargetError> {
        self.target().await?.claim(how, record).await
    }

    fn far_end(&self) -> Option<FarEnd> {
        self.knowledge.shown()
    }

    fn leftovers(&self) -> Vec<Leftover> {
        match self.knowledge.shown() {
            Some(FarEnd::Receiver { .. }) => self.receiver.leftovers(),
            Some(FarEnd::Scripts { .. }) => self.scripts.leftovers(),
            None => Vec::new(),
        }
    }
}
