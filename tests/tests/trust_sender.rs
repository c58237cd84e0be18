//! Whoever may only send to an archive harms its owner in no way; and what lies around the source, or what its authors do, stops no sending.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use blat_tests::package::Package;
use blat_tests::process;
use blat_tests::{Account, Lab, Outcome, tree};

/// What lets everything go that nothing wants.
const EAGER: &str = "aging: immediate\nmax_delete: 100%";
/// The ways to be served.
const SERVED: [&str; 2] = ["receiver: auto", "receiver: never"];

/// A lab whose release wants core@1, with tools@1 beside it in the source.
fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    ["core", "tools"].iter().for_each(|name| drop(lab.package(name, "1", |p| p.file("bin/a", name))));
    lab.release(&[("core", "1")]);
    lab
}

/// Another home tree, whose only target `sydney` leads to the same archive and wants this of `source`.
fn other_home(lab: &Lab, packages: &str, source: &Path, extra: &str) -> PathBuf {
    let home = lab.home().with_file_name("other");
    fs::create_dir_all(home.join("config")).expect("a folder");
    let releases = home.join("releases.yaml");
    let text = format!(
        "projects:\n  - name: Lab\n    releases:\n      - {{id: 1, name: Lab 1, state: open, packages: [{packages}]}}\n"
    );
    fs::write(&releases, text).expect("an own folder");
    let own =
        format!("release_manager: {{file: {}}}\nsource: {}\n{EAGER}\n{extra}", releases.display(), source.display());
    fs::write(home.join("config/sydney.conf"), lab.config_text(&own)).expect("an own folder");
    Account::Master.own(&home);
    home
}

fn in_home(lab: &Lab, home: &Path, name: &str, arguments: &[&str]) -> Outcome {
    process::run(lab.command_in(home, name).args(arguments), lab.home().parent().expect("a lab"))
}

fn record(lab: &Lab) -> PathBuf {
    lab.target_archive().join(".dpkg_archive/archive")
}

fn record_text(lab: &Lab) -> String {
    fs::read_to_string(record(lab)).expect("a record")
}

/// Does this in the archive, as the target's user.
fn in_archive(lab: &Lab, script: &str) {
    let archive = lab.target_archive().display().to_string();
    lab.as_target_user(&["sh", "-c", &format!("cd \"$1\" && {script}"), "sh", &archive]).expect_success();
}

/// Line 15: where the record disappears, whoever owned the archive last writes it anew, and nobody else.
#[test]
fn who_only_sends_never_becomes_the_owner_because_the_record_disappears() {
    for served in SERVED {
        let lab = lab("gone");
        lab.config("perth", &format!("{EAGER}\n{served}"));
        let other = other_home(&lab, "tools@1", &lab.source(), served);
        let first = || lab.agent_once("perth");
        let second = || in_home(&lab, &other, "blat-agent", &["--target", "sydney", "--once"]);
        first().expect_success();
        let original = record_text(&lab);
        second().expect(1).says("belongs to target perth");

        let gone = "it is gone; it belonged to target perth of another home tree";
        for removal in ["mv .dpkg_archive ../away", "mv ../away .dpkg_archive; rm .dpkg_archive/archive"] {
            in_archive(&lab, removal);
            for _ in 0..2 {
                second().expect(1).says(gone).says("blat adopt sydney");
                assert_eq!(lab.visible(), ["core@1", "tools@1"], "{served}: {removal}");
                assert!(!record(&lab).exists(), "{served}: {removal}");
            }
            in_home(&lab, &other, "blat", &["plan", "sydney"]).expect_success().says(gone);
        }
        // With its last visit and its PackageList, it may be a copy all the same.
        first().expect(1).says("blat adopt perth");
        assert_eq!(lab.visible(), ["core@1", "tools@1"], "{served}: so nothing is deleted");
        in_archive(&lab, "chmod -R u+w tools && rm -r tools");
        first().expect_success().says("its record was gone; it is written anew");
        assert_eq!(record_text(&lab), original, "{served}: it stays the archive that it was");

        in_archive(&lab, "chmod -R u+w . && rm -rf .dpkg_archive core");
        first().expect_success().says("it holds no packages, and its record is gone").says("mounted");
        assert_eq!((record_text(&lab), lab.visible()), (original.clone(), vec!["core@1".to_owned()]), "{served}");

        second().expect(1).says("belongs to target perth");
        in_archive(&lab, "rm .dpkg_archive/archive");
        in_home(&lab, &other, "blat", &["adopt", "sydney"]).expect_success().says("it belonged to target perth");
        assert_ne!(
            record_text(&lab).lines().next(),
            original.lines().next(),
            "{served}: nobody remembers what is adopted"
        );
        second().expect_success().says("does not know what tags brought before");
        let confirmed = ["--target", "sydney", "--once", "--allow-delete"];
        in_home(&lab, &other, "blat-agent", &confirmed).expect_success().says("1 deleted");
        first().expect(1).says("belongs to target sydney");
    }
}

/// Line 15: an archive by another name whose record is gone is not taken for a new one by a target that saw another owner.
#[test]
fn who_saw_another_owner_claims_no_archive_with_packages_that_may_be_that_one_by_another_name() {
    for served in SERVED {
        let lab = lab("othername");
        lab.config("perth", &format!("{EAGER}\n{served}"));
        let other = other_home(&lab, "tools@1", &lab.source(), served);
        let second = || in_home(&lab, &other, "blat-agent", &["--target", "sydney", "--once"]);
        let archive_is = |path: &Path| {
            other_home(&lab, "tools@1", &lab.source(), &format!("{served}\narchive: {}", path.display()));
        };
        lab.agent_once("perth").expect_success();
        second().expect(1).says("belongs to target perth");

        let alias = lab.target_archive().with_file_name("other name");
        std::os::unix::fs::symlink(lab.target_archive(), &alias).expect("an own folder");
        archive_is(&alias);
        in_archive(&lab, "rm .dpkg_archive/archive");
        for _ in 0..2 {
            second().expect(1).says("may be this one by another name").says("blat adopt sydney");
            assert_eq!((lab.visible().len(), record(&lab).exists()), (2, false), "{served}: nobody claims it");
        }
        in_home(&lab, &other, "blat", &["plan", "sydney"]).expect_success().says("may be this one by another name");

        let fresh = lab.target_archive().with_file_name("fresh");
        fs::create_dir(&fresh).expect("an own folder");
        Account::Target.own(&fresh);
        archive_is(&fresh);
        second().expect_success().says("1 sent");
        assert!(fresh.join(".dpkg_archive/archive").exists(), "{served}: one without packages is free");

        archive_is(&alias);
        lab.agent_once("perth").expect(1).says("blat adopt perth");
        lab.blat(&["adopt", "perth"]).expect_success();
        second().expect(1).says("belongs to target perth");
    }
}

/// Line 15: that is remembered beside the home tree's id, not in `state/`, which may be deleted.
#[test]
fn whom_an_archive_belonged_to_is_known_without_state_and_nobody_claims_one_while_that_cannot_be_read() {
    let lab = lab("stateless");
    lab.config("perth", EAGER);
    let other = other_home(&lab, "tools@1", &lab.source(), "");
    let second = || in_home(&lab, &other, "blat-agent", &["--target", "sydney", "--once"]);
    lab.agent_once("perth").expect_success();
    let original = record_text(&lab);
    second().expect(1).says("belongs to target perth");

    in_archive(&lab, "rm .dpkg_archive/archive");
    fs::remove_dir_all(other.join("state")).expect("an own folder");
    second().expect(1).says("it is gone; it belonged to target perth of another home tree");
    let known = other.join("config/.known/sydney.json");
    fs::write(&known, "").expect("an own file");
    second().expect(1).says("nobody knows whom the archive belongs to").says("config/.known/sydney.json");
    assert!(!record(&lab).exists(), "nobody claims it");

    fs::remove_dir_all(lab.home().join("state")).expect("an own folder");
    in_archive(&lab, "chmod -R u+w tools && rm -r tools");
    lab.agent_once("perth").expect_success().says("its record was gone; it is written anew");
    assert_eq!(record_text(&lab), original, "it stays the archive that it was");
}

/// Line 15: two homes whose packages of one name have different times do not replace each other's at every sync.
#[test]
fn who_only_sends_replaces_nothing_that_is_there_and_reports_it() {
    for served in SERVED {
        let mut lab = lab("conflict");
        let theirs = lab.home().with_file_name("their source");
        let other_core = Package::new("core", "1").file("bin/a", "theirs").time(1_600_000_000);
        other_core.write(&theirs);
        Account::Master.own(&theirs);
        let other = other_home(&lab, "core@1", &theirs, served);
        let owner = |lab: &Lab| in_home(lab, &other, "blat-agent", &["--target", "sydney", "--once"]);
        owner(&lab).expect_success();
        let place = lab.on_target("core", "1").join("bin/a");
        let content = || fs::read_to_string(&place).expect("a package");
        lab.config("perth", &format!("{EAGER}\n{served}\npkg: {{tools: 1}}"));
        for _ in 0..2 {
            lab.agent_once("perth").expect(1).says("conflict").says("target sydney").says("blat adopt perth");
            assert_eq!(
                (content(), lab.visible().len()),
                ("theirs".to_owned(), 2),
                "{served}: what is not there is sent"
            );
        }
        lab.blat(&["plan", "perth"]).expect_success().says("conflict");

        let tag = lab.drop_tag("perth", "core", "1");
        lab.start_master();
        let status = lab.wait_for_status("perth", "a conflict", |s| {
            let text = s["last_error"]["text"].as_str().unwrap_or_default();
            s["last_error"]["package"] == "core@1" && text.contains("conflict") && s["queue"]["tags"] == 1
        });
        assert!(tag.exists() && content() == "theirs", "{served}: {status:#}");
        owner(&lab).expect_success().says("1 deleted");

        lab.blat(&["adopt", "perth"]).expect_success();
        lab.blat(&["sync", "perth", "--wait"]).expect_success();
        assert_eq!(content(), "core", "{served}: the owner replaces");
        lab.end_master(rustix::process::Signal::TERM).expect_success();
        owner(&lab).expect(1).says("conflict");
        assert_eq!(content(), "core", "{served}");
    }
}

/// Line 14: a source whose record cannot be read stops no sending; only what could harm the source waits.
#[test]
fn a_record_in_the_source_that_cannot_be_read_holds_back_listing_and_deleting_alone() {
    let mut lab = lab("unread");
    lab.config("perth", EAGER);
    lab.agent_once("perth").expect_success();
    let house = lab.source().join(".dpkg_archive");
    fs::create_dir(&house).expect("an own folder");
    fs::set_permissions(&house, Permissions::from_mode(0o000)).expect("an own folder");
    Account::ReleaseManager.own(&house);
    lab.release(&[("tools", "1")]);
    let unsure = "nobody knows whether the archive is the source itself";
    lab.agent_once("perth").expect(1).says(unsure).says("source/.dpkg_archive/archive").says("1 sent");
    assert_eq!((lab.visible().len(), lab.package_list()), (2, vec!["core 1".to_owned()]));
    lab.blat(&["adopt", "perth"]).expect(1).says(unsure);

    lab.package("later", "1", |p| p.file("bin/a", "later"));
    lab.drop_tag("perth", "later", "1");
    lab.start_master();
    lab.wait_until_published("later", "1");
    lab.wait_for_status("perth", "held back", |s| {
        s["last_sync"]["held_back"].as_str().is_some_and(|text| text.contains(unsure))
    });
    fs::set_permissions(&house, Permissions::from_mode(0o755)).expect("an own folder");
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    assert_eq!(lab.package_list(), ["tools 1"]);
}

/// Line 14: a copy of an archive as the source is refused by an error that names both records and what to remove.
#[test]
fn a_copied_record_is_refused_with_both_files_named_and_what_to_do() {
    let lab = lab("copied");
    lab.config("perth", EAGER);
    lab.agent_once("perth").expect_success();
    let copy = lab.source().join(".dpkg_archive/archive");
    fs::create_dir(copy.parent().expect("a folder")).expect("an own folder");
    fs::copy(record(&lab), &copy).expect("an own folder");
    let removal = format!("rm {}", copy.display());
    lab.agent_once("perth")
        .expect(1)
        .says(&format!("{} at the target", record(&lab).display()))
        .says(&format!("{} on this machine", copy.display()))
        .says(&removal)
        .says(&format!("blat ssh perth rm {}", record(&lab).display()));
    process::run(Command::new("sh").args(["-c", &removal]), &lab.home()).expect_success();
    lab.agent_once("perth").expect_success();
}

/// Line 14: where the source lies below a folder that all may write, nobody stops its targets by a record that he puts there.
#[test]
fn as_root_a_strangers_record_above_the_source_stops_nobody() {
    let lab = lab("above");
    let open = lab.home().with_file_name("open");
    let source = open.join("source");
    fs::create_dir(&open).expect("an own folder");
    fs::rename(lab.source(), &source).expect("an own folder");
    fs::set_permissions(&open, Permissions::from_mode(0o1777)).expect("an own folder");
    let extra = format!("{EAGER}\nsource: {}", source.display());
    lab.config("perth", &extra);
    lab.agent_once("perth").expect_success();
    let plant = "mkdir \"$1/.dpkg_archive\" && cp \"$2\" \"$1/.dpkg_archive/archive\"";
    let (at, from) = (open.display().to_string(), record(&lab).display().to_string());
    lab.run_as(Account::Stranger, &["sh", "-c", plant, "sh", &at, &from]).expect_success();
    lab.agent_once("perth").expect_success();
    // The same by the source's owner is an archive that holds the source.
    Account::Master.own(&open.join(".dpkg_archive"));
    lab.agent_once("perth").expect(1).says("have the same archive id").says("open/.dpkg_archive/archive");
    tree::assert_never_partial(&source, &lab.target_archive());
}

/// The home tree's id decides whose archives these are, so others must not write it.
#[test]
fn a_home_id_that_others_may_write_is_a_bad_config() {
    let lab = lab("homeidmode");
    lab.config("perth", EAGER);
    lab.agent_once("perth").expect_success();
    let file = lab.home().join("config/home-id");
    fs::set_permissions(&file, Permissions::from_mode(0o666)).expect("an own file");
    let why = "config/home-id has mode 0666: everybody may write it";
    lab.agent_once("perth").expect(78).says(why).says("chmod go-w");
    lab.blat(&["check"]).expect(78).says(why).says("chmod go-w");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("an own file");
    lab.blat(&["check"]).expect_success();
    lab.agent_once("perth").expect_success();
}

/// A target on this machine whose archive or scripts would lie among the home tree's own files.
#[test]
fn a_local_target_among_the_home_trees_own_files_is_not_obeyed() {
    let lab = lab("among");
    for (extra, says) in [
        (format!("archive: {}", lab.home().join("config").display()), "the home tree's own files lie"),
        (format!("archive: {}", lab.home().display()), "the home tree's own files lie"),
        (format!("bin: {}", lab.home().join("ssh/bin").display()), "the home tree's own files lie"),
        (format!("bin: {}", lab.source().join("bin").display()), "bin lies inside the source"),
        (format!("bin: {}", lab.target_archive().join("bin").display()), "bin lies inside the archive"),
        (format!("tags: {}", lab.target_archive().join("tags").display()), "the archive lies there"),
    ] {
        lab.local_config("perth", &extra);
        lab.blat(&["check"]).expect(78).says(says);
        lab.agent_once("perth").expect(78).says(says);
        assert!(lab.visible().is_empty(), "{extra}");
        assert!(!lab.home().join("ssh/bin").exists() && !lab.source().join("bin").exists(), "{extra}");
    }
}
