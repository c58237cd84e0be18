//! Doing to extra packages what was decided: taking marks away first of all, marking and deleting last of all.

use std::collections::{BTreeMap, BTreeSet};

use blat_domain::archive::record::Record;
use blat_domain::package::name::PackageId;
use blat_domain::policy::retention::{AgingAction, AgingReason, AgingStep, Upkeep};
use blat_domain::policy::retry::Backoff;
use blat_domain::protocol::history::{HistoryEntry, Operation};
use blat_domain::util::identity::SAME;
use jiff::Timestamp;

use crate::model::error::TargetError;
use crate::model::outcome::Retired;
use crate::model::problem::Problem;
use crate::sync::context::SyncContext;
use crate::sync::recheck::Recheck;
use crate::sync::{Prepared, SyncOutcome, not_owned, problem, unreached};
use crate::targets::{Leaving, Retirement};

/// Packages in one run of the target: it keeps the archive locked for others meanwhile.
const AT_ONCE: usize = 200;

impl SyncContext {
    /// Takes marks away. That is right whatever becomes of the sync, and what is wanted must not stay marked while it runs.
    pub(crate) async fn unmark(&self, prepared: &Prepared) -> Option<Problem> {
        let steps: Vec<&AgingStep> =
            prepared.plan.upkeep.steps.iter().filter(|step| step.action == AgingAction::Unmark).collect();
        let mut problem = None;
        for steps in steps.chunks(AT_ONCE) {
            match self.retire(prepared.owned.as_ref(), Retirement::Unmark, steps.to_vec()).await {
                Ok(done) => problem = problem.or(done.problem),
                Err(stopped) => return Some(stopped),
            }
        }
        if let (None, Some(clock)) = (&problem, prepared.inventory.clock) {
            // Not before: a clock that was doubted is doubted until no mark is left that it made.
            self.memory.note_clock(clock);
        }
        problem
    }

    /// Marks and deletes, after a sync in which everything else succeeded. What a tag brought since Release Manager was asked stays, and an
    /// answer that is too old by now is asked for again.
    pub(crate) async fn age(
        &self,
        prepared: &Prepared,
        mut recheck: Recheck,
        outcome: &mut SyncOutcome,
    ) -> Option<Problem> {
        let (upkeep, known_up_to) = (&prepared.plan.upkeep, &prepared.facts.known_up_to);
        self.say_why_nothing_goes(upkeep);
        let mut first_problem = None;
        for (how, steps) in groups(&upkeep.steps) {
            for steps in steps.chunks(AT_ONCE) {
                if let Err(problem) = recheck.renew(self, prepared, outcome).await {
                    return first_problem.or(Some(problem));
                }
                // First of all: a tag that comes later waits, and what one has brought by now shows below.
                let leaving = self.lasting.crossing.leave(steps.iter().map(|step| step.package.clone()));
                let spared = self.lasting.tagged_after(known_up_to);
                let goes = |step: &&AgingStep| {
                    recheck.lets_go(step) && leaving.has(&step.package) && !spared.contains(&step.package)
                };
                let steps = steps.iter().copied().filter(goes).collect();
                let done = match self.retire(prepared.owned.as_ref(), how, steps).await {
                    Ok(done) => done,
                    Err(problem) => return Some(problem),
                };
                first_problem = first_problem.or(done.problem);
                match how {
                    Retirement::Mark(_) => outcome.report.marked += done.packages.len() as u64,
                    Retirement::Delete | Retirement::DeleteDue => outcome.report.deleted += done.packages.len() as u64,
                    Retirement::Unmark => {}
                }
            }
        }
        first_problem.or(upkeep.alarm().map(|why| problem(None, why, Backoff::NEXT_SYNC)))
    }

    fn say_why_nothing_goes(&self, upkeep: &Upkeep) {
        let target = &self.settings.name;
        if let Some(distrust) = &upkeep.distrust {
            let told = upkeep.held_back().unwrap_or_else(|| format!("nothing is marked or deleted: {distrust}"));
            tracing::warn!(target_name = %target, "{told}");
        }
        if let Some(doubt) = &upkeep.clock_doubt {
            tracing::warn!(target_name = %target, "nothing ages: {doubt}");
        }
        for package in &upkeep.spared {
            tracing::debug!(%package, "spared: {}", AgingReason::Tagged);
        }
    }

    /// One run of the target, and a line in the log for each package.
    async fn retire(&self, owned: Option<&Record>, how: Retirement, steps: Vec<&AgingStep>) -> Result<Done, Problem> {
        let mut done = Done::default();
        if steps.is_empty() {
            return Ok(done);
        }
        let owned = owned.ok_or_else(|| not_owned(order(how)))?;
        let mut packages: Vec<Leaving> =
            steps.iter().map(|step| Leaving::new(step.package.clone(), listed_time(step))).collect();
        let in_force = self.permit().await?;
        if how != Retirement::Unmark {
            packages = self.compared(how, packages, &mut done).await?;
        }
        let goes = packages.iter().filter(|_| deed(how) == Operation::Deleted).map(|leaving| &leaving.package);
        let _asking = self.unanswered.ask(Operation::Deleted, goes);
        let answers =
            if packages.is_empty() { Ok(Vec::new()) } else { self.target.retire(owned, how, &packages).await };
        drop(in_force);
        let answers = answers.map_err(|error| self.not_retired(how, error))?;
        let whys: BTreeMap<&PackageId, AgingReason> = steps.iter().map(|step| (&step.package, step.why)).collect();
        let heard: Vec<PackageId> = answers.iter().map(|(package, _)| package.clone()).collect();
        let mut told = Vec::new();
        for (package, retired) in answers {
            let Some(why) = whys.get(&package) else { continue };
            match retired {
                Retired::Done => {
                    tracing::info!(%package, "{}: {why}", word(how));
                    told.push(entry(deed(how), &package, why));
                    done.packages.insert(package);
                }
                Retired::Absent => tracing::debug!(%package, "it was gone already"),
                Retired::Kept(why) => tracing::info!(%package, "not {}: {why}", word(how)),
                Retired::Failed(why) => {
                    tracing::warn!(target_name = %self.settings.name, %package, "not {}: {why}", word(how));
                    let text = format!("cannot {}: {why}", order(how));
                    done.problem.get_or_insert(problem(Some(package), text, Backoff::PACKAGE));
                }
            }
        }
        self.history.add(&told);
        self.unanswered.answered(heard.iter());
        Ok(done)
    }

    /// The target's error as a problem. Where it found the source's own files only a person can do something.
    fn not_retired(&self, how: Retirement, error: TargetError) -> Problem {
        let what = format!("cannot {}", order(how));
        match error {
            TargetError::Refused(why) if why.contains(SAME) => {
                let text = format!(
                    "{what}: {why}; correct archive, host or source in config/{}.conf, or the mounts between them; where the archive is a copy of the \
                     source's disk, or is hard-linked to the source, replace the descpkg of each of its packages by a copy of itself (cp -p, mv, and after all of them chmod u+r)",
                    self.settings.name
                );
                problem(None, text, Backoff::NEXT_SYNC)
            }
            error => unreached(&what, error),
        }
    }

    /// The same packages, each with what the source has of it: the target takes nothing away that is the source's own. One of which nobody can say
    /// what the source has stays.
    async fn compared(
        &self,
        how: Retirement,
        packages: Vec<Leaving>,
        done: &mut Done,
    ) -> Result<Vec<Leaving>, Problem> {
        let source = self.source.clone();
        let looking =
            tokio::task::spawn_blocking(move || source.compare_with(packages).map_err(|error| error.to_string()));
        let looked = looking.await.unwrap_or_else(|error| Err(format!("looking at the source failed: {error}")));
        let order = order(how);
        let looked =
            looked.map_err(|why| problem(None, format!("cannot {order}: {why}; is it mounted?"), Backoff::PACKAGE))?;
        let mut compared = Vec::with_capacity(looked.len());
        for looked in looked {
            match looked {
                Ok(leaving) => compared.push(leaving),
                Err((package, why)) => {
                    let text =
                        format!("cannot {order}, for it may be the source's own: {why}; check owners and modes there");
                    tracing::warn!(target_name = %self.settings.name, %package, "{text}");
                    done.problem.get_or_insert(problem(Some(package), text, Backoff::PACKAGE));
                }
            }
        }
        Ok(compared)
    }
}

/// What one run did.
#[derive(Debug, Default)]
struct Done {
    packages: BTreeSet<PackageId>,
    problem: Option<Problem>,
}

/// Steps that the target can do in one run, marks first.
fn groups(steps: &[AgingStep]) -> Vec<(Retirement, Vec<&AgingStep>)> {
    let mut groups: Vec<(Retirement, Vec<&AgingStep>)> = Vec::new();
    for step in steps {
        let how = match (step.action, step.why) {
            (AgingAction::Unmark, _) => continue,
            (AgingAction::Mark { wait }, _) => Retirement::Mark(wait),
            (AgingAction::Delete { .. }, AgingReason::Waited { .. }) => Retirement::DeleteDue,
            (AgingAction::Delete { .. }, _) => Retirement::Delete,
        };
        match groups.last_mut() {
            Some((last, group)) if *last == how => group.push(step),
            Some(_) | None => groups.push((how, vec![step])),
        }
    }
    groups
}

fn listed_time(step: &AgingStep) -> Option<i64> {
    match step.action {
        AgingAction::Delete { time } => time,
        AgingAction::Mark { .. } | AgingAction::Unmark => None,
    }
}

fn order(how: Retirement) -> &'static str {
    match how {
        Retirement::Unmark => "take marks away on the target",
        Retirement::Mark(_) => "mark packages on the target",
        Retirement::DeleteDue | Retirement::Delete => "delete packages on the target",
    }
}

fn entry(deed: Operation, package: &PackageId, why: &AgingReason) -> HistoryEntry {
    let (at, package, detail) = (Timestamp::now(), Some(package.clone()), Some(why.to_string()));
    HistoryEntry { at, deed, package, bytes: 0, after_tag_ms: None, detail }
}

fn deed(how: Retirement) -> Operation {
    match how {
        Retirement::Unmark => Operation::Unmarked,
        Retirement::Mark(_) => Operation::Marked,
        Retirement::DeleteDue | Retirement::Delete => Operation::Deleted,
    }
}

fn word(how: Retirement) -> &'static str {
    match how {
        Retirement::Unmark => "unmarked",
        Retirement::Mark(_) => "marked for deletion",
        Retirement::DeleteDue | Retirement::Delete => "deleted",
    }
}

#[cfg(test)]
mod tests;
