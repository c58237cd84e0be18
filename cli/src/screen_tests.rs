//! What a terminal of 80 columns and 24 lines shows of many targets.

use blat_domain::protocol::status::{LastError, SyncReport};

use super::*;

const STYLE: Style = Style { colours: false, width: Some(80), height: Some(24), terminal: true };

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().expect("a time")
}

fn report(result: SyncResult) -> SyncReport {
    SyncReport { result, wanted: 2, present: 2, ..SyncReport::begun(now()) }
}

fn target(name: &str, state: State) -> TargetStatus {
    let last_sync = Some(report(SyncResult::Ok));
    TargetStatus { since: now(), last_sync, ..picture::tests::target(name, state) }
}

fn waiting(name: &str, text: &str) -> TargetStatus {
    let last_error = Some(LastError { at: now(), package: None, text: text.into(), retry_at: Some(now()) });
    TargetStatus { last_error, ..target(name, State::Waiting) }
}

fn calm(count: usize) -> impl Iterator<Item = TargetStatus> {
    (0..count).map(|number| target(&format!("a{number:03}"), State::Idle))
}

fn shown(said: &str, targets: impl IntoIterator<Item = TargetStatus>, style: Style) -> Vec<String> {
    let status = Status { home: "/srv/blat".into(), supervisor: None, targets: targets.into_iter().collect() };
    let text = screen(said, Some(&status), now(), style);
    assert!(text.is_empty() || text.ends_with('\n'));
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let most = style.height.map_or(usize::MAX, |height| height - 1);
    assert!(lines.len() <= most && lines.iter().all(|line| line.chars().count() <= 80), "{text}");
    lines
}

#[test]
fn what_is_wrong_with_the_master_stands_above_all_targets() {
    let error = LastError { at: now(), package: None, text: "cannot write the log".into(), retry_at: None };
    let status = picture::tests::whole(calm(100).collect(), Some(error));
    let text = screen("", Some(&status), now(), STYLE);
    assert!(text.starts_with("blatd: cannot write the log\nTARGET") && text.lines().count() == 23, "{text}");
}

/// The first words of all rows.
fn rows(lines: &[String]) -> Vec<&str> {
    lines.iter().filter(|line| !line.starts_with(' ')).filter_map(|line| line.split(' ').next()).collect()
}

#[test]
fn a_hundred_targets_leave_the_heading_and_the_troubled_ones_on_the_screen() {
    let mut targets: Vec<TargetStatus> = calm(100).collect();
    targets.push(waiting("m-waits", "cannot reach rail.example.com: connection refused"));
    targets.push(TargetStatus { last_sync: Some(report(SyncResult::Failed)), ..target("n-failed", State::Syncing) });
    let mut held = report(SyncResult::Ok);
    held.hold(&"late@1".parse().expect("a package"), &"waits: still writable at the source");
    targets.push(TargetStatus { last_sync: Some(held), ..target("o-holds", State::Idle) });
    targets.push(target("z-crashes", State::Failing));
    let lines = shown("", targets, STYLE);
    assert_eq!(lines.len(), 23);
    assert_eq!(rows(&lines)[..6], ["TARGET", "z-crashes", "m-waits", "n-failed", "o-holds", "a000"], "{lines:#?}");
    assert!(lines[3].contains("connection refused") && lines[6].contains("late@1: waits"), "{lines:#?}");
    assert_eq!(lines[22], "… 85 more: 85 idle");
}

#[test]
fn many_in_trouble_each_have_their_row_before_anything_is_said_of_them() {
    let long = "the target said something long about what it cannot do and why it cannot do that now ".repeat(20);
    let targets: Vec<TargetStatus> = (0..10).map(|number| waiting(&format!("t{number}"), &long)).collect();
    let lines = shown("", calm(3).chain(targets), STYLE);
    assert_eq!(rows(&lines), ["TARGET", "t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9", "…"], "{lines:#?}");
    assert!(lines[2].contains("the target said") && lines[3].ends_with(" …"), "{lines:#?}");
    assert_eq!(lines.last().map(String::as_str), Some("… 3 more: 3 idle"));

    // More than lines: the most urgent ones, and how many more there are.
    let targets = (0..60).map(|number| waiting(&format!("t{number:02}"), &long));
    let lines = shown("", targets.chain([target("z", State::Misconfigured)]), STYLE);
    assert_eq!((lines[1].starts_with("z "), lines.len()), (true, 23), "{lines:#?}");
    assert_eq!(lines[22], "… 40 more: 40 waiting");
}

#[test]
fn what_is_said_about_the_master_counts_and_a_long_complaint_does_not_take_all() {
    let mut broken = target("broken", State::Misconfigured);
    broken.config.error = Some((0..50).map(|number| format!("complaint {number}\n")).collect());
    let said = format!("blat: no master is running{}\nhint: start it with `blat start`\n", " and so on".repeat(20));
    let lines = shown(&said, calm(30).chain([broken, waiting("other", "refused")]), STYLE);
    assert!(lines[0].starts_with("blat: no master is running") && lines.iter().any(|line| line.starts_with("hint:")));
    let rows = rows(&lines);
    assert!(rows.contains(&"broken") && rows.contains(&"other"), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("complaint 3")) && lines.iter().any(|line| line == "    refused"));
}

#[test]
fn all_is_shown_where_there_is_room_for_it() {
    let text = |height| shown("", calm(5).chain([waiting("t", "refused")]), Style { height, ..STYLE });
    let lines = text(Some(24));
    assert_eq!(rows(&lines), ["TARGET", "t", "a000", "a001", "a002", "a003", "a004"]);
    assert_eq!(text(None), lines, "a terminal that does not say its height");
    assert_eq!(text(Some(9)), lines, "just enough");
    let small = text(Some(8));
    assert_eq!((rows(&small).len(), small.last().map(String::as_str)), (6, Some("… 2 more: 2 idle")), "{small:#?}");
    for height in 1..8 {
        let lines = text(Some(height));
        assert_eq!(lines.len(), height - 1, "{lines:#?}");
        assert!(height < 4 || lines[1].starts_with("t "), "{lines:#?}");
    }
}
