//! Servers that keep other sizes than were sent, and answers at which a library panics.

use super::*;

async fn publish(world: &World, target: &S3Target) -> Delivery {
    let item = world.item("core@1", b"core@1", 100, Rule::New);
    world.send(target, &[item]).await.remove(0)
}

#[tokio::test]
async fn a_package_that_is_listed_with_another_size_is_not_there_and_is_sent_again() {
    for is_forgotten in [false, true] {
        let world = World::new();
        let target = world.filled().await;
        *world.shelf.lists_otherwise.lock().expect("one thread") = Some(("p/core/1.zip", 7));
        let target = if is_forgotten {
            fs::remove_file(world.scratch.path().join("state/bucket.txt")).expect("a file");
            world.target()
        } else {
            target
        };
        for _ in 0..2 {
            let listed = inventory(&target).await;
            assert_eq!(listed.packages.keys().map(ToString::to_string).collect::<Vec<_>>(), ["core@2"]);
            assert_eq!(listed.foreign.count, 0);
        }
        assert_eq!(world.heads(), 1 + usize::from(is_forgotten), "it is asked for once");
        assert_eq!(publish(&world, &target).await, Delivery::Replaced);
        assert!(!inventory(&target).await.packages.contains_key(&id("core@1")), "it still is listed so");
        *world.shelf.lists_otherwise.lock().expect("one thread") = None;
        assert!(inventory(&target).await.packages.contains_key(&id("core@1")));
    }
}

#[tokio::test]
async fn a_package_that_was_cut_is_sent_again_whenever_that_is_noticed() {
    for is_listed in [true, false] {
        let world = World::new();
        let target = world.filled().await;
        let whole = world.shelf.bytes("p/core/1.zip").await;
        let card = seen(&target, "p/core/1.zip").await.card.expect("a card");
        let options = PutOptions { attributes: card.attributes(), ..PutOptions::default() };
        let path = keys::path("p/core/1.zip").expect("a key");
        world.shelf.memory.put_opts(&path, whole[..20].to_vec().into(), options).await.expect("memory");
        let target = world.target();
        if is_listed {
            assert!(!inventory(&target).await.packages.contains_key(&id("core@1")));
        }
        assert_eq!(publish(&world, &target).await, Delivery::Replaced);
        assert_eq!(world.shelf.bytes("p/core/1.zip").await, whole);
        assert!(inventory(&target).await.packages.contains_key(&id("core@1")));
    }
}

#[tokio::test]
async fn what_an_earlier_build_sent_counts_by_what_was_noted_then() {
    let world = World::new();
    let target = world.filled().await;
    let whole = world.shelf.bytes("p/core/1.zip").await;
    let card = ObjectMetadata { size: None, ..seen(&target, "p/core/1.zip").await.card.expect("a card") };
    let options = PutOptions { attributes: card.attributes(), ..PutOptions::default() };
    let path = keys::path("p/core/1.zip").expect("a key");
    world.shelf.memory.put_opts(&path, whole.clone().into(), options).await.expect("memory");
    assert!(inventory(&target).await.packages.contains_key(&id("core@1")), "it says no size");
    assert_eq!(publish(&world, &target).await, Delivery::Published, "and is the same package");
    *world.shelf.lists_otherwise.lock().expect("one thread") = Some(("p/core/1.zip", 7));
    assert!(!inventory(&target).await.packages.contains_key(&id("core@1")), "another size was noted");
}

#[tokio::test]
async fn a_panic_at_one_package_is_its_failure_and_the_others_go() {
    let world = World::new();
    let target = world.target();
    *world.shelf.panics_at.lock().expect("one thread") = Some("p/core/2.zip");
    let items = ["core@1", "core@2", "core@3"].map(|id| world.item(id, b"x", 100, Rule::New));
    let sent = world.send(&target, &items).await;
    assert!(matches!(&sent[1], Delivery::Failed(why) if why.contains("panic")), "{sent:?}");
    assert_eq!([&sent[0], &sent[2]], [&Delivery::Published; 2]);
}
