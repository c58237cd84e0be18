//! An agent that waits for a dead target is quiet: it reports a state that does not change at each heartbeat, and not more often. It reports the
//! result of a sync together with its error.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Longer than a few ticks of the loop, shorter than a heartbeat.
const LISTEN: Duration = Duration::from_secs(4);

/// An agent of a target that refuses everything, with what it tells its master.
fn agent_of_a_dead_target(home: &tempfile::TempDir) -> (Child, mpsc::Receiver<String>) {
    fs::create_dir(home.path().join("config")).expect("config/");
    fs::create_dir(home.path().join("source")).expect("source/");
    // A local target whose archive does not exist is refused at once, and tried again only after seconds.
    let config = "transport: local\narchive: /nonexistent/archive\nbin: /nonexistent/bin\nsource: source\n";
    fs::write(home.path().join("config/t.conf"), config).expect("a config");

    let mut agent = Command::new(env!("CARGO_BIN_EXE_blat-agent"))
        .args(["--target", "t", "--supervised", "--home"])
        .arg(home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the agent");
    let output = BufReader::new(agent.stdout.take().expect("a pipe"));
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    (agent, lines)
}

/// The end of its input is the end of its master.
fn end(mut agent: Child) {
    drop(agent.stdin.take());
    assert!(agent.wait().expect("it ends").success());
}

#[test]
fn how_a_sync_went_and_what_went_wrong_are_told_in_one() {
    let home = tempfile::tempdir().expect("a scratch directory");
    let (agent, lines) = agent_of_a_dead_target(&home);
    let mut state = String::new();
    loop {
        let line = lines.recv_timeout(Duration::from_secs(60)).expect("the agent tells how its sync went");
        let is_state = line.contains("\"event\":\"report\"");
        if !is_state {
            break;
        }
        let is_failed = line.contains("\"result\":\"failed\"");
        assert_eq!(is_failed, !line.contains("\"last_error\":null"), "both or neither: {line}");
        state = line;
    }
    assert!(state.contains("\"result\":\"failed\""), "the state comes before the word that the sync ended: {state}");
    end(agent);
}

#[test]
fn waiting_for_a_dead_target_is_told_once_and_not_again_and_again() {
    let home = tempfile::tempdir().expect("a scratch directory");
    let (agent, lines) = agent_of_a_dead_target(&home);
    let waiting = |line: &str| line.contains("\"state\":\"waiting\"");
    let mut first = String::new();
    while !waiting(&first) {
        first = lines.recv_timeout(Duration::from_secs(60)).expect("the agent tells that it waits");
    }
    std::thread::sleep(LISTEN);
    let more: Vec<String> = lines.try_iter().filter(|line| waiting(line)).collect();
    // It may have tried again in between, which is a change; hundreds of the same state are not.
    assert!(more.len() <= 8, "{} reports of one state, such as\n{first}\n{}", more.len(), more.join("\n"));
    end(agent);
}
