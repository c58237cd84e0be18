//! `blat plan`: what a sync would do, in the agent's own words. The agent computes it; nothing is changed.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::Stdio;

use blat_config::Home;
use blat_domain::policy::plan::{Action, Link, Plan, Step};
use blat_domain::policy::retention::{self, Upkeep};
use blat_domain::util::text::{escaped, printable};
use blat_domain::util::units::show_size;

use crate::args::PlanArgs;
use crate::commands::targets;
use crate::failure::{Exit, Failure, Outcome};
use crate::picture::counted;
use crate::sibling;
use crate::style::{Style, Tone};

/// The most packages in one group that are listed one by one, of those that need no step.
const MOST_LISTED: usize = 20;

/// Asks the agent's executable for its plan, and shows it.
pub(crate) fn run(home: &Home, args: &PlanArgs) -> Outcome {
    targets::known(home, &args.target)?;
    let mut command = sibling::agent(home, &args.target)?;
    command.arg("--plan").stdin(Stdio::null());
    let cannot = |error: io::Error| Failure::failed(format!("cannot run blat-agent for the plan: {error}"));
    if args.json {
        return Ok(Exit::of(command.status().map_err(cannot)?));
    }
    // Its complaints go where ours go, at once.
    let output = command.stderr(Stdio::inherit()).output().map_err(cannot)?;
    if !output.status.success() {
        return Ok(Exit::of(output.status));
    }
    let plan: Plan = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::failed(format!("cannot understand the plan of blat-agent: {error}")))?;
    write!(io::stdout().lock(), "{}", picture(&plan, Style::of_stdout()))?;
    Ok(Exit::DONE)
}

/// A plan as people read it: the counts, then a line for each step, then what is left alone and why.
fn picture(plan: &Plan, style: Style) -> String {
    let mut text = format!(
        "{} wanted, {} present, {} to send ({}), {}{} held, {} extra\n",
        plan.wanted,
        plan.present,
        plan.steps.len(),
        show_size(plan.size().bytes),
        if plan.links.is_empty() { String::new() } else { format!("{} to link, ", plan.links.len()) },
        plan.held.len(),
        plan.excess.len()
    );
    if let Some(taken) = plan.snapshot {
        let note = format!("Release Manager cannot be asked; this goes by its answer of {taken:.0}");
        text += &format!("{}  {note}\n", style.paint(Tone::Warn, "snapshot"));
    }
    text += &steps(&plan.steps, style);
    text += &links(&plan.links, style);
    let width = plan.held.iter().map(|held| held.package.to_string().len()).max().unwrap_or(0);
    for held in &plan.held {
        let tone = if held.hold.is_waiting() { Tone::Warn } else { Tone::Bad };
        let package = held.package.to_string();
        text += &format!("{}  {package:<width$}  {}\n", style.paint(tone, "hold"), printable(&held.hold.to_string()));
    }
    for unknown in &plan.unknown {
        text += &format!("{}  {}\n", style.paint(Tone::Bad, "unknown"), printable(unknown));
    }
    text += &upkeep(&plan.upkeep, style);
    let going = plan.upkeep.steps.iter().filter(|step| is_taking(step)).map(|step| &step.package);
    let told: BTreeSet<_> = going.chain(&plan.upkeep.spared).collect();
    let staying: Vec<_> = plan.excess.iter().filter(|package| !told.contains(package)).collect();
    for package in staying.iter().take(MOST_LISTED) {
        text += &format!("{}  {package}  nothing wants it; it stays\n", style.paint(Tone::Faint, "extra"));
    }
    if staying.len() > MOST_LISTED {
        let more = counted((staying.len() - MOST_LISTED) as u64, "more extra package");
        text += &format!("… and {more}; --json lists all\n");
    }
    if plan.foreign.count > 0 {
        let examples = printable(&plan.foreign.examples.join(", "));
        let count = plan.foreign.count;
        text +=
            &format!("{}  {count} entries that are not ours stay: {examples}\n", style.paint(Tone::Faint, "foreign"));
    }
    text
}

fn steps(steps: &[Step], style: Style) -> String {
    let packages: Vec<String> = steps.iter().map(|step| step.package.to_string()).collect();
    let sizes: Vec<String> = steps.iter().map(|step| show_size(step.size.bytes)).collect();
    let words: Vec<&str> = steps.iter().map(|step| word(step.action)).collect();
    let widest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
    let (word_width, package_width, size_width) = (
        widest(&mut words.iter().map(|word| word.len())),
        widest(&mut packages.iter().map(String::len)),
        widest(&mut sizes.iter().map(String::len)),
    );
    let mut text = String::new();
    for (((step, package), size), word) in steps.iter().zip(&packages).zip(&sizes).zip(&words) {
        let reasons: Vec<String> = step.reasons.iter().map(|reason| printable(&reason.to_string())).collect();
        let word = style.paint(Tone::Good, &format!("{word:<word_width$}"));
        text += &format!("{word}  {package:<package_width$}  {size:>size_width$}  {}\n", reasons.join(", "));
    }
    text
}

fn links(links: &[Link], style: Style) -> String {
    let line = |link: &Link| {
        let reasons: Vec<String> = link.reasons.iter().map(|reason| printable(&reason.to_string())).collect();
        let instead = link.instead_of.as_ref().map(|to| format!(", instead of {}", printable(to)));
        let (word, instead) = (style.paint(Tone::Good, "link"), instead.unwrap_or_default());
        format!("{word}  {} -> {}{instead}  {}\n", link.package, link.to, reasons.join(", "))
    };
    links.iter().map(line).collect()
}

/// What becomes of extra packages, and why more does not.
fn upkeep(upkeep: &Upkeep, style: Style) -> String {
    let mut text = String::new();
    for step in &upkeep.steps {
        let (word, tone) = match step.action {
            retention::AgingAction::Unmark => ("unmark", Tone::Good),
            retention::AgingAction::Mark { .. } => ("mark", Tone::Warn),
            retention::AgingAction::Delete { .. } => ("delete", Tone::Bad),
        };
        text += &format!("{}  {}  {}\n", style.paint(tone, word), step.package, step.why);
    }
    for package in &upkeep.spared {
        text += &format!("{}  {package}  {}\n", style.paint(Tone::Good, "spare"), retention::AgingReason::Tagged);
    }
    let reasons = [
        upkeep.distrust.as_ref().map(|distrust| format!("nothing is marked or deleted: {distrust}")),
        upkeep.clock_doubt.as_ref().map(|doubt| format!("nothing ages: {doubt}")),
        upkeep.refusal.as_ref().map(ToString::to_string),
        upkeep.bar.as_ref().map(ToString::to_string),
    ];
    for reason in reasons.iter().flatten() {
        text += &format!("{}  {}\n", style.paint(Tone::Bad, "stop"), escaped(reason));
    }
    for row in &upkeep.because {
        text += &format!("{}  {}\n", style.paint(Tone::Bad, "row"), printable(row));
    }
    text
}

fn is_taking(step: &retention::AgingStep) -> bool {
    match step.action {
        retention::AgingAction::Unmark => false,
        retention::AgingAction::Mark { .. } | retention::AgingAction::Delete { .. } => true,
    }
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Send => "send",
        Action::Replace => "replace",
    }
}

#[cfg(test)]
mod tests {
    use blat_domain::archive::inventory::Foreign;
    use blat_domain::package::name::PackageId;
    use blat_domain::policy::plan::{Blocker, Held, Size};
    use blat_domain::policy::release::Reason;
    use blat_domain::policy::retention::{AgingReason, Distrust};

    use super::*;

    fn id(text: &str) -> PackageId {
        text.parse().expect("a package")
    }

    fn step(action: Action, package: &str, bytes: u64, reason: Reason) -> Step {
        let reasons = [reason].into();
        Step { action, package: id(package), time: 0, size: Size { bytes, entries: 1 }, reasons }
    }

    fn aging(action: retention::AgingAction, package: &str, why: AgingReason) -> retention::AgingStep {
        retention::AgingStep { action, package: id(package), why }
    }

    #[test]
    fn a_plan_reads_as_counts_steps_and_what_is_left_alone() {
        let release = Reason::Release { id: 4711, name: "Perth 7.1".into() };
        let plan = Plan {
            wanted: 6,
            present: 2,
            steps: vec![
                step(Action::Replace, "tools@1.3.0", 1536, Reason::Pinned),
                step(Action::Send, "core@1.2.3", 12_687_770, release),
            ],
            links: vec![Link {
                package: id("core@current"),
                to: "1.2.3".parse().expect("a version"),
                instead_of: Some("1.2.2".into()),
                reasons: [Reason::Pinned].into(),
            }],
            held: vec![Held { package: id("late@1"), hold: Blocker::Incomplete }],
            excess: vec![id("old@0.9"), id("past@1"), id("young@1")],
            unknown: vec!["release 9 is not known".into()],
            snapshot: Some(jiff::Timestamp::UNIX_EPOCH),
            upkeep: Upkeep {
                steps: vec![
                    aging(retention::AgingAction::Unmark, "tools@1.2.0", AgingReason::Wanted),
                    aging(
                        retention::AgingAction::Delete { time: Some(5) },
                        "past@1",
                        AgingReason::Waited { seconds: 2_592_000 },
                    ),
                ],
                distrust: Some(Distrust::Snapshot),
                spared: vec![id("young@1")],
                ..Upkeep::default()
            },
            foreign: Foreign { count: 2, examples: vec!["notes.txt".into(), "x y".into()] },
        };
        let expected = "\
6 wanted, 2 present, 2 to send (12.1 MiB), 1 to link, 1 held, 3 extra
snapshot  Release Manager cannot be asked; this goes by its answer of 1970-01-01T00:00:00Z
replace  tools@1.3.0   1.5 KiB  pkg in its config
send     core@1.2.3   12.1 MiB  release Perth 7.1 (4711)
link  core@current -> 1.2.3, instead of 1.2.2  pkg in its config
hold  late@1  waits: the source has no descpkg for it yet
unknown  release 9 is not known
unmark  tools@1.2.0  it is wanted again
delete  past@1  nothing wants it; marked 30d ago
spare  young@1  a tag brought it, and Release Manager may not know it yet
stop  nothing is marked or deleted: Release Manager could not be asked
extra  old@0.9  nothing wants it; it stays
foreign  2 entries that are not ours stay: notes.txt, x y
";
        assert_eq!(picture(&plan, Style::default()), expected);
    }

    #[test]
    fn a_complete_target_takes_one_line() {
        let plan = Plan { wanted: 7, present: 7, ..Plan::default() };
        assert_eq!(picture(&plan, Style::default()), "7 wanted, 7 present, 0 to send (0 B), 0 held, 0 extra\n");
    }

    #[test]
    fn many_extra_packages_are_counted_not_listed() {
        let plan = Plan { excess: (0..25).map(|n| id(&format!("old@{n}"))).collect(), ..Plan::default() };
        let text = picture(&plan, Style::default());
        assert_eq!(text.matches("it stays").count(), 20);
        assert!(text.ends_with("… and 5 more extra packages; --json lists all\n"), "{text}");
    }
}
