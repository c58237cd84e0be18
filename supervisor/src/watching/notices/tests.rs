//! One instance for all, by a real one and real directories.

use std::fs;
use std::path::{Path, PathBuf};

use blat_domain::protocol::messages::Order;
use blat_domain::protocol::news::Heard;

use super::*;

/// A master's notices and some directories.
struct Scene {
    scratch: tempfile::TempDir,
    notices: Notices,
    instance: Arc<Notifications>,
}

impl Scene {
    fn new() -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let notices = Notices::start();
        let instance = notices.state().instance.clone().expect("an instance");
        Self { scratch, notices, instance }
    }

    fn directory(&self, name: &str) -> PathBuf {
        let path = self.scratch.path().join(name);
        fs::create_dir_all(&path).expect("a directory");
        path
    }

    /// As its agent does it.
    fn watch(&self, path: &Path) -> i32 {
        self.instance.watch(path).expect("watched")
    }

    fn agent(&self, name: &str) -> (TargetName, Arc<Mailbox>) {
        let (target, mailbox) = (name.parse().expect("a name"), Arc::<Mailbox>::default());
        self.notices.add(&target, mailbox.clone());
        (target, mailbox)
    }
}

/// Waits until this was heard of the file.
async fn heard(mailbox: &Mailbox, name: &str) {
    let all = async {
        loop {
            if let Some(Order::Noticed { news, .. }) = mailbox.next_order().await
                && news.files.get(name.as_bytes()) == Some(&Heard::Whole)
            {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.unwrap_or_else(|_| panic!("{name} is not heard"));
}

#[tokio::test]
async fn each_agent_hears_of_its_directory_also_what_came_before_it_said_which_that_is() {
    let scene = Scene::new();
    let ((oslo, to_oslo), (perth, to_perth)) = (scene.agent("oslo"), scene.agent("perth"));
    let (in_oslo, in_perth) = (scene.directory("oslo"), scene.directory("perth"));
    let (first, second) = (scene.watch(&in_oslo), scene.watch(&in_perth));
    scene.notices.follow(&oslo, &Watch::Under(first));
    fs::write(in_perth.join("early"), "").expect("a file");
    fs::write(in_oslo.join("x"), "").expect("a file");
    // By now what came before that was read.
    heard(&to_oslo, "x").await;
    scene.notices.follow(&perth, &Watch::Under(second));
    heard(&to_perth, "early").await;
    fs::write(in_perth.join("y"), "").expect("a file");
    heard(&to_perth, "y").await;
}

#[tokio::test]
async fn a_directory_that_two_agents_watch_is_watched_until_both_have_left_it() {
    let scene = Scene::new();
    let ((oslo, _), (perth, to_perth), (rome, _)) = (scene.agent("oslo"), scene.agent("perth"), scene.agent("rome"));
    let shared = scene.directory("shared");
    let number = scene.watch(&shared);
    [&oslo, &perth, &rome].iter().for_each(|target| scene.notices.follow(target, &Watch::Under(number)));
    let other = scene.watch(&scene.directory("other"));
    scene.notices.follow(&oslo, &Watch::Under(other));
    scene.notices.remove(&rome);
    fs::write(shared.join("x"), "").expect("a file");
    heard(&to_perth, "x").await;
    scene.notices.remove(&perth);
    assert_ne!(scene.watch(&shared), number, "nobody was left");
}

#[tokio::test]
async fn what_is_refused_is_shown_once_for_all_targets_until_it_is_well() {
    let scene = Scene::new();
    let targets = ["oslo", "perth"].map(|name| scene.agent(name).0);
    assert_eq!(scene.notices.trouble(), None);
    targets.iter().for_each(|target| scene.notices.follow(target, &Watch::Refused("too many".to_owned())));
    let text = |notices: &Notices| notices.trouble().map(|trouble| trouble.text);
    assert_eq!(
        text(&scene.notices).as_deref(),
        Some("not all tag directories are watched: too many; the tags of 2 targets are found by polling alone")
    );
    scene.notices.remove(&targets[0]);
    assert!(text(&scene.notices).expect("it is not well").contains("the tags of 1 target are"));
    scene.notices.follow(&targets[1], &Watch::Under(scene.watch(&scene.directory("perth"))));
    assert_eq!(text(&scene.notices), None);
}

#[tokio::test]
async fn what_was_lost_is_lost_for_all_and_names_the_limit() {
    let scene = Scene::new();
    let (oslo, to_oslo) = scene.agent("oslo");
    let number = scene.watch(&scene.directory("oslo"));
    scene.notices.follow(&oslo, &Watch::Under(number));
    scene.notices.state().hear(None, Notice::Lost);
    assert_eq!(to_oslo.next_order().await, None, "the instance comes first");
    match to_oslo.next_order().await {
        Some(Order::Noticed { news, .. }) => assert!(news.is_broken && news.is_due),
        other => panic!("{other:?}"),
    }
    let text = scene.notices.trouble().expect("it is shown").text;
    assert!(text.contains("fs.inotify.max_queued_events is "), "{text}");
}

#[tokio::test]
async fn what_is_nobodys_takes_bounded_memory_and_is_watched_no_longer() {
    let scene = Scene::new();
    let numbers: Vec<i32> = (0..MOST_EARLY + 10).map(|n| scene.watch(&scene.directory(&format!("d{n}")))).collect();
    let mut state = scene.notices.state();
    numbers.iter().for_each(|number| state.hear(Some(*number), Notice::Other(None)));
    assert_eq!(state.early.len(), MOST_EARLY);
    drop(state);
    assert_ne!(scene.watch(&scene.directory("d0")), numbers[0], "it was given up, and is watched anew");
    assert_eq!(scene.watch(&scene.directory("d20")), numbers[20]);
}
