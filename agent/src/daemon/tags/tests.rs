//! The tag directory as a stranger may fill it, and as a dropper does. Time passes by polling the thread's own clock, never by sleeping
//! for a result.

mod strangers;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use blat_domain::package::tag::{BAD, FAILED};

use super::first_seen::FirstSeen;
use super::look::QUIET;
use super::worker::Worker;
use crate::daemon::watcher::{DirectoryWatch, Origin};
use crate::session::{FoundTags, Leave, LookLimits, Removal, Removed, Tag, TagStamp};

const ROOM: usize = 16 << 20;
const POLL: std::time::Duration = std::time::Duration::from_secs(5);

struct Scratch {
    directory: tempfile::TempDir,
    worker: Worker,
}

impl Scratch {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let worker = worker(directory.path());
        Self { directory, worker }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("tags")
    }

    fn look(&mut self) -> FoundTags {
        self.worker.look(&LookLimits { room: ROOM, poll: POLL, ..LookLimits::default() })
    }

    /// Looks, as the session does, until this is so.
    fn look_until(&mut self, what: &str, is: impl Fn(&FoundTags, &Path) -> bool) -> FoundTags {
        let (start, path) = (Instant::now(), self.path());
        loop {
            let found = self.look();
            if is(&found, &path) {
                return found;
            }
            assert!(start.elapsed().as_secs() < 60, "not {what} within a minute: {found:?}");
            std::thread::sleep(found.again_in.unwrap_or(QUIET).min(QUIET) / 20);
        }
    }

    /// A tag as a dropper makes it: written aside, then renamed.
    fn drop_tag(&self, name: &str, content: &str) {
        let aside = self.directory.path().join("aside");
        fs::write(&aside, content).expect("a file");
        fs::rename(&aside, self.path().join(name)).expect("a tag");
    }

    fn tag(&mut self, name: &str) -> Tag {
        let found = self.look_until("found", |found, _| tags(found).iter().any(|tag| *tag.name == *name));
        tags(&found).iter().find(|tag| *tag.name == *name).cloned().expect("just seen")
    }

    fn consume(&mut self, tag: &Tag) -> Removed {
        let removal = Removal { name: tag.name.clone(), stamp: tag.stamp, how: Leave::Consumed };
        self.worker.remove(vec![removal]).remove(0).2
    }

    fn fail(&mut self, tag: &Tag) -> Removed {
        let how = Leave::Failed("it never comes".into());
        self.worker.remove(vec![Removal { name: tag.name.clone(), stamp: tag.stamp, how }]).remove(0).2
    }

    fn names(&self) -> Vec<String> {
        names(&self.path())
    }

    /// Lets all that lingers come to its end.
    fn let_linger(&mut self) {
        while let Some(taken) = self.worker.taken.iter().map(|taken| taken.due).max() {
            self.worker.settle_taken(taken);
        }
        self.worker.remove_unused();
    }
}

fn worker(directory: &Path) -> Worker {
    Worker::new(
        directory.join("tags"),
        Arc::new(DirectoryWatch::new(Origin::Own)),
        FirstSeen::load(directory.join("state.json")),
    )
}

fn tags(found: &FoundTags) -> &[Tag] {
    found.tags.as_deref().expect("a directory that can be looked at")
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("a directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn tags_are_read_and_unfinished_files_are_not() {
    let mut scratch = Scratch::new();
    assert_eq!(tags(&scratch.look()).len(), 0, "the directory is made");
    scratch.drop_tag("core@1", "");
    scratch.drop_tag("list", "a 1\nb 2\n");
    scratch.drop_tag("core@2.tmp", "");
    scratch.drop_tag(".core@3", "");
    let found = scratch.look_until("found", |found, _| tags(found).len() == 2);
    assert!(tags(&found).iter().all(|tag| tag.packages.is_some() || *tag.name == *"core@1" || *tag.name == *"list"));
    assert!(!scratch.path().join(BAD).exists());
    assert!(scratch.look().tags.expect("tags").iter().all(|tag| tag.packages.is_none()), "each is read once");
}

#[test]
fn what_is_no_tag_is_set_aside_with_its_reason_without_ever_waiting() {
    let mut scratch = Scratch::new();
    scratch.look();
    let path = scratch.path();
    rustix::fs::mkfifoat(rustix::fs::CWD, path.join("pipe"), 0o644.into()).expect("a FIFO");
    symlink("/dev/zero", path.join("link@1")).expect("a link");
    fs::create_dir(path.join("directory@1")).expect("a directory");
    scratch.drop_tag("line\nbreak@1", "");
    scratch.drop_tag(&"x".repeat(255), "");
    let large = File::create(path.join("large")).expect("a file");
    large.set_len(10 << 40).expect("a sparse file");
    drop(large);
    scratch.look_until("set aside", |_, path| path.join(BAD).exists() && names(path) == [BAD]);
    let bad = names(&path.join(BAD));
    assert_eq!((bad.len(), bad.iter().filter(|name| name.ends_with(".reason")).count()), (12, 6), "{bad:?}");
}

/// Where the system lets an account link files of others, the reason would show it their content.
#[test]
fn a_hard_link_to_another_file_is_no_tag_and_its_content_is_not_quoted() {
    let mut scratch = Scratch::new();
    scratch.look();
    let secret = scratch.directory.path().join("secret");
    fs::write(&secret, "pass-word = hunter two\n").expect("a file");
    fs::hard_link(&secret, scratch.path().join("x")).expect("a hard link");
    scratch.look_until("set aside", |_, path| names(path) == [BAD]);
    let reason = fs::read_to_string(scratch.path().join(BAD).join("x.reason")).expect("a reason");
    assert!(reason.contains("hard link") && !reason.contains("hunter"), "{reason}");
    assert!(secret.exists());
}

/// Lines 1 to 3 of the issue, as far as one account shows them.
#[test]
fn a_place_that_is_a_link_is_refused_by_name_and_good_tags_go_on() {
    for (place, to) in [(BAD, "config"), (FAILED, "config")] {
        let mut scratch = Scratch::new();
        scratch.look();
        let config = scratch.directory.path().join(to);
        fs::create_dir(&config).expect("a directory");
        symlink("../config", scratch.path().join(place)).expect("a link");
        scratch.drop_tag("evil.conf", "release_manager: {command: [true]}\n");
        scratch.drop_tag("core@1", "");
        if place == FAILED {
            let tag = scratch.tag("core@1");
            let Removed::Stuck(text) = scratch.fail(&tag) else { panic!("it must be refused") };
            assert!(text.contains("/tags/failed: it is a link"), "{text}");
        } else {
            let refused = |found: &FoundTags, _: &Path| found.trouble.is_some();
            let found = scratch.look_until("refused", refused);
            let (text, _) = found.trouble.clone().expect("just seen");
            assert!(text.contains("/tags/bad: it is a link") && text.contains("evil.conf"), "{text}");
            assert!(tags(&found).iter().any(|tag| *tag.name == *"core@1"));
            assert!(found.again_in.is_some_and(|again| !again.is_zero()), "it is tried later");
            assert_eq!(scratch.look().trouble.map(|(text, _)| text), Some(text), "it stands until then");
        }
        assert_eq!(names(&config), [""; 0], "nothing left the directory");
    }
}

#[test]
fn nothing_that_lies_beside_a_bad_file_is_opened_followed_or_lost() {
    let mut scratch = Scratch::new();
    scratch.look();
    let (path, outside) = (scratch.path(), scratch.directory.path().join("known_hosts"));
    fs::write(&outside, "keys").expect("a file");
    fs::create_dir(path.join(BAD)).expect("bad/");
    symlink(&outside, path.join("bad/x.reason")).expect("a link");
    rustix::fs::mkfifoat(rustix::fs::CWD, path.join("bad/y.reason"), 0o644.into()).expect("a FIFO");
    fs::write(path.join("bad/z"), "an earlier one").expect("a file");
    fs::write(path.join("bad/v.reason"), "a file that was set aside").expect("a file");
    fs::write(path.join("bad/v.reason.reason"), "why").expect("a file");
    for name in ["x", "y", "z", "v"] {
        scratch.drop_tag(name, "no tag at all\n");
    }
    scratch.look_until("set aside", |_, path| names(path) == [BAD]);
    assert_eq!(fs::read_to_string(&outside).expect("it stays"), "keys");
    for name in ["x", "y", "z.1", "v.1"] {
        let reason = fs::symlink_metadata(path.join(format!("bad/{name}.reason"))).expect("a reason");
        assert!(reason.is_file() && path.join(BAD).join(name).is_file(), "{name}");
    }
    assert_eq!(fs::read_to_string(path.join("bad/z")).expect("it stays"), "an earlier one");
    assert_eq!(fs::read_to_string(path.join("bad/v.reason")).expect("it stays"), "a file that was set aside");
}

#[test]
fn a_directory_that_cannot_be_looked_at_is_reported() {
    let mut scratch = Scratch::new();
    fs::write(scratch.path(), "a file in its place").expect("a file");
    let found = scratch.look();
    assert_eq!(found.tags, None);
    let (text, _) = found.trouble.expect("what is wrong");
    assert!(text.contains("cannot look at the tag directory") && text.contains("/tags"), "{text}");
}

#[test]
fn a_served_tag_leaves_at_once_and_is_deleted_a_while_later() {
    let mut scratch = Scratch::new();
    scratch.look();
    scratch.drop_tag("core@1", "");
    let tag = scratch.tag("core@1");
    assert_eq!(scratch.consume(&tag), Removed::Gone);
    assert!(!scratch.path().join("core@1").exists());
    assert!(tags(&scratch.look()).is_empty());
    scratch.let_linger();
    assert_eq!(scratch.names(), [""; 0]);
    assert_eq!(scratch.consume(&tag), Removed::Gone, "somebody took it back");
}

#[test]
fn a_tag_dropped_again_is_not_consumed() {
    let mut scratch = Scratch::new();
    scratch.look();
    scratch.drop_tag("core@1", "");
    let tag = scratch.tag("core@1");
    scratch.drop_tag("core@1", "");
    assert_eq!(scratch.consume(&tag), Removed::Changed);
    assert!(scratch.path().join("core@1").exists());
}

#[test]
fn what_is_written_into_a_served_tag_brings_it_back() {
    let mut scratch = Scratch::new();
    scratch.look();
    fs::write(scratch.path().join("list"), "a 1\n").expect("a tag");
    let mut late = OpenOptions::new().append(true).open(scratch.path().join("list")).expect("a tag");
    let tag = scratch.tag("list");
    assert_eq!(scratch.consume(&tag), Removed::Gone);
    late.write_all(b"b 2\n").expect("an open file");
    drop(late);
    // Its name is taken again: it gets another.
    scratch.drop_tag("list", "c 3\n");
    scratch.let_linger();
    assert_eq!(scratch.names(), ["list", "list.1"]);
    let tag = scratch.tag("list.1");
    let packages: Vec<String> = tag.packages.expect("read").iter().map(|package| package.to_string()).collect();
    assert_eq!(packages, ["a@1", "b@2"]);
}

#[test]
fn a_tag_that_only_its_name_says_anything_of_comes_back_under_that_or_waits() {
    let mut scratch = Scratch::new();
    scratch.look();
    scratch.drop_tag("core@1", "");
    let tag = scratch.tag("core@1");
    assert_eq!(scratch.consume(&tag), Removed::Gone);
    let hidden = scratch.names().remove(0);
    File::options()
        .write(true)
        .open(scratch.path().join(&hidden).join("core@1"))
        .and_then(|file| file.set_modified(std::time::UNIX_EPOCH))
        .expect("touched");
    scratch.drop_tag("core@1", "other 2\n");
    let due = scratch.worker.taken[0].due;
    scratch.worker.settle_taken(due);
    assert_eq!(scratch.names(), [hidden.as_str(), "core@1"]);
    fs::remove_file(scratch.path().join("core@1")).expect("a tag");
    scratch.let_linger();
    assert_eq!(scratch.names(), ["core@1"]);
}

#[test]
fn what_a_killed_agent_left_hidden_is_served_again() {
    let mut scratch = Scratch::new();
    scratch.look();
    // The longest name that is a tag, and one of which there are two.
    let long = format!("{}@{}", "n".repeat(128), "1".repeat(112));
    for (name, content) in [(long.as_str(), ""), ("list", "a 1\n"), ("list", "b 1\n")] {
        scratch.drop_tag(name, content);
        let tag = scratch.tag(name);
        assert_eq!(scratch.consume(&tag), Removed::Gone);
    }
    assert_eq!(scratch.names().len(), 2, "a hidden directory for each of one name: {:?}", scratch.names());
    let former = std::mem::replace(&mut scratch.worker, worker(scratch.directory.path()));
    drop(former);
    scratch.look();
    assert_eq!(scratch.names(), ["list", "list.1", long.as_str()]);
}

#[test]
fn an_agent_that_stops_deletes_what_was_whole_and_leaves_the_rest_for_the_next() {
    let mut scratch = Scratch::new();
    scratch.look();
    scratch.drop_tag("core@1", "");
    let tag = scratch.tag("core@1");
    assert_eq!(scratch.consume(&tag), Removed::Gone);
    let is_whole = scratch.worker.reported.is_empty();
    assert!(is_whole);
    scratch.worker.end();
    let left = scratch.names();
    assert!(left.is_empty() || left[0].starts_with(".blat-served-"), "{left:?}");
}

/// Line 5 of the issue, by polling alone: no notification is heard of here.
#[test]
fn without_notifications_a_file_counts_when_it_has_been_quiet() {
    let mut scratch = Scratch::new();
    scratch.look();
    fs::write(scratch.path().join("list"), "a 1\nb").expect("a file");
    scratch.worker.watch = Arc::new(DirectoryWatch::new(Origin::Own));
    scratch.worker.heard.clear();
    let handle = super::handle::Handle::open(&scratch.path()).expect("the directory");
    let quiet = |worker: &mut Worker, since: Instant| {
        // As a look of a thread that hears nothing.
        let name = OsStr::new("list");
        worker.quiet.get(name).map(|(_, at)| *at >= since)
    };
    let start = Instant::now();
    let found = scratch.look();
    drop(handle);
    assert!(tags(&found).is_empty() && found.again_in.is_some_and(|again| again >= QUIET / 2), "{found:?}");
    assert_eq!(quiet(&mut scratch.worker, start), Some(true));
    // It grows: its time begins anew, and the torn line was never taken for a bad one.
    fs::write(scratch.path().join("list"), "a 1\nb 2\n").expect("a file");
    let tag = scratch.tag("list");
    assert_eq!(tag.packages.expect("read").len(), 2);
    assert!(!scratch.path().join(BAD).exists());
}

#[test]
fn a_tag_moved_back_is_new_and_its_reason_goes() {
    let mut scratch = Scratch::new();
    scratch.look();
    scratch.drop_tag("core@1", "");
    let tag = scratch.tag("core@1");
    assert_eq!(scratch.fail(&tag), Removed::Gone);
    let failed = scratch.path().join(FAILED);
    assert_eq!(names(&failed), ["core@1", "core@1.reason"]);
    assert_eq!(fs::read_to_string(failed.join("core@1.reason")).expect("a reason"), "it never comes\n");
    fs::rename(failed.join("core@1"), scratch.path().join("core@1")).expect("moved back");
    let again = scratch.tag("core@1");
    assert_ne!(again.stamp, tag.stamp);
    assert!(again.seen_ago.as_secs() < 60);
    assert_eq!(names(&failed), [""; 0]);
}

#[test]
fn a_tag_is_as_old_as_its_first_sight_also_for_the_next_agent() {
    let mut scratch = Scratch::new();
    scratch.look();
    scratch.drop_tag("core@1", "");
    let tag = scratch.tag("core@1");
    let TagStamp { inode, size, modified, changed } = tag.stamp;
    let two_days_ago = jiff::Timestamp::now().as_second() - 2 * 86_400;
    let state = serde_json::to_vec(&[(inode, size, modified, changed, two_days_ago)]).expect("JSON");
    fs::write(scratch.directory.path().join("state.json"), state).expect("a file");
    scratch.worker = worker(scratch.directory.path());
    // It does not count at the first look, since nobody has told this agent that it is whole.
    assert!(scratch.tag("core@1").seen_ago.as_secs() >= 2 * 86_400);
}

#[test]
fn tags_for_which_there_is_no_room_are_known_and_read_in_their_turn() {
    let mut scratch = Scratch::new();
    scratch.look();
    scratch.drop_tag("a", "a 1\n");
    let room = scratch.tag("a").stamp.weight();
    for name in ["b", "c"] {
        scratch.drop_tag(name, "a 1\n");
    }
    let start = Instant::now();
    let found = loop {
        let found = scratch.worker.look(&LookLimits { room, poll: POLL, ..LookLimits::default() });
        if tags(&found).len() == 3 {
            break found;
        }
        assert!(start.elapsed().as_secs() < 60, "{found:?}");
        std::thread::sleep(QUIET / 20);
    };
    assert!(tags(&found).iter().filter(|tag| tag.packages.is_some()).count() <= 1, "{found:?}");
    let found = scratch.worker.look(&LookLimits {
        room: 0,
        turn: ["b", "c"].map(|name| OsStr::new(name).into()).into(),
        poll: POLL,
    });
    let read: Vec<&Tag> = tags(&found).iter().filter(|tag| tag.packages.is_some()).collect();
    assert_eq!(read.iter().map(|tag| tag.name.to_str()).collect::<Vec<_>>(), [Some("b"), Some("c")]);
}

#[test]
fn a_poll_reports_what_is_new_and_nothing_else() {
    let mut scratch = Scratch::new();
    scratch.look();
    let poll = |scratch: &mut Scratch| {
        scratch.worker.next_look = Some(Instant::now());
        scratch.worker.do_what_is_due()
    };
    assert_eq!(poll(&mut scratch), None, "nothing has changed");
    scratch.drop_tag("core@1", "");
    let start = Instant::now();
    let found = loop {
        if let Some(found) = poll(&mut scratch) {
            break found;
        }
        assert!(start.elapsed().as_secs() < 60);
        std::thread::sleep(QUIET / 20);
    };
    assert!(tags(&found)[0].packages.is_some());
    fs::remove_file(scratch.path().join("core@1")).expect("a tag");
    let found = poll(&mut scratch).expect("a tag is gone");
    assert!(tags(&found).is_empty());
    assert_eq!(poll(&mut scratch), None);
}

/// Notifications are not heard: as where there are none.
fn deafen(scratch: &mut Scratch) {
    scratch.worker.watch = Arc::new(DirectoryWatch::new(Origin::Own));
    scratch.worker.heard.clear();
}

/// Lets the files appear to have been quiet for so long.
fn age(scratch: &mut Scratch, by: std::time::Duration) {
    for (_, since) in scratch.worker.quiet.values_mut() {
        *since = since.checked_sub(by).expect("a machine that is up for longer");
    }
}

#[test]
fn half_a_line_is_bad_only_when_its_writer_has_had_ten_seconds() {
    let mut scratch = Scratch::new();
    scratch.look();
    fs::write(scratch.path().join("torn"), "a 1\nb").expect("a file");
    fs::write(scratch.path().join("unended"), "a 1").expect("a file");
    deafen(&mut scratch);
    scratch.look();
    age(&mut scratch, std::time::Duration::from_secs(5));
    let found = scratch.look();
    assert_eq!(tags(&found).iter().map(|tag| tag.name.to_str()).collect::<Vec<_>>(), [Some("unended")], "{found:?}");
    assert!(!scratch.path().join(BAD).exists(), "it may be written on");
    age(&mut scratch, std::time::Duration::from_secs(5));
    scratch.look();
    assert!(scratch.path().join("bad/torn").exists());
}
