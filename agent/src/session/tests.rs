//! The session in simulated time.

mod tags;

use std::collections::BTreeMap;
use std::ffi::OsStr;

use super::tags::ROOM;
use super::*;

use blat_domain::protocol::status::SyncResult;
use jiff::Timestamp;
use proptest::prelude::*;

const PACE: Pace = Pace { sync: Duration::from_secs(4 * 3600), tag_poll: Duration::from_secs(5) };
/// The chance that spreads retries, where it does not matter.
const CHANCE: f64 = 0.5;
const SYNC: Action = Action::Sync { confirmed: None };

fn id(text: &str) -> PackageId {
    text.parse().expect("a package")
}

fn tag(name: &str, inode: u64) -> Tag {
    let stamp = TagStamp { inode, ..TagStamp::default() };
    let packages = Some([id(name)].into_iter().collect());
    Tag { name: OsStr::new(name).into(), stamp, dropped_ago: Duration::ZERO, seen_ago: Duration::ZERO, packages }
}

impl Tag {
    fn named(self, name: &str) -> Self {
        Self { name: OsStr::new(name).into(), ..self }
    }

    /// As a later look finds it.
    fn unread(&self) -> Self {
        Self { packages: None, ..self.clone() }
    }
}

fn found(tags: Vec<Tag>) -> Event {
    Event::TagsFound(FoundTags { tags: Some(tags), ..FoundTags::default() })
}

/// What is sent, if anything is.
fn sending(actions: &[Action]) -> Option<&BTreeSet<PackageId>> {
    actions.iter().find_map(|action| if let Action::Send(packages) = action { Some(packages) } else { None })
}

fn removals(actions: &[Action]) -> Vec<Removal> {
    let of = |action: &Action| if let Action::RemoveTags(removals) = action { removals.clone() } else { Vec::new() };
    actions.iter().flat_map(of).collect()
}

fn removal(tag: &Tag, how: Leave) -> Removal {
    Removal { name: tag.name.clone(), stamp: tag.stamp, how }
}

fn results(packages: &BTreeSet<PackageId>, sent: &Sent) -> Event {
    Event::TagsSent(packages.iter().map(|package| (package.clone(), sent.clone())).collect())
}

fn missing() -> Sent {
    Sent::Waiting("the source has no such package".into())
}

fn report(result: SyncResult) -> SyncReport {
    SyncReport { result, ..SyncReport::begun(Timestamp::UNIX_EPOCH) }
}

fn problem(retry: Backoff) -> Problem {
    Problem { package: None, text: "it failed".into(), retry }
}

fn ok() -> Event {
    Event::SyncEnded(Box::new(report(SyncResult::Ok)), None)
}

fn at(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

fn started() -> Session {
    let mut session = Session::new(PACE);
    let actions = session.step(Event::Ticked, at(0), CHANCE);
    assert_eq!(
        actions,
        [Action::LookAtTags(LookLimits { room: ROOM, poll: PACE.tag_poll, ..LookLimits::default() }), SYNC]
    );
    session
}

#[test]
fn syncs_follow_their_schedule() {
    let mut session = started();
    session.step(ok(), at(60), CHANCE);
    assert!(!session.step(Event::Ticked, at(4 * 3600 - 1), CHANCE).contains(&SYNC));
    assert!(session.step(Event::Ticked, at(4 * 3600), CHANCE).contains(&SYNC));
}

#[test]
fn a_confirmation_counts_for_one_sync_that_begins_after_it() {
    let mut session = started();
    let confirmed = |n| Event::SyncAsked { ticket: Some(Ticket(n)), confirmed: Some(HeldBack::default()) };
    assert!(session.step(confirmed(1), at(1), CHANCE).is_empty(), "the one that runs was not confirmed");
    session.step(Event::SyncAsked { ticket: None, confirmed: None }, at(2), CHANCE);
    assert!(session.step(ok(), at(3), CHANCE).contains(&Action::Sync { confirmed: Some(HeldBack::default()) }));
    assert!(!session.step(ok(), at(4), CHANCE).iter().any(|action| matches!(action, Action::Sync { .. })));
    assert!(session.step(Event::Ticked, at(5 * 3600), CHANCE).contains(&SYNC), "the next is not");
}

#[test]
fn a_confirmation_is_about_what_was_held_back_when_it_was_given() {
    let held_back = |package: &str| HeldBack::new([], [package.to_owned()], true);
    let confirmed = |package| Event::SyncAsked { ticket: None, confirmed: Some(held_back(package)) };
    let mut session = started();
    session.step(confirmed("a@1"), at(1), CHANCE);
    session.step(confirmed("b@1"), at(2), CHANCE);
    session.step(Event::SyncAsked { ticket: None, confirmed: None }, at(3), CHANCE);
    let follows = Action::Sync { confirmed: Some(held_back("b@1")) };
    assert!(session.step(ok(), at(4), CHANCE).contains(&follows), "the newest counts");
}

#[test]
fn a_sync_asked_for_during_another_follows_it_once() {
    let mut session = started();
    for n in 0..1000 {
        assert!(
            !session.step(Event::SyncAsked { ticket: Some(Ticket(n)), confirmed: None }, at(1), CHANCE).contains(&SYNC)
        );
    }
    let actions = session.step(ok(), at(2), CHANCE);
    assert!(matches!(&actions[0], Action::Answer(tickets, ..) if tickets.is_empty()), "{actions:?}");
    assert_eq!(actions[1..].iter().filter(|action| **action == SYNC).count(), 1);
    let actions = session.step(ok(), at(3), CHANCE);
    assert!(matches!(&actions[0], Action::Answer(tickets, ..) if tickets.len() == 1000));
    assert!(!actions.contains(&SYNC));
}

fn reloaded(is_elsewhere: bool) -> Event {
    Event::Reloaded { pace: PACE, is_elsewhere }
}

#[test]
fn a_sync_that_others_settings_supersede_is_followed_at_once_by_one_that_answers_for_it() {
    let mut session = started();
    session.step(ok(), at(1), CHANCE);
    let asked = |n| Event::SyncAsked { ticket: Some(Ticket(n)), confirmed: (n == 7).then(HeldBack::default) };
    assert!(session.step(asked(7), at(2), CHANCE).contains(&Action::Sync { confirmed: Some(HeldBack::default()) }));
    session.step(Event::SyncAsked { ticket: Some(Ticket(8)), confirmed: Some(HeldBack::default()) }, at(3), CHANCE);
    session.step(reloaded(false), at(4), CHANCE);
    let actions = session.step(Event::SyncSuperseded, at(5), CHANCE);
    assert_eq!(actions, [SYNC], "what was confirmed for the former settings is not for these");
    assert_eq!(session.failure(), None, "it is no failure");
    let actions = session.step(ok(), at(6), CHANCE);
    assert!(matches!(&actions[0], Action::Answer(tickets, ..) if *tickets == [Ticket(7), Ticket(8)]), "{actions:?}");
}

#[test]
fn a_tag_in_flight_is_sent_again_only_where_the_new_settings_lead_elsewhere() {
    for is_elsewhere in [false, true] {
        let mut session = started();
        session.step(found(vec![tag("a@1", 1)]), at(1), CHANCE);
        session.step(reloaded(is_elsewhere), at(2), CHANCE);
        let actions = session.step(Event::TagsSent(vec![(id("a@1"), Sent::Done)]), at(3), CHANCE);
        assert_eq!(!removals(&actions).is_empty(), !is_elsewhere, "{actions:?}");
        assert_eq!(actions.contains(&Action::Send([id("a@1")].into())), is_elsewhere, "{actions:?}");
    }
}

#[test]
fn a_failed_sync_is_tried_again_with_growing_pauses() {
    let mut session = started();
    let mut now = at(0);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        session.step(found(Vec::new()), now, CHANCE);
        session.step(Event::SyncEnded(Box::new(report(SyncResult::Failed)), Some(problem(Backoff::LINK))), now, CHANCE);
        let retry_at = session.failure().expect("it failed").retry_at;
        pauses.push((retry_at - now).as_secs());
        now = retry_at;
        assert_eq!(session.state(), State::Waiting);
        assert!(session.step(Event::Ticked, now, CHANCE).contains(&SYNC));
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    session.step(ok(), now, CHANCE);
    assert_eq!(session.failure(), None);
}

#[test]
fn a_failed_sync_that_takes_longer_than_the_time_between_two_is_tried_again_with_growing_pauses() {
    let mut session = started();
    session.step(
        Event::Reloaded { pace: Pace { sync: Duration::from_secs(1), ..PACE }, is_elsewhere: false },
        at(0),
        CHANCE,
    );
    session.step(ok(), at(0), CHANCE);
    let mut now = at(0);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        session.step(found(Vec::new()), now, CHANCE);
        now += Duration::from_secs(5);
        session.step(
            Event::SyncEnded(Box::new(report(SyncResult::Failed)), Some(problem(Backoff::PACKAGE))),
            now,
            CHANCE,
        );
        let retry_at = session.failure().expect("it failed").retry_at;
        pauses.push((retry_at - now).as_secs());
        now = retry_at;
        assert!(session.step(Event::Ticked, now, CHANCE).contains(&SYNC));
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
}

/// Removes tags that are still what they were.
fn removed(removing: &mut Vec<Removal>, on_disk: &mut BTreeMap<Name, Tag>) -> Vec<(Name, TagStamp, Removed)> {
    let removal = |Removal { name, stamp, .. }| {
        let is_same = on_disk.get(&name).is_some_and(|tag| tag.stamp == stamp);
        if is_same {
            on_disk.remove(&name);
        }
        (name, stamp, if is_same { Removed::Gone } else { Removed::Changed })
    };
    removing.drain(..).map(removal).collect()
}

fn any_event() -> impl Strategy<Value = u8> {
    0u8..11
}

proptest! {
    /// A world that answers in any order: whatever happens, each lane does one thing at a time, every ticket is answered exactly
    /// once by a sync that began after it was given, and the session always has a reason to wake up.
    #[test]
    fn any_order_of_events_keeps_the_house_in_order(events in proptest::collection::vec((any_event(), 1u64..4000), 1..300)) {
        let mut session = Session::new(PACE);
        let mut now = at(0);
        let (mut syncing, mut sending) = (None::<Vec<Ticket>>, None::<BTreeSet<PackageId>>);
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        let mut on_disk: BTreeMap<Name, Tag> = BTreeMap::new();
        let mut removing = Vec::new();
        for (number, (kind, pause)) in events.into_iter().enumerate() {
            now += Duration::from_millis(pause);
            let event = match (kind, &syncing, &sending) {
                (0, ..) => {
                    asked.push(Ticket(number as u64));
                    Event::SyncAsked { ticket: Some(Ticket(number as u64)), confirmed: None }
                }
                (1, Some(_), _) => { syncing = None; ok() }
                (2, Some(_), _) => {
                    syncing = None;
                    Event::SyncEnded(Box::new(report(SyncResult::Failed)), Some(problem(Backoff::LINK)))
                }
                (3, _, Some(packages)) => {
                    let done = packages.iter().map(|package| (package.clone(), Sent::Done)).collect();
                    sending = None;
                    Event::TagsSent(done)
                }
                (4, _, Some(packages)) => {
                    let failed = |package: &PackageId| (package.clone(), Sent::Failed(problem(Backoff::PACKAGE)));
                    let results = packages.iter().map(failed).collect();
                    sending = None;
                    Event::TagsSent(results)
                }
                (5, ..) => {
                    let name = format!("p{}@1", number % 7);
                    on_disk.insert(OsStr::new(&name).into(), tag(&name, number as u64));
                    Event::TagsHinted
                }
                (8, Some(_), _) => { syncing = None; Event::SyncSuperseded }
                (9, ..) => reloaded(number % 2 == 0),
                (6, ..) => found(on_disk.values().cloned().collect()),
                (10, ..) => Event::TagsRemoved(removed(&mut removing, &mut on_disk)),
                _ => Event::Ticked,
            };
            for action in session.step(event, now, CHANCE) {
                match action {
                    Action::Sync { .. } => {
                        prop_assert!(syncing.is_none(), "two syncs at once");
                        syncing = Some(asked.clone());
                    }
                    Action::Send(packages) => {
                        prop_assert!(sending.is_none(), "two sendings at once");
                        sending = Some(packages);
                    }
                    Action::Answer(tickets, ..) => answered.extend(tickets),
                    Action::RemoveTags(removals) => removing.extend(removals),
                    Action::LookAtTags(_) => {}
                }
            }
            prop_assert!(answered.len() <= asked.len());
            prop_assert!(syncing.is_some() || session.deadline() <= now + PACE.sync);
        }
        // Let the world succeed from now on: everything asked for is answered, every tag consumed.
        for _ in 0..2000 {
            now = session.deadline().min(now + PACE.sync).max(now + Duration::from_millis(100));
            let mut events = vec![Event::Ticked, Event::TagsRemoved(removed(&mut removing, &mut on_disk))];
            events.push(found(on_disk.values().cloned().collect()));
            if syncing.take().is_some() { events.push(ok()); }
            if let Some(packages) = sending.take() {
                events.push(Event::TagsSent(packages.into_iter().map(|package| (package, Sent::Done)).collect()));
            }
            for event in events {
                for action in session.step(event, now, CHANCE) {
                    match action {
                        Action::Sync { .. } => syncing = Some(Vec::new()),
                        Action::Send(packages) => sending = Some(packages),
                        Action::Answer(tickets, ..) => answered.extend(tickets),
                        Action::RemoveTags(removals) => removing.extend(removals),
                        Action::LookAtTags(_) => {}
                    }
                }
            }
            if on_disk.is_empty() && answered.len() == asked.len() && syncing.is_none() { break; }
        }
        prop_assert!(on_disk.is_empty(), "tags left: {on_disk:?}");
        answered.sort();
        prop_assert_eq!(answered, asked);
    }
}
