//! `blat tag` at a tag directory whose place others can change: the tag goes where the agent looks for it or nowhere, and that a tag is gone
//! proves nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use blat_tests::accounts::Account;
use blat_tests::{Lab, process};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Tags that are dropped while the directory is exchanged all the time.
const MANY: usize = 40;

/// A lab without a master in which Release Manager's account owns the folder of one target's tag directory. Gives that directory, and that of
/// another target.
fn lab(name: &str) -> (Lab, PathBuf, PathBuf) {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[]);
    let folder = lab.home().parent().expect("the lab").join("dropped");
    let (tags, others) = (folder.join("perth"), lab.home().join("tags/hobart"));
    for made in [&folder, &tags, &others] {
        fs::create_dir_all(made).expect("a scratch folder");
    }
    Account::Master.own(&others);
    Account::ReleaseManager.own(&folder);
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777);
    fs::set_permissions(&tags, mode).expect("root may");
    lab.config("perth", &format!("tags: {}", tags.display()));
    (lab, tags, others)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

fn link(lab: &Lab, to: &Path) -> PathBuf {
    let link = lab.home().parent().expect("the lab").join("dropped/link");
    symlink(to, &link).expect("root may");
    Account::ReleaseManager.own(&link);
    link
}

#[test]
fn as_root_a_strangers_link_in_the_place_of_the_tag_directory_gets_no_tag() {
    let (lab, tags, others) = lab("taglink");
    lab.blat(&["tag", "core", "1", "--target", "perth"]).expect_success();
    assert_eq!(names(&tags), ["core@1"]);

    let link = link(&lab, &others);
    renameat_with(CWD, &link, CWD, &tags, RenameFlags::EXCHANGE).expect("root may");
    let refused = lab.blat(&["tag", "core", "1", "--target", "perth"]);
    refused.expect(1).says("perth is a link that the account").says("name the directory itself");
    assert!(names(&others).is_empty(), "nothing is tagged for the other target");
}

#[test]
fn as_root_a_tag_directory_that_is_exchanged_all_the_time_leads_no_tag_astray_and_keeps_no_leftovers() {
    let (lab, tags, others) = lab("tagswap");
    let link = link(&lab, &others);
    let (goes_on, mut tries) = (AtomicBool::new(true), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while goes_on.load(Ordering::Relaxed) {
                let _ = renameat_with(CWD, &link, CWD, &tags, RenameFlags::EXCHANGE);
            }
        });
        for _ in 0..MANY {
            tries.push((lab.blat(&["tag", "core", "1", "--target", "perth"]), names(&others)));
        }
        // Nothing fails before: the other thread would never end.
        goes_on.store(false, Ordering::Relaxed);
    });
    for (tried, astray) in tries {
        assert!(matches!(tried.code, Some(0 | 1)) && astray.is_empty(), "{astray:?}: {tried}");
    }
    let own = if tags.is_symlink() { &link } else { &tags };
    assert!(names(own).iter().all(|name| name == "core@1"), "{:?}", names(own));
}

/// Whoever may write to the tag directory can remove or move the tag. Then nobody knows that the package is on the target.
#[test]
fn a_tag_that_somebody_takes_away_is_no_success() {
    let mut lab = Lab::new("tagtaken");
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[]);
    lab.config("perth", "");
    lab.start_master();
    lab.wait_for_status("perth", "idle", |s| s["last_sync"]["result"] == "ok" && s["state"] == "idle");
    let tag = lab.home().join("tags/perth/later@3");
    let moved = lab.home().join("tags/perth/later@3.tmp");
    for take_away in [&|| fs::remove_file(&tag), &|| fs::rename(&tag, &moved)] as [&dyn Fn() -> std::io::Result<()>; 2]
    {
        let mut command = lab.command("blat");
        command.args(["tag", "later", "3", "--target", "perth", "--wait"]);
        let waiting = process::Running::start(&mut command, &lab.home());
        lab.wait_for("the tag", || tag.is_file().then_some(()));
        take_away().expect("an own folder");
        let outcome = waiting.finish();
        outcome.expect(1).says("the tag of later@3 disappeared").says("did not report").says("run `blat tag` again");
    }
    // The directory itself may go, with the tag in it.
    let mut command = lab.command("blat");
    command.args(["tag", "later", "3", "--target", "perth", "--wait"]);
    let waiting = process::Running::start(&mut command, &lab.home());
    lab.wait_for("the tag", || tag.is_file().then_some(()));
    fs::rename(lab.home().join("tags/perth"), lab.home().join("away")).expect("an own folder");
    waiting.finish().expect(1).says("later@3").says("another directory took its place");
}
