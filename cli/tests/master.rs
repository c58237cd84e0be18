//! What is asked of the master, and what is made of its answers.

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use blat_domain::protocol::messages::{Answer, MasterRequest};
use blat_domain::protocol::status::{LastError, Queue, State, SyncResult};
use serde_json::Value;
use support::{FakeMaster, Scratch, eventually, report, status, time};

/// A master that only knows its status.
fn knows(scratch: &Scratch, names: &[&str]) -> FakeMaster {
    let status = status(&scratch.home(), names);
    FakeMaster::start(&scratch.home(), move |_| vec![Answer::Status(status.clone())])
}

fn finished(target: &str, result: SyncResult, text: Option<&str>) -> Answer {
    let error = text.map(|text| LastError { at: time(), package: None, text: text.into(), retry_at: None });
    Answer::SyncFinished { target: target.parse().expect("a target name"), report: Some(report(result)), error }
}

fn progress(target: &str) -> Answer {
    let target = target.parse().expect("a target name");
    Answer::Progress { target, state: State::Syncing, queue: Queue::default(), current: None }
}

/// All paths to fields of a value, with array elements as one.
fn keys(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            let path = format!("{path}.{name}");
            keys(value, &path, into);
            into.insert(path);
        }),
        Value::Array(elements) => elements.iter().for_each(|element| keys(element, path, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn status_json_has_just_the_documented_keys() {
    let scratch = Scratch::with_targets(&["perth"]);
    let _master = knows(&scratch, &["perth"]);
    let ran = scratch.blat(&["status", "--json"]).exits(0);
    assert_eq!(ran.out.lines().count(), 1);
    let mut found = BTreeSet::new();
    keys(&serde_json::from_str(&ran.out).expect("json"), "", &mut found);
    let expected = "
        .home .supervisor .supervisor.pid .supervisor.version .supervisor.started
        .supervisor.last_error .targets
        .targets.name .targets.type .targets.pid .targets.restarts .targets.since .targets.state
        .targets.last_sync .targets.last_sync.started .targets.last_sync.finished .targets.last_sync.result
        .targets.last_sync.wanted .targets.last_sync.present .targets.last_sync.sent .targets.last_sync.failed
        .targets.last_sync.marked .targets.last_sync.deleted .targets.last_sync.bytes
        .targets.last_sync.snapshot .targets.last_sync.held_back .targets.last_sync.held
        .targets.last_sync.held_packages .targets.last_sync.held_packages.package .targets.last_sync.held_packages.why
        .targets.queue .targets.queue.tags .targets.queue.packages .targets.queue.bytes
        .targets.current .targets.current.package .targets.current.done .targets.current.total
        .targets.last_error .targets.last_error.at .targets.last_error.package .targets.last_error.text
        .targets.last_error.retry_at .targets.far_end .targets.far_end.kind .targets.far_end.restricted .targets.far_end.scripts .targets.waits_for
        .targets.leftovers .targets.leftovers.path .targets.leftovers.owner .targets.leftovers.text
        .targets.config .targets.config.path .targets.config.loaded .targets.config.error";
    assert_eq!(found, expected.split_whitespace().map(str::to_owned).collect());
}

#[test]
fn status_is_plain_when_piped() {
    let scratch = Scratch::with_targets(&["perth"]);
    let _master = knows(&scratch, &["perth"]);
    let ran = scratch.blat(&["status"]).exits(0);
    assert!(ran.out.starts_with("TARGET  STATE"), "{}", ran.out);
    assert!(ran.out.contains("syncing") && ran.out.contains("core@1.2.3 50%"), "{}", ran.out);
    assert!(ran.out.contains("\n    held: late@1: waits: still writable\n"), "{}", ran.out);
    assert!(ran.out.contains("\n    core@1.2.3: the target is full\n") && !ran.out.contains('\u{1b}'), "{}", ran.out);
}

#[test]
fn without_a_master_the_last_known_state_is_shown() {
    let scratch = Scratch::with_targets(&["perth"]);
    let last = serde_json::to_string(&status(&scratch.home(), &["perth"])).expect("json");
    scratch.write("state/status.json", &last);
    // What a master that was killed leaves behind.
    drop(std::os::unix::net::UnixListener::bind(scratch.path("run/blatd.sock")).expect("a socket"));
    let ran = scratch.blat(&["status"]).exits(69);
    assert!(ran.err.starts_with("blat: no master is running (blat start); last known state of 20"), "{}", ran.err);
    assert!(ran.out.contains("stopped") && ran.out.contains("512/512"), "{}", ran.out);
    let json: Value = serde_json::from_str(&scratch.blat(&["status", "--json"]).exits(69).out).expect("json");
    let target = &json["targets"][0];
    assert_eq!((&json["supervisor"], &target["pid"], &target["current"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!((target["state"].as_str(), &target["last_sync"]["sent"]), (Some("stopped"), &Value::from(3)));
}

#[test]
fn a_damaged_last_state_is_told_apart_from_none() {
    let scratch = Scratch::with_targets(&["perth"]);
    let ran = scratch.blat(&["status"]).exits(69);
    assert!(ran.err.contains("nothing is known of an earlier one") && ran.out.is_empty(), "{}", ran.err);
    scratch.write("state/status.json", "{\"home\":");
    let ran = scratch.blat(&["status"]).exits(69);
    assert!(ran.err.contains("cannot read") && ran.err.contains("state/status.json"), "{}", ran.err);
}

#[test]
fn watching_in_json_is_one_object_a_line() {
    let scratch = Scratch::with_targets(&["perth"]);
    let _master = knows(&scratch, &["perth"]);
    let mut child =
        scratch.command(&["status", "--json", "--watch"]).stdout(Stdio::piped()).spawn().expect("blat runs");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().take(2);
    for line in lines {
        let value: Value = serde_json::from_str(&line.expect("a line")).expect("one object a line");
        assert_eq!(value["targets"][0]["name"], "perth");
    }
    // The reader is gone now, so it ends by itself, and is content.
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn what_is_not_a_masters_answer_is_a_clear_failure() {
    let scratch = Scratch::with_targets(&["perth"]);
    let _master = FakeMaster::start(&scratch.home(), |_| vec![]);
    let ran = scratch.blat(&["status"]).exits(1);
    assert_eq!(ran.err, "blat: the master closed the connection without an answer\n");
}

#[test]
fn a_sync_that_is_not_awaited_is_only_asked_for() {
    let scratch = Scratch::with_targets(&["perth"]);
    let master = FakeMaster::start(&scratch.home(), |_| vec![Answer::Accepted { pid: 42 }]);
    let ran = scratch.blat(&["sync", "perth"]).exits(0);
    assert_eq!(ran.out, "sync of perth asked for\n");
    let targets = vec!["perth".parse().expect("a target name")];
    assert_eq!(master.requests(), [MasterRequest::Sync { targets, wait: false, allow_delete: false }]);
}

#[test]
fn a_confirmed_deletion_is_passed_on() {
    let scratch = Scratch::with_targets(&["perth"]);
    let master = FakeMaster::start(&scratch.home(), |_| vec![Answer::Accepted { pid: 42 }]);
    scratch.blat(&["sync", "perth", "--allow-delete"]).exits(0);
    let targets = vec!["perth".parse().expect("a target name")];
    assert_eq!(master.requests(), [MasterRequest::Sync { targets, wait: false, allow_delete: true }]);
}

#[test]
fn awaited_syncs_take_a_line_each_and_decide_the_exit_code() {
    let scratch = Scratch::with_targets(&["perth", "sydney"]);
    let results = Mutex::new(vec![SyncResult::Failed, SyncResult::Ok]);
    let master = FakeMaster::start(&scratch.home(), move |_| {
        let second = results.lock().expect("no panic").pop().expect("two runs");
        let text = (second == SyncResult::Failed).then_some("the target is full\u{1b}");
        vec![
            progress("perth"),
            progress("sydney"),
            finished("perth", SyncResult::Ok, None),
            finished("sydney", second, text),
        ]
    });
    let ran = scratch.blat(&["sync", "--wait"]).exits(0);
    let line = "ok · 512/512 · sent 3 · 1.0 KiB in 0ms";
    assert_eq!(ran.out, format!("perth: {line}\nsydney: {line}\n"));
    assert_eq!(master.requests(), [MasterRequest::Sync { targets: vec![], wait: true, allow_delete: false }]);
    let ran = scratch.blat(&["sync", "--wait"]).exits(1);
    assert!(ran.out.contains("sydney: failed") && ran.out.ends_with("the target is full\\u{1b}\n"), "{}", ran.out);
    assert_eq!(ran.err, "blat: 1 of 2 syncs failed\n");
}

#[test]
fn an_awaited_sync_without_its_end_is_a_failure() {
    let scratch = Scratch::with_targets(&["perth"]);
    let _master = FakeMaster::start(&scratch.home(), |_| vec![progress("perth")]);
    let ran = scratch.blat(&["sync", "perth", "--wait"]).exits(1);
    assert_eq!(ran.err, "blat: the master went away before the sync of perth ended\n");
}

#[test]
fn a_refusal_comes_with_the_masters_words_and_code() {
    let scratch = Scratch::with_targets(&["perth"]);
    let _master = FakeMaster::start(&scratch.home(), |_| {
        vec![Answer::Refused { error: "the config of perth is not valid\u{1b}[2J".into(), exit_code: 78 }]
    });
    for words in [&["sync", "perth"][..], &["sync", "perth", "--wait"]] {
        let ran = scratch.blat(words).exits(78);
        assert_eq!(ran.err, "blat: the config of perth is not valid\\u{1b}[2J\n");
    }
}

#[test]
fn a_sync_needs_a_master() {
    let scratch = Scratch::with_targets(&["perth"]);
    let ran = scratch.blat(&["sync"]).exits(69);
    assert_eq!(ran.err, "blat: no master is running\nhint: start it with `blat start`\n");
}

#[test]
fn starting_a_running_master_does_nothing() {
    let scratch = Scratch::with_targets(&[]).with_sibling("blatd", "echo started > started");
    let _master = knows(&scratch, &[]);
    assert_eq!(scratch.blat(&["start"]).exits(0).out, "already running, pid 42\n");
    assert!(!scratch.path("started").exists());
}

#[test]
fn a_master_that_does_not_come_up_says_why() {
    let script = "echo 'blatd: another master runs, pid 7' >&2; echo '  more\x1b' >&2; exit 1";
    let scratch = Scratch::with_targets(&[]).with_sibling("blatd", script);
    let ran = scratch.blat(&["start"]).exits(1);
    let expected = "blat: the master did not start (exit code 1): another master runs, pid 7\nhint: more\\u{1b}\n";
    assert_eq!(ran.err, expected);
    let scratch = Scratch::with_targets(&[]).with_sibling("blatd", "exit 78");
    let ran = scratch.blat(&["start"]).exits(78);
    assert!(ran.err.contains("it ended with exit code 78") && ran.err.contains("log/blatd.log"), "{}", ran.err);
}

#[test]
fn the_master_gets_a_session_of_its_own() {
    let script = "echo \"$$ $(ps -o sid= -p $$) $*\" > session; exit 1";
    let scratch = Scratch::with_targets(&[]).with_sibling("blatd", script);
    scratch.blat(&["start"]).exits(1);
    let session = scratch.read("session");
    let words: Vec<&str> = session.split_whitespace().collect();
    assert_eq!(words[0], words[1], "it does not lead its session: {session}");
    assert_eq!(words[2..], ["--home", scratch.home().root().to_str().expect("UTF-8")]);
}

/// How many processes a process holds handles on.
fn awaited_by(pid: u32) -> usize {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let links = descriptors.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().contains("pidfd")).count()
}

#[test]
fn stopping_waits_until_the_master_and_its_agents_are_gone() {
    let scratch = Scratch::with_targets(&["perth"]);
    let processes: Vec<_> = (0..2).map(|_| Command::new("sleep").arg("600").spawn().expect("sleep runs")).collect();
    let pids: Vec<u32> = processes.iter().map(std::process::Child::id).collect();
    let mut known = status(&scratch.home(), &["perth"]);
    known.targets[0].pid = Some(pids[0]);
    let master = pids[1];
    let _fake = FakeMaster::start(&scratch.home(), move |request| match request {
        MasterRequest::Stop => vec![Answer::Accepted { pid: master }],
        MasterRequest::Status | MasterRequest::Sync { .. } => vec![Answer::Status(known.clone())],
    });
    let mut child = scratch.command(&["stop"]).stdout(Stdio::piped()).spawn().expect("blat runs");
    for (index, mut process) in processes.into_iter().enumerate() {
        let left = 2 - index;
        eventually("blat stop waits for all that is left", || {
            assert!(child.try_wait().expect("it can be asked").is_none(), "stopped while {left} processes were left");
            awaited_by(child.id()) == left
        });
        process.kill().expect("it runs");
        process.wait().expect("it ends");
    }
    eventually("blat stop ends", || child.try_wait().expect("it can be asked").is_some());
    let output = child.wait_with_output().expect("it ended");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"stopped\n"[..]));
}

#[test]
fn stopping_what_does_not_run_is_done_already() {
    assert_eq!(Scratch::with_targets(&[]).blat(&["stop"]).exits(0).out, "not running\n");
}
