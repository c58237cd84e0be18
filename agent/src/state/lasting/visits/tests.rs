//! A memory that missed something is known by the number in the archive, however it was put back.

use std::collections::BTreeSet;
use std::fs;

use blat_domain::archive::record::Record;

use super::*;
use crate::state::lasting::tests::{home, record};

fn visit(number: RandomId) -> Found {
    Found::Record(Record { archive: number, ..record(1) })
}

#[test]
fn a_memory_knows_its_own_numbers_before_they_are_left_and_an_older_one_of_the_same_file_does_not() {
    let (_scratch, home, name) = home();
    let (file, aside) = (home.known_file(&name), home.known_file(&name).with_extension("aside"));
    let load = || LastingMemory::load(&home, &name, true);
    assert!(load().knows_visit(&Found::Nothing), "an archive of a former version");
    assert!(!load().knows_visit(&Found::Malformed("it is empty".into())));
    let first = load().new_visit().expect("a number");
    fs::hard_link(&file, &aside).expect("a snapshot");
    let second = load().new_visit().expect("a number");
    assert!(load().knows_visit(&visit(first)), "a listing that was under way shows it");
    assert!(load().knows_visit(&visit(second)), "the next process knows it");
    fs::rename(&aside, &file).expect("put back");
    assert!(load().knows_visit(&visit(first)) && !load().knows_visit(&visit(second)));

    load().note_archive("a", None, &record(1), Some(&visit(second)));
    assert!(load().knows_visit(&visit(second)), "it begins anew once");
    let memory = load();
    assert!((0..MOST).all(|_| memory.new_visit().is_ok()));
    assert!(!memory.knows_visit(&visit(second)) && memory.lock().kept.visits.len() == MOST);
}

#[test]
fn no_number_is_left_that_is_not_noted_down() {
    let (_scratch, home, name) = home();
    let memory = LastingMemory::load(&home, &name, true);
    memory.new_visit().expect("a number");
    let file = home.known_file(&name);
    fs::remove_file(&file).and_then(|()| fs::create_dir(&file)).expect("an obstacle");
    assert!(memory.new_visit().is_err() && memory.visit_is_due());
}

#[test]
fn batches_of_tags_that_follow_each_other_share_a_number() {
    let (_scratch, home, name) = home();
    let memory = LastingMemory::load(&home, &name, true);
    assert!(!LastingMemory::load(&home, &name, false).visit_is_due(), "who only looks leaves none");
    assert_eq!(memory.begin_visit(), Some(Duration::ZERO));
    assert_eq!(memory.begin_visit(), None, "one is coming");
    memory.new_visit().expect("a number");
    assert!(!memory.visit_is_due(), "there is no news");
    memory.note_tags(&BTreeSet::from(["a@1".parse().expect("a package")]), &BTreeSet::new());
    assert!(memory.begin_visit().is_some_and(|wait| !wait.is_zero()), "the next one waits a little");
    memory.new_visit().expect("a number");
    memory.visit_failed();
    assert!(memory.visit_is_due(), "it is tried again");
}
