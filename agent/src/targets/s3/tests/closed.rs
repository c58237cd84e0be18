//! Objects that the server lists and shows nobody.

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
    target.store_list(&record("perth"), "other 1\n# end 1\n").await.expect("memory");
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
