//! Where Blat keeps and runs its own files: nobody else can exchange them, and what cannot be put back there stops nothing that works without it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use blat_tests::{Account, Lab, process};
use serde_json::Value;

fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("bin/a", "1"));
    lab.release(&[("core", "1")]);
    lab
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn is_at_rest(status: &Value) -> bool {
    status["state"] == "idle" && status["last_sync"]["result"] == "ok"
}

/// What lies in a folder: all names, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Has the target's account run this in the scripts' directory.
fn there(lab: &Lab, line: &str) {
    let folder = lab.target_bin().display().to_string();
    lab.as_target_user(&["sh", "-ec", &format!("cd \"$1\"; {line}"), "sh", &folder]).expect_success();
}

/// Releases a package and has a sync send it.
fn send_one_more(lab: &Lab, version: &str) {
    lab.package("later", version, |p| p.file("a", version));
    lab.release(&[("core", "1"), ("later", version)]);
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    lab.assert_published("later", version);
}

/// A stranger was first to make the folder, in one such as `/tmp`.
#[test]
fn as_root_a_local_bin_of_a_strangers_runs_nothing() {
    for receiver in ["auto", "never"] {
        let lab = lab(&format!("localbin{receiver}"));
        let shared = lab.home().with_file_name("shared");
        fs::create_dir(&shared).expect("a scratch folder");
        set_mode(&shared, 0o1777);
        let bin = shared.join("bin");
        let config = format!("receiver: {receiver}\nbin: {}", bin.display());
        lab.local_config("perth", &config);
        lab.run_as(Account::Stranger, &["mkdir", "-m", "777", &bin.display().to_string()]).expect_success();
        for command in [&["check", "perth"][..], &["check", "perth", "--connect"]] {
            lab.blat(command).expect(78).says("neither root nor the home's owner").says("chown -h");
        }
        lab.agent_once("perth").expect(78);
        assert_eq!(names(&bin), <[&str; 0]>::default(), "{receiver}");

        // What the stranger put there is the stranger's still, though it looks like ours.
        fs::remove_dir(&bin).expect("a scratch folder");
        lab.agent_once("perth").expect_success();
        let ours = names(&bin);
        let (uid, gid) = Account::Stranger.ids();
        for name in &ours {
            std::os::unix::fs::chown(bin.join(name), Some(uid), Some(gid)).expect("root may");
        }
        lab.agent_once("perth").expect_success();
        let (master, _) = Account::Master.ids();
        for name in &ours {
            assert_eq!(fs::metadata(bin.join(name)).expect("a file").uid(), master, "{receiver}: {name}");
        }
    }
}

/// The config is in force when the folder is opened to others.
#[test]
fn a_local_bin_that_is_opened_to_others_runs_nothing_until_it_is_closed() {
    let mut lab = lab("openbin");
    lab.local_config("perth", "receiver: never");
    lab.start_master();
    lab.wait_for_status("perth", "idle", is_at_rest);
    for open in [lab.local_bin(), lab.local_bin().parent().expect("a folder").to_owned()] {
        let tag = |version: &str| {
            lab.package("tool", version, |p| p.file("a", version));
            lab.drop_tag("perth", "tool", version);
        };
        let version = if open == lab.local_bin() { "1" } else { "2" };
        set_mode(&open, 0o777);
        tag(version);
        lab.wait_for_status("perth", "refusing", |s| {
            s["last_error"]["text"]
                .as_str()
                .is_some_and(|text| text.contains("nothing is run in") && text.contains("chmod go-w"))
        });
        assert!(!lab.on_target("tool", version).exists());
        set_mode(&open, 0o755);
        lab.blat(&["sync", "perth", "--wait"]).expect_success();
        lab.wait_until_published("tool", version);
    }
}

#[test]
fn a_far_bin_that_everybody_may_write_runs_nothing_and_a_group_s_does() {
    for receiver in ["auto", "never"] {
        let lab = lab(&format!("farbin{receiver}"));
        let above = lab.target_bin().with_file_name("above");
        let bin = above.join("bin");
        lab.config("perth", &format!("receiver: {receiver}\nbin: {}", bin.display()));
        fs::create_dir(&above).expect("a scratch folder");
        set_mode(&above, 0o777);
        Account::Target.own(&above);
        let refused = |folder: &Path| {
            let remedy = format!("chmod o-w {}", folder.display());
            lab.agent_once("perth").expect(1).says("others may exchange what is there").says(&remedy);
            lab.blat(&["check", "perth", "--connect"]).expect(1).says(&remedy);
        };
        refused(&above);
        assert!(!bin.exists(), "{receiver}: nothing is made there");
        set_mode(&above, 0o775);
        lab.agent_once("perth").expect_success();
        let installed = names(&bin);
        assert_eq!(installed.contains(&"blat-receiver".to_owned()), receiver == "auto", "{installed:?}");
        set_mode(&bin, 0o777);
        refused(&bin);
        set_mode(&bin, 0o755);
        // What everybody could write is not what is run.
        let script = bin.join("get_plist");
        set_mode(&script, 0o777);
        lab.agent_once("perth").expect_success();
        assert_eq!(fs::metadata(&script).expect("a script").mode() & 0o777, 0o755, "{receiver}");
    }
}

#[test]
fn as_root_a_far_bin_of_a_strangers_runs_nothing() {
    for receiver in ["auto", "never"] {
        let lab = lab(&format!("foreign{receiver}"));
        let above = lab.target_bin().with_file_name("above");
        let bin = above.join("bin");
        lab.config("perth", &format!("receiver: {receiver}\nbin: {}", bin.display()));
        fs::create_dir_all(&bin).expect("a scratch folder");
        Account::Target.own(&above);
        lab.agent_once("perth").expect_success();
        let ours = names(&bin);
        let (stranger, account) = (Account::Stranger.ids(), Account::Target.ids().0);
        let give = |path: &Path| std::os::unix::fs::chown(path, Some(stranger.0), Some(stranger.1)).expect("root may");
        for folder in [&above, &bin] {
            give(folder);
            let remedy = format!("chown -h {account} {}", folder.display());
            lab.agent_once("perth").expect(1).says("neither root nor the account").says(&remedy);
            Account::Target.own(&above);
        }
        ours.iter().for_each(|name| give(&bin.join(name)));
        lab.agent_once("perth").expect_success();
        for name in &ours {
            assert_eq!(fs::metadata(bin.join(name)).expect("a file").uid(), account, "{receiver}: {name}");
        }
    }
}

/// The receiver is whole, and only cron runs the scripts.
#[test]
fn scripts_that_cannot_be_put_back_stop_no_receiver_and_are_named() {
    let mut lab = lab("stuck");
    lab.config("perth", "receiver: auto");
    lab.start_master();
    lab.wait_for_status("perth", "idle", is_at_rest);
    let whole = names(&lab.target_bin());
    let stuck = |status: &Value| status["far_end"]["scripts"].as_str().unwrap_or_default().to_owned();
    there(&lab, "rm pkg_mon; mkdir pkg_mon; echo changed >>get_plist");
    send_one_more(&lab, "1");
    let status = lab.wait_for_status("perth", "naming it", |s| stuck(s).contains("pkg_mon"));
    assert_eq!(status["far_end"]["kind"], "receiver", "{status:#}");
    let why = stuck(&status);
    assert!(why.contains("is a directory; move it away") && why.contains("cron runs"), "{why}");
    assert!(!why.contains("get_plist"), "the others are put back: {why}");
    lab.blat(&["status"]).expect_success().says("pkg_mon there is a directory");
    assert_eq!(names(&lab.target_bin()), whole);
    there(&lab, "rmdir pkg_mon");
    send_one_more(&lab, "2");
    lab.wait_for_status("perth", "well", |s| s["far_end"]["scripts"].is_null() && is_at_rest(s));

    // Put back by somebody else.
    there(&lab, "mv pkg_purge x; mkdir pkg_purge");
    send_one_more(&lab, "3");
    lab.wait_for_status("perth", "naming it", |s| stuck(s).contains("pkg_purge"));
    there(&lab, "rmdir pkg_purge; mv x pkg_purge");
    send_one_more(&lab, "4");
    lab.wait_for_status("perth", "well", |s| s["far_end"]["scripts"].is_null() && is_at_rest(s));

    // A library: nothing that reads it is put beside another version's.
    there(&lab, "rm blat-lib.sh; mkdir blat-lib.sh; echo changed >>get_plist");
    send_one_more(&lab, "5");
    lab.wait_for_status("perth", "naming both", |s| {
        ["blat-lib.sh", "get_plist"].iter().all(|name| stuck(s).contains(name))
    });
    assert!(fs::read_to_string(lab.target_bin().join("get_plist")).expect("a script").ends_with("changed\n"));
    there(&lab, "rmdir blat-lib.sh");
    send_one_more(&lab, "6");
    assert_eq!(names(&lab.target_bin()), whole);
}

#[test]
fn where_scripts_are_to_serve_one_that_cannot_be_put_back_is_an_error() {
    let lab = lab("stuckscripts");
    lab.config("perth", "receiver: never");
    lab.agent_once("perth").expect_success();
    there(&lab, "rm pkg_mon; mkdir pkg_mon");
    lab.agent_once("perth").expect(1).says("cannot install the target scripts").says("pkg_mon there is a directory");
}

#[test]
fn as_root_a_script_that_nobody_may_replace_leaves_nothing_beside_it() {
    let lab = lab("immutable");
    lab.config("perth", "receiver: auto");
    lab.agent_once("perth").expect_success();
    let whole = names(&lab.target_bin());
    there(&lab, "echo changed >>pkg_mon");
    let chattr = |mode: &str| {
        let mut command = Command::new("chattr");
        process::run(command.arg(mode).arg(lab.target_bin().join("pkg_mon")), &lab.home()).expect_success();
    };
    chattr("+i");
    let outcomes = [1, 2].map(|_| lab.agent_once("perth"));
    chattr("-i");
    for outcome in outcomes {
        outcome.expect_success();
    }
    assert_eq!(names(&lab.target_bin()), whole);
    // What an installation left that was killed.
    there(&lab, "touch -d '3 days ago' .pkg_mon.77; touch .pkg_purge.78 .mine.79");
    lab.agent_once("perth").expect_success();
    let left: Vec<String> = names(&lab.target_bin()).into_iter().filter(|name| !whole.contains(name)).collect();
    assert_eq!(left, [".mine.79", ".pkg_purge.78"]);
}

#[test]
fn a_file_that_never_ends_in_the_place_of_one_of_ours_is_replaced_without_being_read() {
    for receiver in ["auto", "never"] {
        let lab = lab(&format!("endless{receiver}"));
        lab.config("perth", &format!("receiver: {receiver}"));
        lab.agent_once("perth").expect_success();
        let ours: Vec<String> = names(&lab.target_bin());
        let sparse = "for file in pkg_mon blat-lib.sh blat-receiver; do rm -f $file; truncate -s 200G $file; chmod 755 $file; done";
        there(&lab, sparse);
        lab.agent_once("perth").expect_success();
        for name in ours {
            let found = fs::metadata(lab.target_bin().join(&name)).expect("a file");
            assert!(found.len() < 64 << 20, "{receiver}: {name}");
        }
    }
}
