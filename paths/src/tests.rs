use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::PathBuf;

use super::*;

/// An account that is neither root nor this one.
const STRANGER: u32 = 54_321;

fn inode(path: &Path) -> Result<u64, Astray> {
    Ok(rustix::fs::fstat(walk(path, Missing::Fail)?.directory).expect("a directory").st_ino)
}

fn kind(path: &Path) -> io::ErrorKind {
    match inode(path) {
        Err(Astray::Io { error, .. }) => error.kind(),
        other => panic!("{}: {other:?}", path.display()),
    }
}

/// `archive`, another directory `area/other`, and a link `area/way` to where it is said.
fn scratch(to: &str) -> (tempfile::TempDir, PathBuf) {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    fs::create_dir(scratch.path().join("archive")).expect("a directory");
    fs::create_dir_all(scratch.path().join("area/other")).expect("a directory");
    let way = scratch.path().join("area/way");
    let to = to.replace("ROOT", &scratch.path().to_string_lossy());
    symlink(to, &way).expect("a link");
    (scratch, way)
}

fn refused_at(path: &Path, link: &Path, doubt: Doubt) {
    match walk(path, Missing::Fail) {
        Err(Astray::Link { link: named, doubt: why }) => {
            assert_eq!((Path::new(&named), why), (link, doubt), "{}", path.display());
        }
        other => panic!("{}: {other:?}", path.display()),
    }
}

#[test]
fn links_of_our_own_lead_on_as_the_system_follows_them() {
    for to in ["../archive", "ROOT/archive", "other/../../archive", ".././/archive/", "../area/again"] {
        let (scratch, way) = scratch(to);
        symlink("../archive", scratch.path().join("area/again")).expect("a link");
        let archive = fs::metadata(scratch.path().join("archive")).expect("a directory").ino();
        for path in [way.clone(), way.join("."), way.join("../area/way"), way.join("../archive/")] {
            assert_eq!(inode(&path).expect("a way"), archive, "{to}: {}", path.display());
        }
    }
    let (scratch, way) = scratch("way");
    assert_eq!(kind(&way), io::Error::from(Errno::LOOP).kind());
    let file = scratch.path().join("file");
    fs::write(&file, "").expect("a file");
    assert_eq!(kind(&file), io::ErrorKind::NotADirectory);
    assert_eq!(kind(&file.with_file_name("none")), io::ErrorKind::NotFound);
    assert_eq!(inode(Path::new(".")).expect("a way"), fs::metadata(".").expect("a directory").ino());
    assert_eq!(inode(Path::new("src/..")).expect("a way"), fs::metadata(".").expect("a directory").ino());
    assert_eq!(inode(Path::new("/")).expect("a way"), fs::metadata("/").expect("a directory").ino());
}

#[test]
fn what_is_missing_is_made_only_where_that_is_asked_for() {
    let (scratch, way) = scratch("../archive");
    let path = way.join("a/b");
    assert_eq!(kind(&path), io::ErrorKind::NotFound);
    let made = walk(&path, Missing::Make).expect("made").directory;
    let there = |path: &Path| walk(path, Missing::Fail).expect("there").directory;
    assert!(is_same(&made, there(&scratch.path().join("archive/a/b"))).expect("handles"));
    assert!(!is_same(&made, there(scratch.path())).expect("handles"));
    fs::set_permissions(scratch.path().join("area"), fs::Permissions::from_mode(0o775)).expect("ours");
    walk(&path, Missing::Make).expect("a folder that a group may write is no hindrance, nor is what was made before");
}

#[test]
fn a_link_in_a_folder_that_everybody_may_write_leads_nowhere_though_it_is_ours() {
    let (scratch, way) = scratch("../archive");
    for mode in [0o777, 0o1777, 0o733] {
        fs::set_permissions(scratch.path().join("area"), fs::Permissions::from_mode(mode)).expect("ours");
        refused_at(&way.join("below"), &way, Doubt::Open);
        inode(&way.with_file_name("other")).expect("a directory is none");
    }
}

/// Nobody but root can give anything to somebody else.
#[test]
fn as_root_a_link_of_another_account_leads_nowhere_wherever_it_lies_on_the_way() {
    if !geteuid().is_root() {
        return;
    }
    for to in ["../archive", "ROOT/archive", "other", "../area/again", "other/..", "gone"] {
        let (scratch, way) = scratch(to);
        let (again, root) = (scratch.path().join("area/again"), scratch.path());
        symlink("../archive", &again).expect("a link");
        lchown(&way, Some(STRANGER), None).expect("root may");
        for path in [way.clone(), way.join("below"), way.join("../archive"), root.join("archive/../area/way/")] {
            let link = if path.starts_with(&way) { "area/way" } else { "archive/../area/way" };
            refused_at(&path, &root.join(link), Doubt::Maker(STRANGER));
        }
        // A link of our own leads to theirs.
        let own = root.join("own");
        symlink("area/way", &own).expect("a link");
        refused_at(&own, &root.join("area/way"), Doubt::Maker(STRANGER));
    }
    // Theirs is the last of a chain.
    let (scratch, way) = scratch("again");
    let again = scratch.path().join("area/again");
    symlink("../archive", &again).expect("a link");
    lchown(&again, Some(STRANGER), None).expect("root may");
    refused_at(&way, &again, Doubt::Maker(STRANGER));
}

/// They may have moved it there from wherever a package brought it.
#[test]
fn as_root_a_link_of_our_own_in_a_folder_of_another_account_leads_nowhere() {
    if !geteuid().is_root() {
        return;
    }
    for (to, mode) in [("../archive", 0o755), ("ROOT/archive", 0o1777), ("other", 0o700)] {
        let (scratch, way) = scratch(to);
        let area = scratch.path().join("area");
        chown(&area, Some(STRANGER), None).expect("root may");
        fs::set_permissions(&area, fs::Permissions::from_mode(mode)).expect("root may");
        refused_at(&way, &way, Doubt::Folder(STRANGER));
        inode(&area.join("other")).expect("a directory may lie there");
    }
}

/// A package may bring a whole folder with a link in it, which anybody may move.
#[test]
fn as_root_a_link_counts_no_more_below_a_folder_of_another_account_however_deep_it_lies() {
    if !geteuid().is_root() {
        return;
    }
    let (scratch, _) = scratch("../archive");
    let area = scratch.path().join("area");
    fs::create_dir_all(area.join("box/site")).expect("directories");
    let links = [("box/site/way", "../../../archive"), ("box/site/to", "/tmp"), ("box/up", "../box/site")];
    for (link, to) in links {
        symlink(to, area.join(link)).expect("a link");
        inode(&area.join(link)).expect("all of it is ours");
    }
    chown(&area, Some(STRANGER), None).expect("root may");
    for (link, _) in links {
        let link = area.join(link);
        refused_at(&link, &link, Doubt::Folder(STRANGER));
        refused_at(
            &area.join("other/..").join(link.strip_prefix(&area).expect("below")),
            &area.join("other/..").join(link.strip_prefix(&area).expect("below")),
            Doubt::Folder(STRANGER),
        );
    }
    let walked = walk(&area.join("box/site"), Missing::Fail).expect("directories may lie there");
    assert_eq!(walked.doubt, Some(Doubt::Folder(STRANGER)));
    assert_eq!(kind(&area.join("box/none")), io::ErrorKind::NotFound);
    assert!(walk(&area.join("box/none"), Missing::Make).is_err(), "nothing is made there");
    // Whose it is, neither a user namespace nor a file server says.
    chown(&area, Some(UNKNOWN), None).expect("root may");
    assert_eq!(walk(&area.join("box/site"), Missing::Fail).expect("a way").doubt, None);
    inode(&area.join("box/up")).expect("what lies deeper counts as it did");
    // A link that counts and leads back to the root begins anew.
    let own = scratch.path().join("own");
    symlink(scratch.path().join("archive"), &own).expect("a link");
    assert_eq!(walk(&own, Missing::Fail).expect("a way").doubt, None);
}

#[test]
fn a_folder_that_everybody_may_write_puts_all_below_it_in_doubt_and_a_sticky_one_what_everybody_may_write() {
    let (scratch, _) = scratch("../archive");
    let (area, site) = (scratch.path().join("area"), scratch.path().join("area/other/site"));
    fs::create_dir(&site).expect("a directory");
    let way = site.join("way");
    symlink("../../../archive", &way).expect("a link");
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    for (outer, inner, doubt) in [
        (0o755, 0o777, Some(Doubt::Open)),
        (0o777, 0o755, Some(Doubt::Open)),
        (0o1777, 0o755, None),
        (0o1777, 0o1777, Some(Doubt::Open)),
    ] {
        mode(&area, outer);
        mode(&area.join("other"), inner);
        assert_eq!(walk(&site, Missing::Fail).expect("directories").doubt, doubt, "{outer:o} {inner:o}");
        match doubt {
            Some(doubt) => refused_at(&way, &way, doubt),
            None => assert!(inode(&way).is_ok()),
        }
    }
}
