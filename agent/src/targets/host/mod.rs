//! A target as it is: served by its receiver where that runs, by the scripts elsewhere.

pub(crate) mod install;
pub(crate) mod leftovers;
pub(crate) mod lines;
pub(crate) mod place;
pub(crate) mod receiver;
pub(crate) mod remote;
pub(crate) mod scripts;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use blat_domain::archive::inventory::Inventory;
use blat_domain::archive::package_list::{Former, Purge};
use blat_domain::archive::record::{Claim, Found, Owner, Record};
use blat_domain::archive::title::Title;
use blat_domain::package::name::PackageId;
use blat_domain::policy::plan::Link;
use blat_domain::protocol::status::{FarEnd, Leftover};
use blat_packing::cache::PackCache;
use blat_packing::item::TransferItem;
use blat_packing::progress::Progress;

use receiver::ReceiverTarget;
use remote::{RemoteState, Serves};
use scripts::ScriptTarget;

use super::{Leaving, Retirement, Target};
use crate::model::batch_limits::BatchLimits;
use crate::model::error::TargetError;
use crate::model::outcome::{Delivery, OutcomeSink, Retired, Verdict};

/// A target that asks, once a connection, who serves it.
pub(crate) struct ServedTarget {
    remote_state: Arc<RemoteState>,
    scripts: ScriptTarget,
    receiver: ReceiverTarget,
}

impl ServedTarget {
    /// A target whose archive and scripts are at these paths there. `reserve` bytes stay free on its disk; `cache` is what it
    /// shares with other targets; `owner` is on whose behalf it lists and deletes; what does not fit into memory is kept below `place` on
    /// this machine while it is packed.
    pub(crate) fn new(
        remote_state: RemoteState,
        archive: String,
        bin: String,
        reserve: u64,
        cache: Arc<PackCache>,
        owner: Owner,
        place: PathBuf,
    ) -> Self {
        let remote_state = Arc::new(remote_state);
        let receiver = ReceiverTarget::new(remote_state.clone(), reserve, cache, owner.clone());
        let scripts = ScriptTarget::new(remote_state.clone(), archive, bin, reserve, owner, place);
        Self { scripts, receiver, remote_state }
    }

    async fn target(&self) -> Result<&dyn Target, TargetError> {
        Ok(match self.remote_state.far_end().await?.serves {
            Serves::Receiver { .. } => &self.receiver,
            Serves::Scripts { .. } => &self.scripts,
        })
    }
}

#[async_trait]
impl Target for ServedTarget {
    async fn batch_limits(&self) -> Result<BatchLimits, TargetError> {
        self.target().await?.batch_limits().await
    }

    async fn inventory(&self) -> Result<Arc<Inventory>, TargetError> {
        self.target().await?.inventory().await
    }

    async fn receive(
        &self,
        items: &[TransferItem],
        progress: &Arc<Progress>,
        told: &OutcomeSink<'_>,
    ) -> Result<(), TargetError> {
        self.target().await?.receive(items, progress, told).await
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

    async fn store_list(&self, owned: &Record, list: &str, purge: Purge) -> Result<Former, TargetError> {
        self.target().await?.store_list(owned, list, purge).await
    }

    fn met(&self, found: &Found) {
        self.remote_state.met(found);
    }

    async fn claim(&self, how: Claim, record: &Record) -> Result<Title, TargetError> {
        self.target().await?.claim(how, record).await
    }

    fn far_end(&self) -> Option<FarEnd> {
        self.remote_state.shown()
    }

    fn leftovers(&self) -> Vec<Leftover> {
        match self.remote_state.shown() {
            Some(FarEnd::Receiver { .. }) => self.receiver.leftovers(),
            Some(FarEnd::Scripts { .. }) => self.scripts.leftovers(),
            None => Vec::new(),
        }
    }
}
