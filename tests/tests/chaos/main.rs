//! The real thing, driven by dice: a master and three agents (receiver, scripts, bucket) through operations of every kind, faults among them.
//! In the end all that is wanted is there and whole, nothing else is gone, history explains every change, and no process is left.
//!
//! `BLAT_SEEDS` says how many runs there are, `BLAT_SEED` with which one they begin, `BLAT_OPERATIONS` how long each is. A seed decides which
//! operations come in which order; what the processes make of them is up to the machine.

mod faults;
mod model;
mod orders;
mod witness;
mod world;

use std::env;
use std::time::Duration;

use blat_tests::Dice;

use self::witness::Witness;
use self::world::World;

/// How many operations a run has, where `BLAT_OPERATIONS` says nothing else.
const OPERATIONS: u64 = 200;
/// The longest pause between two of them: long enough for a tag to be sent, too short for a sync to end each time.
const PAUSE: Duration = Duration::from_millis(250);

/// What is done, and how often out of the sum of all these numbers.
type Operation = fn(&mut World, &mut Dice);
const KINDS: [(u64, &str, Operation); 27] = [
    (24, "a package is built", orders::build),
    (12, "a tag is dropped", orders::tag),
    (4, "a tag is dropped for what is not built yet", orders::tag_early),
    (6, "what was tagged early is built", orders::build_tagged),
    (3, "a tag of nonsense is dropped", orders::tag_nonsense),
    (10, "a release gets a package", orders::list),
    (8, "a release loses a package", orders::unlist),
    (3, "a release is made", orders::open_release),
    (3, "a release is closed", orders::close_release),
    (5, "a package is pinned", orders::pin),
    (3, "a pin is taken away", orders::unpin),
    (3, "a config is spoiled", orders::spoil_config),
    (2, "a target is taken away", orders::take_away),
    (5, "all configs are put right", orders::mend_configs),
    (5, "an operator asks for a sync", orders::sync),
    (3, "logs are rolled", orders::roll_logs),
    (8, "an agent is killed", faults::kill_agent),
    (5, "what carries a link is killed", faults::kill_link),
    (6, "a process on the target is killed", faults::kill_remote),
    (2, "the master is killed", faults::kill_master),
    (2, "the master is stopped and started", faults::restart_master),
    (6, "a link is cut", faults::cut),
    (3, "a link damages what it carries", faults::flip),
    (1, "a link swallows everything", faults::swallow),
    (6, "the bucket's server refuses and forgets", faults::spoil_requests),
    (3, "a disk is full, or has room again", faults::fill_or_free),
    (3, "the master's clock is set", faults::set_clock),
];

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn whatever_happens_all_that_is_wanted_arrives_and_nothing_else_goes() {
    let seeds = number("BLAT_SEEDS", 1);
    let first = number("BLAT_SEED", u64::from(std::process::id()));
    for seed in first..first + seeds {
        println!("BLAT_SEED={seed}");
        run(&mut Dice::seeded(seed), number("BLAT_OPERATIONS", OPERATIONS));
    }
}

fn run(dice: &mut Dice, operations: u64) {
    let mut world = World::new(dice);
    let mut witness = Witness::default();
    let all: u64 = KINDS.iter().map(|(often, ..)| often).sum();
    for count in 1..=operations {
        let mut drawn = dice.below(all);
        let kind = KINDS.iter().find(|(often, ..)| {
            let hit = drawn < *often;
            drawn = drawn.saturating_sub(*often);
            hit
        });
        let (_, what, operate) = kind.expect("less than the sum was drawn");
        println!("{count}: {what}");
        operate(&mut world, dice);
        std::thread::sleep(dice.moment(PAUSE));
        witness.look(&world);
    }
    println!("everything is put right");
    world.put_right(dice);
    world.wait_until_complete(|world| witness.look(world));
    witness.look(&world);
    world.stop_master();
    witness.look(&world);
    witness.judge(&world);
    world.assert_whole();
}
