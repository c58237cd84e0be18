//! Targets are strangers: whatever one answers or claims, it costs the agent little, orders nothing, and keeps no connection open.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use blat_tests::memory::{MOST_MORE, watched};
use blat_tests::process::{self, Running};
use blat_tests::{Lab, Outcome};
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

/// One sync by hand, to its end; and the most memory that it held.
fn watched_sync(lab: &Lab) -> (Outcome, u64) {
    watched(lab.start_agent_once("perth"))
}

/// Fails unless a sync with this target ends by itself, fails with these words, and takes little more memory than `rest`.
fn assert_harmless(lab: &Lab, rest: u64, what: &str, words: &str) {
    let (outcome, peak) = watched_sync(lab);
    println!(
        "{what}: {} KiB at most, {} at rest: {}",
        peak >> 10,
        rest >> 10,
        outcome.stderr.lines().last().unwrap_or_default()
    );
    assert!(peak < rest + MOST_MORE, "{what}: {peak} bytes, and {rest} at rest\n{outcome}");
    outcome.expect(1).says(words);
    assert_eq!(lab.visible(), Vec::<String>::new(), "{what}");
}

/// How much memory an agent takes with a target that is well; its lab is gone then.
fn at_rest(extra: &str) -> u64 {
    let lab = lab("atrest");
    lab.config("perth", extra);
    let (outcome, rest) = watched_sync(&lab);
    outcome.expect_success();
    rest
}

#[test]
fn endless_answers_of_scripts_take_neither_memory_nor_time() {
    const BEGIN: &str = "echo '# blat 1'";
    let packages = "awk 'BEGIN { for (i = 0; ; i++) print \"package p\" i \" 1 5\" }'";
    let foreign = "awk 'BEGIN { for (;;) print \"no package at all\" }'";
    let cases = [
        ("packages", format!("{BEGIN}; {packages}"), "the target lists more than"),
        ("foreign lines", format!("{BEGIN}; {foreign}"), "longer than any"),
        ("alive", format!("{BEGIN}; while :; do echo alive; done"), "does not come to an end"),
        ("one line", format!("{BEGIN}; tr '\\0' x </dev/zero"), "longer than 8192 bytes"),
        ("noise", "while :; do echo noise; done".to_owned(), "does not begin with"),
        ("complaints", format!("{BEGIN}; tr '\\0' x </dev/zero >&2"), "complains without end"),
    ];
    for transport in ["openssh", "libssh2"] {
        let config = format!("transport: {transport}\nreceiver: never");
        let rest = at_rest(&config);
        let lab = lab("endless");
        lab.config("perth", &config);
        for (what, answer, words) in &cases {
            force(&lab, &format!("*get_plist*) {answer} ;;"));
            assert_harmless(&lab, rest, &format!("{what} over {transport}"), words);
        }
    }
}

#[test]
fn a_login_that_complains_or_speaks_without_end_takes_neither_memory_nor_time() {
    for transport in ["openssh", "libssh2"] {
        let config = format!("transport: {transport}\nreceiver: never");
        let rest = at_rest(&config);
        let lab = lab("endlesslogin");
        lab.config("perth", &config);
        force(&lab, "*'exec cat') while :; do echo noise; done ;;");
        assert_harmless(&lab, rest, &format!("noise at the login over {transport}"), "cannot");

        // The heartbeat is answered; beside it there are complaints, which the ssh client passes on, for as long as the listing takes.
        force(
            &lab,
            "*'exec cat') echo '# blat 1'; tr '\\0' x </dev/zero >&2 & exec cat ;;\n*get_plist*) sleep 5; exit 1 ;;",
        );
        assert_harmless(&lab, rest, &format!("complaints at the login over {transport}"), "");
    }
}

/// A receiver's frames, as docs/protocol.md has them.
mod frames {
    pub(crate) fn number(mut number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number >= 0x80 {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    }

    pub(crate) fn frame(lane: u8, body: &[u8]) -> Vec<u8> {
        [&u32::try_from(body.len()).expect("a short body").to_le_bytes()[..], &[lane], body].concat()
    }

    pub(crate) fn text(text: &str) -> Vec<u8> {
        [number(text.len() as u64), text.into()].concat()
    }

    pub(crate) fn welcome(protocol: u8, version: &str, remains: &[String]) -> Vec<u8> {
        let remains: Vec<u8> = remains.iter().flat_map(|package| text(package)).collect();
        [&[0, protocol], &text(version)[..], &number(remains.len() as u64 / 6)[..], &remains].concat()
    }

    pub(crate) fn lines(all: &str) -> Vec<u8> {
        [vec![3], text(all)].concat()
    }

    pub(crate) fn held(number: u8, files: u64) -> Vec<u8> {
        let files: Vec<u8> =
            std::iter::once(self::number(files)).chain((0..files).map(|_| vec![1; 33])).flatten().collect();
        [&[5, number], &files[..]].concat()
    }

    pub(crate) const DONE: &[u8] = &[7];
}

/// The version of the protocol and of the receiver that agents carry.
fn versions() -> (u8, String) {
    use std::io::Write as _;
    let carried = process::carried_receiver();
    // Some folder that not everybody may write: nothing is asked of it.
    let scratch = carried.parent().expect("a folder").to_owned();
    let version = process::run(Command::new(&carried).arg("--version"), &scratch);
    let mut receiver = Command::new(process::carried_receiver());
    receiver.arg("--archive").arg(&scratch).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = receiver.spawn().expect("the carried receiver");
    // It greets whomever of whatever version.
    child.stdin.take().expect("a pipe").write_all(&frames::frame(0, &[0, 0])).expect("a receiver that reads");
    let said = child.wait_with_output().expect("its end").stdout;
    let body = said.iter().position(|byte| *byte == b'\n').expect("a marker") + 6;
    (said[body + 1], version.expect_success().stdout.trim().to_owned())
}

/// A receiver that greets and answers what an agent asks first of all; then each time that so many bytes were asked, it gives the reply beside their
/// number, and at last says `flood` for ever.
fn hostile_receiver(lab: &Lab, before: &[(usize, &[u8])], flood: &[u8]) {
    let (protocol, version) = versions();
    let folder = fs::canonicalize(lab.home().join("../sshd/daemon")).expect("the lab's own");
    let number = version.rsplit(' ').next().expect("a number");
    let greeting = frames::frame(0, &frames::welcome(protocol, number, &[]));
    // `Hello` and the first `Ping`; the question by which the way is measured.
    let first: [(usize, &[u8]); 2] = [(14, &greeting), (6, &frames::frame(0, frames::DONE))];
    fs::write(folder.join("flood"), flood.repeat((60_000 / flood.len()).max(1))).expect("the lab's own folder");
    let mut script = format!("#!/bin/sh\n[ \"$1\" = --version ] && exec echo '{version}'\necho '# blat-receiver 1'\n");
    for (number, (bytes, reply)) in first.iter().chain(before).enumerate() {
        let path = folder.join(format!("reply{number}"));
        fs::write(&path, reply).expect("the lab's own folder");
        // Nobody takes it for near, who then would be asked less.
        script += &format!("head -c {bytes} >/dev/null\nsleep 0.1\ncat '{}'\n", path.display());
    }
    script += &format!("while :; do cat '{}/flood' || exit 0; done\n", folder.display());
    fs::write(lab.home().join("hostile"), script).expect("an own folder");
    lab.config("perth", "receiver: ./hostile");
}

#[test]
fn endless_replies_of_a_receiver_take_neither_memory_nor_time() {
    let rest = at_rest("receiver: auto");
    // Most of the question for the listing, which is 16 KiB long.
    let asked: (usize, &[u8]) = (16_000, &[]);
    let packages = |from: u32| (from..from + 2_000).map(|n| format!("package p{n} 1 5\n")).collect::<String>();
    let remains: Vec<String> = (10..90).map(|n| format!("ab@{n}")).collect();
    for (what, flood, words) in [
        ("lines", frames::lines(&packages(0)), "the target lists more than"),
        ("lines without an end", frames::lines(&"x".repeat(60_000)), "longer than 8192 bytes"),
        ("empty lines", frames::lines(""), "nothing asked for"),
        ("listed", vec![4, 1, 1], "nothing asked for"),
        ("greetings", frames::welcome(1, "9", &remains), "nothing asked for"),
        ("held", frames::held(0, 1_000), "nothing asked for"),
        ("lacks", vec![6, 0], "nothing asked for"),
        ("credit of nothing", vec![2, 0], "nothing asked for"),
        ("pongs", vec![1, 1, 0], "nothing asked for"),
    ] {
        let lab = lab("flood");
        hostile_receiver(&lab, &[asked], &frames::frame(0, &flood));
        assert_harmless(&lab, rest, what, words);
    }
    // While packages are sent, on the first lane for them; the listing was answered well, and so was how far it is.
    // Somebody else owns the archive, so nobody asks for it.
    let owned = format!("clock 1\nfree 9999999999\narchive {0} {0} somebody\n", "0123456789abcdef".repeat(2));
    let listing = frames::frame(0, &frames::lines(&owned));
    let listing = [listing, frames::frame(0, &[4, 0]), frames::frame(0, frames::DONE)].concat();
    let (done, room) = (frames::frame(0, frames::DONE), frames::frame(2, frames::DONE));
    for (what, flood, words) in [
        ("held while packages are sent", frames::held(0, 1_000), "nothing asked for"),
        ("lacks while packages are sent", vec![6, 77], "nothing asked for"),
        ("outcomes while packages are sent", frames::lines("failed core 1.0 io no\n"), "io"),
        ("outcomes of others while packages are sent", frames::lines("published tools 1\n"), "not asked about"),
    ] {
        let lab = lab("bulkflood");
        let served: [(usize, &[u8]); 4] = [(16_390, &listing), (6, &done), (6, &done), (10, &room)];
        hostile_receiver(&lab, &served, &frames::frame(2, &flood));
        assert_harmless(&lab, rest, what, words);
    }
}

/// Whether the system's ssh client alone trusts the lab's host by this file.
fn ssh_trusts(lab: &Lab, known_hosts: &Path) -> bool {
    let read = |file: &str| fs::read_to_string(lab.home().join("../sshd").join(file)).expect("a started sshd");
    let mut ssh = Command::new("ssh");
    ssh.args([
        "-F",
        "none",
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "GlobalKnownHostsFile=/dev/null",
    ]);
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known_hosts.display()));
    ssh.arg("-i").arg(lab.home().join("../sshd/id_ed25519")).args(["-o", "IdentitiesOnly=yes"]);
    ssh.args(["-p", read("port").trim(), "-l", read("user").trim(), "127.0.0.1", "true"]);
    process::run(&mut ssh, &lab.home()).code == Some(0)
}

#[test]
fn both_ssh_transports_and_the_ssh_client_read_known_hosts_alike_and_no_revocation_is_passed_over() {
    let lab = lab("knownalike");
    let own = fs::read_to_string(lab.home().join("../sshd/known_hosts")).expect("the lab's own");
    let (name, key) = own.trim().split_once(' ').expect("a name and a key");
    let (kind, blob) = key.split_once(' ').expect("a type and a key");
    let trusted = format!("{name} {key}\n");
    let known_hosts = lab.home().join("ssh/known_hosts");
    let hashed = {
        fs::write(&known_hosts, &trusted).expect("an own folder");
        process::run(Command::new("ssh-keygen").arg("-H").arg("-f").arg(&known_hosts), &lab.home()).expect_success();
        fs::read_to_string(&known_hosts).expect("an own file")
    };
    // What the client says of each, and whether it is a file that not every client understands.
    for (text, is_trusted, is_usable) in [
        (trusted.clone(), true, true),
        (format!("[127.0.*]:*,!nobody {key}\n"), true, true),
        (format!("*,!{name},!127.0.0.1 {key}\n"), false, true),
        (hashed.clone(), true, true),
        (format!("@cert-authority * {key}\n"), false, true),
        (format!("{trusted}@revoked * {key}\n"), false, true),
        (format!("{trusted}@revoked  {name}\t{kind}\t{blob}\n"), false, true),
        (format!("{trusted}@revoked\t{name}\t{kind}\t{blob}\n"), false, true),
        (format!(" @revoked sydney,{name} {key} me@here\n{trusted}"), false, true),
        (format!("{trusted}@revoked {hashed}"), false, true),
        (format!("{trusted}@revoked *,!{name} {key}\n"), true, true),
        (format!("{trusted}@revoked\t{name} {key}\n"), true, false),
        (format!("{trusted}@Revoked {name} {key}\n"), true, false),
        (format!("{trusted}@revoked {name} ssh-rsa {blob}\n"), true, false),
        (format!("{trusted}@revoked 127.0.0.1 {key}\n"), true, false),
    ] {
        fs::write(&known_hosts, &text).expect("an own file");
        assert_eq!(ssh_trusts(&lab, &known_hosts), is_trusted, "the ssh client, of\n{text}");
        for transport in ["openssh", "libssh2"] {
            lab.config("perth", &format!("known_hosts: ssh/known_hosts\ntransport: {transport}"));
            let outcome = lab.blat(&["check", "--connect", "perth"]);
            if is_trusted && is_usable {
                assert_eq!(outcome.code, Some(0), "{transport}, by\n{text}\n{outcome}");
            } else {
                let words = if is_usable { "the host key of" } else { "cannot use the known hosts in" };
                outcome.expect(1).says(words).says("nothing is sent until");
            }
        }
    }
    let outcome = lab.blat(&["ssh", "perth", "true"]);
    outcome.expect(1).says("cannot use the known hosts in").says("line 2 ");
}
