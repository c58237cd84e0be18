//! A target served by POSIX shell scripts: one run a request, one stream for many packages.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use blat_domain::archive::inventory::{Inventory, Listing};
use blat_domain::archive::package_list::{FILE, Former, Purge};
use blat_domain::archive::record;
use blat_domain::archive::record::{Claim, Owner, Record};
use blat_domain::archive::title::{TITLE_LINES, Title};
use blat_domain::package::name::PackageId;
use blat_domain::policy::plan::{Link, Size};
use blat_domain::protocol::frames::Rule;
use blat_domain::protocol::status::Leftover;
use blat_domain::util::text::hex;
use blat_packing::item::TransferItem;
use blat_packing::progress::Progress;
use blat_packing::tar;
use blat_packing::tar::encoder::Compression;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::install::shell_word;
use super::leftovers::Leftovers;
use super::lines::{delivery, retired, verdict, with_silent_ones};
use crate::flow::rate_limit::Urgency;
use crate::flow::reservation::UnderWay;
use crate::model::batch_limits::BatchLimits;
use crate::model::error::TargetError;
use crate::model::outcome::{Delivery, OutcomeSink, Retired, Verdict};
use crate::targets::host::lines::Awaited;
use crate::targets::host::remote::RemoteState;
use crate::targets::{Leaving, Retirement, Target};
use crate::transport::answer::{CommandInput, ask};
use crate::transport::bounded::Bounds;

/// A stream is closed at 64 MiB or 8,000 files, so that what it brought becomes visible and a cut link costs little. Two are under way at
/// once: while one is verified and made durable on the target, the next is already on the link.
const APPETITE: BatchLimits = BatchLimits { size: Size { bytes: 64 << 20, entries: 8_000 }, streams: 2 };
/// Pieces of a stream that may wait for the link: reading ahead without holding packages in memory.
const AHEAD: usize = 8;
/// What only the owner of the archive does is asked back about under its lock, and left undone where no answer comes in so many seconds: whoever
/// asked for it may be gone, and a later sync may know nothing of it.
const CONFIRM: &str = " --confirm 30";
/// The largest number that the scripts take, since every awk counts to it exactly. No disk has room for so many bytes.
const MOST: u64 = 999_999_999_999_999;

/// A target that runs our scripts.
#[derive(Debug)]
pub(crate) struct ScriptTarget {
    remote_state: Arc<RemoteState>,
    archive: String,
    bin: String,
    reserve: u64,
    owner: Owner,
    /// Where what does not fit into memory is kept while it is packed.
    place: PathBuf,
    /// What the streams under way will take on the target's disk, in bytes.
    under_way: AtomicU64,
    batches: AtomicU64,
    leftovers: Leftovers,
}

impl ScriptTarget {
    /// A target whose archive and scripts are at these paths there. `reserve` bytes stay free on its disk; `owner` is on whose behalf it lists
    /// and deletes. What does not fit into memory is kept below `place` on this machine while it is packed.
    pub(crate) fn new(
        remote_state: Arc<RemoteState>,
        archive: String,
        bin: String,
        reserve: u64,
        owner: Owner,
        place: PathBuf,
    ) -> Self {
        let (under_way, batches, leftovers) = (AtomicU64::new(0), AtomicU64::new(0), Leftovers::default());
        Self { remote_state, archive, bin, reserve, owner, place, under_way, batches, leftovers }
    }

    /// Makes sure that the scripts are there, and says how packages may be packed for them.
    async fn compression(&self) -> Result<Compression, TargetError> {
        Ok(self.remote_state.far_end().await?.compression)
    }

    async fn run(
        &self,
        verb: &str,
        arguments: &str,
        input: CommandInput,
        bounds: Bounds,
        each: impl FnMut(&str) -> Result<(), String>,
    ) -> Result<(), TargetError> {
        let script = shell_word(&format!("{}/{verb}", self.bin));
        if let CommandInput::Bytes(bytes) | CommandInput::Confirmed(bytes) = &input {
            self.remote_state.limiter().spend(bytes.len());
        }
        let command = format!("exec /bin/sh {script} --archive {}{arguments}", shell_word(&self.archive));
        let result = ask(self.remote_state.transport().exec(&command).await?, input, bounds, each).await;
        if matches!(result, Err(TargetError::Refused(_))) {
            // It may have refused because a script is gone or changed: look before the next request.
            self.remote_state.doubt().await;
        }
        result
    }

    /// As [`Self::run`], with an outcome for each of these packages and nothing else.
    async fn outcomes<T>(
        &self,
        verb: &str,
        arguments: &str,
        input: CommandInput,
        packages: &[&PackageId],
        read: impl Fn(&str) -> Option<(PackageId, T)>,
    ) -> Result<Vec<(PackageId, T)>, TargetError> {
        let (mut awaited, mut outcomes) = (Awaited::of(packages.iter().copied()), Vec::new());
        let each = |line: &str| {
            outcomes.extend(awaited.take(line, &read, &self.leftovers)?);
            Ok(())
        };
        self.run(verb, arguments, input, Bounds::packages(packages.len()), each).await?;
        if verb != "get_plist" {
            self.leftovers.are_heard();
        }
        Ok(outcomes)
    }

    /// What sends this file.
    fn file_arguments(name: &str, content: &str) -> String {
        let digest = hex(&Sha256::digest(content));
        format!(" --name {name} --bytes {} --sha256 {digest}", content.len())
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
    async fn batch_limits(&self) -> Result<BatchLimits, TargetError> {
        Ok(APPETITE)
    }

    async fn inventory(&self) -> Result<Arc<Inventory>, TargetError> {
        self.leftovers.begin();
        self.remote_state.doubt().await;
        self.compression().await?;
        let mut listing = Listing::default();
        let each = |line: &str| listing.add_line(line).map_err(|error| error.to_string());
        self.run("get_plist", "", CommandInput::Bytes(Vec::new()), Bounds::LISTING, each).await?;
        let mut inventory = listing.finish();
        let taken = self.reserve.saturating_add(UnderWay::total(&self.under_way));
        inventory.free = inventory.free.map(|free| free.saturating_sub(taken));
        Ok(Arc::new(inventory))
    }

    async fn receive(
        &self,
        items: &[TransferItem],
        progress: &Arc<Progress>,
        told: &OutcomeSink<'_>,
    ) -> Result<(), TargetError> {
        let compression = self.compression().await?;
        let mut size = Size::default();
        items.iter().for_each(|item| size += item.size);
        let under_way = UnderWay::begin(&self.under_way, size);
        let replaces = items.iter().any(|item| item.rule != Rule::New);
        let owner = self.remote_state.brings_for(&self.owner, replaces);
        let arguments = format!(
            "{} --batch {} --compression {} --bytes {} --entries {} --reserve {}",
            if owner.is_empty() { owner } else { named(&owner) },
            self.batch_id(),
            compression.word(),
            size.bytes.min(MOST),
            size.entries.min(MOST),
            self.reserve.saturating_add(under_way.before()).min(MOST)
        );
        let (sender, chunks) = mpsc::channel(AHEAD);
        let (packed, watched, place) = (items.to_vec(), progress.clone(), self.place.clone());
        let sink = Box::new(move |piece| sender.blocking_send(piece).is_ok());
        let packing = spawn_blocking(move || tar::pack(&packed, compression, &watched, &place, sink));
        let tagged = items.iter().any(|item| item.tagged.is_some());
        let urgency = if tagged { Urgency::Tag } else { Urgency::Bulk };
        let input = CommandInput::Stream { chunks, limiter: self.remote_state.limiter().clone(), urgency };
        let packages: Vec<&PackageId> = items.iter().map(|item| &item.package).collect();
        let asked = self.outcomes("receive_package", &arguments, input, &packages, delivery).await;
        let given_up = packing.await.map_err(|error| TargetError::Refused(format!("packing failed: {error}")))?;
        let mut deliveries = asked?;
        deliveries.extend(given_up.into_iter().map(|(package, why)| (package, Delivery::Failed(why))));
        told(deliveries);
        Ok(())
    }

    async fn link(&self, links: &[Link]) -> Result<Vec<(PackageId, Delivery)>, TargetError> {
        let line = |link: &Link| format!("{} {} {}\n", link.package.name, link.package.version, link.to);
        let lines: String = links.iter().map(line).collect();
        self.compression().await?;
        let arguments = Self::file_arguments("links", &lines) + &named(&self.remote_state.links_for(&self.owner));
        let input = CommandInput::Bytes(lines.into_bytes());
        let packages: Vec<&PackageId> = links.iter().map(|link| &link.package).collect();
        let deliveries = self.outcomes("receive_file", &arguments, input, &packages, delivery).await?;
        Ok(with_silent_ones(deliveries, links.iter().map(|link| &link.package)))
    }

    async fn verify(&self, packages: &[PackageId]) -> Result<Vec<(PackageId, Verdict)>, TargetError> {
        self.compression().await?;
        let lines: String = packages.iter().map(|package| format!("{} {}\n", package.name, package.version)).collect();
        let packages: Vec<&PackageId> = packages.iter().collect();
        self.outcomes("get_plist", " --verify", CommandInput::Bytes(lines.into_bytes()), &packages, verdict).await
    }

    async fn retire(
        &self,
        owned: &Record,
        how: Retirement,
        packages: &[Leaving],
    ) -> Result<Vec<(PackageId, Retired)>, TargetError> {
        self.compression().await?;
        let how = match how {
            Retirement::Unmark => " --unmark".to_owned(),
            Retirement::Mark(wait) => format!(" --mark {}", wait.min(MOST)),
            Retirement::DeleteDue => " --due".to_owned(),
            Retirement::Delete => " --unlisted".to_owned(),
        };
        let mut list = String::new();
        for Leaving { package: PackageId { name, version }, time, source } in packages {
            // Writing to a String cannot fail.
            let _ = write!(list, "{name} {version}");
            let _ = match time {
                Some(time) => write!(list, " {time}"),
                None if source.is_empty() => Ok(()),
                None => write!(list, " -"),
            };
            for identity in source {
                let _ = write!(list, " {identity}");
            }
            list.push('\n');
        }
        let _ = writeln!(list, "# end {}", packages.len());
        let arguments = format!("{}{CONFIRM} --bytes {}{how}", named(&owned.line()), list.len());
        let packages: Vec<&PackageId> = packages.iter().map(|leaving| &leaving.package).collect();
        self.outcomes("delete_package", &arguments, CommandInput::Confirmed(list.into_bytes()), &packages, retired)
            .await
    }

    /// Scripts clear up whatever else they do: so they need to do nothing but that, and only where they must say again what is stuck.
    async fn sweep(&self, _keep: &BTreeSet<PackageId>) -> Result<(), TargetError> {
        if self.leftovers.are_in_doubt() {
            self.link(&[]).await?;
        }
        Ok(())
    }

    fn leftovers(&self) -> Vec<Leftover> {
        self.leftovers.shown()
    }

    async fn store_list(&self, owned: &Record, list: &str, purge: Purge) -> Result<Former, TargetError> {
        self.compression().await?;
        let arguments = Self::file_arguments(FILE, list) + &named(&owned.line()) + " --purge " + purge.word() + CONFIRM;
        let input = CommandInput::Confirmed(list.as_bytes().to_vec());
        let mut former = None;
        let each = |line: &str| match Former::read(line).filter(|_| former.is_none()) {
            Some(read) => {
                former = Some(read);
                Ok(())
            }
            None if line == format!("stored {FILE}") => Ok(()),
            None => self.leftovers.take(line),
        };
        self.run("receive_file", &arguments, input, Bounds::packages(2), each).await?;
        self.leftovers.are_heard();
        former.ok_or_else(|| TargetError::Refused("receive_file does not say what the new PackageList replaced".into()))
    }

    async fn claim(&self, how: Claim, record: &Record) -> Result<Title, TargetError> {
        self.compression().await?;
        let record = record.render();
        let (verb, arguments, input) = match how {
            Claim::Look => ("get_plist", " --title".to_owned(), Vec::new()),
            Claim::First | Claim::Adopt | Claim::Withdraw | Claim::Visit => {
                let arguments = format!("{} --claim {}", Self::file_arguments(record::FILE, &record), how.word());
                ("receive_file", arguments, record.into_bytes())
            }
        };
        let mut title = Title::default();
        let each = |line: &str| if title.add_line(line) { Ok(()) } else { self.leftovers.take(line) };
        self.run(verb, &arguments, CommandInput::Bytes(input), Bounds::packages(TITLE_LINES), each).await?;
        Ok(title)
    }
}

/// The argument that says on whose behalf something is done: an owner, or a whole record.
fn named(owner: &str) -> String {
    format!(" --owner {}", shell_word(owner))
}
