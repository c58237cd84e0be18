//! Listings in parts on a server that is in another order than that of keys, or whose objects are not the remembered ones any more.

use super::*;

/// Makes a target remember so many packages that one page ends with `until`.
fn remember_up_to(target: &S3Target, until: &str) {
    let before = target
        .known
        .packages()
        .into_iter()
        .filter(|package| target.keys.package(package) < target.keys.package(&id(until)));
    let others = before.count() + usize::from(target.known.record().is_some());
    for number in 0..PAGE - 1 - others {
        target.note(&id(&format!("0{number}@1")), "e", 5, What::Package { time: 1 });
    }
    assert_eq!(target.bounds(), [target.keys.package(&id(until))]);
}

#[tokio::test]
async fn a_part_that_did_not_come_to_the_key_that_ends_it_proves_nothing() {
    let world = World::new();
    let target = world.owning().await;
    let all = ["a@1", "a@2", "a-b@1", "a-b@2", "b@1"];
    world.send(&target, &all.map(|id| world.item(id, b"1", 100, Rule::New))).await;
    let listed = async || inventory(&target).await.packages.keys().map(PackageId::to_string).collect::<Vec<_>>();
    assert_eq!(listed().await, all);
    world.shelf.goes_by_folders.store(true, Ordering::Relaxed);
    // `a/1` comes before the key that ends the first part, and counts as one behind it.
    remember_up_to(&target, "a-b@1");
    assert_eq!(listed().await, all);
    assert!(target.lists_otherwise.load(Ordering::Relaxed), "it is known now");
    assert!(target.bounds().is_empty());
    world.shelf.pages.store(0, Ordering::Relaxed);
    assert_eq!(listed().await, all);
    assert_eq!(world.shelf.pages.load(Ordering::Relaxed), 2, "it is listed in one");
}

#[tokio::test]
async fn a_key_that_is_gone_costs_a_listing_and_the_server_still_is_asked_in_parts() {
    let world = World::new();
    let target = world.filled().await;
    world.send(&target, &["core@3", "core@4"].map(|id| world.item(id, b"1", 100, Rule::New))).await;
    remember_up_to(&target, "core@3");
    let pages = async || {
        world.shelf.pages.store(0, Ordering::Relaxed);
        let names =
            inventory(&target).await.packages.keys().map(|package| package.version.to_string()).collect::<String>();
        (names, world.shelf.pages.load(Ordering::Relaxed))
    };
    assert_eq!(pages().await, ("1234".to_owned(), 3), "the key is there: nothing is asked for twice");
    remember_up_to(&target, "core@3");
    world.shelf.memory.delete(&keys::path("p/core/3.zip").expect("a key")).await.expect("memory");
    assert_eq!(pages().await, ("124".to_owned(), 5), "the parts, and the whole");
    assert!(!target.lists_otherwise.load(Ordering::Relaxed));
}
