//! Folders nested deeper than any package's, which whoever may write a folder of a package can make: they end no lane, and what can go goes.

mod support;

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use blat_domain::archive::package_list::Purge;
use blat_domain::protocol::frames::{Lane, Leaving, Request, Retirement, Rule};
use rustix::fs::{CWD, Mode, OFlags};
use sha2::{Digest as _, Sha256};
use support::package::{How, Package};
use support::{Agent, Archive, NOBODY, id};

/// An account that is neither root nor the archive's owner.
const STRANGER: u32 = 54_321;
/// More than any stack of a thread has room for.
const LEVELS: usize = 60_000;
/// What a package may have.
const DEEPEST: usize = 256;

/// Makes folders within folders below a directory, with a file in the last one.
fn nest(dir: &Path, levels: usize, mode: u32) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::create_dir_all(dir).expect("a directory");
    let mut at = rustix::fs::openat(CWD, dir, flags, Mode::empty()).expect("a directory");
    for _ in 0..levels {
        rustix::fs::mkdirat(&at, "y", Mode::from_raw_mode(0o700)).expect("a directory");
        let inner = rustix::fs::openat(&at, "y", flags, Mode::empty()).expect("a directory");
        rustix::fs::chmodat(&at, "y", Mode::from_raw_mode(mode), rustix::fs::AtFlags::empty()).expect("an own one");
        at = inner;
    }
    rustix::fs::openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect("a file");
}

/// Removes what a test left: the standard library's way has no stack for it either.
struct Cleared<'a>(&'a Archive);

impl Drop for Cleared<'_> {
    fn drop(&mut self) {
        let _ = Command::new("rm").arg("-rf").arg(&self.0.path).status();
    }
}

/// Stores a PackageList; what it names as left over.
fn store(agent: &mut Agent) -> Vec<String> {
    let list = b"# end 0\n";
    agent.send(
        Lane::CONTROL,
        &Request::Store { bytes: list.len() as u64, digest: Sha256::digest(list).into(), purge: Purge::Allowed },
    );
    agent.send(Lane::CONTROL, &Request::Data(list));
    let mut lines = agent.lines(Lane::CONTROL).expect("it is stored");
    lines.retain(|line| line.starts_with("leftover "));
    lines
}

fn delete(agent: &mut Agent, packages: &[&str]) -> Vec<String> {
    let packages = packages.iter().map(|package| Leaving::new(id(package), None)).collect();
    agent.ask(Lane::BULK, &Request::Retire { how: Retirement::Delete, packages }).expect("an answer")
}

#[test]
fn a_tree_of_60000_levels_goes_from_the_trash_and_from_a_stage() {
    let archive = Archive::in_memory();
    let _cleared = Cleared(&archive);
    let (dead, stage) = (archive.house("trash/delete-1-1"), archive.house("stage/p@1"));
    // What is moved up meets names like those that it is to get, in whatever order the system lists them.
    let plant = |number: u32| {
        fs::create_dir_all(dead.join(format!(".deeper-{number}/full"))).expect("a directory");
        fs::write(dead.join(format!(".deeper-{}", number + 1)), "").expect("a file");
    };
    plant(1);
    nest(&dead.join("old@1/pub"), LEVELS, 0o700);
    plant(3);
    nest(&dead.join("old@1/pub/z"), LEVELS / 60, 0o500);
    nest(&stage.join("package/pub"), LEVELS / 3, 0);
    let mut agent = Agent::start_unprivileged(&archive);
    assert_eq!(store(&mut agent), Vec::<String>::new());
    assert!(!dead.exists());
    assert_eq!(Package::new("p", "1").deliver(&mut agent, &How::default()), "published p 1");
    assert!(!stage.exists());
}

/// A package of which each folder but the last has one folder in it.
fn deepest() -> Package {
    let path = vec!["d"; DEEPEST].join("/");
    let package =
        (1..DEEPEST).fold(Package::new("q", "1"), |package, depth| package.directory(&path[..2 * depth - 1], 0o755));
    package.directory(&path, 0o755)
}

#[test]
fn a_package_with_deeper_folders_is_named_and_stays_and_all_others_are_verified_replaced_and_deleted() {
    for (levels, with_tree) in [(LEVELS / 3, true), (LEVELS / 3, false), (DEEPEST + 1, false)] {
        let archive = Archive::in_memory();
        let _cleared = Cleared(&archive);
        let mut agent = Agent::start(&archive.path);
        for package in [Package::new("p", "1"), deepest(), Package::new("r", "1")] {
            assert!(package.deliver(&mut agent, &How::default()).starts_with("published "));
        }
        fs::write(archive.house("PackageList.txt"), "r 9\n# end 1\n").expect("a list");
        nest(&archive.path.join("p/1"), levels, 0o777);
        if !with_tree {
            for name in ["p", "q", "r"] {
                let manifests = archive.house(&format!("manifests/{name}"));
                for paper in fs::read_dir(manifests).expect("manifests").flatten() {
                    (paper.file_name() != "1").then(|| fs::remove_file(paper.path()).expect("a tree file"));
                }
            }
        }
        let packages = ["p@1", "q@1", "r@1"].map(id).to_vec();
        let verdicts = agent.ask(Lane::BULK, &Request::Verify { packages }).expect("verdicts");
        let deep = "its folders are nested deeper than a package's may be";
        let found =
            if with_tree { "bad p 1 y: was not sent".to_owned() } else { format!("bad p 1 it cannot be read: {deep}") };
        assert_eq!(verdicts[0], found);
        assert!(verdicts[1].starts_with("good q 1 ") && verdicts[2].starts_with("good r 1 "), "{verdicts:?}");
        let repair = How { number: 4, rule: Rule::Repair, ..How::default() };
        let kept = format!(
            "failed p 1 foreign {deep}, and another archive or a mount in them would go with it; look into \"1/y/y/"
        );
        let line = Package::new("p", "1").deliver(&mut agent, &repair);
        assert!(line.starts_with(&kept) && line.len() < 300, "{line}");
        let lines = delete(&mut agent, &["p@1", "q@1", "r@1"]);
        assert!(lines[0].starts_with(&kept), "{lines:?}");
        assert_eq!(lines[1..], ["deleted q 1", "deleted r 1"]);
        assert!(archive.path.join("p/1/y/y").exists() && !archive.path.join("q").exists());
        assert_eq!(store(&mut agent), Vec::<String>::new());
    }
}

#[test]
fn as_root_what_of_a_deep_tree_cannot_go_is_named_in_few_words_and_all_else_goes() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let archive = Archive::in_memory();
    let _cleared = Cleared(&archive);
    let mut agent = Agent::start_unprivileged(&archive);
    assert_eq!(store(&mut agent), Vec::<String>::new());
    // A stranger's that everybody may write, and one that nobody else may.
    let trash = ["delete-1-1", "delete-1-2"].map(|id| archive.house("trash").join(id));
    for (dead, mode) in trash.iter().zip([0o777, 0o755]) {
        nest(&dead.join("old@1"), LEVELS, mode);
        let given = Command::new("chown").args(["-R", &STRANGER.to_string()]).arg(dead).status();
        assert!(given.expect("a command of every Linux").success());
        for own in [dead, &dead.join("old@1")] {
            chown(own, Some(NOBODY), None).expect("root may");
        }
    }
    let left = store(&mut agent);
    let start = "leftover .dpkg_archive/trash/delete-1-2/old@1/y/y";
    let why = format!(
        " user={STRANGER} removing it failed: Permission denied (os error 13); remove it as its owner or as root"
    );
    assert!(
        left.len() == 1 && left[0].starts_with(start) && left[0].ends_with(&why) && left[0].len() < 800,
        "{left:?}"
    );
    assert!(!trash[0].exists());
    assert_eq!(Package::new("p", "1").deliver(&mut agent, &How::default()), "published p 1");
}

/// The archive as an overlay of a folder beside it, whose folders cannot be moved.
struct Overlay<'a>(&'a Path);

impl<'a> Overlay<'a> {
    fn mount(archive: &'a Archive) -> Self {
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| archive.beside(name));
        fs::create_dir(&upper).and_then(|()| fs::create_dir(&work)).expect("a directory");
        let layers = [("lowerdir", lower), ("upperdir", upper), ("workdir", work)];
        let layers = layers.map(|(layer, path)| format!("{layer}={}", path.display())).join(",");
        let options = format!("redirect_dir=off,{layers}");
        let mounted =
            Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&archive.path).status();
        assert!(mounted.expect("a command of every Linux").success());
        Self(&archive.path)
    }
}

impl Drop for Overlay<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn as_root_where_no_folder_can_be_moved_all_goes_that_is_no_deeper_than_a_package() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let archive = Archive::in_memory();
    for (id, levels) in [("delete-1-1", DEEPEST), ("delete-1-2", 2 * DEEPEST)] {
        nest(&archive.beside("lower/.dpkg_archive/trash").join(id).join("old@1"), levels, 0o755);
    }
    let _overlay = Overlay::mount(&archive);
    let mut agent = Agent::start(&archive.path);
    let left = store(&mut agent);
    let start = "leftover .dpkg_archive/trash/delete-1-2/old@1/y/y";
    assert!(left.len() == 1 && left[0].starts_with(start) && left[0].contains("ross-device link"), "{left:?}");
    assert!(!archive.house("trash/delete-1-1").exists());
}
