//! Marks of what is sent, is there already, or is a link: somebody wants it, so none of them outlives that.

use super::*;

/// A bucket whose core@1 and core@now, a link to it, are marked, and so is core@3, which is not there any more.
async fn marked(world: &World) -> S3Target {
    let target = world.filled().await;
    target.link(&[link("core@now", "1")]).await.expect("memory");
    let leaving = [Leaving::new(id("core@1"), Some(100)), Leaving::new(id("core@now"), None)];
    let marked = target.retire(&record("perth"), Retirement::Mark(5), &leaving).await.expect("memory");
    assert!(marked.iter().all(|(_, retired)| *retired == Retired::Done), "{marked:?}");
    world.shelf.put_foreign(&target.keys.mark(&id("core@3"), Mark { at: NOW - 60, wait: 5 })).await;
    assert_eq!(inventory(&target).await.marks.len(), 3);
    target
}

#[tokio::test]
async fn what_is_offered_loses_its_mark_also_where_it_is_there_or_is_a_link() {
    let world = World::new();
    let target = marked(&world).await;
    let items = ["core@1", "core@3"].map(|package| world.item(package, b"core@1", 100, Rule::Replace));
    let linked = target.link(&[link("core@now", "1")]).await.expect("memory");
    assert_eq!(linked, [(id("core@now"), Delivery::Linked)]);
    assert!(!inventory(&target).await.marks.contains_key(&id("core@now")), "the link's");
    assert_eq!(world.send(&target, &items).await, [Delivery::Already, Delivery::Published]);
    assert_eq!(inventory(&target).await.marks, BTreeMap::new());
}

#[tokio::test]
async fn what_keeps_its_mark_counts_as_not_sent() {
    let world = World::new();
    let target = marked(&world).await;
    let mark = target.keys.mark(&id("core@1"), Mark { at: NOW, wait: 5 });
    world.shelf.stuck.lock().expect("one thread").push(mark);
    let items = ["core@1", "core@2"].map(|package| world.item(package, b"x", 100, Rule::Replace));
    let sent = world.send(&target, &items).await;
    assert!(matches!(&sent[0], Delivery::Failed(why) if why.contains("its mark cannot be taken away")), "{sent:?}");
    assert_eq!(sent[1], Delivery::Already);
}
