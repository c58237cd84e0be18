//! Commands about one target's files: tags, plans, logs.

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::thread;

use blat_domain::protocol::messages::Answer;
use support::{FakeMaster, Scratch, eventually, status};

fn with_master(names: &[&str]) -> (Scratch, FakeMaster) {
    let scratch = Scratch::with_targets(names);
    let status = status(&scratch.home(), names);
    let master = FakeMaster::start(&scratch.home(), move |_| vec![Answer::Status(status.clone())]);
    (scratch, master)
}

#[test]
fn a_tag_is_an_empty_file_and_nothing_else_is_left() {
    let (scratch, _master) = with_master(&["perth", "sydney"]);
    let ran = scratch.blat(&["tag", "core", "1.2.3"]).exits(0);
    assert_eq!(ran.out, "core@1.2.3 is tagged for perth\ncore@1.2.3 is tagged for sydney\n");
    for target in ["perth", "sydney"] {
        assert_eq!(scratch.files(&format!("tags/{target}")), ["core@1.2.3"]);
        assert_eq!(scratch.read(&format!("tags/{target}/core@1.2.3")), "");
    }
    assert_eq!(ran.err, "");
}

#[test]
fn a_package_may_be_written_as_blat_writes_it() {
    let (scratch, _master) = with_master(&["perth"]);
    let ran = scratch.blat(&["tag", "core@1.2.3", "--target", "perth"]).exits(0);
    assert_eq!(ran.out, "core@1.2.3 is tagged for perth\n");
    assert_eq!(scratch.files("tags/perth"), ["core@1.2.3"]);
}

#[test]
fn a_tag_goes_only_to_the_targets_that_are_named() {
    let (scratch, _master) = with_master(&["perth", "sydney", "hobart"]);
    scratch.blat(&["tag", "core", "1", "--target", "perth", "--target", "hobart"]).exits(0);
    assert_eq!((scratch.files("tags/perth").len(), scratch.files("tags/hobart").len()), (1, 1));
    assert!(!scratch.path("tags/sydney").exists());
}

#[test]
fn a_tag_without_a_master_is_dropped_and_says_so() {
    let scratch = Scratch::with_targets(&["perth"]);
    let ran = scratch.blat(&["tag", "core", "1"]).exits(0);
    assert_eq!(ran.err, "blat: no master is running: this tag waits for `blat start`\n");
    assert_eq!(scratch.files("tags/perth"), ["core@1"]);
}

#[test]
fn hostile_names_and_unknown_targets_drop_nothing() {
    let scratch = Scratch::with_targets(&["perth"]);
    for words in [
        &["tag", "../x", "1"][..],
        &["tag", "core", "../1"],
        &["tag", "core@../1"],
        &["tag", "core@1@2"],
        &["tag", "core", "a\nb"],
        &["tag", "core", "1", "--target", "../perth"],
        &["tag", "core", "1", "--target", "perth", "--target", "pert"],
    ] {
        scratch.blat(words).exits(2);
    }
    assert!(!scratch.path("tags").exists());
    let ran = scratch.blat(&["tag", "core", "1", "--target", "pert"]).exits(2);
    assert!(ran.err.ends_with("hint: did you mean perth?\n"), "{}", ran.err);
}

#[test]
fn one_targets_bad_config_costs_the_others_nothing() {
    let scratch = Scratch::with_targets(&["perth", "sydney"]);
    scratch.write("config/perth.conf", "nonsense: 1\n");
    let ran = scratch.blat(&["tag", "core", "1"]).exits(78);
    assert!(ran.err.contains("hint: `blat check perth` shows what is wrong"), "{}", ran.err);
    assert_eq!(scratch.files("tags/sydney"), ["core@1"]);
}

#[test]
fn a_tag_directory_of_somebody_else_is_not_made() {
    let scratch = Scratch::with_targets(&["perth"]);
    let text = scratch.read("config/perth.conf") + "tags: /nonexistent/tags\n";
    scratch.write("config/perth.conf", &text);
    let ran = scratch.blat(&["tag", "core", "1"]).exits(1);
    assert!(ran.err.starts_with("blat: cannot tag core@1 for perth in /nonexistent/tags: "), "{}", ran.err);
}

#[test]
fn awaiting_a_tag_needs_a_master() {
    let scratch = Scratch::with_targets(&["perth"]);
    scratch.blat(&["tag", "core", "1", "--wait"]).exits(69);
    assert!(!scratch.path("tags").exists(), "a tag was dropped although nobody can be waited for");
}

/// Does to a tag, as soon as it is there, what an agent would.
fn agent(scratch: &Scratch, act: impl FnOnce(&std::path::Path) + Send + 'static) -> thread::JoinHandle<()> {
    let tag = scratch.path("tags/perth/core@1");
    thread::spawn(move || {
        eventually("the tag is dropped", || tag.exists());
        act(&tag);
    })
}

#[test]
fn an_awaited_tag_that_is_consumed_is_there() {
    let (scratch, _master) = with_master(&["perth"]);
    // A tag that failed once, long ago.
    scratch.write("tags/perth/failed/core@1.reason", "the source has no such package\n");
    let old = File::options().write(true).open(scratch.path("tags/perth/failed/core@1.reason")).expect("the reason");
    old.set_modified(std::time::UNIX_EPOCH).expect("an old time");
    scratch.write("state/perth/already.jsonl", "");
    let reports = scratch.path("state/perth/already.jsonl");
    let agent = agent(&scratch, move |tag| {
        let report = concat!(r#"{"at":"2026-01-02T03:04:05Z","deed":"kept","package":"core@1"}"#, "\n");
        fs::write(reports, report).expect("the agent's own file");
        fs::remove_file(tag).expect("the tag");
    });
    let ran = scratch.blat(&["tag", "core", "1", "--wait"]).exits(0);
    agent.join().expect("the tag was there");
    assert!(ran.out.starts_with("core@1 is on perth after ") && ran.out.ends_with(" ms\n"), "{}", ran.out);
}

#[test]
fn an_awaited_tag_that_is_set_aside_says_why() {
    for place in ["failed", "bad"] {
        let (scratch, _master) = with_master(&["perth"]);
        let agent = agent(&scratch, move |tag| {
            let directory = tag.parent().expect("tags/perth").join(place);
            fs::create_dir(&directory).expect(place);
            fs::write(directory.join("core@1.reason"), "the source has no such package\u{1b}\n").expect("the reason");
            fs::rename(tag, directory.join("core@1")).expect("the tag");
        });
        let ran = scratch.blat(&["tag", "core", "1", "--wait"]).exits(1);
        agent.join().expect("the tag was there");
        assert_eq!(ran.err, "blat: core@1 cannot get to perth: the source has no such package\\u{1b}\n");
    }
}

#[test]
fn awaiting_a_tag_ends_with_the_master() {
    let scratch = Scratch::with_targets(&["perth"]);
    let known = status(&scratch.home(), &["perth"]);
    let socket = scratch.home().socket();
    let _master = FakeMaster::start(&scratch.home(), move |_| {
        // Its last words: the next question finds no master.
        let _ = fs::remove_file(&socket);
        vec![Answer::Status(known.clone())]
    });
    let ran = scratch.blat(&["tag", "core", "1", "--wait"]).exits(69);
    assert!(ran.err.starts_with("blat: the master went away; the tags stay"), "{}", ran.err);
    assert_eq!(scratch.files("tags/perth"), ["core@1"]);
}

/// What the agent's executable prints as its plan.
const PLAN: &str = r#"{"wanted":3,"present":1,"steps":[{"action":"send","package":"core@1.2.3","time":0,"bytes":12687770,
"entries":9,"reasons":[{"release":{"id":4711,"name":"Perth 7.1"}}]}],"held":[{"package":"late@1","hold":"incomplete"}],
"excess":[],"unknown":[]}"#;

#[test]
fn a_plan_is_the_agents_own() {
    let script =
        format!("test \"$6\" = $PPID && echo \"$1 $2 $3 $4 $5 $7\" > asked; cat <<'E'\n{}\nE", PLAN.replace('\n', ""));
    let scratch = Scratch::with_targets(&["perth"]).with_sibling("blat-agent", &script);
    let ran = scratch.blat(&["plan", "perth"]).exits(0);
    let expected = "\
3 wanted, 1 present, 1 to send (12.1 MiB), 1 held, 0 extra
send  core@1.2.3  12.1 MiB  release Perth 7.1 (4711)
hold  late@1  waits: the source has no descpkg for it yet
";
    assert_eq!(ran.out, expected);
    let home = scratch.home();
    assert_eq!(
        scratch.read("asked"),
        format!("--home {} --target perth --with-parent --plan\n", home.root().display())
    );
    assert_eq!(scratch.blat(&["plan", "perth", "--json"]).exits(0).out, PLAN.replace('\n', "") + "\n");
}

#[test]
fn a_plan_that_cannot_be_made_has_the_agents_words_and_code() {
    let scratch = Scratch::with_targets(&["perth"])
        .with_sibling("blat-agent", "echo 'blat-agent: another agent serves perth' >&2; exit 75");
    for words in [&["plan", "perth"][..], &["plan", "perth", "--json"]] {
        let ran = scratch.blat(words).exits(75);
        assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", "blat-agent: another agent serves perth\n"));
    }
    scratch.blat(&["plan", "nobody"]).exits(2);
}

#[test]
fn a_log_is_printed_without_what_could_disturb_a_terminal() {
    let scratch = Scratch::with_targets(&["perth"]);
    let ran = scratch.blat(&["logs", "perth"]).exits(1);
    assert!(ran.err.starts_with("blat: target perth has no log, and no agent runs that writes one\n"), "{}", ran.err);
    scratch.blat(&["logs", "nobody"]).exits(2);
    let long = "x".repeat(100_000);
    scratch.write("log/perth.log", &format!("one\ntwo\u{1b}[2J\n{long}\nunfinished"));
    let ran = scratch.blat(&["logs", "perth"]).exits(0);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[..2], ["one", "two\\u{1b}[2J"]);
    assert_eq!(lines[2..lines.len() - 1].concat(), long);
    assert_eq!(lines[lines.len() - 1], "unfinished");
}

#[test]
fn a_followed_log_goes_on_after_it_is_rolled() {
    let scratch = Scratch::with_targets(&["perth"]);
    scratch.write("log/perth.log", "one\n");
    let mut child = scratch.command(&["logs", "perth", "--follow"]).stdout(Stdio::piped()).spawn().expect("blat runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut next = || lines.next().expect("it goes on").expect("a line");
    assert_eq!(next(), "one");
    let mut log = File::options().append(true).open(scratch.path("log/perth.log")).expect("the log");
    write!(log, "tw").expect("the beginning of a line");
    writeln!(log, "o").expect("its end");
    assert_eq!(next(), "two");
    fs::rename(scratch.path("log/perth.log"), scratch.path("log/perth.log.1")).expect("a roll");
    writeln!(log, "last of the old").expect("a late line");
    scratch.write("log/perth.log", "first of the new\n");
    assert_eq!((next(), next()), ("last of the old".into(), "first of the new".into()));
    child.kill().expect("it runs until it is interrupted");
    child.wait().expect("it ends");
}
