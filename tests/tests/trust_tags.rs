//! A tag directory that belongs to somebody else: Release Manager's account may put anything there, at any moment, and harms nobody by it.
//! And a tag is never lost, however it is written.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blat_tests::accounts::Account;
use blat_tests::{Disk, Lab, process};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::Signal;
use serde_json::Value;

/// Tags written in place, by each way.
const MANY: usize = 100;
/// The most that an agent may hold beside what it holds at rest.
const MOST_MEMORY: u64 = 64 << 20;

/// How often a tag directory is looked at in a test that counts what that takes.
const POLL: Duration = Duration::from_secs(1);

/// A lab with an idle target whose tag directory belongs to Release Manager's account and has this mode, and a package that nobody wants.
struct Scene {
    lab: Lab,
    tags: PathBuf,
}

impl Scene {
    fn new(name: &str, mode: u32, extra: &str) -> Self {
        let mut scene = Self::before_start(name, mode, extra);
        scene.lab.start_master();
        scene.wait_until_idle();
        scene
    }

    fn before_start(name: &str, mode: u32, extra: &str) -> Self {
        let lab = Lab::new(name);
        for package in ["core", "tools"] {
            lab.package(package, "1", |p| p.file("a", "1"));
        }
        lab.release(&[]);
        let tags = lab.home().parent().expect("the lab").join("dropped");
        fs::create_dir(&tags).expect("a scratch folder");
        Account::ReleaseManager.own(&tags);
        fs::set_permissions(&tags, fs::Permissions::from_mode(mode)).expect("root may");
        lab.config("perth", &format!("tags: {}\n{extra}", tags.display()));
        Self { lab, tags }
    }

    fn wait_until_idle(&self) {
        self.lab.wait_for_status("perth", "done with its first sync", |s| {
            s["last_sync"]["result"] == "ok" && s["state"] == "idle"
        });
    }

    /// Runs a script in the tag directory, as Release Manager's account.
    fn as_release_manager(&self, script: &str) {
        let mut shell = Account::ReleaseManager.command("sh");
        process::run(shell.args(["-euc", script]).current_dir(&self.tags), &self.tags).expect_success();
    }

    fn wait_until_gone(&self, name: &str) {
        let path = self.tags.join(name);
        self.lab.wait_for(&format!("{name} to go"), || path.symlink_metadata().is_err().then_some(()));
    }

    /// A good tag goes its way, whatever else lies there.
    fn assert_good_tags_go_on(&self) {
        self.as_release_manager(": >core@1.tmp; mv core@1.tmp core@1");
        self.lab.wait_until_published("core", "1");
        self.wait_until_gone("core@1");
    }

    fn wait_for_error(&self, parts: &[&str]) -> Value {
        self.lab.wait_for_status("perth", &format!("reporting {parts:?}"), |s| {
            s["last_error"]["text"].as_str().is_some_and(|text| parts.iter().all(|part| text.contains(part)))
        })
    }

    fn wait_until_well(&self) {
        self.lab.wait_for_status("perth", "well again", |s| s["state"] == "idle" && s["last_error"].is_null());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.lab.home().join("log/perth.log")).expect("the agent's log")
    }

    fn log_lines(&self, what: &str) -> usize {
        self.log().lines().filter(|line| line.contains(what)).count()
    }

    fn agent(&self) -> u32 {
        self.lab.target_status("perth")["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("an agent")
    }
}

/// The attack that ran commands as the master: a "tag" that is a config, and the place for bad tags leading to `config/`.
#[test]
fn as_root_a_place_that_is_a_link_leads_nothing_out_of_the_tag_directory() {
    let scene = Scene::new("placelink", 0o777, "tag_poll: 1s");
    let config = scene.lab.home().join("config");
    let proof = scene.lab.home().parent().expect("the lab").join("proof");
    let evil = scene.lab.config_text(&format!("release_manager: {{command: [touch, {}]}}", proof.display()));
    let aside = scene.tags.join(".evil");
    fs::write(&aside, evil).expect("root may");
    Account::ReleaseManager.own(&aside);
    let before = names(&config);

    scene.as_release_manager("ln -s ../home/config bad; mv .evil evil.conf");
    scene.wait_for_error(&["dropped/bad: it is a link", "evil.conf", "remove it"]);
    scene.assert_good_tags_go_on();
    assert!(scene.tags.join("evil.conf").exists(), "it stays where it was dropped");
    assert_eq!(names(&config), before);

    // As soon as the link is gone, the file goes where bad tags belong.
    scene.as_release_manager("rm bad");
    scene.wait_until_gone("evil.conf");
    assert!(scene.tags.join("bad/evil.conf").is_file() && scene.tags.join("bad/evil.conf.reason").is_file());
    scene.wait_until_well();
    assert_eq!(names(&config), before);
    assert!(!proof.exists(), "nothing of it ran");
}

#[test]
fn as_root_reasons_are_never_written_through_what_lies_there_and_a_fifo_hangs_nobody() {
    let mut scene = Scene::new("reasons", 0o777, "tag_poll: 1s");
    let known_hosts = scene.lab.home().parent().expect("the lab").join("client/known_hosts");
    let before = (fs::read(&known_hosts).expect("host keys"), fs::metadata(&known_hosts).expect("a file").mtime());
    scene.as_release_manager(&format!(
        "mkdir -m 777 bad; ln -s {} bad/x.reason; mkfifo -m 666 bad/y.reason; echo no tag at all >x; echo no tag at all >y",
        known_hosts.display()
    ));
    scene.wait_for_error(&["dropped/bad: it belongs to the account"]);
    scene.assert_good_tags_go_on();
    let after = (fs::read(&known_hosts).expect("host keys"), fs::metadata(&known_hosts).expect("a file").mtime());
    assert_eq!(after, before);
    assert_eq!(names(&scene.tags.join("bad")), ["x.reason", "y.reason"]);

    // In a place of the agent's own, opened to others by mistake, the same names are not followed either.
    scene.as_release_manager("mv bad owned");
    scene.lab.wait_for("a place of the agent's own", || scene.tags.join("bad/y.reason").is_file().then_some(()));
    fs::set_permissions(scene.tags.join("bad"), fs::Permissions::from_mode(0o777)).expect("root may");
    scene.as_release_manager(&format!(
        "ln -s {} bad/z.reason; mkfifo -m 666 bad/w.reason; echo no tag at all >z; echo no tag at all >w",
        known_hosts.display()
    ));
    for name in ["x", "y", "z", "w"] {
        scene.wait_until_gone(name);
        scene.lab.wait_for("its reason", || scene.tags.join(format!("bad/{name}.reason")).is_file().then_some(()));
    }
    let after = (fs::read(&known_hosts).expect("host keys"), fs::metadata(&known_hosts).expect("a file").mtime());
    assert_eq!(after, before);
    scene.wait_until_well();
    scene.lab.end_master(Signal::TERM).expect_success();
}

#[test]
fn as_root_a_fifo_in_the_place_of_a_reason_leaves_the_agent_answering_and_stopping() {
    let mut scene = Scene::before_start("fifo", 0o777, "tag_poll: 1s");
    scene.as_release_manager("mkdir bad; mkfifo bad/y.reason; echo no tag at all >y; mkfifo pipe; mkfifo pipe.reason");
    scene.lab.start_master();
    scene.wait_for_error(&["dropped/bad"]);
    scene.assert_good_tags_go_on();
    scene.lab.blat(&["sync", "perth", "--wait"]).expect_success();
    let agent = scene.agent();
    process::signal(agent, Signal::TERM);
    scene.lab.wait_for_status("perth", "served by another agent", |s| s["pid"].is_u64() && s["pid"] != agent);
    scene.lab.end_master(Signal::TERM).expect_success();
}

/// Waits through some tries; then what was sent was sent once, and each try cost a line.
fn assert_tries_grow_rare(scene: &Scene, error: &str) {
    scene.lab.wait_until_published("core", "1");
    let status = scene.wait_for_error(&["cannot remove the tag \"core@1\"", "dropped", error, "write permission"]);
    assert_eq!(status["state"], "waiting", "{status:#}");
    assert!(status["last_error"]["retry_at"].is_string(), "{status:#}");
    scene.lab.wait_for("four tries", || (scene.log_lines("cannot remove the tag") >= 4).then_some(()));
    let log = scene.log();
    let published = log.lines().filter(|line| line.contains("published") && line.contains("package=core@1")).count();
    assert_eq!(published, 1, "{log}");
    assert!(log.lines().count() < 30, "{log}");
    assert!(scene.tags.join("core@1").exists());
}

#[test]
fn as_root_a_tag_in_a_directory_that_the_agent_may_not_write_is_shown_and_tried_less_and_less_often() {
    let scene = Scene::new("readonly", 0o755, "verbose: 2\ntag_poll: 1s");
    scene.as_release_manager(": >core@1");
    assert_tries_grow_rare(&scene, "Permission denied");
    // Other tags are served all the same.
    scene.as_release_manager(": >tools@1");
    scene.lab.wait_until_published("tools", "1");
    fs::set_permissions(&scene.tags, fs::Permissions::from_mode(0o777)).expect("root may");
    scene.wait_until_gone("core@1");
    scene.wait_until_gone("tools@1");
    scene.wait_until_well();
}

#[test]
fn as_root_a_tag_of_root_in_a_sticky_directory_is_shown_and_tried_less_and_less_often() {
    let scene = Scene::new("sticky", 0o1777, "tag_poll: 1s");
    fs::write(scene.tags.join("core@1"), "").expect("root may");
    assert_tries_grow_rare(&scene, "sticky bit");
    fs::remove_file(scene.tags.join("core@1")).expect("root may");
    scene.wait_until_well();
}

#[test]
fn as_root_a_tag_on_a_read_only_disk_is_shown_and_tried_less_and_less_often() {
    let scene = Scene::before_start("rodisk", 0o777, "tag_poll: 1s");
    let disk = Disk::mount(scene.tags.clone(), "size=1m");
    fs::write(scene.tags.join("core@1"), "").expect("root may");
    disk.change("ro");
    let Scene { mut lab, tags } = scene;
    lab.start_master();
    let scene = Scene { lab, tags };
    assert_tries_grow_rare(&scene, "Read-only file system");
}

/// All of these are served, and nothing was ever taken for what it is not.
fn assert_all_served(scene: &Scene, names: impl IntoIterator<Item = String>) {
    names.into_iter().for_each(|name| scene.wait_until_gone(&name));
    for package in ["core", "tools"] {
        scene.lab.wait_until_published(package, "1");
    }
    scene.lab.wait_for_status("perth", "without tags", |s| s["queue"]["tags"] == 0);
    assert!(!scene.tags.join("bad").exists(), "{:?}", self::names(&scene.tags.join("bad")));
    scene.lab.wait_for("served tags to be deleted", || self::names(&scene.tags).is_empty().then_some(()));
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Writes tags in place by each way that people use, and gives their names.
fn write_in_place(scene: &Scene) -> Vec<String> {
    scene.as_release_manager(&format!(
        "i=0; echo 'core 1' >.original
         while [ $i -lt {MANY} ]; do
             echo 'core 1' >echo.$i
             cp .original cp.$i
             : >new.$i.tmp; echo 'core 1' >new.$i.tmp; mv new.$i.tmp mv.$i
             i=$((i + 1))
         done
         rm .original
         {{ echo 'core 1'; sleep 3; echo 'tools 1'; }} >slow"
    ));
    let numbered = |way: &str| (0..MANY).map(|number| format!("{way}.{number}")).collect::<Vec<_>>();
    let mut written = [numbered("echo"), numbered("cp"), numbered("mv")].concat();
    written.push("slow".to_owned());
    written.extend(scp(scene));
    written
}

/// The same from another machine, in place as scp does it.
fn scp(scene: &Scene) -> Vec<String> {
    let lab = scene.lab.home().parent().expect("the lab").to_owned();
    let read = |file: &str| fs::read_to_string(lab.join("sshd").join(file)).expect("a started sshd").trim().to_owned();
    let original = lab.join("client/list");
    fs::write(&original, "core 1\n").expect("root may");
    Account::Master.own(&original);
    let copy = |number: usize| {
        let mut scp = Account::Master.command("scp");
        scp.args(["-q", "-B", "-F", "none", "-P", &read("port"), "-i"]).arg(lab.join("client/id_ed25519"));
        scp.arg("-o").arg(format!("UserKnownHostsFile={}", lab.join("client/known_hosts").display()));
        scp.arg(&original).arg(format!("{}@127.0.0.1:{}/scp.{number}", read("user"), scene.tags.display()));
        process::run(&mut scp, &lab).expect_success();
        format!("scp.{number}")
    };
    (0..10).map(copy).collect()
}

#[test]
fn as_root_no_tag_written_in_place_is_lost_by_notification_alone() {
    let scene = Scene::new("inplace", 0o777, "tag_poll: 100d");
    let written = write_in_place(&scene);
    assert_all_served(&scene, written);
}

#[test]
fn as_root_no_tag_written_in_place_is_lost_by_polling_alone() {
    let keys = "identity: ssh/id_ed25519\nknown_hosts: ssh/known_hosts";
    let mut scene = Scene::before_start("inplacepoll", 0o777, &format!("tag_poll: 1s\n{keys}"));
    scene.lab.keep_keys_at_home();
    scene.lab.start_master_with_notifications(0, 0);
    scene.wait_until_idle();
    let written = write_in_place(&scene);
    assert_all_served(&scene, written);
}

/// An agent that is killed leaves tags in hidden directories behind; nothing is lost of them. What others call so means nothing.
#[test]
fn as_root_a_killed_agent_s_hidden_tags_are_served_by_the_next() {
    let scene = Scene::before_start("hidden", 0o777, "tag_poll: 1s");
    let hidden = |digit: &str| scene.tags.join(format!(".blat-served-{}", digit.repeat(32)));
    for (folder, file, text, owner) in [
        (hidden("1"), "list", "core 1\n", Account::Master),
        (hidden("2"), "tools@1", "", Account::Master),
        (hidden("3"), "stays", "no tag at all\n", Account::ReleaseManager),
    ] {
        fs::create_dir(&folder).expect("a scratch folder");
        fs::write(folder.join(file), text).expect("root may");
        owner.own(&folder);
    }
    scene.as_release_manager("mkdir .blat-taken-1-core@1; mkfifo .blat-taken-2-x; ln -s /etc .blat-reason-0");
    let strange =
        [".blat-reason-0", &format!(".blat-served-{}", "3".repeat(32)), ".blat-taken-1-core@1", ".blat-taken-2-x"];
    let strange = strange.map(str::to_owned);
    let Scene { mut lab, tags } = scene;
    lab.start_master();
    let scene = Scene { lab, tags };
    for package in ["core", "tools"] {
        scene.lab.wait_until_published(package, "1");
    }
    scene.lab.wait_for("served tags to be deleted", || (names(&scene.tags) == strange).then_some(()));
    scene.wait_until_well();
}

/// Names that hidden files of an agent might have, made by a stranger: none of them is touched, and status says whose they are.
#[test]
fn as_root_sixty_thousand_links_cost_little_and_are_reported() {
    let scene = Scene::before_start("manylinks", 0o777, "tag_poll: 1s");
    let one = scene.tags.join(".blat-taken-0-x");
    fs::write(&one, "").expect("root may");
    Account::ReleaseManager.own(&one);
    for number in 1..60_000 {
        fs::hard_link(&one, scene.tags.join(format!(".blat-taken-{number}-x"))).expect("root may");
    }
    let Scene { mut lab, tags } = scene;
    lab.start_master();
    let scene = Scene { lab, tags };
    let (owner, _) = Account::ReleaseManager.ids();
    scene.wait_for_error(&["60000 or more files", ".blat-taken-", &format!("of the account {owner}"), "remove them"]);
    scene.assert_good_tags_go_on();
    let agent = scene.agent();
    let (start, before) = (Instant::now(), process::processor_time(agent));
    scene.lab.wait_for("some polls", || (start.elapsed() >= 8 * POLL).then_some(()));
    // By measure of the time that really passed: each look takes a small part of a poll, and nothing is done over and over between.
    let used = process::processor_time(agent) - before;
    assert!(used < start.elapsed() / 4, "{used:?} of {:?}", start.elapsed());
    assert_eq!(scene.log_lines("60000 or more files"), 1);
    for number in 1..60_000 {
        fs::remove_file(scene.tags.join(format!(".blat-taken-{number}-x"))).expect("nobody touched it");
    }
    scene.wait_until_well();
}

/// What comes and goes costs some lines a minute, and stands in status as long as it goes on.
#[test]
fn as_root_a_directory_that_is_renamed_and_exchanged_all_the_time_costs_few_lines() {
    let scene = Scene::new("exchanged", 0o777, "tag_poll: 1s");
    let other = scene.tags.with_file_name("other");
    fs::create_dir(&other).expect("a scratch folder");
    fs::set_permissions(&other, fs::Permissions::from_mode(0o777)).expect("root may");
    let (goes_on, times) = (AtomicBool::new(true), AtomicU64::new(0));
    let before = scene.log().lines().count();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let away = scene.tags.with_file_name("away");
            while goes_on.load(Ordering::Relaxed) {
                let _ = renameat_with(CWD, &scene.tags, CWD, &other, RenameFlags::EXCHANGE);
                // The agent may make one in its place meanwhile: then that one stays.
                if fs::rename(&scene.tags, &away).is_ok() && fs::rename(&away, &scene.tags).is_err() {
                    let _ = fs::remove_dir_all(&away);
                }
                times.fetch_add(1, Ordering::Relaxed);
            }
        });
        let reported = process::poll(process::DEADLINE, || {
            let text = scene.lab.target_status("perth")["last_error"]["text"].as_str().unwrap_or_default().to_owned();
            (text.contains("was exchanged for another one") && times.load(Ordering::Relaxed) > 20_000).then_some(())
        });
        goes_on.store(false, Ordering::Relaxed);
        assert!(reported.is_some(), "status does not say so: {:#}", scene.lab.target_status("perth"));
    });
    let lines = scene.log().lines().count() - before;
    assert!(lines < 60, "{lines} lines:\n{}", scene.log());
    scene.assert_good_tags_go_on();
}

/// Any legal package can be asked for, also where no file can be called after it.
#[test]
fn blat_tag_sends_packages_whose_names_no_tag_file_can_have() {
    let mut lab = Lab::new("oddnames");
    let (name, version) = ("n".repeat(128), "1".repeat(112));
    for (name, version) in [("core", "1.tmp"), (&name, &version)] {
        lab.package(name, version, |p| p.file("a", "1"));
    }
    lab.release(&[]);
    lab.config("perth", "");
    lab.start_master();
    for (name, version) in [("core", "1.tmp"), (&name, &version)] {
        lab.blat(&["tag", name, version, "--target", "perth", "--wait"]).expect_success();
        lab.assert_published(name, version);
    }
}

#[test]
fn as_root_forty_tags_of_a_mebibyte_take_turns_in_little_memory() {
    let scene = Scene::new("large", 0o777, "");
    let agent = scene.agent();
    let at_rest = process::memory(agent);
    scene.as_release_manager(
        "i=0
         while [ $i -lt 40 ]; do
             awk -v tag=$i 'BEGIN { for (n = 0; n < 87000; n++) print \"p\" n, tag }' | head -c 1048000 | sed '$d' >.new
             mv .new large.$i
             i=$((i + 1))
         done",
    );
    scene.lab.wait_for_status("perth", "knowing all tags", |s| s["queue"]["tags"] == 40);
    scene.assert_good_tags_go_on();
    // Some turns of all of them.
    scene.lab.wait_for_status("perth", "reporting what is missing", |s| {
        s["last_error"]["text"].as_str().is_some_and(|text| text.contains("no such"))
    });
    let most = process::most_memory(agent);
    assert!(most < at_rest + MOST_MEMORY, "{} MiB at rest, {} MiB at most", at_rest >> 20, most >> 20);
    assert_eq!(scene.agent(), agent, "it is the same agent");
}

#[test]
fn as_root_a_tag_of_fifty_thousand_lines_brings_what_is_there_and_goes_when_all_is() {
    let scene = Scene::new("lines", 0o777, "tag_poll: 1s");
    scene.as_release_manager(
        "awk 'BEGIN { for (n = 0; n < 49998; n++) print (n < 25000 ? \"a\" : \"x\") n, 1; print \"core 1\"; print \"tools 1\" }' >.new
         mv .new list",
    );
    // Both stand in the middle, behind more than a hundred portions of what is missing.
    for package in ["core", "tools"] {
        scene.lab.wait_until_published(package, "1");
    }
    scene.as_release_manager(
        "awk 'BEGIN { for (n = 0; n < 25000; n++) { print \"core 1\"; print \"tools 1\" } }' >.new; mv .new same",
    );
    scene.wait_until_gone("same");
    assert!(scene.tags.join("list").exists(), "most of it is missing");
}

/// What is typed at a terminal is answered though `bad/` holds traps for whoever reads a reason.
#[test]
fn as_root_blat_tag_reads_the_reason_of_its_own_tag_and_no_other() {
    let scene = Scene::new("ownreason", 0o777, "");
    // A version that leads out of its package is never sent.
    let link = scene.lab.source().join("core/9");
    std::os::unix::fs::symlink("../../tools/1", &link).expect("root may");
    scene.as_release_manager("mkdir bad; mkfifo bad/core@9.reason; : >bad/core@9");
    let outcome = scene.lab.blat(&["tag", "core", "9", "--target", "perth", "--wait"]);
    outcome.expect(1).says("core@9 cannot get to perth");
    assert!(scene.tags.join("failed/core@9").is_file());
    // Once more: the earlier one keeps its name.
    scene.lab.blat(&["tag", "core", "9", "--target", "perth", "--wait"]).expect(1).says("core@9 cannot get to perth");
    assert_eq!(names(&scene.tags.join("failed")), ["core@9", "core@9.1", "core@9.1.reason", "core@9.reason"]);
}

/// Commands of a shell that several tests use are there.
#[test]
fn the_tools_of_these_tests_are_there() {
    for tool in ["awk", "mkfifo", "scp", "sed"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().expect("a shell");
        assert!(found.status.success(), "{tool} is missing");
    }
}
