//! The source is never deleted from, whatever lies between it and the archive: mounts that are bound name by name, an overlay, hard links.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use blat_tests::disk::Disk;
use blat_tests::{Account, Lab, process, tree};

/// What lets everything go that nothing wants.
const EAGER: &str = "aging: immediate\nmax_delete: 100%";
/// What is said of a package that is the source's own.
const SAME: &str = "the archive and the source are the same";
/// The ways to be served.
const SERVED: [&str; 3] = ["receiver: auto", "receiver: never", "transport: local\nreceiver: auto"];

/// A lab whose target holds core@1, tools@1 and extra@1, and where only tools@1 is wanted from now on.
fn lab(name: &str, served: &str) -> Lab {
    let lab = Lab::new(name);
    for name in ["core", "extra", "tools"] {
        lab.package(name, "1", |p| p.file("bin/a", name));
    }
    lab.release(&[("core", "1"), ("extra", "1"), ("tools", "1")]);
    config(&lab, served, "");
    lab.agent_once("perth").expect_success().says("3 sent");
    lab.release(&[("tools", "1")]);
    lab
}

/// The target's config. One on this same machine lies in folders of the master's account.
fn config(lab: &Lab, served: &str, extra: &str) {
    let mut own = format!("{served}\n{extra}");
    let is_local = served.contains("local");
    if is_local {
        let archive = local_archive(lab);
        fs::create_dir_all(&archive).expect("a folder");
        Account::Master.own(archive.parent().expect("a folder"));
        own += &format!("\narchive: {}\nbin: {}", archive.display(), archive.with_file_name("bin").display());
    }
    let of_ssh = ["host:", "port:", "user:", "identity:", "known_hosts:"];
    let is_kept = |line: &&str| !is_local || !of_ssh.iter().any(|key| line.starts_with(key));
    let text: String = lab.config_text(&own).lines().filter(is_kept).map(|line| format!("{line}\n")).collect();
    lab.raw_config("perth", &text);
}

fn local_archive(lab: &Lab) -> PathBuf {
    lab.source().with_file_name("here").join("archive")
}

fn archive(lab: &Lab, served: &str) -> PathBuf {
    if served.contains("local") { local_archive(lab) } else { lab.target_archive() }
}

fn by_shell(lab: &Lab, script: &str, paths: &[&Path]) {
    let mut command = Command::new("sh");
    process::run(command.args(["-c", script, "sh"]).args(paths), &lab.home()).expect_success();
}

/// A sync deletes nothing and says why; nor does one mark anything.
fn assert_held_back(lab: &Lab, served: &str, way: &str) {
    let archive = archive(lab, served);
    for aging in [EAGER, "aging: {by: target, after: 30d}\nmax_delete: 100%"] {
        config(lab, served, aging);
        lab.agent_once("perth").expect(1).says(SAME).says("core@1").says("the mounts between them");
        for package in ["core", "extra", "tools"] {
            assert!(archive.join(package).join("1/descpkg").exists(), "{way}, {served}: {package} is gone");
            assert!(archive.join(package).join("1/bin/a").exists(), "{way}, {served}: {package} is empty");
        }
        let marks = fs::read_dir(archive.join(".dpkg_archive/aged")).map_or(0, Iterator::count);
        assert_eq!(marks, 0, "{way}, {served}");
    }
}

#[test]
fn as_root_the_only_copy_is_not_deleted_where_the_archive_s_package_is_mounted_in_the_source() {
    for served in SERVED {
        let lab = lab("boundsource", served);
        let (ours, theirs) = (archive(&lab, served).join("core"), lab.source().join("core"));
        tree::remove(&theirs.join("1"));
        let bound = Disk::bind(&ours, theirs.clone());
        assert_held_back(&lab, served, "bound to the source");
        drop(bound);
        config(&lab, served, EAGER);
        lab.agent_once("perth").expect_success().says("2 deleted");
    }
}

#[test]
fn as_root_the_source_s_package_is_not_deleted_where_it_is_mounted_in_the_archive() {
    for served in SERVED {
        let lab = lab("boundtarget", served);
        let (ours, theirs) = (archive(&lab, served).join("core"), lab.source().join("core"));
        // The target's account may change what lies there, as the proved attack needs it.
        by_shell(&lab, "chown -R --reference=\"$1\" \"$2\" && rm -rf \"$1\"/1", &[&ours, &theirs]);
        let bound = Disk::bind(&theirs, ours.clone());
        assert_held_back(&lab, served, "bound from the source");
        drop(bound);
        assert!(theirs.join("1/bin/a").exists(), "{served}");
    }
}

#[test]
fn as_root_the_only_copies_are_not_deleted_below_an_overlay_that_is_the_source() {
    for served in SERVED {
        let lab = lab("overlay", served);
        // A file server's memory or a layer above hides the record.
        let hides = lab.source().with_file_name("hides");
        fs::create_dir(&hides).expect("a folder");
        fs::write(hides.join(".dpkg_archive"), "").expect("a file");
        let over = Disk::overlay(&[&hides, &archive(&lab, served)], lab.source());
        assert_held_back(&lab, served, "below an overlay");
        drop(over);
    }
}

#[test]
fn as_root_a_copy_by_hard_links_is_told_from_the_source_once_its_descpkgs_are_its_own() {
    for served in ["receiver: auto", "receiver: never"] {
        let lab = lab("hardlinks", served);
        let (ours, theirs) = (lab.target_archive().join("core/1/descpkg"), lab.source().join("core/1/descpkg"));
        by_shell(&lab, "chown --reference=\"$1\" \"$2\" && ln -f \"$2\" \"$1\"", &[&ours, &theirs]);
        assert_held_back(&lab, served, "linked");
        // What the message says.
        by_shell(&lab, "cp -p \"$1\" \"$1.new\" && mv \"$1.new\" \"$1\"", &[&ours]);
        let later = "until [ \"$(stat -c %z \"$1\")\" != \"$(stat -c %z \"$2\")\" ]; do chmod u+r \"$1\"; done";
        by_shell(&lab, later, &[&ours, &theirs]);
        config(&lab, served, EAGER);
        lab.agent_once("perth").expect_success().says("2 deleted");
        assert_eq!(lab.visible(), ["tools@1"], "{served}");
    }
}

#[test]
fn a_package_of_which_nobody_can_say_what_the_source_has_stays_and_others_go() {
    let lab = lab("unknown", "receiver: auto");
    let name = lab.source().join("core");
    if rustix::process::getuid().is_root() {
        by_shell(&lab, "chown root \"$1\"", &[&name]);
    }
    by_shell(&lab, "chmod 000 \"$1\"", &[&name]);
    config(&lab, "receiver: auto", EAGER);
    lab.agent_once("perth").expect(1).says("it may be the source's own").says("core@1");
    assert_eq!(lab.visible(), ["core@1", "tools@1"]);
    by_shell(&lab, "chmod 755 \"$1\"", &[&name]);
    lab.agent_once("perth").expect_success().says("1 deleted");
}

#[test]
fn as_root_what_is_mounted_in_a_package_does_not_go_with_it() {
    for served in SERVED {
        let lab = lab("inner", served);
        let (inner, precious) = (archive(&lab, served).join("core/1/bin"), lab.source().with_file_name("precious"));
        fs::create_dir(&precious).expect("a folder");
        fs::write(precious.join("a"), "the only copy").expect("a file");
        by_shell(&lab, "chown -R --reference=\"$1\" \"$2\"", &[&inner, &precious]);
        let bound = Disk::bind(&precious, inner);
        config(&lab, served, EAGER);
        lab.agent_once("perth").expect(1).says("something is mounted in it").says("core@1").says("1 deleted");
        assert!(archive(&lab, served).join("core/1/descpkg").exists(), "{served}");
        assert_eq!(fs::read_to_string(precious.join("a")).expect("a file"), "the only copy", "{served}");
        drop(bound);
        lab.agent_once("perth").expect_success().says("1 deleted");
    }
}

#[test]
fn an_archive_in_a_package_of_another_is_refused() {
    for served in ["receiver: auto", "receiver: never"] {
        let lab = lab("nested", served);
        let inner = lab.target_archive().join("core/1/inner");
        let make = "chmod u+w \"${1%/*}\" && mkdir \"$1\"";
        lab.as_target_user(&["sh", "-c", make, "sh", inner.to_str().expect("text")]).expect_success();
        // The only way there that a config shows is a link.
        let link = lab.target_archive().with_file_name("link");
        lab.as_target_user(&["ln", "-s", "dpkg_archive", link.to_str().expect("text")]).expect_success();
        let by_link = link.join("core/1/inner").display().to_string();
        lab.config("sydney", &format!("{served}\n{EAGER}\narchive: {by_link}"));
        let says = "it lies in the archive of target perth, which may delete it: 3 directories above";
        lab.agent_once("sydney")
            .expect(1)
            .says("cannot claim the archive")
            .says(says)
            .says("choose a directory outside");
        assert!(!inner.join(".dpkg_archive/archive").exists() && !inner.join("tools").exists(), "{served}");
    }
}

/// Where the inner one was claimed first, nobody sees it from above until something of the outer one is to go.
#[test]
fn an_archive_in_a_package_does_not_go_with_it() {
    for served in ["receiver: auto", "receiver: never"] {
        let lab = lab("innerfirst", served);
        let inner = lab.target_archive().join("core/1/inner");
        let make = "chmod u+w \"${1%/*}\" && mkdir \"$1\"";
        let record = lab.target_archive().join(".dpkg_archive/archive").display().to_string();
        let aside = lab.target_archive().with_file_name("record").display().to_string();
        lab.as_target_user(&["sh", "-c", make, "sh", inner.to_str().expect("text")]).expect_success();
        lab.as_target_user(&["mv", &record, &aside]).expect_success();
        let link = lab.target_archive().with_file_name("link");
        lab.as_target_user(&["ln", "-s", "dpkg_archive", link.to_str().expect("text")]).expect_success();
        lab.config("sydney", &format!("{served}\narchive: {}", link.join("core/1/inner").display()));
        lab.agent_once("sydney").expect_success().says("1 sent");
        lab.as_target_user(&["mv", &aside, &record]).expect_success();
        config(&lab, served, EAGER);
        for _ in 0..2 {
            lab.agent_once("perth").expect(1).says("another archive is in it, which would go with it").says("core@1");
            assert_eq!(lab.visible(), ["core@1", "tools@1"], "{served}: only extra@1 goes");
            assert!(inner.join("tools/1/bin/a").exists(), "{served}");
        }
    }
}

/// What a closed folder hides from a look is found, and what nobody can look into stays.
#[test]
fn as_root_what_lies_in_a_closed_folder_of_a_package_does_not_go_with_it() {
    for served in SERVED {
        let lab = lab("shut", served);
        let (shut, precious) = (archive(&lab, served).join("core/1/shut"), lab.source().with_file_name("precious"));
        let inner = shut.join("inner");
        fs::create_dir(&precious).expect("a folder");
        fs::write(precious.join("a"), "the only copy").expect("a file");
        fs::create_dir_all(&inner).expect("a folder");
        let own = "chown -R --reference=\"$1\" \"$2\" \"$3\"";
        by_shell(&lab, own, &[shut.parent().expect("a package"), &shut, &precious]);
        config(&lab, served, EAGER);
        let sync = |says: &str| {
            lab.agent_once("perth").expect(1).says("core@1").says(says);
        };
        for mode in ["311", "0"] {
            let close = |mode: &str| by_shell(&lab, &format!("chmod {mode} \"$1\""), &[&shut]);
            let bound = Disk::bind(&precious, inner.clone());
            close(mode);
            sync("something is mounted in it");
            assert_eq!(fs::read_to_string(precious.join("a")).expect("a file"), "the only copy", "{served}, {mode}");
            drop(bound);
            by_shell(&lab, "mkdir \"$1/.dpkg_archive\" && echo x >\"$1/.dpkg_archive/archive\"", &[&inner]);
            sync("another archive is in it");
            assert!(inner.join(".dpkg_archive/archive").exists(), "{served}, {mode}");
            by_shell(&lab, "rm -r \"$1/.dpkg_archive\" && chown 0 \"${1%/*}\" && chmod 700 \"${1%/*}\"", &[&inner]);
            sync("cannot be looked into");
            assert!(inner.exists(), "{served}, {mode}");
            by_shell(&lab, "chown --reference=\"$1/..\" \"$1\"", &[&shut]);
            close(mode);
        }
        lab.agent_once("perth").expect_success().says("1 deleted");
        assert!(!archive(&lab, served).join("core").exists(), "{served}");
    }
}

/// `pkg_purge` asks no master: it goes by what is mounted.
#[test]
fn as_root_a_purge_removes_nothing_that_is_mounted_from_the_source_or_to_it() {
    let lab = lab("purge", SERVED[0]);
    config(&lab, SERVED[0], "aging: {by: target, after: 30d}\nmax_delete: 100%");
    lab.agent_once("perth").expect_success();
    let (archive, source) = (lab.target_archive(), lab.source());
    let purge = lab.target_bin().join("pkg_purge").display().to_string();
    let root = archive.display().to_string();
    let purge = || lab.as_target_user(&["sh", &purge, "--archive", &root]);
    let mark = "mkdir -p \"$1/.dpkg_archive/aged\" && printf '1\\n1\\n' >\"$1/.dpkg_archive/aged/core@1\"";
    lab.as_target_user(&["sh", "-c", mark, "sh", &root]).expect_success();
    let whole = || ["1/descpkg", "1/bin/a"].iter().all(|file| archive.join("core").join(file).exists());
    by_shell(&lab, "chown -R --reference=\"$1\" \"$2\"", &[&archive.join("core"), &source.join("core")]);
    let bound = Disk::bind(&source.join("core"), archive.join("core"));
    purge().expect(1).says("core 1").says("its name is mounted from elsewhere");
    assert!(whole(), "it is the source's");
    drop(bound);
    for part in ["core", "core/1", "core/1/bin"] {
        let bound = Disk::bind(&archive.join(part), source.join(part));
        purge().expect(1).says("core 1").says("it is mounted elsewhere too");
        assert!(whole(), "{part}: it may be the only copy");
        drop(bound);
    }
    purge().expect(0).says("deleted core 1");
    assert!(source.join("core/1/bin/a").exists());
}

/// As a network file system shows it: neither the directories nor the files have the numbers that the source has.
#[test]
fn as_root_a_source_that_another_file_system_shows_is_known_by_its_record() {
    for served in SERVED {
        let lab = lab("shown", served);
        let (archive, source) = (archive(&lab, served), lab.source());
        let beside = source.with_file_name("beside");
        fs::create_dir(&beside).expect("a folder");
        by_shell(&lab, "chown -R --reference=\"$1\" \"$2\"", &[&archive, &source]);
        let shown = Disk::shown(&source, &beside, archive.clone());
        config(&lab, served, EAGER);
        // It came in the place of an archive that is known, so nobody claims it but an operator, who learns why it is none.
        lab.agent_once("perth").expect(1).says("the archive is another directory");
        lab.blat(&["adopt", "perth"]).expect(1).says("have the same archive id");
        for package in ["core", "extra", "tools"] {
            assert!(source.join(package).join("1/bin/a").exists(), "{served}: {package}");
        }
        assert!(!source.join(".dpkg_archive/archive").exists(), "{served}: the record is withdrawn");
        drop(shown);
    }
}

/// A record above that a stranger put there hinders nobody.
#[test]
fn as_root_a_record_that_a_stranger_puts_above_an_archive_counts_for_nothing() {
    for served in ["receiver: auto", "receiver: never"] {
        let lab = Lab::new("planted");
        lab.package("core", "1", |p| p.file("bin/a", "a"));
        lab.release(&[("core", "1")]);
        let house = lab.target_archive().with_file_name(".dpkg_archive");
        fs::create_dir(&house).expect("a folder");
        let id = "0".repeat(32);
        fs::write(house.join("archive"), format!("{id}\n{id} perth\n")).expect("a file");
        Account::Stranger.own(&house);
        lab.config("perth", served);
        lab.agent_once("perth").expect_success().says("1 sent");
        assert_eq!(lab.package_list(), ["core 1"], "{served}");
    }
}

#[test]
fn as_root_an_archive_deep_in_the_source_is_refused() {
    for served in ["receiver: auto", "receiver: never"] {
        let lab = lab("deep", served);
        let deep = lab.source().join("core/1").join("a/".repeat(80));
        by_shell(
            &lab,
            "mkdir -p \"$2\" && chown -R --reference=\"$1\" \"$3\"",
            &[&lab.target_archive(), &deep, &lab.source()],
        );
        lab.config("sydney", &format!("{served}\n{EAGER}\narchive: {}", deep.display()));
        lab.agent_once("sydney").expect(1).says("are the same directory, or one lies in the other");
        assert!(!deep.join(".dpkg_archive/archive").exists(), "{served}");
    }
}
