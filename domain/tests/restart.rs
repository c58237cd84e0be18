//! The restart policy in simulated time: its numbers one by one, and its promises over random orders of events.

use std::time::Duration;

use blat_domain::policy::restart::{AgentAction, AgentEvent, AgentPhase, Change, Exit, Policy, Restart};
use proptest::prelude::*;

const CRASH: AgentEvent = AgentEvent::Exited(Exit::Signal(11));
const CLEAN: AgentEvent = AgentEvent::Exited(Exit::Code(0));
const REFUSED: AgentEvent = AgentEvent::Exited(Exit::Code(78));

/// A target and its clock.
struct Desk {
    restart: Restart,
    now: Duration,
}

impl Desk {
    fn new() -> Self {
        Self { restart: Restart::new(Policy::default()), now: Duration::ZERO }
    }

    /// A target whose agent runs.
    fn running() -> Self {
        let mut desk = Self::new();
        assert_eq!(desk.feed(AgentEvent::ConfigChanged(Change::Valid)), [AgentAction::Spawn]);
        assert_eq!(desk.feed(AgentEvent::Spawned), []);
        desk
    }

    fn feed(&mut self, event: AgentEvent) -> Vec<AgentAction> {
        self.restart.step(event, self.now, 0.5)
    }

    /// Lets time pass up to the deadline; says how long that was, and what was then done.
    fn wait(&mut self) -> (Duration, Vec<AgentAction>) {
        let deadline = self.restart.deadline().expect("something is due");
        let waited = deadline.saturating_sub(self.now);
        self.now = self.now.max(deadline);
        (waited, self.feed(AgentEvent::Tick))
    }

    /// The agent ends like this; says how long it takes until the next one runs.
    fn comes_back_after(&mut self, exit: AgentEvent) -> Duration {
        assert_eq!(self.feed(exit), []);
        let (waited, actions) = self.wait();
        assert_eq!(actions, [AgentAction::Spawn]);
        assert_eq!(self.feed(AgentEvent::Spawned), []);
        waited
    }
}

#[test]
fn an_agent_that_ends_unasked_comes_back_after_a_growing_wait_however_it_ended() {
    for exit in [CRASH, CLEAN, AgentEvent::Exited(Exit::Code(1))] {
        let mut desk = Desk::running();
        let waits: Vec<u64> = (0..5).map(|_| desk.comes_back_after(exit).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16]);
        assert_eq!(desk.restart.restarts(), 5);
    }
}

#[test]
fn ten_minutes_up_make_an_agent_healthy_again_and_less_does_not() {
    let mut desk = Desk::running();
    desk.comes_back_after(CRASH);
    desk.now += Duration::from_secs(599);
    assert_eq!(desk.comes_back_after(CRASH).as_secs(), 2);
    desk.now += Duration::from_secs(600);
    assert_eq!(desk.comes_back_after(CRASH).as_secs(), 1);
}

#[test]
fn more_than_five_exits_in_a_minute_are_failing_and_tried_at_the_cap_for_ever() {
    let mut desk = Desk::running();
    for _ in 0..5 {
        desk.comes_back_after(CRASH);
    }
    for _ in 0..100 {
        desk.feed(CRASH);
        assert!(desk.restart.is_failing());
        let (waited, actions) = desk.wait();
        assert_eq!((waited.as_secs(), actions), (300, vec![AgentAction::Spawn]));
        desk.feed(AgentEvent::Spawned);
    }
    desk.now += Duration::from_secs(600);
    assert_eq!(desk.comes_back_after(CRASH).as_secs(), 1);
}

#[test]
fn a_slow_run_of_exits_is_backed_off_but_not_called_failing() {
    let mut desk = Desk::running();
    for _ in 0..20 {
        desk.now += Duration::from_secs(30);
        desk.feed(CRASH);
        assert!(!desk.restart.is_failing());
        desk.wait();
        desk.feed(AgentEvent::Spawned);
    }
}

#[test]
fn a_start_that_is_impossible_is_tried_again_soon_and_never_counts_as_an_exit() {
    let mut desk = Desk::new();
    assert_eq!(desk.feed(AgentEvent::ConfigChanged(Change::Valid)), [AgentAction::Spawn]);
    for _ in 0..50 {
        desk.feed(AgentEvent::SpawnFailed);
        let (waited, actions) = desk.wait();
        assert!((1..=24).contains(&waited.as_secs()), "{waited:?}");
        assert_eq!(actions, [AgentAction::Spawn]);
    }
    desk.feed(AgentEvent::Spawned);
    assert_eq!(desk.restart.restarts(), 0);
    assert_eq!(desk.comes_back_after(CRASH).as_secs(), 1);
}

#[test]
fn exit_78_waits_for_a_config_change() {
    let mut desk = Desk::running();
    assert_eq!(desk.feed(REFUSED), []);
    assert_eq!((desk.restart.phase(), desk.restart.deadline()), (AgentPhase::Misconfigured, None));
    assert_eq!(desk.feed(AgentEvent::ConfigChanged(Change::Invalid)), []);
    assert_eq!(desk.feed(AgentEvent::ConfigChanged(Change::Valid)), []);
    let (waited, actions) = desk.wait();
    assert_eq!((waited.as_secs(), actions), (1, vec![AgentAction::Spawn]));
}

#[test]
fn exit_78_after_a_change_may_be_about_what_was_there_before() {
    let mut desk = Desk::running();
    assert_eq!(desk.feed(AgentEvent::ConfigChanged(Change::Valid)), [AgentAction::Reload]);
    assert_eq!(desk.comes_back_after(REFUSED).as_secs(), 1);
    assert_eq!(desk.feed(REFUSED), []);
    assert_eq!(desk.restart.phase(), AgentPhase::Misconfigured);
}

#[test]
fn dying_during_a_reload_is_one_restart() {
    let mut desk = Desk::running();
    assert_eq!(desk.feed(AgentEvent::ConfigChanged(Change::Valid)), [AgentAction::Reload]);
    assert_eq!(desk.feed(CRASH), []);
    assert_eq!(desk.feed(AgentEvent::ConfigChanged(Change::Valid)), []);
    let (waited, actions) = desk.wait();
    assert_eq!((waited.as_secs(), actions), (1, vec![AgentAction::Spawn]));
    assert_eq!(desk.feed(AgentEvent::Spawned), []);
    assert_eq!(desk.restart.restarts(), 1);
}

#[test]
fn a_change_while_the_process_is_being_made_is_not_missed() {
    let mut desk = Desk::new();
    desk.feed(AgentEvent::ConfigChanged(Change::Valid));
    assert_eq!(desk.feed(AgentEvent::ConfigChanged(Change::Valid)), []);
    assert_eq!(desk.feed(AgentEvent::Spawned), [AgentAction::Reload]);
}

#[test]
fn a_bad_config_leaves_the_running_agent_alone() {
    let mut desk = Desk::running();
    assert_eq!(desk.feed(AgentEvent::ConfigChanged(Change::Invalid)), []);
    assert_eq!(desk.restart.phase(), AgentPhase::Running);
}

#[test]
fn another_type_takes_a_new_process_which_is_no_restart() {
    let mut desk = Desk::running();
    assert_eq!(desk.feed(AgentEvent::ConfigChanged(Change::OtherType)), [AgentAction::Terminate]);
    assert_eq!(desk.feed(CLEAN), [AgentAction::Spawn]);
    desk.feed(AgentEvent::Spawned);
    assert_eq!(desk.restart.restarts(), 0);
}

#[test]
fn a_change_shortens_a_long_wait_to_the_shortest() {
    let mut desk = Desk::running();
    for _ in 0..5 {
        desk.comes_back_after(CRASH);
    }
    desk.feed(CRASH);
    desk.feed(AgentEvent::ConfigChanged(Change::Valid));
    assert_eq!(desk.wait().0.as_secs(), 1);
}

#[test]
fn stopping_asks_kindly_then_kills_the_group_and_goes_on_killing() {
    let mut desk = Desk::running();
    assert_eq!(desk.feed(AgentEvent::Removed), [AgentAction::Terminate]);
    for _ in 0..3 {
        let (waited, actions) = desk.wait();
        assert_eq!((waited.as_secs(), actions), (30, vec![AgentAction::KillGroup]));
    }
    assert_eq!(desk.feed(AgentEvent::Exited(Exit::Signal(9))), [AgentAction::Forget]);
}

#[test]
fn a_second_stop_kills_at_once() {
    let mut desk = Desk::running();
    assert_eq!(desk.feed(AgentEvent::StopRequested), [AgentAction::Terminate]);
    assert_eq!(desk.feed(AgentEvent::StopRequested), []);
    assert_eq!(desk.feed(AgentEvent::StopAtOnce), [AgentAction::KillGroup]);
    assert_eq!(desk.feed(CRASH), []);
    assert_eq!(desk.feed(AgentEvent::ConfigChanged(Change::Valid)), [], "the master is about to end");
    assert_eq!(desk.restart.phase(), AgentPhase::Stopped);
}

#[test]
fn a_target_that_comes_back_while_its_agent_ends_gets_a_new_one() {
    let mut desk = Desk::running();
    desk.feed(AgentEvent::Removed);
    assert_eq!(desk.feed(AgentEvent::ConfigChanged(Change::Valid)), []);
    assert_eq!(desk.feed(CLEAN), [AgentAction::Spawn]);
}

#[test]
fn a_silent_agent_is_ended_and_started_again_with_a_wait() {
    let mut desk = Desk::running();
    desk.now += Duration::from_secs(50);
    desk.feed(AgentEvent::Heard);
    let (waited, actions) = desk.wait();
    assert_eq!((waited.as_secs(), actions), (60, vec![AgentAction::Terminate]));
    assert_eq!(desk.comes_back_after(CLEAN).as_secs(), 1);
    assert_eq!(desk.restart.restarts(), 1);
}

#[test]
fn what_claims_another_targets_place_goes_on_as_it_was_and_is_not_started_anew() {
    let mut desk = Desk::running();
    assert_eq!(desk.feed(AgentEvent::ConfigChanged(Change::Conflicting)), []);
    assert_eq!(desk.restart.phase(), AgentPhase::Running, "with the settings it has");
    assert_eq!(
        (desk.feed(CRASH), desk.restart.phase(), desk.restart.deadline()),
        (vec![], AgentPhase::Misconfigured, None)
    );
    desk.now += Duration::from_secs(10);
    assert_eq!(desk.feed(AgentEvent::ConfigChanged(Change::Valid)), [AgentAction::Spawn], "the other one gave way");

    let mut desk = Desk::new();
    assert_eq!(desk.feed(AgentEvent::ConfigChanged(Change::Conflicting)), []);
    assert_eq!(desk.restart.phase(), AgentPhase::Misconfigured);
    assert_eq!(desk.feed(AgentEvent::ConfigChanged(Change::Valid)), [AgentAction::Spawn]);
    desk.feed(AgentEvent::ConfigChanged(Change::Conflicting));
    assert_eq!(desk.feed(AgentEvent::Spawned), [AgentAction::Terminate], "it may have read what came meanwhile");
    assert_eq!((desk.feed(CLEAN), desk.restart.phase()), (vec![], AgentPhase::Misconfigured));

    let mut desk = Desk::running();
    desk.feed(CRASH);
    desk.feed(AgentEvent::ConfigChanged(Change::Conflicting));
    assert_eq!((desk.restart.phase(), desk.restart.deadline()), (AgentPhase::Misconfigured, None));
}

/// One thing that may happen in a random life.
#[derive(Debug, Clone, Copy)]
enum Happening {
    /// The system answers a pending spawn.
    SpawnAnswered(bool),
    /// The process, if one lives, ends like this.
    Ends(Exit),
    /// Anything else that the policy may be told at any time.
    Told(AgentEvent),
    /// Time passes: to the deadline, or so many seconds.
    DeadlinePasses,
    Passes(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let exits = prop_oneof![Just(Exit::Code(0)), Just(Exit::Code(1)), Just(Exit::Code(78)), Just(Exit::Signal(9))];
    let changes = prop_oneof![3 => Just(Change::Valid), 1 => Just(Change::OtherType), 1 => Just(Change::Invalid),
        1 => Just(Change::Conflicting)];
    prop_oneof![
        6 => prop::bool::weighted(0.8).prop_map(Happening::SpawnAnswered),
        4 => exits.prop_map(Happening::Ends),
        3 => changes.prop_map(|change| Happening::Told(AgentEvent::ConfigChanged(change))),
        1 => Just(Happening::Told(AgentEvent::Removed)),
        2 => Just(Happening::Told(AgentEvent::Heard)),
        4 => Just(Happening::DeadlinePasses),
        2 => (0u64..1_000).prop_map(Happening::Passes),
    ]
}

/// The system below the policy: one spawn at most under way, one process at most alive.
struct World {
    desk: Desk,
    spawning: bool,
    alive: bool,
    exited: Option<Duration>,
    told_to_end: bool,
}

impl World {
    fn new() -> Self {
        Self { desk: Desk::new(), spawning: false, alive: false, exited: None, told_to_end: false }
    }

    fn tell(&mut self, event: AgentEvent) -> Result<(), TestCaseError> {
        match event {
            AgentEvent::Spawned => (self.spawning, self.alive, self.told_to_end) = (false, true, false),
            AgentEvent::SpawnFailed => self.spawning = false,
            AgentEvent::Exited(_) => {
                self.alive = false;
                self.exited = (!self.told_to_end).then_some(self.desk.now);
            }
            AgentEvent::Heard
            | AgentEvent::ConfigChanged(_)
            | AgentEvent::Removed
            | AgentEvent::StopRequested
            | AgentEvent::StopAtOnce
            | AgentEvent::Tick => {}
        }
        for action in self.desk.feed(event) {
            match action {
                AgentAction::Spawn => {
                    prop_assert!(!self.alive && !self.spawning, "a second process");
                    if let Some(exited) = self.exited {
                        prop_assert!(self.desk.now >= exited + Duration::from_secs(1), "started again too soon");
                    }
                    self.spawning = true;
                }
                AgentAction::Terminate | AgentAction::KillGroup => {
                    prop_assert!(self.alive, "nobody there to signal");
                    self.told_to_end = true;
                }
                AgentAction::Reload => prop_assert!(self.alive, "nobody there to tell"),
                AgentAction::Forget => {
                    prop_assert!(!self.alive && !self.spawning, "a process is forgotten");
                    self.exited = None;
                }
            }
        }
        self.check()
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let restart = &self.desk.restart;
        prop_assert_eq!(restart.is_alive(), self.alive);
        let reason = matches!(restart.phase(), AgentPhase::Stopped | AgentPhase::Misconfigured);
        prop_assert!(self.alive || self.spawning || restart.deadline().is_some() || reason, "nothing will ever happen");
        if self.alive {
            prop_assert!(restart.deadline().is_some(), "a hung process would stay for ever");
        }
        Ok(())
    }

    fn apply(&mut self, happening: Happening) -> Result<(), TestCaseError> {
        match happening {
            Happening::SpawnAnswered(true) if self.spawning => self.tell(AgentEvent::Spawned),
            Happening::SpawnAnswered(false) if self.spawning => self.tell(AgentEvent::SpawnFailed),
            Happening::Ends(exit) if self.alive => self.tell(AgentEvent::Exited(exit)),
            Happening::Told(event) => self.tell(event),
            Happening::DeadlinePasses => {
                self.desk.now = self.desk.restart.deadline().unwrap_or_default().max(self.desk.now);
                self.tell(AgentEvent::Tick)
            }
            Happening::Passes(seconds) => {
                self.desk.now += Duration::from_secs(seconds);
                self.tell(AgentEvent::Tick)
            }
            Happening::SpawnAnswered(_) | Happening::Ends(_) => Ok(()),
        }
    }

    /// The system answers, and nothing but time passes, for `limit`.
    fn calm(&mut self, limit: Duration) -> Result<(), TestCaseError> {
        let end = self.desk.now + limit;
        loop {
            if self.spawning {
                self.tell(AgentEvent::Spawned)?;
            }
            match self.desk.restart.deadline() {
                Some(deadline) if deadline <= end && !self.desk.restart.is_alive() => {
                    self.desk.now = deadline.max(self.desk.now);
                    self.tell(AgentEvent::Tick)?;
                }
                Some(_) | None => return Ok(()),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn one_process_at_most_and_always_something_to_wait_for(life in prop::collection::vec(happening(), 1..120)) {
        let mut world = World::new();
        for happening in life {
            world.apply(happening)?;
        }
    }

    #[test]
    fn an_agent_always_comes_back(life in prop::collection::vec(happening(), 1..120)) {
        let mut world = World::new();
        for happening in life {
            world.apply(happening)?;
        }
        // Whatever came before: once the config is good and the old process, if told to end, did, an agent runs soon.
        if world.alive {
            world.tell(AgentEvent::Exited(Exit::Code(0)))?;
        }
        world.tell(AgentEvent::ConfigChanged(Change::Valid))?;
        world.calm(Duration::from_secs(25))?;
        prop_assert!(world.alive);
        prop_assert!(matches!(world.desk.restart.phase(), AgentPhase::Running | AgentPhase::Stopping));
    }

    #[test]
    fn every_stop_ends(
        life in prop::collection::vec(happening(), 1..80),
        after in prop::collection::vec(happening(), 0..20),
        at_once: bool,
    ) {
        let mut world = World::new();
        for happening in life {
            world.apply(happening)?;
        }
        world.tell(if at_once { AgentEvent::StopAtOnce } else { AgentEvent::StopRequested })?;
        let stopped = world.desk.now;
        for happening in after {
            world.apply(happening)?;
        }
        if world.spawning {
            world.tell(AgentEvent::Spawned)?;
        }
        // The process ignores TERM, and ends only when its group is killed.
        while world.alive {
            let waits = !matches!(world.desk.restart.phase(), AgentPhase::Stopping);
            prop_assert!(!waits, "{:?} after a stop", world.desk.restart.phase());
            let killed = world.desk.restart.deadline().expect("a ladder has rungs");
            world.desk.now = killed.max(world.desk.now);
            let actions = world.desk.feed(AgentEvent::Tick);
            prop_assert_eq!(actions, vec![AgentAction::KillGroup]);
            world.tell(AgentEvent::Exited(Exit::Signal(9)))?;
        }
        prop_assert!(!world.spawning && world.desk.now >= stopped);
        prop_assert_eq!(world.desk.restart.deadline(), None);
        prop_assert_eq!(world.desk.restart.phase(), AgentPhase::Stopped);
    }
}
