//! A target as it is: served by its receiver where that runs, by the scripts elsewhere.

use std::sync::Arc;

use async_trait::async_trait;
use blat_domain::inventory::Inventory;
use blat_domain::name::PackageId;
use blat_domain::plan::Link;
use tokio::sync::Mutex;

use super::install::shell_word;
use super::receiver::ReceiverTarget;
use super::script::ScriptTarget;
use super::transport::Transport;
use super::{Appetite, Delivery, Parcel, Retired, Retirement, Target, TargetError, Told, Verdict};
use crate::progress::Progress;

/// A target that finds out, once a connection, who serves it.
pub(crate) struct FarEndTarget {
    transport: Arc<Transport>,
    bin: String,
    scripts: ScriptTarget,
    receiver: ReceiverTarget,
    choice: Mutex<Option<(u64, bool)>>,
}

impl FarEndTarget {
    /// A target whose archive and scripts are at these paths there. `reserve` bytes stay free on its disk.
    pub(crate) fn new(transport: Transport, archive: String, bin: String, reserve: u64) -> Self {
        let transport = Arc::new(transport);
        let command =
            format!("exec {} --archive {}", shell_word(&format!("{bin}/blat-receiver")), shell_word(&archive));
        let receiver = ReceiverTarget::new(transport.clone(), command, reserve);
        let scripts = ScriptTarget::new(transport.clone(), archive, bin.clone(), reserve);
        Self { transport, bin, scripts, receiver, choice: Mutex::new(None) }
    }

    async fn target(&self) -> Result<&dyn Target, TargetError> {
        let generation = self.transport.generation().await?;
        let mut choice = self.choice.lock().await;
        let is_receiver = match choice.as_ref().filter(|(chosen_for, _)| *chosen_for == generation) {
            Some((_, is_receiver)) => *is_receiver,
            None => {
                let command = format!("test -x {}", shell_word(&format!("{}/blat-receiver", self.bin)));
                let remote = self.transport.exec(&command).await?;
                let found = remote.exit.await? == super::transport::Exit::Code(0);
                choice.insert((generation, found)).1
            }
        };
        Ok(if is_receiver { &self.receiver } else { &self.scripts })
    }
}

#[async_trait]
impl Target for FarEndTarget {
    async fn appetite(&self) -> Result<Appetite, TargetError> {
        self.target().await?.appetite().await
    }

    async fn inventory(&self) -> Result<Inventory, TargetError> {
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
        how: Retirement,
        packages: &[(PackageId, Option<i64>)],
    ) -> Result<Vec<(PackageId, Retired)>, TargetError> {
        self.target().await?.retire(how, packages).await
    }

    async fn store_list(&self, list: &str) -> Result<(), TargetError> {
        self.target().await?.store_list(list).await
    }
}
