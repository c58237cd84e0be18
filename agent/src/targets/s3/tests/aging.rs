//! Marks and what is due, by a clock that somebody has judged.

use super::*;

#[tokio::test]
async fn a_wrong_time_in_one_answer_makes_no_mark_older_and_nothing_due() {
    const MONTH: i64 = 30 * 86_400;
    let world = World::new();
    let target = world.filled().await;
    target.store_list(&record("perth"), "other 1\n# end 1\n", Purge::Held).await.expect("memory");
    let retire = async |how, skew: i64| {
        world.shelf.skew.store(skew, Ordering::Relaxed);
        target
            .retire(&record("perth"), how, &[Leaving::new(id("core@1"), Some(100))])
            .await
            .expect("memory")
            .remove(0)
            .1
    };
    let wait = MONTH.unsigned_abs();
    assert_eq!(retire(Retirement::Mark(wait), -2 * MONTH).await, Retired::Done);
    let at = inventory(&target).await.marks[&id("core@1")].at;
    assert!((NOW..NOW + 600).contains(&at), "it was made now, not at {at}");
    assert!(matches!(retire(Retirement::DeleteDue, 2 * MONTH).await, Retired::Kept(why) if why.contains("not waited")));
    assert_eq!(retire(Retirement::Mark(wait), 0).await, Retired::Done);
    assert_eq!(inventory(&target).await.marks[&id("core@1")].at, at, "a good mark keeps its time");

    let unlisted = world.target();
    let marked =
        unlisted.retire(&record("perth"), Retirement::Mark(wait), &[Leaving::new(id("core@1"), Some(100))]).await;
    assert!(matches!(marked, Err(TargetError::Refused(why)) if why.contains("what time it is")), "nobody judged one");
}

#[tokio::test]
async fn a_package_that_could_not_be_deleted_keeps_its_mark() {
    let world = World::new();
    let target = world.filled().await;
    target.store_list(&record("perth"), "other 1\n# end 1\n", Purge::Held).await.expect("memory");
    let packages = ["core@1", "core@2"].map(|package| Leaving::new(id(package), Some(100)));
    let marked = target.retire(&record("perth"), Retirement::Mark(0), &packages).await.expect("memory");
    assert!(marked.iter().all(|(_, retired)| *retired == Retired::Done));
    let of = |text: &str, keys: &[String]| keys.iter().filter(|key| key.contains(text)).count();
    world.shelf.stuck.lock().expect("one thread").push("p/core/1.zip".into());
    let mut deleted = target.retire(&record("perth"), Retirement::DeleteDue, &packages).await.expect("memory");
    deleted.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(matches!(&deleted[0].1, Retired::Failed(why) if why.contains("AccessDenied")), "{deleted:?}");
    assert_eq!(deleted[1].1, Retired::Done);
    let keys = world.shelf.keys().await;
    assert_eq!(
        (of("marks/core/1/", &keys), of("marks/core/2/", &keys), of("core/1.zip", &keys)),
        (1, 0, 1),
        "{keys:?}"
    );
}
