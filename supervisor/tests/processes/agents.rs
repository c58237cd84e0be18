//! What the master does with its agents: real processes, with a shell script in the agents' place.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use crate::house::{House, lives, signal};
use blat_domain::protocol::status::State;
use rustix::process::Signal;

fn idle(house: &House, target: &str) -> bool {
    house.target(target).is_some_and(|target| target.state == State::Idle)
}

#[test]
fn one_agent_a_target_from_start_to_stop() {
    let mut house = House::new();
    house.targets(["oslo", "perth"]);
    house.start(&[]);
    house.until("both are idle", |house| idle(house, "oslo") && idle(house, "perth"));
    let status = house.status();
    assert_eq!(status.supervisor.expect("it runs").pid.to_string(), read(&house, "run/blatd.pid").trim());
    for target in status.targets {
        assert_eq!(target.pid.map(|pid| vec![pid]), Some(house.started(target.name.as_str())));
        assert_eq!((target.kind.as_str(), target.restarts), ("dpkg_archive", 0));
    }
    house.stop();
    for target in ["oslo", "perth"] {
        assert_eq!(house.seen(target).last().map(String::as_str), Some("term"));
        assert!(!lives(house.started(target)[0]));
    }
    assert!(!house.path("run/blatd.pid").exists() && !house.path("run/blatd.sock").exists());
    let saved: blat_domain::protocol::status::Status =
        serde_json::from_str(&read(&house, "state/status.json")).expect("JSON");
    assert!(saved.supervisor.is_none() && saved.targets.iter().all(|target| target.state == State::Stopped));
}

fn read(house: &House, path: &str) -> String {
    fs::read_to_string(house.path(path)).expect(path)
}

#[test]
fn an_agent_that_is_killed_comes_back_and_its_neighbour_notices_nothing() {
    let mut house = House::new();
    house.targets(["oslo", "perth"]);
    house.start(&[]);
    house.until("both are idle", |house| idle(house, "oslo") && idle(house, "perth"));
    signal(house.started("perth")[0], Signal::KILL);
    house.until("it is waited for", |house| house.target("perth").is_some_and(|t| t.state == State::Waiting));
    let trouble = house.target("perth").and_then(|target| target.last_error).expect("a cause");
    assert!(trouble.text.contains("signal 9"), "{}", trouble.text);
    let wait = trouble.retry_at.expect("it is started again").duration_since(trouble.at);
    assert!(wait.as_millis() >= 1_000, "{wait:?}");
    house.until("a new one is idle", |house| idle(house, "perth"));
    let target = house.target("perth").expect("it is there");
    assert_eq!((target.restarts, target.last_error), (1, None));
    assert_eq!((house.started("perth").len(), house.started("oslo").len()), (2, 1));
}

#[test]
fn an_agent_that_exits_at_once_is_started_again_ever_more_slowly_and_says_why() {
    let mut house = House::new();
    house.targets(["oslo", "perth"]);
    house.behaviour("perth", "echo 'blat-agent: no luck' >&2; exit 3");
    house.start(&[]);
    let (mut waits, mut told) = (Vec::new(), None);
    house.until("three waits were seen", |house| {
        if let Some((at, retry_at)) = house.target("perth").and_then(|target| {
            let trouble = target.last_error.filter(|_| target.state == State::Waiting)?;
            assert!(trouble.text.contains("code 3") && trouble.text.contains("no luck"), "{}", trouble.text);
            Some((trouble.at, trouble.retry_at?))
        }) {
            // The end of one wait is worked out anew for each answer, by two clocks, which are microseconds apart.
            if told.replace(at) != Some(at) {
                waits.push((retry_at.duration_since(at).as_micros() + 500) / 1_000);
            }
        }
        waits.len() >= 3
    });
    assert!(waits[0] < waits[1] && waits[1] < waits[2] && waits[0] >= 1_000, "{waits:?}");
    assert_eq!(house.started("oslo").len(), 1);
}

#[test]
fn an_agent_that_refuses_its_config_is_left_alone_until_that_changes() {
    let mut house = House::new();
    house.targets(["perth"]);
    house.behaviour("perth", "[ -f \"$home/good\" ] || exit 78");
    house.start(&[]);
    house.until("it is misconfigured", |house| house.target("perth").is_some_and(|t| t.state == State::Misconfigured));
    fs::write(house.path("good"), "").expect("writable");
    house.targets(["oslo"]);
    house.until("the other one is there", |house| idle(house, "oslo"));
    assert_eq!(house.started("perth").len(), 1);
    house.configure("perth", &house.config("perth", "changed"));
    house.until("it runs", |house| idle(house, "perth"));
}

#[test]
fn an_agent_that_will_not_end_is_killed_with_all_its_group() {
    let mut house = House::new();
    house.targets(["perth"]);
    house.behaviour("perth", "trap 'got=1; note term' TERM; sh -c 'trap \"\" TERM; sleep 1000' & note start $!");
    house.start(&["--grace", "1"]);
    house.until("it is idle", |house| idle(house, "perth"));
    let processes = house.started("perth");
    assert_eq!(processes.len(), 2);
    fs::remove_file(house.path("config/perth.conf")).expect("it was there");
    house.until("the target is gone", |house| house.target("perth").is_none());
    house.until("its processes are gone", |_| !processes.iter().any(|pid| lives(*pid)));
    assert!(house.seen("perth").contains(&"term".to_owned()), "it was asked first");
}

#[test]
fn what_an_agent_leaves_behind_ends_with_it() {
    let mut house = House::new();
    house.targets(["perth"]);
    house.behaviour("perth", "sleep 1000 & note start $!");
    house.start(&[]);
    house.until("it is idle", |house| idle(house, "perth"));
    let processes = house.started("perth");
    signal(processes[0], Signal::KILL);
    house.until("its child is gone", |_| !lives(processes[1]));
}

#[test]
fn a_second_request_to_stop_kills() {
    let mut house = House::new();
    house.targets(["perth"]);
    house.behaviour("perth", "trap 'got=1; note term' TERM");
    house.start(&["--grace", "10000"]);
    house.until("it is idle", |house| idle(house, "perth"));
    house.signal(Signal::TERM);
    house.until("it was asked", |house| house.seen("perth").contains(&"term".to_owned()));
    assert!(idle(&house, "perth"), "the status is still answered");
    house.signal(Signal::INT);
    assert!(house.ended().success());
    assert!(!lives(house.started("perth")[0]));
}

#[test]
fn agents_leave_when_the_master_is_killed_and_the_next_master_starts_cleanly() {
    let mut house = House::new();
    let targets = ["berlin", "oslo", "perth", "rome", "york"];
    house.targets(targets);
    house.start(&[]);
    house.until("all are idle", |house| targets.iter().all(|target| idle(house, target)));
    house.signal(Signal::KILL);
    assert_eq!(house.ended().signal(), Some(9));
    // Each sees the end of its input only if nobody else holds the other end, least of all a younger agent.
    house.until("all left", |house| targets.iter().all(|target| house.seen(target).last().is_some_and(|l| l == "eof")));
    assert!(house.path("run/blatd.pid").exists(), "this is what the next one has to cope with");
    house.start(&[]);
    house.until("all are idle again", |house| targets.iter().all(|target| idle(house, target)));
    house.stop();
}

#[test]
fn a_missing_executable_is_waited_for() {
    let mut house = House::new();
    house.targets(["perth"]);
    fs::remove_file(house.agent()).expect("it was there");
    house.start(&[]);
    house.until("it is waited for", |house| house.target("perth").is_some_and(|t| t.state == State::Waiting));
    let trouble = house.target("perth").and_then(|target| target.last_error).expect("a cause");
    assert!(trouble.text.contains("cannot start the agent") && trouble.retry_at.is_some(), "{}", trouble.text);
    house.install_agent();
    house.until("it runs", |house| idle(house, "perth"));
    assert_eq!(house.target("perth").expect("it is there").restarts, 0);
}

#[test]
fn garbage_from_an_agent_is_survived() {
    let mut house = House::new();
    house.targets(["perth"]);
    house.behaviour(
        "perth",
        "printf 'no json\\n{\"event\":\"unheard-of\"}\\n\\033[31m\\377\\n'
         head -c 3000000 /dev/zero; echo
         head -c 3000000 /dev/zero >&2; yes complaint | head -n 5000 >&2",
    );
    house.start(&[]);
    house.until("its report is heard", |house| idle(house, "perth"));
    house.stop();
    let log = read(&house, "log/blatd.log");
    assert!(log.contains("no json") && log.contains("unheard-of") && !log.contains('\u{1b}'), "{log}");
    assert!(log.lines().count() < 400, "it filled the log: {} lines", log.lines().count());
}

#[test]
fn five_hundred_targets_are_started_and_stopped() {
    let mut house = House::new();
    let targets: Vec<String> = (0..500).map(|number| format!("t{number}")).collect();
    house.targets(targets.iter().map(String::as_str));
    house.start(&[]);
    house.until("all are idle", |house| {
        let status = house.status();
        status.targets.len() == 500 && status.targets.iter().all(|target| target.state == State::Idle)
    });
    let processes: Vec<u32> = house.status().targets.iter().filter_map(|target| target.pid).collect();
    house.stop();
    assert_eq!(processes.len(), 500);
    assert!(!processes.iter().any(|pid| lives(*pid)));
    assert!(targets.iter().all(|target| house.started(target).len() == 1), "one each");
}
