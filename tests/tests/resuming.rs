//! What a cut connection costs: little, and nothing that was staged before counts unless it is still the same. What a far one costs: what changed.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use blat_tests::relay::Relay;
use blat_tests::{Dice, Lab, process, tree};
use rustix::process::Signal;

const MIB: u64 = 1 << 20;
/// What a cut connection may cost.
const LOSS: u64 = 8 * MIB;
/// Packages in the lab.
const PACKAGES: [&str; 3] = ["alpha", "beta", "gamma"];
/// Files of a MiB in each.
const FILES: u64 = 40;

/// A lab with several packages of many files that no compression makes smaller, behind a relay, served by the receiver.
fn lab(name: &str) -> (Lab, Relay) {
    process::carried_receiver();
    let lab = Lab::new(name);
    for name in PACKAGES {
        lab.package(name, "1", |package| {
            (0..FILES).fold(package, |package, n| package.noise(&format!("folder{}/{n}", n % 4), MIB as usize))
        });
    }
    lab.release(&PACKAGES.map(|name| (name, "1")));
    let relay = put_behind(&lab, Relay::to);
    (lab, relay)
}

/// Puts the lab's target behind a relay to its port.
fn put_behind(lab: &Lab, relay_to: impl FnOnce(u16) -> Relay) -> Relay {
    let known = fs::read_to_string(lab.home().join("../sshd/known_hosts")).expect("the lab's own");
    let (host, key) = known.trim().split_once(' ').expect("a name and a key");
    let relay = relay_to(host.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port"));
    fs::write(lab.home().join("ssh/known_hosts"), format!("[127.0.0.1]:{} {key}\n", relay.port))
        .expect("an own folder");
    lab.config("perth", &format!("port: {}\nknown_hosts: ssh/known_hosts\nreceiver: auto", relay.port));
    relay
}

fn stages(lab: &Lab) -> PathBuf {
    lab.target_archive().join(".dpkg_archive/stage")
}

/// Files of packages that are staged now.
fn staged(lab: &Lab) -> Vec<PathBuf> {
    let is_whole = |path: &PathBuf| path.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() == MIB);
    let all = tree::read(&stages(lab)).expect("nobody changes it now");
    all.into_keys().map(|path| stages(lab).join(path)).filter(is_whole).collect()
}

/// Waits until so many bytes have gone to the target.
fn wait_until_sent(lab: &Lab, relay: &Relay, bytes: u64) {
    lab.wait_for("bytes to cross the relay", || (relay.sent() >= bytes).then_some(()));
}

/// Ends a process, or the link, at a random moment of a transfer, and lets the next try complete it; both together send hardly more than all.
fn breaks_off_and_resumes(name: &str, break_off: impl FnOnce(&Lab, &Relay, u32)) {
    let mut dice = Dice::cast();
    let (lab, relay) = lab(name);
    let total = PACKAGES.len() as u64 * FILES * MIB;
    // The receiver's build goes first.
    let build = fs::metadata(process::carried_receiver()).expect("an executable").len();
    let sync = lab.start_agent_once("perth");
    wait_until_sent(&lab, &relay, build + 12 * MIB + dice.below(total - 24 * MIB));
    break_off(&lab, &relay, sync.pid());
    assert_ne!(sync.finish().code, Some(0), "the sync was over too soon");
    lab.wait_for("the receiver's end", || lab.remote_processes().is_empty().then_some(()));
    lab.assert_never_partial();
    let left = staged(&lab).len();

    lab.agent_once("perth").expect_success();

    PACKAGES.iter().for_each(|name| lab.assert_published(name, "1"));
    assert_eq!(fs::read_dir(stages(&lab)).expect("a folder").count(), 0, "nothing is left of it");
    // The files that each of two lanes had begun, and what ssh itself adds.
    let most = build + total + LOSS + 2 * MIB + total / 50;
    println!("{left} files were left; {} bytes were sent for {total} and a receiver of {build}", relay.sent());
    assert!(relay.sent() <= most, "{} bytes were sent, and not at most {most}", relay.sent());
}

#[test]
fn after_a_cut_link_only_what_was_lost_is_sent_again() {
    breaks_off_and_resumes("cutlink", |_, relay, _| relay.cut());
}

#[test]
fn after_a_killed_receiver_only_what_was_lost_is_sent_again() {
    breaks_off_and_resumes("killedreceiver", |lab, _, _| {
        let receivers = lab.remote_processes().into_iter().filter(|p| p.name == "blat-receiver");
        receivers.for_each(|receiver| process::signal(receiver.pid, Signal::KILL));
    });
}

#[test]
fn after_a_killed_agent_only_what_was_lost_is_sent_again() {
    breaks_off_and_resumes("killedagent", |_, _, agent| process::signal(agent, Signal::KILL));
}

#[test]
fn what_was_tampered_with_between_two_tries_is_not_published() {
    let (lab, relay) = lab("tampered");
    let build = fs::metadata(process::carried_receiver()).expect("an executable").len();
    let sync = lab.start_agent_once("perth");
    wait_until_sent(&lab, &relay, build + 30 * MIB);
    relay.cut();
    sync.finish().expect(1);
    lab.wait_for("the receiver's end", || lab.remote_processes().is_empty().then_some(()));

    let staged = staged(&lab);
    assert!(staged.len() > 4, "only {staged:?}");
    for path in &staged[..2] {
        // Of the same size: only its bytes tell.
        let mut bytes = fs::read(path).expect("a staged file");
        bytes[4711] ^= 1;
        let other = lab.home().join("other");
        fs::write(&other, bytes).expect("an own folder");
        let (other, path) = (other.display().to_string(), path.display().to_string());
        lab.as_target_user(&["sh", "-c", "chmod u+w \"$2\" && cat \"$1\" >\"$2\"", "sh", &other, &path])
            .expect_success();
    }
    lab.agent_once("perth").expect_success();
    PACKAGES.iter().for_each(|name| lab.assert_published(name, "1"));
}

#[test]
fn what_is_left_of_a_package_that_nobody_wants_any_more_is_swept() {
    let (lab, relay) = lab("sweeps");
    let build = fs::metadata(process::carried_receiver()).expect("an executable").len();
    let sync = lab.start_agent_once("perth");
    wait_until_sent(&lab, &relay, build + 20 * MIB);
    relay.cut();
    sync.finish().expect(1);
    lab.wait_for("the receiver's end", || lab.remote_processes().is_empty().then_some(()));
    assert!(!staged(&lab).is_empty());

    lab.package("other", "1", |p| p.file("a", "1"));
    lab.release(&[("other", "1")]);
    lab.agent_once("perth").expect_success();

    assert_eq!(fs::read_dir(stages(&lab)).expect("a folder").count(), 0, "something is left");
    lab.assert_published("other", "1");
}

#[test]
fn after_many_tags_over_an_idle_far_link_the_next_version_costs_what_has_changed() {
    const TAGS: u32 = 45;
    process::carried_receiver();
    let mut lab = Lab::new("far");
    let mut library = Dice::seeded(1).bytes(2 << 20);
    lab.package("library", "1", |package| package.file("library.so", &library));
    library[1 << 20] ^= 1;
    lab.package("library", "2", |package| package.file("library.so", &library));
    for tag in 1..=TAGS {
        lab.package("small", &tag.to_string(), |package| package.noise("data", 200_000));
    }
    lab.release(&[("library", "1")]);
    let relay = put_behind(&lab, |port| Relay::far(port, Duration::from_millis(20)));
    lab.start_master();
    lab.wait_until_published("library", "1");

    for tag in 1..=TAGS {
        let tag = lab.drop_tag("perth", "small", &tag.to_string());
        lab.wait_for("a tag to be removed", || (!tag.exists()).then_some(()));
    }
    let before = relay.sent();
    let tag = lab.drop_tag("perth", "library", "2");
    lab.wait_for("the last tag to be removed", || (!tag.exists()).then_some(()));
    lab.assert_published("library", "2");
    let sent = relay.sent() - before;
    assert!(sent < 100_000, "{sent} bytes for one that has changed");
}
