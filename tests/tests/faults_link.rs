//! Faults of the link, made by a relay between agent and sshd: what was cut, reset, damaged or swallowed is sent again, and no
//! partial package is ever visible.

use std::fs;
use std::time::{Duration, Instant};

use blat_tests::relay::{Fault, Relay};
use blat_tests::{Lab, process};
use rustix::process::Signal;

/// At least as much goes over the link in one sync, in bytes.
const BULK: u64 = 6 << 20;

/// How long a link flaps.
const FLAPPING: Duration = Duration::from_secs(600);

/// A lab whose target is reached through a relay.
fn lab(name: &str) -> (Lab, Relay) {
    let lab = Lab::new(name);
    let text = fs::read_to_string(lab.home().join("../sshd/known_hosts")).expect("the lab's own");
    let (name, key) = text.trim().split_once(' ').expect("a name and a key");
    let relay = Relay::to(name.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port"));
    let known = lab.home().join("ssh/known_hosts");
    fs::write(&known, format!("[127.0.0.1]:{} {key}\n", relay.port)).expect("an own folder");
    lab.config("perth", &format!("port: {}\nknown_hosts: ssh/known_hosts\ntag_poll: 1s", relay.port));
    (lab, relay)
}

/// Packages of this version, wanted besides what is wanted already: one of many files, one big one.
fn fill(lab: &Lab, versions: &[String]) {
    let newest = versions.last().expect("one version at least");
    lab.package("big", newest, |p| p.noise("a", 4 << 20).noise("b", 2 << 20));
    lab.package("files", newest, |p| (0..50).fold(p, |p, n| p.noise(&format!("d{}/{n}", n % 5), 300)));
    let wanted: Vec<_> = versions.iter().flat_map(|v| [("big", v.as_str()), ("files", v.as_str())]).collect();
    lab.release(&wanted);
}

/// Breaks one sync after each of these counts of bytes, then lets one through.
fn comes_through(name: &str, faults: &[Fault]) {
    let (lab, relay) = lab(name);
    let mut versions = Vec::new();
    for (round, fault) in faults.iter().enumerate() {
        versions.push(format!("1.{round}"));
        fill(&lab, &versions);
        relay.breaks(&[*fault]);
        let outcome = lab.agent_once("perth");
        println!("{fault:?}: ended with {:?}, {} packages are there", outcome.code, lab.visible().len());
        assert!(relay.all_broken(), "{outcome}");
        lab.assert_never_partial();
        if outcome.code == Some(0) {
            // The scripts may be there already, and what came in earlier rounds is not sent again: the link may be done before.
            assert_eq!(lab.visible().len(), versions.len() * 2, "{outcome}");
        } else {
            outcome.expect(1).says("perth");
        }
    }
    lab.agent_once("perth").expect_success();
    lab.assert_never_partial();
    assert_eq!(lab.visible().len(), versions.len() * 2);
    assert_eq!(lab.package_list().len(), versions.len() * 2);
    lab.wait_until_nothing_runs();
}

#[test]
fn a_link_that_is_cut_after_every_kth_byte_leaves_nothing_partial_and_the_next_sync_completes() {
    let early = [100, 1000, 3000, 5000, 8000, 20_000];
    let in_the_stream = (1..8).map(|part| BULK * part / 8);
    let faults: Vec<_> = early.into_iter().chain(in_the_stream).map(Fault::Cut).collect();
    comes_through("cut", &faults);
}

#[test]
fn a_link_that_is_reset_leaves_nothing_partial_and_the_next_sync_completes() {
    comes_through("reset", &[2000, 7000, BULK / 4, BULK / 2].map(Fault::Reset));
}

#[test]
fn a_flipped_bit_is_noticed_and_never_published() {
    comes_through("flipped", &[4000, 9000, BULK / 4, BULK / 2, BULK - 1000].map(Fault::Flip));
}

/// As sshd does beyond its `MaxStartups`: connections end before anybody has said who he is.
#[test]
fn a_host_that_refuses_connections_for_a_while_is_asked_again_by_the_same_agent() {
    let (mut lab, relay) = lab("startups");
    fill(&lab, &["1".to_owned()]);
    relay.breaks(&[Fault::Cut(0), Fault::Reset(0), Fault::Cut(0)]);
    lab.start_master();
    let refused = lab.wait_for_status("perth", "refused", |s| !s["last_error"].is_null());
    let text = refused["last_error"]["text"].as_str().unwrap_or_default().to_owned();
    assert!(text.contains("127.0.0.1"), "{text}");
    assert!(
        refused["last_error"]["retry_at"].is_number() || refused["last_error"]["retry_at"].is_string(),
        "{refused:#}"
    );
    let served = lab.wait_for_status("perth", "complete", |s| s["last_sync"]["result"] == "ok");
    assert!(relay.all_broken());
    assert_eq!((&served["pid"], &served["restarts"]), (&refused["pid"], &0.into()), "no reason for an agent to end");
    assert_eq!(lab.visible(), ["big@1", "files@1"]);
}

/// The name of a host that nobody knows is what the report names, by both clients.
#[test]
fn a_name_that_nobody_knows_is_named_and_another_one_serves() {
    let (lab, _relay) = lab("nameless");
    fill(&lab, &["1".to_owned()]);
    for transport in ["openssh", "libssh2"] {
        lab.config("perth", &format!("host: no-such-host.invalid\ntransport: {transport}"));
        let outcome = lab.agent_once("perth");
        outcome.expect(1).says("no-such-host.invalid");
        let is_named = ["resolve", "lookup"].iter().any(|word| outcome.stderr.contains(word));
        assert!(is_named, "{outcome}");
    }
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
}

/// For ten minutes a link breaks whenever it has carried something: the agent converges, keeps its process, and does not grow.
#[test]
fn faults_long_a_link_that_flaps_is_come_through_by_the_same_agent() {
    let (mut lab, relay) = lab("flaps");
    fill(&lab, &["1".to_owned()]);
    lab.start_master();
    let status = lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    let agent = status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a running agent");
    let before = process::memory(agent);

    relay.breaks(&[1000, 4000, 9000, 100_000, 1 << 20].map(Fault::Cut));
    let began = Instant::now();
    for round in 0.. {
        if began.elapsed() > FLAPPING {
            break;
        }
        let version = format!("2.{round}");
        lab.package("flap", &version, |p| p.noise("a", 2 << 20));
        let tag = lab.drop_tag("perth", "flap", &version);
        relay.cut();
        lab.wait_until_published("flap", &version);
        lab.wait_for("the tag to be consumed", || (!tag.exists()).then_some(()));
    }
    assert!(relay.all_broken());
    assert_eq!(lab.target_status("perth")["pid"], agent, "a broken link is no reason for an agent to end");
    let after = process::memory(agent);
    assert!(after < before + (24 << 20), "it grew from {before} to {after} bytes");
    assert_eq!(lab.link_processes().len(), 1, "{:#?}", lab.local_processes());
}

/// Dead in the middle of a stream is found by the heartbeat; takes the better part of a minute.
#[test]
fn faults_long_a_link_that_turns_into_a_black_hole_mid_stream_is_left_for_the_next() {
    let (mut lab, relay) = lab("blackhole");
    fill(&lab, &["1".to_owned()]);
    relay.breaks(&[Fault::Swallow(BULK / 2)]);
    lab.start_master();
    lab.wait_for_status("perth", "complete", |s| s["last_sync"]["result"] == "ok");
    assert!(relay.all_broken());
    lab.assert_never_partial();
    assert_eq!(lab.visible(), ["big@1", "files@1"]);
}

/// The receiver stops and the link is well: after two minutes without any progress it is given up, and the next sync completes.
#[test]
fn faults_long_a_receiver_that_stands_still_is_given_up() {
    let (lab, _relay) = lab("standstill");
    lab.package("bulk", "1", |p| p.noise("a", 48 << 20));
    lab.release(&[("bulk", "1")]);
    let mut sync = lab.start_agent_once("perth");
    let stopped = lab.wait_for("the transfer to run", || {
        let running: Vec<_> = lab.remote_processes().into_iter().filter(process::Process::receives).collect();
        (!running.is_empty()).then_some(running)
    });
    stopped.iter().for_each(|p| process::signal(p.pid, Signal::STOP));
    process::poll(process::DEADLINE * 2, || sync.ended().then_some(())).expect("the agent gives up");
    sync.finish().expect(1).says("no progress");
    assert_eq!(lab.visible(), Vec::<String>::new());
    stopped.iter().for_each(|p| process::signal(p.pid, Signal::CONT));
    lab.agent_once("perth").expect_success();
    lab.assert_published("bulk", "1");
}
