//! `blat history`: what was done to which target, when, and how long after its tag. Reads what agents wrote down; asks nobody.

use std::io::{self, Write};
use std::time::Duration;

use blat_config::Home;
use blat_domain::package::name::TargetName;
use blat_domain::protocol::history::HistoryEntry;
use blat_domain::util::text::printable;
use blat_domain::util::units::{show_duration, show_size};
use jiff::{SignedDuration, Timestamp};

use crate::args::HistoryArgs;
use crate::commands::targets;
use crate::failure::{Exit, Failure, Outcome};
use crate::past;
use crate::style::{Style, Tone};

/// Prints one line for each deed, the oldest first, of all targets together.
pub(crate) fn run(home: &Home, args: &HistoryArgs) -> Outcome {
    let names = match &args.target {
        Some(target) => vec![target.clone()],
        None => targets::all(home)?,
    };
    let first = args.since.map(|since| ago(Timestamp::now(), since)).unwrap_or(Timestamp::MIN);
    let mut deeds: Vec<(&TargetName, HistoryEntry)> = Vec::new();
    for name in &names {
        let entries = past::of(home, name)?;
        if entries.is_empty() && args.target.is_some() {
            // A target that was removed keeps its history; one that never was has none.
            targets::known(home, name)?;
        }
        deeds.extend(entries.into_iter().filter(|entry| entry.at >= first).map(|entry| (name, entry)));
    }
    deeds.sort_by_key(|(_, entry)| entry.at);
    let mut stdout = io::stdout().lock();
    for (target, entry) in &deeds {
        if args.json {
            writeln!(stdout, "{}", json(target, entry)?)?;
        } else {
            writeln!(stdout, "{}", line(target, entry, Style::of_stdout()))?;
        }
    }
    Ok(Exit::DONE)
}

fn ago(now: Timestamp, since: Duration) -> Timestamp {
    SignedDuration::try_from(since).ok().and_then(|since| now.checked_sub(since).ok()).unwrap_or(Timestamp::MIN)
}

fn json(target: &TargetName, entry: &HistoryEntry) -> Result<String, Failure> {
    let cannot = |error: serde_json::Error| Failure::failed(format!("cannot write the history as json: {error}"));
    let mut value = serde_json::to_value(entry).map_err(cannot)?;
    value["target"] = target.as_str().into();
    serde_json::to_string(&value).map_err(cannot)
}

fn line(target: &TargetName, entry: &HistoryEntry, style: Style) -> String {
    let when = style.paint(Tone::Faint, &format!("{:.0}", entry.at));
    let package = entry.package.as_ref().map(|package| format!("  {package}")).unwrap_or_default();
    format!("{when}  {target}  {}{package}{}", entry.deed, rest(entry))
}

/// What is to be said of a deed beside its time and its package.
pub(crate) fn rest(entry: &HistoryEntry) -> String {
    let mut text = String::new();
    if entry.bytes > 0 {
        text += &format!("  {}", show_size(entry.bytes));
    }
    match entry.after_tag_ms {
        Some(ms @ ..10_000) => text += &format!("  {ms} ms after its tag"),
        Some(ms) => text += &format!("  {} after its tag", show_duration(Duration::from_millis(ms))),
        None => {}
    }
    if let Some(detail) = &entry.detail {
        text += &format!("  {}", printable(detail));
    }
    text
}

#[cfg(test)]
mod tests {
    use blat_domain::protocol::history::Operation;

    use super::*;

    fn entry() -> HistoryEntry {
        HistoryEntry {
            at: "2026-11-21T08:00:12.5Z".parse().expect("a time"),
            deed: Operation::Sent,
            package: Some("core@1.2".parse().expect("a package")),
            bytes: 12_687_770,
            after_tag_ms: Some(143),
            detail: None,
        }
    }

    #[test]
    fn a_deed_reads_as_when_where_what_and_how_long_after_its_tag() {
        let target = "perth".parse().expect("a name");
        let text = line(&target, &entry(), Style::default());
        assert_eq!(text, "2026-11-21T08:00:12Z  perth  sent  core@1.2  12.1 MiB  143 ms after its tag");
        let failed = HistoryEntry { bytes: 0, after_tag_ms: Some(90_000), detail: Some("a\u{1b}b".into()), ..entry() };
        assert_eq!(rest(&failed), "  1m 30s after its tag  a\\u{1b}b");
        let json = json(&target, &entry()).expect("JSON");
        assert!(json.contains("\"target\":\"perth\"") && json.contains("\"after_tag_ms\":143"), "{json}");
    }
}
