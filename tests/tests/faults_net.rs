//! Networks as bad as they come, made by a link of the lab's own between agent and sshd: what is lost, late or narrow costs time and nothing
//! else, and a link that is dead in one direction or for long packets is given up and named.

use std::fs;

use blat_tests::relay::Relay;
use blat_tests::tunnel::Tunnel;
use blat_tests::{Lab, process};

/// A lab whose target is reached over a link of its own.
fn lab(name: &str) -> (Lab, Tunnel, Relay) {
    let lab = Lab::new(name);
    let text = fs::read_to_string(lab.home().join("../sshd/known_hosts")).expect("the lab's own");
    let (name, key) = text.trim().split_once(' ').expect("a name and a key");
    let sshd = name.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let mut tunnel = None;
    let relay = Relay::listening(sshd, |port| {
        let made = Tunnel::to(port);
        let near = made.near.clone();
        tunnel = Some(made);
        near
    });
    let tunnel = tunnel.expect("it was asked for");
    let known = lab.home().join("ssh/known_hosts");
    fs::write(&known, format!("[{}]:{} {key}\n", tunnel.far, relay.port)).expect("an own folder");
    lab.config(
        "perth",
        &format!("host: {}\nport: {}\nknown_hosts: ssh/known_hosts\ntag_poll: 1s", tunnel.far, relay.port),
    );
    (lab, tunnel, relay)
}

/// One package of many files and one of this many bytes, wanted.
fn fill(lab: &Lab, version: &str, bytes: usize) {
    lab.package("big", version, |p| p.noise("a", bytes));
    lab.package("files", version, |p| (0..50).fold(p, |p, n| p.noise(&format!("d{}/{n}", n % 5), 300)));
    lab.release(&[("big", version), ("files", version)]);
}

fn assert_there(lab: &Lab, version: &str) {
    lab.assert_published("big", version);
    lab.assert_published("files", version);
    lab.assert_never_partial();
}

/// Three packets of ten are lost, either way. TCP comes through, slowly, and nothing takes it for dead.
#[test]
fn as_root_faults_long_a_link_that_loses_three_packets_of_ten_is_slow_and_nothing_else() {
    let (lab, mut tunnel, _relay) = lab("lossy");
    tunnel.set("loss 0.3");
    fill(&lab, "1", 64 << 10);
    // A connection may fail to come about; whoever tries again gets on.
    let tried = (0..6).find(|_| lab.agent_once("perth").code == Some(0));
    assert!(tried.is_some(), "six syncs came to nothing");
    assert_there(&lab, "1");
}

/// 256 kbit a second, behind a queue of two seconds that the stream keeps full: heartbeats come late, and no connection is given up.
#[test]
fn as_root_faults_long_a_link_of_256_kbit_is_slow_and_not_dead() {
    let (lab, mut tunnel, relay) = lab("narrow");
    fill(&lab, "1", 1000);
    lab.agent_once("perth").expect_success();
    tunnel.set("rate 32000");
    fill(&lab, "2", 3 << 20);
    let before = relay.sent();
    lab.agent_once("perth").expect_success();
    assert_there(&lab, "2");
    let sent = relay.sent() - before;
    assert!(sent < 4 << 20, "{sent} bytes: something was sent twice");
}

/// A link that carries what the agent sends, and nothing back; then one that carries short packets alone, as behind a router that says nothing of
/// its narrower link. TCP itself would wait without end in both cases.
#[test]
fn as_root_faults_long_links_that_carry_one_way_or_short_packets_alone_are_given_up_and_the_next_serves() {
    for (name, dead, sound) in [("oneway", "oneway 1", "oneway 0"), ("narrowed", "largest 600", "largest 65535")] {
        let (mut lab, mut tunnel, _relay) = lab(name);
        fill(&lab, "1", 1000);
        lab.start_master();
        let idle = |status: &serde_json::Value| status["state"] == "idle" && status["last_sync"]["result"] == "ok";
        let agent = lab.wait_for_status("perth", "idle", idle)["pid"].clone();
        tunnel.set(dead);
        lab.package("big", "2", |p| p.noise("a", 1 << 20));
        let tag = lab.drop_tag("perth", "big", "2");
        let found = process::poll(process::DEADLINE * 3, || {
            let status = lab.target_status("perth");
            status["last_error"]["text"].as_str().map(str::to_owned)
        });
        println!("{dead}: {}", found.expect("a link that is given up"));
        assert!(tag.exists(), "{dead}: it is not there yet");
        tunnel.set(sound);
        let there = process::poll(process::DEADLINE * 3, || lab.visible().contains(&"big@2".to_owned()).then_some(()));
        there.expect("the next link serves");
        lab.assert_never_partial();
        assert_eq!(lab.target_status("perth")["pid"], agent, "{dead}: no reason for an agent to end");
    }
}

/// 150 ms to the other end and back: two hundred packages do not take a round trip each.
#[test]
fn as_root_faults_long_over_a_far_link_packages_do_not_wait_for_each_other() {
    let (lab, mut tunnel, relay) = lab("faraway");
    fill(&lab, "1", 1000);
    lab.agent_once("perth").expect_success();
    tunnel.set("delay 0.075");
    let names: Vec<String> = (0..200).map(|number| format!("small{number}")).collect();
    names.iter().for_each(|name| drop(lab.package(name, "1", |p| p.file("a", name.as_str()))));
    lab.release(&names.iter().map(|name| (name.as_str(), "1")).collect::<Vec<_>>());
    let before = relay.turns();
    lab.agent_once("perth").expect_success();
    let turns = relay.turns() - before;
    println!("{turns} times the agent spoke after the target had");
    assert_eq!(lab.package_list().len(), 200);
    assert!(turns < 150, "{turns} turns for 200 packages");
}
