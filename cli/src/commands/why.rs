//! `blat why`: why a package is or is not on a target: in the agent's own words what wants it and what a sync would do, then what was done.

use std::io::{self, Write};
use std::process::Stdio;
use std::time::Duration;

use blat_config::Home;
use blat_domain::package::name::{PackageId, TargetName};
use blat_domain::policy::release::Reasons;
use blat_domain::policy::retention;
use blat_domain::policy::why::{Next, There, Why};
use blat_domain::protocol::history::HistoryEntry;
use blat_domain::util::text::printable;
use blat_domain::util::units::{show_duration, show_size};

use crate::args::WhyArgs;
use crate::commands::{history, targets};
use crate::failure::{Exit, Failure, Outcome};
use crate::past;
use crate::sibling;

/// The most deeds of the past that are shown for one target.
const MOST_DEEDS: usize = 5;

/// Explains one package, target after target. A target that cannot be asked does not keep the others from answering.
pub(crate) fn run(home: &Home, args: &WhyArgs) -> Outcome {
    let package = args.package.package()?;
    let names = match &args.target {
        Some(target) => {
            targets::known(home, target)?;
            vec![target.clone()]
        }
        None => targets::all(home)?,
    };
    let mut exit = Exit::DONE;
    for target in &names {
        let past = past::of(home, target)?;
        let deeds: Vec<&HistoryEntry> = past.iter().filter(|entry| entry.package.as_ref() == Some(&package)).collect();
        let text = match ask(home, target, &package)? {
            Ok(why) => answer(target, &why),
            Err(status) => {
                exit = status;
                format!("{package} on {target}: its agent could not tell\n")
            }
        };
        write!(io::stdout().lock(), "{text}{}", told(&deeds))?;
    }
    Ok(exit)
}

/// The agent's answer, or the exit code it ended with; its complaint goes where ours go.
fn ask(home: &Home, target: &TargetName, package: &PackageId) -> Result<Result<Why, Exit>, Failure> {
    let mut command = sibling::agent(home, target)?;
    command.arg("--why").arg(package.to_string());
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::failed(format!("cannot run blat-agent to ask why: {error}")))?;
    if !output.status.success() {
        return Ok(Err(Exit::of(output.status)));
    }
    serde_json::from_slice(&output.stdout)
        .map(Ok)
        .map_err(|error| Failure::failed(format!("cannot understand the answer of blat-agent: {error}")))
}

fn answer(target: &TargetName, why: &Why) -> String {
    let there = match &why.there {
        There::Nothing => "it is not there".to_owned(),
        There::Package => "it is there".to_owned(),
        There::Link(to) => format!("it is there, a link to {}", printable(to)),
    };
    let mut text = format!("{} on {target}: {there}\n", why.package);
    if why.reasons.is_empty() {
        text += "  nothing wants it: no selected release lists it, and pkg in its config does not name it\n";
    } else {
        text += &format!("  wanted by {}\n", joined(&why.reasons));
    }
    if !why.kept_out.is_empty() {
        text += &format!("  kept out by include or exclude, though listed by {}\n", joined(&why.kept_out));
    }
    for unknown in &why.unknown {
        text += &format!("  {}, which might bring it\n", printable(unknown));
    }
    match next(&why.next) {
        Some(next) => text + &format!("  the next sync {next}\n"),
        None => text,
    }
}

fn joined(reasons: &Reasons) -> String {
    reasons.iter().map(|reason| printable(&reason.to_string())).collect::<Vec<_>>().join(", ")
}

fn next(next: &Next) -> Option<String> {
    match next {
        Next::Nothing => None,
        Next::Send(size) => Some(format!("sends it, {}", show_size(size.bytes))),
        Next::Replace(size) => {
            Some(format!("replaces it, {}: the source's descpkg has another time", show_size(size.bytes)))
        }
        Next::Link(to) => Some(format!("makes it a link to {to}")),
        Next::Hold(hold) => Some(format!("does not send it: {}", printable(&hold.to_string()))),
        Next::Age { action, why } => Some(match action {
            retention::AgingAction::Unmark => format!("takes its mark away: {why}"),
            retention::AgingAction::Mark { wait } => format!("marks it, to be deleted in {}: {why}", duration(*wait)),
            retention::AgingAction::Delete { .. } => format!("deletes it: {why}"),
        }),
        Next::Spare => Some(format!("leaves it there: {}", retention::AgingReason::Tagged)),
        Next::Wait(mark) => {
            Some(format!("leaves it there: it is marked, to be deleted {} after that", duration(mark.wait)))
        }
        Next::Stay => Some("leaves it there".to_owned()),
    }
}

fn duration(seconds: u64) -> String {
    show_duration(Duration::from_secs(seconds))
}

/// What was done to the package, the oldest first.
fn told(deeds: &[&HistoryEntry]) -> String {
    let kept = deeds.iter().skip(deeds.len().saturating_sub(MOST_DEEDS));
    kept.map(|entry| format!("  {:.0}  {}{}\n", entry.at, entry.deed, history::rest(entry))).collect()
}

#[cfg(test)]
mod tests {
    use blat_domain::policy::plan::Blocker;
    use blat_domain::policy::release::Reason;

    use super::*;

    #[test]
    fn the_answer_says_what_is_there_what_wants_it_and_what_comes_next() {
        let release = Reason::Release { id: 7, name: "Perth 7.1".into() };
        let why = Why {
            package: "core@1".parse().expect("a package"),
            there: There::Nothing,
            reasons: [release.clone()].into(),
            kept_out: Reasons::default(),
            next: Next::Hold(Blocker::Incomplete),
            unknown: vec![],
        };
        let target = "perth".parse().expect("a name");
        let expected = "\
core@1 on perth: it is not there
  wanted by release Perth 7.1 (7)
  the next sync does not send it: waits: the source has no descpkg for it yet
";
        assert_eq!(answer(&target, &why), expected);
        let unwanted = Why { reasons: Reasons::default(), kept_out: [release].into(), next: Next::Stay, ..why };
        let text = answer(&target, &unwanted);
        assert!(text.contains("nothing wants it") && text.contains("kept out by include or exclude"), "{text}");
        assert!(text.ends_with("the next sync leaves it there\n"), "{text}");
    }
}
