//! Whose a bucket is, and what whoever does not own it, or not any more, leaves undone.

use super::*;

#[tokio::test]
async fn a_bucket_has_one_owner_and_whoever_else_sends_to_it_neither_lists_nor_deletes() {
    let world = World::new();
    let target = world.filled().await;
    target.store_list("core 1\n# end 1\n").await.expect("memory");
    let other = S3Target { owner: record("oslo").owner, ..world.target() };
    let theirs = Record { archive: RandomId::from_random([8; 16]), ..record("oslo") };
    let title = other.claim(Claim::First, &theirs).await.expect("memory");
    assert_eq!(title.found, Found::Record(record("perth")), "who comes second reads what the first has written");
    assert_eq!(inventory(&other).await.title.found, Found::Record(record("perth")));
    let parcel = world.parcel("core@3", b"3", 100, Rule::New);
    assert_eq!(world.send(&other, &[parcel]).await, [Delivery::Published], "sending goes on");
    for how in [Retirement::Unmark, Retirement::Mark(5), Retirement::DeleteDue, Retirement::Delete] {
        let refused = other.retire(how, &[Leaving::new(id("core@2"), Some(100))]).await;
        assert!(matches!(refused, Err(TargetError::Refused(why)) if why.contains("blat adopt oslo")), "{how:?}");
    }
    assert!(matches!(other.store_list("# end 0\n").await, Err(TargetError::Refused(_))));

    let title = other.claim(Claim::Adopt, &theirs).await.expect("memory");
    let adopted = Record { archive: record("perth").archive, ..theirs.clone() };
    assert_eq!(title.found, Found::Record(adopted.clone()), "it stays the archive that it is");
    assert!(
        target.retire(Retirement::Delete, &[Leaving::new(id("core@2"), Some(100))]).await.is_err(),
        "also in mid-sync"
    );
    let deleted = other.retire(Retirement::Delete, &[Leaving::new(id("core@2"), Some(100))]).await.expect("memory");
    assert_eq!(deleted[0].1, Retired::Done);

    other.claim(Claim::Withdraw, &theirs).await.expect("memory");
    assert_eq!(inventory(&other).await.title.found, Found::Record(adopted.clone()), "another record stays");
    assert_eq!(other.claim(Claim::Withdraw, &adopted).await.expect("memory").found, Found::Nothing);
    assert!(
        other.retire(Retirement::Delete, &[Leaving::new(id("core@3"), Some(100))]).await.is_err(),
        "nobody's is not ours"
    );
}

#[tokio::test]
async fn whoever_loses_the_bucket_in_the_midst_of_deleting_makes_no_further_request() {
    for at_head in [true, false] {
        let world = World::new();
        let target = world.filled().await;
        target.store_list("other 1\n# end 1\n").await.expect("memory");
        let theirs = Some(record("oslo").render());
        let when = if at_head { &world.shelf.put_at_next_head } else { &world.shelf.put_at_next_delete };
        *when.lock().expect("one thread") = theirs;
        let packages = ["core@1", "core@2"].map(|package| Leaving::new(id(package), Some(100)));
        let deleted = target.retire(Retirement::Delete, &packages).await.expect("an outcome for each");
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
async fn a_record_that_is_none_is_never_overwritten_but_by_an_adoption() {
    let world = World::new();
    let target = world.target();
    world.shelf.put_foreign("p/.blat/archive").await;
    let title = target.claim(Claim::First, &record("perth")).await.expect("memory");
    assert!(matches!(&title.found, Found::Malformed(why) if why.contains("theirs")), "{title:?}");
    assert_eq!(inventory(&target).await.title, title);
    assert!(target.store_list("# end 0\n").await.is_err());
    assert_eq!(world.shelf.bytes("p/.blat/archive").await, b"theirs");
    let title = target.claim(Claim::Adopt, &record("perth")).await.expect("memory");
    assert_eq!(title.found, Found::Record(record("perth")));
}
