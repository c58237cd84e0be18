//! Making and checking a home tree, and what is refused before anything is tried.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::Scratch;

#[test]
fn a_new_home_is_valid_once_its_sample_is_used() {
    let scratch = Scratch::empty();
    let ran = scratch.blat(&["init"]).exits(0);
    assert!(ran.out.contains(" enrol perth\n"), "{}", ran.out);
    assert_eq!(scratch.files("ssh"), [""; 0], "keys are made when a target is enrolled");
    let mode = fs::metadata(scratch.path("ssh")).expect("ssh/").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    scratch.blat(&["check"]).exits(0);
    fs::copy(scratch.path("config/perth.conf.sample"), scratch.path("config/perth.conf")).expect("the sample");
    let ran = scratch.blat(&["check"]).exits(0);
    assert_eq!(ran.out, "ok  config/blat.yaml\nok  config/perth.conf\n");
}

#[test]
fn no_sample_is_an_active_target() {
    let scratch = Scratch::empty();
    scratch.blat(&["init"]).exits(0);
    let active: Vec<String> = scratch.files("config").into_iter().filter(|name| name.ends_with(".conf")).collect();
    assert_eq!(active, [""; 0]);
}

#[test]
fn making_a_home_again_changes_nothing() {
    let scratch = Scratch::empty();
    scratch.blat(&["init", "new"]).exits(0);
    scratch.write("new/config/blat.yaml", "verbose: 3\n");
    scratch.write("new/ssh/id_ed25519", "mine");
    let ran = scratch.blat(&["init", "new"]).exits(0);
    assert_eq!(scratch.read("new/config/blat.yaml"), "verbose: 3\n");
    assert!(!ran.out.contains("made "), "{}", ran.out);
    assert_eq!(scratch.read("new/ssh/id_ed25519"), "mine");
}

#[test]
fn a_home_is_not_made_where_a_file_is() {
    let scratch = Scratch::empty();
    scratch.write("new/config", "a file");
    let ran = scratch.blat(&["init", "new"]).exits(1);
    assert!(ran.err.starts_with("blat: cannot make ") && ran.err.contains("new/config"), "{}", ran.err);
}

#[test]
fn the_database_is_made_by_the_agent_and_never_made_again() {
    let scratch = Scratch::empty().with_sibling("blat-agent", "echo \"$*\" > asked; : > \"$2\"");
    scratch.blat(&["init", "--database", "releases.db"]).exits(0);
    assert_eq!(scratch.read("asked"), "--create-database releases.db\n");
    scratch.write("releases.db", "precious");
    scratch.blat(&["init", "--database", "releases.db"]).exits(0);
    assert_eq!(scratch.read("releases.db"), "precious");
}

#[test]
fn a_database_that_cannot_be_made_is_a_failure() {
    let scratch = Scratch::empty().with_sibling("blat-agent", "echo 'blat-agent: no space' >&2; exit 1");
    let ran = scratch.blat(&["init", "--database", "releases.db"]).exits(1);
    assert_eq!(ran.err, "blat-agent: no space\n");
}

#[test]
fn all_complaints_of_all_files_come_at_once() {
    let scratch = Scratch::with_targets(&["perth", "sydney", "hobart"]);
    scratch.write("config/perth.conf", "transport: local\narchiv: x\nsource: /srv\nport: many\n");
    scratch.write("config/sydney.conf", "source: [\n");
    scratch.write("config/bad name.conf", "");
    let ran = scratch.blat(&["check"]).exits(78);
    for expected in ["archiv", "many", "config/perth.conf:2:1", "config/sydney.conf", "bad name.conf"] {
        assert!(ran.err.contains(expected), "{expected} is missing:\n{}", ran.err);
    }
    assert!(ran.err.lines().last().is_some_and(|line| line.starts_with("blat: the configuration is not valid")));
    assert_eq!(ran.out, "ok  config/hobart.conf\n");
    scratch.blat(&["check", "hobart"]).exits(0);
    scratch.blat(&["check", "perth"]).exits(78);
}

#[test]
fn a_fault_in_the_masters_file_is_told_once() {
    let scratch = Scratch::with_targets(&["perth", "sydney"]);
    scratch.write("config/blat.yaml", "defaults:\n  user: [\n");
    let ran = scratch.blat(&["check"]).exits(78);
    assert_eq!(ran.err.matches("config/blat.yaml").count(), 1, "{}", ran.err);
}

#[test]
fn two_targets_may_not_be_the_same_archive() {
    let scratch = Scratch::with_targets(&["perth", "sydney"]);
    scratch.write("config/sydney.conf", &scratch.read("config/perth.conf"));
    let ran = scratch.blat(&["check"]).exits(78);
    assert!(ran.err.contains("perth and sydney are the same archive"), "{}", ran.err);
}

#[test]
fn help_lists_what_there_is_and_no_more() {
    let ran = Scratch::empty().blat(&["--help"]).exits(0);
    let listed: Vec<&str> = ran
        .out
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        listed,
        [
            "init", "check", "enrol", "start", "stop", "restart", "status", "sync", "tag", "plan", "ssh", "verify",
            "adopt", "why", "history", "logs"
        ]
    );
    for command in listed {
        let help = Scratch::empty().blat(&[command, "--help"]).exits(0).out;
        assert!(help.contains("Examples:"), "{help}");
    }
}

#[test]
fn wrong_usage_says_what_is_wrong_and_exits_2() {
    let scratch = Scratch::with_targets(&["perth"]);
    for (words, expected) in [
        (&["stauts"][..], "hint: did you mean `blat status`?"),
        (&["status", "--jsn"], "blat: unexpected argument '--jsn'"),
        (&["tag"], "blat: the following required arguments were not provided"),
        (&["tag", "core"], "blat: the version of core is missing; give NAME VERSION or NAME@VERSION"),
        (&["why", "core@1", "2"], "blat: core@1 has a version, and 2 is a second one"),
        (&["why", "core@"], "package version \"\" is not valid: it is empty"),
        (&["tag", "../x", "1"], "package name"),
        (&["logs", "a\u{1b}b"], "a\\u{1b}b"),
        (&["--home", "nowhere", "status"], "is no home tree"),
    ] {
        let ran = scratch.blat(words).exits(2);
        assert!(ran.err.contains(expected) && !ran.err.contains('\u{1b}'), "{words:?}:\n{}", ran.err);
    }
    let ran = Scratch::empty().blat(&["status"]).exits(2);
    assert!(ran.err.contains("BLAT_HOME") && ran.err.contains("blat init"), "{}", ran.err);
}

#[test]
fn the_environment_names_the_home_tree() {
    let scratch = Scratch::with_targets(&["perth"]);
    let mut command = scratch.command(&["check"]);
    let output = command.current_dir("/").env("BLAT_HOME", scratch.path("")).output().expect("blat runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}
