//! `blat history` and `blat why`: what was done and how long after its tag, and why a package is or is not on a target.

use std::fs;
use std::io::Write as _;

use blat_tests::{Lab, tree};
use serde_json::Value;

/// A lab with one package that is wanted and one that nobody wants yet.
fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.noise("a", 5_000));
    lab.package("tools", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    lab.config("perth", "");
    lab
}

/// The history as `--json` tells it.
fn deeds(lab: &Lab, arguments: &[&str]) -> Vec<Value> {
    let outcome = lab.blat(&[&["history", "--json"], arguments].concat());
    let lines = outcome.expect_success().stdout.lines();
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))).collect()
}

#[test]
fn history_tells_what_was_sent_replaced_and_linked_with_bytes_and_time() {
    let lab = lab("deeds");
    lab.agent_once("perth").expect_success();
    tree::remove(&lab.source().join("core/1"));
    lab.package("core", "1", |p| p.noise("a", 7_000).time(1_800_000_000));
    std::os::unix::fs::symlink("1", lab.source().join("core/current")).expect("a free name");
    lab.release(&[("core", "1"), ("core", "current")]);
    lab.agent_once("perth").expect_success();
    lab.agent_once("perth").expect_success();

    let deeds = deeds(&lab, &[]);
    let told: Vec<String> = deeds.iter().map(|d| format!("{} {}", d["deed"], d["package"]).replace('"', "")).collect();
    assert_eq!(
        told,
        ["sent core@1", "replaced core@1", "linked core@current"],
        "a sync that does nothing tells nothing"
    );
    assert!(deeds.iter().all(|d| d["target"] == "perth" && d["after_tag_ms"].is_null()), "{deeds:#?}");
    assert!(deeds[0]["bytes"].as_u64() >= Some(5_000) && deeds[1]["bytes"].as_u64() >= Some(7_000), "{deeds:#?}");
    lab.blat(&["history", "--since", "1d"]).expect_success().says("perth  linked  core@current");
    assert_eq!(lab.blat(&["history", "--since", "0s"]).expect_success().stdout, "");
    lab.blat(&["history", "--since", "soon"]).expect(2);
    lab.blat(&["history", "--target", "nobody"]).expect(2);
}

#[test]
fn history_tells_how_long_after_its_tag_a_package_was_visible() {
    let mut lab = lab("tagtime");
    lab.start_master();
    lab.wait_for_status("perth", "done with its first sync", |s| s["last_sync"]["result"] == "ok");
    lab.blat(&["tag", "tools", "1", "--wait"]).expect_success();

    let deeds = deeds(&lab, &["--target", "perth"]);
    let tools = deeds.iter().find(|deed| deed["package"] == "tools@1").expect("a deed");
    assert_eq!(tools["deed"], "sent");
    assert!(tools["after_tag_ms"].as_u64().is_some_and(|ms| ms < 60_000), "{tools:#}");
    lab.blat(&["history"]).expect_success().says("ms after its tag");
}

#[test]
fn a_torn_line_of_the_history_costs_that_line_and_no_other() {
    let lab = lab("torn");
    lab.agent_once("perth").expect_success();
    let path = lab.home().join("state/history/perth.jsonl");
    let mut file = fs::File::options().append(true).open(path).expect("the history");
    file.write_all(b"{\"at\":\"2026-").expect("half a line");
    assert_eq!(deeds(&lab, &[]).len(), 1);

    lab.release(&[("core", "1"), ("tools", "1")]);
    lab.agent_once("perth").expect_success();

    assert_eq!(deeds(&lab, &[]).len(), 2);
}

#[test]
fn why_explains_a_package_that_is_there_and_what_was_done() {
    let lab = lab("whythere");
    lab.agent_once("perth").expect_success();
    let outcome = lab.blat(&["why", "core", "1"]);
    outcome.expect_success().says("core@1 on perth: it is there").says("wanted by release Lab 1 (1)").says("  sent  ");
}

#[test]
fn why_explains_a_package_that_is_not_there() {
    let lab = lab("whynot");
    lab.package("late", "1", |p| p.writable());
    lab.release(&[("core", "1"), ("lost", "1"), ("late", "1"), ("tools", "1")]);
    lab.config("perth", "exclude: [tools]");

    let why = |name: &str, expected: &[&str]| {
        let outcome = lab.blat(&["why", name, "1", "--target", "perth"]);
        outcome.expect_success().says(&format!("{name}@1 on perth: it is not there"));
        for text in expected {
            outcome.says(text);
        }
    };
    why("core", &["wanted by release Lab 1", "the next sync sends it"]);
    why("lost", &["does not send it: the source has no such package"]);
    why("late", &["still writable"]);
    why("tools", &["nothing wants it", "kept out by include or exclude, though listed by release Lab 1 (1)"]);
    why("other", &["nothing wants it: no selected release lists it"]);
    assert_eq!(lab.visible(), Vec::<String>::new(), "asking changes nothing");
}

#[test]
fn a_package_is_explained_by_both_its_spellings() {
    let lab = lab("spellings");
    let said = [&["why", "core@1", "--target", "perth"][..], &["why", "core", "1"]].map(|words| {
        let outcome = lab.blat(words);
        outcome.expect_success().says("core@1 on perth: it is not there");
        outcome.stdout.clone()
    });
    assert_eq!(said[0], said[1]);
}

/// Asking may take a database's minutes, so what include and exclude keep out is read off the same answer.
#[test]
fn why_asks_for_the_releases_once() {
    let lab = lab("once");
    let asked = lab.home().join("asked");
    let answer = r#"{"projects": [{"name": "Lab", "releases": [{"id": 1, "name": "R", "packages": ["tools@1"]}]}]}"#;
    fs::write(lab.home().join("answer.json"), answer).expect("an own folder");
    let command =
        format!("release_manager: {{command: [sh, -c, 'echo asked >>{} && cat answer.json']}}", asked.display());
    lab.config("perth", &format!("{command}\nexclude: [tools]"));

    lab.blat(&["why", "tools", "1"])
        .expect_success()
        .says("kept out by include or exclude, though listed by release R");

    assert_eq!(fs::read_to_string(&asked).expect("it was asked").lines().count(), 1);
}

#[test]
fn why_explains_links_and_what_they_address_and_what_stays() {
    let lab = lab("whylink");
    std::os::unix::fs::symlink("1", lab.source().join("core/current")).expect("a free name");
    lab.release(&[("tools", "1")]);
    lab.config("perth", "pkg: {core: current}");
    lab.blat(&["why", "core", "current"]).expect_success().says("makes it a link to 1").says("pkg in its config");
    lab.agent_once("perth").expect_success();

    lab.blat(&["why", "core", "1"]).expect_success().says("it is there").says("core@current is a link to it");
    lab.blat(&["why", "core", "current"]).expect_success().says("it is there, a link to 1");
    lab.release(&[]);
    lab.blat(&["why", "tools", "1"]).expect_success().says("nothing wants it").says("leaves it there");
    lab.config("broken", "port: 70000");
    lab.blat(&["why", "core", "1"]).expect(78).says("core@1 on perth: it is there").says("broken.conf");
}

#[test]
fn why_tells_the_last_failure() {
    let lab = lab("whyfailed");
    let place = lab.on_target("core", "1");
    lab.as_target_user(&["mkdir", "-p", place.to_str().expect("text")]).expect_success();
    lab.agent_once("perth").expect(1);

    lab.blat(&["why", "core", "1"]).expect_success().says("failed  what is in its place is no package of ours");
}
