//! Who may do what.

use super::*;
use crate::util::random_id::RandomId;

fn owner(home: u8, target: &str) -> Owner {
    Owner { home: RandomId::from_random([home; 16]), target: target.parse().expect("a name") }
}

fn record(archive: u8, home: u8, target: &str) -> Record {
    Record { archive: RandomId::from_random([archive; 16]), owner: owner(home, target) }
}

#[test]
fn only_the_very_owner_may_list_and_delete() {
    let mine = owner(1, "perth");
    assert_eq!(judge(&mine, &Found::Record(record(9, 1, "perth"))), None);
    for (found, says) in [
        (Found::Record(record(9, 1, "oslo")), "target oslo of this home tree"),
        (Found::Record(record(9, 2, "perth")), "target perth of another home tree, 0202"),
        (Found::Malformed("it is empty".into()), "it is empty"),
        (Found::Nothing, "not there"),
    ] {
        let bar = judge(&mine, &found).expect("a bar").to_string();
        assert!(bar.contains(says) && bar.contains("blat adopt perth"), "{bar}");
    }
}

#[test]
fn a_record_that_is_gone_leaves_the_archive_with_its_last_owner() {
    let mine = owner(1, "perth");
    let after = |found: Found, seen: Option<&Record>| found.after(seen, &mine, false);
    let (ours, others) = (record(9, 1, "perth"), record(9, 2, "oslo"));
    assert_eq!(after(Found::Nothing, None), Found::Nothing, "nobody has seen one: it is free");
    assert_eq!(after(Found::Nothing, Some(&ours)), Found::Nothing, "it is written anew");
    assert_eq!(
        after(Found::Record(others.clone()), Some(&ours)),
        Found::Record(others.clone()),
        "what is there counts"
    );
    assert_eq!(after(Found::Record(ours.clone()), Some(&ours)), Found::Record(ours.clone()));
    for (seen, whose) in [(&others, "target oslo of another home tree, 0202"), (&record(9, 1, "oslo"), "this home")] {
        let found = after(Found::Nothing, Some(seen));
        let bar = judge(&mine, &found).expect("a bar").to_string();
        assert!(bar.contains("it is gone; it belonged to target oslo") && bar.contains(whose), "{bar}");
        assert!(bar.contains("blat adopt perth"), "{bar}");
    }
}

#[test]
fn an_older_record_makes_nobody_the_owner_again_until_an_operator_says_so() {
    let mine = owner(1, "perth");
    let (ours, others) = (record(9, 1, "perth"), record(9, 2, "oslo"));
    let restored = Found::Record(ours.clone()).after(Some(&others), &mine, false);
    let bar = judge(&mine, &restored).expect("a bar");
    let said = bar.to_string();
    assert!(said.contains("target oslo of another home tree, 0202") && said.contains("blat adopt perth"), "{said}");
    assert!(said.contains("backup of the archive") && bar.is_about_owner(), "{said}");
    assert_eq!(Found::Record(ours.clone()).after(Some(&others), &mine, true), Found::Record(ours.clone()));
    let gone = Found::Nothing.after(Some(&others), &mine, true);
    assert!(judge(&mine, &gone).is_some(), "an adoption leaves a record");
}
