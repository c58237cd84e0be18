//! One archive served by the receiver and by the scripts in turn: same answers, same locks, same places.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use blat_domain::archive::package_list::Purge;
use blat_domain::archive::record::Claim;
use blat_domain::package::name::PackageId;
use blat_domain::protocol::frames::{Class, Lane, Leaving, MOST_DATA, Request, Retirement};
use sha2::{Digest as _, Sha256};
use support::package::{How, Node, Package, noise};
use support::{Agent, Archive, id};

/// Two archives of one content: one for the scripts, one for the receiver.
fn twins(furnish: impl Fn(&Archive)) -> (Archive, Archive) {
    let pair = (Archive::new(), Archive::new());
    furnish(&pair.0);
    furnish(&pair.1);
    pair
}

/// Everything that an archive shows and what we keep of it, but not what is on its way.
fn shown(archive: &Archive) -> Vec<String> {
    let find = std::process::Command::new("find")
        .args([
            ".",
            "-not",
            "-path",
            "./.dpkg_archive/stage*",
            "-not",
            "-path",
            "./.dpkg_archive/trash*",
            "-not",
            "-name",
            "*.lock",
        ])
        .args(["-not", "-name", "clock", "-printf", "%p %y %m %l\\n"])
        .current_dir(&archive.path)
        .output()
        .expect("a command of every Linux");
    let mut lines: Vec<_> = String::from_utf8_lossy(&find.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn ids(texts: &[&str]) -> Vec<PackageId> {
    texts.iter().map(|text| id(text)).collect()
}

/// The list that `delete_package` reads.
fn as_list(packages: &[(PackageId, Option<i64>)]) -> String {
    let lines = packages.iter().map(|(package, time)| {
        let time = time.map_or(String::new(), |time| format!(" {time}"));
        format!("{} {}{time}\n", package.name, package.version)
    });
    lines.collect::<String>() + &format!("# end {}\n", packages.len())
}

fn furnish(archive: &Archive) {
    for version in ["1", "2", "3", "4"] {
        archive.put("p", version, &[("d/f", "text")], 100);
    }
    archive.put("lone", "1", &[], 100);
    fs::create_dir_all(archive.path.join("p/foreign")).expect("a directory");
    fs::write(archive.path.join("file"), "").expect("a file");
    symlink("1", archive.path.join("p/link")).expect("a link");
    symlink("gone", archive.path.join("p/dangling")).expect("a link");
    fs::create_dir_all(archive.house("aged")).expect("a directory");
    for (name, text) in
        [("p@1", "5\n10\n"), ("p@2", "5\n99999999999999\n"), ("p@3", "99999999999\n1\n"), ("lone@1", "1\n1\n")]
    {
        fs::write(archive.house("aged").join(name), text).expect("a mark");
    }
    fs::write(archive.house("PackageList.txt"), "# for somebody\np 4\nother 1\n# end 2\n").expect("a list");
}

#[test]
fn retiring_answers_and_leaves_behind_what_delete_package_does() {
    let all =
        ["p@1", "p@2", "p@3", "p@4", "p@foreign", "p@link", "p@dangling", "p@absent", "file@1", "absent@1", "lone@1"];
    for (how, argument) in [
        (Retirement::Delete, vec!["--unlisted"]),
        (Retirement::DeleteDue, vec!["--due"]),
        (Retirement::Mark(77), vec!["--mark", "77"]),
        (Retirement::Unmark, vec!["--unmark"]),
    ] {
        let (scripts, ours) = twins(furnish);
        let mut agent = Agent::start(&ours.path);
        let times = [None, Some(100), Some(101)].into_iter().cycle();
        let packages: Vec<_> = ids(&all).into_iter().zip(times).collect();
        let expected = scripts.script("delete_package", &argument, &as_list(&packages));
        let packages = packages.into_iter().map(|(package, time)| Leaving::new(package, time)).collect();
        let lines = agent.ask(Lane::CONTROL, &Request::Retire { how, packages }).expect("an answer");
        // Seconds that are left may pass from one run to the next.
        let plain = |lines: Vec<String>| -> Vec<String> {
            lines.into_iter().map(|line| line.split(" it stays for").next().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(plain(lines), plain(expected), "{how:?}");
        assert_eq!(shown(&ours), shown(&scripts), "{how:?}");
        let at = |archive: &Archive| fs::read_to_string(archive.house("aged/p@1")).ok();
        assert_eq!(at(&ours), at(&scripts), "{how:?}");
        agent.ask(Lane::CONTROL, &Request::Sweep { keep: vec![] }).expect("a sweep");
        for room in ["stage", "trash"] {
            assert_eq!(fs::read_dir(ours.house(room)).expect("a directory").count(), 0, "{room} {how:?}");
        }
    }
}

#[test]
fn nothing_is_deleted_without_a_whole_list_of_what_is_wanted() {
    for list in [None, Some(""), Some("# end 0\n"), Some("p 4\n"), Some("p 4\n# end 2\n"), Some("p 4\n# end 1\nq 1\n")]
    {
        let archive = Archive::new();
        furnish(&archive);
        match list {
            Some(list) => fs::write(archive.house("PackageList.txt"), list).expect("a list"),
            None => fs::remove_file(archive.house("PackageList.txt")).expect("a list"),
        }
        let before = shown(&archive);
        let mut agent = Agent::start(&archive.path);
        for how in [Retirement::Delete, Retirement::DeleteDue] {
            let packages = vec![Leaving::new(id("p@1"), None)];
            let failure = agent.ask(Lane::CONTROL, &Request::Retire { how, packages }).expect_err("a failure");
            assert!(
                failure.0 == Class::Refused && failure.1.ends_with("let the archive be synced first"),
                "{failure:?}"
            );
        }
        assert_eq!(shown(&archive), before, "{list:?}");
    }
}

#[test]
fn linking_answers_and_leaves_behind_what_receive_file_does() {
    let links = [
        ("p@current", "4"),
        ("p@current", "3"),
        ("p@current", "3"),
        ("p@chain", "current"),
        ("p@link", "2"),
        ("p@1", "2"),
        ("p@x", "absent"),
        ("p@y", "foreign"),
        ("p@z", "dangling"),
        ("file@1", "2"),
        ("absent@1", "2"),
        ("lone@l", "1"),
    ];
    let (scripts, ours) = twins(|archive| {
        furnish(archive);
        // A link that somebody wants is not marked any more.
        for link in ["p@link", "p@current"] {
            fs::write(archive.house("aged").join(link), "1\n1\n").expect("a mark");
        }
    });
    let list: String = links.iter().map(|(package, to)| format!("{} {to}\n", package.replace('@', " "))).collect();
    let digest = blat_domain::util::text::hex(&Sha256::digest(&list));
    let arguments = ["--name", "links", "--bytes", &list.len().to_string(), "--sha256", &digest];
    let expected = scripts.script("receive_file", &arguments, &list);
    let mut agent = Agent::start(&ours.path);
    let links = links.iter().map(|(package, to)| (id(package), to.parse().expect("a version"))).collect();
    assert_eq!(agent.ask(Lane::CONTROL, &Request::Link { links }), Ok(expected));
    assert_eq!(shown(&ours), shown(&scripts));
    assert!(!ours.house("aged/p@link").exists() && !ours.house("aged/p@current").exists());
}

/// What is done to a package's directory.
type Change = fn(&Path);

/// What may happen to a package, by the version that it happens to.
const CHANGES: [(&str, Change); 15] = [
    ("good", |_| {}),
    ("changed", |p| fs::write(p.join("d/f"), "other text").expect("a file")),
    ("missing", |p| fs::remove_file(p.join("a")).expect("a file")),
    ("more", |p| fs::write(p.join("d/new"), "").expect("a file")),
    ("nodesc", |p| fs::remove_file(p.join("descpkg")).expect("a file")),
    ("elsewhere", |p| relink(&p.join("l"), "elsewhere")),
    ("nolink", |p| fs::remove_file(p.join("l")).expect("a link")),
    ("morelinks", |p| relink(&p.join("d/l\tm"), "a")),
    ("filemode", |p| set_mode(&p.join("a"), 0o600)),
    ("setuid", |p| set_mode(&p.join("a"), 0o4644)),
    ("dirmode", |p| set_mode(&p.join("d"), 0o700)),
    ("rootmode", |p| set_mode(p, 0o1755)),
    ("nodir", |p| fs::remove_dir(p.join("e")).expect("a directory")),
    ("moredirs", |p| fs::create_dir(p.join("d/g")).expect("a directory")),
    ("linkforfile", |p| relink(&p.join("e/../a"), "d/f")),
];

fn relink(path: &Path, to: &str) {
    let _ = fs::remove_file(path);
    symlink(to, path).expect("a link");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("a mode");
}

#[test]
fn verifying_answers_what_get_plist_does() {
    let odd = Package::new("odd", "1")
        .node(b"a\\b\nc", Node::File(b"x".to_vec(), 0o644))
        .node(b"t\tb", Node::Link(b"\\ \n".to_vec()))
        .node(b"-", Node::File(b"y".to_vec(), 0o644));
    let (scripts, ours) = twins(|archive| {
        for (version, change) in CHANGES {
            let package = Package::new("p", version).file("a", "text").file("d/f", "text").directory("e", 0o755);
            change(&package.link("l", "nowhere").write(&archive.path));
        }
        for version in ["unlisted", "notree", "notree-more", "damaged"] {
            archive.put("p", version, &[("a", "text")], 100);
        }
        fs::remove_file(archive.house("manifests/p/unlisted")).expect("a manifest");
        fs::remove_file(archive.house("manifests/p/.notree.tree")).expect("a tree file");
        fs::remove_file(archive.house("manifests/p/.notree-more.tree")).expect("a tree file");
        fs::write(archive.path.join("p/notree-more/new"), "").expect("a file");
        fs::write(archive.house("manifests/p/.damaged.tree"), "dir 755\t.\n# end\n").expect("a tree file");
        symlink("good", archive.path.join("p/link")).expect("a link");
        odd.write(&archive.path);
        let damaged = Package { id: id("odd@2"), ..odd.clone() };
        fs::write(damaged.write(&archive.path).join("a\\b\nc"), "z").expect("a file");
        let relinked = Package { id: id("odd@3"), ..odd.clone() };
        relink(&relinked.write(&archive.path).join("t\tb"), "\\n");
    });
    let more = [
        "p@unlisted",
        "p@notree",
        "p@notree-more",
        "p@damaged",
        "p@link",
        "p@absent",
        "q@1",
        "odd@1",
        "odd@2",
        "odd@3",
    ];
    let packages = CHANGES.iter().map(|(version, _)| id(&format!("p@{version}"))).chain(ids(&more)).collect::<Vec<_>>();
    let list: String = packages.iter().map(|package| format!("{} {}\n", package.name, package.version)).collect();
    let expected = scripts.script("get_plist", &["--verify"], &list);
    let mut agent = Agent::start(&ours.path);
    let lines = agent.ask(Lane::CONTROL, &Request::Verify { packages }).expect("an answer");
    // What became of a file may be said in other words.
    let (is_relinked, expected_others): (Vec<_>, Vec<_>) =
        expected.into_iter().partition(|line| line.contains(" linkforfile "));
    assert!(is_relinked[0].starts_with("bad p linkforfile a: is link d/f"), "{is_relinked:?}");
    let (is_relinked, lines): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.contains(" linkforfile "));
    assert!(is_relinked[0].starts_with("bad p linkforfile a: FAILED"), "{is_relinked:?}");
    assert_eq!(lines, expected_others);
    let good =
        lines.iter().filter(|line| line.starts_with("good ")).map(|line| line.split(' ').nth(2).unwrap_or_default());
    assert_eq!(good.collect::<Vec<_>>(), ["good", "notree", "1"], "{lines:#?}");
}

#[test]
fn a_stored_list_is_what_receive_file_stores_and_another_digest_stores_nothing() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let record = format!("{}\n{} perth\n", "0".repeat(32), "1".repeat(32));
    agent.ask(Lane::CONTROL, &Request::Claim { how: Claim::First, record: &record }).expect("an answer");
    // They are there, by way of links: so many packages would take long to make.
    archive.put("p0", "1", &[("f", "x")], 5);
    (1..20_000).for_each(|number| symlink("p0", archive.path.join(format!("p{number}"))).expect("a link"));
    let list: String = (0..20_000).map(|number| format!("p{number} 1\n")).collect::<String>() + "# end 20000\n";
    let mut store = |digest: [u8; 32]| {
        agent.send(Lane::CONTROL, &Request::Store { bytes: list.len() as u64, digest, purge: Purge::Allowed });
        list.as_bytes().chunks(MOST_DATA).for_each(|data| agent.send(Lane::CONTROL, &Request::Data(data)));
        agent.lines(Lane::CONTROL)
    };
    let failure = store([0; 32]).expect_err("a failure");
    assert!(failure.0 == Class::Refused && failure.1.contains("another digest"), "{failure:?}");
    assert!(!archive.house("PackageList.txt").exists());
    assert_eq!(store(Sha256::digest(&list).into()), Ok(vec!["former missing".to_owned()]));
    assert_eq!(fs::read_to_string(archive.house("PackageList.txt")).expect("a list"), list);
    let clock = fs::read_to_string(archive.house("clock")).expect("a clock");
    let words: Vec<_> = clock.lines().map(|line| line.split(' ').count()).collect();
    assert_eq!(words, [3, 3, 1, 2], "{clock}");
    assert!(clock.ends_with("\npurge yes\n"), "{clock}");
    assert_eq!(archive.script("pkg_purge", &[], ""), Vec::<String>::new());
    fs::create_dir_all(archive.house("aged")).expect("a directory");
    fs::write(archive.house("aged/gone@1"), "1\n1\n").expect("a mark");
    // The very note of `receive_file`, but for the second.
    assert_eq!(archive.script("pkg_purge", &["--dry-run"], ""), ["would delete gone 1"]);
}

#[test]
fn whoever_publishes_waits_for_the_lock_of_the_scripts() {
    let archive = Archive::new();
    furnish(&archive);
    let mut agent = Agent::start(&archive.path);
    let lock = fs::File::create(archive.house("publish.lock")).expect("a lock");
    lock.lock().expect("a lock");
    let package = Package::new("n", "1").file("f", noise(5, 10));
    package.send(&mut agent, &How::default());
    support::wait_for("the whole package", || {
        fs::read(archive.house("stage/n@1/manifest")).is_ok_and(|text| text == package.manifest())
    });
    assert!(!archive.path.join("n/1").exists());
    drop(lock);
    assert_eq!(agent.ask(Lane::BULK, &Request::Publish), Ok(vec!["published n 1".into()]));
    let verified = archive.script("get_plist", &["--verify"], "n 1\n");
    assert!(verified[0].starts_with("good n 1 "), "{verified:?}");
}

#[test]
fn what_a_dead_script_left_is_swept_and_put_back() {
    let archive = Archive::new();
    furnish(&archive);
    fs::create_dir_all(archive.house("stage/delete-1-1")).expect("a directory");
    fs::create_dir_all(archive.house("trash/delete-1-1/x")).expect("a directory");
    fs::create_dir_all(archive.house("trash/orphan")).expect("a directory");
    fs::write(archive.house("stage/delete-1-1/batch"), "p 1\n../x 1\np 2\n").expect("a batch");
    fs::rename(archive.path.join("p/1"), archive.path.join("p/.1.delete-1-1.old")).expect("a rename");
    fs::create_dir(archive.path.join("p/.2.delete-1-1")).expect("a directory");
    let mut agent = Agent::start(&archive.path);
    let packages = vec![Leaving::new(id("p@9"), None)];
    agent.ask(Lane::BULK, &Request::Retire { how: Retirement::Unmark, packages }).expect("an answer");
    assert!(archive.path.join("p/1/descpkg").exists() && archive.path.join("p/2/descpkg").exists());
    agent.ask(Lane::BULK, &Request::Publish).expect("an answer");
    let hidden = fs::read_dir(archive.path.join("p"))
        .expect("a directory")
        .filter(|entry| entry.as_ref().expect("an entry").file_name().to_string_lossy().starts_with('.'));
    assert_eq!(hidden.count(), 0);
    for room in ["stage", "trash"] {
        assert_eq!(fs::read_dir(archive.house(room)).expect("a directory").count(), 0, "{room}");
    }
}
