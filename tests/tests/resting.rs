//! What an agent and its receiver cost while there is nothing to do: few wakes, little memory.

use std::time::{Duration, Instant};

use blat_tests::{Lab, process};

/// How long wakes are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// The most memory that either end may hold, the pages of its executable left out: those of a debug build are far more than a release has.
const MOST_MEMORY: u64 = 16 << 20;
/// So many packages are wanted that the source lacks, in so many syncs.
const LACKING: u64 = 100_000;
const SYNCS: u32 = 8;
/// The most memory for each of these packages, in bytes. A store of free memory for each thread takes more than that.
const MOST_EACH: u64 = 400;

#[test]
fn an_idle_agent_and_its_receiver_wake_at_most_once_a_second_and_stay_small() {
    process::carried_receiver();
    let mut lab = Lab::new("resting");
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    lab.config("perth", "receiver: auto");
    lab.start_master();
    let status = lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    assert_eq!(status["far_end"]["kind"], "receiver", "{status:#}");
    let agent = status["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a running agent");
    let receivers = || lab.remote_processes().into_iter().filter(|p| p.name == "blat-receiver");
    let receiver = lab.wait_for("the receiver", || receivers().next()).pid;

    for (what, pid) in [("agent", agent), ("receiver", receiver)] {
        // Threads that end after a sync, and a slow machine, may disturb one window; not every one.
        lab.wait_for(&format!("some seconds in which the {what} wakes at most once each"), || {
            let (start, before) = (Instant::now(), process::wakes(pid));
            process::poll(WINDOW * 2, || (start.elapsed() >= WINDOW).then_some(()));
            let woke = process::wakes(pid).saturating_sub(before);
            println!(
                "the {what} woke {woke} times in {:?} and holds {} KiB",
                start.elapsed(),
                process::own_memory(pid) >> 10
            );
            (woke <= start.elapsed().as_secs() + 1).then_some(())
        });
        let memory = process::own_memory(pid);
        assert!(memory < MOST_MEMORY, "the {what} holds {memory} bytes");
    }
}

/// A sync runs in other threads than the one before. What it frees serves the next one all the same.
#[test]
fn many_syncs_that_lack_packages_leave_an_agent_no_larger_than_one() {
    let mut lab = Lab::new("lackagain");
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    lab.config("perth", "");
    lab.start_master();
    let status = lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    let agent = status["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a running agent");
    let rest = process::own_memory(agent);

    let names: Vec<String> = (0..LACKING).map(|number| format!("lacking{number}")).collect();
    let packages: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    lab.release(&packages);
    let held: Vec<u64> = (0..SYNCS)
        .map(|_| {
            lab.blat(&["sync", "perth", "--wait"]).expect(1).says("the source has no such package");
            process::own_memory(agent).saturating_sub(rest) / LACKING
        })
        .collect();
    println!("bytes for each package after each sync: {held:?}");
    assert!(held.iter().all(|held| *held < MOST_EACH), "{held:?}");
}
