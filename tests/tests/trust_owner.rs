//! One archive, one owner, on a real target: two home trees and two targets that meet in one archive, and an archive that is the source itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use blat_tests::process;
use blat_tests::{Account, Lab, Outcome, tree};

/// What lets everything go that nothing wants.
const EAGER: &str = "aging: immediate\nmax_delete: 100%";
/// The ways to be served.
const SERVED: [&str; 2] = ["receiver: auto", "receiver: never"];

/// A lab whose release wants core@1, with tools@1 and later@1 beside it in the source.
fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    for name in ["core", "tools", "later"] {
        lab.package(name, "1", |p| p.file("bin/a", name));
    }
    lab.release(&[("core", "1")]);
    lab
}

/// The same archive by another name.
fn alias(lab: &Lab) -> PathBuf {
    let alias = lab.target_archive().with_file_name("by another name");
    if fs::symlink_metadata(&alias).is_err() {
        symlink(lab.target_archive(), &alias).expect("an own folder");
    }
    alias
}

/// Another home tree, whose only target `sydney` leads to the same archive by another name and wants tools@1.
fn other_home(lab: &Lab, extra: &str) -> PathBuf {
    let home = lab.home().with_file_name("other");
    fs::create_dir_all(home.join("config")).expect("a folder");
    let releases = home.join("releases.yaml");
    let text =
        "projects:\n  - name: Lab\n    releases:\n      - {id: 1, name: Lab 1, state: open, packages: [tools@1]}\n";
    fs::write(&releases, text).expect("an own folder");
    let own = format!(
        "archive: {}\nrelease_manager: {{file: {}}}\n{EAGER}\n{extra}",
        alias(lab).display(),
        releases.display()
    );
    fs::write(home.join("config/sydney.conf"), lab.config_text(&own)).expect("an own folder");
    Account::Master.own(&home);
    home
}

fn in_home(lab: &Lab, home: &Path, name: &str, arguments: &[&str]) -> Outcome {
    let mut command = lab.command_in(home, name);
    process::run(command.args(arguments), lab.home().parent().expect("a lab"))
}

fn record(lab: &Lab) -> PathBuf {
    lab.target_archive().join(".dpkg_archive/archive")
}

fn record_text(lab: &Lab) -> String {
    fs::read_to_string(record(lab)).expect("a record")
}

/// The id of a home tree.
fn home_id(home: &Path) -> String {
    fs::read_to_string(home.join("config/home-id")).expect("a home id").trim().to_owned()
}

/// Line 15: another home tree that comes to the same archive by another name sends its packages, and neither lists nor deletes; until it
/// takes the archive over, from when on the first does no more.
#[test]
fn two_home_trees_on_one_archive_never_delete_each_others_packages() {
    for served in SERVED {
        let lab = lab("twohomes");
        lab.config("perth", &format!("{EAGER}\n{served}"));
        let other = other_home(&lab, served);
        let first = || lab.agent_once("perth");
        let second = || in_home(&lab, &other, "blat-agent", &["--target", "sydney", "--once"]);

        first().expect_success().says("1 sent");
        let mine = format!("{} perth", home_id(&lab.home()));
        assert_eq!(record_text(&lab).lines().nth(1), Some(mine.as_str()), "who comes first owns it");
        let former = record_text(&lab);

        second().expect(1).says("belongs to target perth of another home tree").says("blat adopt sydney");
        assert_eq!(lab.visible(), ["core@1", "tools@1"], "{served}: sending goes on, and nothing is deleted");
        assert_eq!(lab.package_list(), ["core 1"], "{served}: nor is it listed anew");
        in_home(&lab, &other, "blat", &["plan", "sydney"]).expect_success().says("stop").says("target perth");
        first().expect_success().says("1 deleted");
        assert_eq!(lab.visible(), ["core@1"], "{served}: its owner decides what it holds");

        in_home(&lab, &other, "blat", &["adopt", "sydney"])
            .expect_success()
            .says("it belonged to target perth")
            .says(&mine[..32]);
        let theirs = format!("{} sydney", home_id(&other));
        assert_eq!(record_text(&lab).lines().nth(1), Some(theirs.as_str()));
        assert_ne!(record_text(&lab).lines().next(), former.lines().next(), "{served}: each adoption has its own id");
        in_home(&lab, &other, "blat", &["history"]).expect_success().says("adopted").says(&mine[..32]);
        let unknown = "does not know what tags brought before";
        second().expect_success().says(unknown);
        assert_eq!(lab.visible(), ["core@1", "tools@1"], "{served}: the former owner's tags may have brought it");
        let confirmed = ["--target", "sydney", "--once", "--allow-delete"];
        in_home(&lab, &other, "blat-agent", &confirmed).expect_success().says("1 deleted");
        assert_eq!((lab.visible(), lab.package_list()), (vec!["tools@1".to_owned()], vec!["tools 1".to_owned()]));
        first().expect(1).says("belongs to target sydney of another home tree").says("blat adopt perth");
        assert_eq!(lab.visible(), ["core@1", "tools@1"], "{served}");

        lab.blat(&["adopt", "perth"]).expect_success().says("it belonged to target sydney");
        lab.blat(&["adopt", "perth"]).expect_success().says("already");
        first().expect_success().says(unknown);
        in_home(&lab, &lab.home(), "blat-agent", &["--target", "perth", "--once", "--allow-delete"])
            .expect_success()
            .says("1 deleted");
        second().expect(1).says("another home tree");
        lab.assert_published("core", "1");
    }
}

/// Line 15: from the moment that another home owns the archive, the former owner's tags replace nothing, though its agent knows it only by the next sync.
#[test]
fn who_lost_the_archive_replaces_nothing_by_tag_from_then_on() {
    for served in SERVED {
        let mut lab = lab("lost");
        lab.config("perth", &format!("{EAGER}\n{served}"));
        let other = other_home(&lab, served);
        lab.start_master();
        lab.wait_for_status("perth", "done", |s| s["last_sync"]["result"] == "ok");
        in_home(&lab, &other, "blat", &["adopt", "sydney"]).expect_success().says("it belonged to target perth");
        tree::remove(&lab.source().join("core/1"));
        lab.package("core", "1", |p| p.file("bin/a", "later").time(1_700_000_100));
        let tag = lab.drop_tag("perth", "core", "1");
        let status = lab.wait_for_status("perth", "a conflict", |s| {
            let text = s["last_error"]["text"].as_str().unwrap_or_default();
            s["last_error"]["package"] == "core@1"
                && text.contains("it is not replaced: the archive belongs to target sydney")
        });
        let content = || fs::read_to_string(lab.on_target("core", "1").join("bin/a")).expect("a package");
        assert!(tag.exists() && content() == "core", "{served}: {status:#}");
        lab.drop_tag("perth", "later", "1");
        lab.wait_until_published("later", "1");
        lab.blat(&["adopt", "perth"]).expect_success();
        lab.blat(&["sync", "perth", "--wait"]).expect_success();
        assert_eq!(content(), "later", "{served}: the owner replaces");
    }
}

/// Line 15: an archive that is restored from before it was adopted makes nobody its owner again.
#[test]
fn who_lost_the_archive_does_not_get_it_back_by_a_backup_of_it() {
    for served in SERVED {
        let lab = lab("restored");
        lab.config("perth", &format!("{EAGER}\n{served}"));
        let other = other_home(&lab, served);
        let first = || lab.agent_once("perth");
        let second = || in_home(&lab, &other, "blat-agent", &["--target", "sydney", "--once"]);
        first().expect_success();
        let backup = lab.target_archive().with_file_name("backup");
        assert!(
            Command::new("cp").arg("-a").args([lab.target_archive(), backup.clone()]).status().expect("cp").success()
        );
        in_home(&lab, &other, "blat", &["adopt", "sydney"]).expect_success();
        second().expect_success();
        first().expect(1).says("belongs to target sydney of another home tree");

        tree::remove(&lab.target_archive());
        fs::rename(&backup, lab.target_archive()).expect("an own folder");
        let older = "it is an older one, perhaps from a backup of the archive";
        let text = record_text(&lab);
        second().expect(1).says("the archive is another directory").says("blat adopt sydney");
        for _ in 0..2 {
            first().expect(1).says(older).says("target sydney of another home tree").says("blat adopt perth");
            assert_eq!(lab.visible(), ["core@1"], "{served}: what the copy had stays");
        }
        lab.blat(&["plan", "perth"]).expect_success().says(older);
        assert_eq!(record_text(&lab), text, "{served}: that is for an operator to say");

        lab.blat(&["adopt", "perth"]).expect_success().says("it belongs to this target now");
        lab.blat(&["adopt", "perth"]).expect_success().says("already");
        first().expect_success().says("does not know what tags brought before");
        in_home(&lab, &other, "blat", &["adopt", "sydney"]).expect_success().says("it belonged to target perth");
        second().expect_success();
        first().expect(1).says("belongs to target sydney");
    }
}

/// Line 15: the same where both targets are of one home tree, which no comparison of configs can see.
#[test]
fn two_targets_that_name_one_archive_differently_never_delete_each_others_packages() {
    let mut lab = lab("twotargets");
    lab.config("perth", &format!("{EAGER}\npkg: {{tools: 1}}"));
    lab.agent_once("perth").expect_success();
    lab.config("sydney", &format!("{EAGER}\narchive: {}\npkg: {{later: 1}}", alias(&lab).display()));
    lab.start_master();
    let status = lab.wait_for_status("sydney", "kept from deleting", |s| s["last_sync"]["result"] == "failed");
    let text = status["last_error"]["text"].as_str().expect("a text");
    assert!(text.contains("belongs to target perth of this home tree") && text.contains("blat adopt sydney"), "{text}");
    assert_eq!(status["last_sync"]["deleted"], 0, "{status:#}");
    assert_eq!(lab.package_list(), ["core 1", "tools 1"]);

    lab.drop_tag("sydney", "later", "1");
    lab.wait_until_published("later", "1");
    lab.wait_for_status("perth", "done", |s| s["last_sync"]["result"] == "ok");

    // The agents that run find it out at their next syncs.
    lab.blat(&["adopt", "sydney"]).expect_success().says("it belonged to target perth");
    lab.blat(&["sync", "perth", "--wait"]).expect(1).says("belongs to target sydney");
    // It only shows what it would delete, and lists that as long.
    lab.blat(&["sync", "sydney", "--wait", "--allow-delete"]).expect_success();
    assert_eq!(lab.package_list(), ["core 1", "later 1", "tools 1"]);
    lab.blat(&["sync", "sydney", "--wait", "--allow-delete"]).expect_success();
    assert_eq!(lab.package_list(), ["core 1", "later 1"]);
}

/// Everything in a directory, with the bytes of its files.
fn everything(root: &Path) -> Vec<String> {
    let find = process::run(
        Command::new("find").args(["-P", ".", "-printf", "%p %y %m %s %T@ %l\\n"]).current_dir(root),
        root.parent().expect("a parent"),
    );
    let mut lines: Vec<String> = find.expect_success().stdout.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// A source that the target's account may write, as the proved attack needs it.
fn open_source(lab: &Lab) {
    if rustix::process::getuid().is_root() {
        let user = fs::read_to_string(lab.home().with_file_name("sshd").join("user")).expect("a started sshd");
        let mut chown = Command::new("chown");
        process::run(chown.args(["-R", user.trim()]).arg(lab.source()), &lab.home()).expect_success();
    }
}

/// The path by which the source is reached as an archive.
type Archive<'a> = &'a dyn Fn(&Lab) -> String;

/// Line 14: the source itself as a target, by every way that leads there: it is refused and nothing in it is touched, whatever aging says.
#[test]
fn the_source_itself_as_a_target_is_refused_and_nothing_is_touched() {
    const ABOVE: &str = "above it";
    let source_of = |lab: &Lab| lab.source().display().to_string();
    let linked = |lab: &Lab| {
        let link = lab.source().with_file_name("link");
        symlink(lab.source(), &link).expect("an own folder");
        link.display().to_string()
    };
    let inner = |lab: &Lab| lab.source().join("core").display().to_string();
    let bin = |lab: &Lab| format!("bin: {}", lab.home().join("bin").display());
    let ways: [(&str, Archive<'_>, &str); 7] = [
        ("by the receiver", &source_of, "receiver: auto"),
        ("by scripts", &source_of, "receiver: never"),
        ("through a link", &linked, "receiver: never"),
        ("here, through a link", &linked, "transport: local\nreceiver: never"),
        ("here, by the receiver", &linked, "transport: local\nreceiver: auto"),
        ("in it", &inner, "receiver: never"),
        (ABOVE, &source_of, "receiver: never"),
    ];
    for (way, archive, extra) in ways {
        let mut lab = lab("itself");
        open_source(&lab);
        let mut own = format!("{EAGER}\narchive: {}\n{extra}", archive(&lab));
        if way == ABOVE {
            own += &format!("\nsource: {}", inner(&lab));
        }
        if extra.contains("local") {
            Account::Master.own(&lab.source());
            own += &format!("\n{}", bin(&lab));
        }
        let text = lab.config_text(&own);
        let ssh_keys = ["host:", "port:", "user:", "identity:", "known_hosts:"];
        let is_kept = |line: &&str| !extra.contains("local") || !ssh_keys.iter().any(|key| line.starts_with(key));
        let text: String = text.lines().filter(is_kept).map(|line| format!("{line}\n")).collect();
        lab.raw_config("perth", &text);
        let before = everything(&lab.source());

        let refused = "are the same directory, or one lies in the other";
        lab.agent_once("perth").expect(1).says(refused).says("config/perth.conf");
        lab.blat(&["plan", "perth"]).expect(1).says(refused);
        lab.blat(&["verify", "perth", "--repair"]).expect(1).says(refused);
        lab.blat(&["adopt", "perth"]).expect(1).says(refused);
        assert_eq!(everything(&lab.source()), before, "{way}");

        lab.drop_tag("perth", "tools", "1");
        lab.start_master();
        let status = lab.wait_for_status("perth", "refused", |s| {
            let is_said = s["last_error"]["text"].as_str().is_some_and(|text| text.contains(refused));
            is_said && s["queue"]["tags"] == 1 && s["last_sync"]["result"] == "failed"
        });
        assert_eq!(status["last_sync"]["deleted"], 0, "{way}: {status:#}");
        lab.end_master(rustix::process::Signal::TERM).expect_success();
        assert_eq!(everything(&lab.source()), before, "{way}");
    }
}

/// A record that says nothing, or cannot be read, owns nothing: it stays as it is, and nobody lists or deletes.
#[test]
fn a_damaged_record_is_told_and_never_overwritten_but_by_an_adoption() {
    for served in SERVED {
        let lab = lab("damaged");
        lab.config("perth", &format!("{EAGER}\n{served}\npkg: {{tools: 1}}"));
        lab.agent_once("perth").expect_success();
        let good = record_text(&lab);
        lab.config("perth", &format!("{EAGER}\n{served}"));
        let write = "printf '%s' \"$2\" >\"$1\"";
        let path = record(&lab).display().to_string();
        for damage in ["", "\u{1b}[31mperth", &good[..40], &format!("{good}more\n")] {
            lab.as_target_user(&["sh", "-c", write, "sh", &path, damage]).expect_success();
            lab.agent_once("perth").expect(1).says("nobody knows whom the archive belongs to").says("blat adopt perth");
            assert_eq!(record_text(&lab), damage, "{served}");
            assert_eq!((lab.visible().len(), lab.package_list().len()), (2, 2), "{served}");
        }
        lab.as_target_user(&["sh", "-c", "rm \"$1\" && mkfifo \"$1\"", "sh", &path]).expect_success();
        lab.agent_once("perth").expect(1).says("no regular file");
        lab.blat(&["adopt", "perth"]).expect_success().says("did not say whom it belonged to");
        assert_eq!(record_text(&lab).lines().nth(1), good.lines().nth(1), "{served}");
        lab.agent_once("perth").expect_success().says("does not know what tags brought before");
        assert_eq!(lab.visible().len(), 2, "{served}: nobody knows who owned it meanwhile");
        in_home(&lab, &lab.home(), "blat-agent", &["--target", "perth", "--once", "--allow-delete"])
            .expect_success()
            .says("1 deleted");
    }
}

/// Line 16: a PackageList that was there and is gone, or cut short, may mean that this is not the archive that it was.
#[test]
fn nothing_is_deleted_in_a_sync_that_found_no_whole_package_list() {
    for served in SERVED {
        let lab = lab("unlisted");
        let all = format!("{EAGER}\n{served}\npkg: {{tools: 1}}");
        let list = lab.target_archive().join(".dpkg_archive/PackageList.txt").display().to_string();
        for damage in ["rm \"$1\"", ": >\"$1\"", "head -n 1 \"$1\" >\"$1.new\" && mv \"$1.new\" \"$1\""] {
            lab.config("perth", &all);
            lab.agent_once("perth").expect_success();
            assert_eq!(lab.visible(), ["core@1", "tools@1"]);
            lab.as_target_user(&["sh", "-c", damage, "sh", &list]).expect_success();
            lab.config("perth", &format!("{EAGER}\n{served}"));
            lab.agent_once("perth").expect(1).says("had no whole PackageList");
            assert_eq!(lab.visible(), ["core@1", "tools@1"], "{served}: {damage}");
            assert_eq!(lab.package_list(), ["core 1"], "{served}: it is listed anew");
            lab.agent_once("perth").expect_success().says("1 deleted");
        }
        if !rustix::process::getuid().is_root() || served == SERVED[1] {
            lab.config("perth", &all);
            lab.agent_once("perth").expect_success();
            lab.config("perth", &format!("{EAGER}\n{served}"));
            lab.as_target_user(&["chmod", "000", &list]).expect_success();
            lab.agent_once("perth").expect(1).says("PackageList");
            lab.as_target_user(&["chmod", "644", &list]).expect_success();
            assert_eq!((lab.visible().len(), lab.package_list().len()), (2, 2), "one that cannot be read stays");
        }
    }
}

/// A home tree that lost its id, as one that was restored without it, owns nothing until it says so; a damaged id is a bad config.
#[test]
fn a_home_tree_without_its_id_is_another_home_tree_and_a_damaged_id_is_a_bad_config() {
    let lab = lab("homeid");
    lab.config("perth", EAGER);
    lab.agent_once("perth").expect_success();
    let file = lab.home().join("config/home-id");
    let id = home_id(&lab.home());
    fs::remove_file(&file).expect("an own file");
    lab.agent_once("perth").expect(1).says("another home tree").says("blat adopt perth");
    assert_ne!(home_id(&lab.home()), id, "a new one was made");
    fs::write(&file, "perth\n").expect("an own file");
    lab.agent_once("perth").expect(78).says("home-id is damaged");
    fs::write(&file, format!("{id}\n")).expect("an own file");
    lab.agent_once("perth").expect_success();
    tree::assert_never_partial(&lab.source(), &lab.target_archive());

    let fresh = lab.home().join("fresh");
    lab.blat(&["init", fresh.to_str().expect("text")]).expect_success().says("config/home-id");
    let made = home_id(&fresh);
    lab.blat(&["init", fresh.to_str().expect("text")]).expect_success();
    assert_eq!((home_id(&fresh), made.len()), (made.clone(), 32), "it is made once");
}
