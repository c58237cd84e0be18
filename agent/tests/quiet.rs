//! An agent that waits for a dead target is quiet: a state that does not change is told as a heartbeat, not as fast as a pipe takes it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Longer than a few ticks of the loop, shorter than a heartbeat.
const LISTEN: Duration = Duration::from_secs(4);

#[test]
fn waiting_for_a_dead_target_is_told_once_and_not_again_and_again() {
    let home = tempfile::tempdir().expect("a scratch directory");
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

    let waiting = |line: &str| line.contains("\"state\":\"waiting\"");
    let mut first = String::new();
    while !waiting(&first) {
        first = lines.recv_timeout(Duration::from_secs(60)).expect("the agent tells that it waits");
    }
    std::thread::sleep(LISTEN);
    let more: Vec<String> = lines.try_iter().filter(|line| waiting(line)).collect();
    // It may have tried again in between, which is a change; hundreds of the same state are not.
    assert!(more.len() <= 8, "{} reports of one state, such as\n{first}\n{}", more.len(), more.join("\n"));

    // The end of its input is the end of its master.
    drop(agent.stdin.take());
    assert!(agent.wait().expect("it ends").success());
}
