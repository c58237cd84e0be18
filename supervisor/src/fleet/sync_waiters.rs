//! Syncs that somebody waits for: who asked, for which targets, and what was told of them last.
//!
//! Pure. An errand is over when every target has its end: the sync's, or word that the agent went away.

use std::time::Duration;

use blat_domain::package::name::TargetName;
use blat_domain::protocol::messages::{Answer, Ticket};
use blat_domain::protocol::status::{Current, LastError, Queue, State, SyncReport};

/// How often progress is told at most.
const BEAT: Duration = Duration::from_millis(200);
/// How often it is told at least, so that whoever waits knows that the master lives.
const PULSE: Duration = Duration::from_secs(10);

/// Whoever asked something over the socket, as long as its connection lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Asker(pub(crate) u64);

/// What is told of a target's progress.
pub(crate) type Progress = (State, Queue, Option<Current>);

/// One target that somebody waits for.
#[derive(Debug)]
struct SyncWaiter {
    asker: Asker,
    ticket: Ticket,
    target: TargetName,
    told: Option<(Progress, Duration)>,
}

/// Everything that is waited for: at most every target once for each of the few connections.
#[derive(Debug, Default)]
pub(crate) struct SyncWaiters {
    last_ticket: u64,
    open: Vec<SyncWaiter>,
    next_beat: Duration,
}

impl SyncWaiters {
    /// A ticket nobody else has.
    pub(crate) fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    /// `asker` waits for the sync of `target` that answers `ticket`.
    pub(crate) fn open(&mut self, asker: Asker, ticket: Ticket, target: TargetName) {
        self.open.push(SyncWaiter { asker, ticket, target, told: None });
    }

    /// Whether nothing is left that `asker` waits for.
    pub(crate) fn is_served(&self, asker: Asker) -> bool {
        self.open.iter().all(|errand| errand.asker != asker)
    }

    /// The asker went away.
    pub(crate) fn drop_asker(&mut self, asker: Asker) {
        self.open.retain(|errand| errand.asker != asker);
    }

    /// The sync of `target` that answers `tickets` ended.
    pub(crate) fn finished(
        &mut self,
        target: &TargetName,
        tickets: &[Ticket],
        report: &SyncReport,
        error: Option<&LastError>,
    ) -> Vec<(Asker, Answer)> {
        self.close(
            |errand| errand.target == *target && tickets.contains(&errand.ticket),
            Some(report.clone()),
            error.cloned(),
        )
    }

    /// The agent of `target` went away, and with it every sync it was asked for.
    pub(crate) fn lost(&mut self, target: &TargetName, error: LastError) -> Vec<(Asker, Answer)> {
        self.close(|errand| errand.target == *target, None, Some(error))
    }

    fn close(
        &mut self,
        over: impl Fn(&SyncWaiter) -> bool,
        report: Option<SyncReport>,
        error: Option<LastError>,
    ) -> Vec<(Asker, Answer)> {
        self.open
            .extract_if(.., |errand| over(errand))
            .map(|SyncWaiter { asker, target, .. }| {
                (asker, Answer::SyncFinished { target, report: report.clone(), error: error.clone() })
            })
            .collect()
    }

    /// When progress may be told again, while somebody waits for any.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        (!self.open.is_empty()).then_some(self.next_beat)
    }

    /// The progress that was not told yet, at most five times a second, and the old one now and then.
    pub(crate) fn beat(
        &mut self,
        now: Duration,
        progress: impl Fn(&TargetName) -> Option<Progress>,
    ) -> Vec<(Asker, Answer)> {
        if now < self.next_beat {
            return Vec::new();
        }
        self.next_beat = now + BEAT;
        let mut answers = Vec::new();
        for errand in &mut self.open {
            let Some(present) = progress(&errand.target) else { continue };
            if errand.told.as_ref().is_some_and(|(told, at)| *told == present && now < *at + PULSE) {
                continue;
            }
            errand.told = Some((present.clone(), now));
            let (state, queue, current) = present;
            answers.push((errand.asker, Answer::Progress { target: errand.target.clone(), state, queue, current }));
        }
        answers
    }
}
