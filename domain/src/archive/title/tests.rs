//! Lines of a title, and which archive is the source.

use super::*;
use crate::archive::record::{Owner, Record};

fn owner(home: u8, target: &str) -> Owner {
    Owner { home: RandomId::from_random([home; 16]), target: target.parse().expect("a name") }
}

fn record(archive: u8, home: u8, target: &str) -> Record {
    Record { archive: RandomId::from_random([archive; 16]), owner: owner(home, target) }
}

#[test]
fn an_archive_is_the_source_by_its_place_or_by_its_id_and_never_by_what_nobody_knows() {
    let place = |boot: &str, inodes: &[u64]| Place {
        boot: boot.to_owned(),
        directories: inodes.iter().map(|inode| (7, *inode)).collect(),
    };
    let title = |place| Title { found: Found::Record(record(9, 1, "perth")), place, ..Title::default() };
    let source = place("b", &[30, 20, 2]);
    for (there, overlaps) in [
        (place("b", &[30, 20, 2]), true),
        (place("b", &[40, 30, 20, 2]), true),
        (place("b", &[20, 2]), true),
        (place("b", &[31, 20, 2]), false),
        (place("c", &[30, 20, 2]), false),
        (place("", &[30, 20, 2]), false),
        (place("b", &[]), false),
    ] {
        let expected = overlaps.then_some(Likeness::Place);
        assert_eq!(title(there.clone()).likeness(&source, &[]), expected, "{there:?}");
        let mut told = Title::default();
        assert!(there.render().lines().all(|line| told.add_line(line)));
        assert_eq!(told.place, there);
    }
    let unmounted = Place::default();
    let id = |byte| RandomId::from_random([byte; 16]);
    let likeness = |ids: &[RandomId]| title(unmounted.clone()).likeness(&unmounted, ids);
    assert_eq!(likeness(&[id(8), id(9)]), Some(Likeness::Id(id(9))));
    assert_eq!(likeness(&[id(8)]), None);
}

#[test]
fn it_is_adopted_while_the_last_visit_is_the_very_record() {
    let ours = record(9, 1, "perth");
    let told = |lines: &[&str]| {
        let mut title = Title::default();
        assert!(lines.iter().all(|line| title.add_line(line)));
        title
    };
    let line = |word: &str, record: Record| format!("{word} {}", record.render().replace('\n', " "));
    let (record_line, adopted) = (line("archive", ours.clone()), line("visit", ours));
    assert!(told(&[&record_line, &adopted]).is_adopted());
    let visited = line("visit", record(7, 1, "perth"));
    for lines in [vec![], vec![&record_line], vec![&record_line, &visited], vec![&adopted]] {
        let lines: Vec<&str> = lines.into_iter().map(String::as_str).collect();
        assert!(!told(&lines).is_adopted(), "{lines:?}");
    }
}

#[test]
fn a_place_of_any_depth_is_told_whole_and_one_without_a_top_may_lie_in_the_source() {
    let place = |boot: &str, inodes: std::ops::Range<u64>| Place {
        boot: boot.to_owned(),
        directories: inodes.map(|inode| (7, inode)).collect(),
    };
    let told = |there: &Place| {
        let mut title = Title::default();
        let text = there.render();
        assert!(text.lines().count() <= TITLE_LINES);
        assert!(text.lines().all(|line| title.add_line(line) && line.len() < 8192));
        title
    };
    let deep = place("b", 0..MOST_ABOVE as u64 - 1);
    assert_eq!(told(&deep).place, deep);
    assert!(told(&deep).likeness(&place("b", 2000..2001), &[]).is_some(), "it lies in it, however far down");
    assert!(told(&deep).likeness(&place("b", 5000..5001), &[]).is_none());
    let bottomless = told(&place("b", 0..MOST_ABOVE as u64));
    assert!(bottomless.likeness(&place("b", 5000..5001), &[]).is_some());
    assert!(bottomless.likeness(&place("c", 5000..5001), &[]).is_none(), "that is another machine");
    let mut mixed = told(&place("b", 0..2));
    assert!(mixed.add_line("place c 9:9"));
    assert_eq!(mixed.place, place("b", 0..2));
}

#[test]
fn lines_that_make_no_sense_say_nothing() {
    let mut title = Title::default();
    assert!(title.add_line("place b 1:2 x 3:4") && title.add_line("archive ? it is no regular file"));
    assert_eq!(title.place, Place { boot: "b".into(), directories: vec![(1, 2)] });
    assert!(matches!(&title.found, Found::Malformed(why) if why.contains("no regular file")));
    assert!(!title.add_line("archives x"));
}

/// Every one of them has the same inode, so that another disk in its place does not show by that.
#[test]
fn the_root_of_a_file_system_is_known_by_the_device_above_it() {
    let place = |line: &str| {
        let mut title = Title::default();
        assert!(title.add_line(&format!("place boot {line}")));
        title.place
    };
    assert!(place("8:2 1:77 1:2").is_root_of_file_system());
    assert!(!place("1:99 1:77 8:2").is_root_of_file_system());
    assert!(!place("1:2").is_root_of_file_system(), "nobody knows what is above");
    assert!(!Place::default().is_root_of_file_system());
}
