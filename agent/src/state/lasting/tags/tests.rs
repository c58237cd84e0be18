//! What tags brought is known after everything that may happen to the file, or nothing is deleted.

use std::fs;

use blat_domain::policy::clock::FileTime;

use super::*;
use crate::state::lasting::tests::{home, record};

fn packages(names: &[&str]) -> BTreeSet<PackageId> {
    names.iter().map(|name| name.parse().expect("a package")).collect()
}

#[test]
fn what_is_noted_outlives_the_process_until_release_manager_has_caught_up() {
    let (_scratch, home, name) = home();
    let load = || LastingMemory::load(&home, &name, true);
    let all = packages(&["a@1", "b@1", "c@1"]);
    let memory = load();
    memory.note_tags(&all, &BTreeSet::new());
    assert_eq!(memory.trouble(), None);
    let memory = load();
    assert_eq!(memory.tagged().into_keys().collect::<BTreeSet<_>>(), all);
    memory.forget_tags(&memory.noted(0), |package| package.name.as_str() == "a").expect("written");
    assert_eq!(load().tagged().len(), 2);
    memory.forget_tags(&memory.noted(Timestamp::now().as_second() + 1), |_| false).expect("written");
    assert!(load().tagged().is_empty());
}

#[test]
fn tags_that_name_what_nobody_has_make_no_endless_memory_and_no_endless_writes() {
    let (_scratch, home, name) = home();
    let memory = LastingMemory::load(&home, &name, true);
    let all: BTreeSet<PackageId> =
        (0..MOST_MISSING + 5).map(|n| format!("p{n}@1").parse().expect("a package")).collect();
    memory.note_tags(&all, &all.iter().collect());
    assert_eq!(memory.tagged().len(), MOST_MISSING);
    let there = packages(&["there@1"]);
    memory.note_tags(&there, &BTreeSet::new());
    assert_eq!(memory.tagged().len(), MOST_MISSING + 1, "what the source has is noted in any case");
    assert_eq!(memory.trouble(), None);
    memory.lock().kept.tags.get_or_insert_default().values_mut().for_each(|at| *at -= 5);
    memory.note_tags(&all, &all.iter().collect());
    assert!(!memory.lock().is_ahead, "one that waits is not written anew at each try");
    memory.note_tags(&there, &BTreeSet::new());
    assert!(memory.lock().is_ahead);
}

#[test]
fn what_tags_brought_while_the_file_was_of_no_use_is_not_forgotten() {
    let (_scratch, home, name) = home();
    let file = home.known_file(&name);
    let memory = LastingMemory::load(&home, &name, true);
    memory.note_tags(&packages(&["a@1"]), &BTreeSet::new());
    assert_eq!(memory.trouble(), None);
    let good = fs::read(&file).expect("a file");
    fs::write(&file, "").expect("an own file");
    let memory = LastingMemory::load(&home, &name, true);
    memory.note_tags(&packages(&["b@1"]), &BTreeSet::new());
    assert!(memory.trouble().is_some(), "the tag has to stay");
    fs::write(&file, good).expect("an own file");
    assert_eq!(memory.trouble(), None);
    assert_eq!(LastingMemory::load(&home, &name, true).tagged().len(), 2);
}

#[test]
fn a_file_that_was_copied_back_begins_anew_and_one_that_was_not_does_not() {
    let (_scratch, home, name) = home();
    let file = home.known_file(&name);
    let load = || LastingMemory::load(&home, &name, true);
    let now = || Timestamp::now().as_second();
    load().note_archive("a", None, &record(1), None);
    assert_eq!(load().notes(now()).began, None);
    let aside = file.with_extension("backup");
    fs::copy(&file, &aside).expect("a copy");
    assert_eq!(load().notes(now()).began, None, "it is the same file still");
    load().note_archive("b", None, &record(2), None);
    let before = now();
    fs::copy(&aside, &file).expect("copied back in place");
    let began = load().notes(now()).began.expect("it begins anew");
    assert!(began >= before && load().notes(now()).began == Some(began), "and that is not forgotten");
    load().lock().kept.began = Some(now() + 500);
    fs::rename(&aside, &file).expect("put in its place");
    assert!(load().notes(now()).began.is_some_and(|began| began <= now()));
}

#[test]
fn a_memory_that_begins_later_than_now_begins_now() {
    let (_scratch, home, name) = home();
    let memory = LastingMemory::load(&home, &name, true);
    memory.lock().kept.began = Some(500);
    assert_eq!((memory.notes(400).began, memory.notes(450).began), (Some(400), Some(400)));
}

/// The epoch second of a file with this time, as far as it is believed.
fn believed(memory: &LastingMemory, time: FileTime, is_set_ahead: bool, now: i64) -> Option<i64> {
    memory.believed(Some(ContentTime { at: time, is_set_ahead }), now).map(|noted| noted.at)
}

#[test]
fn a_time_ahead_of_the_clock_is_not_believed_when_the_clock_has_reached_it() {
    let (_scratch, home, name) = home();
    let memory = LastingMemory::load(&home, &name, true);
    assert!(memory.believed(None, 100).is_none());
    assert_eq!(believed(&memory, (100, 0), false, 100), Some(100));
    assert_eq!((believed(&memory, (200, 0), false, 150), memory.trouble()), (None, None));
    let memory = LastingMemory::load(&home, &name, true);
    assert_eq!(believed(&memory, (200, 0), false, 250), None);
    assert_eq!(believed(&memory, (240, 0), false, 250), Some(240));
}

#[test]
fn a_time_that_was_set_ahead_is_not_believed_when_the_file_changes_in_another_way() {
    let (_scratch, home, name) = home();
    let memory = LastingMemory::load(&home, &name, true);
    assert_eq!((believed(&memory, (200, 0), true, 250), memory.trouble()), (None, None));
    let memory = LastingMemory::load(&home, &name, true);
    assert_eq!(believed(&memory, (200, 0), false, 300), None, "a link or a mode changed");
    assert_eq!(believed(&memory, (260, 0), false, 300), Some(260), "the content changed");
}

/// As if the clock were set by so many seconds at this moment: what is noted was noted when it was that far away.
fn set(memory: &LastingMemory, by: i64) {
    memory.lock_by_clock().kept.clock.as_mut().expect("it has followed").start -= by;
}

const DAY: i64 = 86_400;

#[test]
fn releases_that_were_there_when_a_tag_came_never_count_as_newer_whatever_clock_is_set() {
    for by in [-20, -3, 3, 20, -26 * 3_600, 26 * 3_600, -400 * DAY, 400 * DAY] {
        let (_scratch, home, name) = home();
        let memory = LastingMemory::load(&home, &name, true);
        let brought = packages(&["a@1"]);
        let written = (Timestamp::now().as_second() - 1, 5);
        let known_up_to = memory.believed(Some(ContentTime { at: written, is_set_ahead: false }), written.0 + 1);
        let mut known_up_to = known_up_to.expect("it does not lie ahead");
        memory.note_tags(&brought, &BTreeSet::new());
        assert_eq!(memory.trouble(), None);
        for turn in 0..3 {
            // A sync runs, which has asked before.
            let by = if turn == 1 { -by } else { by };
            set(&memory, by);
            known_up_to.clock.start -= by;
            assert_eq!(memory.tagged_after(&known_up_to), brought, "{by}");
            memory.forget_tags(&known_up_to, |_| false).expect("written");
            let later = LastingMemory::load(&home, &name, true);
            for memory in [&memory, &later] {
                // The next sync, once the clock has passed the file's time.
                let now = memory.notes(i64::MAX);
                let known_up_to = memory.believed(Some(ContentTime { at: written, is_set_ahead: false }), i64::MAX);
                let known_up_to = known_up_to.expect("it did not lie ahead when it was seen").beside(&now.clock).at;
                assert!(now.tagged.values().all(|at| is_newer(*at, known_up_to)) && now.tagged.len() == 1, "{by}");
            }
        }
        let anew = (Timestamp::now().as_second() + 401 * DAY, 5);
        let anew = memory.believed(Some(ContentTime { at: anew, is_set_ahead: false }), anew.0).expect("it is new");
        assert!(memory.tagged_after(&anew).is_empty(), "{by}: what was written later knows more");
    }
}

#[test]
fn a_tag_is_no_older_than_releases_that_were_seen_before_although_the_clock_was_set_in_between() {
    let (_scratch, home, name) = home();
    let memory = LastingMemory::load(&home, &name, true);
    let ahead = Timestamp::now().as_second() + 30;
    let known_up_to = memory.believed(Some(ContentTime { at: (ahead, 0), is_set_ahead: false }), ahead);
    let known_up_to = known_up_to.expect("the clock said so at that moment");
    memory.note_tags(&packages(&["a@1"]), &BTreeSet::new());
    assert_eq!(memory.tagged_after(&known_up_to), packages(&["a@1"]));
}

#[test]
fn what_a_memory_of_no_use_saw_of_releases_is_not_forgotten_and_follows_the_clock() {
    let (_scratch, home, name) = home();
    let file = home.known_file(&name);
    let memory = LastingMemory::load(&home, &name, true);
    memory.note_tags(&packages(&["a@1"]), &BTreeSet::new());
    assert_eq!(memory.trouble(), None);
    let good = fs::read(&file).expect("a file");
    fs::write(&file, "").expect("an own file");
    let memory = LastingMemory::load(&home, &name, true);
    let now = Timestamp::now().as_second();
    assert_eq!(believed(&memory, (now, 5), false, now), Some(now));
    assert_eq!(believed(&memory, (now + 500, 0), false, now), None);
    memory.note_tags(&packages(&["b@1"]), &BTreeSet::new());
    set(&memory, -3_600);
    fs::write(&file, good).expect("an own file");
    assert_eq!(memory.trouble(), None);
    let at = memory.tagged()[&"b@1".parse().expect("a package")];
    assert!((now - 3_602..=now - 3_590).contains(&at), "{}", at - now);
    let memory = LastingMemory::load(&home, &name, true);
    assert!(believed(&memory, (now, 5), false, now).is_some_and(|written| written <= at));
    assert_eq!(believed(&memory, (now + 500, 0), false, now + 600), None, "it lay ahead");
}

#[test]
fn what_a_former_version_kept_in_state_is_moved_beside_a_file_of_it() {
    let (_scratch, home, name) = home();
    let file = home.known_file(&name);
    fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
    fs::write(&file, r#"{"releases": {"origin": "", "known": {}}, "archives": []}"#).expect("a file");
    let former = home.target_state_dir(&name).join(crate::state::memory::FILE);
    fs::create_dir_all(former.parent().expect("a folder")).expect("a folder");
    fs::write(&former, r#"{"tagged": {"a@1": 5}, "clock": null}"#).expect("a file");
    assert_eq!(LastingMemory::load(&home, &name, true).trouble(), None);
    fs::remove_file(former).expect("an own file");
    let memory = LastingMemory::load(&home, &name, true);
    assert_eq!((memory.tagged().len(), memory.notes(9).began), (1, None));
}

#[test]
fn what_is_noted_stays_as_old_as_it_is_whatever_clock_is_set() {
    let (_scratch, home, name) = home();
    let memory = LastingMemory::load(&home, &name, true);
    let now = Timestamp::now().as_second();
    let set = |by: i64| {
        let mut state = memory.lock();
        let clock = state.kept.clock.as_mut().expect("it was noted with the tag");
        clock.start -= by;
        let Kept { tags, began, .. } = &mut state.kept;
        tags.iter_mut().flat_map(BTreeMap::values_mut).chain(began).for_each(|at| *at -= by);
    };
    memory.note_tags(&packages(&["a@1"]), &BTreeSet::new());
    memory.lock().kept.began = Some(now);
    // It was noted while the clock was so much behind, or ahead, of what it is now.
    for by in [20 * 365 * DAY, 26 * 3_600, -26 * 3_600] {
        set(by);
        let at = memory.tagged()[&"a@1".parse().expect("a package")];
        assert!((now - 2..=Timestamp::now().as_second() + 2).contains(&at), "{by}: {}", at - now);
        let began = memory.lock().kept.began.expect("it begins");
        assert!((now - 2..=Timestamp::now().as_second() + 2).contains(&began), "{by}: {}", began - now);
    }
    set(26 * 3_600);
    assert_eq!(memory.trouble(), None);
    let later = LastingMemory::load(&home, &name, true);
    assert!(later.tagged().into_values().all(|at| at >= now - 2), "the next process knows it too");
}

#[test]
fn after_another_start_nothing_is_noted_later_than_now() {
    let (_scratch, home, name) = home();
    let memory = LastingMemory::load(&home, &name, true);
    memory.note_tags(&packages(&["a@1"]), &BTreeSet::new());
    let mut state = memory.lock();
    state.kept.clock.as_mut().expect("it was noted with the tag").boot = "another".into();
    state.kept.tags.get_or_insert_default().values_mut().for_each(|at| *at += 86_400);
    drop(state);
    let now = Timestamp::now().as_second();
    assert!(memory.tagged().into_values().all(|at| at <= now + 1));
}
