//! What strangers do in the tag directory beside dropping tags: take names, hand down rights, fill it, rename it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Instant;

use blat_domain::package::tag::{BAD, FAILED};
use rustix::fs::{CWD, RenameFlags, XattrFlags, getxattr, mkfifoat, renameat_with, setxattr};
use rustix::io::Errno;

use super::super::look::{MANY_IGNORED, QUIET};
use super::super::turns::{TURN, Turns, cost};
use super::{POLL, ROOM, Scratch, age, tags};
use crate::session::{LookLimits, Removed};

/// Only what an agent put away comes back: names that somebody else took beforehand are neither moved, opened nor looked at again.
#[test]
fn what_strangers_call_as_the_agent_calls_its_own_is_left_alone() {
    let mut scratch = Scratch::new();
    fs::create_dir(scratch.path()).expect("a directory");
    let path = scratch.path();
    let served = |digit: &str| path.join(format!(".blat-served-{}", digit.repeat(32)));
    fs::write(path.join(".blat-taken-1-core@1"), "").expect("a file");
    fs::write(served("1"), "").expect("a file");
    symlink("/etc", served("2")).expect("a link");
    mkfifoat(CWD, served("3"), 0o644.into()).expect("a FIFO");
    let before = scratch.names();
    for name in ["core@1", "tools@1"] {
        scratch.drop_tag(name, "");
        let tag = scratch.tag(name);
        assert_eq!(scratch.consume(&tag), Removed::Gone);
    }
    scratch.drop_tag("x", "no tag at all\n");
    scratch.look_until("set aside", |_, path| path.join("bad/x.reason").exists());
    scratch.let_linger();
    let after: Vec<String> = scratch.names().into_iter().filter(|name| name != BAD).collect();
    assert_eq!(after, before);
}

/// An access control list that is handed down would let others write into what the agent makes.
#[test]
fn what_the_agent_makes_has_the_rights_that_it_means() {
    let mut scratch = Scratch::new();
    scratch.look();
    let path = scratch.path();
    if let Err(error) = setxattr(&path, "system.posix_acl_default", &OPEN_TO_ALL, XattrFlags::empty()) {
        assert_eq!(error, Errno::NOTSUP, "a file system without such lists has nothing to hand down");
        return;
    }
    scratch.drop_tag("x", "no tag at all\n");
    scratch.drop_tag("core@1", "");
    let tag = scratch.tag("core@1");
    assert_eq!(scratch.consume(&tag), Removed::Gone);
    scratch.look_until("set aside", |_, path| path.join("bad/x.reason").exists());
    scratch.drop_tag("core@2", "");
    let tag = scratch.tag("core@2");
    assert_eq!(scratch.fail(&tag), Removed::Gone);
    let hidden = scratch.names().remove(0);
    assert!(hidden.starts_with(".blat-served-"), "{hidden}");
    for (name, mode) in [(BAD, 0o755), (FAILED, 0o755), (hidden.as_str(), 0o700)] {
        let made = path.join(name);
        assert_eq!(fs::metadata(&made).expect("made").permissions().mode() & 0o777, mode, "{name}");
        for list in ["system.posix_acl_default", "system.posix_acl_access"] {
            assert_eq!(getxattr(&made, list, &mut [0; 256]), Err(Errno::NODATA), "{name} {list}");
        }
    }
    let reason = path.join("bad/x.reason");
    assert_eq!(fs::metadata(reason).expect("a reason").permissions().mode() & 0o777, 0o644);
}

/// Version 2 of the list as file systems keep it: tag, rights and id of owner, user 1, group, mask and others, who all may do everything.
const OPEN_TO_ALL: [u8; 44] = {
    let mut list = [0; 44];
    let entries: [(u8, u8); 5] = [(0x01, 0xff), (0x02, 0), (0x04, 0xff), (0x10, 0xff), (0x20, 0xff)];
    list[0] = 2;
    let mut index = 0;
    while index < entries.len() {
        let (at, (tag, id)) = (4 + index * 8, entries[index]);
        list[at] = tag;
        list[at + 2] = 7;
        let mut byte = 4;
        while byte < 8 {
            list[at + byte] = if id == 0 && byte == 4 { 1 } else { id };
            byte += 1;
        }
        index += 1;
    }
    list
};

/// What one of the tags below takes.
const EACH: usize = 1_121;

#[test]
fn too_many_tags_take_turns_however_many_stay() {
    let mut scratch = Scratch::new();
    scratch.look();
    scratch.worker.turns = Turns::new(30 * EACH);
    let names: BTreeSet<String> = (0..100).map(|n| format!("core@{n:02}")).collect();
    names.iter().for_each(|name| scratch.drop_tag(name, ""));
    let mut known = BTreeSet::new();
    let mut now = Instant::now();
    for _ in 0..20 {
        // A turn, at whose end all that it is the turn of has been quiet.
        let found = scratch.look();
        if known.is_empty() {
            let (text, _) = found.trouble.clone().expect("what is wrong");
            assert!(text.contains("they take turns"), "{text}");
        }
        age(&mut scratch, QUIET);
        let found = scratch.look();
        // Beside those whose turn it is, a third as many may have been named last.
        assert!(tags(&found).len() <= 40);
        known.extend(tags(&found).iter().filter_map(|tag| tag.name.to_str().map(str::to_owned)));
        now += TURN;
        scratch.worker.turns.follow(100 * EACH as u64, now);
    }
    assert_eq!(known, names);
}

/// Line 7 of the issue: what is known stays within its part of memory, however long the names are, and one more is found at once.
#[test]
fn a_tag_that_is_dropped_behind_a_flood_of_long_names_is_found_at_once() {
    let mut scratch = Scratch::new();
    scratch.look();
    let name = |n: u32| format!("core@{n:0240}");
    let each = cost(OsStr::new(&name(0)));
    scratch.worker.turns = Turns::new(60 * each);
    (0..1_000).for_each(|n| scratch.drop_tag(&name(n), ""));
    for _ in 0..3 {
        let found = scratch.look();
        assert!(
            found.trouble.as_ref().is_some_and(|(text, _)| text.contains("they take turns")),
            "{:?}",
            found.trouble
        );
        assert!(tags(&found).len() <= 80, "{} tags", tags(&found).len());
        let worker = &scratch.worker;
        assert!(worker.reported.len().max(worker.quiet.len()).max(worker.heard.len()) <= 80);
        age(&mut scratch, QUIET);
    }
    scratch.drop_tag("tools@1", "");
    let found = scratch.look_until("found", |found, _| tags(found).iter().any(|tag| *tag.name == *"tools@1"));
    assert!(tags(&found).len() <= 80);
}

#[test]
fn many_files_that_are_no_tags_by_their_names_are_reported_with_their_owner() {
    let mut scratch = Scratch::new();
    scratch.look();
    let one = scratch.path().join(".blat-taken-0-x");
    fs::write(&one, "").expect("a file");
    for number in 1..=MANY_IGNORED {
        fs::hard_link(&one, scratch.path().join(format!(".blat-taken-{number}-x"))).expect("a link");
    }
    scratch.drop_tag("core@1", "");
    let found = scratch.look_until("found", |found, _| tags(found).len() == 1);
    let (text, _) = found.trouble.expect("what is wrong");
    let owner = rustix::process::geteuid().as_raw();
    let all = ["holds 10000 or more files", ".blat-taken-", &format!("of the account {owner}"), "remove them"];
    assert!(all.iter().all(|part| text.contains(part)), "{text}");
}

/// A look that is costly is followed by a rest, and one that finds another directory each time is not repeated at once.
#[test]
fn a_directory_that_is_exchanged_again_and_again_is_looked_at_now_and_then_and_reported() {
    let mut scratch = Scratch::new();
    scratch.look();
    let (path, other) = (scratch.path(), scratch.directory.path().join("other"));
    fs::create_dir(&other).expect("a directory");
    let mut answered = 0;
    for _ in 0..100 {
        let flags = RenameFlags::EXCHANGE;
        renameat_with(CWD, &path, CWD, &other, flags).expect("exchanged");
        answered += usize::from(
            scratch.worker.look_for(LookLimits { room: ROOM, poll: POLL, ..LookLimits::default() }).is_some(),
        );
    }
    assert!(answered < 50, "{answered} looks at once");
    for _ in 0..10 {
        let flags = RenameFlags::EXCHANGE;
        renameat_with(CWD, &path, CWD, &other, flags).expect("exchanged");
        scratch.look();
    }
    let (text, _) = scratch.look().trouble.expect("what is wrong");
    assert!(text.contains("was exchanged for another one 5 times"), "{text}");
    let start = Instant::now();
    let asked = LookLimits { room: ROOM, poll: POLL, ..LookLimits::default() };
    let mut found = scratch.worker.look_for(asked);
    while found.is_none() {
        assert!(start.elapsed().as_secs() < 60, "the look that was asked for is done later");
        std::thread::sleep(scratch.worker.due_in().expect("it is due"));
        found = scratch.worker.do_what_is_due();
    }
}
