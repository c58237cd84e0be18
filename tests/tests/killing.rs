//! Killing what takes part in a transfer, at moments chosen by dice: never a partial package, and the next run completes.

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use blat_tests::{Dice, Lab, process};
use rustix::process::Signal;

use super::WAY;

/// How often each kind of participant is killed, where `BLAT_ROUNDS` says nothing else: the dice are cast anew in each run.
const ROUNDS: u64 = 2;
/// So many syncs at most for each time: one that ended before it was its turn killed nobody.
const MOST_TRIES: u64 = 3;
/// Earlier ones are for measuring.
const FIRST_ROUND: u64 = 2;

/// Puts the packages of one round into the source: big and small ones, many files, and one that is replaced each time.
fn add_packages(lab: &Lab, round: u64) -> Vec<(String, String)> {
    let version = format!("1.{round}");
    lab.package("big", &version, |p| p.noise("a", 3 << 20).noise("b", 1 << 20).symlink("c", "b"));
    lab.package("files", &version, |p| (0..200).fold(p, |p, n| p.file(&format!("d{}/f{n}", n % 7), [b'x'; 700])));
    lab.package("small", &version, |p| p.exec("a", "1").empty_dir("empty"));
    ["big", "files", "small"].map(|name| (name.to_owned(), version.clone())).to_vec()
}

/// Rounds of: new packages, a sync, and `kill` at a random moment of it, which tells whether it hit anything. Then one
/// sync that nobody disturbs.
fn come_through(name: &str, kill: impl Fn(&Lab, &mut process::Running, &mut Dice) -> bool) {
    let lab = WAY.lab(name);
    let mut dice = Dice::cast();
    let mut wanted: Vec<(String, String)> = Vec::new();
    let mut more_is_wanted = |lab: &Lab, round| -> usize {
        wanted.extend(add_packages(lab, round));
        lab.release(&wanted.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect::<Vec<_>>());
        wanted.len()
    };
    lab.config("perth", "");
    let usual = how_long_it_takes(&lab, &mut more_is_wanted);

    let rounds = env::var("BLAT_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("BLAT_ROUNDS is a number"));
    let (mut round, mut hits) = (FIRST_ROUND, 0);
    while hits < rounds && round < FIRST_ROUND + rounds * MOST_TRIES {
        let count = more_is_wanted(&lab, round);
        let mut agent = lab.start_agent_once("perth");
        let moment = dice.moment(usual);
        println!("round {round}: killing after {moment:?} of {usual:?}");
        thread::sleep(moment);
        hits += u64::from(kill(&lab, &mut agent, &mut dice));
        let outcome = agent.finish();
        println!("  the sync ended with {:?}, {} of {count} are there", outcome.code, lab.visible().len());
        lab.assert_never_partial();
        // Whatever it made of it, a success is only claimed when all is there.
        if outcome.code == Some(0) {
            assert_eq!(lab.visible().len(), count, "{outcome}");
        }
        round += 1;
    }
    assert!(hits > 0, "in all {round} rounds nothing was left to be killed");

    let count = more_is_wanted(&lab, round);
    lab.agent_once("perth").expect_success();
    lab.assert_never_partial();
    assert_eq!((lab.visible().len(), lab.package_list().len()), (count, count));
    lab.wait_until_nothing_runs();
    assert_no_stage_is_left(&lab);
}

/// How long an undisturbed sync takes here and now. The second is measured: the first installs the scripts as well.
fn how_long_it_takes(lab: &Lab, more_is_wanted: &mut impl FnMut(&Lab, u64) -> usize) -> Duration {
    more_is_wanted(lab, 0);
    lab.agent_once("perth").expect_success();
    more_is_wanted(lab, 1);
    let start = Instant::now();
    lab.agent_once("perth").expect_success();
    start.elapsed()
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

fn kill_agent(agent: &mut process::Running) -> bool {
    let hits = !agent.ended();
    process::signal(agent.pid(), Signal::KILL);
    hits
}

/// The sshd, every session, and all that runs in them; then the host is up again.
fn kill_target(lab: &Lab) {
    lab.sshd("stop").expect_success();
    lab.sshd("start").expect_success();
}

#[test]
fn the_agent_is_killed() {
    come_through("killagent", |_, agent, _| kill_agent(agent));
}

#[test]
fn its_ssh_is_killed() {
    come_through("killssh", |lab, _, _| {
        let links = lab.link_processes();
        links.iter().for_each(|pid| process::signal(*pid, Signal::KILL));
        !links.is_empty()
    });
}

/// Waits for a transfer first: most of a sync's time something else goes on there.
#[test]
fn what_receives_or_a_child_of_it_is_killed() {
    come_through("killscript", |lab, agent, dice| {
        lab.wait_for("a transfer, or the end of the sync", || {
            (agent.ended() || lab.remote_processes().iter().any(process::Process::receives)).then_some(())
        });
        thread::sleep(dice.moment(Duration::from_millis(60)));
        // The sleeping ones only pace the script's signs of life.
        let there: Vec<_> = lab.remote_processes().into_iter().filter(|process| process.name != "sleep").collect();
        if there.is_empty() {
            return false;
        }
        let victim = &there[dice.below(there.len() as u64) as usize];
        println!("  victim: {}", victim.command_line);
        process::signal(victim.pid, Signal::KILL);
        true
    });
}

#[test]
fn the_whole_target_is_killed() {
    come_through("killtarget", |lab, agent, _| {
        let hits = !agent.ended();
        kill_target(lab);
        hits
    });
}

/// Agent and target at once, as when the power goes; the disk keeps what it was given.
#[test]
fn both_ends_are_killed() {
    come_through("killboth", |lab, agent, dice| {
        let hits = kill_agent(agent);
        thread::sleep(dice.moment(Duration::from_millis(20)));
        kill_target(lab);
        hits
    });
}
