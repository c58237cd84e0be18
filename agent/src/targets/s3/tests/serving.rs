//! A bucket that an agent serves: what its tags bring, and how it takes a bucket over.

use std::path::Path;

use blat_config::{Home, load_target};

use super::*;
use crate::session::Sent;
use crate::sync::Synced;
use crate::sync::context::SyncContext;
use crate::sync::outcome::Dropped;

/// An agent of perth that serves the world's bucket, which wants core@1, with `more` in its config.
fn agent(world: &World, more: &str) -> SyncContext {
    let root = world.scratch.path();
    ["core@1", "core@3"].iter().for_each(|id| drop(world.item(id, id.as_bytes(), 100, Rule::New)));
    fs::create_dir_all(root.join("config")).expect("an own folder");
    let home = Home::at(root).expect("a path");
    let name = "perth".parse().expect("a name");
    let config = format!(
        "type: s3Sync\ns3: {{bucket: abc, prefix: p, region: x}}\nsource: {}/source\npkg: {{core: 1}}\n\
         aging: {{by: master, after: 30d}}\nwritable: 0\n{more}\n",
        root.display()
    );
    fs::write(home.target_config(&name), config).expect("a config");
    let settings = load_target(&home, &name).expect("valid settings");
    let mut context = SyncContext::new(&home, settings, record("perth").owner);
    context.target = Arc::new(world.target());
    context
}

/// Puts an object as somebody else would, or takes it away.
async fn exchange(world: &World, key: &str, text: Option<String>) {
    let path = keys::path(key).expect("a key");
    match text {
        Some(text) => drop(world.shelf.memory.put(&path, text.into()).await.expect("memory")),
        None => world.shelf.memory.delete(&path).await.expect("memory"),
    }
}

async fn tag(agent: &SyncContext) -> Sent {
    agent.send_tagged([id("core@3")].into(), &Dropped::new()).await.remove(0).1
}

async fn sync(agent: &SyncContext) {
    let Synced::Ended(..) = agent.sync(None).await else { panic!("no other settings are there") };
}

fn waits(sent: &Sent) -> bool {
    matches!(sent, Sent::Failed(problem) if problem.text.starts_with("nothing is sent to the archive"))
}

/// The bucket that answers by now has the tag's package, and the right one lacks it.
#[tokio::test]
async fn no_tag_is_used_up_by_what_a_listing_shows_of_another_bucket() {
    for other in [None, Some(record("oslo").render())] {
        let world = World::new();
        let agent = agent(&world, "max_size: 1g");
        sync(&agent).await;
        assert_eq!(world.send(&world.target(), &[world.item("core@3", b"3", 100, Rule::New)]).await.len(), 1);
        assert!(world.shelf.keys().await.contains(&"p/core/3.zip".to_owned()));
        assert_eq!(tag(&agent).await, Sent::Done, "in the right one it is there");
        exchange(&world, "p/.blat/archive", other.clone()).await;
        exchange(&world, "p/.blat/visit", None).await;
        let sent = tag(&agent).await;
        assert!(waits(&sent), "{other:?}: {sent:?}");
        let sent = tag(&agent).await;
        assert!(waits(&sent), "{other:?}: {sent:?}");
    }
}

#[tokio::test]
async fn no_tag_of_a_home_that_only_sends_is_used_up_by_another_bucket() {
    let broken = || Some("theirs".to_owned());
    for other in [None, broken(), Some(record("bergen").render())] {
        let world = World::new();
        exchange(&world, "p/.blat/archive", Some(record("oslo").render())).await;
        let agent = agent(&world, "");
        sync(&agent).await;
        assert!(world.shelf.keys().await.contains(&"p/core/1.zip".to_owned()), "it sends");
        let elsewhere = S3Target { owner: record("oslo").owner, ..world.target() };
        world.send(&elsewhere, &[world.item("core@3", b"3", 100, Rule::New)]).await;
        assert_eq!(tag(&agent).await, Sent::Done, "in the right one it is there");
        exchange(&world, "p/.blat/archive", other.clone()).await;
        let sent = tag(&agent).await;
        assert!(waits(&sent), "{other:?}: {sent:?}");
        // Once a full sync has judged it, it is sent to like any bucket of somebody else.
        sync(&agent).await;
        let sent = tag(&agent).await;
        assert!(if other.is_none() { waits(&sent) } else { sent == Sent::Done }, "{other:?}: {sent:?}");
    }
}

/// What is in a listing is offered again with what it addresses, so that neither is deleted by its mark.
#[tokio::test]
async fn what_a_tagged_link_addresses_loses_its_mark_though_a_listing_shows_it() {
    let world = World::new();
    let agent = agent(&world, "max_size: 1g");
    let now = world.scratch.path().join("source/core/now");
    std::os::unix::fs::symlink(Path::new("3"), now).expect("a link");
    sync(&agent).await;
    let brought = [id("core@now")].into();
    agent.send_tagged(brought, &Dropped::new()).await;
    let target = world.target();
    inventory(&target).await;
    let owned = target.claim(Claim::Look, &record("perth")).await.expect("memory").found;
    let Found::Record(owned) = owned else { panic!("it is claimed") };
    let leaving = [Leaving::new(id("core@3"), Some(100))];
    let marked = target.retire(&owned, Retirement::Mark(5), &leaving).await.expect("memory");
    assert_eq!(marked[0].1, Retired::Done);
    let sent = agent.send_tagged([id("core@now")].into(), &Dropped::new()).await;
    assert!(sent.iter().all(|(_, sent)| *sent == Sent::Done), "{sent:?}");
    assert_eq!(inventory(&target).await.marks, BTreeMap::new());
}

#[tokio::test]
async fn an_adoption_that_was_cut_is_taken_up_where_the_last_visit_is_somebody_elses() {
    let world = World::new();
    let agent = agent(&world, "");
    let mark = ObjectKeys::below("p").mark(&id("core@1"), Mark { at: NOW - 60, wait: 5 });
    exchange(&world, "p/.blat/archive", Some(record("perth").render())).await;
    exchange(&world, "p/.blat/visit", Some(record("oslo").render())).await;
    world.shelf.put_foreign(&mark).await;
    let (before, after) = agent.adopt().await.expect("memory");
    assert!(before == Found::Record(record("perth")) && after != before, "{before:?}, {after:?}");
    assert!(!world.shelf.keys().await.contains(&mark), "the former owner's mark is gone");
    let title = world.target().claim(Claim::Look, &record("perth")).await.expect("memory");
    assert!(title.is_adopted() && title.found == after, "{title:?}");
    assert_eq!(agent.adopt().await.expect("memory"), (after.clone(), after), "and that is its end");
}
