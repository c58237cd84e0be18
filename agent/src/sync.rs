//! Doing what was planned: the only place that writes through a target.
//!
//! A full sync and a tag are the same path: look, decide, deliver. Nothing here decides what should be done.

use std::collections::{BTreeMap, BTreeSet};

use blat_domain::name::PackageId;
use blat_domain::package_list;
use blat_domain::plan::{Hold, Plan, Size, plan};
use blat_domain::release::{Reason, WantedSet};
use blat_domain::retention::{Circumstances, Distrust, decide};
use blat_domain::retry::Backoff;
use blat_domain::status::{SyncReport, SyncResult};
use futures_util::StreamExt;
use jiff::Timestamp;

use crate::release;
use crate::session::{Problem, Sent};
use crate::target::{Delivery, Parcel, TargetError};
use crate::workplace::Workplace;

/// Streams under way at once: while one is verified and made durable on the target, the next is already on the link.
const STREAMS: usize = 2;
/// A stream is closed at this many bytes, so that what it brought becomes visible and a cut link costs little.
const STREAM_BYTES: u64 = 64 << 20;
/// And at this many files, directories and links.
const STREAM_ENTRIES: u64 = 8_000;

/// A plan, and the wanted set it was made from.
pub(crate) struct Prepared {
    pub(crate) plan: Plan,
    wanted: WantedSet,
    /// The target's clock while it was listed, in epoch seconds.
    clock: Option<i64>,
    /// Up to which epoch second Release Manager knows all.
    known_up_to: i64,
}

impl Workplace {
    /// Compares what is wanted with what is there. Changes nothing. `is_confirmed`: whether more may go than `max_delete`.
    pub(crate) async fn prepare(&self, is_confirmed: bool) -> Result<Prepared, Problem> {
        let settings = &self.settings;
        let known_up_to = release::known_up_to(settings.release_manager.as_ref(), Timestamp::now().as_second());
        let (resolution, inventory) = tokio::join!(
            release::wanted(settings.release_manager.as_ref(), &settings.selection),
            self.target.inventory()
        );
        let resolution = resolution.map_err(|error| problem(None, error.to_string(), Backoff::PACKAGE))?;
        let inventory = inventory.map_err(|error| unreached("cannot list the target's packages", error))?;
        if inventory.foreign.count > 0 {
            let examples = inventory.foreign.examples.join(", ");
            tracing::debug!(
                count = inventory.foreign.count,
                examples,
                "the target holds entries that are not packages"
            );
        }
        let (source, clock_doubt, tagged) =
            (self.source.clone(), self.memory.doubt(inventory.clock), self.memory.tagged());
        let (aging, max_delete) = (settings.aging, settings.max_delete);
        let surveying = tokio::task::spawn_blocking(move || {
            source.check(!resolution.wanted.is_empty()).map_err(|error| error.to_string())?;
            let survey = source.survey(resolution.wanted.keys(), &inventory);
            let mut plan = plan(&resolution.wanted, &inventory, &survey, resolution.unknown);
            plan.upkeep = decide(&Circumstances {
                aging,
                max_delete,
                is_confirmed,
                wanted: &resolution.wanted,
                inventory: &inventory,
                clock_doubt,
                distrust: (!plan.is_complete()).then_some(Distrust::Incomplete),
                tagged: &tagged,
                known_up_to,
            });
            Ok(Prepared { plan, wanted: resolution.wanted, clock: inventory.clock, known_up_to })
        });
        let surveyed = surveying.await.unwrap_or_else(|error| Err(format!("looking at the source failed: {error}")));
        surveyed.map_err(|why: String| problem(None, why, Backoff::PACKAGE))
    }

    /// One full sync, from the look to the last deletion. `allow_delete` confirms what the guard would refuse.
    pub(crate) async fn sync(&self, allow_delete: bool) -> (SyncReport, Option<Problem>) {
        let mut report = SyncReport {
            started: Timestamp::now(),
            finished: Timestamp::now(),
            result: SyncResult::Failed,
            wanted: 0,
            present: 0,
            sent: 0,
            failed: 0,
            marked: 0,
            deleted: 0,
            bytes: 0,
        };
        let problem = match self.prepare(allow_delete).await {
            Ok(prepared) => self.execute(&prepared, &mut report).await,
            Err(problem) => Some(problem),
        };
        report.finished = Timestamp::now();
        report.result = if problem.is_some() { SyncResult::Failed } else { SyncResult::Ok };
        (report, problem)
    }

    async fn execute(&self, prepared: &Prepared, report: &mut SyncReport) -> Option<Problem> {
        let Prepared { plan, wanted, clock, known_up_to } = prepared;
        (report.wanted, report.present) = (plan.wanted, plan.present);
        let size = plan.size();
        tracing::debug!(
            wanted = plan.wanted,
            present = plan.present,
            to_send = plan.steps.len(),
            bytes = size.bytes,
            held = plan.held.len(),
            excess = plan.excess.len(),
            "planned"
        );
        let mut first_problem = self.say_what_is_missing(plan, report);
        let marked_still = self.unmark(&plan.upkeep, *clock).await;
        first_problem = first_problem.or(marked_still);
        let parcels: Vec<Parcel> = plan
            .steps
            .iter()
            .map(|step| Parcel {
                package: step.package.clone(),
                path: self.source.path(&step.package),
                time: step.time,
                size: step.size,
                replace: step.action == blat_domain::plan::Action::Replace,
            })
            .collect();
        for (parcel, sent) in self.deliver(parcels).await {
            match sent {
                Sent::Done => {
                    (report.sent, report.present) = (report.sent + 1, report.present + 1);
                    report.bytes += parcel.size.bytes;
                }
                Sent::Waiting(text) | Sent::Hopeless(text) => {
                    report.failed += 1;
                    first_problem.get_or_insert(problem(Some(parcel.package), text, Backoff::PACKAGE));
                }
                Sent::Failed(failed) => {
                    report.failed += 1;
                    first_problem.get_or_insert(Problem { package: failed.package.or(Some(parcel.package)), ..failed });
                }
            }
        }
        if first_problem.is_none() && plan.is_complete() {
            let list = package_list::render(wanted.keys());
            let stored = self.target.store_list(&list).await;
            first_problem = match stored {
                Ok(()) => {
                    self.forget_tags(wanted, *known_up_to);
                    self.age(&plan.upkeep, *known_up_to, report).await
                }
                Err(error) => Some(unreached("cannot store the PackageList", error)),
            };
        }
        first_problem
    }

    /// What releases list by now, no tag has to vouch for any more.
    fn forget_tags(&self, wanted: &WantedSet, known_up_to: i64) {
        let by_release = |reason: &Reason| matches!(reason, Reason::Release { .. });
        let is_known = |package: &PackageId| wanted.get(package).is_some_and(|reasons| reasons.iter().any(by_release));
        self.memory.forget_tags(known_up_to, is_known);
    }

    /// What is wanted and cannot be sent is logged one by one; the first that will not pass by itself is the sync's problem.
    fn say_what_is_missing(&self, plan: &Plan, report: &mut SyncReport) -> Option<Problem> {
        let mut first = None;
        for unknown in &plan.unknown {
            tracing::warn!(target_name = %self.settings.name, "{unknown}; correct releases and projects in the config");
            first.get_or_insert(problem(None, unknown.clone(), Backoff::PACKAGE));
        }
        for held in &plan.held {
            if held.hold.is_waiting() {
                tracing::debug!(package = %held.package, "{}", held.hold);
                continue;
            }
            tracing::warn!(target_name = %self.settings.name, package = %held.package, "{}", held.hold);
            report.failed += 1;
            first.get_or_insert(problem(Some(held.package.clone()), held.hold.to_string(), Backoff::PACKAGE));
        }
        first
    }

    /// Sends packages because tags ask for them.
    pub(crate) async fn send_tagged(&self, packages: BTreeSet<PackageId>) -> Vec<(PackageId, Sent)> {
        // Before anything is sent: from then on it must not be taken for extra.
        self.memory.note_tags(&packages);
        let source = self.source.clone();
        let looking = tokio::task::spawn_blocking(move || {
            packages.into_iter().map(|package| (source.parcel(&package, true), package)).collect::<Vec<_>>()
        });
        let looked = match looking.await {
            Ok(looked) => looked,
            Err(error) => {
                // A panic while looking: the tags stay and are tried again, the log says what to report.
                tracing::error!(%error, "looking at the source failed");
                return Vec::new();
            }
        };
        let mut results = Vec::new();
        let mut parcels = Vec::new();
        for (parcel, package) in looked {
            match parcel {
                Ok(parcel) => parcels.push(parcel),
                Err(hold) => results.push((package, held(&hold))),
            }
        }
        results.extend(self.deliver(parcels).await.into_iter().map(|(parcel, sent)| (parcel.package, sent)));
        results
    }

    /// Delivers parcels in streams of bounded size, a few at once, and says what became of each.
    async fn deliver(&self, parcels: Vec<Parcel>) -> Vec<(Parcel, Sent)> {
        let mut size = Size::default();
        parcels.iter().for_each(|parcel| size += parcel.size);
        self.progress.expect(parcels.len() as u64, size);
        let streams = futures_util::stream::iter(streams(parcels)).map(|stream| self.deliver_stream(stream));
        streams.buffer_unordered(STREAMS).concat().await
    }

    /// One stream. When it fails as a whole for a reason that one package may have, its halves are tried, down to single packages.
    async fn deliver_stream(&self, parcels: Vec<Parcel>) -> Vec<(Parcel, Sent)> {
        let mut waiting = vec![parcels];
        let mut done = Vec::new();
        while let Some(mut parcels) = waiting.pop() {
            match self.target.receive(&parcels, &self.progress).await {
                Ok(deliveries) => {
                    self.progress.finish(parcels.len() as u64);
                    done.extend(self.settle(parcels, deliveries));
                }
                Err(error) if parcels.len() > 1 && error.may_concern_one_package() => {
                    tracing::debug!(packages = parcels.len(), %error, "a stream failed; trying its halves");
                    waiting.push(parcels.split_off(parcels.len() / 2));
                    waiting.push(parcels);
                }
                Err(error) => {
                    self.progress.finish(parcels.len() as u64);
                    let failed = Sent::Failed(unreached("cannot send", error));
                    done.extend(parcels.into_iter().map(|parcel| (parcel, failed.clone())));
                }
            }
        }
        done
    }

    fn settle(&self, parcels: Vec<Parcel>, deliveries: Vec<(PackageId, Delivery)>) -> Vec<(Parcel, Sent)> {
        let mut deliveries: BTreeMap<PackageId, Delivery> = deliveries.into_iter().collect();
        let mut settled = Vec::with_capacity(parcels.len());
        for parcel in parcels {
            let Some(delivery) = deliveries.remove(&parcel.package) else { continue };
            let (package, bytes) = (&parcel.package, parcel.size.bytes);
            let sent = match delivery {
                Delivery::Published => {
                    tracing::info!(%package, bytes, "published");
                    Sent::Done
                }
                Delivery::Replaced => {
                    tracing::info!(%package, bytes, "replaced: its descpkg time differed");
                    Sent::Done
                }
                Delivery::Already => {
                    tracing::debug!(%package, "already there");
                    Sent::Done
                }
                Delivery::Failed(why) => {
                    tracing::warn!(target_name = %self.settings.name, %package, "not sent: {why}");
                    Sent::Failed(problem(Some(package.clone()), why, Backoff::PACKAGE))
                }
            };
            settled.push((parcel, sent));
        }
        settled
    }
}

/// What a hold means for a tag.
fn held(hold: &Hold) -> Sent {
    match hold {
        Hold::Missing | Hold::Incomplete | Hold::Writable { .. } => Sent::Waiting(hold.to_string()),
        Hold::Linked { .. } => Sent::Hopeless(hold.to_string()),
        Hold::Unusable { why } => Sent::Failed(problem(None, why.clone(), Backoff::PACKAGE)),
    }
}

pub(crate) fn problem(package: Option<PackageId>, text: String, retry: Backoff) -> Problem {
    Problem { package, text, retry }
}

/// A target's error as a problem: the way there and its space are tried again sooner than what it refused.
pub(crate) fn unreached(what: &str, error: TargetError) -> Problem {
    let retry = match error {
        TargetError::Link(_) | TargetError::Space(_) | TargetError::Operator(_) => Backoff::LINK,
        TargetError::Refused(_) => Backoff::PACKAGE,
    };
    problem(None, format!("{what}: {error}"), retry)
}

/// Cuts parcels into streams of bounded size, in their order.
fn streams(parcels: Vec<Parcel>) -> Vec<Vec<Parcel>> {
    let mut streams: Vec<Vec<Parcel>> = Vec::new();
    let mut size = Size::default();
    for parcel in parcels {
        let more = parcel.size;
        let fits = size.bytes + more.bytes <= STREAM_BYTES && size.entries + more.entries <= STREAM_ENTRIES;
        match streams.last_mut() {
            Some(stream) if fits => stream.push(parcel),
            Some(_) | None => {
                size = Size::default();
                streams.push(vec![parcel]);
            }
        }
        size += more;
    }
    streams
}
