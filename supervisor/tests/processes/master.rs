//! The master towards its operator: configuration, signals, lock, socket. Real processes, a script for an agent.

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use crate::house::{House, lives};
use blat_config::{Home, socket};
use blat_domain::protocol::messages::{Answer, MasterRequest};
use blat_domain::protocol::status::State;
use rustix::process::Signal;

fn idle(house: &House, target: &str) -> bool {
    house.target(target).is_some_and(|target| target.state == State::Idle)
}

fn sync(targets: &[&str], wait: bool) -> MasterRequest {
    MasterRequest::Sync {
        targets: targets.iter().map(|target| target.parse().expect("a name")).collect(),
        wait,
        allow_delete: false,
    }
}

#[test]
fn new_changed_bad_and_removed_configs_take_effect_one_by_one() {
    let mut house = House::new();
    house.targets(["oslo"]);
    house.start(&[]);
    house.until("the first is idle", |house| idle(house, "oslo"));
    house.configure("perth", "source: [");
    house.until("a bad new one is shown", |house| house.target("perth").is_some_and(|t| t.config.error.is_some()));
    assert_eq!(house.target("perth").map(|target| target.state), Some(State::Misconfigured));
    house.targets(["perth"]);
    house.until("it runs once it is good", |house| idle(house, "perth"));

    let before = house.target("perth").expect("it is there");
    house.configure("perth", "source: [");
    house.until("the bad one is shown", |house| house.target("perth").is_some_and(|t| t.config.error.is_some()));
    let now = house.target("perth").expect("it is there");
    assert_eq!((now.pid, now.state, now.config.loaded), (before.pid, State::Idle, before.config.loaded));
    house.configure("perth", &house.config("perth", "second"));
    house.until("it re-reads the good one", |house| house.seen("perth").iter().any(|line| line.contains("# second")));
    assert_eq!(house.target("perth").and_then(|target| target.config.error), None);

    fs::write(house.path("config/blat.yaml"), "verbose: 2\n").expect("writable");
    house.until("a change of the defaults is a change for all", |house| {
        house.seen("oslo").iter().any(|line| line.starts_with("reload"))
    });
    fs::remove_file(house.path("config/perth.conf")).expect("it was there");
    house.until("it is gone", |house| house.target("perth").is_none());
    assert_eq!((house.started("perth").len(), house.started("oslo").len()), (1, 1), "nothing was restarted");
}

#[test]
fn a_change_that_no_notification_tells_of_is_found_by_looking() {
    let mut house = House::new();
    house.targets(["perth"]);
    fs::rename(house.path("config/perth.conf"), house.path("elsewhere")).expect("it can be moved");
    std::os::unix::fs::symlink(house.path("elsewhere"), house.path("config/perth.conf")).expect("a symlink");
    house.start(&[]);
    house.until("it is idle", |house| idle(house, "perth"));
    fs::write(house.path("elsewhere"), house.config("perth", "unwatched")).expect("writable");
    house.until("it is re-read", |house| house.seen("perth").iter().any(|line| line.contains("# unwatched")));
}

#[test]
fn a_config_directory_that_vanishes_is_not_an_empty_one() {
    let mut house = House::new();
    house.targets(["perth"]);
    house.start(&[]);
    house.until("it is idle", |house| idle(house, "perth"));
    fs::rename(house.path("config"), house.path("elsewhere")).expect("it can be moved");
    house.until("the log says so", |house| {
        fs::read_to_string(house.path("log/blatd.log")).is_ok_and(|log| log.contains("so nothing changes"))
    });
    assert!(idle(&house, "perth"));
    fs::rename(house.path("elsewhere"), house.path("config")).expect("it can be moved back");
    house.configure("perth", &house.config("perth", "moved"));
    house.until("changes are found again", |house| house.seen("perth").iter().any(|line| line.contains("# moved")));
    assert_eq!(house.started("perth").len(), 1);
}

#[test]
fn after_a_storm_of_changes_the_last_file_is_in_force() {
    let mut house = House::new();
    house.targets(["perth"]);
    house.start(&[]);
    house.until("it is idle", |house| idle(house, "perth"));
    for number in 0..60 {
        let text = house.config("perth", &format!("number {number}"));
        match number % 3 {
            0 => house.configure("perth", "]["),
            // Not in one step: cut short for a moment, as editors and copies do.
            1 => fs::write(house.path("config/perth.conf"), &text).expect("writable"),
            _ => house.configure("perth", &text),
        }
        std::thread::sleep(std::time::Duration::from_millis(if number % 5 == 0 { 60 } else { 3 }));
    }
    house.until("the last is read", |house| house.seen("perth").iter().any(|line| line.contains("# number 59")));
    house.until("no complaint is left", |house| house.target("perth").is_some_and(|t| t.config.error.is_none()));
    let reads: Vec<String> = house.seen("perth").into_iter().filter(|line| line.starts_with("reload")).collect();
    assert!(reads.last().is_some_and(|line| line.contains("# number 59")), "{reads:?}");
    assert_eq!(house.started("perth").len(), 1);
}

#[test]
fn a_storm_of_signals_is_passed_on_and_survived() {
    let mut house = House::new();
    house.targets(["perth"]);
    house.start(&[]);
    house.until("it is idle", |house| idle(house, "perth"));
    for _ in 0..1_000 {
        house.signal(Signal::USR1);
        house.signal(Signal::HUP);
    }
    for passed in ["usr1", "hup"] {
        house.until("it was passed on", |house| house.seen("perth").contains(&passed.to_owned()));
    }
    assert!(house.path("log/blatd.log.1").exists(), "HUP rolls the master's own log");
    assert_eq!(house.target("perth").map(|target| (target.restarts, target.state)), Some((0, State::Idle)));
    house.stop();
}

#[test]
fn a_second_master_names_the_first_and_leaves_it_alone() {
    let mut house = House::new();
    house.start(&[]);
    let second = house.command(&[]).stderr(Stdio::piped()).output().expect("it starts");
    let complaint = String::from_utf8_lossy(&second.stderr).into_owned();
    let first = house.status().supervisor.expect("it runs").pid;
    assert_eq!(second.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains(&format!("process {first}")), "{complaint}");
    house.stop();
}

#[test]
fn left_over_files_block_nothing_and_whoever_they_name_is_never_signalled() {
    let mut house = House::new();
    house.targets(["perth"]);
    let mut stranger = Command::new("sleep").arg("1000").spawn().expect("sleep");
    fs::create_dir(house.path("run")).expect("run/");
    for file in ["blatd.pid", "perth.pid", "blatd.sock"] {
        fs::write(house.path("run").join(file), format!("{}\n", stranger.id())).expect("a left-over file");
    }
    house.start(&[]);
    house.until("it is idle", |house| idle(house, "perth"));
    house.signal(Signal::USR1);
    house.signal(Signal::HUP);
    house.stop();
    assert!(lives(stranger.id()), "the stranger was signalled");
    stranger.kill().and_then(|()| stranger.wait()).expect("it is our child");
}

#[test]
fn removing_the_pid_file_stops_the_master() {
    let mut house = House::new();
    house.targets(["perth"]);
    house.start(&[]);
    house.until("it is idle", |house| idle(house, "perth"));
    fs::remove_file(house.path("run/blatd.pid")).expect("it was there");
    assert!(house.ended().success());
    assert_eq!(house.seen("perth").last().map(String::as_str), Some("term"));
}

#[test]
fn a_sync_is_ordered_awaited_and_answered_whatever_becomes_of_the_agent() {
    let mut house = House::new();
    house.targets(["oslo", "perth"]);
    house.configure("kaput", "source: [");
    house.start(&[]);
    house.until("both are idle", |house| idle(house, "oslo") && idle(house, "perth"));
    house.until("the bad one is shown", |house| house.target("kaput").is_some());
    assert!(matches!(house.ask(&sync(&[], false)).expect("an answer").as_slice(), [Answer::Accepted { .. }]));
    let answers = house.ask(&sync(&["oslo", "perth"], true)).expect("answers");
    let finished = |answers: &[Answer]| -> Vec<(String, bool)> {
        let mut ends: Vec<_> = answers
            .iter()
            .filter_map(|answer| match answer {
                Answer::SyncFinished { target, report, .. } => Some((target.to_string(), report.is_some())),
                Answer::Progress { .. } => None,
                other => panic!("{other:?}"),
            })
            .collect();
        ends.sort();
        ends
    };
    assert_eq!(finished(&answers), [("oslo".to_owned(), true), ("perth".to_owned(), true)]);
    assert!(house.target("oslo").is_some_and(|target| target.last_sync.is_some()));

    fs::write(house.path("behaviour/perth.dies"), "").expect("writable");
    let answers = house.ask(&sync(&[], true)).expect("answers");
    let ends = [("kaput".to_owned(), false), ("oslo".to_owned(), true), ("perth".to_owned(), false)];
    assert_eq!(finished(&answers), ends);
    let answers = house.ask(&sync(&["nowhere"], true)).expect("an answer");
    assert!(matches!(answers.as_slice(), [Answer::Refused { exit_code: 2, .. }]), "{answers:?}");
    let last = house.target("oslo").and_then(|target| target.last_sync);
    house.stop();
    house.behaviour("oslo", "sleep 1000");
    house.start(&[]);
    house.until("the next master knows it", |house| house.target("oslo").is_some());
    assert_eq!(house.target("oslo").and_then(|target| target.last_sync), last, "the next master remembers");
}

#[test]
fn stop_is_accepted_and_the_connection_ends_with_the_master() {
    let mut house = House::new();
    house.targets(["perth"]);
    house.start(&[]);
    house.until("it is idle", |house| idle(house, "perth"));
    let answers = house.ask(&MasterRequest::Stop).expect("an answer");
    assert!(matches!(answers.as_slice(), [Answer::Accepted { .. }]), "{answers:?}");
    assert!(house.ended().success());
}

#[test]
fn hostile_connections_harm_only_themselves_however_long_the_path_is() {
    let mut house = House::at(&"a-long-name/".repeat(15));
    house.targets(["perth"]);
    house.start(&[]);
    let home = Home::locate(Some(&house.path(""))).expect("a home tree");
    let connect = || socket::connect(&home).expect("a connection");
    let silent: Vec<_> = (0..60).map(|_| connect()).collect();
    let refusal = |text: &[u8]| {
        let mut stream = connect();
        // It may be refused before all of it is taken.
        let _ = stream.write_all(text);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    assert!(refusal(b"rubbish\n").contains("not understood"));
    assert!(refusal(b"\xff\xfe\n").contains("not understood"));
    refusal(&vec![b'x'; 3 << 20]);
    let mut half = connect();
    half.write_all(b"{\"request\":\"status\"}\n").expect("it is taken");
    half.shutdown(std::net::Shutdown::Write).expect("it is half closed");
    let mut answer = String::new();
    half.read_to_string(&mut answer).expect("an answer all the same");
    assert!(answer.contains("supervisor"), "{answer}");
    house.until("the status is still answered", |house| idle(house, "perth"));
    drop(silent);
    house.stop();
}

#[test]
fn without_a_home_tree_the_complaint_names_it() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let output = Command::new(env!("CARGO_BIN_EXE_blatd"))
        .args(["--home", &scratch.path().display().to_string()])
        .output()
        .expect("it starts");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && complaint.contains(&scratch.path().display().to_string()), "{complaint}");
}
