//! A status as people read it. Pure: the time is an argument, and nothing here asks or prints.

use std::time::Duration;

use blat_domain::package::name::{PackageId, TargetName};
use blat_domain::protocol::status::{
    Current, FarEnd, LastError, Leftover, Queue, State, Status, SyncReport, SyncResult, TargetStatus,
};
use blat_domain::util::text::{escaped, printable};
use blat_domain::util::units::{show_duration, show_size};
use jiff::Timestamp;

use crate::style::{Style, Tone};
use crate::table::{Cell, Table};

/// What stands where there is nothing to say.
const NOTHING: &str = "-";
/// What stands in place of a table without rows.
pub(crate) const NO_TARGETS: &str = "no targets: each is a file config/TARGET.conf\n";
/// The most lines of one complaint that stand below a target; `blat check` prints them all.
const MOST_NOTES: usize = 20;
/// The most leftovers that stand below a target; `--json` has them all.
const MOST_LEFTOVERS: usize = 5;

/// All targets as a table, with what is wrong below each.
pub(crate) fn status(status: &Status, now: Timestamp, style: Style) -> String {
    let mut text = match &status.targets[..] {
        [] => NO_TARGETS.to_owned(),
        targets => table(targets, now).render(style),
    };
    text.extend(master(status).map(|line| line + "\n"));
    text
}

/// What is wrong with the master itself.
pub(crate) fn master(status: &Status) -> Option<String> {
    let error = status.supervisor.as_ref()?.last_error.as_ref()?;
    Some(format!("blatd: {}", last_error(error)))
}

/// These targets in this order.
pub(crate) fn table<'a>(targets: impl IntoIterator<Item = &'a TargetStatus>, now: Timestamp) -> Table<8> {
    let mut table = Table::new(["TARGET", "STATE", "SINCE", "VIA", "LAST SYNC", "QUEUE", "CURRENT", "ERROR"]);
    for target in targets {
        table.row(row(target, now), notes(target));
    }
    table
}

fn row(target: &TargetStatus, now: Timestamp) -> [Cell; 8] {
    let last_sync = target.last_sync.as_ref();
    let failed = last_sync.is_some_and(|report| report.result == SyncResult::Failed);
    [
        target.name.as_str().into(),
        Cell::toned(target.state.word(), tone(target.state)),
        show_duration(elapsed(target.since, now)).into(),
        target.far_end.as_ref().map_or(NOTHING, FarEnd::word).into(),
        Cell::toned(
            last_sync.map_or_else(|| "never".to_owned(), |report| sync(report, now)),
            if failed { Tone::Warn } else { Tone::Plain },
        ),
        queue(target.queue).into(),
        target.current.as_ref().map_or_else(|| NOTHING.to_owned(), current).into(),
        match &target.last_error {
            Some(error) => Cell::toned(retry(error, now), Tone::Bad),
            None if target.config.error.is_some() => Cell::toned("config", Tone::Bad),
            None => NOTHING.into(),
        },
    ]
}

fn tone(state: State) -> Tone {
    match state {
        State::Idle => Tone::Good,
        State::Starting | State::Syncing | State::Sending => Tone::Busy,
        State::Waiting => Tone::Warn,
        State::Failing | State::Misconfigured => Tone::Bad,
        State::Stopped => Tone::Faint,
    }
}

/// `ok 3m ago · 512/512 · sent 3`
fn sync(report: &SyncReport, now: Timestamp) -> String {
    let mut parts = vec![
        format!("{} {} ago", outcome(report.result), show_duration(elapsed(report.finished, now))),
        format!("{}/{}", report.present, report.wanted),
    ];
    parts.extend(counts(report));
    parts.join(" · ")
}

/// What a sync did, less what it did none of.
pub(crate) fn counts(report: &SyncReport) -> Vec<String> {
    [
        ("sent", report.sent),
        ("failed", report.failed),
        ("held", report.held),
        ("marked", report.marked),
        ("deleted", report.deleted),
    ]
    .into_iter()
    .filter(|(_, count)| *count > 0)
    .map(|(what, count)| format!("{what} {count}"))
    .collect()
}

fn outcome(result: SyncResult) -> &'static str {
    match result {
        SyncResult::Ok => "ok",
        SyncResult::Failed => "failed",
    }
}

/// `12 packages · 1.2 GiB · 2 tags`
pub(crate) fn queue(queue: Queue) -> String {
    let mut parts = Vec::new();
    if queue.packages > 0 {
        parts.push(counted(queue.packages, "package"));
    }
    if queue.bytes > 0 {
        parts.push(show_size(queue.bytes));
    }
    if queue.tags > 0 {
        parts.push(counted(queue.tags, "tag"));
    }
    if parts.is_empty() { NOTHING.to_owned() } else { parts.join(" · ") }
}

/// `1 package`, `2 packages`
pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// `core_devl@2.1.0.cr 45%`
pub(crate) fn current(current: &Current) -> String {
    format!("{} {}%", current.package, percent(current.done, current.total))
}

/// How much of it is done; a package of no bytes is done as soon as it is begun.
fn percent(done: u64, total: u64) -> u64 {
    done.min(total).saturating_mul(100).checked_div(total).unwrap_or(100)
}

/// When an error's cause is tried again.
fn retry(error: &LastError, now: Timestamp) -> String {
    match error.retry_at {
        Some(at) if at <= now => "retries now".to_owned(),
        Some(at) => format!("retry in {}", show_duration(elapsed(now, at))),
        None => "no retry".to_owned(),
    }
}

/// What stands below a target's row.
fn notes(target: &TargetStatus) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(taken) = target.last_sync.as_ref().and_then(|report| report.snapshot) {
        notes.push(stand_in(taken));
    }
    if let Some(why) = target.last_sync.as_ref().and_then(|report| report.held_back.as_ref())
        && target.last_error.as_ref().is_none_or(|error| error.text != *why)
    {
        notes.push(escaped(why));
    }
    if let Some(error) = &target.last_error {
        notes.push(last_error(error));
    }
    if let Some(report) = &target.last_sync {
        let said = target.last_error.as_ref().and_then(|error| error.package.as_ref());
        notes.extend(held(report, &target.name, said));
    }
    notes.extend(target.waits_for.as_deref().map(escaped));
    notes.extend(target.leftovers.iter().take(MOST_LEFTOVERS).map(leftover));
    if target.leftovers.len() > MOST_LEFTOVERS {
        let more = target.leftovers.len() - MOST_LEFTOVERS;
        notes.push(format!("{} more: blat status --json", counted(more as u64, "leftover")));
    }
    match &target.far_end {
        Some(FarEnd::Scripts { why: Some(why) }) => notes.push(format!("served by scripts: {}", escaped(why))),
        Some(FarEnd::Receiver { scripts: Some(why), .. }) => notes.push(escaped(why)),
        Some(FarEnd::Scripts { why: None } | FarEnd::Receiver { scripts: None, .. }) | None => {}
    }
    if let Some(error) = &target.config.error {
        let in_force = match target.config.loaded {
            Some(_) => "the settings read last stay in force",
            None => "no agent runs until it can",
        };
        notes.push(format!("{} cannot be used; {in_force}:", printable(&target.config.path.to_string_lossy())));
        let lines: Vec<&str> = error.lines().collect();
        notes.extend(lines.iter().take(MOST_NOTES).map(|line| format!("  {}", escaped(line))));
        if lines.len() > MOST_NOTES {
            notes.push(format!("  … {} more lines: blat check {}", lines.len() - MOST_NOTES, target.name));
        }
    }
    notes
}

/// What a sync rested on that could not ask Release Manager.
fn stand_in(taken: Timestamp) -> String {
    format!(
        "Release Manager could not be asked; the last sync went by its answer of {taken:.0}: nothing is deleted or marked"
    )
}

/// The packages that a sync held, with the reasons, but for the one of which something was `said` already.
pub(crate) fn held(report: &SyncReport, target: &TargetName, said: Option<&PackageId>) -> Vec<String> {
    let others = report.held_packages.iter().filter(|held| Some(&held.package) != said);
    let mut lines: Vec<String> = others.map(|held| format!("held: {}: {}", held.package, escaped(&held.why))).collect();
    let more = report.held.saturating_sub(report.held_packages.len() as u64);
    if more > 0 {
        lines.push(format!("{more} more held: blat plan {target}"));
    }
    lines
}

/// What the target cannot remove, and what to do.
fn leftover(leftover: &Leftover) -> String {
    let owner = leftover.owner.map(|owner| format!(" (user {owner}'s)")).unwrap_or_default();
    format!("a leftover takes space on the target: {}{owner}: {}", escaped(&leftover.path), escaped(&leftover.text))
}

/// `core_devl@2.1.0.cr: cannot send it: …`
pub(crate) fn last_error(error: &LastError) -> String {
    let text = error.text.lines().map(escaped).collect::<Vec<_>>().join("; ");
    match &error.package {
        // Many messages name their package themselves.
        Some(package) if !text.contains(&package.to_string()) => format!("{package}: {text}"),
        Some(_) | None => text,
    }
}

/// From `then` to `now` in whole seconds, at least one: nobody wants to read `0ms`, or a time before its beginning where a
/// clock was set back.
fn elapsed(then: Timestamp, now: Timestamp) -> Duration {
    let seconds = now.duration_since(then).as_secs();
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1))
}

#[cfg(test)]
#[path = "picture_tests.rs"]
pub(crate) mod tests;
