//! A folder on the way to an archive belongs to a stranger, who puts something else in the archive's place. Nothing is written, sent or deleted there.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use blat_tests::{Account, Lab};

/// A lab whose target has its archive in a folder of a stranger's, and what lies beside the archive there.
fn lab(name: &str, extra: &str) -> (Lab, PathBuf) {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("bin/a", "1"));
    lab.release(&[("core", "1")]);
    let area = lab.target_archive().with_file_name("area");
    lab.as_target_user(&["mkdir", "-p", &area.join("arch").display().to_string()]).expect_success();
    fs::set_permissions(&area, Permissions::from_mode(0o755)).expect("root may");
    std::os::unix::fs::chown(&area, Some(Account::Stranger.ids().0), None).expect("root may");
    lab.config("perth", &format!("archive: {}\n{extra}", area.join("arch").display()));
    (lab, area)
}

/// Does this in the folder, by this account.
fn does(lab: &Lab, account: Account, area: &Path, script: &str) {
    let area = area.display().to_string();
    lab.run_as(account, &["sh", "-ec", &format!("umask 022; cd \"$1\"; {script}"), "sh", &area]).expect_success();
}

/// The link is the serving account's own: a package brought it.
#[test]
fn as_root_a_link_that_a_package_brought_leads_nowhere_in_the_archive_s_place() {
    let (lab, area) = lab("waylink", "receiver: auto");
    let victim = lab.target_archive().with_file_name("victim");
    lab.as_target_user(&["mkdir", &victim.display().to_string()]).expect_success();
    let open = lab.source().join("core/1/open");
    fs::create_dir(&open).expect("a source");
    symlink(&victim, open.join("link")).expect("a source");
    fs::set_permissions(&open, Permissions::from_mode(0o777)).expect("a source");
    lab.agent_once("perth").expect_success();
    let link = area.join("arch/core/1/open/link");
    assert_eq!(fs::symlink_metadata(&link).expect("a link").uid(), Account::Target.ids().0);

    does(&lab, Account::Stranger, &area, "mv arch/core/1/open/link .link; mv arch .arch; mv .link arch");
    lab.package("lib", "1", |p| p.file("run", "1"));
    lab.release(&[("core", "1"), ("lib", "1")]);
    let place = area.join("arch").display().to_string();
    for _ in 0..2 {
        let why = format!("{place} is a link in or below a folder of the account {}", Account::Stranger.ids().0);
        lab.agent_once("perth").expect(1).says(&why).says("name the real path in `archive`");
        assert_eq!(fs::read_dir(&victim).expect("a folder").count(), 0);
    }
    does(&lab, Account::Stranger, &area, "rm arch; mv .arch arch");
    lab.agent_once("perth").expect_success();
    assert!(area.join("arch/lib/1/run").is_file());
}

/// A package may bring a whole folder with a link in it; whoever may write the folder may move all of it.
#[test]
fn as_root_a_link_in_a_folder_that_a_package_brought_leads_nowhere_on_the_way_to_the_archive() {
    let lab = Lab::new("waybox");
    let victim = lab.target_archive().with_file_name("victim");
    lab.as_target_user(&["mkdir", &victim.display().to_string()]).expect_success();
    lab.package("core", "1", |p| p.file("bin/a", "1"));
    let open = lab.source().join("core/1/open");
    fs::create_dir_all(open.join("box/site")).expect("a source");
    symlink(&victim, open.join("box/site/arch")).expect("a source");
    for folder in [&open, &open.join("box")] {
        fs::set_permissions(folder, Permissions::from_mode(0o777)).expect("a source");
    }
    lab.release(&[("core", "1")]);
    let area = lab.target_archive().with_file_name("area");
    lab.as_target_user(&["mkdir", "-p", &area.join("site/arch").display().to_string()]).expect_success();
    std::os::unix::fs::chown(&area, Some(Account::Stranger.ids().0), None).expect("root may");
    lab.config("perth", &format!("archive: {}\nreceiver: auto", area.join("site/arch").display()));
    lab.agent_once("perth").expect_success();

    fs::set_permissions(area.join("site/arch/core/1"), Permissions::from_mode(0o755)).expect("root may");
    does(&lab, Account::Stranger, &area, "mv site/arch/core/1/open/box .box");
    // The stranger owns the folder alone, so what lies in it is exchanged as they like.
    fs::rename(area.join("site"), area.join(".site"))
        .and_then(|()| fs::rename(area.join(".box/site"), area.join("site")))
        .expect("root may");
    lab.package("lib", "1", |p| p.file("run", "1"));
    lab.release(&[("core", "1"), ("lib", "1")]);
    let why = format!("is a link in or below a folder of the account {}", Account::Stranger.ids().0);
    lab.agent_once("perth").expect(1).says(&why);
    assert_eq!(fs::read_dir(&victim).expect("a folder").count(), 0);
}

#[test]
fn as_root_a_directory_of_a_strangers_is_no_archive() {
    let (lab, area) = lab("wayown", "receiver: auto");
    lab.agent_once("perth").expect_success();
    does(&lab, Account::Stranger, &area, "mv arch .arch; mkdir -m 777 arch; cp -R .arch/.dpkg_archive/archive arch");
    for _ in 0..2 {
        let why = format!("it belongs to the account {}, neither root nor this account", Account::Stranger.ids().0);
        lab.agent_once("perth").expect(1).says(&why);
        assert!(!area.join("arch/core").exists() && !area.join("arch/.dpkg_archive").exists());
    }
}

/// Scripts go by paths, so they go by no path that others can change meanwhile.
#[test]
fn as_root_scripts_serve_no_archive_in_a_folder_of_a_strangers() {
    let (lab, area) = lab("wayscripts", "receiver: never");
    let why =
        format!("a folder on the way belongs to user {}, neither root nor this account", Account::Stranger.ids().0);
    lab.agent_once("perth").expect(1).says(&why).says(&area.display().to_string());
    assert_eq!(fs::read_dir(area.join("arch")).expect("a folder").count(), 0);
    std::os::unix::fs::chown(&area, Some(Account::Target.ids().0), None).expect("root may");
    lab.agent_once("perth").expect_success();
    assert!(area.join("arch/core/1/bin/a").is_file());
}

/// It may be a wrong disk as well.
#[test]
fn as_root_another_directory_of_the_account_s_is_not_emptied_in_the_archive_s_place() {
    let (lab, area) = lab("wayother", "receiver: auto\naging: immediate\nmax_delete: 100%");
    lab.agent_once("perth").expect_success();
    let elsewhere = area.with_file_name("elsewhere");
    let make = "mkdir -p elsewhere/old/1; echo >elsewhere/old/1/descpkg";
    does(&lab, Account::Target, &area.with_file_name(""), make);
    fs::rename(&elsewhere, area.join("elsewhere")).expect("root may");
    does(&lab, Account::Stranger, &area, "mv arch .arch; mv elsewhere arch");
    for _ in 0..3 {
        lab.agent_once("perth").expect(1).says("the archive is another directory").says("blat adopt perth");
        assert!(area.join("arch/old/1/descpkg").is_file());
        assert!(!area.join("arch/.dpkg_archive/archive").exists(), "nobody claims it");
        assert!(!area.join("arch/core").exists(), "and nothing is sent there");
    }
    lab.blat(&["plan", "perth"]).expect_success().says("the archive is another directory");

    // The right one is ours still; and an operator may say that the other one is.
    does(&lab, Account::Stranger, &area, "mv arch elsewhere; mv .arch arch");
    lab.agent_once("perth").expect_success();
    does(&lab, Account::Stranger, &area, "mv arch .arch; mv elsewhere arch");
    lab.blat(&["adopt", "perth"]).expect_success();
    lab.agent_once("perth").expect_success();
    // An empty one holds nothing that could be lost.
    let (lab, area) = self::lab("wayempty", "receiver: auto");
    lab.agent_once("perth").expect_success();
    does(&lab, Account::Target, &area.with_file_name(""), "mkdir elsewhere");
    fs::rename(area.with_file_name("elsewhere"), area.join("elsewhere")).expect("root may");
    does(&lab, Account::Stranger, &area, "mv arch .arch; mv elsewhere arch");
    lab.agent_once("perth").expect_success().says("it holds no packages, and its record is gone");
    assert!(area.join("arch/core/1/bin/a").is_file());
}

/// The root of most file systems has the same inode, so the inode does not tell one disk from another.
#[test]
fn a_directory_with_the_same_inode_that_lacks_all_of_blat_s_own_is_not_emptied_nor_sent_to() {
    for has_what_is_wanted in [false, true] {
        let lab = Lab::new("waydisk");
        lab.package("core", "1", |p| p.file("bin/a", "1"));
        lab.release(&[("core", "1")]);
        lab.config("perth", "aging: immediate\nmax_delete: 100%");
        lab.agent_once("perth").expect_success();
        let archive = lab.target_archive();
        fs::remove_dir_all(archive.join(".dpkg_archive")).expect("root may");
        if !has_what_is_wanted {
            blat_tests::tree::remove(&archive.join("core"));
        }
        lab.as_target_user(&["mkdir", "-p", &archive.join("old/1").display().to_string()]).expect_success();
        lab.as_target_user(&["touch", &archive.join("old/1/descpkg").display().to_string()]).expect_success();
        lab.package("lib", "1", |p| p.file("run", "1"));
        lab.release(&[("core", "1"), ("lib", "1")]);
        for _ in 0..2 {
            lab.agent_once("perth").expect(1).says("the archive is another directory").says("blat adopt perth");
            assert!(archive.join("old/1/descpkg").is_file() && !archive.join("lib").exists());
        }
        lab.blat(&["adopt", "perth"]).expect_success();
        lab.agent_once("perth").expect_success();
        assert!(archive.join("lib/1/run").is_file(), "the operator has seen to it");
    }
}

/// Both are the account's own, and each has the record of its target.
#[test]
fn as_root_the_archive_of_another_target_in_the_archive_s_place_is_not_sent_to() {
    let (mut lab, area) = lab("wayswap", "receiver: auto\naging: immediate\nmax_delete: 100%");
    lab.as_target_user(&["mkdir", &area.with_file_name("arch2").display().to_string()]).expect_success();
    fs::rename(area.with_file_name("arch2"), area.join("arch2")).expect("root may");
    lab.config("sydney", &format!("archive: {}\nreceiver: auto", area.join("arch2").display()));
    lab.agent_once("perth").expect_success();
    lab.agent_once("sydney").expect_success();
    lab.start_master();
    lab.package("lib", "1", |p| p.file("run", "1"));
    does(&lab, Account::Stranger, &area, "mv arch .arch; mv arch2 arch; mv .arch arch2");
    let tag = lab.drop_tag("perth", "lib", "1");
    lab.wait_for_status("perth", "why nothing is sent", |status| status.to_string().contains("another"));
    assert!(tag.exists() && !area.join("arch/lib").exists() && !area.join("arch2/lib").exists());

    does(&lab, Account::Stranger, &area, "mv arch .arch; mv arch2 arch; mv .arch arch2");
    // The connection that is there ends first: it was to the other one.
    lab.wait_for("a sync that goes", || (lab.blat(&["sync", "perth", "--wait"]).code == Some(0)).then_some(()));
    lab.wait_for("the tag to be consumed", || (!tag.exists()).then_some(()));
    assert!(area.join("arch/lib/1/run").is_file() && !area.join("arch2/lib").exists());
}
