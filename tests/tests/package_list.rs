//! The PackageList: what it says, when it comes, and that nobody ever reads half of one.

use std::fs;
use std::os::unix::fs::MetadataExt;

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
