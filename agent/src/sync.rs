//! Doing what was planned: the only place that writes through a target.
//!
//! A full sync and a tag are the same path: look, decide, deliver. Nothing here decides what should be done.

use std::collections::{BTreeMap, BTreeSet};

use blat_domain::inventory::Inventory;
use blat_domain::name::PackageId;
use blat_domain::package_list;
use blat_domain::plan::{Hold, Plan, Size, plan};
use blat_domain::retry::Backoff;
use blat_domain::room::Room;
use blat_domain::status::{SyncReport, SyncResult};
use futures_util::StreamExt;
use jiff::Timestamp;

use crate::release::Answer;
use crate::session::{Problem, Sent};
use crate::target::{Delivery, Parcel, TargetError};
use crate::workplace::Workplace;

/// Streams under way at once: while one is verified and made durable on the target, the next is already on the link.
const STREAMS: usize = 2;
/// A stream is closed at this many bytes, so that what it brought becomes visible and a cut link costs little.
const STREAM_BYTES: u64 = 64 << 20;
/// And at this many files, directories and links.
const STREAM_ENTRIES: u64 = 8_000;

/// A plan, and the answer of Release Manager that it was made from.
pub(crate) struct Prepared {
    pub(crate) plan: Plan,
    answer: Answer,
}

impl Workplace {
    /// Compares what is wanted with what is there. Changes nothing.
    pub(crate) async fn prepare(&self) -> Result<Prepared, Problem> {
        let settings = &self.settings;
        let (answer, inventory) = tokio::join!(
            self.desk.ask(settings.release_manager.as_ref(), &settings.selection),
            self.target.inventory()
        );
        let answer = answer.map_err(|error| problem(None, error.to_string(), Backoff::PACKAGE))?;
        let inventory = inventory.map_err(|error| unreached("cannot list the target's packages", error))?;
        if inventory.foreign.count > 0 {
            let examples = inventory.foreign.examples.join(", ");
            tracing::debug!(
                count = inventory.foreign.count,
                examples,
                "the target holds entries that are not packages"
            );
        }
        let (source, max_size) = (self.source.clone(), settings.max_size);
        let surveying = tokio::task::spawn_blocking(move || {
            let resolution = &answer.resolution;
            source.check(!resolution.wanted.is_empty()).map_err(|error| error.to_string())?;
            let survey = source.survey(resolution.wanted.keys(), &inventory);
            let mut plan = plan(&resolution.wanted, &inventory, &survey, resolution.unknown.clone());
            plan.snapshot = resolution.snapshot;
            plan.fit(Room { disk: inventory.free, archive: source.left_below(max_size, &inventory) });
            Ok(Prepared { plan, answer })
        });
        let surveyed = surveying.await.unwrap_or_else(|error| Err(format!("looking at the source failed: {error}")));
        surveyed.map_err(|why: String| problem(None, why, Backoff::PACKAGE))
    }

    /// One full sync, from the look to the PackageList.
    pub(crate) async fn sync(&self) -> (SyncReport, Option<Problem>) {
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
        let problem = match self.prepare().await {
            Ok(mut prepared) => {
                self.desk.keep(&mut prepared.answer).await;
                self.execute(&prepared, &mut report).await
            }
            Err(problem) => Some(problem),
        };
        report.finished = Timestamp::now();
        report.result = if problem.is_some() { SyncResult::Failed } else { SyncResult::Ok };
        (report, problem)
    }

    async fn execute(&self, prepared: &Prepared, report: &mut SyncReport) -> Option<Problem> {
        let Prepared { plan, answer } = prepared;
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
            let list = package_list::render(answer.resolution.wanted.keys());
            let stored = self.target.store_list(&list).await;
            first_problem = stored.err().map(|error| unreached("cannot store the PackageList", error));
        }
        first_problem
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
            first.get_or_insert(problem(Some(held.package.clone()), held.hold.to_string(), patience(&held.hold)));
        }
        first
    }

    /// Sends packages because tags ask for them.
    pub(crate) async fn send_tagged(&self, packages: BTreeSet<PackageId>) -> Vec<(PackageId, Sent)> {
        let (source, max_size) = (self.source.clone(), self.settings.max_size);
        // Only a limit makes it necessary to know what is there; the disk's space is asked for with every stream.
        let inventory = if max_size == 0 { Ok(Inventory::default()) } else { self.target.inventory().await };
        let inventory = match inventory {
            Ok(inventory) => inventory,
            Err(error) => {
                let failed = Sent::Failed(unreached("cannot list the target's packages", error));
                return packages.into_iter().map(|package| (package, failed.clone())).collect();
            }
        };
        let looking = tokio::task::spawn_blocking(move || {
            let mut room = Room { disk: None, archive: source.left_below(max_size, &inventory) };
            let fits = |parcel: Parcel, room: &mut Room| match inventory.packages.get(&parcel.package) {
                Some(time) if *time == parcel.time => Ok(parcel),
                Some(_) | None => room.take(parcel.size).map(|()| parcel),
            };
            let looked = packages
                .into_iter()
                .map(|package| (source.parcel(&package, true).and_then(|parcel| fits(parcel, &mut room)), package));
            looked.collect::<Vec<_>>()
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

/// How soon it makes sense to look again whether a package can be sent: space may appear at any time.
fn patience(hold: &Hold) -> Backoff {
    match hold {
        Hold::NoRoom { .. } => Backoff::LINK,
        Hold::Missing | Hold::Incomplete | Hold::Writable { .. } | Hold::Linked { .. } | Hold::Unusable { .. } => {
            Backoff::PACKAGE
        }
    }
}

/// What a hold means for a tag.
fn held(hold: &Hold) -> Sent {
    match hold {
        Hold::Missing | Hold::Incomplete | Hold::Writable { .. } => Sent::Waiting(hold.to_string()),
        Hold::Linked { .. } => Sent::Hopeless(hold.to_string()),
        Hold::NoRoom { .. } | Hold::Unusable { .. } => Sent::Failed(problem(None, hold.to_string(), patience(hold))),
    }
}

fn problem(package: Option<PackageId>, text: String, retry: Backoff) -> Problem {
    Problem { package, text, retry }
}

/// A target's error as a problem: the way there and its space are tried again sooner than what it refused.
fn unreached(what: &str, error: TargetError) -> Problem {
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
