//! The link itself: whose key is trusted, what is said when it is refused, and how it comes back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use blat_tests::relay::Relay;
use blat_tests::{Lab, process};
use rustix::process::Signal;

use super::WAY;

/// A lab with one small package that is wanted.
fn lab(name: &str) -> Lab {
    let lab = WAY.lab(name);
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    lab
}

/// Where a key of the test's own lies, other than the lab's.
fn other_key(lab: &Lab) -> String {
    let path = lab.home().join("ssh/other");
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "other", "-f"]).arg(&path);
    process::run(&mut keygen, &lab.home()).expect_success();
    // One that the agent may not read is refused here, and not by the target.
    lab.hand_over();
    path.display().to_string()
}

/// The lab's port, key type and key, as known_hosts has them.
fn known_host(lab: &Lab) -> (String, String) {
    let text = fs::read_to_string(lab.home().join("../sshd/known_hosts")).expect("the lab's own");
    let (name, key) = text.trim().split_once(' ').expect("a name and a key");
    (name.to_owned(), key.to_owned())
}

#[test]
fn a_changed_host_key_stops_everything_and_shows_the_fingerprint() {
    let lab = lab("hostkey");
    let (name, _) = known_host(&lab);
    let public = fs::read_to_string(format!("{}.pub", other_key(&lab))).expect("a key's public half");
    let known = lab.home().join("ssh/known_hosts");
    fs::write(&known, format!("{name} {public}")).expect("an own folder");
    lab.config("perth", "known_hosts: ssh/known_hosts");

    let outcome = lab.agent_once("perth");

    let mut keygen = Command::new("ssh-keygen");
    keygen.arg("-lf").arg(lab.home().join("../sshd/daemon/host_key.pub"));
    let listed = process::run(&mut keygen, &lab.home());
    let fingerprint = listed.stdout.split(' ').nth(1).expect("a fingerprint").to_owned();
    outcome.expect(1).says("host key").says(&fingerprint).says("nothing is sent");
    assert_eq!(lab.visible(), Vec::<String>::new());
    assert_eq!(fs::read_to_string(&known).expect("an own file"), format!("{name} {public}"), "and nothing was learnt");
}

#[test]
fn a_host_that_is_not_known_is_not_trusted() {
    let lab = lab("unknownhost");
    let (name, key) = known_host(&lab);
    let known = lab.home().join("ssh/known_hosts");
    // The right key for another port: it says nothing of this one.
    fs::write(&known, format!("[127.0.0.1]:1 {key}\n")).expect("an own folder");
    lab.config("perth", "known_hosts: ssh/known_hosts");
    lab.agent_once("perth").expect(1).says("host key").says("nothing is sent");

    fs::remove_file(&known).expect("an own file");
    lab.agent_once("perth").expect(1).says("host key");
    assert_eq!(lab.visible(), Vec::<String>::new());

    fs::write(&known, format!("{name} {key}\n")).expect("an own folder");
    lab.agent_once("perth").expect_success();
}

/// Nobody asks the ssh client again whom it trusts once it is logged in.
#[test]
fn a_connection_ends_once_its_host_is_not_trusted_any_more_and_lasts_while_others_come_to_be_trusted() {
    let mut lab = lab("distrusted");
    lab.package("bulk", "1", |p| p.noise("a", 24 << 20));
    lab.package("extra", "1", |p| p.file("a", "1"));
    let (name, key) = known_host(&lab);
    let known = lab.home().join("ssh/known_hosts");
    let trusted = format!("{name} {key}\n");
    let write = |text: &str| fs::write(&known, text).expect("an own file");
    write(&trusted);
    lab.hand_over();
    // At this rate the bulk takes longer than any test waits.
    lab.config("perth", "known_hosts: ssh/known_hosts\nbandwidth: 32k");
    lab.start_master();
    lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    let link = lab.link_processes();
    assert_eq!(link.len(), 1);

    write(&format!("{trusted}[127.0.0.1]:1 {key}\n"));
    lab.blat(&["tag", "extra", "1", "--target", "perth", "--wait"]).expect_success();
    assert_eq!(lab.link_processes(), link, "as `blat enrol` for another host leaves it");

    // While nothing is under way.
    write(&format!("{trusted}@revoked * {key}\n"));
    lab.wait_for("the connection to end", || lab.link_processes().is_empty().then_some(()));
    lab.release(&[("core", "1"), ("bulk", "1")]);
    lab.blat(&["sync", "perth", "--wait"]).expect(1).says("is revoked in");

    // While something is sent.
    write(&trusted);
    lab.blat(&["sync", "perth"]).expect_success();
    lab.wait_for_status("perth", "sending the bulk", |s| {
        s["state"] == "syncing" && s["current"]["done"].as_u64().is_some_and(|done| done > 0)
    });
    write(&format!("[127.0.0.1]:1 {key}\n"));
    lab.wait_for_status("perth", "kept from sending", |s| s.to_string().contains("is not known yet"));
    assert_eq!(lab.link_processes(), Vec::<u32>::new());
    assert!(!lab.on_target("bulk", "1").exists());
}

#[test]
fn a_hashed_known_host_is_recognised() {
    let lab = lab("hashed");
    let (name, key) = known_host(&lab);
    let known = lab.home().join("ssh/known_hosts");
    fs::write(&known, format!("{name} {key}\n")).expect("an own folder");
    process::run(Command::new("ssh-keygen").arg("-H").arg("-f").arg(&known), &lab.home()).expect_success();
    assert!(!fs::read_to_string(&known).expect("an own file").contains("127.0.0.1"), "it is hashed");
    lab.config("perth", "known_hosts: ssh/known_hosts");
    lab.agent_once("perth").expect_success();
}

#[test]
fn a_key_that_the_target_does_not_know_is_refused_and_named() {
    let lab = lab("refusedkey");
    let key = other_key(&lab);
    lab.config("perth", &format!("identity: {key}"));
    lab.agent_once("perth").expect(1).says(&key).says("authorized_keys");

    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("an own file");
    lab.agent_once("perth").expect(1).says(&key).says("cannot be used here");

    lab.config("perth", "identity: ssh/missing");
    lab.agent_once("perth").expect(1).says("ssh/missing").says("cannot be used here");
    assert_eq!(lab.visible(), Vec::<String>::new());
}

/// All sessions of the target are ended while packages are on their way, twice: each time the agent connects again by itself.
#[test]
fn a_link_that_breaks_in_the_middle_comes_back_and_the_sync_completes() {
    let mut lab = lab("comesback");
    let names: Vec<String> = (0..5).map(|n| format!("bulk{n}")).collect();
    for name in &names {
        lab.package(name, "1", |p| p.noise("a", 20 << 20).noise("b", 12 << 20));
    }
    lab.release(&names.iter().map(|name| (name.as_str(), "1")).collect::<Vec<_>>());
    lab.config("perth", "");
    lab.start_master();
    let agent = lab.wait_for("the agent", || lab.target_status("perth")["pid"].as_u64());
    for _ in 0..2 {
        lab.wait_for("a transfer to run", || {
            lab.remote_processes().iter().any(process::Process::receives).then_some(())
        });
        lab.sshd("stop").expect_success();
        lab.assert_never_partial();
        lab.sshd("start").expect_success();
    }
    lab.wait_for_status("perth", "complete", |s| s["last_sync"]["result"] == "ok" && s["state"] == "idle");
    lab.assert_never_partial();
    assert_eq!(lab.visible().len(), names.len());
    assert_eq!(lab.target_status("perth")["pid"], agent, "a broken link is no reason for an agent to end");
}

/// The target stops in the middle of a stream that is under way and talks again: nothing hangs, nothing is lost.
#[test]
fn a_target_that_pauses_is_waited_for() {
    let lab = lab("pauses");
    lab.package("bulk", "1", |p| p.noise("a", 48 << 20));
    lab.release(&[("bulk", "1")]);
    lab.config("perth", "");
    let sync = lab.start_agent_once("perth");
    let frozen = lab.wait_for("the transfer to run", || {
        let running: Vec<_> = lab.remote_processes().into_iter().filter(process::Process::receives).collect();
        (!running.is_empty()).then_some(running)
    });
    frozen.iter().for_each(|p| process::signal(p.pid, Signal::STOP));
    // With its reader stopped, the stream comes to a stand.
    let sent = || process::processor_time(sync.pid());
    lab.wait_for("the agent to stand still", || {
        let before = sent();
        let start = Instant::now();
        process::poll(Duration::from_secs(2), || (start.elapsed().as_secs() >= 1).then_some(()));
        (sent() - before < Duration::from_millis(300)).then_some(())
    });
    frozen.iter().for_each(|p| process::signal(p.pid, Signal::CONT));
    sync.finish().expect_success();
    lab.assert_published("bulk", "1");
}

/// Packages whose answers are long, while two streams are on their way in: both directions of one link are full.
#[test]
fn many_packages_both_ways_at_once_get_through() {
    let lab = lab("bothways");
    let names: Vec<String> = (0..400).map(|n| format!("package-with-a-name-of-some-length-{n:04}")).collect();
    for name in &names {
        lab.package(name, "1", |p| p.noise("a", 100_000));
    }
    lab.release(&names.iter().map(|name| (name.as_str(), "1")).collect::<Vec<_>>());
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    lab.assert_never_partial();
    assert_eq!(lab.visible().len(), names.len());
    lab.agent_once("perth").expect_success();
}

#[test]
fn only_openssh_runs_the_systems_client() {
    let mut lab = lab("whoseclient");
    lab.config("perth", "");
    lab.start_master();
    lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    let clients = lab.local_processes().iter().filter(|p| p.name == "ssh").count();
    let expected = usize::from(lab.config_text("").contains("transport: openssh"));
    assert_eq!(clients, expected, "{:#?}", lab.local_processes());
}

#[test]
fn a_black_hole_is_found_and_the_next_link_serves() {
    let mut lab = lab("blackhole");
    lab.package("tools", "1", |p| p.file("a", "1"));
    let (name, key) = known_host(&lab);
    let real = name.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let relay = Relay::to(real);
    let known = lab.home().join("ssh/known_hosts");
    fs::write(&known, format!("[127.0.0.1]:{} {key}\n", relay.port)).expect("an own folder");
    lab.config("perth", &format!("port: {}\nknown_hosts: ssh/known_hosts", relay.port));
    lab.start_master();
    let status = lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");

    relay.swallow();
    let start = Instant::now();
    lab.drop_tag("perth", "tools", "1");
    lab.wait_until_published("tools", "1");

    println!("served {:?} after the link went dead", start.elapsed());
    assert_eq!(lab.target_status("perth")["pid"], status["pid"], "a dead link is no reason for an agent to end");
}

/// A link that stands and is not used takes next to no processor time.
#[test]
fn an_idle_link_rests() {
    let mut lab = lab("idlelink");
    lab.config("perth", "");
    lab.start_master();
    let status = lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    let agent = status["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a running agent");
    let window = Duration::from_secs(2);
    lab.wait_for("two seconds in which the agent uses hardly any processor time", || {
        let (start, before) = (Instant::now(), process::processor_time(agent));
        process::poll(window * 2, || (start.elapsed() >= window).then_some(()));
        (process::processor_time(agent) - before < window / 20).then_some(())
    });
}
