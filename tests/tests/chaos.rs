//! Killing what takes part in a transfer, at moments chosen by dice: never a partial package, and the next run completes.

use std::thread;
use std::time::Duration;

use blat_tests::{Dice, Lab, process};
use rustix::process::Signal;

/// How often each kind of participant is killed.
const ROUNDS: u64 = 12;

/// Puts the packages of one round into the source: big and small ones, many files, and one that is replaced each time.
fn add_packages(lab: &Lab, round: u64) -> Vec<(String, String)> {
    let version = format!("1.{round}");
    lab.package("big", &version, |p| p.noise("a", 3 << 20).noise("b", 1 << 20).symlink("c", "b"));
    lab.package("files", &version, |p| (0..200).fold(p, |p, n| p.file(&format!("d{}/f{n}", n % 7), [b'x'; 700])));
    lab.package("small", &version, |p| p.exec("a", "1").empty_dir("empty"));
    ["big", "files", "small"].map(|name| (name.to_owned(), version.clone())).to_vec()
}

/// Rounds of: new packages, a sync, and `kill` at a random moment of it. Then one sync that nobody disturbs.
fn come_through(name: &str, kill: impl Fn(&Lab, &mut process::Running, &mut Dice)) {
    let lab = Lab::new(name);
    let mut dice = Dice::cast();
    let mut wanted: Vec<(String, String)> = Vec::new();
    let release = |lab: &Lab, wanted: &[(String, String)]| {
        lab.release(&wanted.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect::<Vec<_>>());
    };
    lab.config("perth", "");

    // How long an undisturbed sync of one round takes here and now.
    wanted.extend(add_packages(&lab, 0));
    release(&lab, &wanted);
    let start = std::time::Instant::now();
    lab.agent_once("perth").expect_success();
    let longest = start.elapsed();

    let mut cut_short = 0;
    for round in 1..=ROUNDS {
        wanted.extend(add_packages(&lab, round));
        release(&lab, &wanted);
        let mut agent = lab.start_agent_once("perth");
        let moment = dice.moment(longest);
        println!("round {round}: killing after {moment:?} of {longest:?}");
        thread::sleep(moment);
        kill(&lab, &mut agent, &mut dice);
        let outcome = agent.finish();
        println!("  the sync ended with {:?}, {} of {} are there", outcome.code, lab.visible().len(), wanted.len());
        lab.assert_never_partial();
        cut_short += u64::from(lab.visible().len() < wanted.len());
        // Whatever it made of it, a success is only claimed when all is there.
        if outcome.code == Some(0) {
            assert_eq!(lab.visible().len(), wanted.len(), "{outcome}");
        }
    }
    assert!(cut_short > 0, "{ROUNDS} kills, and none hit a sync that had something left to do");

    lab.agent_once("perth").expect_success();
    lab.assert_never_partial();
    assert_eq!(lab.visible().len(), wanted.len());
    assert_eq!(lab.package_list().len(), wanted.len());
    lab.wait_until_nothing_runs();
    assert_no_stage_is_left(&lab);
}

/// What a killed transfer left behind is cleaned by a later one.
fn assert_no_stage_is_left(lab: &Lab) {
    let archive = lab.target_archive();
    for folder in [archive.clone(), archive.join("big"), archive.join("files"), archive.join("small")] {
        for entry in std::fs::read_dir(&folder).expect("the target's archive") {
            let name = entry.expect("the target's archive").file_name();
            let hidden = name.to_string_lossy().starts_with('.');
            assert!(!hidden || name == ".dpkg_archive", "{name:?} is left in {}", folder.display());
        }
    }
}

#[test]
fn the_agent_is_killed() {
    come_through("killagent", |_, agent, _| process::signal(agent.pid(), Signal::KILL));
}

#[test]
fn its_ssh_is_killed() {
    come_through("killssh", |lab, _, _| {
        for ssh in lab.local_processes().iter().filter(|process| process.name == "ssh") {
            process::signal(ssh.pid, Signal::KILL);
        }
    });
}

/// Waits for a transfer first: most of a sync's time something else goes on there.
#[test]
fn the_receiving_script_or_a_child_of_it_is_killed() {
    come_through("killscript", |lab, agent, dice| {
        let receives = |p: &process::Process| p.command_line.contains("receive_package");
        lab.wait_for("a transfer, or the end of the sync", || {
            (agent.ended() || lab.remote_processes().iter().any(receives)).then_some(())
        });
        thread::sleep(dice.moment(Duration::from_millis(60)));
        // The sleeping ones only pace the script's signs of life.
        let there: Vec<_> = lab.remote_processes().into_iter().filter(|process| process.name != "sleep").collect();
        if !there.is_empty() {
            let victim = &there[dice.below(there.len() as u64) as usize];
            println!("  victim: {}", victim.command_line);
            process::signal(victim.pid, Signal::KILL);
        }
    });
}

#[test]
fn the_whole_target_is_killed() {
    come_through("killsshd", |lab, _, _| {
        lab.sshd("stop").expect_success();
        lab.sshd("start").expect_success();
    });
}

/// Agent and target at once, as when the power goes; the disk keeps what it was given.
#[test]
fn both_ends_are_killed() {
    come_through("killboth", |lab, agent, dice| {
        process::signal(agent.pid(), Signal::KILL);
        thread::sleep(dice.moment(Duration::from_millis(20)));
        lab.sshd("stop").expect_success();
        lab.sshd("start").expect_success();
    });
}
