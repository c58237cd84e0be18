//! `blat-receiver` comes to a target by itself where it runs there; elsewhere scripts serve, and everybody is told why.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::Command;

use blat_tests::accounts::Account;
use blat_tests::disk::Disk;
use blat_tests::{Lab, process};
use serde_json::Value;

/// A lab with one small package that is wanted, served as `receiver` says.
fn lab(name: &str, receiver: &str) -> Lab {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    lab.config("perth", &format!("receiver: {receiver}"));
    lab
}

fn installed(lab: &Lab) -> PathBuf {
    lab.target_bin().join("blat-receiver")
}

fn carried() -> Vec<u8> {
    fs::read(process::carried_receiver()).expect("an executable")
}

#[test]
fn the_receiver_is_installed_when_missing_or_changed_and_left_alone_otherwise() {
    let lab = lab("installed", "auto");
    process::run(lab.command("blat-agent").arg("--version"), &lab.home()).expect_success().says("-linux");
    lab.blat(&["check", "--connect", "perth"]).expect_success().says("blat-receiver to be installed");
    assert!(!installed(&lab).exists(), "a check changes nothing");

    lab.agent_once("perth").expect_success();
    let look = || fs::metadata(installed(&lab)).expect("it is there");
    assert!(fs::read(installed(&lab)).expect("it can be read") == carried(), "it is the carried build");
    assert_eq!(look().permissions().mode() & 0o777, 0o755);
    assert!(lab.target_bin().join("pkg_mon").exists() && lab.target_bin().join("pkg_purge").exists(), "for cron");
    lab.blat(&["check", "--connect", "perth"]).expect_success().says("blat-receiver is current");

    let before = look().ino();
    lab.agent_once("perth").expect_success();
    assert_eq!(look().ino(), before, "it is not sent again");
    // The one before may still be running, and nobody writes into a running program.
    let (path, line) = (installed(&lab).display().to_string(), "echo other >\"$1.new\" && mv \"$1.new\" \"$1\"");
    lab.as_target_user(&["sh", "-c", line, "sh", &path]).expect_success();
    lab.agent_once("perth").expect_success();
    assert!(fs::read(installed(&lab)).expect("it can be read") == carried(), "and comes back when it was changed");
}

/// What is in the scripts' directory: bytes and permissions by name.
fn beside(lab: &Lab) -> BTreeMap<String, (Vec<u8>, u32)> {
    let entries = fs::read_dir(lab.target_bin()).into_iter().flatten().map(|entry| entry.expect("an entry"));
    let facts = |entry: fs::DirEntry| {
        let mode = entry.metadata().expect("it is there").mode() & 0o777;
        (entry.file_name().to_string_lossy().into_owned(), (fs::read(entry.path()).unwrap_or_default(), mode))
    };
    entries.map(facts).collect()
}

/// Cron runs some of it, perhaps weeks later: nobody else would find out.
#[test]
fn what_is_removed_or_changed_there_is_back_after_the_next_full_sync_on_the_same_connection() {
    for served in ["auto", "never"] {
        let mut lab = lab(&format!("back{served}"), served);
        lab.start_master();
        lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
        let (installed, link) = (beside(&lab), lab.link_processes());
        assert_eq!(
            (installed.contains_key("blat-receiver"), link.len()),
            (served == "auto", 1),
            "{:?}",
            installed.keys()
        );
        let of_scripts = [
            "rm pkg_mon pkg_purge",
            "echo 'exit 0 # mine' >>pkg_purge",
            "head -c 1000 blat-lib.sh >x; cat x >blat-lib.sh; rm x",
            "chmod 644 pkg_mon; chmod 0 get_plist",
            "rm receive_file; ln -s nowhere receive_file",
            "rm -r \"$PWD\"",
        ];
        let of_receiver = [
            "rm blat-receiver",
            "chmod 644 blat-receiver",
            "cp blat-receiver x; echo >>x; mv x blat-receiver",
            "mv blat-receiver x; : >blat-receiver; rm x",
        ];
        for line in of_scripts.iter().chain(of_receiver.iter().filter(|_| served == "auto")) {
            let folder = lab.target_bin().display().to_string();
            lab.as_target_user(&["sh", "-ec", &format!("cd \"$1\"; {line}"), "sh", &folder]).expect_success();
            assert!(beside(&lab) != installed, "{served}, {line}: this shows nothing");
            lab.blat(&["sync", "perth", "--wait"]).expect_success();
            let now = beside(&lab);
            let differ: Vec<&String> = installed.keys().filter(|name| now.get(*name) != installed.get(*name)).collect();
            assert!(
                differ.is_empty() && now.len() == installed.len(),
                "{served}, {line}: {differ:?}, {:?}",
                now.keys()
            );
        }
        assert_eq!(lab.link_processes(), link, "{served}: over the same connection");
    }
}

/// As when a disk is mounted there, or an archive is restored beside it and moved into place.
#[test]
fn an_archive_that_is_replaced_is_served_by_the_next_sync() {
    for served in ["auto", "never"] {
        let mut lab = lab(&format!("swap{served}"), served);
        lab.start_master();
        lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
        let archive = lab.target_archive().display().to_string();
        lab.as_target_user(&[
            "sh",
            "-ec",
            "cp -a \"$1\" \"$1.new\"; mv \"$1\" \"$1.old\"; mv \"$1.new\" \"$1\"",
            "sh",
            &archive,
        ])
        .expect_success();
        lab.package("late", "1", |p| p.file("a", "1"));
        lab.release(&[("core", "1"), ("late", "1")]);
        // Of the first one the target may say that the directory is another.
        lab.blat(&["sync", "perth", "--wait"]);
        lab.blat(&["sync", "perth", "--wait"]).expect_success();
        lab.assert_published("late", "1");
    }
}

/// What was published there last would be in nobody's archive, and its tag gone.
#[test]
fn a_tag_in_flight_goes_to_the_archive_that_takes_the_place_of_the_one_it_was_for() {
    for served in ["auto", "never"] {
        let mut lab = lab(&format!("swaptag{served}"), &format!("{served}\nbandwidth: 128k"));
        lab.package("bulk", "1", |p| p.noise("a", 2 << 20));
        lab.start_master();
        lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
        let archive = lab.target_archive().display().to_string();
        let on_target = |script| {
            lab.as_target_user(&["sh", "-ec", script, "sh", &archive]).expect_success();
        };
        on_target("cp -a \"$1\" \"$1.new\"");
        let tag = lab.drop_tag("perth", "bulk", "1");
        lab.wait_until_receiving();
        on_target("mv \"$1\" \"$1.old\"; mv \"$1.new\" \"$1\"");
        // No sync begins meanwhile, which would notice it.
        lab.wait_for("the tag to be removed", || (!tag.exists()).then_some(()));
        lab.assert_published("bulk", "1");
        assert!(!lab.target_archive().with_extension("old").join("bulk/1").exists(), "{served}");
    }
}

/// It has the conversation that must make room first.
#[test]
fn a_tag_that_is_under_way_is_not_cut_where_something_is_to_be_put_back() {
    let mut lab = lab("backtag", "auto\nbandwidth: 32k");
    lab.package("bulk", "1", |p| p.noise("a", 24 << 20));
    lab.start_master();
    lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    let link = lab.link_processes();
    lab.drop_tag("perth", "bulk", "1");
    lab.wait_until_receiving();

    let gone = lab.target_bin().join("pkg_purge");
    lab.as_target_user(&["rm", &gone.display().to_string()]).expect_success();
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    assert!(!lab.on_target("bulk", "1").exists(), "it cannot all have been sent");

    lab.config("perth", "receiver: auto");
    lab.wait_until_published("bulk", "1");
    lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["queue"]["tags"] == 0);
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    assert!(gone.exists(), "it is back once the tag is served");
    assert_eq!(lab.link_processes(), link, "over the same connection");
    let log = fs::read_to_string(lab.home().join("log/perth.log")).expect("the agent's log");
    assert!(!log.contains(" WARN "), "nothing was tried again: {log}");
}

#[test]
fn scripts_serve_where_the_config_says_so_and_a_change_takes_effect_in_the_running_agent() {
    let mut lab = lab("never", "never");
    lab.start_master();
    let via = |status: &Value| status["far_end"]["kind"].as_str().map(str::to_owned);
    let perth = lab.wait_for_status("perth", "served", |status| via(status).is_some());
    assert_eq!((&perth["far_end"]["kind"], &perth["far_end"]["why"]), (&"scripts".into(), &Value::Null), "{perth:#}");
    lab.blat(&["status"]).expect_success().says("scripts");
    assert!(!installed(&lab).exists());

    lab.config("perth", "receiver: auto\nsync: 1s");
    lab.wait_for("the receiver", || installed(&lab).exists().then_some(()));
    let served = lab.wait_for_status("perth", "served by it", |status| via(status).as_deref() == Some("receiver"));
    assert_eq!(served["pid"], perth["pid"], "the agent is the same");
}

#[test]
fn a_build_that_the_config_names_is_the_only_one_that_will_do() {
    let lab = lab("named", "./build");
    let build = lab.home().join("build");
    fs::write(&build, "#!/bin/sh\necho blat-receiver 0.0.0\n").expect("an own folder");
    let outcome = lab.agent_once("perth");
    outcome.expect(1).says("blat-receiver 0.0.0").says("receiver: auto");
    assert!(!installed(&lab).exists());
    fs::write(&build, carried()).expect("an own folder");
    lab.agent_once("perth").expect_success();
    assert!(fs::read(installed(&lab)).expect("it can be read") == carried());
}

#[test]
fn as_root_where_nothing_may_be_executed_scripts_serve_and_the_status_says_why() {
    let mut lab = lab("noexec", "auto");
    let _disk = Disk::mount(lab.target_bin(), "size=32m,noexec");
    lab.start_master();
    let is_synced = |status: &Value| status["last_sync"]["result"] == "ok";
    let perth = lab.wait_for_status("perth", "synced", is_synced);
    lab.assert_published("core", "1");
    let why = perth["far_end"]["why"].as_str().expect("a reason");
    assert!(perth["far_end"]["kind"] == "scripts" && why.contains("cannot run in"), "{perth:#}");
    assert!(why.contains("Permission denied"), "{perth:#}");
    lab.blat(&["status"]).expect_success().says("served by scripts: blat-receiver cannot run in");
    let left = fs::read_dir(lab.target_bin()).expect("a folder").flatten();
    assert!(left.map(|entry| entry.file_name()).all(|name| !name.to_string_lossy().contains("receiver")));
}

#[test]
fn a_receiver_that_runs_and_holds_no_conversation_gives_way_to_the_scripts_and_the_status_says_why() {
    let mut lab = lab("speechless", "auto");
    let version = process::run(Command::new(process::carried_receiver()).arg("--version"), &lab.home()).stdout;
    // An agent of its own, which carries a build that passes the trial and dies whenever it is to serve.
    let (agent, builds) = (lab.home().join("bin/blat-agent"), lab.home().join("bin/receivers"));
    fs::create_dir_all(&builds).expect("an own folder");
    fs::copy(process::executable("blat-agent"), &agent).expect("a copy");
    let build = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exec echo '{}'\necho it is speechless >&2\nexit 9\n",
        version.trim()
    );
    let own_name = process::carried_receiver();
    fs::write(builds.join(own_name.file_name().expect("a file's path")), build).expect("an own folder");

    let line = format!("exec \"$@\" --agent '{}'", agent.display());
    lab.start_master_below(&["sh", "-c", &line, "sh"]);

    let perth = lab.wait_for_status("perth", "synced", |status| status["last_sync"]["result"] == "ok");
    lab.assert_published("core", "1");
    let why = perth["far_end"]["why"].as_str().expect("a reason");
    assert!(perth["far_end"]["kind"] == "scripts" && why.contains("3 conversations"), "{perth:#}");
    assert!(why.contains("it is speechless"), "{perth:#}");
    lab.blat(&["status"]).expect_success().says("served by scripts: 3 conversations");
    assert!(installed(&lab).exists(), "it was tried");
}

#[test]
fn as_root_a_package_that_the_target_s_owner_may_not_read_goes_and_takes_no_neighbour_along() {
    let lab = lab("unreadable", "auto");
    lab.package("core", "2", |p| p.file("a", "2"));
    let source = lab.package("odd", "1", |p| p.with_mode("others", "for others alone", 0o044).file("own", "x"));
    // Whoever writes packages is not the master, who reads them as one of the others.
    Account::ReleaseManager.own(&source);
    lab.release(&[("core", "1"), ("odd", "1"), ("core", "2")]);
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible(), ["core@1", "core@2", "odd@1"]);
    let there = lab.on_target("odd", "1").join("others");
    assert_eq!(fs::metadata(&there).expect("a file").mode() & 0o7777, 0o044);
    assert_eq!(fs::read_to_string(&there).expect("root may"), "for others alone");
    let read = lab.as_target_user(&["cat", &there.display().to_string()]);
    assert_ne!(read.code, Some(0), "this shows nothing: {read}");
    lab.agent_once("perth").expect_success().says("0 sent");
}
