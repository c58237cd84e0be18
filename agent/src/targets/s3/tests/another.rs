//! Another bucket that answers at the endpoint of one that was ours: a server took the place of another, or its disk is not mounted.

use super::*;

/// Puts this record into the place of ours, or none.
async fn exchange(world: &World, other: Option<&Record>) {
    let path = keys::path("p/.blat/archive").expect("a key");
    match other {
        Some(record) => drop(world.shelf.memory.put(&path, record.render().into()).await.expect("memory")),
        None => world.shelf.memory.delete(&path).await.expect("memory"),
    }
}

#[tokio::test]
async fn to_a_bucket_without_the_record_of_before_nothing_is_sent_and_nothing_is_replaced_there() {
    for (is_judged, other) in [(true, None), (false, None), (true, Some(record("oslo"))), (false, Some(record("oslo")))]
    {
        let world = World::new();
        let target = world.filled().await;
        assert_eq!(target.link(&[link("core@now", "1")]).await.expect("memory")[0].1, Delivery::Linked);
        inventory(&target).await;
        // Another agent, which knows by its memory alone what was there.
        let target = if is_judged { target } else { world.target() };
        if is_judged {
            target.met(&Found::Record(record("perth")));
        }
        exchange(&world, other.as_ref()).await;
        let before = (world.shelf.keys().await, world.shelf.bytes("p/core/1.zip").await);
        let items =
            [("core@1", Rule::Replace), ("core@2", Rule::Repair), ("core@3", Rule::Replace), ("core@4", Rule::New)];
        let sent = world.send(&target, &items.map(|(id, rule)| world.item(id, b"later", 200, rule))).await;
        let linked = target.link(&[link("core@now", "2"), link("core@newest", "2")]).await.expect("memory");
        for delivery in sent.iter().chain(linked.iter().map(|(_, delivery)| delivery)) {
            let is_said = |why: &str| why.ends_with("(unowned)") && why.contains("blat adopt perth");
            assert!(matches!(delivery, Delivery::Failed(why) if is_said(why)), "{other:?}: {delivery:?}");
        }
        assert_eq!((sent.len(), linked.len()), (4, 2));
        assert!((world.shelf.keys().await, world.shelf.bytes("p/core/1.zip").await) == before, "{other:?}");

        // Once that was judged, new packages go to somebody else's bucket; to one of nobody none goes before it has an owner again.
        target.met(&other.clone().map_or_else(|| Found::Record(record("perth")), Found::Record));
        if other.is_none() {
            target.claim(Claim::First, &record("perth")).await.expect("memory");
        }
        let sent = world.send(&target, &[world.item("core@4", b"later", 200, Rule::New)]).await;
        assert_eq!(sent, [Delivery::Published], "{other:?}");
    }
}

#[tokio::test]
async fn what_was_sent_while_another_bucket_came_counts_as_not_sent() {
    for is_link in [true, false] {
        for is_another in [true, false] {
            let world = World::new();
            let target = world.filled().await;
            target.met(&Found::Record(record("perth")));
            let owner = if is_another { "oslo" } else { "perth" };
            // It comes while somebody looks whether the place is free.
            *world.shelf.put_at_next_head.lock().expect("one thread") = Some(record(owner).render());
            world.shelf.records.store(0, Ordering::Relaxed);
            let outcome = if is_link {
                target.link(&[link("core@now", "1")]).await.expect("memory").remove(0).1
            } else {
                world.send(&target, &[world.item("core@3", b"3", 100, Rule::Replace)]).await.remove(0)
            };
            assert_eq!(world.shelf.records.load(Ordering::Relaxed), 2, "once before and once after");
            if is_another {
                let is_said = |why: &str| why.ends_with("(unowned)") && why.contains("blat adopt perth");
                assert!(matches!(&outcome, Delivery::Failed(why) if is_said(why)), "{outcome:?}");
            } else {
                let done = if is_link { Delivery::Linked } else { Delivery::Published };
                assert_eq!(outcome, done);
            }
        }
    }
}

/// Of a bucket that always was somebody else's, nothing but its record tells it from another one.
#[tokio::test]
async fn whoever_only_sends_sends_nothing_to_a_bucket_with_another_record() {
    let newer = Record { archive: RandomId::from_random([8; 16]), ..record("oslo") };
    for other in [record("bergen"), newer] {
        let world = World::new();
        exchange(&world, Some(&record("oslo"))).await;
        let target = world.target();
        target.met(&Found::Record(record("oslo")));
        let send = async |id| world.send(&target, &[world.item(id, b"x", 100, Rule::New)]).await.remove(0);
        assert_eq!(send("core@1").await, Delivery::Published);
        exchange(&world, Some(&other)).await;
        let sent = send("core@2").await;
        assert!(matches!(&sent, Delivery::Failed(why) if why.ends_with("(unowned)")), "{sent:?}");
        target.met(&Found::Record(other));
        assert_eq!(send("core@2").await, Delivery::Published);
    }
}
