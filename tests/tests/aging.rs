//! Packages that nothing wants any more, on a real target: marked, unmarked, deleted, and kept by whatever speaks against it.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use blat_tests::{Lab, Outcome, tree};

use super::WAY;

/// A target that holds core@1, core@2 and tools@1, all from the release.
fn filled(name: &str, extra: &str) -> Lab {
    let lab = WAY.lab(name);
    for (name, version) in [("core", "1"), ("core", "2"), ("tools", "1")] {
        lab.package(name, version, |p| p.file("bin/a", name).exec("run", "x").symlink("to", "run").empty_dir("empty"));
    }
    lab.release(&[("core", "1"), ("core", "2"), ("tools", "1")]);
    lab.config("perth", extra);
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible(), ["core@1", "core@2", "tools@1"]);
    lab
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

/// The lines of a package's mark.
fn mark(lab: &Lab, package: &str) -> Option<Vec<u64>> {
    let path = lab.target_archive().join(".dpkg_archive/aged").join(package);
    let text = fs::read_to_string(path).ok()?;
    Some(text.lines().map(|line| line.parse().expect("a number")).collect())
}

/// Lets a mark be older than it is.
fn make_older(lab: &Lab, package: &str, seconds: u64) {
    let lines = mark(lab, package).expect("a mark");
    let path = lab.target_archive().join(".dpkg_archive/aged").join(package);
    fs::write(path, format!("{}\n{}\n", lines[0] - seconds, lines[1])).expect("a mark");
}

fn run_on_target(lab: &Lab, script: &str, arguments: &[&str]) -> Outcome {
    let path = lab.target_bin().join(script);
    let archive = lab.target_archive();
    let mut argv = vec!["env", "-i", path.to_str().expect("UTF-8"), "--archive", archive.to_str().expect("UTF-8")];
    argv.extend(arguments);
    lab.as_target_user(&argv)
}

/// No mark, manifest, stage or trash of a package is left, and its name is gone where no version is left.
fn assert_no_trace(lab: &Lab, package: &str) {
    let (name, version) = package.split_once('@').expect("NAME@VERSION");
    let house = lab.target_archive().join(".dpkg_archive");
    assert!(mark(lab, package).is_none(), "its mark is left");
    assert!(!house.join("manifests").join(name).join(version).exists(), "its manifest is left");
    for room in ["stage", "trash"] {
        let left = fs::read_dir(house.join(room)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{room} is not empty");
    }
    assert!(!lab.on_target(name, version).exists());
}

#[test]
fn immediate_deletes_what_nothing_wants_read_only_trees_included() {
    let lab = filled("immediate", "aging: immediate\nmax_delete: 100%");
    lab.release(&[("core", "1")]);

    lab.blat(&["plan", "perth"])
        .expect_success()
        .says("delete  core@2")
        .says("delete  tools@1")
        .says("nothing wants it");
    assert_eq!(lab.visible().len(), 3, "a plan changes nothing");
    lab.agent_once("perth").expect_success().says("2 deleted");

    assert_eq!(lab.visible(), ["core@1"]);
    assert_no_trace(&lab, "core@2");
    assert_no_trace(&lab, "tools@1");
    assert!(!lab.target_archive().join("tools").exists(), "an empty name goes too");
    lab.assert_published("core", "1");
    assert_eq!(lab.package_list(), ["core 1"]);
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible(), ["core@1"], "a second sync changes nothing");
}

#[test]
fn the_master_marks_by_the_targets_clock_waits_and_deletes() {
    let lab = filled("bymaster", "aging: {by: master, after: 30d}\nmax_delete: 2");
    lab.release(&[("core", "1"), ("core", "2")]);

    lab.agent_once("perth").expect_success().says("1 marked");
    let lines = mark(&lab, "tools@1").expect("a mark");
    assert!(now().abs_diff(lines[0]) < 600 && lines[1] == 30 * 86_400, "{lines:?}");
    lab.agent_once("perth").expect_success();
    assert_eq!(mark(&lab, "tools@1"), Some(lines), "the mark stays as it is");
    make_older(&lab, "tools@1", 30 * 86_400 - 3_600);
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible().len(), 3, "an hour is left");

    make_older(&lab, "tools@1", 3_600);
    lab.blat(&["plan", "perth"]).expect_success().says("delete  tools@1").says("marked 30d");
    lab.agent_once("perth").expect_success().says("1 deleted");
    assert_eq!(lab.visible(), ["core@1", "core@2"]);
    assert_no_trace(&lab, "tools@1");
}

#[test]
fn the_target_deletes_by_itself_what_the_master_marked() {
    let lab = filled("bytarget", "aging: {by: target, after: 30d}\nmax_delete: 2");
    lab.release(&[("core", "1"), ("core", "2")]);
    lab.agent_once("perth").expect_success().says("1 marked");

    run_on_target(&lab, "pkg_purge", &[]).expect_success();
    make_older(&lab, "tools@1", 31 * 86_400);
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible().len(), 3, "the master does not delete what is due");
    run_on_target(&lab, "pkg_purge", &["--dry-run"]).expect_success().says("would delete tools 1");
    assert_eq!(lab.visible().len(), 3, "nor does a dry run");
    run_on_target(&lab, "pkg_purge", &[]).expect_success().says("deleted tools 1");

    assert_eq!(lab.visible(), ["core@1", "core@2"]);
    assert_no_trace(&lab, "tools@1");
    lab.assert_published("core", "2");
}

#[test]
fn a_package_that_is_wanted_again_is_marked_no_more() {
    let lab = filled("again", "aging: {by: master, after: 1d}\nmax_delete: 2");
    lab.release(&[("core", "1"), ("core", "2")]);
    lab.agent_once("perth").expect_success();
    make_older(&lab, "tools@1", 2 * 86_400);

    // Something else fails, so nothing may be deleted; taking the mark away is right all the same.
    lab.release(&[("core", "1"), ("core", "2"), ("tools", "1"), ("lost", "7")]);
    lab.agent_once("perth").expect(1).says("lost@7");
    assert_eq!(mark(&lab, "tools@1"), None);
    run_on_target(&lab, "pkg_purge", &[]).expect_success();
    lab.release(&[("core", "1"), ("core", "2"), ("tools", "1")]);
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible(), ["core@1", "core@2", "tools@1"]);
}

/// A package whose mark stays could be deleted although it is wanted, so nothing is deleted until the mark is gone.
#[test]
fn a_mark_that_cannot_be_taken_away_is_told_deletes_nothing_and_is_tried_again() {
    let mut lab = filled("stuck", "aging: {by: master, after: 1d}\nmax_delete: 2");
    lab.release(&[("core", "1")]);
    lab.agent_once("perth").expect_success().says("2 marked");
    make_older(&lab, "core@2", 2 * 86_400);
    let marks = lab.target_archive().join(".dpkg_archive/aged");
    let set_mode = |lab: &Lab, mode: &str| {
        lab.as_target_user(&["chmod", mode, marks.to_str().expect("UTF-8")]).expect_success();
    };

    set_mode(&lab, "555");
    lab.release(&[("core", "1"), ("tools", "1")]);
    lab.start_master();
    let status = lab.wait_for_status("perth", "waiting to try again", |s| {
        s["last_sync"]["result"] == "failed" && s["last_error"]["retry_at"].is_string()
    });
    assert_eq!(status["last_error"]["package"], "tools@1", "{status:#}");
    let text = status["last_error"]["text"].as_str().expect("a text");
    assert!(text.contains("cannot take marks away on the target") && text.contains("ermission denied"), "{text}");
    assert!(mark(&lab, "tools@1").is_some() && mark(&lab, "core@2").is_some());
    assert_eq!(lab.visible().len(), 3, "core@2 is due, and stays");
    assert_eq!(status["last_sync"]["deleted"], 0, "{status:#}");

    set_mode(&lab, "755");
    lab.wait_for_status("perth", "done by itself", |s| s["last_sync"]["result"] == "ok" && s["last_error"].is_null());
    assert_eq!((mark(&lab, "tools@1"), mark(&lab, "core@2")), (None, None));
    assert_eq!(lab.visible(), ["core@1", "tools@1"]);
}

#[test]
fn marks_go_when_the_config_asks_for_none() {
    let lab = filled("nomore", "aging: {by: target, after: 1d}\nmax_delete: 2");
    lab.release(&[("core", "1"), ("core", "2")]);
    lab.agent_once("perth").expect_success();
    make_older(&lab, "tools@1", 2 * 86_400);
    lab.config("perth", "aging: none");
    lab.agent_once("perth").expect_success();
    assert_eq!(mark(&lab, "tools@1"), None);
    assert_eq!(lab.visible().len(), 3);
}

#[test]
fn the_guard_deletes_nothing_until_it_is_confirmed_and_that_counts_once() {
    let mut lab = filled("guard", "aging: immediate\nmax_delete: 1");
    lab.release(&[("core", "1")]);
    lab.blat(&["plan", "perth"]).expect_success().says("stop").says("2 of 3 packages").says("--allow-delete");
    lab.start_master();
    lab.blat(&["sync", "perth", "--wait"]).expect(1).says("2 of 3 packages").says("--allow-delete");
    assert_eq!(lab.visible().len(), 3);
    assert_eq!(lab.package_list(), ["core 1", "core 2", "tools 1"], "what is held back stays listed");
    let error = lab.target_status("perth")["last_error"]["text"].to_string();
    assert!(error.contains("max_delete: 1"), "{error}");

    lab.blat(&["sync", "perth", "--wait", "--allow-delete"]).expect_success().says("deleted 2");
    assert_eq!((lab.visible(), lab.package_list()), (vec!["core@1".to_owned()], vec!["core 1".to_owned()]));
    assert_eq!(lab.target_status("perth")["last_sync"]["deleted"], 2);
    let log = lab.blat(&["logs", "perth"]);
    log.expect_success().says("deleted: nothing wants it").says("package=tools@1");

    for version in ["7", "8"] {
        lab.package("late", version, |p| p.file("a", "x"));
    }
    lab.release(&[("core", "1"), ("late", "7"), ("late", "8")]);
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    lab.release(&[("core", "1")]);
    lab.blat(&["sync", "perth", "--wait"]).expect(1).says("--allow-delete");
    assert_eq!(lab.visible().len(), 3, "the confirmation was for one sync");
}

#[test]
fn a_failed_or_empty_release_source_deletes_and_marks_nothing() {
    for (name, aging) in [("failing1", "immediate"), ("failing2", "{by: master, after: 0s}")] {
        let lab = filled(name, &format!("aging: {aging}\nmax_delete: 100%"));
        let releases = lab.home().join("releases.yaml");
        for text in ["", "projects: [", "projects: []\n"] {
            fs::write(&releases, text).expect("a file");
            lab.agent_once("perth");
            assert_eq!(lab.visible().len(), 3, "{text:?}");
        }
        fs::remove_file(&releases).expect("a file");
        lab.agent_once("perth").expect(1);
        lab.release(&[]);
        lab.agent_once("perth");
        assert_eq!(lab.visible().len(), 3, "an empty wanted set never deletes");
        lab.release(&[("core", "1"), ("lost", "7")]);
        lab.agent_once("perth").expect(1).says("lost@7");
        assert_eq!(lab.visible().len(), 3, "a package that cannot be sent stops all deletions");
        let marks = fs::read_dir(lab.target_archive().join(".dpkg_archive/aged")).map_or(0, Iterator::count);
        assert_eq!(marks, 0, "{aging}");
    }
}

/// What a listing could not see is not gone, and what it saw is not all there is.
#[test]
fn a_listing_that_fails_half_way_deletes_and_marks_nothing() {
    for (name, aging) in [("halfway1", "immediate"), ("halfway2", "{by: master, after: 0s}")] {
        let lab = filled(name, &format!("aging: {aging}\nmax_delete: 100%"));
        lab.release(&[("core", "1")]);
        let closed = lab.target_archive().join("core");
        let set_mode = |mode: &str| {
            lab.as_target_user(&["chmod", mode, closed.to_str().expect("UTF-8")]).expect_success();
        };

        set_mode("000");
        lab.agent_once("perth").expect(1).says("cannot list the target's packages");
        set_mode("755");
        assert_eq!(lab.visible().len(), 3, "{aging}");
        assert_eq!((mark(&lab, "core@2"), mark(&lab, "tools@1")), (None, None), "{aging}");

        lab.agent_once("perth").expect_success();
        assert!(lab.visible().len() < 3 || mark(&lab, "tools@1").is_some(), "a whole listing ages them: {aging}");
    }
}

#[test]
fn a_directory_without_descpkg_is_never_touched() {
    let lab = filled("foreign", "aging: immediate\nmax_delete: 100%");
    let stray = lab.target_archive().join("core/notes");
    lab.as_target_user(&["mkdir", stray.to_str().expect("UTF-8")]).expect_success();
    lab.release(&[("core", "1")]);
    lab.agent_once("perth").expect_success();
    assert!(stray.is_dir());
    assert_eq!(lab.visible().iter().filter(|package| package.ends_with("@2")).count(), 0);
}

#[test]
fn a_package_whose_tag_is_newer_than_the_releases_is_spared() {
    let mut lab = filled("tagged", "aging: immediate\nmax_delete: 100%");
    lab.package("fresh", "1", |p| p.file("a", "x"));
    // What Release Manager says was written an hour before the tag is dropped.
    let releases = lab.home().join("releases.yaml");
    let hour_ago = SystemTime::now() - std::time::Duration::from_secs(3_600);
    fs::File::options().write(true).open(&releases).and_then(|f| f.set_modified(hour_ago)).expect("an own file");
    lab.start_master();
    lab.blat(&["tag", "fresh", "1", "--target", "perth", "--wait"]).expect_success();
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    lab.assert_published("fresh", "1");
    lab.blat(&["plan", "perth"]).expect_success().says("spare  fresh@1");

    // Now it knows the package, and later drops it: the tag counts no more.
    lab.release(&[("core", "1"), ("core", "2"), ("tools", "1"), ("fresh", "1")]);
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    lab.release(&[("core", "1"), ("core", "2"), ("tools", "1")]);
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    assert_eq!(lab.visible(), ["core@1", "core@2", "tools@1"]);
}

#[test]
fn a_target_whose_clock_was_set_ages_nothing_out() {
    let lab = filled("clock", "aging: {by: master, after: 1d}\nmax_delete: 2");
    lab.release(&[("core", "1"), ("core", "2")]);
    lab.agent_once("perth").expect_success().says("1 marked");
    make_older(&lab, "tools@1", 2 * 86_400);

    // At the last look, says the agent's memory, it was an hour earlier by the target's clock than it can have been.
    let memory = lab.home().join("state/perth/memory.json");
    let mut kept: serde_json::Value = serde_json::from_slice(&fs::read(&memory).expect("a memory")).expect("JSON");
    let told = kept["clock"]["target"].as_i64().expect("a second");
    kept["clock"]["target"] = (told - 3_600).into();
    fs::write(&memory, kept.to_string()).expect("a file");
    lab.blat(&["plan", "perth"]).expect_success().says("unmark  tools@1").says("clock was set");
    lab.agent_once("perth").expect_success();
    assert_eq!((lab.visible().len(), mark(&lab, "tools@1")), (3, None), "nobody knows how old the mark is");

    lab.agent_once("perth").expect_success().says("1 marked");
    assert!(mark(&lab, "tools@1").is_some_and(|lines| now().abs_diff(lines[0]) < 600), "it waits anew");
}

#[test]
fn the_index_lists_what_the_archive_holds_and_follows_it() {
    let lab = filled("index", "aging: immediate\nmax_delete: 100%");
    let index = lab.target_archive().join(".dpkg_archive/dpkg_archive_list.txt");
    run_on_target(&lab, "pkg_mon", &[]).expect_success();
    let first = fs::read_to_string(&index).expect("an index");
    assert_eq!(first, walked(&lab));
    assert!(first.contains("core/1/bin/a\n") && first.contains("core/1/empty/\n"), "{first}");

    lab.package("new", "1", |p| p.file("deep/er/a", "x"));
    lab.release(&[("core", "1"), ("new", "1")]);
    lab.agent_once("perth").expect_success();
    run_on_target(&lab, "pkg_mon", &[]).expect_success();
    let second = fs::read_to_string(&index).expect("an index");
    assert_eq!(second, walked(&lab));
    assert!(second.contains("new/1/deep/er/a\n") && !second.contains("tools"), "{second}");
}

/// What an index has to say, found by walking.
fn walked(lab: &Lab) -> String {
    let mut lines = Vec::new();
    for package in tree::visible_packages(&lab.target_archive()) {
        let name = package.parent().expect("NAME/VERSION").display().to_string();
        lines.push(format!("{name}/"));
        walk(&lab.target_archive(), &package, &mut lines);
    }
    lines.sort();
    lines.dedup();
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

fn walk(archive: &std::path::Path, directory: &std::path::Path, lines: &mut Vec<String>) {
    lines.push(format!("{}/", directory.display()));
    for entry in fs::read_dir(archive.join(directory)).expect("a directory") {
        let entry = entry.expect("an entry");
        let path = directory.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            walk(archive, &path, lines);
        } else {
            lines.push(path.display().to_string());
        }
    }
}
