//! Targets behind other hosts: `proxy_jump`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use blat_tests::process::{self, Running};
use blat_tests::{Lab, Outcome};
use rustix::process::Signal;

/// A host on the way: an sshd of its own, which lets the master's key in.
struct Jump {
    dir: PathBuf,
    lab: PathBuf,
}

impl Jump {
    fn new(lab: &Lab, name: &str) -> Self {
        let jump = Self { dir: lab.home().with_file_name(name), lab: lab.home() };
        jump.sshd("start").expect_success();
        jump.let_in(&read(&lab.home().with_file_name("client").join("id_ed25519.pub")));
        jump
    }

    fn sshd(&self, verb: &str) -> Outcome {
        let mut tool = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/sshd"));
        process::run(tool.arg(verb).arg(&self.dir), &self.lab)
    }

    /// From now on these keys and no others are let in.
    fn let_in(&self, keys: &str) {
        fs::write(self.dir.join("daemon/authorized_keys"), keys).expect("the lab's own");
    }

    /// What `proxy_jump` calls it.
    fn place(&self) -> String {
        format!("{}@127.0.0.1:{}", self.file("user").trim(), self.file("port").trim())
    }

    fn file(&self, name: &str) -> String {
        read(&self.dir.join(name))
    }

    /// Its sshd and what serves the connections.
    fn processes(&self) -> Vec<u32> {
        let mut found = vec![self.file("sshd.pid").trim().parse().expect("a pid")];
        let mut at = 0;
        while let Some(parent) = found.get(at).copied() {
            found.extend(children(parent));
            at += 1;
        }
        found
    }

    /// How many logins there have been.
    fn logins(&self) -> usize {
        self.file("sshd.log").matches("Accepted publickey").count()
    }

    /// Its host key's fingerprint, as its owner tells it.
    fn fingerprint(&self) -> String {
        fingerprint(&self.dir.join("daemon/host_key.pub"), &self.lab)
    }
}

impl Drop for Jump {
    fn drop(&mut self) {
        self.sshd("stop");
    }
}

fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(1)?.parse().ok()) == Some(parent)
    };
    pids.filter(is_child).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("could not read {}: {error}", path.display()))
}

fn fingerprint(key: &Path, lab: &Path) -> String {
    let listed = process::run(Command::new("ssh-keygen").arg("-lf").arg(key), lab);
    listed.expect_success().stdout.split(' ').nth(1).expect("a fingerprint").to_owned()
}

/// A lab with a target behind two hosts, whose keys are all known.
fn behind_two(name: &str) -> (Lab, Jump, Jump) {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    let (first, second) = (Jump::new(&lab, "first"), Jump::new(&lab, "second"));
    know(&lab, &[read(&lab.home().with_file_name("sshd").join("known_hosts")), known(&first), known(&second)]);
    config(&lab, &[&first, &second]);
    (lab, first, second)
}

fn known(jump: &Jump) -> String {
    jump.file("known_hosts")
}

/// Writes the known hosts.
fn know(lab: &Lab, lines: &[String]) {
    fs::write(lab.home().join("ssh/known_hosts"), lines.concat()).expect("an own folder");
    lab.hand_over();
}

/// The config of a target behind these.
fn config(lab: &Lab, jumps: &[&Jump]) {
    let places: Vec<String> = jumps.iter().map(|jump| jump.place()).collect();
    lab.config("perth", &format!("known_hosts: ssh/known_hosts\nproxy_jump: [{}]", places.join(", ")));
}

/// `blat …` where nobody can be asked: without a terminal.
fn unattended(lab: &Lab, words: &[&str]) -> Outcome {
    let blat = lab.command("blat");
    let mut command = Command::new("setsid");
    command.arg("-w").arg(blat.get_program()).args(blat.get_args()).args(words);
    process::run(&mut command, &lab.home())
}

#[test]
fn a_target_behind_two_hosts_is_served_through_both_and_no_client_outlives_a_killed_agent() {
    let (lab, first, second) = behind_two("twojumps");
    let mut agent = Running::start(lab.command("blat-agent").args(["--target", "perth"]), &lab.home());
    lab.wait_until_published("core", "1");
    assert_eq!((first.logins(), second.logins()), (1, 1), "one connection goes through each");
    // The target's own client, and one that logs in to each host on the way.
    let clients = lab.local_processes().into_iter().filter(|p| p.name == "ssh").count();
    assert_eq!(clients, 3, "{:#?}", lab.local_processes());

    // The far ends keep their connections open, whatever comes.
    let sshds = [first.processes(), second.processes()].concat();
    assert!(sshds.len() >= 4, "each has a process for its connection: {sshds:?}");
    sshds.iter().for_each(|pid| process::signal(*pid, Signal::STOP));
    process::signal(agent.pid(), Signal::KILL);
    lab.wait_for("the agent to end", || agent.ended().then_some(()));
    lab.wait_until_nothing_runs();
    sshds.iter().for_each(|pid| process::signal(*pid, Signal::CONT));

    // A person comes in by the same way.
    lab.blat(&["ssh", "perth", "echo", "here"]).expect_success().says("here");
    lab.blat(&["check", "perth", "--connect"]).expect_success();
    assert_eq!((first.logins(), second.logins()), (3, 3));
}

#[test]
fn the_first_host_on_the_way_that_fails_is_named_with_its_reason() {
    let (lab, first, second) = behind_two("jumpfaults");
    let all = [read(&lab.home().with_file_name("sshd").join("known_hosts")), known(&first), known(&second)];
    let tried = |at: &Jump, words: &str| {
        let outcome = lab.agent_once("perth");
        println!("{outcome}");
        outcome.expect(1).says("on the way to ").says(&at.place()).says(words);
        outcome
    };
    know(&lab, &all[..2]);
    let shown = second.fingerprint();
    tried(&second, "is not known yet").says(&shown).says("blat enrol perth");
    know(&lab, &[all[0].clone(), all[1].clone(), known(&second).replace(&key_of(&second), &key_of(&first))]);
    tried(&second, "has changed").says(&shown).says("ssh-keygen -R");
    know(&lab, &[all.concat(), format!("@revoked * {}\n", key_of(&first))]);
    tried(&first, "is revoked");
    know(&lab, &all);

    first.let_in("");
    tried(&first, "does not accept the key").says("authorized_keys");
    let public = read(&lab.home().with_file_name("client").join("id_ed25519.pub"));
    first.let_in(&format!("restrict {public}"));
    tried(&first, "does not pass the connection on")
        .says(&second.place())
        .says("prohibited")
        .says("no-port-forwarding");
    first.let_in(&public);
    second.sshd("stop").expect_success();
    tried(&first, "does not pass the connection on").says(&second.place()).says("refused");
    first.sshd("stop").expect_success();
    tried(&first, "cannot connect").says("refused");
    assert_eq!(lab.visible(), Vec::<String>::new());

    // What is wrong with the target itself is said of the target.
    for jump in [&first, &second] {
        jump.sshd("start").expect_success();
        jump.let_in(&public);
    }
    config(&lab, &[&first, &second]);
    know(&lab, &[known(&first), known(&second)]);
    let outcome = lab.agent_once("perth");
    let target = fingerprint(&lab.home().with_file_name("sshd").join("daemon/host_key.pub"), &lab.home());
    outcome.expect(1).says("is not known yet").says(&target);
    assert!(!outcome.to_string().contains("on the way to"), "{outcome}");
}

/// The host key of a host on the way, as known_hosts has it.
fn key_of(jump: &Jump) -> String {
    known(jump).trim().split_once(' ').expect("a name and a key").1.to_owned()
}

#[test]
fn enrol_trusts_each_host_on_the_way_in_turn() {
    let (lab, first, second) = behind_two("jumpenrol");
    know(&lab, &[]);
    let target = fingerprint(&lab.home().with_file_name("sshd").join("daemon/host_key.pub"), &lab.home());
    let (one, two) = (first.fingerprint(), second.fingerprint());
    let stored = || read(&lab.home().join("ssh/known_hosts"));

    // One fingerprint is the target's, so somebody has to confirm the others.
    let outcome = unattended(&lab, &["enrol", "perth", "--fingerprint", &target]);
    outcome.expect(1).says(&format!("at the jump host {}", first.place())).says(&one).says("nobody is there");
    assert_eq!(stored(), "");
    // Each is for one host: a host on the way cannot pass for the target.
    let given = |fingerprints: [&str; 3]| {
        let words = fingerprints.iter().flat_map(|fingerprint| ["--fingerprint", fingerprint]);
        unattended(&lab, &["enrol", "perth"].into_iter().chain(words).collect::<Vec<_>>())
    };
    given([&one, &one, &target]).expect(1).says(&two).says("this is not that host");
    assert_eq!(stored(), known(&first));

    given([&one, &two, &target]).expect_success().says("login      works");
    assert_eq!(
        stored(),
        [known(&first), known(&second), read(&lab.home().with_file_name("sshd").join("known_hosts"))].concat()
    );
    lab.agent_once("perth").expect_success();
    // Nothing more is to be confirmed.
    unattended(&lab, &["enrol", "perth"]).expect_success();

    second.let_in("");
    let refused = unattended(&lab, &["enrol", "perth"]);
    refused.expect(1).says(&format!("at the jump host {}", second.place())).says("takes no passwords");
}

#[test]
fn libssh2_refuses_to_go_through_other_hosts() {
    let (lab, _first, _second) = behind_two("jumpsandlibssh2");
    let text = read(&lab.home().join("config/perth.conf")).replace("transport: openssh", "transport: libssh2");
    lab.raw_config("perth", &text);
    lab.agent_once("perth").expect(78).says("proxy_jump needs the system's ssh client").says("transport: openssh");
    lab.blat(&["check", "perth"]).expect(78).says("proxy_jump");
}
