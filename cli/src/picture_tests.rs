//! How a status reads, as plain strings.

use blat_domain::protocol::status::{ConfigStatus, SupervisorStatus};

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn now() -> Timestamp {
    at("2026-11-21T12:00:00Z")
}

/// A target at rest that no sync was at yet.
pub(crate) fn target(name: &str, state: State) -> TargetStatus {
    TargetStatus {
        name: name.parse().expect("a target name"),
        kind: "dpkg_archive".into(),
        pid: Some(4711),
        restarts: 0,
        since: at("2026-11-21T11:56:40Z"),
        state,
        last_sync: None,
        queue: Queue::default(),
        current: None,
        last_error: None,
        far_end: None,
        waits_for: None,
        leftovers: Vec::new(),
        config: ConfigStatus { path: format!("config/{name}.conf").into(), loaded: Some(now()), error: None },
    }
}

fn report(result: SyncResult) -> SyncReport {
    let begun = SyncReport::begun(at("2026-11-21T11:56:00Z"));
    let finished = at("2026-11-21T11:57:00Z");
    SyncReport { finished, result, wanted: 512, present: 512, sent: 3, bytes: 1 << 20, ..begun }
}

fn shown(targets: Vec<TargetStatus>, style: Style) -> String {
    status(&whole(targets, None), now(), style)
}

/// A status with a master that has this error.
pub(crate) fn whole(targets: Vec<TargetStatus>, last_error: Option<LastError>) -> Status {
    let supervisor = Some(SupervisorStatus { pid: 1, version: "0.1.0".into(), started: now(), last_error });
    Status { home: "/srv/blat".into(), supervisor, targets }
}

#[test]
fn what_is_wrong_with_the_master_stands_below_all_targets() {
    let text = "cannot open the log: \u{1b} denied".to_owned();
    let error = Some(LastError { at: now(), package: None, text, retry_at: None });
    for targets in [Vec::new(), vec![target("perth", State::Idle)]] {
        let count = targets.len();
        let text = status(&whole(targets, error.clone()), now(), Style::default());
        assert!(text.ends_with("\nblatd: cannot open the log: \\u{1b} denied\n"), "{text}");
        assert_eq!(text.contains("perth"), count == 1, "{text}");
    }
}

/// One target at rest, one at work, one in trouble.
fn three() -> Vec<TargetStatus> {
    let idle = TargetStatus { last_sync: Some(report(SyncResult::Ok)), ..target("perth", State::Idle) };
    let sending = TargetStatus {
        queue: Queue { tags: 1, packages: 12, bytes: 3 << 30 },
        current: Some(Current { package: "core_devl@2.1.0.cr".parse().expect("a package"), done: 45, total: 100 }),
        far_end: Some(FarEnd::Receiver { restricted: true, scripts: None }),
        waits_for: Some("waiting for a login slot: eight logins are under way".into()),
        ..target("sydney", State::Sending)
    };
    let waiting = TargetStatus {
        last_sync: Some(SyncReport { present: 510, failed: 2, ..report(SyncResult::Failed) }),
        last_error: Some(LastError {
            at: now(),
            package: None,
            text: "cannot reach rail.example.com: connection refused".into(),
            retry_at: Some(at("2026-11-21T12:00:12Z")),
        }),
        far_end: Some(FarEnd::Scripts { why: Some("no build of blat-receiver for Linux armv7l".into()) }),
        ..target("hobart", State::Waiting)
    };
    vec![idle, sending, waiting]
}

#[test]
fn targets_stand_in_a_table_with_their_errors_below() {
    let expected = "\
TARGET  STATE    SINCE   VIA            LAST SYNC                                    QUEUE                          CURRENT                 ERROR
perth   idle     3m 20s  -              ok 3m ago · 512/512 · sent 3                 -                              -                       -
sydney  sending  3m 20s  receiver only  never                                        12 packages · 3.0 GiB · 1 tag  core_devl@2.1.0.cr 45%  -
    waiting for a login slot: eight logins are under way
hobart  waiting  3m 20s  scripts        failed 3m ago · 510/512 · sent 3 · failed 2  -                              -                       retry in 12s
    cannot reach rail.example.com: connection refused
    served by scripts: no build of blat-receiver for Linux armv7l
";
    assert_eq!(shown(three(), Style::default()), expected);
}

#[test]
fn a_sync_that_went_by_an_older_answer_says_so_below_its_target() {
    let report = SyncReport { snapshot: Some(at("2026-11-20T09:00:00.5Z")), ..report(SyncResult::Ok) };
    let perth = TargetStatus { last_sync: Some(report), ..target("perth", State::Idle) };
    let text = shown(vec![perth], Style::default());
    assert!(text.contains("ok 3m ago"), "{text}");
    assert!(
        text.contains(
            "\n    Release Manager could not be asked; the last sync went by its answer of 2026-11-20T09:00:00Z"
        ),
        "{text}"
    );
    assert!(!shown(three(), Style::default()).contains("Release Manager"));
}

#[test]
fn what_a_target_cannot_remove_stands_below_it_with_what_to_do() {
    let mut perth = target("perth", State::Idle);
    let left = |owner| Leftover { path: "trash/1/core@1".into(), owner, text: "it failed\u{1b}; remove it".into() };
    perth.leftovers = vec![left(Some(0)), left(None)];
    let text = shown(vec![perth.clone()], Style::default());
    for line in ["trash/1/core@1 (user 0's): it failed\\u{1b}; remove it", "trash/1/core@1: it failed"] {
        assert!(text.contains(&format!("\n    a leftover takes space on the target: {line}")), "{text}");
    }
    perth.leftovers = vec![left(None); 8];
    let text = shown(vec![perth], Style::default());
    assert!(text.ends_with("\n    3 leftovers more: blat status --json\n"), "{text}");
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for width in [80, 100] {
        let text = shown(three(), Style { width: Some(width), ..Style::default() });
        assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
        for whole in ["perth", "sydney", "hobart"] {
            assert!(text.contains(whole), "{text}");
        }
    }
}

#[test]
fn complaints_about_a_config_stand_below_their_target_in_their_form() {
    let mut perth = target("perth", State::Misconfigured);
    perth.config.loaded = None;
    perth.config.error = Some("perth.conf:2:1: unknown key\n  |\n2 | hots: x\n  | ^^^^ here\u{1b}".into());
    let text = shown(vec![perth], Style { width: Some(80), ..Style::default() });
    assert!(text.contains("config/perth.conf cannot be used; no agent runs until it can"), "{text}");
    assert!(text.contains("\n      2 | hots: x\n        | ^^^^ here\\u{1b}\n"), "{text}");
    assert!(text.lines().nth(1).expect("a row").ends_with("config"), "{text}");
}

#[test]
fn a_long_complaint_is_cut_and_says_where_the_rest_is() {
    let mut perth = target("perth", State::Idle);
    perth.config.error = Some((0..50).map(|n| format!("complaint {n}\n")).collect());
    let text = shown(vec![perth], Style::default());
    assert!(text.contains("complaint 19\n") && !text.contains("complaint 20\n"), "{text}");
    assert!(text.contains("… 30 more lines: blat check perth\n"), "{text}");
    assert!(text.contains("the settings read last stay in force"), "{text}");
}

#[test]
fn hostile_text_cannot_reach_the_terminal() {
    let mut perth = target("perth", State::Waiting);
    let text = "the target said \u{1b}]0;owned\u{7}\nand more".to_owned();
    perth.last_error = Some(LastError { at: now(), package: None, text, retry_at: None });
    let text = shown(vec![perth], Style::default());
    assert!(!text.contains(['\u{1b}', '\u{7}']) && text.contains("owned") && text.contains("; and more"), "{text}");
    assert!(text.contains("no retry"), "{text}");
}

#[test]
fn an_error_names_its_package_once() {
    let package = Some("core@1".parse().expect("a package"));
    let error = |text: &str| LastError { at: now(), package: package.clone(), text: text.into(), retry_at: None };
    assert_eq!(last_error(&error("target is full")), "core@1: target is full");
    assert_eq!(last_error(&error("cannot send core@1: target is full")), "cannot send core@1: target is full");
}

#[test]
fn states_are_coloured_only_where_asked() {
    let text = shown(three(), Style { colours: true, ..Style::default() });
    assert!(text.contains("\u{1b}[32midle\u{1b}[0m") && text.contains("\u{1b}[33mwaiting\u{1b}[0m"), "{text}");
    assert!(!shown(three(), Style::default()).contains('\u{1b}'));
}

#[test]
fn odd_clocks_and_sizes_do_no_harm() {
    assert_eq!(elapsed(now(), at("2026-11-21T11:00:00Z")), Duration::from_secs(1));
    assert_eq!((percent(0, 0), percent(5, 0), percent(u64::MAX, 10), percent(1, 3)), (100, 100, 100, 33));
}

#[test]
fn a_home_without_targets_says_how_to_add_one() {
    assert_eq!(shown(vec![], Style::default()), "no targets: each is a file config/TARGET.conf\n");
}
