//! What decides about extra packages, and asking Release Manager again where its answer is too old for that.
//!
//! A sync may take days. What became wanted meanwhile must not go: before a batch is marked or deleted by an answer that is older than five
//! minutes, the releases are asked for again, and only what goes by both answers goes. Where that fails, nothing more goes. The same where the
//! answer came from a file that changed within two seconds after it was read: it may have been half-written then. And the same where nothing was
//! read for the answer, since the file looks as it did before, or where it came from a SQLite database: only what something goes by is looked over for
//! damage, since that may take long. And the same where it came from a server or a command: a transaction that waited for somebody's lock sees what
//! was there before that, and misses what the other one put in place of it, with no error. So a second one begins two seconds after the first one
//! ended, or somewhat later, and where one of its queries took long, it may have waited too: more follow, until one was prompt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use blat_domain::archive::inventory::Inventory;
use blat_domain::package::name::PackageId;
use blat_domain::policy::clock::Doubt;
use blat_domain::policy::confirmation::HeldBack;
use blat_domain::policy::follow::Followed;
use blat_domain::policy::guard::{ANSWER_HOLDS, MaxDelete};
use blat_domain::policy::release::{Resolution, WantedSet};
use blat_domain::policy::retention::{Aging, AgingAction, AgingStep, Circumstances, Distrust, Upkeep, decide};
use blat_domain::policy::retry::Backoff;
use jiff::Timestamp;

use crate::model::problem::Problem;
use crate::releases::{CatalogAnswer, FileReading, Purpose, ServedReading, is_prompt};
use crate::state::lasting::Noted;
use crate::sync::context::SyncContext;
use crate::sync::{Prepared, SyncOutcome, problem};

/// How often a file that is being written is read again before the sync gives up on it. Each time takes two seconds.
const READINGS: u32 = 15;
/// After so many readings of a SQLite database that changes each time, its writers are kept waiting: no database is too busy for deletions.
const PATIENT: u32 = 3;
/// So often a server is read again until a reading was prompt.
const MOST_SERVED: usize = 6;

/// Why nothing goes where none was.
const WAITED: &str = "the database takes much longer for a query at one time than at another, so that what it answers may have waited for somebody's lock: \
                      nothing is marked or deleted; look for what locks its tables or slows it down";

/// What decides about extra packages, beside what is wanted and what is there.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) aging: Aging,
    pub(crate) max_delete: MaxDelete,
    /// What was held back when an operator confirmed this sync's deletions; none where nobody did.
    pub(crate) confirmed: Option<HeldBack>,
    pub(crate) clock_doubt: Option<Doubt>,
    /// Packages that tags brought, with the epoch second, by the clock of `known_up_to`.
    pub(crate) tagged: BTreeMap<PackageId, i64>,
    /// Up to which moment Release Manager knows all.
    pub(crate) known_up_to: Noted,
    /// Why nobody knows which releases brought packages before.
    pub(crate) forgotten: Option<String>,
    /// The epoch second since when it is known what tags bring, where Release Manager may not know yet what they brought before.
    pub(crate) began: Option<i64>,
}

impl Facts {
    /// What becomes of extra packages. What an operator confirmed goes, unless more is held back by now than he had seen.
    pub(crate) fn upkeep(
        &self,
        wanted: &WantedSet,
        inventory: &Inventory,
        resolution: &Resolution,
        is_complete: bool,
    ) -> Upkeep {
        let decided = |is_confirmed| self.decided(wanted, inventory, resolution, is_complete, is_confirmed);
        let mut upkeep = decided(false);
        upkeep.confirmable = upkeep.held(resolution, self.began.is_some());
        let (Some(confirmed), Some(held_back)) = (&self.confirmed, &upkeep.confirmable) else { return upkeep };
        if held_back.is_empty() {
            return upkeep;
        }
        match confirmed.lacks(held_back) {
            None => Upkeep { is_confirmed: true, ..decided(true) },
            unconfirmed => Upkeep { unconfirmed, ..upkeep },
        }
    }

    fn decided(
        &self,
        wanted: &WantedSet,
        inventory: &Inventory,
        resolution: &Resolution,
        is_complete: bool,
        is_confirmed: bool,
    ) -> Upkeep {
        let distrust = match &self.forgotten {
            Some(_) => Some(Distrust::Forgotten),
            None => Distrust::of(resolution, is_complete, is_confirmed)
                .or(self.began.filter(|_| !is_confirmed).map(|_| Distrust::NewMemory)),
        };
        let mut upkeep = decide(&Circumstances {
            aging: self.aging,
            max_delete: self.max_delete,
            is_confirmed,
            wanted,
            inventory,
            clock_doubt: self.clock_doubt.clone(),
            distrust,
            tagged: &self.tagged,
            known_up_to: self.known_up_to.at,
        });
        upkeep.because = match (&self.forgotten, &upkeep.distrust) {
            (Some(why), _) => vec![why.clone()],
            (None, Some(distrust)) => {
                // It is confirmed together with releases that are missing or empty, so that it is shown together with them.
                let began = self.began.filter(|_| distrust.is_confirmable());
                began.map(since).into_iter().chain(resolution.because(distrust)).collect()
            }
            (None, None) => Vec::new(),
        };
        upkeep
    }
}

/// Since when it is known what tags bring, and what to do about the time before.
fn since(began: i64) -> String {
    let at = Timestamp::from_second(began).unwrap_or_default();
    format!(
        "the agent's memory begins at {at}, and a tag may have brought before what no release lists yet; this ends when the releases are known to be \
         newer than that, after a day at the latest; to delete at once, look at blat plan and confirm once with blat sync --allow-delete"
    )
}

/// Which of the planned steps still hold.
pub(crate) struct Recheck {
    /// When Release Manager was asked last; none where it was not asked for this sync.
    asked: Option<Duration>,
    /// The file that gave the last answer, until it has stayed the same for long enough.
    unsettled: Option<FileReading>,
    /// When the last answer ended, where it came from a server or a command.
    served: Option<ServedReading>,
    /// What goes by the later answers too; none before there was one.
    goes: Option<BTreeSet<PackageId>>,
    /// What the PackageList would not name any more by the first answer.
    left_out: Arc<BTreeSet<PackageId>>,
    /// Those of them that a later answer wants.
    stays: BTreeSet<PackageId>,
}

/// What would become of extra packages by a later answer.
struct Later {
    upkeep: Upkeep,
    resolution: Resolution,
    reading: Option<FileReading>,
    served: Option<ServedReading>,
    /// What it wants of what the PackageList would not name any more.
    wanted: BTreeSet<PackageId>,
}

impl Recheck {
    /// As it was planned; the PackageList would not name what is `left_out` any more.
    pub(crate) fn of(prepared: &Prepared, left_out: BTreeSet<PackageId>) -> Self {
        let CatalogAnswer { is_for_looking, reading, served, .. } = &prepared.answer;
        let asked = (!is_for_looking).then_some(prepared.asked);
        let (unsettled, served) = (reading.clone(), served.clone());
        Self { asked, unsettled, served, goes: None, left_out: left_out.into(), stays: BTreeSet::new() }
    }

    /// What the PackageList goes on naming, since a later answer wants it.
    pub(crate) fn stays(&self) -> &BTreeSet<PackageId> {
        &self.stays
    }

    /// Whether this step holds by all answers.
    pub(crate) fn lets_go(&self, step: &AgingStep) -> bool {
        self.goes.as_ref().is_none_or(|goes| goes.contains(&step.package))
    }

    /// Asks again where the last answer is too old, or its file changed soon after it was read.
    ///
    /// # Errors
    /// Why nothing more may go.
    pub(crate) async fn renew(
        &mut self,
        context: &SyncContext,
        prepared: &Prepared,
        outcome: &mut SyncOutcome,
    ) -> Result<(), Problem> {
        let is_settled = match &self.unsettled {
            None => true,
            // It is asked for anew anyway.
            Some(_) if self.asked.is_none() => false,
            Some(reading) => context.has_stayed(reading).await,
        };
        let now = (context.uptime)();
        if is_settled && self.asked.is_some_and(|asked| now.saturating_sub(asked) <= ANSWER_HOLDS) {
            self.unsettled = None;
            return Ok(());
        }
        for later in context.decide_when_settled(prepared, &mut self.served, &self.left_out).await? {
            self.follow(later, prepared, outcome)?;
        }
        (self.asked, self.unsettled) = (Some(now), None);
        Ok(())
    }

    /// Lets only that go which goes by this answer as well.
    fn follow(&mut self, later: Later, prepared: &Prepared, outcome: &mut SyncOutcome) -> Result<(), Problem> {
        let Later { upkeep, resolution, wanted, .. } = later;
        if upkeep.keeps_listed() {
            let report = &mut outcome.report;
            report.snapshot = report.snapshot.or(resolution.snapshot);
            report.held_back = upkeep.held_back();
            outcome.held_back.clone_from(&upkeep.confirmable);
            let retry = if upkeep.doubt.is_some() { Backoff::PACKAGE } else { Backoff::NEXT_SYNC };
            let doubt = upkeep.doubt.as_ref().map(ToString::to_string).unwrap_or_default();
            let why = upkeep.held_back().unwrap_or_else(|| format!("nothing more is marked or deleted: {doubt}"));
            return Err(problem(None, why, retry));
        }
        let goes: BTreeSet<PackageId> = upkeep.steps.into_iter().filter(is_taking).map(|step| step.package).collect();
        let taken = prepared.plan.upkeep.steps.iter().filter(|step| is_taking(step)).map(|step| &step.package);
        let spared = taken
            .filter(|package| self.goes.as_ref().is_none_or(|goes| goes.contains(package)))
            .filter(|package| !goes.contains(package));
        for package in spared {
            tracing::info!(%package, "stays: it became wanted while the sync ran");
        }
        self.goes = Some(match self.goes.take() {
            Some(before) => &before & &goes,
            None => goes,
        });
        self.stays.extend(wanted);
        Ok(())
    }
}

fn is_taking(step: &AgingStep) -> bool {
    match step.action {
        AgingAction::Unmark => false,
        AgingAction::Mark { .. } | AgingAction::Delete { .. } => true,
    }
}

impl SyncContext {
    /// As [`Self::decide_again`], by an answer that nobody was writing meanwhile; by more where one of a server may have waited.
    async fn decide_when_settled(
        &self,
        prepared: &Prepared,
        served: &mut Option<ServedReading>,
        left_out: &Arc<BTreeSet<PackageId>>,
    ) -> Result<Vec<Later>, Problem> {
        let mut answers = Vec::new();
        let mut slowest: Vec<Duration> = served.iter().map(ServedReading::slowest).collect();
        for reading in 0..READINGS {
            let purpose = if reading < PATIENT { Purpose::Taking } else { Purpose::TakingHeld };
            if let Some(served) = &served {
                served.wait().await;
            }
            let later = self.decide_again(prepared, purpose, left_out).await?;
            let is_settled = match &later.reading {
                None => true,
                Some(reading) => self.has_stayed(reading).await,
            };
            if is_settled {
                served.clone_from(&later.served);
                slowest.extend(later.served.as_ref().map(ServedReading::slowest));
                answers.push(later);
                if is_prompt(&slowest) {
                    return Ok(answers);
                }
                if answers.len() == MOST_SERVED {
                    return Err(problem(None, WAITED.to_owned(), Backoff::PACKAGE));
                }
            }
        }
        let text = "the file of releases is being written all the time, so nothing is marked or deleted; write it aside and rename it";
        Err(problem(None, text.to_owned(), Backoff::PACKAGE))
    }

    /// Whether this file is still as it was when it was read, long enough after that.
    async fn has_stayed(&self, reading: &FileReading) -> bool {
        let manager = self.settings.release_manager.as_ref();
        reading.has_stayed(manager.map_or(Duration::ZERO, |manager| manager.timeout)).await
    }

    /// What would become of extra packages by what Release Manager says now.
    async fn decide_again(
        &self,
        prepared: &Prepared,
        purpose: Purpose,
        left_out: &Arc<BTreeSet<PackageId>>,
    ) -> Result<Later, Problem> {
        self.catalog.forget();
        let (mut answer, quick_scan) = self.ask(purpose).await?;
        let (source, inventory, facts) = (self.source.clone(), prepared.inventory.clone(), prepared.facts.clone());
        let left_out = left_out.clone();
        let deciding = tokio::task::spawn_blocking(move || {
            let resolution = &mut answer.resolution;
            let wanted = std::mem::take(&mut resolution.wanted);
            let Followed { wanted, .. } = source.survey(wanted, &quick_scan, &inventory);
            let inventory: &Arc<Inventory> = &inventory;
            let is_complete = resolution.unknown.is_empty();
            let upkeep = facts.upkeep(&wanted, inventory, resolution, is_complete);
            let wanted = left_out.iter().filter(|package| wanted.contains_key(package)).cloned().collect();
            let CatalogAnswer { resolution, reading, served, .. } = answer;
            Later { upkeep, resolution, reading, served, wanted }
        });
        deciding
            .await
            .map_err(|error| problem(None, format!("looking at the source failed: {error}"), Backoff::PACKAGE))
    }
}

#[cfg(test)]
mod tests;
