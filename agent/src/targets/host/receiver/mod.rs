//! A target served by a resident `blat-receiver`: everything over one channel, nothing waits for a round trip.

pub(crate) mod congestion;
mod conversation;
mod known;
mod marker;
mod outbox;
mod sending;
#[cfg(test)]
mod tests;
pub(crate) mod watchdog;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};

use async_trait::async_trait;
use blat_domain::archive::inventory::{Inventory, Listing};
use blat_domain::archive::package_list::{Former, Purge};
use blat_domain::archive::record::{Claim, Owner, Record};
use blat_domain::archive::title::{TITLE_LINES, Title};
use blat_domain::flow::throughput::Throughput;
use blat_domain::package::ancestry::natural_order;
use blat_domain::package::name::PackageId;
use blat_domain::policy::plan::{Link, Size};
use blat_domain::protocol::frames::{Class, FrameError, Lane, MOST_DATA, Reply, Request, Rule, decode};
use blat_domain::protocol::status::Leftover;
use blat_domain::util::text::printable;
use blat_packing::cache::PackCache;
use blat_packing::frames::Codec;
use blat_packing::item::TransferItem;
use blat_packing::progress::Progress;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use self::conversation::Conversation;
use self::known::KnownListing;
use self::sending::{HeldVersions, LaneTransfer};
use super::install::{EXECUTABLE, digests};
use super::leftovers::Leftovers;
use super::lines::{delivery, retired, verdict, with_silent_ones};
use crate::flow::reservation::UnderWay;
use crate::model::batch_limits::BatchLimits;
use crate::model::error::TargetError;
use crate::model::outcome::{Delivery, OutcomeSink, Retired, Verdict};
use crate::targets::host::lines::Awaited;
use crate::targets::host::remote::{RemoteState, Serves};
use crate::targets::{Leaving, Retirement, Target};
use crate::transport::bounded::Bounds;

/// Packages that one question is about: its body stays far below a frame's limit.
const AT_ONCE: usize = 500;
/// Lanes that a full sync's packages are spread over: while one is verified and made durable, the other is on the link.
const BULK_LANES: u8 = 2;

/// A target whose receiver does the work.
#[derive(Debug)]
pub(crate) struct ReceiverTarget {
    remote_state: Arc<RemoteState>,
    reserve: u64,
    cache: Arc<PackCache>,
    owner: Owner,
    under_way: AtomicU64,
    conversation: Mutex<Option<Arc<Conversation>>>,
    /// Whether what is installed there is to be looked at and renewed once the conversation is nobody's.
    is_outdated: AtomicBool,
    /// What the link there has delivered, over all conversations.
    throughput: Arc<std::sync::Mutex<Throughput>>,
    known: std::sync::Mutex<KnownListing>,
    numbers: AtomicU32,
    leftovers: Leftovers,
}

impl ReceiverTarget {
    /// A target whose far end is a receiver. `reserve` bytes stay free on its disk; `cache` is what it shares with other targets; `owner` is on
    /// whose behalf it lists and deletes.
    pub(crate) fn new(remote_state: Arc<RemoteState>, reserve: u64, cache: Arc<PackCache>, owner: Owner) -> Self {
        let (conversation, known) = (Mutex::new(None), std::sync::Mutex::default());
        let (under_way, numbers, leftovers) = (AtomicU64::new(0), 0.into(), Leftovers::default());
        let (throughput, is_outdated) = (Arc::default(), AtomicBool::new(false));
        Self {
            remote_state,
            reserve,
            cache,
            owner,
            under_way,
            conversation,
            is_outdated,
            throughput,
            known,
            numbers,
            leftovers,
        }
    }

    /// The conversation that goes on, or a new one.
    async fn conversation(&self) -> Result<Arc<Conversation>, TargetError> {
        let mut conversation = self.conversation.lock().await;
        if let Some(going_on) = conversation.as_ref().filter(|conversation| !conversation.is_over()) {
            // Whoever has it got it under this lock.
            let is_spoken_in = Arc::strong_count(going_on) > 1;
            if is_spoken_in || !self.is_outdated.load(Ordering::Relaxed) {
                return Ok(going_on.clone());
            }
        }
        *conversation = None;
        if self.is_outdated.swap(false, Ordering::Relaxed) {
            self.remote_state.doubt().await;
        }
        let command = match self.remote_state.far_end().await?.serves {
            Serves::Receiver { command, .. } => command,
            // It was another one a moment ago.
            Serves::Scripts { .. } => return Err(broke("the target has no receiver any more")),
        };
        let begun = match self.remote_state.transport().exec(&command).await {
            Ok(remote) => {
                Conversation::begin(remote, self.remote_state.limiter().clone(), self.throughput.clone()).await
            }
            Err(error) => Err(error),
        };
        match begun {
            Ok(begun) => {
                self.remote_state.trust();
                Ok(conversation.insert(Arc::new(begun)).clone())
            }
            Err(error) => {
                // It may be gone or changed: whoever comes next looks before he starts it.
                self.remote_state.mistrust(&error).await;
                Err(error)
            }
        }
    }

    /// Has scripts and receiver put back that are missing or changed there. That takes a session, and the host may allow but one: so the
    /// conversation ends first, as soon as nobody speaks in it.
    async fn put_back(&self, outdated: BTreeSet<&str>) -> Result<(), TargetError> {
        let files: Vec<&str> = outdated.into_iter().collect();
        tracing::info!(
            files = files.join(" "),
            "scripts or the receiver are missing or changed on the target; putting them back"
        );
        self.is_outdated.store(true, Ordering::Relaxed);
        self.conversation().await.map(drop)
    }

    /// What the target holds, as far as is known, of the packages of these items.
    fn held(&self, items: &[TransferItem]) -> HeldVersions {
        let known = self.known();
        let mut held = HeldVersions::new();
        for PackageId { name, .. } in items.iter().map(|item| &item.package) {
            held.entry(name.clone()).or_insert_with(|| known.versions(name));
        }
        held
    }

    /// Remembers what has just been published: the next items may refer to it.
    fn note(&self, times: &HashMap<&PackageId, i64>, news: &[(PackageId, Delivery)]) {
        let published = news.iter().filter_map(|(package, delivery)| match delivery {
            Delivery::Published | Delivery::Replaced | Delivery::Already => {
                times.get(package).map(|time| (package.clone(), *time))
            }
            Delivery::Linked | Delivery::Differs(_) | Delivery::Failed(_) => None,
        });
        self.known().note(published);
    }

    fn known(&self) -> MutexGuard<'_, KnownListing> {
        // It is a memory only: the next listing corrects whatever is wrong with it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One question on the control lane about these packages, on behalf of `owner`, where it takes one: an outcome for each, and nothing else.
    async fn outcomes<T>(
        &self,
        owner: Option<&str>,
        request: &Request<'_>,
        packages: impl ExactSizeIterator<Item = &PackageId>,
        read: impl Fn(&str) -> Option<(PackageId, T)>,
    ) -> Result<Vec<(PackageId, T)>, TargetError> {
        let conversation = self.conversation().await?;
        let mut guard = conversation.lane(Lane::CONTROL).await;
        if let Some(owner) = owner {
            guard.say(&Request::Own { owner }).await?;
        }
        guard.say(request).await?;
        let bounds = Bounds::packages(packages.len());
        let (mut awaited, mut outcomes) = (Awaited::of(packages), Vec::new());
        let each = |line: &str| {
            outcomes.extend(awaited.take(line, &read, &self.leftovers)?);
            Ok(())
        };
        match request {
            Request::Retire { .. } => guard.confirmed_answer(bounds, each).await?,
            _ => guard.answer(bounds, each).await?,
        }
        guard.settled();
        Ok(outcomes)
    }
}

#[async_trait]
impl Target for ReceiverTarget {
    async fn batch_limits(&self) -> Result<BatchLimits, TargetError> {
        Ok(BatchLimits { size: Size { bytes: u64::MAX, entries: u64::MAX }, streams: 1 })
    }

    async fn inventory(&self) -> Result<Arc<Inventory>, TargetError> {
        self.leftovers.begin();
        let conversation = self.conversation().await?;
        // In one frame, so that it takes no round trip more, and no small packet waits for the answer to another.
        let installed = if self.remote_state.may_install_beside() { digests().to_vec() } else { Vec::new() };
        let are_asked_after = !installed.is_empty();
        let request = Request::List { buckets: self.known().digests(), installed };
        let mut guard = conversation.lane(Lane::CONTROL).await;
        guard.say(&request).await?;
        let (mut listing, mut outdated) = (Listing::default(), BTreeSet::new());
        let each = |line: &str| match outdated_file(line).filter(|_| are_asked_after) {
            Some(file) => {
                outdated.insert(file);
                Ok(())
            }
            None => listing.add_line(line).map_err(|error| error.to_string()),
        };
        let differing = guard.listing(each).await?;
        guard.settled();
        drop(conversation);
        if !outdated.is_empty() {
            self.put_back(outdated).await?;
        } else if are_asked_after {
            self.remote_state.scripts_are_whole();
        }
        let taken = self.reserve.saturating_add(UnderWay::total(&self.under_way));
        let renewed = self.known().renew(&differing, listing.finish(), taken);
        renewed.map_err(|error| TargetError::Refused(error.to_string()))
    }

    async fn receive(
        &self,
        items: &[TransferItem],
        progress: &Arc<Progress>,
        told: &OutcomeSink<'_>,
    ) -> Result<(), TargetError> {
        let conversation = self.conversation().await?;
        let is_tagged = items.iter().any(|item| item.tagged.is_some());
        if !is_tagged {
            conversation.look_closer().await?;
        }
        let mut size = Size::default();
        items.iter().for_each(|item| size += item.size);
        let under_way = UnderWay::begin(&self.under_way, size);
        let reserve = self.reserve.saturating_add(under_way.before());
        let held = self.held(items);
        let codec = codec(self.remote_state.transport().is_remote(), conversation.deltas_pay());
        let times = items.iter().map(|item| (&item.package, item.time)).collect();
        let told = &|news: Vec<(PackageId, Delivery)>| {
            self.note(&times, &news);
            told(news);
        };
        let on = |lane, items: Vec<TransferItem>| {
            let (cache, leftovers) = (&self.cache, &self.leftovers);
            let replaces = items.iter().any(|item| item.rule != Rule::New);
            let owner = self.remote_state.brings_for(&self.owner, replaces);
            let transfer = LaneTransfer {
                conversation: &conversation,
                lane,
                reserve,
                codec,
                held: &held,
                cache,
                leftovers,
                owner,
            };
            async move { transfer.send(items, &self.numbers, progress, told).await }
        };
        if is_tagged {
            return on(Lane::TAGS, items.to_vec()).await;
        }
        let sending = spread(items).into_iter().zip(Lane::BULK.0..).map(|(share, lane)| on(Lane(lane), share));
        futures_util::future::join_all(sending).await.into_iter().collect()
    }

    async fn link(&self, links: &[Link]) -> Result<Vec<(PackageId, Delivery)>, TargetError> {
        let (owner, mut deliveries) = (self.remote_state.links_for(&self.owner), Vec::new());
        for links in links.chunks(AT_ONCE) {
            let request =
                Request::Link { links: links.iter().map(|link| (link.package.clone(), link.to.clone())).collect() };
            let packages = links.iter().map(|link| &link.package);
            deliveries.extend(self.outcomes(Some(&owner), &request, packages, delivery).await?);
        }
        Ok(with_silent_ones(deliveries, links.iter().map(|link| &link.package)))
    }

    async fn verify(&self, packages: &[PackageId]) -> Result<Vec<(PackageId, Verdict)>, TargetError> {
        let mut verdicts = Vec::new();
        for packages in packages.chunks(AT_ONCE) {
            let request = Request::Verify { packages: packages.to_vec() };
            verdicts.extend(self.outcomes(None, &request, packages.iter(), verdict).await?);
        }
        Ok(verdicts)
    }

    async fn retire(
        &self,
        owned: &Record,
        how: Retirement,
        packages: &[Leaving],
    ) -> Result<Vec<(PackageId, Retired)>, TargetError> {
        let (owned, mut answers) = (owned.line(), Vec::new());
        for packages in packages.chunks(AT_ONCE) {
            let request = Request::Retire { how, packages: packages.to_vec() };
            let packages = packages.iter().map(|leaving| &leaving.package);
            answers.extend(self.outcomes(Some(&owned), &request, packages, retired).await?);
        }
        Ok(answers)
    }

    async fn sweep(&self, keep: &BTreeSet<PackageId>) -> Result<(), TargetError> {
        let conversation = self.conversation().await?;
        let remains = conversation.remains();
        let kept: BTreeSet<PackageId> = remains.intersection(keep).cloned().collect();
        if kept == remains && !self.leftovers.are_in_doubt() {
            return Ok(());
        }
        tracing::debug!(of = remains.len() - kept.len(), "sweeping what interrupted tries left");
        let mut guard = conversation.lane(Lane::CONTROL).await;
        guard.say(&Request::Sweep { keep: kept.iter().cloned().collect() }).await?;
        guard.answer(Bounds::packages(0), |line| self.leftovers.take(line)).await?;
        guard.settled();
        self.leftovers.are_heard();
        conversation.set_remains(kept);
        Ok(())
    }

    fn leftovers(&self) -> Vec<Leftover> {
        self.leftovers.shown()
    }

    async fn store_list(&self, owned: &Record, list: &str, purge: Purge) -> Result<Former, TargetError> {
        let conversation = self.conversation().await?;
        let mut guard = conversation.lane(Lane::CONTROL).await;
        let digest = Sha256::digest(list).into();
        guard.say(&Request::Own { owner: &owned.line() }).await?;
        guard.say(&Request::Store { bytes: list.len() as u64, digest, purge }).await?;
        for chunk in list.as_bytes().chunks(MOST_DATA) {
            guard.say(&Request::Data(chunk)).await?;
        }
        let mut former = None;
        let each = |line: &str| match Former::read(line).filter(|_| former.is_none()) {
            Some(read) => {
                former = Some(read);
                Ok(())
            }
            None => self.leftovers.take(line),
        };
        guard.confirmed_answer(Bounds::packages(1), each).await?;
        guard.settled();
        self.leftovers.are_heard();
        former.ok_or_else(out_of_turn)
    }

    async fn claim(&self, how: Claim, record: &Record) -> Result<Title, TargetError> {
        let mut title = Title::default();
        let record = record.render();
        let request = Request::Claim { how, record: &record };
        let conversation = self.conversation().await?;
        let mut guard = conversation.lane(Lane::CONTROL).await;
        guard.say(&request).await?;
        let each = |line: &str| if title.add_line(line) { Ok(()) } else { self.leftovers.take(line) };
        guard.answer(Bounds::packages(TITLE_LINES), each).await?;
        guard.settled();
        Ok(title)
    }
}

/// How packages are packed: what costs more time here than it saves on the link is left undone.
fn codec(is_remote: bool, deltas_pay: bool) -> Codec {
    match (is_remote, deltas_pay) {
        (false, _) => Codec::Plain,
        (true, false) => Codec::Zstd,
        (true, true) => Codec::Referring,
    }
}

/// The file of ours that a line `outdated NAME` names.
fn outdated_file(line: &str) -> Option<&'static str> {
    let name = line.strip_prefix("outdated ")?;
    let mut ours = digests().iter().map(|(script, _)| *script).chain([EXECUTABLE]);
    ours.find(|file| *file == name)
}

fn refused(error: FrameError) -> TargetError {
    TargetError::Refused(format!("talking to blat-receiver failed: {error}"))
}

fn broke(why: &str) -> TargetError {
    TargetError::Link(format!("the conversation with blat-receiver broke: {why}"))
}

fn out_of_turn() -> TargetError {
    protocol_error("it gives an answer that nothing asked for")
}

fn protocol_error(why: &str) -> TargetError {
    TargetError::Refused(format!("talking to blat-receiver failed: protocol error: {why}"))
}

fn understand(body: &[u8]) -> Result<Reply<'_>, TargetError> {
    decode(body).map_err(refused)
}

/// A receiver's failure as a target's.
fn failed(class: Class, text: &str) -> TargetError {
    let text = printable(text);
    match class {
        Class::Space => TargetError::Space(text),
        Class::Busy | Class::Refused => TargetError::Refused(text),
    }
}

/// Spreads items over the lanes of a full sync: all versions of a package on one, since the later ones refer to the earlier. Packages
/// stay in the order of their first version, so what is to go first still does.
fn spread(items: &[TransferItem]) -> Vec<Vec<TransferItem>> {
    let mut places = HashMap::new();
    let mut packages: Vec<Vec<TransferItem>> = Vec::new();
    for item in items {
        let place = *places.entry(&item.package.name).or_insert(packages.len());
        match packages.get_mut(place) {
            Some(versions) => versions.push(item.clone()),
            None => packages.push(vec![item.clone()]),
        }
    }
    let cost = |items: &[TransferItem]| items.iter().map(|item| item.size.on_disk()).fold(0, u64::saturating_add);
    let mut shares: Vec<(u64, Vec<TransferItem>)> = (0..BULK_LANES).map(|_| (0, Vec::new())).collect();
    for mut versions in packages {
        versions.sort_by(|a, b| natural_order(a.package.version.as_str(), b.package.version.as_str()));
        let Some((total, share)) = shares.iter_mut().min_by_key(|(total, _)| *total) else { continue };
        *total += cost(&versions);
        share.extend(versions);
    }
    shares.into_iter().map(|(_, share)| share).filter(|share| !share.is_empty()).collect()
}
