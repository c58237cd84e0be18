//! The fleet in simulated time: what it does in given cases, and its promises over random orders of events.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use blat_domain::package::name::TargetName;
use blat_domain::policy::restart::{Exit, Policy};
use blat_domain::protocol::messages::{AgentMessage, AgentReport, Answer, Order, Ticket, Watch};
use blat_domain::protocol::status::{LastError, Queue, State, SyncReport, SyncResult};
use jiff::Timestamp;
use proptest::prelude::*;

use super::{Action, Event, Fleet, Note, Passed};
use crate::fleet::sync_waiters::Asker;
use crate::fleet::target_status::{Moment, Seen};

fn name(text: &str) -> TargetName {
    text.parse().expect("a name")
}

fn valid() -> Seen {
    Seen::Valid { kind: "dpkg_archive".to_owned() }
}

fn report(state: State) -> Box<AgentMessage> {
    report_with(state, Queue::default())
}

fn report_with(state: State, queue: Queue) -> Box<AgentMessage> {
    Box::new(AgentMessage::Report(AgentReport {
        state,
        last_sync: None,
        queue,
        current: None,
        last_error: None,
        far_end: None,
        waits_for: None,
        leftovers: Vec::new(),
        watch: Watch::No,
    }))
}

fn sync_report() -> SyncReport {
    let begun = SyncReport::begun(Timestamp::UNIX_EPOCH);
    SyncReport { result: SyncResult::Ok, wanted: 1, present: 1, sent: 1, bytes: 1, ..begun }
}

/// A fleet and its clock.
struct Desk {
    fleet: Fleet,
    now: Duration,
}

impl Desk {
    fn new() -> Self {
        Self { fleet: Fleet::new(Policy::default(), BTreeMap::new()), now: Duration::ZERO }
    }

    /// What is to be done, without what is only logged.
    fn feed(&mut self, event: Event) -> Vec<Action> {
        let now = Moment { elapsed: self.now, wall: Timestamp::UNIX_EPOCH + self.now, chance: 0.5 };
        let mut actions = self.fleet.step(event, now);
        actions.retain(|action| !matches!(action, Action::Note(..)));
        actions
    }

    fn config(&mut self, target: &str, seen: Seen) -> Vec<Action> {
        self.feed(Event::ConfigSeen(name(target), PathBuf::from(format!("config/{target}.conf")), seen))
    }

    /// A target whose agent runs and has reported.
    fn start(&mut self, target: &str) {
        assert_eq!(self.config(target, valid()), [Action::Spawn(name(target))]);
        assert_eq!(self.feed(Event::Spawned(name(target), 7)), []);
        assert_eq!(self.feed(Event::Said(name(target), report(State::Idle))), []);
    }

    /// Lets time pass in the steps of the real loop, which wakes every second.
    fn pass(&mut self, time: Duration) -> Vec<Action> {
        let end = self.now + time;
        let mut actions = Vec::new();
        while self.now < end {
            self.now = end.min(self.now + Duration::from_secs(1));
            actions.extend(self.feed(Event::Ticked));
        }
        actions
    }

    fn state(&self, target: &str) -> State {
        self.fleet.status().iter().find(|status| status.name == name(target)).expect("it is there").state
    }
}

fn sync(asker: u64, targets: &[&str], wait: bool) -> Event {
    Event::SyncAsked {
        asker: Asker(asker),
        targets: targets.iter().copied().map(name).collect(),
        wait,
        allow_delete: false,
    }
}

#[test]
fn signals_go_to_agents_that_can_take_them_and_orders_to_the_others() {
    let mut desk = Desk::new();
    desk.start("perth");
    desk.config("oslo", valid());
    desk.feed(Event::Spawned(name("oslo"), 8));
    desk.config("kaput", Seen::Invalid { verdict: "is not valid", error: "x".to_owned() });
    assert_eq!(desk.feed(Event::SignalCame(Passed::Sync)), [Action::Pass(name("perth"), Passed::Sync)]);
    assert_eq!(
        desk.feed(Event::SignalCame(Passed::RollLog)),
        [Action::Tell(name("oslo"), Order::RollLog), Action::Pass(name("perth"), Passed::RollLog)]
    );
}

#[test]
fn a_silent_agent_is_ended_and_the_others_are_not() {
    let mut desk = Desk::new();
    desk.start("perth");
    desk.start("oslo");
    let mut actions = desk.pass(Duration::from_secs(40));
    desk.feed(Event::Said(name("oslo"), report(State::Idle)));
    actions.extend(desk.pass(Duration::from_secs(30)));
    assert_eq!(actions, [Action::Terminate(name("perth"))]);
    desk.feed(Event::Exited(name("perth"), Exit::Code(0), None));
    assert_eq!(desk.state("perth"), State::Waiting);
}

#[test]
fn a_master_that_slept_calls_nobody_silent() {
    let mut desk = Desk::new();
    desk.start("perth");
    for asleep in [6, 55, 61, 100, 100_000] {
        desk.pass(Duration::from_secs(8));
        desk.now += Duration::from_secs(asleep);
        assert_eq!(desk.feed(Event::Ticked), [], "after {asleep} s");
        desk.feed(Event::Said(name("perth"), report(State::Idle)));
    }
}

#[test]
fn a_sync_that_cannot_be_is_refused_or_ends_at_once_and_says_why() {
    let mut desk = Desk::new();
    desk.start("perth");
    desk.config("kaput", Seen::Invalid { verdict: "is not valid", error: "line 3: no".to_owned() });
    let refused = |actions: Vec<Action>| match actions.as_slice() {
        [Action::Answer(_, Answer::Refused { error, exit_code }), Action::Dismiss(_)] => (error.clone(), *exit_code),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(desk.feed(sync(1, &["perth", "nowhere"], true))).1, 2);
    let (error, code) = refused(desk.feed(sync(2, &["kaput"], false)));
    assert!(code == 78 && error.contains("line 3: no"), "{error}");
    let actions = desk.feed(sync(3, &["kaput"], true));
    let [Action::Answer(_, Answer::SyncFinished { report: None, error: Some(error), .. }), Action::Dismiss(_)] =
        actions.as_slice()
    else {
        panic!("{actions:?}")
    };
    assert!(error.text.contains("line 3: no"));
    desk.feed(Event::StopAsked);
    assert_eq!(refused(desk.feed(sync(4, &[], true))).1, 75);
}

#[test]
fn a_confirmation_reaches_the_agent_that_it_is_for_and_no_other() {
    let mut desk = Desk::new();
    desk.start("perth");
    desk.start("oslo");
    let confirmed = |targets: &[&str]| Event::SyncAsked {
        asker: Asker(1),
        targets: targets.iter().copied().map(name).collect(),
        wait: false,
        allow_delete: true,
    };
    let told = desk.feed(confirmed(&["oslo"]));
    let orders: Vec<_> = told.iter().filter(|action| matches!(action, Action::Tell(..))).collect();
    assert!(
        matches!(orders[..], [Action::Tell(target, Order::Sync { allow_delete: true, .. })] if *target == name("oslo")),
        "{told:?}"
    );
}

#[test]
fn a_confirmation_that_no_agent_can_take_yet_is_refused() {
    let mut desk = Desk::new();
    desk.config("perth", valid());
    for targets in [vec![], vec![name("perth")]] {
        let told = desk.feed(Event::SyncAsked { asker: Asker(1), targets, wait: false, allow_delete: true });
        assert!(matches!(&told[0], Action::Answer(_, Answer::Refused { exit_code: 75, .. })), "{told:?}");
    }
}

#[test]
fn whoever_waits_hears_of_every_target_and_then_is_let_go() {
    let mut desk = Desk::new();
    desk.start("perth");
    desk.start("oslo");
    let tickets: Vec<Ticket> = desk
        .feed(sync(1, &[], true))
        .into_iter()
        .map(|action| match action {
            Action::Tell(_, Order::Sync { ticket, .. }) => ticket,
            other => panic!("{other:?}"),
        })
        .collect();
    let told = |tickets| Box::new(AgentMessage::SyncFinished { tickets, report: sync_report(), error: None });
    let actions = desk.feed(Event::Said(name("oslo"), told(tickets[..1].to_vec())));
    let answer = |target, report| Answer::SyncFinished { target: name(target), report, error: None };
    assert_eq!(actions, [Action::Answer(Asker(1), answer("oslo", Some(sync_report())))]);
    let status = desk.fleet.status();
    assert_eq!(status[0].last_sync, Some(sync_report()), "newer than the last report");
    let actions = desk.feed(Event::Exited(name("perth"), Exit::Signal(9), Some("last words".to_owned())));
    let [Action::Answer(_, Answer::SyncFinished { report: None, error: Some(error), .. }), Action::Dismiss(Asker(1))] =
        actions.as_slice()
    else {
        panic!("{actions:?}")
    };
    assert!(error.text.contains("signal 9") && error.text.contains("last words"), "{}", error.text);
}

#[test]
fn progress_is_told_on_change_and_at_most_five_times_a_second() {
    let mut desk = Desk::new();
    desk.start("perth");
    desk.feed(sync(1, &["perth"], true));
    let mut told = 0;
    for step in 0..1_000u64 {
        desk.now += Duration::from_millis(10);
        let queue = Queue { tags: 0, packages: step, bytes: 0 };
        desk.feed(Event::Said(name("perth"), report_with(State::Syncing, queue)));
        told += desk.feed(Event::Ticked).len();
    }
    assert!((45..=51).contains(&told), "{told} in ten seconds");
    let mut calm = 0;
    for _ in 0..20 {
        calm += desk.pass(Duration::from_secs(1)).len();
        desk.feed(Event::Said(name("perth"), report(State::Idle)));
    }
    assert!((1..=4).contains(&calm), "{calm} with nothing new in twenty seconds");
}

#[test]
fn an_exit_is_noted_once_with_cause_and_next_start() {
    let mut desk = Desk::new();
    desk.start("perth");
    let now = Moment { elapsed: desk.now, wall: Timestamp::UNIX_EPOCH, chance: 0.5 };
    let actions = desk.fleet.step(Event::Exited(name("perth"), Exit::Code(3), None), now);
    let [Action::Note(_, Note::Trouble(LastError { text, retry_at: Some(retry_at), .. }))] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert!(text.contains("code 3"), "{text}");
    assert_eq!(*retry_at, Timestamp::UNIX_EPOCH + Duration::from_secs(1));
}

#[test]
fn the_status_stays_one_line_of_the_protocol() {
    let mut desk = Desk::new();
    for number in 0..500 {
        let target = format!("t{number}");
        desk.config(&target, Seen::Invalid { verdict: "is not valid", error: "é".repeat(50_000) });
        let mut sync = SyncReport { held_back: Some("é".repeat(50_000)), ..sync_report() };
        (0..5).for_each(|_| sync.hold(&"core@1".parse().expect("a package"), &"é".repeat(1000)));
        let told = AgentMessage::SyncFinished { tickets: Vec::new(), report: sync, error: None };
        desk.feed(Event::Said(name(&target), Box::new(told)));
    }
    let held =
        desk.fleet.status().into_iter().filter_map(|status| status.last_sync).map(|sync| sync.held_packages.len());
    assert_eq!(held.collect::<Vec<_>>(), vec![1; 500], "one is named in any case");
    let bytes: usize = desk.fleet.status().iter().map(|status| serde_json::to_vec(status).expect("JSON").len()).sum();
    assert!(bytes < super::LONGEST_LINE, "{bytes}");
}

/// One thing that may happen in a random life; targets are numbered.
#[derive(Debug, Clone)]
enum Happening {
    Config(usize, Seen),
    SpawnAnswered(usize, bool),
    Exits(usize, Exit),
    Reports(usize),
    FinishesSyncs(usize),
    Signal(Passed),
    Asks(Vec<usize>, bool),
    Passes(u64),
}

const TARGETS: [&str; 3] = ["oslo", "perth", "york"];

fn happening() -> impl Strategy<Value = Happening> {
    let target = 0..TARGETS.len();
    let seen = prop_oneof![
        4 => Just(valid()),
        1 => Just(Seen::Valid { kind: "other".to_owned() }),
        1 => Just(Seen::Invalid { verdict: "is not valid", error: "bad".to_owned() }),
        1 => Just(Seen::Conflicting { error: "taken".to_owned() }),
        1 => Just(Seen::Removed),
    ];
    let exit = prop_oneof![Just(Exit::Code(0)), Just(Exit::Code(78)), Just(Exit::Signal(9))];
    prop_oneof![
        3 => (target.clone(), seen).prop_map(|(target, seen)| Happening::Config(target, seen)),
        6 => (target.clone(), prop::bool::weighted(0.8)).prop_map(|(target, ok)| Happening::SpawnAnswered(target, ok)),
        2 => (target.clone(), exit).prop_map(|(target, exit)| Happening::Exits(target, exit)),
        3 => target.clone().prop_map(Happening::Reports),
        2 => target.clone().prop_map(Happening::FinishesSyncs),
        1 => prop_oneof![Just(Passed::Sync), Just(Passed::RollLog)].prop_map(Happening::Signal),
        3 => (prop::collection::vec(target, 0..3), any::<bool>()).prop_map(|(all, wait)| Happening::Asks(all, wait)),
        4 => (0u64..400).prop_map(Happening::Passes),
    ]
}

/// The system below the fleet, and those who ask.
struct World {
    desk: Desk,
    spawning: BTreeSet<TargetName>,
    /// The living, with the tickets they were given.
    alive: BTreeMap<TargetName, Vec<Ticket>>,
    /// Those who asked and were not let go.
    waiting: BTreeSet<Asker>,
    askers: u64,
}

impl World {
    fn new() -> Self {
        let (spawning, alive, waiting) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        Self { desk: Desk::new(), spawning, alive, waiting, askers: 0 }
    }

    fn tell(&mut self, event: Event) -> Result<(), TestCaseError> {
        for action in self.desk.feed(event) {
            match action {
                Action::Spawn(target) => {
                    prop_assert!(!self.alive.contains_key(&target), "a second process for {}", target);
                    prop_assert!(self.spawning.insert(target), "a second start");
                }
                Action::Terminate(target) | Action::KillGroup(target) | Action::Pass(target, _) => {
                    prop_assert!(self.alive.contains_key(&target), "{} is not there", target);
                }
                Action::Tell(target, order) => {
                    let tickets = self.alive.get_mut(&target);
                    prop_assert!(tickets.is_some(), "{} is not there", target);
                    if let (Some(tickets), Order::Sync { ticket, .. }) = (tickets, order) {
                        tickets.push(ticket);
                    }
                }
                Action::Accept(asker) | Action::Answer(asker, _) => {
                    prop_assert!(self.waiting.contains(&asker), "an answer to {:?}, who was let go", asker);
                }
                Action::Dismiss(asker) => prop_assert!(self.waiting.remove(&asker), "{:?} was let go twice", asker),
                Action::Note(..) => {}
            }
        }
        Ok(())
    }

    fn apply(&mut self, happening: Happening) -> Result<(), TestCaseError> {
        match happening {
            Happening::Config(target, seen) => {
                self.tell(Event::ConfigSeen(name(TARGETS[target]), PathBuf::from("x"), seen))
            }
            Happening::SpawnAnswered(target, ok) if self.spawning.remove(&name(TARGETS[target])) => {
                let target = name(TARGETS[target]);
                if !ok {
                    return self.tell(Event::SpawnFailed(target, "no".to_owned()));
                }
                self.alive.insert(target.clone(), Vec::new());
                self.tell(Event::Spawned(target, 1))
            }
            Happening::Exits(target, exit) if self.alive.remove(&name(TARGETS[target])).is_some() => {
                self.tell(Event::Exited(name(TARGETS[target]), exit, None))
            }
            Happening::Reports(target) if self.alive.contains_key(&name(TARGETS[target])) => {
                self.tell(Event::Said(name(TARGETS[target]), report(State::Idle)))
            }
            Happening::FinishesSyncs(target) => {
                let Some(tickets) = self.alive.get_mut(&name(TARGETS[target])) else { return Ok(()) };
                let tickets = std::mem::take(tickets);
                let told = Box::new(AgentMessage::SyncFinished { tickets, report: sync_report(), error: None });
                self.tell(Event::Said(name(TARGETS[target]), told))
            }
            Happening::Signal(signal) => self.tell(Event::SignalCame(signal)),
            Happening::Asks(targets, wait) => {
                self.askers += 1;
                let asker = Asker(self.askers);
                self.waiting.insert(asker);
                let targets = targets.into_iter().map(|target| name(TARGETS[target])).collect();
                self.tell(Event::SyncAsked { asker, targets, wait, allow_delete: false })
            }
            Happening::Passes(seconds) => {
                for _ in 0..seconds {
                    self.desk.now += Duration::from_secs(1);
                    self.tell(Event::Ticked)?;
                }
                Ok(())
            }
            Happening::SpawnAnswered(..) | Happening::Exits(..) | Happening::Reports(_) => Ok(()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn one_process_a_target_and_everybody_is_answered_and_every_stop_ends(
        life in prop::collection::vec(happening(), 1..80),
        late in prop::collection::vec(happening(), 0..20),
    ) {
        let mut world = World::new();
        for happening in life {
            world.apply(happening)?;
        }
        world.tell(Event::StopAsked)?;
        prop_assert!(world.desk.fleet.is_stopping());
        for happening in late {
            world.apply(happening)?;
        }
        for target in TARGETS.map(name) {
            if world.spawning.remove(&target) {
                world.tell(Event::SpawnFailed(target.clone(), "stopping".to_owned()))?;
            }
            if world.alive.remove(&target).is_some() {
                prop_assert!(!world.desk.fleet.is_done(), "{} still lives", target);
                world.tell(Event::Exited(target, Exit::Code(0), None))?;
            }
        }
        prop_assert!(world.desk.fleet.is_done());
        prop_assert!(world.waiting.is_empty(), "{:?} wait for ever", world.waiting);
    }
}
