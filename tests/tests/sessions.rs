//! Hosts that allow few sessions on one connection (`MaxSessions` of sshd): one serves a receiver, and scripts say how many they need.

use std::fs;

use blat_tests::relay::Relay;
use blat_tests::{Lab, process};

use super::WAY;

/// A lab whose sshd allows so many sessions on a connection, with two packages of which one is wanted.
fn lab(name: &str, sessions: u32) -> Lab {
    process::carried_receiver();
    let lab = WAY.lab(name);
    lab.package("core", "1", |p| p.noise("a", 2 << 20).file("b", "1"));
    lab.package("tools", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    lab.sshd("stop").expect_success();
    let settings = format!("MaxSessions {sessions}\n");
    fs::write(lab.home().join("../sshd/daemon/own_config"), settings).expect("the lab's own folder");
    lab.sshd("start").expect_success();
    lab
}

#[test]
fn one_session_serves_a_receiver_from_its_installation_to_a_tag() {
    let mut lab = lab("onesession", 1);
    lab.config("perth", "receiver: auto");
    lab.agent_once("perth").expect_success();
    lab.assert_published("core", "1");

    lab.start_master();
    lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    lab.drop_tag("perth", "tools", "1");
    lab.wait_until_published("tools", "1");
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    let link = lab.link_processes();
    assert_eq!(link.len(), 1, "{:#?}", lab.local_processes());

    // It is the receiver's, which makes room for putting back what is missing.
    let gone = ["pkg_mon", "pkg_purge", "blat-receiver"].map(|name| lab.target_bin().join(name));
    for path in &gone {
        fs::remove_file(path).expect("an installed file");
    }
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    assert!(gone.iter().all(|path| path.exists()), "all is back");
    assert_eq!(lab.link_processes(), link, "over the same connection");
}

/// There the heartbeat of other connections is a receiver too.
#[test]
fn one_session_serves_a_key_that_can_run_nothing_but_the_receiver() {
    let lab = lab("onerestricted", 1);
    lab.config("perth", "receiver: auto");
    lab.agent_once("perth").expect_success();
    let sshd = lab.home().with_file_name("sshd");
    let key = fs::read_to_string(sshd.join("id_ed25519.pub")).expect("the lab's own key");
    let (bin, archive) = (lab.target_bin(), lab.target_archive());
    let line = format!("restrict,command=\"{}/blat-receiver --archive {}\" {key}", bin.display(), archive.display());
    fs::write(sshd.join("daemon/authorized_keys"), line).expect("the lab's own file");
    lab.release(&[("core", "1"), ("tools", "1")]);
    lab.agent_once("perth").expect_success();
    lab.assert_published("tools", "1");
}

#[test]
fn scripts_name_the_sessions_that_they_need_and_serve_once_they_have_them() {
    let lab = lab("scriptsessions", 1);
    lab.config("perth", "receiver: never");
    lab.agent_once("perth").expect(1).says("allows too few sessions").says("MaxSessions 4");
    assert_eq!(lab.visible(), Vec::<String>::new());

    fs::write(lab.home().join("../sshd/daemon/own_config"), "MaxSessions 4\n").expect("the lab's own folder");
    lab.sshd("stop").expect_success();
    lab.sshd("start").expect_success();
    lab.agent_once("perth").expect_success();
    lab.assert_published("core", "1");
}

/// A host counts a session until it has seen its end, which may be after ours.
#[test]
fn two_sessions_serve_a_receiver_and_scripts_every_time() {
    let lab = lab("twosessions", 2);
    for round in 0..6 {
        let version = format!("2.{round}");
        lab.package("core", &version, |p| p.noise("a", 1 << 20));
        lab.release(&[("core", &version)]);
        lab.config("perth", if round % 2 == 0 { "receiver: auto" } else { "receiver: never" });
        lab.agent_once("perth").expect_success();
        lab.assert_published("core", &version);
    }
}

/// There is no heartbeat on such a connection: that a session does not open has to show it.
#[test]
fn a_black_hole_is_found_where_the_host_allows_one_session() {
    let mut lab = lab("oneblackhole", 1);
    let own = fs::read_to_string(lab.home().join("../sshd/known_hosts")).expect("the lab's own file");
    let (name, key) = own.trim().split_once(' ').expect("a name and a key");
    let relay = Relay::to(name.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port"));
    let known_hosts = format!("[127.0.0.1]:{} {key}\n", relay.port);
    fs::write(lab.home().join("ssh/known_hosts"), known_hosts).expect("an own folder");
    lab.config("perth", &format!("receiver: auto\nport: {}\nknown_hosts: ssh/known_hosts", relay.port));
    lab.start_master();
    lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");

    relay.swallow();
    lab.drop_tag("perth", "tools", "1");
    // The conversation ends after 45 s, the connection 30 s later.
    let place = lab.on_target("tools", "1");
    assert!(
        process::poll(process::DEADLINE * 2, || place.exists().then_some(())).is_some(),
        "{:#}",
        lab.target_status("perth")
    );
    lab.assert_published("tools", "1");
}
