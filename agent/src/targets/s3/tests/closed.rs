//! Objects that the server lists and shows nobody, packages that it does not take, and conditions that it does not heed.

use super::*;

#[tokio::test]
async fn an_object_that_nobody_may_look_at_is_foreign_and_stops_nothing_else() {
    let world = World::new();
    let target = world.filled().await;
    world.shelf.put_foreign("p/core/3.zip").await;
    world.shelf.closed.lock().expect("one thread").push("p/core/3.zip");
    for _ in 0..2 {
        let listed = inventory(&target).await;
        assert_eq!((listed.packages.len(), listed.foreign.count), (2, 1));
        assert!(listed.foreign.examples.join(" ").contains("core/3.zip"), "{:?}", listed.foreign);
    }
    target.store_list(&record("perth"), "other 1\n# end 1\n", Purge::Held).await.expect("memory");
    let leaving = ["core@2", "core@3"].map(|package| Leaving::new(id(package), Some(100)));
    for how in [Retirement::Mark(0), Retirement::Delete] {
        let mut retired = target.retire(&record("perth"), how, &leaving).await.expect("memory");
        retired.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(retired[0].1, Retired::Done, "{how:?}");
        assert!(matches!(&retired[1].1, Retired::Failed(why) if why.contains("looked at")), "{how:?}: {retired:?}");
    }
    let mut verdicts = target.verify(&[id("core@1"), id("core@3")]).await.expect("memory");
    verdicts.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(matches!(&verdicts[0].1, Verdict::Good(_)), "{verdicts:?}");
    assert!(matches!(&verdicts[1].1, Verdict::Unknown(why) if why.contains("cannot be read")), "{verdicts:?}");
    world.shelf.closed.lock().expect("one thread").clear();
    assert_eq!(inventory(&target).await.foreign.count, 1, "it is looked at again");

    // Where nothing may be looked at, nobody knows whose anything is.
    world.shelf.put_foreign("p/core/4.zip").await;
    world.shelf.closed.lock().expect("one thread").extend(["p/core/4.zip", "p/.blat/archive"]);
    assert!(matches!(target.inventory().await, Err(TargetError::Operator(_))));
}

#[tokio::test]
async fn packages_that_the_server_does_not_take_keep_no_other_from_its_turn() {
    let world = World::new();
    let target = world.owning().await;
    world.shelf.full.lock().expect("one thread").push("p/bad/".into());
    let names: Vec<String> = (0..10).map(|number| format!("bad@{number}")).chain(["good@1".to_owned()]).collect();
    let items: Vec<_> = names.iter().map(|id| world.item(id, b"x", 100, Rule::New)).collect();
    let sent = world.send(&target, &items).await;
    assert!(sent[..10].iter().all(|sent| matches!(sent, Delivery::Failed(why) if why.contains("403"))), "{sent:?}");
    assert_eq!(sent[10..], [Delivery::Published]);
    assert_eq!(world.shelf.keys().await, ["p/.blat/archive", "p/good/1.zip"], "nothing is left behind");

    // A server that takes nothing at all is not asked for each of them.
    world.shelf.full.lock().expect("one thread").push("p/".into());
    let told = |news: Vec<_>| assert!(news.is_empty(), "{news:?}");
    let error = target.receive(&items[..1], &Arc::default(), &told).await;
    assert!(matches!(&error, Err(TargetError::Operator(why)) if why.contains("403")), "{error:?}");
}

#[tokio::test]
async fn where_the_server_ignores_conditions_what_came_meanwhile_stays() {
    for ignores in [true, false] {
        let world = World::new();
        world.shelf.ignores_conditions.store(ignores, Ordering::Relaxed);
        let target = world.owning().await;
        world.heads();
        world.shelf.put_foreign("p/core/1.zip").await;
        let items = ["core@1", "core@2"].map(|id| world.item(id, b"x", 100, Rule::New));
        let sent = world.send(&target, &items).await;
        assert!(matches!(&sent[0], Delivery::Failed(why) if why.contains("left alone")), "{ignores}: {sent:?}");
        assert_eq!(sent[1], Delivery::Published);
        assert_eq!(world.shelf.bytes("p/core/1.zip").await, b"theirs", "{ignores}");
        assert_eq!(world.shelf.keys().await, ["p/.blat/archive", "p/core/1.zip", "p/core/2.zip"]);
        assert_eq!(world.shelf.conditions.load(Ordering::Relaxed), if ignores { 0 } else { 3 });
    }
}
