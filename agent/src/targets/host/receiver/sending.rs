//! Sending packages on one lane: a thread packs ahead of the link, answers are heard while it does.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use blat_domain::package::ancestry::nearest;
use blat_domain::package::name::{PackageId, PackageName, Version};
use blat_domain::policy::plan::Size;
use blat_domain::protocol::frames::{Lane, Reply, Request};
use blat_packing::cache::PackCache;
use blat_packing::delta_base::DeltaBase;
use blat_packing::frames;
use blat_packing::frames::{Attempt, Codec, FrameSink, Offer, Outlet};
use blat_packing::item::{Fingerprint, TransferItem};
use blat_packing::progress::Progress;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::conversation::{Conversation, LaneGuard, take_lines};
use super::{out_of_turn, understand};
use crate::model::error::TargetError;
use crate::model::outcome::{Delivery, OutcomeSink};
use crate::targets::host::leftovers::Leftovers;
use crate::targets::host::lines::{Awaited, delivery};
use crate::transport::bounded::Bounds;

/// Frames that may wait between the packing thread and the link.
const AHEAD: usize = 16;

/// How much a full sync's packing gives way to others on the same processor, in the system's measure.
const NICE: i32 = 10;

/// Packages for one lane.
pub(super) struct LaneTransfer<'a> {
    pub(super) conversation: &'a Conversation,
    pub(super) lane: Lane,
    /// Bytes that must stay free on the target's disk.
    pub(super) reserve: u64,
    /// How the bytes are packed.
    pub(super) codec: Codec,
    /// Versions that the target holds of these packages, with the times of their `descpkg`.
    pub(super) held: &'a HeldVersions,
    /// What was packed for other targets, and what is packed for them to find.
    pub(super) cache: &'a Arc<PackCache>,
    /// What the target cannot remove.
    pub(super) leftovers: &'a Leftovers,
    /// On whose behalf packages are brought; nobody where it is empty.
    pub(super) owner: String,
}

/// Versions that a target holds, with the times of their `descpkg`.
pub(super) type HeldVersions = BTreeMap<PackageName, BTreeMap<Version, i64>>;

impl LaneTransfer<'_> {
    /// Sends all of them and tells what became of each. After an error nothing is known of those that were not told of.
    pub(super) async fn send(
        &self,
        items: Vec<TransferItem>,
        numbers: &AtomicU32,
        progress: &Arc<Progress>,
        told: &OutcomeSink<'_>,
    ) -> Result<(), TargetError> {
        let mut guard = self.conversation.lane(self.lane).await;
        let (mut held, remains) = (self.held.clone(), self.conversation.remains());
        let prints = items.iter().filter_map(|item| Some((item.package.clone(), item.print?))).collect();
        let mut attempts: Vec<Attempt> = items
            .into_iter()
            .map(|item| {
                let delta_base = delta_base(&item, &mut held, &prints);
                let ask = remains.contains(&item.package);
                Attempt { number: numbers.fetch_add(1, Ordering::Relaxed), item, ask, delta_base }
            })
            .collect();
        let lacking = self.round(&mut guard, attempts.clone(), progress, told).await?;
        attempts.retain(|attempt| lacking.contains(&attempt.number));
        if !attempts.is_empty() {
            for attempt in &mut attempts {
                attempt.number = numbers.fetch_add(1, Ordering::Relaxed);
                attempt.delta_base = None;
            }
            let lacking = self.round(&mut guard, attempts.clone(), progress, told).await?;
            attempts.retain(|attempt| lacking.contains(&attempt.number));
            let why = || {
                Delivery::Failed(
                    "protocol error: the target asks for the package without what was not offered to it".to_owned(),
                )
            };
            told(attempts.into_iter().map(|attempt| (attempt.item.package, why())).collect());
        }
        guard.settled();
        Ok(())
    }

    /// Sends all of them once; gives the numbers of those that the receiver could not make from what it held.
    async fn round(
        &self,
        guard: &mut LaneGuard<'_>,
        attempts: Vec<Attempt>,
        progress: &Arc<Progress>,
        told: &OutcomeSink<'_>,
    ) -> Result<Vec<u32>, TargetError> {
        let mut size = Size::default();
        attempts.iter().for_each(|attempt| size += attempt.item.size);
        // Also where that is nobody: the lane still has whom it was told last.
        guard.say(&Request::Own { owner: &self.owner }).await?;
        guard.say(&Request::Begin { bytes: size.bytes, entries: size.entries, reserve: self.reserve }).await?;

        let expected = attempts.iter().map(|attempt| (attempt.number, attempt.item.package.clone())).collect();
        let (frames, mut packed) = mpsc::channel::<Vec<u8>>(AHEAD);
        // Files are asked about one batch after the other: of answers that nobody waits for, there is no second.
        let (held, answers) = std::sync::mpsc::sync_channel(1);
        let (lane, codec, cache, watched) = (self.lane, self.codec, self.cache.clone(), progress.clone());
        let in_vain = Arc::new(AtomicBool::new(false));
        let told_so = in_vain.clone();
        let packing = apart(lane, move || {
            frames::pack(attempts, codec, Outlet::new(lane, &FrameQueue(frames), &told_so), &cache, &watched, &answers)
        })?;
        let sender = guard.sender();
        // It owns the frames: when it ends early, the packing thread ends at its next frame.
        let feeding = async move {
            while let Some(frame) = packed.recv().await {
                sender.send(frame).await?;
            }
            sender.say(&Request::Publish).await
        };
        let Heard { lacking, failure } =
            until_heard(feeding, hear(guard, expected, held, (&in_vain, self.leftovers), told)).await?;
        let given_up =
            packing.await.map_err(|_| TargetError::Refused("packing failed: its thread broke down".into()))?;
        if let Some(failure) = failure {
            // It was answered to its end: others go on, and say what they failed by.
            guard.settle();
            return Err(failure);
        }
        told(given_up.into_iter().map(|(package, why)| (package, Delivery::Failed(why))).collect());
        Ok(lacking)
    }
}

/// Frames on their way from the packing thread.
struct FrameQueue(mpsc::Sender<Vec<u8>>);

impl FrameSink for FrameQueue {
    fn send(&self, frame: Vec<u8>) -> bool {
        self.0.blocking_send(frame).is_ok()
    }

    fn offer(&self, frame: Vec<u8>) -> Offer {
        match self.0.try_send(frame) {
            Ok(()) => Offer::Taken,
            Err(TrySendError::Full(_)) => Offer::Full,
            Err(TrySendError::Closed(_)) => Offer::Closed,
        }
    }

    fn has_room(&self) -> bool {
        self.0.capacity() > 0
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// The version that a item may make use of. What was sent before on this lane is held, by then.
fn delta_base(
    item: &TransferItem,
    held: &mut HeldVersions,
    prints: &HashMap<PackageId, Fingerprint>,
) -> Option<DeltaBase> {
    let PackageId { name, version } = &item.package;
    let versions = held.entry(name.clone()).or_default();
    let nearest = nearest(version, versions.keys()).and_then(|nearest| versions.get_key_value(nearest));
    let delta_base = nearest.map(|(nearest, time)| {
        let print = prints.get(&PackageId { name: name.clone(), version: nearest.clone() }).copied();
        DeltaBase::new(nearest.clone(), *time, print, &item.package, &item.archive)
    });
    versions.insert(version.clone(), item.time);
    delta_base
}

/// Runs `work` on a thread of its own. That of a full sync leaves the processor to whatever else wants it: a tag most of all.
fn apart<T: Send + 'static>(
    lane: Lane,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<oneshot::Receiver<T>, TargetError> {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name(format!("packing {}", lane.0));
    let started = thread.spawn(move || {
        if lane >= Lane::BULK {
            // Of this thread alone, which is what the system's threads are. Refused, it merely competes.
            let _ = rustix::process::setpriority_process(None, NICE);
        }
        // Nobody waits for it any more where the round has failed.
        let _ = done.send(work());
    });
    started.map_err(|error| {
        TargetError::Refused(format!("starting a thread to pack failed: {error}; end other processes"))
    })?;
    Ok(result)
}

/// What was heard, once all is fed as well. Where the hearing fails nothing more is fed: then there is nobody for it.
async fn until_heard<T>(
    feeding: impl Future<Output = Result<(), TargetError>>,
    hearing: impl Future<Output = Result<T, TargetError>>,
) -> Result<T, TargetError> {
    let (mut feeding, mut hearing) = (pin!(feeding), pin!(hearing));
    let fed = tokio::select! {
        fed = &mut feeding => fed,
        heard = &mut hearing => {
            let heard = heard?;
            return feeding.await.map(|()| heard);
        }
    };
    // What the target had said before the conversation broke is heard all the same.
    let heard = hearing.await?;
    fed.map(|()| heard)
}

/// What came back for one round.
struct Heard {
    lacking: Vec<u32>,
    failure: Option<TargetError>,
}

/// Hears what becomes of the packages, by the numbers of their attempts, until the receiver has dealt with all of them: one outcome each, and
/// nothing of others.
async fn hear(
    guard: &mut LaneGuard<'_>,
    expected: BTreeMap<u32, PackageId>,
    held: std::sync::mpsc::SyncSender<frames::PartialFiles>,
    (in_vain, leftovers): (&AtomicBool, &Leftovers),
    told: &OutcomeSink<'_>,
) -> Result<Heard, TargetError> {
    let mut heard = Heard { lacking: Vec::new(), failure: None };
    let (mut awaited, mut bounds) = (Awaited::of(expected.values()), Bounds::packages(expected.len()));
    // One for the room that is asked for, then at most one for each package.
    let mut failures = expected.len() + 2;
    let mut has_begun = false;
    loop {
        let body = guard.hear().await?;
        match understand(&body)? {
            Reply::Lines(lines) => {
                let mut news = Vec::new();
                let taken = take_lines(lines, &mut bounds, |line| {
                    news.extend(awaited.take(line, delivery, leftovers)?);
                    Ok(())
                });
                told(news);
                taken?;
            }
            Reply::Held { number, files } if expected.contains_key(&number) => {
                held.try_send(frames::PartialFiles { number, files }).map_err(|_| out_of_turn())?;
            }
            Reply::Lacks { number } if expected.get(&number).is_some_and(|package| awaited.take_package(package)) => {
                heard.lacking.push(number);
            }
            Reply::Failed { class, text } if failures > 0 => {
                failures -= 1;
                has_begun = true;
                heard.failure.get_or_insert_with(|| super::failed(class, text));
                in_vain.store(true, Ordering::Release);
            }
            Reply::Done if !has_begun => has_begun = true,
            Reply::Done => return Ok(heard),
            Reply::Welcome { .. }
            | Reply::Listed { .. }
            | Reply::Held { .. }
            | Reply::Lacks { .. }
            | Reply::Failed { .. }
            | Reply::Ready
            | Reply::Pong { .. }
            | Reply::Credit { .. } => return Err(out_of_turn()),
        }
    }
}
