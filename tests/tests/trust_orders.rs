//! Nothing is listed, marked or deleted by yesterday's orders: neither by settings that others have replaced, nor by what Release Manager says
//! no longer, or says in two ways.

use std::fs;

use blat_tests::Lab;
use serde_json::Value;

use super::WAY;

/// At this rate `bulk@1` takes minutes, so that whatever is to happen in mid-sync does.
const SLOW: &str = "bandwidth: 64k";

/// A target that holds core@1 and core@2, where nothing wants core@2 any more; a sync under way sends bulk@1, slowly, before it deletes that.
fn in_mid_sync(name: &str) -> Lab {
    let mut lab = WAY.lab_with_bulk_to_send(name, 24 << 20);
    lab.config("perth", &format!("{SLOW}\naging: immediate\nmax_delete: 100%"));
    lab.start_master();
    lab.wait_for_status("perth", "sending the bulk", |s| {
        s["state"] == "syncing" && s["current"]["done"].as_u64().is_some_and(|done| done > 0)
    });
    lab
}

fn log(lab: &Lab) -> String {
    fs::read_to_string(lab.home().join("log/perth.log")).expect("the agent's log")
}

fn wait_until_in_force(lab: &Lab) {
    lab.wait_for("the config to be in force", || log(lab).contains("the config changed and is in force").then_some(()));
}

/// What the target held is there still, and not because it was sent once more.
fn assert_nothing_went(lab: &Lab) {
    lab.assert_published("core", "2");
    let log = log(lab);
    assert!(!log.contains("deleted: ") && !log.contains("marked for deletion: "), "{log}");
}

fn is_done(status: &Value, wanted: u64) -> bool {
    let last = &status["last_sync"];
    status["state"] == "idle" && last["result"] == "ok" && last["wanted"] == wanted && last["present"] == wanted
}

#[test]
fn a_sync_deletes_nothing_that_the_settings_now_in_force_pin() {
    let lab = in_mid_sync("pinned");
    // Without a limit, the sync by the former settings goes on as fast as it can.
    lab.config("perth", "aging: none\npkg: {core: 2}");
    wait_until_in_force(&lab);
    lab.wait_for_status("perth", "done by the new settings", |s| is_done(s, 3));
    assert_nothing_went(&lab);
    assert_eq!(lab.package_list(), ["bulk 1", "core 1", "core 2"]);
    let log = log(&lab);
    assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "other settings are no failure: {log}");
}

#[test]
fn a_sync_in_the_foreground_ends_early_when_its_config_changes() {
    let lab = WAY.lab_with_bulk_to_send("foreground", 1 << 20);
    lab.config("perth", "bandwidth: 256k\naging: immediate\nmax_delete: 100%");
    let sync = lab.start_agent_once("perth");
    lab.wait_until_receiving();
    lab.config("perth", "aging: none\npkg: {core: 2}");
    sync.finish().expect(75).says("the config changed");
    lab.assert_published("core", "2");
    assert_eq!(lab.package_list(), ["core 1", "core 2"], "the list is left to the next sync, too");
}

#[test]
fn a_config_that_becomes_invalid_in_mid_sync_lets_packages_go_there_and_nothing_leave() {
    let mut lab = WAY.lab("invalid");
    for version in ["1", "2"] {
        lab.package("core", version, |p| p.file("a", version));
    }
    lab.package("bulk", "1", |p| p.noise("a", 1 << 20));
    lab.release(&[("core", "1"), ("core", "2")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    lab.release(&[("core", "1"), ("bulk", "1")]);
    // At that rate it takes some seconds, in which somebody saves a half-written file.
    let good = "bandwidth: 128k\naging: immediate\nmax_delete: 100%";
    lab.config("perth", good);
    lab.start_master();
    lab.wait_for_status("perth", "sending the bulk", |s| s["current"]["done"].as_u64().is_some_and(|done| done > 0));
    lab.raw_config("perth", "aging: [\n");
    let status = lab.wait_for_status("perth", "through its sync", |s| {
        s["last_sync"]["result"] == "failed" && !s["last_error"].is_null()
    });
    lab.assert_published("bulk", "1");
    assert_nothing_went(&lab);
    assert_eq!(lab.package_list(), ["core 1", "core 2"], "the list is left as it is, too");
    let error = status["last_error"]["text"].as_str().unwrap_or_default();
    assert!(error.contains("not valid") && error.contains("blat check perth"), "{status}");
    assert!(status["config"]["error"].is_object() || status["config"]["error"].is_string(), "{status}");
    lab.config("perth", good);
    lab.blat(&["sync", "perth", "--wait"]).expect_success().says("deleted 1");
}

#[test]
fn the_agent_of_a_target_that_is_removed_deletes_nothing_more() {
    let lab = in_mid_sync("removed");
    fs::remove_file(lab.home().join("config/perth.conf")).expect("an own file");
    lab.wait_for("the agent to leave", || lab.target_status("perth").is_null().then_some(()));
    lab.wait_for("all of it to leave", || {
        let left = lab.local_processes();
        (!left.iter().any(|process| process.name.starts_with("blat-agent"))).then_some(())
    });
    assert_nothing_went(&lab);
}

#[test]
fn a_tag_in_flight_to_the_former_archive_is_sent_to_the_present_one() {
    let mut lab = WAY.lab("elsewhere");
    lab.package("core", "1", |p| p.file("a", "1"));
    // At that rate it takes a quarter of a minute: time enough for a change, and for the former archive to get it after all.
    lab.package("bulk", "1", |p| p.noise("a", 1 << 20));
    lab.release(&[("core", "1")]);
    // No ssh client, which would leave with its connection and so give the sending up.
    let beside = lab.home().join("beside");
    for archive in ["first", "second"] {
        fs::create_dir_all(beside.join(archive)).expect("an own folder");
    }
    lab.hand_over();
    let (source, releases) = (lab.source(), lab.home().join("releases.yaml"));
    let config = |archive: &str, extra: &str| {
        let (source, releases, beside) = (source.display(), releases.display(), beside.display());
        format!(
            "transport: local\nreceiver: never\nsource: {source}\narchive: {beside}/{archive}\nbin: {beside}/bin\n\
             release_manager: {{file: {releases}}}\nprojects: [Lab]\ndisk_reserve: 1m\n{extra}\n"
        )
    };
    lab.raw_config("perth", &config("first", SLOW));
    lab.start_master();
    lab.wait_for_status("perth", "idle", |s| is_done(s, 1));
    let tag = lab.drop_tag("perth", "bulk", "1");
    lab.wait_for_status("perth", "sending for the tag", |s| s["current"]["package"] == "bulk@1");

    lab.raw_config("perth", &config("second", ""));
    wait_until_in_force(&lab);
    lab.wait_for("the tag to be consumed", || (!tag.exists()).then_some(()));
    assert!(
        beside.join("second/bulk/1/descpkg").exists(),
        "it was consumed, and its package is not where it should be"
    );
    assert!(!beside.join("first/bulk/1").exists(), "what goes to the former place is cut");
}

/// A SQLite database of a site's own form, where nothing keeps rows from contradicting each other: `perth` selects project `Lab`.
fn with_database(name: &str, rows: &str) -> Lab {
    let lab = WAY.lab(name);
    for version in ["1", "2", "3"] {
        lab.package("core", version, |p| p.file("a", version));
    }
    sql(
        &lab,
        "CREATE TABLE project(project_id, project_name);
         CREATE TABLE release(release_id, project_id, release_name, state, s3sync);
         CREATE TABLE release_package(release_id, package_name, package_version);
         INSERT INTO project VALUES (1, 'Lab'), (2, 'Other');
         INSERT INTO release VALUES (10, 1, 'Lab 1', 'open', 0), (11, 1, 'Lab 2', 'open', 0);
         INSERT INTO release_package VALUES (10, 'core', '1'), (11, 'core', '2');",
    );
    sql(&lab, rows);
    let manager = format!("release_manager: {{sqlite: {}}}", lab.home().join("rm.db").display());
    // What a tag brought is not what this is about: the target holds it from the start.
    lab.config("perth", &format!("{manager}\npkg: {{core: 3}}"));
    lab.agent_once("perth").expect_success();
    lab.config("perth", &format!("{manager}\naging: immediate\nmax_delete: 100%"));
    lab
}

fn sql(lab: &Lab, text: &str) {
    let mut command = std::process::Command::new("sqlite3");
    blat_tests::process::run(command.arg(lab.home().join("rm.db")).arg(text), &lab.home()).expect_success();
}

/// Deletions are held back, and status says why in these words; without a master, which would try again.
fn assert_held_back(lab: &mut Lab, words: &[&str]) {
    let before = lab.visible();
    lab.start_master();
    let status = lab.wait_for_status("perth", "through its sync", |s| s["last_sync"]["held_back"].is_string());
    let held_back = status["last_sync"]["held_back"].as_str().expect("a text").to_owned();
    let picture = lab.blat(&["status"]).expect_success().stdout.clone();
    let plan = lab.blat(&["plan", "perth"]).expect_success().stdout.clone();
    for word in words {
        assert!(held_back.contains(word), "{word}: {held_back}");
        assert!(picture.contains(word), "{word}: {picture}");
        assert!(plan.contains(word), "{word}: {plan}");
    }
    assert_eq!(lab.visible(), before, "nothing goes");
}

#[test]
fn a_database_that_never_answers_or_answers_without_end_fails_the_sync_and_takes_no_memory() {
    let lab = with_database("endless", "SELECT 1");
    let before = lab.visible();
    sql(
        &lab,
        "DROP TABLE release_package;
         CREATE VIEW release_package AS SELECT 10 release_id, hex(zeroblob(400000000)) package_name, '1' package_version;",
    );
    lab.agent_once("perth").expect(1).says("out of memory");
    let database = lab.home().join("rm.db");
    for companion in ["-wal", "-shm", "-journal", ""] {
        let path = format!("{}{companion}", database.display());
        if companion.is_empty() {
            std::fs::remove_file(&database).expect("an own file");
        }
        lab.run_as(blat_tests::Account::Master, &["mkfifo", &path]).expect_success();
        lab.agent_once("perth").expect(1).says("is not a regular file");
        std::fs::remove_file(&path).expect("an own file");
    }
    assert_eq!(lab.visible(), before);
}

#[test]
fn a_release_of_two_projects_belongs_to_both() {
    let lab = with_database("twoprojects", "INSERT INTO release VALUES (10, 2, 'Lab 1', 'open', 0)");
    lab.agent_once("perth").expect_success().says("1 deleted");
    assert_eq!(lab.visible(), ["core@1", "core@2"], "only what no release lists goes");
}

#[test]
fn rows_that_contradict_each_other_hold_all_deletions_back_and_status_says_which() {
    let mut lab = with_database("contradicting", "INSERT INTO release VALUES (10, 2, 'Lab 1', 'closed', 0)");
    assert_held_back(&mut lab, &["release 10", "state (closed, open)"]);
    let error = lab.target_status("perth")["last_error"]["text"].to_string();
    assert!(error.contains("release 10"), "{error}");
    sql(&lab, "DELETE FROM release WHERE state = 'closed'");
    lab.blat(&["sync", "perth", "--wait"]).expect_success().says("deleted 1");
    assert_eq!(lab.visible(), ["core@1", "core@2"]);
}

/// Two packages that are held back stay however often a sync is asked for, and go by one that confirms it.
fn assert_gone_once_confirmed(lab: &Lab) {
    assert_eq!(lab.visible().len(), 3, "as often as it is asked");
    lab.blat(&["sync", "perth", "--wait", "--allow-delete"]).expect_success().says("deleted 2");
    assert_eq!(lab.visible(), ["core@2"]);
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
}

#[test]
fn a_release_that_lost_its_packages_beside_others_holds_deletions_back_until_that_is_confirmed() {
    let mut lab = with_database("emptied", "INSERT INTO release_package VALUES (10, 'core', '3')");
    lab.agent_once("perth").expect_success();
    sql(&lab, "DELETE FROM release_package WHERE release_id = 10");
    assert_held_back(&mut lab, &["Lab 1 (10)", "--allow-delete"]);
    lab.blat(&["sync", "perth", "--wait"]).expect(1).says("Lab 1 (10)");
    assert_gone_once_confirmed(&lab);
}

#[test]
fn a_selected_release_whose_row_vanishes_holds_deletions_back_until_that_is_confirmed() {
    let mut lab = with_database("vanished", "INSERT INTO release_package VALUES (10, 'core', '3')");
    lab.agent_once("perth").expect_success();
    sql(&lab, "UPDATE release SET project_id = 2 WHERE release_id = 10");
    assert_held_back(&mut lab, &["Lab 1 (10)", "project \"Other\" now", "--allow-delete"]);
    sql(&lab, "DELETE FROM release WHERE release_id = 10");
    lab.blat(&["sync", "perth", "--wait"]).expect(1).says("Lab 1 (10)").says("no row of it");
    assert_gone_once_confirmed(&lab);
}

#[test]
fn a_confirmation_covers_what_status_showed_and_nothing_that_came_later() {
    let third =
        "INSERT INTO release VALUES (12, 1, 'Lab 3', 'open', 0); INSERT INTO release_package VALUES (12, 'core', '3')";
    let mut lab = with_database("shown", third);
    lab.agent_once("perth").expect_success();
    sql(&lab, "DELETE FROM release_package WHERE release_id = 10");
    assert_held_back(&mut lab, &["Lab 1 (10)"]);
    // Nobody has seen this one when the other is confirmed.
    sql(&lab, "DELETE FROM release WHERE release_id = 11");
    let confirm = || lab.blat(&["sync", "perth", "--wait", "--allow-delete"]);
    let changed = "confirmed for 1 release and 1 package, now 2 releases and 2 packages";
    confirm().expect(1).says(changed).says("such as core@2");
    lab.wait_for_status("perth", "held back again", |s| {
        s["last_sync"]["held_back"].as_str().is_some_and(|text| text.contains(changed) && text.contains("Lab 2 (11)"))
    });
    assert_eq!(lab.visible().len(), 3, "nothing goes");
    confirm().expect_success().says("deleted 2");
    assert_eq!(lab.visible(), ["core@3"]);
}

#[test]
fn what_the_guard_held_back_is_confirmed_package_by_package_also_for_the_agents_next_life() {
    let lab = WAY.lab("guarded");
    for version in ["1", "2", "3", "4"] {
        lab.package("core", version, |p| p.file("a", version));
    }
    lab.release(&[("core", "1"), ("core", "2"), ("core", "3"), ("core", "4")]);
    lab.config("perth", "aging: immediate\nmax_delete: 0");
    lab.agent_once("perth").expect_success();
    lab.release(&[("core", "1"), ("core", "2")]);
    lab.agent_once("perth").expect(1).says("2 of 4 packages");
    // As many, and not the same.
    lab.release(&[("core", "1"), ("core", "4")]);
    let confirm = || {
        let mut agent = lab.command("blat-agent");
        blat_tests::process::run(agent.args(["--target", "perth", "--once", "--allow-delete"]), &lab.home())
    };
    confirm().expect(1).says("confirmed for 2 packages, now 2 packages: other packages, such as core@2");
    assert_eq!(lab.visible().len(), 4, "nothing goes");
    // Less than was shown is covered by it.
    lab.release(&[("core", "1"), ("core", "2"), ("core", "4")]);
    confirm().expect_success().says("1 deleted");
    assert_eq!(lab.visible(), ["core@1", "core@2", "core@4"]);
}

#[test]
fn a_release_that_is_lost_while_its_project_gets_another_name_holds_deletions_back_until_that_is_confirmed() {
    let mut lab = with_database("renamed", "INSERT INTO release_package VALUES (10, 'core', '3')");
    lab.agent_once("perth").expect_success();
    sql(
        &lab,
        "UPDATE project SET project_name = 'Laboratory' WHERE project_id = 1; DELETE FROM release WHERE release_id = 10",
    );
    lab.agent_once("perth").expect(1).says("no project \"Lab\"");
    let text = fs::read_to_string(lab.home().join("config/perth.conf")).expect("a config");
    lab.raw_config("perth", &text.replace("projects: [Lab]", "projects: [Laboratory]"));
    assert_held_back(&mut lab, &["Lab 1 (10)", "no row of it is left", "--allow-delete"]);
    assert_gone_once_confirmed(&lab);
}

/// `state/` may be deleted at any time while nothing runs: that costs time, never packages.
#[test]
fn removing_state_loses_no_hold_on_releases_and_a_damaged_memory_holds_deletions_back() {
    let mut lab = with_database("stateless", "INSERT INTO release_package VALUES (10, 'core', '3')");
    lab.agent_once("perth").expect_success();
    let without_state = |lab: &Lab| {
        fs::remove_dir_all(lab.home().join("state")).expect("an own folder");
        lab.agent_once("perth")
    };
    sql(&lab, "DELETE FROM release_package WHERE release_id = 10");
    without_state(&lab).expect(1).says("Lab 1 (10)").says("--allow-delete");
    sql(&lab, "DELETE FROM release WHERE release_id = 10");
    without_state(&lab).expect(1).says("Lab 1 (10)").says("no row of it");
    assert_eq!(lab.visible().len(), 3, "nothing goes");

    let known = lab.home().join("config/.known/perth.json");
    let good = fs::read(&known).expect("a file");
    fs::write(&known, &good[..good.len() / 2]).expect("a file");
    lab.agent_once("perth").expect(1).says("config/.known/perth.json");
    assert_held_back(&mut lab, &["config/.known/perth.json", "is damaged", "backup"]);
    lab.blat(&["sync", "perth", "--wait", "--allow-delete"]).expect(1).says("config/.known/perth.json");
    assert_eq!(lab.visible().len(), 3, "whoever confirms deletions does not know what he confirms");

    fs::write(&known, good).expect("a file");
    lab.blat(&["sync", "perth", "--wait"]).expect(1).says("Lab 1 (10)").says("no row of it");
    fs::remove_file(&known).expect("a file");
    lab.blat(&["stop"]).expect_success();
    lab.agent_once("perth").expect_success().says("does not know what tags brought before");
    assert_eq!(lab.visible().len(), 3, "nor does anybody know what tags brought");
}

#[test]
fn a_release_that_is_closed_or_no_longer_selected_deletes_as_usual() {
    let lab = with_database(
        "closed",
        "INSERT INTO release VALUES (12, 2, 'Other 1', 'open', 0); INSERT INTO release_package VALUES (12, 'core', '3')",
    );
    let text = fs::read_to_string(lab.home().join("config/perth.conf")).expect("a config");
    lab.raw_config("perth", &text.replace("projects: [Lab]", "projects: [Lab, Other]"));
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible().len(), 3);
    sql(&lab, "UPDATE release SET state = 'closed' WHERE release_id = 10");
    lab.agent_once("perth").expect_success().says("1 deleted");
    // Deselected while Release Manager has it still.
    lab.raw_config("perth", &text);
    lab.agent_once("perth").expect_success().says("1 deleted");
    sql(&lab, "DELETE FROM release WHERE release_id = 12");
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible(), ["core@2"]);
}

#[test]
fn an_odd_row_hinders_those_who_select_it_and_nobody_else() {
    let odd = "INSERT INTO project VALUES (NULL, 'Lost'), (3, NULL);
               INSERT INTO release VALUES (20, 2, 'Other 1', 'opne', 0), (21, 2, NULL, 'open', 0), (NULL, 2, 'Other 3', 'open', 0),
                 (22, NULL, 'Other 4', 'open', 0), (23, 2, 'Other 5', 'open', 7), (24, 3, 'Other 6', 'open', 0),
                 (25, 2, 'Other 7', 'open', 0), (25, 2, 'Other 8', 'open', 0), (26, 2, 'Other 9', 'open', 0);
               INSERT INTO release_package VALUES (26, '../x', '1'), (26, 'core', NULL);";
    let mut lab = with_database("odd", odd);
    lab.agent_once("perth").expect_success().says("1 deleted");
    assert_eq!(lab.visible(), ["core@1", "core@2"]);

    let text = fs::read_to_string(lab.home().join("config/perth.conf")).expect("a config");
    lab.raw_config("perth", &text.replace("projects: [Lab]", "projects: [Lab, Other]"));
    sql(&lab, "DELETE FROM release_package WHERE release_id = 11; DELETE FROM release WHERE release_id IN (11, 25)");
    assert_held_back(&mut lab, &["opne"]);
    let plan = lab.blat(&["plan", "perth"]).expect_success().stdout.clone();
    assert!(plan.contains("(21)") && plan.contains("../x") && !plan.contains("Other 4"), "which rows: {plan}");
}

#[test]
fn the_same_release_twice_in_a_file_is_one_release_and_contradictions_hold_deletions_back() {
    let mut lab = WAY.lab("twiceinfile");
    for version in ["1", "2", "3"] {
        lab.package("core", version, |p| p.file("a", version));
    }
    lab.release(&[("core", "1"), ("core", "2"), ("core", "3")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    let twice = |state: &str| {
        let release = |state: &str, package: &str| {
            format!("    releases:\n      - {{id: 1, name: R, state: {state}, packages: [{package}]}}\n")
        };
        format!("projects:\n  - name: Lab\n{}  - name: Two\n{}", release("open", "core@1"), release(state, "core@2"))
    };
    fs::write(lab.home().join("releases.yaml"), twice("closed")).expect("an own file");
    lab.config("perth", "aging: immediate\nmax_delete: 100%");
    assert_held_back(&mut lab, &["release 1: its rows differ in state"]);
    fs::write(lab.home().join("releases.yaml"), twice("open")).expect("an own file");
    lab.blat(&["sync", "perth", "--wait"]).expect_success().says("deleted 1");
    assert_eq!(lab.visible(), ["core@1", "core@2"]);
}
