//! Doing what was planned: the only place that writes through a target.
//!
//! A full sync and a tag are the same path: look, decide, deliver. Nothing here decides what should be done.

pub(crate) mod context;
mod deliver;
mod list;
pub(crate) mod outcome;
pub(crate) mod ownership;
pub(crate) mod peers;
pub(crate) mod recheck;
pub(crate) mod retire;
pub(crate) mod rival;
mod tagged;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use blat_config::ReleaseSource;
use blat_domain::archive::inventory::Inventory;
use blat_domain::archive::record::Record;
use blat_domain::package::name::PackageId;
use blat_domain::policy::capacity::Capacity;
use blat_domain::policy::confirmation::HeldBack;
use blat_domain::policy::follow::Followed;
use blat_domain::policy::plan::{Action, Blocker, Held, Plan, Step, plan};
use blat_domain::policy::release::{Reason, WantedSet};
use blat_domain::policy::retention::is_newer;
use blat_domain::policy::retry::Backoff;
use blat_domain::policy::why::{Why, why};
use blat_domain::protocol::status::{SyncReport, SyncResult};
use jiff::Timestamp;

use context::SyncContext;
use outcome::Dropped;
use recheck::Facts;

use self::ownership::Sight;
use crate::model::error::TargetError;
use crate::model::orders::Orders;
use crate::model::problem::Problem;
use crate::releases::{CatalogAnswer, MOST_LOGGED, Purpose, origin, trailing, written_at};
use crate::session::Sent;
use crate::state::lasting::TagNotes;
use crate::targets::Rule;

/// How a full sync ended.
pub(crate) enum Synced {
    /// It went its whole way, or failed.
    Ended(Box<SyncReport>, Option<Problem>),
    /// Other settings came into force meanwhile, and a sync by those has to follow.
    Superseded,
}

/// The result of a sync up to now.
pub(crate) struct SyncOutcome {
    /// As status shows it.
    pub(crate) report: SyncReport,
    /// What it held back and an operator may confirm; none while it has not come to decide about that.
    pub(crate) held_back: Option<HeldBack>,
}

/// A plan, and what it was made from.
pub(crate) struct Prepared {
    pub(crate) plan: Plan,
    /// Without what it wants, which is below.
    pub(crate) answer: CatalogAnswer,
    /// What the answer wants, with all that its links address.
    wanted: WantedSet,
    pub(crate) inventory: Arc<Inventory>,
    /// By which record the archive is ours; none before that was looked at, or where it is not.
    pub(crate) owned: Option<Record>,
    /// Whether the memory was new to the archive as it was listed.
    pub(crate) begins: bool,
    /// What else decides about extra packages.
    pub(crate) facts: Facts,
    /// When Release Manager was asked, by [`SyncContext::uptime`].
    pub(crate) asked: Duration,
}

impl SyncContext {
    /// Compares what is wanted with what is there. Changes nothing. `confirmed`: what was held back when an operator confirmed that it
    /// goes.
    pub(crate) async fn prepare(&self, confirmed: Option<HeldBack>) -> Result<Prepared, Problem> {
        let settings = &self.settings;
        let written = written_at(self.source_of_releases()).await;
        // Not before: a file that is written in between does not lie ahead.
        let now = Timestamp::now().as_second();
        let written = self.lasting.believed(written, now);
        // Before the releases are judged by it: a memory that can be used again by now was of no use until now.
        let forgotten = self.lasting.trouble();
        let asked = (self.uptime)();
        // The source is looked at while the target lists.
        let (inventory, answered) = tokio::join!(self.target.inventory(), self.ask(Purpose::Looking));
        let (mut answer, quick_scan) = answered?;
        let inventory = inventory.map_err(|error| unreached("cannot list the target's packages", error))?;
        let unsure = self.keep_off_the_source(&inventory.title).await?;
        if inventory.foreign.count > 0 {
            let examples = inventory.foreign.examples.join(", ");
            tracing::debug!(
                count = inventory.foreign.count,
                examples,
                "the target holds entries that are not packages"
            );
        }
        // A clock that was set ahead makes no tag a day old.
        let trailing = self.lasting.noted(trailing(self.memory.earliest(inventory.clock)));
        // Before the notes are read: whoever makes the memory begin anew meanwhile leaves it in them.
        let begins = self.is_new_to_memory(&inventory.title);
        // To list may take long, and the clock may have been set meanwhile.
        let now = Timestamp::now().as_second();
        let TagNotes { tagged, began, clock } = self.lasting.notes(now);
        let began = if begins { Some(now) } else { began };
        let known_up_to = written.as_ref().unwrap_or(&trailing).beside(&clock);
        let known_for_sure = known_up_to.at.max(trailing.beside(&clock).at);
        let (source, max_size, package) = (self.source.clone(), settings.max_size, self.most_of_a_package());
        let facts = Facts {
            aging: settings.aging,
            max_delete: settings.max_delete,
            // What somebody has seen before the memory began says nothing of what is there since.
            confirmed: confirmed.filter(|_| !begins),
            clock_doubt: self.memory.doubt(inventory.clock),
            tagged,
            known_up_to,
            began: began.filter(|began| is_newer(*began, known_for_sure)),
            forgotten,
        };
        let sight = Sight::of(&inventory, &answer.resolution.wanted, &quick_scan);
        let bar = self.foreseen_bar(&inventory.title, sight, unsure);
        let surveying = tokio::task::spawn_blocking(move || {
            let resolution = &mut answer.resolution;
            source.check(!resolution.wanted.is_empty()).map_err(|error| error.to_string())?;
            let Followed { wanted, survey } =
                source.survey(std::mem::take(&mut resolution.wanted), &quick_scan, &inventory);
            let mut plan = plan(&wanted, &inventory, &survey, resolution.unknown.clone());
            plan.snapshot = resolution.snapshot;
            // What is not replaced takes no room.
            bar.iter().for_each(|bar| plan.leave_to_owner(bar));
            plan.fit(Capacity { disk: inventory.free, archive: source.left_below(max_size, &inventory), package });
            plan.upkeep = facts.upkeep(&wanted, &inventory, resolution, plan.is_complete());
            bar.into_iter().for_each(|bar| plan.bar(bar));
            Ok(Prepared { plan, answer, wanted, inventory, owned: None, begins, facts, asked })
        });
        let surveyed = surveying.await.unwrap_or_else(|error| Err(format!("looking at the source failed: {error}")));
        surveyed.map_err(|why: String| problem(None, why, Backoff::PACKAGE))
    }

    /// Where Release Manager's word comes from.
    fn source_of_releases(&self) -> Option<&ReleaseSource> {
        self.settings.release_manager.as_ref().map(|manager| &manager.source)
    }

    /// What the releases want, and a quick scan of what the source has of it.
    pub(crate) async fn ask(&self, purpose: Purpose) -> Result<(CatalogAnswer, Vec<Option<i64>>), Problem> {
        let manager = self.settings.release_manager.as_ref();
        let known = self.lasting.releases(&origin(manager));
        let answer = self.catalog.ask(manager, &self.settings.selection, &known, purpose).await;
        let answer = answer.map_err(|error| problem(None, error.to_string(), Backoff::PACKAGE))?;
        let source = self.source.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let quick_scan = source.quick_scan(&answer.resolution.wanted);
            (answer, quick_scan)
        });
        looking.await.map_err(|error| problem(None, format!("looking at the source failed: {error}"), Backoff::PACKAGE))
    }

    /// All that may be sent at present: what is wanted with all that its links address, and what tags brought. Changes nothing.
    pub(crate) async fn sendable(&self) -> Result<BTreeSet<PackageId>, Problem> {
        let wanted = self.prepare(None).await?.wanted;
        Ok(wanted.into_keys().chain(self.lasting.tagged().into_keys()).collect())
    }

    /// Why a package is, or is not, on the target. Changes nothing.
    pub(crate) async fn why(&self, package: &PackageId) -> Result<Why, Problem> {
        let Prepared { plan, answer, wanted, inventory, .. } = self.prepare(None).await?;
        Ok(why(package, &plan, &wanted, &answer.resolution.kept_out, &inventory))
    }

    /// One full sync, from the look to the last deletion. `confirmed`: what was held back when an operator confirmed that it goes. It ends early
    /// where other settings come into force.
    pub(crate) async fn sync(&self, confirmed: Option<HeldBack>) -> Synced {
        let one = self.afresh();
        let (SyncOutcome { report, held_back }, problem) = one.whole_sync(confirmed).await;
        if problem.is_some() && one.orders.are_superseded() {
            return Synced::Superseded;
        }
        // Status shows it from now on, and so it is what the next confirmation is about.
        held_back.iter().for_each(|held_back| self.lasting.note_held_back(held_back));
        Synced::Ended(Box::new(report), problem)
    }

    async fn whole_sync(&self, confirmed: Option<HeldBack>) -> (SyncOutcome, Option<Problem>) {
        let mut outcome = SyncOutcome { report: SyncReport::begun(Timestamp::now()), held_back: None };
        self.look_for_peers().await;
        let problem = match self.prepare(confirmed).await {
            Ok(mut prepared) => match self.make_contact(&mut prepared).await {
                Ok(()) => {
                    self.catalog.keep(&mut prepared.answer).await;
                    self.execute(&prepared, &mut outcome).await
                }
                Err(problem) => Some(problem),
            },
            Err(problem) => Some(problem),
        };
        outcome.report.finished = Timestamp::now();
        outcome.report.result = if problem.is_some() { SyncResult::Failed } else { SyncResult::Ok };
        (outcome, problem)
    }

    async fn execute(&self, prepared: &Prepared, outcome: &mut SyncOutcome) -> Option<Problem> {
        let Prepared { plan, inventory, .. } = prepared;
        let report = &mut outcome.report;
        (report.wanted, report.present, report.snapshot) = (plan.wanted, plan.present, plan.snapshot);
        report.held_back = plan.upkeep.held_back();
        outcome.held_back.clone_from(&plan.upkeep.confirmable);
        let size = plan.size();
        tracing::debug!(
            wanted = plan.wanted,
            present = plan.present,
            to_send = plan.steps.len(),
            to_link = plan.links.len(),
            bytes = size.bytes,
            held = plan.held.len(),
            excess = plan.excess.len(),
            "planned"
        );
        if self.orders.are_superseded() {
            return Some(Orders::problem());
        }
        self.say_what_is_found(plan, inventory);
        let mut first_problem = self.say_what_is_missing(plan, report);
        let marked_still = self.unmark(prepared).await;
        first_problem = first_problem.or(marked_still);
        self.sweep(plan, inventory).await;
        let rule = |step: &Step| match step.action {
            Action::Send => Rule::New,
            Action::Replace => Rule::Replace,
        };
        let mut items = self.items(&plan.steps, rule);
        items.iter_mut().for_each(|item| item.orders = Some(Arc::new(self.orders.clone())));
        let sent = self.deliver(items).await;
        let sent = sent.into_iter().map(|(item, sent)| (item.package, item.size.bytes, sent));
        if self.orders.are_superseded() {
            return Some(Orders::problem());
        }
        let linked = self.put_links(&plan.links, &Dropped::new()).await;
        let linked = linked.into_iter().map(|(package, sent)| (package, 0, sent));
        let failed = count(sent.chain(linked), report);
        match (first_problem.or(failed), &plan.upkeep.bar) {
            (None, None) if plan.is_complete() => self.list_and_age(prepared, outcome).await,
            (first_problem, None) => first_problem,
            (None, Some(bar)) => Some(problem(None, bar.to_string(), Backoff::NEXT_SYNC)),
            (Some(first), Some(bar)) => Some(Problem { text: format!("{}; moreover, {bar}", first.text), ..first }),
        }
    }

    /// Notes down which releases brought packages, which tags count no more, and what an operator has confirmed, and gives what is wrong with that.
    fn recollect(&self, prepared: &Prepared, is_confirmed: bool) -> Option<Problem> {
        let Prepared { wanted, facts, answer, .. } = prepared;
        // What releases list by now, no tag has to vouch for any more.
        let by_release = |reason: &Reason| matches!(reason, Reason::Release { .. });
        let is_known = |package: &PackageId| wanted.get(package).is_some_and(|reasons| reasons.iter().any(by_release));
        let forgotten = self.lasting.forget_tags(&facts.known_up_to, is_known);
        let confirmed = if is_confirmed { self.lasting.confirm() } else { Ok(()) };
        let noted = answer.known.as_ref().map_or(Ok(()), |known| {
            let releases = if is_confirmed { &known.once_confirmed } else { &known.as_it_is };
            self.lasting.note_releases(&known.origin, releases)
        });
        forgotten.and(confirmed).and(noted).err().map(|why| problem(None, why, Backoff::PACKAGE))
    }

    /// Drops what interrupted tries left of packages that are not sent now, nor by a tag. They may take the very space that a held one lacks.
    async fn sweep(&self, plan: &Plan, inventory: &Inventory) {
        let tagged = self.lasting.tagged().into_keys().filter(|package| !inventory.packages.contains_key(package));
        let keep = plan.steps.iter().map(|step| step.package.clone()).chain(tagged).collect();
        if let Err(error) = self.target.sweep(&keep).await {
            tracing::warn!(target_name = %self.settings.name, %error, "cannot sweep what interrupted tries left");
        }
    }

    /// The first of what is wanted and cannot be sent is logged one by one; the first that will not pass by itself is the sync's problem.
    fn say_what_is_missing(&self, plan: &Plan, report: &mut SyncReport) -> Option<Problem> {
        let mut first = None;
        for unknown in &plan.unknown {
            tracing::warn!(target_name = %self.settings.name, "{unknown}; correct releases and projects in the config");
            first.get_or_insert(problem(None, unknown.clone(), Backoff::PACKAGE));
        }
        // Those that somebody should see go first in the report, which names few.
        let (passing, lasting): (Vec<&Held>, Vec<&Held>) = plan.held.iter().partition(|held| held.hold.is_waiting());
        for held in lasting.iter().chain(&passing) {
            report.hold(&held.package, &held.hold);
        }
        for held in passing.iter().take(MOST_LOGGED) {
            tracing::debug!(package = %held.package, "{}", held.hold);
        }
        for held in lasting.iter().take(MOST_LOGGED) {
            tracing::warn!(target_name = %self.settings.name, package = %held.package, "{}", held.hold);
        }
        if let Some(more @ 1..) = lasting.len().checked_sub(MOST_LOGGED) {
            tracing::warn!(target_name = %self.settings.name, more, "more wanted packages cannot be sent; blat plan lists them");
        }
        report.failed += lasting.len() as u64;
        if let Some(held) = lasting.first() {
            first.get_or_insert(problem(Some(held.package.clone()), held.hold.to_string(), patience(&held.hold)));
        }
        first
    }
}

/// How soon it makes sense to look again whether a package can be sent: space may appear at any time.
fn patience(hold: &Blocker) -> Backoff {
    match hold {
        Blocker::NoRoom { .. } => Backoff::LINK,
        Blocker::Missing
        | Blocker::Incomplete
        | Blocker::Writable { .. }
        | Blocker::BadLink { .. }
        | Blocker::Unaddressed { .. }
        | Blocker::Unusable { .. } => Backoff::PACKAGE,
        Blocker::Conflict { .. } => Backoff::PERSON,
    }
}

/// What a hold means for a tag.
fn sent_of(hold: &Blocker) -> Sent {
    match hold {
        Blocker::Missing | Blocker::Incomplete | Blocker::Writable { .. } | Blocker::Unaddressed { .. } => {
            Sent::Waiting(hold.to_string())
        }
        Blocker::BadLink { .. } => Sent::Hopeless(hold.to_string()),
        Blocker::NoRoom { .. } | Blocker::Conflict { .. } | Blocker::Unusable { .. } => {
            Sent::Failed(problem(None, hold.to_string(), patience(hold)))
        }
    }
}

pub(crate) fn problem(package: Option<PackageId>, text: String, retry: Backoff) -> Problem {
    Problem { package, text, retry }
}

/// Nothing but sending is done without the record by which the archive is ours.
pub(crate) fn not_owned(what: &str) -> Problem {
    problem(
        None,
        format!("cannot {what}: nobody has looked whose the archive is; it is looked at again"),
        Backoff::LINK,
    )
}

/// A target's error as a problem: the way there and its space are tried again sooner than what it refused.
pub(crate) fn unreached(what: &str, error: TargetError) -> Problem {
    let retry = match error {
        TargetError::Link(_) | TargetError::Space(_) | TargetError::Operator(_) => Backoff::LINK,
        TargetError::Refused(_) => Backoff::PACKAGE,
    };
    problem(None, format!("{what}: {error}"), retry)
}

/// Counts what was sent, and gives the first problem among it.
fn count(sent: impl Iterator<Item = (PackageId, u64, Sent)>, report: &mut SyncReport) -> Option<Problem> {
    let mut first_problem = None;
    for (package, bytes, sent) in sent {
        match sent {
            Sent::Done => {
                (report.sent, report.present) = (report.sent + 1, report.present + 1);
                report.bytes += bytes;
            }
            Sent::Waiting(text) | Sent::Hopeless(text) => {
                report.failed += 1;
                first_problem.get_or_insert(problem(Some(package), text, Backoff::PACKAGE));
            }
            Sent::Failed(failed) => {
                report.failed += 1;
                first_problem.get_or_insert(Problem { package: failed.package.or(Some(package)), ..failed });
            }
        }
    }
    first_problem
}
