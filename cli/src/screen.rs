//! A status that fits a terminal: nothing scrolls away, and what somebody should look at stands first. Pure, as the picture is.

use blat_domain::protocol::status::{State, Status, SyncResult, TargetStatus};
use jiff::Timestamp;

use crate::picture;
use crate::style::Style;
use crate::table::{Drawn, DrawnRow, cut, wrap};

/// What stands in front of what was left out.
const ELLIPSIS: &str = "…";

/// The complaint `said`, if any, and the status below it, in as many lines as the terminal has, less the one of the cursor. Where its height is
/// not known, all of it.
pub(crate) fn screen(said: &str, status: Option<&Status>, now: Timestamp, style: Style) -> String {
    let room = style.height.map_or(usize::MAX, |height| height.saturating_sub(1));
    let mut lines: Vec<String> = said.lines().flat_map(|line| wrap(line, style.width)).collect();
    lines.extend(status.and_then(picture::master).iter().flat_map(|line| wrap(line, style.width)));
    lines.truncate(room);
    let left = room.saturating_sub(lines.len());
    match status {
        None => {}
        Some(status) if status.targets.is_empty() => {
            lines.extend(picture::NO_TARGETS.lines().take(left).map(str::to_owned));
        }
        Some(status) => {
            let targets = by_urgency(&status.targets);
            let drawn = picture::table(targets.iter().copied(), now).draw(style);
            lines.extend(fit(drawn, &targets, left, style));
        }
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// How much a target wants a look; the less, the more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// It does not work until somebody does something, or hardly.
    Broken,
    /// Something failed and is tried again.
    Failing,
    /// It works; something about it is worth knowing.
    Remarkable,
    /// All is well.
    Calm,
}

fn urgency(target: &TargetStatus) -> Urgency {
    let last_sync = target.last_sync.as_ref();
    let is_failing = target.last_error.is_some() || target.config.error.is_some();
    match target.state {
        State::Failing | State::Misconfigured => Urgency::Broken,
        State::Waiting => Urgency::Failing,
        State::Starting | State::Idle | State::Syncing | State::Sending | State::Stopped if is_failing => {
            Urgency::Failing
        }
        State::Starting | State::Idle | State::Syncing | State::Sending | State::Stopped => match last_sync {
            Some(report) if report.result == SyncResult::Failed => Urgency::Failing,
            Some(report) if !report.is_complete() || report.snapshot.is_some() || report.held_back.is_some() => {
                Urgency::Remarkable
            }
            Some(_) | None if !target.leftovers.is_empty() => Urgency::Remarkable,
            Some(_) | None => Urgency::Calm,
        },
    }
}

/// The most urgent first, else in their order.
fn by_urgency(targets: &[TargetStatus]) -> Vec<&TargetStatus> {
    let mut targets: Vec<&TargetStatus> = targets.iter().collect();
    targets.sort_by_key(|target| urgency(target));
    targets
}

/// The heading, every troubled target's row as far as there are lines, what is said below those, then the calm ones, and at last how many are
/// left out.
fn fit(drawn: Drawn, targets: &[&TargetStatus], room: usize, style: Style) -> Vec<String> {
    if drawn.height() <= room {
        return drawn.into_lines();
    }
    let troubled = targets.iter().take_while(|target| urgency(target) < Urgency::Calm).count();
    // The heading and the last line are there in any case.
    let mut left = room.saturating_sub(2);
    let mut shown = troubled.min(left);
    left -= shown;
    let mut notes = share(&drawn.rows[..shown], &mut left);
    for row in drawn.rows.iter().skip(shown) {
        if left == 0 {
            break;
        }
        left -= 1;
        let more = row.notes.len().min(left);
        left -= more;
        notes.push(more);
        shown += 1;
    }
    let mut lines = vec![drawn.heading];
    for (row, notes) in drawn.rows.into_iter().zip(notes) {
        lines.extend(beginning(row, notes, style));
    }
    let rest = targets.get(shown..).unwrap_or_default();
    if !rest.is_empty() {
        lines.push(left_out(rest, style));
    }
    lines.truncate(room);
    lines
}

/// How many of its notes each row may show: one line each in turn, until there is no more room.
fn share(rows: &[DrawnRow], left: &mut usize) -> Vec<usize> {
    let mut given = vec![0; rows.len()];
    loop {
        let before = *left;
        for (given, row) in given.iter_mut().zip(rows) {
            if *left > 0 && *given < row.notes.len() {
                (*given, *left) = (*given + 1, *left - 1);
            }
        }
        if *left == before {
            return given;
        }
    }
}

/// A row with so many of its notes. The last one says where there are more.
fn beginning(row: DrawnRow, notes: usize, style: Style) -> Vec<String> {
    let has_more = row.notes.len() > notes;
    let mut lines: Vec<String> = [row.line].into_iter().chain(row.notes.into_iter().take(notes)).collect();
    if let (true, true, Some(last)) = (has_more, notes > 0, lines.last_mut()) {
        let room = style.width.map_or(usize::MAX, |width| width.saturating_sub(2));
        *last = format!("{} {ELLIPSIS}", cut(last, room));
    }
    lines
}

/// `… 12 more: 1 waiting, 11 idle`
fn left_out(targets: &[&TargetStatus], style: Style) -> String {
    let mut states: Vec<(State, usize)> = Vec::new();
    for target in targets {
        match states.iter_mut().find(|(state, _)| *state == target.state) {
            Some((_, count)) => *count += 1,
            None => states.push((target.state, 1)),
        }
    }
    let states: Vec<String> = states.iter().map(|(state, count)| format!("{count} {}", state.word())).collect();
    let line = format!("{ELLIPSIS} {} more: {}", targets.len(), states.join(", "));
    cut(&line, style.width.unwrap_or(usize::MAX))
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
