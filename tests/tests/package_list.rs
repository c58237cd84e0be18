//! The PackageList: what it says, when it comes, and that nobody ever reads half of one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use blat_tests::Lab;

/// A lab whose release wants tools@1 and core@2, and whose config pins another.
fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    for (package, version) in [("core", "1"), ("core", "2"), ("tools", "1")] {
        lab.package(package, version, |p| p.file("a", version));
    }
    lab.release(&[("tools", "1"), ("core", "2")]);
    lab.config("perth", "pkg: {core: 1}");
    lab
}

#[test]
fn the_package_list_is_sorted_counted_and_equals_wanted_plus_pins() {
    let lab = lab("listed");
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.package_list(), ["core 1", "core 2", "tools 1"]);
}

#[test]
fn the_package_list_comes_only_after_all_it_names_are_there() {
    let lab = lab("listlate");
    lab.release(&[("tools", "1"), ("core", "2"), ("later", "1")]);
    let list = lab.target_archive().join(".dpkg_archive/PackageList.txt");
    lab.agent_once("perth");
    assert_eq!(lab.visible(), ["core@1", "core@2", "tools@1"]);
    assert!(!list.exists(), "later@1 is not there");

    lab.package("later", "1", |p| p.file("a", "1"));
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.package_list(), ["core 1", "core 2", "later 1", "tools 1"]);
}

/// Whoever has the old list open keeps a whole one: the new one is another file that takes its name.
#[test]
fn the_package_list_is_replaced_atomically() {
    let lab = lab("listreplaced");
    lab.agent_once("perth").expect_success();
    let path = lab.target_archive().join(".dpkg_archive/PackageList.txt");
    let (before, reader) = (fs::metadata(&path).expect("a list").ino(), fs::File::open(&path).expect("a list"));

    lab.release(&[("tools", "1")]);
    lab.agent_once("perth").expect_success();

    assert_ne!(fs::metadata(&path).expect("a list").ino(), before, "it was written over");
    assert_eq!(std::io::read_to_string(reader).expect("the old list"), "core 1\ncore 2\ntools 1\n# end 3\n");
    assert_eq!(lab.package_list(), ["core 1", "tools 1"]);
}

/// A target whose list another master might go by: it holds core@1 and tools@1, which two releases want.
fn master(name: &str, aging: &str) -> Lab {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.package("tools", "1", |p| p.file("a", "1"));
    releases(&lab, "core@1", "tools@1");
    lab.config("perth", aging);
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.package_list(), BOTH);
    lab
}

const BOTH: [&str; 2] = ["core 1", "tools 1"];

/// What the two releases have.
fn releases(lab: &Lab, first: &str, second: &str) {
    let release = |id: u8, packages: &str| format!("{{id: {id}, name: Lab {id}, state: open, packages: [{packages}]}}");
    lab.replace_releases(&format!(
        "projects:\n  - name: Lab\n    releases: [{}, {}]\n",
        release(1, first),
        release(2, second)
    ));
}

#[test]
fn what_a_sync_holds_back_stays_in_the_list_until_that_is_over() {
    let lab = master("listheld", "aging: immediate\nmax_delete: 100%");
    for (first, second) in [("core@1", ""), ("core@1", "../x@1"), ("core@1", "../x@1, ../y@1")] {
        releases(&lab, first, second);
        lab.agent_once("perth");
        assert_eq!(lab.package_list(), BOTH, "{second}: another master would delete it");
    }
    // A tag's package was never listed, and is not now.
    lab.package("tagged", "1", |p| p.file("a", "1"));
    lab.drop_tag("perth", "tagged", "1");
    lab.agent_once("perth");
    assert_eq!(lab.package_list(), BOTH);
    releases(&lab, "core@1", "core@1");
    lab.agent_once("perth").expect_success();
    assert_eq!((lab.package_list(), lab.visible().contains(&"tools@1".to_owned())), (vec!["core 1".to_owned()], false));
}

#[test]
fn what_max_delete_holds_back_stays_in_the_list_until_it_is_confirmed() {
    let lab = master("listlimit", "aging: immediate\nmax_delete: 10%");
    releases(&lab, "core@1", "core@1");
    for _ in 0..2 {
        lab.agent_once("perth").expect(1);
        assert_eq!(lab.package_list(), BOTH);
    }
    lab.config("perth", "aging: immediate\nmax_delete: 100%");
    lab.agent_once("perth").expect_success();
    assert_eq!((lab.package_list(), lab.visible()), (vec!["core 1".to_owned()], vec!["core@1".to_owned()]));
}

#[test]
fn where_nobody_knows_what_was_listed_all_that_is_there_stays_in_the_list_while_anything_is_held_back() {
    let lab = master("listunknown", "aging: immediate\nmax_delete: 100%");
    releases(&lab, "core@1", "");
    let note = lab.home().join("state/perth/PackageList.txt");
    for lose in [|note: &Path| fs::remove_file(note), |note: &Path| fs::write(note, "core 1\n")] {
        lose(&note).expect("an own file");
        lab.agent_once("perth");
        assert_eq!(lab.package_list(), BOTH, "another master would delete it");
    }
    // A new owner knows of neither.
    fs::remove_dir_all(lab.home().join("state")).expect("an own folder");
    fs::remove_dir_all(lab.home().join("config/.known")).expect("an own folder");
    fs::remove_file(lab.home().join("config/home-id")).expect("an own file");
    lab.blat(&["adopt", "perth"]).expect_success();
    releases(&lab, "core@1", "core@1");
    lab.agent_once("perth").expect_success().says("does not know what tags brought before");
    assert_eq!(lab.package_list(), BOTH);
}

/// `pkg_purge` deletes by itself what has waited; `clock` says whether it may.
#[test]
fn a_target_may_purge_only_by_what_a_sync_that_holds_nothing_back_has_stored() {
    let by = |deleter: &str| format!("aging: {{by: {deleter}, after: 30d}}\nmax_delete: 100%");
    let lab = master("listpurge", &by("target"));
    let clock = || fs::read_to_string(lab.target_archive().join(".dpkg_archive/clock")).expect("a clock");
    let says = |word: &str| assert!(clock().ends_with(&format!("\npurge {word}\n")), "{}", clock());
    says("yes");
    releases(&lab, "core@1", "../x@1");
    lab.agent_once("perth");
    says("no");
    releases(&lab, "core@1", "core@1");
    lab.agent_once("perth").expect_success();
    says("yes");
    for other in ["", &by("master"), "aging: immediate\nmax_delete: 100%"] {
        lab.config("perth", other);
        lab.agent_once("perth").expect_success();
        says("no");
    }
    lab.config("perth", &format!("{}\nreceiver: never", by("target")));
    lab.agent_once("perth").expect_success();
    says("yes");
}

#[test]
fn a_target_that_deletes_nothing_keeps_listed_what_a_doubtful_answer_leaves_out() {
    let lab = master("listnone", "");
    for second in ["", "../x@1"] {
        releases(&lab, "core@1", second);
        lab.agent_once("perth").expect_success();
        assert_eq!(lab.package_list(), BOTH, "{second}");
    }
    releases(&lab, "core@1", "core@1");
    lab.agent_once("perth").expect_success();
    assert_eq!((lab.package_list(), lab.visible().len()), (vec!["core 1".to_owned()], 2));
}
