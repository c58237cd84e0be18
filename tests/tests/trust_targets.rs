//! Targets are strangers: whatever one answers or claims, it costs the agent little, orders nothing, and keeps no connection open.

use std::fs;

use blat_tests::Lab;
use blat_tests::process::{self, Running};
use rustix::process::Signal;

/// A lab with one small package that is wanted.
fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    lab.package("core", "1.0", |p| p.file("a", "1"));
    lab.release(&[("core", "1.0")]);
    lab
}

/// From now on our key runs this on the target, whatever it asks for. `cases` are those of a `case` on what was asked for; the rest is served.
fn force(lab: &Lab, cases: &str) {
    let daemon = lab.home().join("../sshd/daemon");
    let script = format!("case $SSH_ORIGINAL_COMMAND in\n{cases}\n*) eval \"$SSH_ORIGINAL_COMMAND\" ;;\nesac\n");
    fs::write(daemon.join("forced"), script).expect("the lab's own folder");
    let key = fs::read_to_string(lab.home().join("../sshd/id_ed25519.pub")).expect("the lab's own key");
    let path = fs::canonicalize(daemon.join("forced")).expect("what was just written");
    fs::write(daemon.join("authorized_keys"), format!("command=\"/bin/sh {}\" {key}", path.display()))
        .expect("the lab's own file");
}

/// The time of descpkg that packages of the lab have.
const TIME: i64 = 1_709_208_001;

#[test]
fn a_link_that_the_target_claims_brings_nothing() {
    let lab = Lab::new("claimedlink");
    lab.package("core", "2.0-embargoed", |p| p.file("secret", "nobody may see this yet"));
    // The source cannot show what is wanted, so that nothing contradicts the claim.
    lab.release(&[("core", "1.0")]);
    let listing = "printf '# blat 1\\nlink core 1.0 2.0-embargoed\\nfree 9999999999\\n# end 2\\n'";
    force(&lab, &format!("*get_plist*) {listing} ;;"));
    lab.config("perth", "receiver: never");

    lab.agent_once("perth").expect(1).says("core@1.0").says("the source has no such package");
    assert_eq!(lab.visible(), Vec::<String>::new());

    // Nor by a tag, where a limit makes the agent list the target first.
    let mut lab = lab;
    lab.config("perth", "receiver: never\nmax_size: 1g");
    lab.start_master();
    lab.wait_for_status("perth", "done with its first sync", |status| status["last_sync"]["result"] == "failed");
    let tag = lab.drop_tag("perth", "core", "1.0");
    lab.wait_for("the tag to be seen", || {
        lab.target_status("perth")["queue"]["tags"].as_u64().filter(|tags| *tags > 0)
    });
    lab.blat(&["sync", "perth", "--wait"]).expect(1).says("the source has no such package");
    assert!(tag.exists());
    assert_eq!(lab.visible(), Vec::<String>::new());
}

#[test]
fn a_package_that_the_target_claims_to_hold_in_a_bad_state_is_not_sent_unless_it_is_wanted() {
    let lab = lab("claimedbad");
    lab.package("core", "2.0-embargoed", |p| p.file("secret", "nobody may see this yet"));
    let verdict = "printf '# blat 1\\nbad core 2.0-embargoed secret: FAILED\\n# end 1\\n'";
    let listing = format!("printf '# blat 1\\npackage core 2.0-embargoed {TIME}\\nfree 9999999999\\n# end 2\\n'");
    force(&lab, &format!("*get_plist*--verify*) cat >/dev/null; {verdict} ;;\n*get_plist*) {listing} ;;"));
    lab.config("perth", "receiver: never");

    let outcome = lab.blat(&["verify", "perth", "--repair"]);

    outcome.expect(1).says("left      core@2.0-embargoed").says("nothing wants it on this target");
    assert_eq!(lab.visible(), Vec::<String>::new());
}

#[test]
fn no_ssh_client_outlives_a_killed_agent_though_the_far_end_ignores_the_end_of_its_input() {
    let lab = lab("deafend");
    // The first command of a connection, whose echo is the heartbeat.
    force(&lab, "*'exec cat') echo '# blat 1'; cat; sleep 600 ;;");
    lab.config("perth", "transport: openssh");
    let mut agent = Running::start(lab.command("blat-agent").args(["--target", "perth"]), &lab.home());
    lab.wait_until_published("core", "1.0");
    let clients: Vec<u32> = lab.local_processes().into_iter().filter(|p| p.name == "ssh").map(|p| p.pid).collect();
    assert_eq!(clients.len(), 1, "{:#?}", lab.local_processes());
    assert_eq!(group_of(clients[0]), group_of(agent.pid()), "what ends the agent's group ends its client");

    process::signal(agent.pid(), Signal::KILL);

    lab.wait_for("the agent to end", || agent.ended().then_some(()));
    lab.wait_until_nothing_runs();
}

/// The process group of a process.
fn group_of(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    stat.rsplit_once(") ")
        .and_then(|(_, fields)| fields.split(' ').nth(2))
        .expect("the form that Linux gives")
        .to_owned()
}
