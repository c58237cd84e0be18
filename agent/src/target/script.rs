//! A target served by POSIX shell scripts: one run a request, one stream for many packages.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use blat_domain::inventory::Inventory;
use blat_domain::manifest::hex;
use blat_domain::name::PackageId;
use blat_domain::plan::{Link, Size};
use sha2::{Digest, Sha256};

use super::answer::{Input, ask};
use super::far_end::Knowledge;
use super::install::{Compression, shell_word};
use super::lines::{delivery, retired, verdict, with_silent_ones};
use super::room::UnderWay;
use super::valve::Urgency;
use super::{Appetite, Delivery, Parcel, Retired, Retirement, Target, TargetError, Told, Verdict};
use crate::progress::Progress;
use crate::source::pack;

/// A stream is closed at 64 MiB or 8,000 files, so that what it brought becomes visible and a cut link costs little. Two are under way at
/// once: while one is verified and made durable on the target, the next is already on the link.
const APPETITE: Appetite = Appetite { size: Size { bytes: 64 << 20, entries: 8_000 }, streams: 2 };
/// The largest number that the scripts take, since every awk counts to it exactly. No disk has room for so many bytes.
const MOST: u64 = 999_999_999_999_999;

/// A target that runs our scripts.
#[derive(Debug)]
pub(crate) struct ScriptTarget {
    knowledge: Arc<Knowledge>,
    archive: String,
    bin: String,
    reserve: u64,
    /// What the streams under way will take on the target's disk, in bytes.
    under_way: AtomicU64,
    batches: AtomicU64,
}

impl ScriptTarget {
    /// A target whose archive and scripts are at these paths there. `reserve` bytes stay free on its disk.
    pub(crate) fn new(knowledge: Arc<Knowledge>, archive: String, bin: String, reserve: u64) -> Self {
        Self { knowledge, archive, bin, reserve, under_way: AtomicU64::new(0), batches: AtomicU64::new(0) }
    }

    /// Makes sure that the scripts are there, and says how packages may be packed for them.
    async fn compression(&self) -> Result<Compression, TargetError> {
        Ok(self.knowledge.far_end().await?.compression)
    }

    async fn run(&self, verb: &str, arguments: &str, input: Input, each: impl FnMut(&str)) -> Result<(), TargetError> {
        let script = shell_word(&format!("{}/{verb}", self.bin));
        if let Input::Bytes(bytes) = &input {
            self.knowledge.valve().spend(bytes.len());
        }
        let command = format!("exec /bin/sh {script} --archive {}{arguments}", shell_word(&self.archive));
        let result = ask(self.knowledge.transport().exec(&command).await?, input, each).await;
        if matches!(result, Err(TargetError::Refused(_))) {
            // It may have refused because a script is gone or changed: look before the next request.
            self.knowledge.doubt().await;
        }
        result
    }

    async fn receive_file(&self, name: &str, content: &str, each: impl FnMut(&str)) -> Result<(), TargetError> {
        self.compression().await?;
        let digest = hex(&Sha256::digest(content));
        let arguments = format!(" --name {name} --bytes {} --sha256 {digest}", content.len());
        self.run("receive_file", &arguments, Input::Bytes(content.as_bytes().to_vec()), each).await
    }

    /// A name for one batch's stage, not used before by anybody.
    fn batch_id(&self) -> String {
        let number = self.batches.fetch_add(1, Ordering::Relaxed);
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos());
        format!("{now:x}-{:x}-{number:x}", std::process::id())
    }
}

#[async_trait]
impl Target for ScriptTarget {
    async fn appetite(&self) -> Result<Appetite, TargetError> {
        Ok(APPETITE)
    }

    async fn inventory(&self) -> Result<Arc<Inventory>, TargetError> {
        self.knowledge.doubt().await;
        self.compression().await?;
        let mut inventory = Inventory::default();
        self.run("get_plist", "", Input::Bytes(Vec::new()), |line| inventory.add_line(line)).await?;
        let taken = self.reserve.saturating_add(UnderWay::total(&self.under_way));
        inventory.free = inventory.free.map(|free| free.saturating_sub(taken));
        Ok(Arc::new(inventory))
    }

    async fn receive(&self, parcels: &[Parcel], progress: &Arc<Progress>, told: &Told<'_>) -> Result<(), TargetError> {
        let compression = self.compression().await?;
        let mut size = Size::default();
        parcels.iter().for_each(|parcel| size += parcel.size);
        let under_way = UnderWay::begin(&self.under_way, size);
        let arguments = format!(
            " --batch {} --compression {} --bytes {} --entries {} --reserve {}",
            self.batch_id(),
            compression.word(),
            size.bytes.min(MOST),
            size.entries.min(MOST),
            self.reserve.saturating_add(under_way.before()).min(MOST)
        );
        let (chunks, packing) = pack::start(parcels.to_vec(), compression, progress.clone());
        let tagged = parcels.iter().any(|parcel| parcel.tagged.is_some());
        let urgency = if tagged { Urgency::Tag } else { Urgency::Bulk };
        let input = Input::Stream { chunks, valve: self.knowledge.valve().clone(), urgency };
        let mut deliveries = Vec::new();
        let asked = self.run("receive_package", &arguments, input, |line| deliveries.extend(delivery(line))).await;
        let given_up = packing.await.map_err(|error| TargetError::Refused(format!("packing failed: {error}")))?;
        asked?;
        deliveries.extend(given_up.into_iter().map(|(package, why)| (package, Delivery::Failed(why))));
        told(deliveries);
        Ok(())
    }

    async fn link(&self, links: &[Link]) -> Result<Vec<(PackageId, Delivery)>, TargetError> {
        let line = |link: &Link| format!("{} {} {}\n", link.package.name, link.package.version, link.to);
        let lines: String = links.iter().map(line).collect();
        let mut deliveries = Vec::new();
        self.receive_file("links", &lines, |line| deliveries.extend(delivery(line))).await?;
        Ok(with_silent_ones(deliveries, links.iter().map(|link| &link.package)))
    }

    async fn verify(&self, packages: &[PackageId]) -> Result<Vec<(PackageId, Verdict)>, TargetError> {
        self.compression().await?;
        let lines: String = packages.iter().map(|package| format!("{} {}\n", package.name, package.version)).collect();
        let mut verdicts = Vec::new();
        let each = |line: &str| verdicts.extend(verdict(line));
        self.run("get_plist", " --verify", Input::Bytes(lines.into_bytes()), each).await?;
        Ok(verdicts)
    }

    async fn retire(
        &self,
        how: Retirement,
        packages: &[(PackageId, Option<i64>)],
    ) -> Result<Vec<(PackageId, Retired)>, TargetError> {
        self.compression().await?;
        let arguments = match how {
            Retirement::Unmark => " --unmark".to_owned(),
            Retirement::Mark(wait) => format!(" --mark {}", wait.min(MOST)),
            Retirement::DeleteDue => " --due".to_owned(),
            Retirement::Delete => " --unlisted".to_owned(),
        };
        let mut list = String::new();
        for (PackageId { name, version }, time) in packages {
            // Writing to a String cannot fail.
            let _ = match time {
                Some(time) => writeln!(list, "{name} {version} {time}"),
                None => writeln!(list, "{name} {version}"),
            };
        }
        let _ = writeln!(list, "# end {}", packages.len());
        let mut answers = Vec::new();
        let input = Input::Bytes(list.into_bytes());
        self.run("delete_package", &arguments, input, |line| answers.extend(retired(line))).await?;
        Ok(answers)
    }

    async fn store_list(&self, list: &str) -> Result<(), TargetError> {
        self.receive_file(blat_domain::package_list::FILE, list, |_| {}).await
    }
}
