//! What is remembered outlives the process and `state/`, and a file that cannot be used is never taken for none.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use blat_domain::util::random_id::RandomId;

use super::*;

pub(super) fn home() -> (tempfile::TempDir, Home, TargetName) {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    fs::create_dir(scratch.path().join("config")).expect("config/");
    let home = Home::at(scratch.path()).expect("a path");
    (scratch, home, "perth".parse().expect("a name"))
}

pub(super) fn record(byte: u8) -> Record {
    let id = RandomId::from_random([byte; 16]);
    Record::parse(&format!("{id}\n{id} perth\n")).expect("a record")
}

fn known(name: &str) -> KnownReleases {
    serde_json::from_value(serde_json::json!({"1": name})).expect("a release")
}

#[test]
fn the_last_record_of_each_archive_outlives_the_process() {
    let (_scratch, home, name) = home();
    let load = || LastingMemory::load(&home, &name, true);
    let memory = load();
    assert_eq!(memory.archive("a"), Ok(None));
    memory.note_archive("a", None, &record(1), None);
    memory.note_archive("b", None, &record(2), None);
    memory.note_archive("a", None, &record(3), None);
    let later = load();
    assert_eq!((later.archive("a"), later.archive("b")), (Ok(Some(record(3))), Ok(Some(record(2)))));
    (0..MOST_ARCHIVES).for_each(|n| later.note_archive(&n.to_string(), None, &record(4), None));
    let later = load();
    assert_eq!((later.archive("a"), later.archive("0")), (Ok(None), Ok(Some(record(4)))), "those named last count");
}

#[test]
fn the_file_is_closed_to_others_and_written_only_when_something_changes() {
    let (_scratch, home, name) = home();
    let memory = LastingMemory::load(&home, &name, true);
    let file = home.known_file(&name);
    assert!(!file.exists(), "there is nothing to say yet");
    memory.note_releases("here", &known("R")).expect("written");
    let before = fs::metadata(&file).expect("a file");
    let folder = fs::metadata(file.parent().expect("a folder")).expect("a folder");
    assert_eq!((before.mode() & 0o777, folder.mode() & 0o777), (0o600, 0o700));
    memory.note_releases("here", &known("R")).expect("nothing to write");
    assert_eq!(fs::metadata(&file).expect("a file").ino(), before.ino());
    let later = LastingMemory::load(&home, &name, true);
    assert_eq!((later.releases("here"), later.releases("there")), (known("R"), KnownReleases::default()));
    let held_back = HeldBack::new(["R".to_owned()], ["a@1".to_owned()], false);
    later.note_held_back(&held_back);
    assert_eq!(LastingMemory::load(&home, &name, true).held_back(), held_back);
    later.note_held_back(&HeldBack::default());
    assert_eq!(LastingMemory::load(&home, &name, true).held_back(), HeldBack::default());
    LastingMemory::load(&home, &name, false).note_releases("here", &known("S")).expect("who only looks may go on");
    assert_eq!(LastingMemory::load(&home, &name, true).releases("here"), known("R"), "and writes nothing");
}

#[test]
fn a_file_that_cannot_be_used_is_told_and_left_as_it_is_until_somebody_has_looked_at_it() {
    let (_scratch, home, name) = home();
    let file = home.known_file(&name);
    let memory = LastingMemory::load(&home, &name, true);
    memory.note_archive("a", None, &record(1), None);
    memory.note_releases("here", &known("R")).expect("written");
    let good = fs::read_to_string(&file).expect("a file");
    for text in [&good[..good.len() / 2], "", "{}", &good.replace(&"01".repeat(16), "xx")] {
        fs::write(&file, text).expect("an own file");
        let later = LastingMemory::load(&home, &name, true);
        let why = later.trouble().expect("it is damaged");
        assert!(why.contains("config/.known/perth.json") && why.contains("backup"), "{why}");
        assert_eq!(later.archive("a"), Err(why), "nobody knows");
        later.note_archive("b", None, &record(2), None);
        later.note_releases("here", &known("S")).expect_err("it cannot be noted down");
        assert_eq!(fs::read_to_string(&file).expect("a file"), text, "it is left as it is");
        fs::write(&file, &good).expect("an own file");
        assert_eq!(later.trouble(), None, "it was restored");
        assert_eq!((later.archive("a"), later.releases("here")), (Ok(Some(record(1))), known("R")));
    }
    fs::set_permissions(&file, Permissions::from_mode(0o666)).expect("an own file");
    let later = LastingMemory::load(&home, &name, true);
    assert!(later.trouble().expect("others may write it").contains("chmod go-w"));
    fs::remove_file(&file).expect("an own file");
    assert_eq!((later.trouble(), later.archive("a")), (None, Ok(None)), "the target counts as new");
}

#[test]
fn what_cannot_be_written_is_told_and_tried_again() {
    let (_scratch, home, name) = home();
    let folder = home.known_file(&name).parent().expect("a folder").to_owned();
    fs::write(&folder, "").expect("a file in the folder's place");
    let memory = LastingMemory::load(&home, &name, true);
    // The way to the file is no way: that is not the same as no file.
    assert!(memory.trouble().is_some());
    fs::remove_file(&folder).expect("an own file");
    assert_eq!(memory.trouble(), None);
    fs::write(&folder, "").expect("a file in the folder's place");
    let why = memory.note_releases("here", &known("R")).expect_err("there is no place for it");
    assert!(why.contains("config/.known") && memory.trouble().is_some(), "{why}");
    fs::remove_file(&folder).expect("an own file");
    assert_eq!(memory.trouble(), None);
    assert_eq!(LastingMemory::load(&home, &name, true).releases("here"), known("R"));
}

#[test]
fn what_a_former_version_kept_in_state_is_moved() {
    let (_scratch, home, name) = home();
    let former = home.target_state_dir(&name).join(memory::FILE);
    fs::create_dir_all(former.parent().expect("a folder")).expect("a folder");
    let text = serde_json::json!({
        "tagged": {},
        "releases": {"origin": "here", "known": {"1": "R"}},
        "archives": [{"place": "a", "record": record(1).render()}],
    });
    fs::write(&former, text.to_string()).expect("a file");
    assert_eq!(LastingMemory::load(&home, &name, false).releases("here"), known("R"));
    assert!(!home.known_file(&name).exists(), "who only looks moves nothing");
    LastingMemory::load(&home, &name, true);
    fs::remove_dir_all(home.state_dir()).expect("an own folder");
    let later = LastingMemory::load(&home, &name, true);
    assert_eq!((later.releases("here"), later.archive("a")), (known("R"), Ok(Some(record(1)))));
}
