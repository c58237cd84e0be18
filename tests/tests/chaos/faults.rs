//! What goes wrong at real sites.

use std::fs;
use std::time::Duration;

use blat_tests::process::{self, Process};
use blat_tests::relay::Fault;
use blat_tests::s3_proxy::{self, Asks};
use blat_tests::{Dice, accounts};
use rustix::process::Signal;

use super::world::World;

/// Kills any of these, if there is one.
fn kill_one(found: &[u32], dice: &mut Dice) {
    if !found.is_empty() {
        process::signal(found[dice.below(found.len() as u64) as usize], Signal::KILL);
    }
}

fn pids(found: Vec<Process>, is: impl Fn(&Process) -> bool) -> Vec<u32> {
    found.iter().filter(|process| is(process)).map(|process| process.pid).collect()
}

pub(crate) fn kill_agent(world: &mut World, dice: &mut Dice) {
    let agents = pids(world.lab.local_processes(), |process| process.name == "blat-agent");
    kill_one(&agents, dice);
}

pub(crate) fn kill_link(world: &mut World, dice: &mut Dice) {
    kill_one(&world.lab.link_processes(), dice);
}

pub(crate) fn kill_remote(world: &mut World, dice: &mut Dice) {
    kill_one(&pids(world.lab.remote_processes(), |_| true), dice);
}

/// Its agents end with it.
pub(crate) fn kill_master(world: &mut World, _: &mut Dice) {
    world.lab.end_master(Signal::KILL);
    world.start_master();
}

pub(crate) fn restart_master(world: &mut World, _: &mut Dice) {
    world.stop_master();
    world.start_master();
}

pub(crate) fn cut(world: &mut World, _: &mut Dice) {
    world.relay.cut();
}

/// One bit changes on the next connection, somewhere in the first megabyte.
pub(crate) fn flip(world: &mut World, dice: &mut Dice) {
    world.relay.breaks(&[Fault::Flip(dice.below(1 << 20))]);
    world.relay.cut();
}

pub(crate) fn swallow(world: &mut World, _: &mut Dice) {
    world.relay.swallow();
}

pub(crate) fn spoil_requests(world: &mut World, dice: &mut Dice) {
    let faults = [
        s3_proxy::RequestFault::Refused(503, "SlowDown"),
        s3_proxy::RequestFault::Refused(500, "InternalError"),
        s3_proxy::RequestFault::Reset,
        s3_proxy::RequestFault::CutAnswer,
        s3_proxy::RequestFault::LostAnswer,
    ];
    let kinds = [Asks::List, Asks::Get, Asks::Put, Asks::Part, Asks::Complete, Asks::Delete, Asks::DeleteMany];
    let fault = faults[dice.below(faults.len() as u64) as usize];
    let asks = kinds[dice.below(kinds.len() as u64) as usize];
    world.proxy.spoils(1 + dice.below(3) as usize, asks, fault);
}

/// A small disk is mounted over the archive of the target with scripts where root runs this; else nobody may write there for a while.
pub(crate) fn fill_or_free(world: &mut World, _: &mut Dice) {
    world.is_full = !world.is_full;
    let archive = world.archive("hobart");
    if accounts::is_root() {
        let filler = archive.join(".filler");
        if world.is_full {
            // It ends by itself where nothing more fits.
            let written =
                std::io::copy(&mut std::io::repeat(7), &mut fs::File::create(filler).expect("a disk of ours"));
            written.expect_err("the disk is full in the end");
        } else {
            fs::remove_file(filler).expect("what was put there");
        }
    } else {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = if world.is_full { 0o555 } else { 0o755 };
        fs::set_permissions(&archive, fs::Permissions::from_mode(mode)).expect("an own folder");
    }
}

/// Ahead or back, by seconds, days or a year, or right again.
pub(crate) fn set_clock(world: &mut World, dice: &mut Dice) {
    const DAY: i64 = 86_400;
    let steps = [0, 0, 20, -20, 3_600, -3_600, 2 * DAY, -2 * DAY, 40 * DAY, 366 * DAY, -366 * DAY];
    world.set_clock(steps[dice.below(steps.len() as u64) as usize]);
    std::thread::sleep(Duration::from_millis(20));
}
