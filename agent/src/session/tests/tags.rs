//! The lane of tags in simulated time.

use super::super::pass::AT_ONCE;
use super::*;

/// A tag of so many packages, each of one line of about ten bytes.
fn list(name: &str, inode: u64, count: u64) -> Tag {
    let packages = (0..count).map(|n| id(&format!("p{n:05}@{inode}"))).collect();
    let stamp = TagStamp { inode, size: count * 10, ..TagStamp::default() };
    Tag { packages: Some(packages), stamp, ..tag("x@1", inode) }.named(name)
}

#[test]
fn a_tag_does_not_wait_behind_a_running_sync() {
    let mut session = started();
    let actions = session.step(found(vec![tag("core@1", 1)]), at(1), CHANCE);
    assert_eq!(actions, [Action::Send([id("core@1")].into())]);
}

#[test]
fn a_tag_is_consumed_only_when_all_its_packages_are_published() {
    let mut session = started();
    let mut list = tag("a@1", 1);
    list.packages = Some([id("a@1"), id("b@1")].into_iter().collect());
    session.step(found(vec![list.clone()]), at(1), CHANCE);
    let failed = Sent::Failed(problem(Backoff::PACKAGE));
    let results = vec![(id("a@1"), Sent::Done), (id("b@1"), failed)];
    let actions = session.step(Event::TagsSent(results), at(2), CHANCE);
    assert!(removals(&actions).is_empty(), "{actions:?}");
    let retry_at = session.failure().expect("b failed").retry_at;
    assert_eq!(session.step(found(vec![list.unread()]), at(3), CHANCE), []);
    let actions = session.step(Event::Ticked, retry_at, CHANCE);
    assert!(actions.contains(&Action::Send([id("b@1")].into())), "only what is left: {actions:?}");
    assert_eq!(session.tags_waiting(), 1);
    let actions = session.step(Event::TagsSent(vec![(id("b@1"), Sent::Done)]), retry_at, CHANCE);
    assert_eq!(removals(&actions), [removal(&list, Leave::Consumed)]);
    assert_eq!((session.failure(), session.tags_waiting()), (None, 0), "what is served waits no more");
}

#[test]
fn a_tag_dropped_again_while_it_is_sent_is_sent_again() {
    let mut session = started();
    session.step(found(vec![tag("a@1", 1)]), at(1), CHANCE);
    session.step(found(vec![tag("a@1", 2)]), at(2), CHANCE);
    let actions = session.step(Event::TagsSent(vec![(id("a@1"), Sent::Done)]), at(3), CHANCE);
    assert!(removals(&actions).is_empty(), "{actions:?}");
    assert!(actions.contains(&Action::Send([id("a@1")].into())));
}

#[test]
fn a_tag_waits_a_day_for_its_package_and_no_longer() {
    let mut session = started();
    let young = tag("a@1", 1);
    session.step(found(vec![young.clone()]), at(1), CHANCE);
    let actions = session.step(results(&[id("a@1")].into(), &missing()), at(2), CHANCE);
    assert!(removals(&actions).is_empty());
    session.step(found(vec![young.unread()]), at(3), CHANCE);
    session.step(Event::Ticked, at(86_500), CHANCE);
    let actions = session.step(results(&[id("a@1")].into(), &missing()), at(86_501), CHANCE);
    let text = "a@1: the source has no such package, for more than a day";
    assert_eq!(removals(&actions), [removal(&young, Leave::Failed(text.into()))]);
}

#[test]
fn patience_runs_from_the_first_sight_whatever_the_tag_s_own_time_says() {
    let mut session = started();
    let copied = Tag { dropped_ago: at(2 * 86_400), ..tag("a@1", 1) };
    session.step(found(vec![copied]), at(1), CHANCE);
    assert!(removals(&session.step(results(&[id("a@1")].into(), &missing()), at(2), CHANCE)).is_empty());
    let mut session = started();
    let seen_long_ago = Tag { seen_ago: at(86_399), ..tag("a@1", 1) };
    session.step(found(vec![seen_long_ago]), at(1), CHANCE);
    assert_eq!(removals(&session.step(results(&[id("a@1")].into(), &missing()), at(3), CHANCE)).len(), 1);
}

#[test]
fn a_burst_of_tags_is_sent_in_portions() {
    let mut session = started();
    let tags: Vec<Tag> = (0..20_000).map(|n| tag(&format!("p{n}@1"), n)).collect();
    let actions = session.step(found(tags), at(1), CHANCE);
    assert!(matches!(&actions[0], Action::Send(packages) if packages.len() == AT_ONCE));
}

/// A tag of one package that was changed last in this second.
fn changed(name: &str, inode: u64, second: i64) -> Tag {
    let tag = tag(name, inode);
    Tag { stamp: TagStamp { changed: (second, 0), ..tag.stamp }, ..tag }
}

/// Line 7 of the issue: a new tag does not wait behind a flood, nor the flood behind ever newer tags.
#[test]
fn a_new_tag_does_not_wait_behind_a_flood_and_the_flood_has_its_turns() {
    let mut session = started();
    let mut tags: Vec<Tag> = (0..20_000).map(|n| changed(&format!("m{n:05}@1"), n, 10)).collect();
    let mut actions = session.step(found(tags.clone()), at(1), CHANCE);
    let mut sent = BTreeSet::new();
    for round in 0..210_u32 {
        let packages = sending(&actions).expect("the next round").clone();
        if round > 0 && round <= 100 {
            // A hundred newer ones each time, of which one is good.
            let newest = id(&format!("z{:04}@1", round - 1));
            assert!(round % 2 == 1 || packages.contains(&newest) || sent.contains(&newest), "{round}");
        }
        sent.extend(packages.iter().cloned());
        let second = i64::from(round) + 20;
        if round < 100 {
            tags.push(changed(&format!("z{round:04}@1"), 100_000 + u64::from(round), second));
            tags.extend(
                (0..99).map(|n| changed(&format!("y{round:04}.{n}@1"), 200_000 + u64::from(round * 100 + n), second)),
            );
            actions = session.step(
                found(
                    tags.iter()
                        .map(Tag::unread)
                        .zip(&tags)
                        .map(
                            |(unread, tag)| {
                                if second > 20 && tag.stamp.changed.0 < second { unread } else { tag.clone() }
                            },
                        )
                        .collect(),
                ),
                at(2),
                CHANCE,
            );
            assert!(sending(&actions).is_none());
        }
        actions = session.step(results(&packages, &missing()), at(3), CHANCE);
        if sent.len() == 30_000 {
            return;
        }
    }
    panic!("{} were sent", sent.len());
}

/// Line 4 of the issue: nothing is sent again while the file stays as it is, each try is later than the last, and an operator sees why.
#[test]
fn a_tag_that_cannot_be_removed_is_not_sent_again_and_is_tried_later_and_later() {
    let mut session = started();
    session.step(ok(), at(1), CHANCE);
    let stuck = tag("a@1", 1);
    session.step(found(vec![stuck.clone()]), at(1), CHANCE);
    let mut actions = session.step(results(&[id("a@1")].into(), &Sent::Done), at(2), CHANCE);
    let (mut now, mut pauses) = (at(2), Vec::new());
    for _ in 0..12 {
        assert_eq!(removals(&actions), [removal(&stuck, Leave::Consumed)]);
        let refused = vec![(stuck.name.clone(), stuck.stamp, Removed::Stuck("cannot remove it".into()))];
        assert!(
            session
                .step(Event::TagsRemoved(refused), now, CHANCE)
                .iter()
                .all(|action| matches!(action, Action::LookAtTags(_)))
        );
        let failure = session.failure().expect("a failure that is shown").clone();
        assert_eq!((failure.text.as_str(), session.state()), ("cannot remove it", State::Waiting));
        assert_eq!(session.tags_waiting(), 1);
        pauses.push((failure.retry_at - now).as_secs());
        // Any number of looks and hints change nothing.
        let between = now + (failure.retry_at - now) / 2;
        let look = || found(vec![stuck.unread()]);
        for event in [look(), Event::TagsHinted, look(), look()] {
            let actions = session.step(event, between, CHANCE);
            assert!(sending(&actions).is_none() && removals(&actions).is_empty(), "{actions:?}");
        }
        now = failure.retry_at;
        actions = session.step(Event::Ticked, now, CHANCE);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
    let gone = vec![(stuck.name.clone(), stuck.stamp, Removed::Gone)];
    session.step(Event::TagsRemoved(gone), now, CHANCE);
    assert_eq!((session.failure(), session.tags_waiting()), (None, 0));
}

#[test]
fn a_tag_that_has_changed_when_it_should_be_removed_is_read_again() {
    let mut session = started();
    let first = tag("a@1", 1);
    session.step(found(vec![first.clone()]), at(1), CHANCE);
    session.step(results(&[id("a@1")].into(), &Sent::Done), at(2), CHANCE);
    session.step(found(vec![first.unread()]), at(2), CHANCE);
    let changed = vec![(first.name.clone(), first.stamp, Removed::Changed)];
    let actions = session.step(Event::TagsRemoved(changed), at(3), CHANCE);
    assert!(matches!(actions[..], [Action::LookAtTags(_)]), "{actions:?}");
    let actions = session.step(found(vec![tag("a@1", 2)]), at(4), CHANCE);
    assert!(sending(&actions).is_some());
}

/// Line 30 of the issue.
#[test]
fn packages_without_a_result_are_a_failure_and_no_tight_loop() {
    let mut session = started();
    session.step(ok(), at(1), CHANCE);
    let panics = tag("a@1", 1);
    session.step(found(vec![panics.clone()]), at(1), CHANCE);
    let (mut now, mut pauses) = (at(2), Vec::new());
    for _ in 0..4 {
        let actions = session.step(Event::TagsSent(Vec::new()), now, CHANCE);
        assert!(sending(&actions).is_none(), "{actions:?}");
        let failure = session.failure().expect("a failure that is shown").clone();
        assert_eq!((failure.package, session.state()), (Some(id("a@1")), State::Waiting));
        pauses.push((failure.retry_at - now).as_secs());
        now = failure.retry_at;
        assert!(sending(&session.step(Event::Ticked, now, CHANCE)).is_some());
        session.step(found(vec![panics.unread()]), now, CHANCE);
    }
    assert_eq!(pauses, [5, 10, 20, 40]);
}

#[test]
fn a_tag_of_many_packages_is_gone_through_to_its_end_whatever_is_missing() {
    let mut session = started();
    let large = list("large", 1, 50_000);
    let mut actions = session.step(found(vec![large.clone()]), at(1), CHANCE);
    let mut seen = BTreeSet::new();
    while let Some(packages) = sending(&actions).cloned() {
        let what = if seen.is_empty() { missing() } else { Sent::Done };
        seen.extend(packages.iter().cloned());
        actions = session.step(results(&packages, &what), at(2), CHANCE);
    }
    assert_eq!(seen.len(), 50_000);
    assert!(removals(&actions).is_empty());
    let retry_at = session.failure().expect("the first are missing").retry_at;
    session.step(found(vec![large.unread()]), at(3), CHANCE);
    let actions = session.step(Event::Ticked, retry_at, CHANCE);
    let left = sending(&actions).expect("what was missing").clone();
    assert_eq!(left.len(), AT_ONCE);
    let actions = session.step(results(&left, &Sent::Done), retry_at, CHANCE);
    assert_eq!(removals(&actions), [removal(&large, Leave::Consumed)]);
}

#[test]
fn a_link_that_is_down_is_not_tried_with_every_package_of_a_large_tag() {
    let mut session = started();
    let actions = session.step(found(vec![list("large", 1, 50_000)]), at(1), CHANCE);
    let packages = sending(&actions).expect("the first").clone();
    let actions = session.step(results(&packages, &Sent::Failed(problem(Backoff::LINK))), at(2), CHANCE);
    assert!(sending(&actions).is_none());
}

/// Line 7 of the issue: a world of a thousand large tags, whose packages come one after the other into memory and never too many.
#[test]
fn a_thousand_large_tags_take_turns_in_bounded_memory() {
    let mut session = Session::new(PACE);
    let mut now = at(0);
    let mut on_disk: BTreeMap<Name, Tag> =
        (0..1_000).map(|n| (OsStr::new(&format!("t{n}")).into(), list(&format!("t{n}"), n, 300))).collect();
    // As large as they may be, though they hold few packages here.
    on_disk.values_mut().for_each(|tag| tag.stamp.size = 1 << 20);
    let mut reported = BTreeSet::new();
    let mut queue = session.step(Event::Ticked, now, CHANCE);
    for _ in 0..200_000 {
        let Some(action) = queue.pop() else {
            if on_disk.is_empty() {
                break;
            }
            now = session.deadline().max(now);
            queue = session.step(Event::Ticked, now, CHANCE);
            continue;
        };
        let event = match action {
            Action::LookAtTags(look) => {
                let turns: usize = look.turn.iter().map(|name| on_disk[name].stamp.weight()).sum();
                let mut room = look.room;
                assert!(turns + room <= ROOM, "{turns} and {room} bytes");
                let tags = on_disk.values().map(|tag| {
                    let is_new = reported.insert(tag.name.clone()) && tag.stamp.weight() <= room;
                    if is_new {
                        room -= tag.stamp.weight();
                    }
                    if is_new || look.turn.contains(&tag.name) { tag.clone() } else { tag.unread() }
                });
                found(tags.collect())
            }
            Action::Send(packages) => {
                now += Duration::from_millis(50);
                // A tenth of all tags asks for what is missing for an hour.
                let late = |package: &PackageId| now < at(3_600) && package.version.as_str().ends_with('7');
                let sent = |package: &PackageId| if late(package) { missing() } else { Sent::Done };
                Event::TagsSent(packages.iter().map(|package| (package.clone(), sent(package))).collect())
            }
            Action::RemoveTags(removals) => {
                for removal in &removals {
                    on_disk.remove(&removal.name);
                }
                Event::TagsRemoved(removals.into_iter().map(|r| (r.name, r.stamp, Removed::Gone)).collect())
            }
            Action::Sync { .. } => ok(),
            Action::Answer(..) => continue,
        };
        queue.extend(session.step(event, now, CHANCE));
    }
    assert!(on_disk.is_empty(), "{} tags are left at {now:?}", on_disk.len());
    assert!(now < at(3 * 3_600), "they took until {now:?}");
}

#[test]
fn a_directory_that_does_not_answer_is_reported_and_nothing_else_waits_for_it() {
    let mut session = started();
    session.step(ok(), at(1), CHANCE);
    assert!(session.step(Event::TagsHinted, at(29), CHANCE).is_empty(), "one look at a time");
    assert_eq!(session.step(Event::TagsHang { since: at(2), retry_at: at(60) }, at(32), CHANCE), []);
    assert!(session.failure().expect("a report").text.contains("does not answer"));
    assert!(session.step(Event::SyncAsked { ticket: None, confirmed: None }, at(40), CHANCE).contains(&SYNC));
    session.step(found(Vec::new()), at(50), CHANCE);
    assert_eq!(session.failure(), None);
}

#[test]
fn what_is_wrong_with_the_directory_is_shown_as_long_as_it_stands() {
    let mut session = started();
    session.step(ok(), at(1), CHANCE);
    let trouble =
        |tags| Event::TagsFound(FoundTags { tags, again_in: None, trouble: Some(("bad/ is a link".into(), at(60))) });
    let actions = session.step(trouble(Some(vec![tag("a@1", 1)])), at(2), CHANCE);
    assert!(sending(&actions).is_some(), "tags that are good go on");
    session.step(Event::Ticked, at(7), CHANCE);
    session.step(trouble(Some(Vec::new())), at(7), CHANCE);
    let failure = session.failure().expect("it stands");
    assert_eq!((failure.text.as_str(), failure.at), ("bad/ is a link", at(2)));
    session.step(Event::Ticked, at(12), CHANCE);
    session.step(found(Vec::new()), at(12), CHANCE);
    assert_eq!(session.failure(), None);
}

#[test]
fn what_the_former_archive_has_of_a_tag_is_sent_to_the_new_one() {
    let mut session = started();
    session.step(ok(), at(1), CHANCE);
    let (half, stuck) = (list("half", 1, 300), tag("b@1", 2));
    session.step(found(vec![half.clone()]), at(1), CHANCE);
    let first: BTreeSet<PackageId> = half.packages.iter().flat_map(|all| all.iter()).take(AT_ONCE).collect();
    session.step(results(&first, &Sent::Done), at(2), CHANCE);
    session.step(found(vec![half.unread(), stuck.clone()]), at(2), CHANCE);
    session.step(Event::TagsSent(Vec::new()), at(3), CHANCE);
    session.step(results(&[id("b@1")].into(), &Sent::Done), at(4), CHANCE);
    let refused = vec![(stuck.name.clone(), stuck.stamp, Removed::Stuck("cannot remove it".into()))];
    session.step(Event::TagsRemoved(refused), at(4), CHANCE);
    let mut actions = session.step(reloaded(true), at(5), CHANCE);
    let mut sent = BTreeSet::new();
    for _ in 0..10 {
        if let Some(packages) = sending(&actions).cloned() {
            sent.extend(packages.iter().cloned());
            actions = session.step(results(&packages, &Sent::Done), at(6), CHANCE);
        }
        actions.extend(session.step(found(vec![half.unread(), stuck.clone()]), at(6), CHANCE));
    }
    assert_eq!(sent.len(), 301);
}
