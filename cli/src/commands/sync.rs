//! `blat sync`: asks the master for syncs, and waits for their end where that is wanted.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

use blat_config::Home;
use blat_domain::package::name::TargetName;
use blat_domain::protocol::messages::{Answer, MasterRequest};
use blat_domain::protocol::status::{LastError, SyncReport, SyncResult};
use blat_domain::util::units::{show_duration, show_size};

use crate::args::SyncArgs;
use crate::failure::{Exit, Failure, Outcome};
use crate::master::{Answers, Master, unexpected};
use crate::picture;
use crate::progress::Progress;
use crate::style::{Style, Tone};

/// Asks for the syncs.
pub(crate) fn run(home: impl FnOnce() -> Result<Home, Failure>, args: &SyncArgs) -> Outcome {
    let master = Master::required(&home()?)?;
    let (targets, wait, allow_delete) = (args.targets.clone(), args.wait, args.allow_delete);
    let mut answers = master.ask(&MasterRequest::Sync { targets, wait, allow_delete })?;
    if args.wait {
        return follow(&mut answers, &args.targets);
    }
    match answers.only()? {
        Answer::Accepted { .. } => {
            let names: Vec<&str> = args.targets.iter().map(TargetName::as_str).collect();
            let whom = if names.is_empty() { "all targets".to_owned() } else { names.join(", ") };
            writeln!(io::stdout(), "sync of {whom} asked for")?;
            Ok(Exit::DONE)
        }
        other
        @ (Answer::Status(_) | Answer::Progress { .. } | Answer::SyncFinished { .. } | Answer::Refused { .. }) => {
            Err(unexpected(&other))
        }
    }
}

/// What has become of the targets so far.
#[derive(Debug, Default)]
struct Tally {
    open: BTreeSet<TargetName>,
    ended: usize,
    failed: usize,
    /// Wanted packages that are not there although nothing failed, by target.
    held: Vec<(TargetName, u64)>,
}

/// Shows progress until the master closes the connection: by then every awaited sync has its end.
fn follow(answers: &mut Answers, targets: &[TargetName]) -> Outcome {
    let style = Style::of_stdout();
    let mut progress = Progress::new(style);
    let mut tally = Tally { open: targets.iter().cloned().collect(), ..Tally::default() };
    while let Some(answer) = answers.next()? {
        match answer {
            Answer::Progress { target, state, queue, current } => {
                progress.tell(&target, state, queue, current.as_ref());
                tally.open.insert(target);
            }
            Answer::SyncFinished { target, report, error } => {
                progress.end(&target, &end(&target, report.as_ref(), error.as_ref(), style))?;
                tally.end(&target, report.as_ref());
            }
            other @ (Answer::Status(_) | Answer::Accepted { .. } | Answer::Refused { .. }) => {
                return Err(unexpected(&other));
            }
        }
    }
    tally.judge()
}

impl Tally {
    fn end(&mut self, target: &TargetName, report: Option<&SyncReport>) {
        self.open.remove(target);
        self.ended += 1;
        match report {
            Some(report) if report.is_complete() => {}
            Some(report) if report.result == SyncResult::Ok => {
                self.held.push((target.clone(), report.held.max(report.wanted.saturating_sub(report.present))));
            }
            Some(_) | None => self.failed += 1,
        }
    }

    fn judge(&self) -> Outcome {
        if let Some(target) = self.open.first() {
            let others = match self.open.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            return Err(Failure::failed(format!("the master went away before the sync of {target}{others} ended")));
        }
        match (self.ended, self.failed) {
            (0, _) => Err(Failure::failed("there is nothing to sync").hint("each target is a file config/TARGET.conf")),
            (_, 0) => self.judge_held(),
            (1, _) => Err(Failure::failed("the sync failed")),
            (ended, failed) => Err(Failure::failed(format!("{failed} of {ended} syncs failed"))),
        }
    }

    /// The syncs did what they could; that is not all where packages are held.
    fn judge_held(&self) -> Outcome {
        let Some((first, _)) = self.held.first() else { return Ok(Exit::DONE) };
        let count = self.held.iter().map(|(_, held)| held).sum();
        let targets: Vec<&str> = self.held.iter().map(|(target, _)| target.as_str()).collect();
        let (packages, verb) = (picture::counted(count, "package"), if count == 1 { "is" } else { "are" });
        let text = format!("{packages} that {verb} wanted on {} {verb} held", targets.join(", "));
        Err(Failure::new(Exit::BUSY, text)
            .hint(format!("they go with the first sync after their reason has passed; `blat plan {first}` lists all")))
    }
}

/// `perth: ok · 512/512 · sent 3 · 12.1 MiB in 1m 3s`
fn end(target: &TargetName, report: Option<&SyncReport>, error: Option<&LastError>, style: Style) -> String {
    let result = report.map(|report| report.result);
    let is_complete = report.is_some_and(SyncReport::is_complete);
    let (word, tone) = match result {
        Some(SyncResult::Ok) if is_complete => ("ok", Tone::Good),
        Some(SyncResult::Ok) => ("incomplete", Tone::Warn),
        Some(SyncResult::Failed) => ("failed", Tone::Bad),
        None => ("not done", Tone::Bad),
    };
    let mut line = format!("{target}: {}", style.paint(tone, word));
    if let Some(report) = report {
        let took = Duration::try_from(report.finished.duration_since(report.started)).unwrap_or_default();
        let mut parts = vec![String::new(), format!("{}/{}", report.present, report.wanted)];
        parts.extend(picture::counts(report));
        parts.push(format!("{} in {}", show_size(report.bytes), show_duration(took)));
        line += &parts.join(" · ");
    }
    if let Some(error) = error {
        line += ": ";
        line += &picture::last_error(error);
    }
    let said = error.and_then(|error| error.package.as_ref());
    let held = report.map(|report| picture::held(report, target, said)).unwrap_or_default();
    held.iter().fold(line, |text, held| text + "\n    " + held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(result: SyncResult) -> SyncReport {
        SyncReport {
            finished: "2026-11-21T12:01:03Z".parse().expect("a time"),
            result,
            wanted: 512,
            present: 512,
            sent: 3,
            bytes: 12_687_770,
            ..SyncReport::begun("2026-11-21T12:00:00Z".parse().expect("a time"))
        }
    }

    #[test]
    fn an_end_is_one_line() {
        let target: TargetName = "perth".parse().expect("a name");
        let style = Style::default();
        let ok = end(&target, Some(&report(SyncResult::Ok)), None, style);
        assert_eq!(ok, "perth: ok · 512/512 · sent 3 · 12.1 MiB in 1m 3s");
        let at = "2026-11-21T12:00:00Z".parse().expect("a time");
        let error = LastError { at, package: None, text: "no agent runs\u{1b}".into(), retry_at: None };
        assert_eq!(end(&target, None, Some(&error), style), "perth: not done: no agent runs\\u{1b}");
    }

    #[test]
    fn only_ends_that_are_all_good_are_a_success() {
        let tally = |open: &[&str], ended, failed| {
            let open = open.iter().map(|name| name.parse().expect("a name")).collect();
            Tally { open, ended, failed, held: Vec::new() }.judge().map_err(|failure| failure.exit())
        };
        assert_eq!(tally(&[], 2, 0), Ok(Exit::DONE));
        assert_eq!(tally(&[], 2, 1), Err(Exit::FAILED));
        assert_eq!(tally(&[], 0, 0), Err(Exit::FAILED));
        assert_eq!(tally(&["perth"], 1, 0), Err(Exit::FAILED));
    }

    #[test]
    fn what_is_held_is_named_and_makes_it_busy_unless_something_failed() {
        let target: TargetName = "perth".parse().expect("a name");
        let mut held = SyncReport { present: 505, ..report(SyncResult::Ok) };
        for version in 1..=7 {
            held.hold(&format!("core@{version}").parse().expect("a package"), &"waits: still writable\u{1b}");
        }
        let text = end(&target, Some(&held), None, Style::default());
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("perth: incomplete · 505/512 · sent 3 · held 7 · 12.1 MiB in 1m 3s"));
        assert_eq!(lines.next(), Some("    held: core@1: waits: still writable\\u{1b}"));
        assert_eq!((lines.next_back(), lines.count()), (Some("    2 more held: blat plan perth"), 4));
        // What the error says is said once.
        let at = "2026-11-21T12:00:00Z".parse().expect("a time");
        let package = Some("core@1".parse().expect("a package"));
        let error = LastError { at, package, text: "the source has no such package".into(), retry_at: None };
        let failed = SyncReport { result: SyncResult::Failed, ..held.clone() };
        let text = end(&target, Some(&failed), Some(&error), Style::default());
        assert_eq!(text.matches("core@1:").count(), 1, "{text}");

        let tally = |reports: &[&SyncReport]| {
            let mut tally = Tally::default();
            reports.iter().for_each(|report| tally.end(&target, Some(report)));
            tally.judge().map_err(|failure| (failure.exit(), failure.to_string()))
        };
        let (exit, text) = tally(&[&held, &report(SyncResult::Ok)]).expect_err("not all is there");
        assert_eq!(exit, Exit::BUSY);
        assert!(text.starts_with("blat: 7 packages that are wanted on perth are held"), "{text}");
        assert_eq!(tally(&[&held, &failed]).map_err(|(exit, _)| exit), Err(Exit::FAILED));
        // An agent of an older build counts, but does not name.
        let silent = SyncReport { held: 0, held_packages: Vec::new(), ..held.clone() };
        assert_eq!(tally(&[&silent]).map_err(|(exit, _)| exit), Err(Exit::BUSY));
    }
}
