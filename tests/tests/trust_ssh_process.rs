//! With `transport: libssh2` a process of its own has the connection: what a host makes of libssh2 ends that connection and nothing else, and nothing
//! of it outlives the agent.

use std::fs;

use blat_tests::hostile::Hostile;
use blat_tests::memory::{MOST_MORE, watched};
use blat_tests::{Lab, process};
use rustix::process::Signal;

/// A lab with a package that is wanted, whose targets are reached over libssh2.
fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    lab
}

/// A target's agent that is idle after a sync that went well.
fn idle_agent(lab: &Lab) -> u32 {
    let perth = lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    perth["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("an agent")
}

/// The ssh processes that live: those whose first argument says so, once they are no longer on their way to it.
fn speakers(lab: &Lab) -> Vec<u32> {
    let speaks = |line: &str| line.split(' ').nth(1) == Some("--speak-ssh");
    lab.local_processes()
        .into_iter()
        .filter(|process| speaks(&process.command_line))
        .map(|process| process.pid)
        .collect()
}

/// Publishes a version by a tag.
fn publish(lab: &Lab, version: &str) {
    lab.package("core", version, |p| p.file("a", version));
    lab.drop_tag("perth", "core", version);
    lab.wait_until_published("core", version);
}

/// Children of a process that have ended and that it takes no notice of.
fn zombies(pid: u32) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a living process");
    let stat = |child: &str| fs::read_to_string(format!("/proc/{child}/stat")).ok();
    children.split_whitespace().filter_map(stat).filter(|stat| stat.contains(") Z ")).collect()
}

/// libssh2 keeps packets of kinds that it does not wait for. The ssh client of the system does not.
#[test]
fn packets_that_nobody_asked_for_end_the_ssh_process_and_take_no_memory_of_the_agent() {
    let lab = lab("sshunasked");
    lab.config("well", "transport: libssh2");
    let (outcome, rest) = watched(lab.start_agent_once("well"));
    outcome.expect_success();
    for size in ["32000", "300"] {
        let server = Hostile::start(&lab, "60", size);
        lab.config("far", &format!("transport: libssh2\narchive: /srv/far\n{}", server.trusted(&lab)));
        let (outcome, peak) = watched(lab.start_agent_once("far"));
        println!("{size}: {} KiB at most, {} at rest", peak >> 10, rest >> 10);
        assert!(peak < rest + MOST_MORE, "{size}: {peak} bytes, and {rest} at rest\n{outcome}");
        outcome.expect(1).says("takes more than 64 MiB of memory").says("transport: openssh");
    }
}

#[test]
fn half_a_packet_while_keys_are_exchanged_ends_no_agent_and_the_next_connection_works() {
    let mut lab = lab("sshhalf");
    let server = Hostile::start(&lab, "half", "-");
    lab.config("perth", &format!("transport: libssh2\n{}", server.trusted(&lab)));
    lab.start_master();
    let perth = lab.wait_for_status("perth", "an error", |s| s["last_error"]["text"].is_string());
    let why = perth["last_error"]["text"].as_str().expect("it was one");
    assert!(why.contains("the process that speaks ssh ended with signal 11"), "{why}");
    let pid = perth["pid"].clone();
    lab.wait_for_status("perth", "the next try", |s| s["last_error"]["at"] != perth["last_error"]["at"]);

    lab.config("perth", "transport: libssh2");
    let agent = idle_agent(&lab);
    assert_eq!(pid, agent);
    assert_eq!(lab.target_status("perth")["restarts"], 0);
    lab.wait_for("one connection alone", || (speakers(&lab).len() == 1 && zombies(agent).is_empty()).then_some(()));
}

#[test]
fn signals_for_agents_end_no_ssh_process_and_one_that_is_ended_costs_one_try() {
    let mut lab = lab("sshsignals");
    lab.config("perth", "transport: libssh2");
    lab.start_master();
    let agent = idle_agent(&lab);
    let [speaker] = speakers(&lab)[..] else { panic!("{:#?}", lab.local_processes()) };
    for signal in [Signal::HUP, Signal::USR1] {
        process::signal(speaker, signal);
    }
    publish(&lab, "2");
    assert_eq!(speakers(&lab), [speaker]);

    process::signal(speaker, Signal::KILL);
    publish(&lab, "3");
    assert_ne!(speakers(&lab), [speaker]);
    assert_eq!(idle_agent(&lab), agent);
    lab.wait_for("notice of its end", || zombies(agent).is_empty().then_some(()));
}

/// A call of libssh2 that does not come back holds up the next command for as long as a host may take to answer.
#[test]
fn an_ssh_process_that_stands_still_is_left_for_another_one() {
    let mut lab = lab("sshstill");
    lab.config("perth", "transport: libssh2");
    lab.start_master();
    let agent = idle_agent(&lab);
    let [speaker] = speakers(&lab)[..] else { panic!("{:#?}", lab.local_processes()) };
    process::signal(speaker, Signal::STOP);
    publish(&lab, "2");
    lab.wait_for("its end", || (!process::lives(speaker)).then_some(()));
    assert_eq!(idle_agent(&lab), agent);
}

#[test]
fn no_ssh_process_outlives_its_agent() {
    let lab = lab("sshoutlived");
    lab.config("perth", "transport: libssh2");
    for signal in [Signal::TERM, Signal::KILL] {
        let mut command = lab.command("blat-agent");
        let mut agent = process::Running::start(command.args(["--target", "perth"]), &lab.home());
        let speaker = lab.wait_for("the connection", || speakers(&lab).first().copied());
        lab.wait_until_published("core", "1");
        // One that stands still in a call of libssh2 does not see the end of its agent.
        process::signal(speaker, Signal::STOP);
        process::signal(agent.pid(), signal);
        lab.wait_for("the agent to end", || agent.ended().then_some(()));
        lab.wait_until_nothing_runs();
    }
}
