//! Whose a bucket is, and what whoever does not own it, or not any more, leaves undone.

use super::*;

#[tokio::test]
async fn a_bucket_has_one_owner_and_whoever_else_sends_to_it_neither_lists_nor_deletes() {
    let world = World::new();
    let target = world.filled().await;
    target.store_list(&record("perth"), "core 1\n# end 1\n", Purge::Held).await.expect("memory");
    let other = S3Target { owner: record("oslo").owner, ..world.target() };
    let theirs = Record { archive: RandomId::from_random([8; 16]), ..record("oslo") };
    let title = other.claim(Claim::First, &theirs).await.expect("memory");
    assert_eq!(title.found, Found::Record(record("perth")), "who comes second reads what the first has written");
    assert_eq!(inventory(&other).await.title.found, Found::Record(record("perth")));
    let item = world.item("core@3", b"3", 100, Rule::New);
    assert_eq!(world.send(&other, &[item]).await, [Delivery::Published], "sending goes on");
    for how in [Retirement::Unmark, Retirement::Mark(5), Retirement::DeleteDue, Retirement::Delete] {
        let refused = other.retire(&theirs, how, &[Leaving::new(id("core@2"), Some(100))]).await;
        assert!(matches!(refused, Err(TargetError::Refused(why)) if why.contains("blat adopt oslo")), "{how:?}");
    }
    assert!(matches!(other.store_list(&theirs, "# end 0\n", Purge::Held).await, Err(TargetError::Refused(_))));

    let title = other.claim(Claim::Adopt, &theirs).await.expect("memory");
    assert_eq!(title.found, Found::Record(theirs.clone()), "the record is the one that the adoption brings");
    assert!(
        target.retire(&record("perth"), Retirement::Delete, &[Leaving::new(id("core@2"), Some(100))]).await.is_err(),
        "also in mid-sync"
    );
    let deleted =
        other.retire(&theirs, Retirement::Delete, &[Leaving::new(id("core@2"), Some(100))]).await.expect("memory");
    assert_eq!(deleted[0].1, Retired::Done);

    other.claim(Claim::Withdraw, &record("oslo")).await.expect("memory");
    assert_eq!(inventory(&other).await.title.found, Found::Record(theirs.clone()), "another record stays");
    assert_eq!(other.claim(Claim::Withdraw, &theirs).await.expect("memory").found, Found::Nothing);
    assert!(
        other.retire(&theirs, Retirement::Delete, &[Leaving::new(id("core@3"), Some(100))]).await.is_err(),
        "nobody's is not ours"
    );
}

/// Between two adoptions by one owner the bucket may have been another's, whose tags brought what the earlier plan does not know.
#[tokio::test]
async fn what_was_planned_before_an_adoption_is_not_done_after_it_by_the_same_owner() {
    let world = World::new();
    let target = world.filled().await;
    let before = record("perth");
    target.store_list(&before, "other 1\n# end 1\n", Purge::Held).await.expect("memory");
    let after = Record { archive: RandomId::from_random([8; 16]), ..before.clone() };
    target.claim(Claim::Adopt, &record("oslo")).await.expect("memory");
    assert_eq!(target.claim(Claim::Adopt, &after).await.expect("memory").found, Found::Record(after.clone()));
    let refused = |why: &str| why.contains("it was adopted since this was planned");
    let leaving = || [Leaving::new(id("core@1"), Some(100))];
    for how in [Retirement::Unmark, Retirement::Mark(5), Retirement::DeleteDue, Retirement::Delete] {
        let retired = target.retire(&before, how, &leaving()).await;
        assert!(matches!(&retired, Err(TargetError::Refused(why)) if refused(why)), "{how:?}: {retired:?}");
    }
    for list in ["other 1\n# end 1\n", "core 1\n# end 1\n"] {
        let stored = target.store_list(&before, list, Purge::Held).await;
        assert!(matches!(&stored, Err(TargetError::Refused(why)) if refused(why)), "{stored:?}");
    }
    assert_eq!(target.retire(&after, Retirement::Delete, &leaving()).await.expect("memory")[0].1, Retired::Done);
}

#[tokio::test]
async fn the_owner_notes_its_visit_beside_the_record_and_an_adoption_replaces_it() {
    let world = World::new();
    let target = world.filled().await;
    let visit = |target: &str| Record { archive: RandomId::from_random([8; 16]), ..record(target) };
    target.claim(Claim::Visit, &visit("oslo")).await.expect("memory");
    assert_eq!(inventory(&target).await.title.visit, Found::Nothing, "of whoever does not own it, none is noted");
    let title = target.claim(Claim::Visit, &visit("perth")).await.expect("memory");
    let seen = (Found::Record(record("perth")), Found::Record(visit("perth")));
    assert_eq!((title.found, title.visit), seen);
    // As any listing shows it, and as another process reads it.
    for target in [&target, &world.target()] {
        let title = inventory(target).await.title.clone();
        assert_eq!((title.found, title.visit), seen);
    }
    world.shelf.put_foreign("p/.blat/visit").await;
    assert!(matches!(inventory(&target).await.title.visit, Found::Malformed(_)), "another object is read again");

    let marked = target.retire(&record("perth"), Retirement::Mark(5), &[Leaving::new(id("core@1"), Some(100))]).await;
    assert_eq!(marked.expect("memory")[0].1, Retired::Done);
    assert_eq!(inventory(&target).await.marks.len(), 1);
    let other = S3Target { owner: record("oslo").owner, ..world.target() };
    let title = other.claim(Claim::Adopt, &record("oslo")).await.expect("memory");
    assert_eq!(inventory(&other).await.marks, Default::default(), "what the former owner marked waits anew");
    assert!(title.is_adopted() && title.found == Found::Record(record("oslo")), "{title:?}");
    let marked = other.retire(&record("oslo"), Retirement::Mark(5), &[Leaving::new(id("core@1"), Some(100))]).await;
    assert_eq!(marked.expect("memory")[0].1, Retired::Done);
    let title = other.claim(Claim::Withdraw, &record("oslo")).await.expect("memory");
    assert_eq!(title, Title::default(), "what the adoption left goes as well");
    assert_eq!(inventory(&other).await.marks.len(), 1);
    target.claim(Claim::First, &record("perth")).await.expect("memory");
    assert_eq!(inventory(&target).await.marks, Default::default(), "marks without a record are a former owner's");
}

/// An adoption that is cut must not make the former owner's marks the new one's, whenever they were made.
#[tokio::test]
async fn an_adoption_takes_the_former_owners_marks_away_before_its_record_and_after_it() {
    let world = World::new();
    let target = world.filled().await;
    let mark = |at| target.keys.mark(&id("core@1"), Mark { at, wait: 5 });
    world.shelf.put_foreign(&mark(1)).await;
    world.shelf.stuck.lock().expect("one thread").push(mark(1));
    let oslo = S3Target { owner: record("oslo").owner, ..world.target() };
    let cut = oslo.claim(Claim::Adopt, &record("oslo")).await;
    assert!(matches!(&cut, Err(TargetError::Refused(why)) if why.contains("former owner")), "{cut:?}");
    let title = target.claim(Claim::Look, &record("perth")).await.expect("memory");
    assert_eq!(title.found, Found::Record(record("perth")), "it is not ours while there are marks");

    world.shelf.stuck.lock().expect("one thread").clear();
    *world.shelf.put_at_next_put.lock().expect("one thread") = Some(("p/.blat/marks/core/1/2+5", String::new()));
    oslo.claim(Claim::Adopt, &record("oslo")).await.expect("memory");
    assert_eq!(inventory(&oslo).await.marks, BTreeMap::new(), "also what came while the record was written");
}

#[tokio::test]
async fn whoever_loses_the_bucket_in_the_midst_of_deleting_makes_no_further_request() {
    for at_head in [true, false] {
        let world = World::new();
        let target = world.filled().await;
        target.store_list(&record("perth"), "other 1\n# end 1\n", Purge::Held).await.expect("memory");
        let theirs = Some(record("oslo").render());
        let when = if at_head { &world.shelf.put_at_next_head } else { &world.shelf.put_at_next_delete };
        *when.lock().expect("one thread") = theirs;
        let packages = ["core@1", "core@2"].map(|package| Leaving::new(id(package), Some(100)));
        let deleted =
            target.retire(&record("perth"), Retirement::Delete, &packages).await.expect("an outcome for each");
        for (package, retired) in &deleted {
            assert!(
                matches!(retired, Retired::Failed(why) if why.contains("blat adopt perth")),
                "{package}: {retired:?}"
            );
        }
        let requests = world.shelf.deletes.load(Ordering::Relaxed);
        assert_eq!((deleted.len(), requests), (2, usize::from(!at_head)), "at a HEAD: {at_head}");
        let keys = world.shelf.keys().await;
        assert!(["p/core/1.zip", "p/core/2.zip"].iter().all(|key| keys.contains(&(*key).to_owned())), "{keys:?}");
    }
}

#[tokio::test]
async fn whoever_lost_the_bucket_replaces_neither_packages_nor_links() {
    let world = World::new();
    let target = world.filled().await;
    target.link(&[link("core@current", "1")]).await.expect("memory");
    let later = |bytes: &[u8]| world.item("core@1", bytes, 200, Rule::Replace);
    assert_eq!(world.send(&target, &[later(b"later")]).await, [Delivery::Replaced]);
    let before = world.shelf.bytes("p/core/1.zip").await;
    // Whoever adopts it does so while the package is looked at.
    *world.shelf.put_at_next_head.lock().expect("one thread") = Some(record("oslo").render());
    for rule in [Rule::Replace, Rule::Repair] {
        let delivery = world.send(&target, &[world.item("core@1", b"latest", 300, rule)]).await.remove(0);
        assert!(matches!(&delivery, Delivery::Failed(why) if why.contains("blat adopt perth")), "{delivery:?}");
    }
    let linked = target.link(&[link("core@current", "2")]).await.expect("memory").remove(0).1;
    assert!(matches!(&linked, Delivery::Failed(why) if why.contains("blat adopt perth")), "{linked:?}");
    // Once somebody has looked whose it is, what is new goes there.
    target.met(&Found::Record(record("oslo")));
    assert_eq!(target.link(&[link("core@other", "2")]).await.expect("memory")[0].1, Delivery::Linked);
    assert_eq!(world.shelf.bytes("p/core/1.zip").await, before);
    assert_eq!(world.shelf.bytes("p/core/current.zip").await, before);
}

#[tokio::test]
async fn whoever_loses_the_bucket_while_parts_are_sent_replaces_nothing() {
    let world = World::new();
    let target = world.filled().await;
    let send = async |time, rule| world.send(&target, &[world.item("big@1", &noise(20 << 20), time, rule)]).await;
    assert_eq!(send(100, Rule::New).await, [Delivery::Published]);
    assert_eq!(send(200, Rule::Replace).await, [Delivery::Replaced]);
    let before = seen(&target, "p/big/1.zip").await.etag;
    let usurped = ("p/.blat/archive", record("oslo").render());
    *world.shelf.put_at_next_part.lock().expect("one thread") = Some(usurped);
    let delivery = send(300, Rule::Replace).await.remove(0);
    assert!(matches!(&delivery, Delivery::Failed(why) if why.contains("blat adopt perth")), "{delivery:?}");
    assert_eq!(seen(&target, "p/big/1.zip").await.etag, before);
    assert!(world.shelf.unfinished.lock().expect("one thread").is_empty(), "the upload is given up");
}

#[tokio::test]
async fn whoever_lost_the_bucket_hears_of_it_also_where_its_list_is_there_already() {
    let world = World::new();
    let target = world.filled().await;
    let list = "core 1\n# end 1\n";
    target.store_list(&record("perth"), list, Purge::Held).await.expect("memory");
    inventory(&target).await;
    target.store_list(&record("perth"), list, Purge::Held).await.expect("memory");
    *world.shelf.put_at_next_head.lock().expect("one thread") = Some(record("oslo").render());
    seen(&target, "p/core/1.zip").await;
    let stored = target.store_list(&record("perth"), list, Purge::Held).await;
    assert!(matches!(&stored, Err(TargetError::Refused(why)) if why.contains("blat adopt perth")), "{stored:?}");
}

#[tokio::test]
async fn a_record_that_is_none_is_never_overwritten_but_by_an_adoption() {
    let world = World::new();
    let target = world.target();
    world.shelf.put_foreign("p/.blat/archive").await;
    let title = target.claim(Claim::First, &record("perth")).await.expect("memory");
    assert!(matches!(&title.found, Found::Malformed(why) if why.contains("theirs")), "{title:?}");
    assert_eq!(inventory(&target).await.title, title);
    assert!(target.store_list(&record("perth"), "# end 0\n", Purge::Held).await.is_err());
    assert_eq!(world.shelf.bytes("p/.blat/archive").await, b"theirs");
    let title = target.claim(Claim::Adopt, &record("perth")).await.expect("memory");
    assert_eq!(title.found, Found::Record(record("perth")));
}

/// Who may only send must not become the owner because a server without conditional writes answers late.
#[tokio::test]
async fn a_record_that_is_not_seen_is_no_free_bucket_where_packages_are() {
    let world = World::new();
    world.filled().await;
    let oslo = S3Target { owner: record("oslo").owner, ..world.target() };
    let claim = async |how| {
        world.shelf.stale_records.store(1, Ordering::Relaxed);
        world.shelf.refused_conditions.store(1, Ordering::Relaxed);
        oslo.claim(how, &record("oslo")).await.expect("memory").found
    };
    let found = claim(Claim::First).await;
    assert!(matches!(&found, Found::Malformed(why) if why.contains("packages are there")), "{found:?}");
    assert_eq!(inventory(&oslo).await.title.found, Found::Record(record("perth")));
    assert_eq!(claim(Claim::Adopt).await, Found::Record(record("oslo")), "whoever asks for it takes it over");
    let world = World::new();
    world.shelf.refused_conditions.store(1, Ordering::Relaxed);
    world.owning().await;
}

/// What each write that may replace something comes to, made by a target that filled the bucket.
async fn replacements(world: &World, target: &S3Target, number: usize) -> Result<String, String> {
    let item = match number {
        0 => world.item("core@1", b"later", 200, Rule::Replace),
        1 => world.item("core@2", &noise(20 << 20), 200, Rule::Replace),
        2 => {
            let linked = target.link(&[link("core@now", "2")]).await.map_err(|error| error.to_string())?;
            return Ok(format!("{:?}", linked[0].1));
        }
        3 => {
            let stored = target.store_list(&record("perth"), "core 2\n# end 1\n", Purge::Held).await;
            return stored.map(|former| format!("{former:?}")).map_err(|error| error.to_string());
        }
        4 => {
            let marked =
                target.retire(&record("perth"), Retirement::Mark(5), &[Leaving::new(id("core@1"), Some(100))]).await;
            return marked.map(|marked| format!("{:?}", marked[0].1)).map_err(|error| error.to_string());
        }
        _ => {
            let claimed = target.claim(Claim::Adopt, &record("perth")).await.map_err(|error| error.to_string())?;
            return Ok(format!("{:?}", claimed.found));
        }
    };
    Ok(format!("{:?}", world.send(target, &[item]).await))
}

#[tokio::test]
async fn whoever_loses_the_bucket_between_two_tries_of_a_write_replaces_nothing() {
    for number in 0..=5 {
        for is_lost in [true, false] {
            let world = World::new();
            let target = world.filled().await;
            target.link(&[link("core@now", "1")]).await.expect("memory");
            target.store_list(&record("perth"), "core 1\n# end 1\n", Purge::Held).await.expect("memory");
            let keys = ["p/core/1.zip", "p/core/2.zip", "p/core/now.zip", "p/PackageList.txt"];
            let all = async || {
                let mut all = Vec::new();
                for key in keys {
                    all.push(world.shelf.bytes(key).await);
                }
                (all, world.shelf.keys().await)
            };
            let before = all().await;
            let owner = if is_lost { "oslo" } else { "perth" };
            *world.shelf.put_at_next_write.lock().expect("one thread") = Some(record(owner).render());
            let outcome = replacements(&world, &target, number).await;
            assert!(
                world.shelf.put_at_next_write.lock().expect("one thread").is_none(),
                "{number}: nothing is written"
            );
            let text = format!("{outcome:?}");
            if is_lost {
                assert!(text.contains(if number == 5 { "oslo" } else { "blat adopt perth" }), "{number}: {text}");
                assert!(all().await == before, "{number}: {text}");
            } else {
                assert!(!text.contains("ailed") && !text.contains("Err"), "{number}: {text}");
                assert!(number == 5 || all().await != before, "{number}: the second try does it: {text}");
            }
        }
    }
}

#[tokio::test]
async fn whoever_loses_the_bucket_while_the_list_is_stored_does_not_say_ok() {
    let world = World::new();
    let target = world.filled().await;
    *world.shelf.put_after_next_write.lock().expect("one thread") = Some(record("oslo").render());
    let stored = target.store_list(&record("perth"), "core 1\n# end 1\n", Purge::Held).await;
    assert!(matches!(&stored, Err(TargetError::Refused(why)) if why.contains("blat adopt perth")), "{stored:?}");
}
