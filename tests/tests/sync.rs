//! Full syncs, run by hand with `blat-agent --once`: what arrives, what stays, what is refused.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use blat_tests::tree;

use super::WAY;

#[test]
fn a_sync_publishes_what_the_release_wants_and_lists_it() {
    let lab = WAY.lab("publishes");
    for (name, version) in [("core", "1.0"), ("core", "1.10"), ("core", "1.9"), ("tools", "2.0~rc1+b2"), ("other", "1")]
    {
        lab.package(name, version, |p| p.file("bin/a", name).noise("data", 30_000));
    }
    lab.release(&[("tools", "2.0~rc1+b2"), ("core", "1.9"), ("core", "1.0"), ("core", "1.10")]);
    lab.config("perth", "");

    lab.agent_once("perth").expect_success();

    lab.assert_never_partial();
    assert_eq!(
        lab.visible(),
        ["core@1.0", "core@1.10", "core@1.9", "tools@2.0~rc1+b2"],
        "all of the release, and no other"
    );
    assert_eq!(lab.package_list(), ["core 1.0", "core 1.10", "core 1.9", "tools 2.0~rc1+b2"]);
}

#[test]
fn the_shape_of_a_package_survives() {
    let lab = WAY.lab("shapes");
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(250));
    lab.package("shapes", "1.0", |p| {
        p.file("name with spaces", "x")
            .file("-rf", "a leading dash")
            .file("quotes ' \" `id` $(id) \\ *", "x")
            .file("line\nbreak", "x")
            .file("größe/日本", "x")
            .file(&long, "a path longer than a tar header's first field")
            .file("empty", "")
            .exec("bin/run", "#!/bin/sh\n")
            .with_mode("secret", "not for everybody", 0o400)
            .symlink("relative", "bin/run")
            .symlink("bin/up", "../name with spaces")
            .symlink("bin/folder", "../größe")
            .symlink("dangling", "not/there")
            .symlink("absolute", "/not/there/either")
            .empty_dir("an empty folder")
            .empty_dir("deep/empty/folders")
    });
    lab.package("old", "1970", |p| p.file("a", "older than some tools think possible").time(1));
    lab.package("new", "2100", |p| p.file("a", "newer than 2038").time(4_102_444_800));
    lab.package("bare", "0", |p| p);
    lab.release(&[("shapes", "1.0"), ("old", "1970"), ("new", "2100"), ("bare", "0")]);
    lab.config("perth", "");

    lab.agent_once("perth").expect_success();

    lab.assert_never_partial();
    assert_eq!(lab.visible(), ["bare@0", "new@2100", "old@1970", "shapes@1.0"]);
    let published = lab.on_target("shapes", "1.0");
    let reader = lab.as_target_user(&["cat", &format!("{}/bin/run", published.display())]);
    reader.expect_success().says("#!/bin/sh");
}

#[test]
fn foreign_folders_that_cannot_be_read_are_no_packages_at_the_source_and_on_the_target() {
    for receiver in ["auto", "never"] {
        let lab = WAY.lab(&format!("foreign-{receiver}"));
        lab.package("core", "1", |p| p.file("a", "1"));
        lab.package("core", "2", |p| p.file("a", "2"));
        lab.release(&[("core", "1")]);
        lab.config("perth", &format!("receiver: {receiver}\naging: immediate\nmax_delete: 100%"));
        lab.agent_once("perth").expect_success();

        let names = ["@eaDir", ".snapshot", "#recycle", "lost+found"];
        for place in names.iter().flat_map(|name| [(*name).to_owned(), format!("core/{name}")]) {
            let source = lab.source().join(&place);
            fs::create_dir_all(source.join("x")).expect("the lab's own");
            fs::set_permissions(&source, fs::Permissions::from_mode(0o000)).expect("the lab's own");
            let target = lab.target_archive().join(&place).display().to_string();
            lab.as_target_user(&["mkdir", "-p", &format!("{target}/x")]).expect_success();
            lab.as_target_user(&["chmod", "000", &target]).expect_success();
        }
        lab.release(&[("core", "2")]);
        lab.agent_once("perth").expect_success();
        lab.assert_published("core", "2");
        assert_eq!(lab.package_list(), ["core 2"], "receiver: {receiver}");
        assert!(!lab.on_target("core", "1").exists(), "a whole listing ages: receiver: {receiver}");
        for place in ["@eaDir", "core/@eaDir", "core/lost+found"] {
            assert!(lab.target_archive().join(place).exists(), "{place} stays: receiver: {receiver}");
        }
    }
}

#[test]
fn a_second_sync_changes_nothing_and_extra_packages_stay() {
    let lab = WAY.lab("twice");
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.package("core", "2", |p| p.file("a", "2"));
    lab.release(&[("core", "1"), ("core", "2")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    let before = fs::metadata(lab.on_target("core", "1")).expect("a published package");

    lab.release(&[("core", "1")]);
    lab.agent_once("perth").expect_success();

    let after = fs::metadata(lab.on_target("core", "1")).expect("a published package");
    assert_eq!((before.ino(), before.ctime_nsec()), (after.ino(), after.ctime_nsec()), "it was not touched");
    assert_eq!(lab.visible(), ["core@1", "core@2"], "what is no longer wanted stays, since nothing is aged");
    assert_eq!(lab.package_list(), ["core 1"], "and is no longer listed");
}

#[test]
fn a_package_whose_descpkg_has_another_time_is_replaced() {
    let lab = WAY.lab("replaced");
    let source = lab.package("core", "1", |p| p.file("a", "before").file("gone", "x"));
    lab.release(&[("core", "1")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();

    tree::remove(&source);
    lab.package("core", "1", |p| p.file("a", "after").file("come", "x").time(1_800_000_000));
    lab.agent_once("perth").expect_success();

    lab.assert_published("core", "1");
}

#[test]
fn one_package_that_cannot_be_sent_does_not_stop_the_others() {
    let lab = WAY.lab("missing");
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.package("tools", "1", |p| p.file("a", "1"));
    lab.package("unfinished", "1", |p| p.file("a", "1").writable());
    lab.release(&[("core", "1"), ("lost", "7"), ("tools", "1"), ("unfinished", "1")]);
    lab.config("perth", "");

    let outcome = lab.agent_once("perth");

    outcome.expect(1).says("lost@7");
    assert_eq!(lab.visible(), ["core@1", "tools@1"], "a package that is still writable waits\n{outcome}");
    let listed = lab.target_archive().join(".dpkg_archive/PackageList.txt");
    assert!(!listed.exists(), "no list names what is not there\n{outcome}");
}

#[test]
fn a_release_that_nobody_knows_is_an_error_and_lists_nothing() {
    let lab = WAY.lab("unknown");
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    lab.config("perth", "releases: [Lab 2]");

    lab.agent_once("perth").expect(1).says("Lab 2").says("did you mean \"Lab 1\"?");

    assert!(!lab.target_archive().join(".dpkg_archive/PackageList.txt").exists(), "the wanted set is not known");
}

#[test]
fn a_missing_archive_is_an_error_and_never_made() {
    let lab = WAY.lab("noarchive");
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    let elsewhere = lab.target_archive().with_file_name("unmounted");
    lab.config("perth", &format!("archive: {}", elsewhere.display()));

    lab.agent_once("perth").expect(1).says("unmounted");

    assert!(!elsewhere.exists(), "it was made");
}

#[test]
fn a_missing_source_is_an_error() {
    let lab = WAY.lab("nosource");
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();

    fs::rename(lab.source(), lab.source().with_file_name("unmounted")).expect("an own folder");
    lab.agent_once("perth").expect(1).says("source");

    assert_eq!(lab.visible(), ["core@1"]);
    assert_eq!(lab.package_list(), ["core 1"], "the last good list stays");
}

#[test]
fn a_pinned_package_is_wanted_whatever_the_releases_say() {
    let lab = WAY.lab("pinned");
    lab.package("core", "1.2", |p| p.file("a", "1"));
    lab.package("core", "1.3", |p| p.file("a", "1"));
    lab.package("tools", "1", |p| p.file("a", "1"));
    lab.release(&[("tools", "1")]);
    lab.config("perth", "pkg: {core: [1.2]}\nexclude: ['*']");

    lab.agent_once("perth").expect_success();

    assert_eq!(lab.visible(), ["core@1.2"], "`exclude` narrows what releases bring, and only that");
    lab.assert_published("core", "1.2");
}

#[test]
fn without_ssh_the_same_arrives() {
    let lab = WAY.lab("local");
    lab.package("core", "1", |p| p.file("a b", "1").exec("run", "x").symlink("to", "a b").empty_dir("empty"));
    lab.release(&[("core", "1")]);
    lab.local_config("here", "");
    lab.sshd("stop").expect_success();

    lab.agent_once("here").expect_success();

    lab.assert_published("core", "1");
    assert_eq!(lab.package_list(), ["core 1"]);
}
