//! Where the wanted set comes from: databases on real servers, commands, PackageLists; and what happens when they fail.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use blat_tests::accounts::Account;
use blat_tests::database::PASSWORD;
use blat_tests::process::{self, lives};
use blat_tests::{Database, Kind, Lab, Outcome};
use rustix::process::Signal;

/// A lab whose source has these packages, with a file each.
fn lab(name: &str, packages: &[(&str, &str)]) -> Lab {
    let lab = Lab::new(name);
    for (name, version) in packages {
        lab.package(name, version, |p| p.file("a", version));
    }
    lab
}

/// The plan, as `blat-agent` prints it.
fn plan(lab: &Lab) -> serde_json::Value {
    let outcome = process::run(lab.command("blat-agent").args(["--target", "perth", "--plan"]), &lab.home());
    serde_json::from_str(&outcome.expect_success().stdout).unwrap_or_else(|error| panic!("{error} in\n{outcome}"))
}

/// `blat-agent --once` with these variables in its environment.
fn once_with(lab: &Lab, variables: &[(&str, &str)]) -> Outcome {
    let mut command: Command = lab.command("blat-agent");
    command.args(["--target", "perth", "--once"]).envs(variables.iter().copied());
    process::run(&mut command, &lab.home())
}

/// Fails if the word stands in what was said or in any file of the home tree.
fn assert_secret(word: &str, lab: &Lab, outcome: &Outcome) {
    for stream in [&outcome.stdout, &outcome.stderr] {
        assert!(!stream.contains(word), "it was said:\n{}", stream.replace(word, "***"));
    }
    fn search(folder: &Path, word: &str) {
        for entry in fs::read_dir(folder).expect("an own folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                search(&entry, word);
            } else if let Ok(content) = fs::read(&entry) {
                let found = String::from_utf8_lossy(&content).contains(word);
                assert!(!found, "the word stands in {}", entry.display());
            }
        }
    }
    search(&lab.home(), word);
}

fn projects_releases_and_closing(kind: Kind) {
    let lab = lab("rmdb", &[("core", "1"), ("core", "2"), ("tools", "1"), ("extra", "1")]);
    let database = Database::new(&lab, kind);
    database.release(4711, "Lab 1", "open", &[("core", "1"), ("tools", "1")]);
    database.release(4712, "Lab 2", "restricted", &[("core", "2"), ("tools", "1")]);
    database.release(4713, "Lab 0", "closed", &[("extra", "1")]);
    let manager = database.config_with(PASSWORD, "");
    lab.config("perth", &manager);
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.package_list(), ["core 1", "core 2", "tools 1"], "the releases of the project that are not closed");
    assert_eq!(lab.visible(), ["core@1", "core@2", "tools@1"]);

    database.sql(&format!("UPDATE {} SET state = 'closed' WHERE release_id = 4712", database.release_table()));
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.package_list(), ["core 1", "tools 1"], "what only the closed release had is dropped");

    database.release(4714, "Lab 3", "open", &[("extra", "1")]);
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.package_list(), ["core 1", "extra 1", "tools 1"], "a new release joins by itself");

    lab.config("perth", &format!("{manager}\nprojects: []\nreleases: [4713, Lab 2]"));
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.package_list(), ["core 2", "extra 1", "tools 1"], "by id and by name, whatever their state");
}

#[test]
fn postgres_gives_projects_and_releases_and_closing_one_drops_its_packages() {
    projects_releases_and_closing(Kind::Postgres);
}

#[test]
fn mysql_gives_projects_and_releases_and_closing_one_drops_its_packages() {
    projects_releases_and_closing(Kind::MariaDb);
}

fn queries_and_hostile_rows(kind: Kind) {
    let lab = lab("rmquery", &[("core", "1"), ("tools", "1")]);
    let database = Database::new(&lab, kind);
    database.sql(
        "CREATE TABLE t_proj(pid INTEGER, pname VARCHAR(80));
         CREATE TABLE t_rel(rid INTEGER, pid INTEGER, rname VARCHAR(80), official CHAR(1));
         CREATE TABLE t_content(rid INTEGER, pkg VARCHAR(300), ver VARCHAR(80));
         INSERT INTO t_proj VALUES (7, 'Foreign');
         INSERT INTO t_rel VALUES (70, 7, 'Foreign 1', 'N'), (71, 7, 'Foreign 0', 'Y');
         INSERT INTO t_content VALUES (70, 'core', '1'), (71, 'tools', '1');",
    );
    for table in ["t_proj", "t_rel", "t_content"] {
        let to = if kind == Kind::Postgres { "blat" } else { "'blat'@'%'" };
        database.sql(&format!("GRANT SELECT ON {table} TO {to}"));
    }
    let queries = ", queries: {projects: 'SELECT pid AS project_id, pname AS project_name FROM t_proj;', \
         releases: \"SELECT rid AS release_id, pid AS project_id, rname AS release_name, \
           CASE official WHEN 'Y' THEN 'closed' ELSE 'open' END AS state, 0 AS s3sync FROM t_rel\", \
         packages: 'SELECT rid AS release_id, pkg AS package_name, ver AS package_version FROM t_content -- all'}";
    lab.config("perth", &format!("{}\nprojects: [Foreign]", database.config_with(PASSWORD, queries)));
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.package_list(), ["core 1"]);

    // Names that would climb out, be an option, or write to the terminal.
    let long = "n".repeat(250);
    for hostile in ["../../etc", "-rf", "a/b", "a\u{1b}[2J", "a\nb", "$(id)", "", ".dpkg_archive", &long] {
        database.sql(&format!("INSERT INTO t_content VALUES (70, '{hostile}', '1');"));
    }
    let outcome = lab.agent_once("perth");
    outcome.expect_success().says("../../etc").says("not valid");
    assert!(!outcome.stderr.contains("\u{1b}[2J"), "the terminal was written to");
    assert_eq!(lab.package_list(), ["core 1"], "names that are not valid are told, and nothing else comes of them");

    database.sql("DELETE FROM t_content; DELETE FROM t_rel; DELETE FROM t_proj;");
    lab.agent_once("perth").expect(1).says("knows no project \"Foreign\"");
    assert_eq!(
        (lab.visible(), lab.package_list()),
        (vec!["core@1".into()], vec!["core 1".into()]),
        "nothing is touched"
    );

    let lacking = ", queries: {projects: 'SELECT pid AS project_id FROM t_proj'}";
    database.sql("INSERT INTO t_proj VALUES (7, 'Foreign');");
    lab.config("perth", &format!("{}\nprojects: [Foreign]", database.config_with(PASSWORD, lacking)));
    lab.agent_once("perth").expect(1).says("it gives no column project_name");
    // Rows come, and then an error: half an answer is none.
    let half = ", queries: {projects: 'SELECT pid AS project_id, pname AS project_name FROM t_proj UNION ALL \
         SELECT (SELECT pid FROM t_proj UNION SELECT 8), pname FROM t_proj'}";
    lab.config("perth", &format!("{}\nprojects: [Foreign]", database.config_with(PASSWORD, half)));
    lab.agent_once("perth").expect(1).says("the query for projects failed").says("more than");
    let refused = ", queries: {projects: 'SELECT * FROM nowhere'}";
    lab.config("perth", &format!("{}\nprojects: [Foreign]", database.config_with(PASSWORD, refused)));
    lab.agent_once("perth").expect(1).says("the query for projects failed").says("nowhere");
}

#[test]
fn a_release_is_found_by_its_name_however_that_is_composed_and_by_a_name_of_digits() {
    let lab = Lab::new("composed");
    ["1", "2", "3"].iter().for_each(|version| drop(lab.package("core", version, |p| p.file("a", "1"))));
    let release = |id: u32, name: &str, version: &str| {
        format!("      - {{id: {id}, name: {name}, packages: [core@{version}]}}\n")
    };
    let text = format!(
        "projects:\n  - name: Zu\u{308}rich\n    releases:\n{}  - name: Other\n    releases:\n{}{}",
        release(1, "one", "1"),
        release(2, "2024", "2"),
        release(3, "Gene\u{300}ve", "3")
    );
    fs::write(lab.home().join("releases.yaml"), &text).expect("an own folder");
    lab.config("perth", "projects: [Z\u{fc}rich]\nreleases: [2024, Gen\u{e8}ve]\naging: immediate\nmax_delete: 100%");
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.package_list(), ["core 1", "core 2", "core 3"]);

    // A release gets the number that another one is called by, and that one is in the config.
    let more = text + "      - {id: 2024, name: four, packages: [core@1]}\n";
    fs::write(lab.home().join("releases.yaml"), more.replace("core@3", "core@2")).expect("an own folder");
    lab.agent_once("perth").expect(1).says("release 2024 of the config is two").says("{id: 2024}");
    assert!(lab.on_target("core", "3").exists(), "nothing is deleted until the config says which");
    lab.config("perth", "projects: []\nreleases: [{name: 2024}]\naging: immediate\nmax_delete: 100%");
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible(), ["core@2"]);
}

#[test]
fn postgres_is_read_by_a_sites_own_queries_and_its_names_are_not_trusted() {
    queries_and_hostile_rows(Kind::Postgres);
}

#[test]
fn mysql_is_read_by_a_sites_own_queries_and_its_names_are_not_trusted() {
    queries_and_hostile_rows(Kind::MariaDb);
}

fn passwords(kind: Kind) {
    let mut lab = lab("rmpass", &[("core", "1")]);
    let database = Database::new(&lab, kind);
    database.release(1, "Lab 1", "open", &[("core", "1")]);
    let variable = if kind == Kind::Postgres { "PGPASSWORD" } else { "MYSQL_PWD" };
    let good = |lab: &Lab, variables: &[(&str, &str)]| {
        let outcome = once_with(lab, variables);
        outcome.expect_success();
        assert_secret(PASSWORD, lab, &outcome);
    };
    let bad = |lab: &Lab, variables: &[(&str, &str)], word: &str| {
        let outcome = once_with(lab, variables);
        outcome.expect(1).says("cannot read the releases from").says("blat");
        assert_secret(word, lab, &outcome);
    };

    lab.config("perth", &format!("{}\nverbose: 3", database.config("")));
    good(&lab, &[(variable, PASSWORD)]);
    bad(&lab, &[(variable, "Wrong-unlikely-word")], "Wrong-unlikely-word");
    bad(&lab, &[], PASSWORD);

    lab.config("perth", &database.config_with(PASSWORD, ""));
    good(&lab, &[(variable, "the file wins")]);
    lab.config("perth", &database.config_with("Wrong-unlikely-word", ""));
    bad(&lab, &[], "Wrong-unlikely-word");

    // Nor does a daemon log it that logs everything.
    lab.config("perth", &format!("{}\nverbose: 3", database.config_with("Wrong-unlikely-word", "")));
    lab.start_master();
    let failed = |status: &serde_json::Value| !status["last_error"].is_null();
    let status = lab.wait_for_status("perth", "failing", failed);
    assert!(!status.to_string().contains("Wrong-unlikely-word"), "{status:#}");
    lab.wait_for("the log to say why", || {
        let log = fs::read_to_string(lab.home().join("log/perth.log")).expect("a log");
        log.contains("cannot read the releases from").then_some(())
    });
    let ended = lab.end_master(Signal::TERM);
    assert_secret("Wrong-unlikely-word", &lab, &ended);

    // In the URL it is refused, and the refusal does not show it. The operator's own file is no leak.
    let url = database.url().replace("blat@", &format!("blat:{PASSWORD}@"));
    lab.config("perth", &format!("release_manager: {{{}: \"{url}\"}}", database.key()));
    let outcome = process::run(lab.command("blat").arg("check"), &lab.home());
    fs::remove_file(lab.home().join("config/perth.conf")).expect("an own file");
    outcome.expect(78).says("must not stand in the configuration");
    assert_secret(PASSWORD, &lab, &outcome);
}

#[test]
fn postgres_takes_its_password_from_file_or_environment_and_never_shows_it() {
    passwords(Kind::Postgres);
}

#[test]
fn mysql_takes_its_password_from_file_or_environment_and_never_shows_it() {
    passwords(Kind::MariaDb);
}

#[test]
fn postgres_takes_its_password_from_pgpass() {
    let lab = lab("rmpgpass", &[("core", "1")]);
    let database = Database::new(&lab, Kind::Postgres);
    database.release(1, "Lab 1", "open", &[("core", "1")]);
    lab.config("perth", &database.config(""));
    let pgpass = lab.source().with_file_name("pgpass");
    fs::write(&pgpass, format!("otherhost:*:*:*:no\n127.0.0.1:*:rm:blat:{PASSWORD}\n")).expect("an own folder");
    fs::set_permissions(&pgpass, fs::Permissions::from_mode(0o600)).expect("an own file");
    Account::Master.own(&pgpass);

    let outcome = once_with(&lab, &[("PGPASSFILE", pgpass.to_str().expect("a plain path"))]);

    outcome.expect_success();
    assert_secret(PASSWORD, &lab, &outcome);
    assert_eq!(lab.package_list(), ["core 1"]);
}

/// `release_manager` with a parameter in its URL.
fn with_parameter(database: &Database, parameter: &str) -> String {
    database.config_with(PASSWORD, "").replace("/rm\"", &format!("/rm?{parameter}\""))
}

#[test]
fn postgres_is_believed_only_with_a_certificate_that_its_url_asks_for() {
    let lab = lab("rmtls", &[("core", "1")]);
    let database = Database::new(&lab, Kind::Postgres);
    database.release(1, "Lab 1", "open", &[("core", "1")]);

    lab.config("perth", &with_parameter(&database, "sslmode=verify-full"));
    lab.agent_once("perth").expect(1).says("invalid peer certificate");
    let certificate = database.certificate();
    lab.config("perth", &with_parameter(&database, &format!("sslmode=verify-full&sslrootcert={certificate}")));
    lab.agent_once("perth").expect_success();

    assert_eq!(lab.package_list(), ["core 1"]);
}

#[test]
fn mysql_is_sent_no_password_in_the_open_where_its_url_asks_for_tls() {
    let lab = lab("rmnotls", &[("core", "1")]);
    let database = Database::new(&lab, Kind::MariaDb);
    lab.config("perth", &with_parameter(&database, "ssl-mode=REQUIRED"));
    lab.agent_once("perth").expect(1).says("server does not support TLS");
}

fn down_slow_and_fallback(kind: Kind) {
    let lab = lab("rmdown", &[("core", "1"), ("pinned", "1")]);
    let database = Database::new(&lab, kind);
    database.release(1, "Lab 1", "open", &[("core", "1")]);
    let fallback = database.config_with(PASSWORD, ", mode: fallback");
    lab.config("perth", &fallback);

    database.stop();
    lab.agent_once("perth").expect(1).says("no good answer was kept yet");
    database.start();
    lab.agent_once("perth").expect_success();
    assert!(plan(&lab)["snapshot"].is_null(), "it was asked");

    database.stop();
    lab.config("perth", &format!("{fallback}\npkg: {{pinned: 1}}"));
    assert!(plan(&lab)["snapshot"].is_string(), "the plan tells that nothing may be deleted by it");
    lab.agent_once("perth").expect_success().says("nothing is deleted or marked");
    assert_eq!(lab.package_list(), ["core 1", "pinned 1"], "the last good answer, and what the config adds");
    lab.config("perth", &format!("{fallback}\nreleases: [Lab 2]"));
    lab.agent_once("perth").expect(1).says("the answer that was kept is to another question");
    lab.config("perth", &database.config_with(PASSWORD, ""));
    lab.agent_once("perth").expect(1).says("cannot read the releases from");
    assert_eq!(lab.package_list(), ["core 1", "pinned 1"], "strict: nothing is touched");

    // Slow is as good as down.
    database.start();
    let sleep = if kind == Kind::Postgres { "pg_sleep(600)" } else { "BENCHMARK(1000000000000, 1 + 1)" };
    let slow =
        format!(", timeout: 1s, queries: {{projects: 'SELECT 1 AS project_id, {sleep} AS project_name FROM project'}}");
    lab.config("perth", &database.config_with(PASSWORD, &slow));
    lab.agent_once("perth").expect(1).says("cannot read the releases from");
    let running = match kind {
        Kind::Postgres => "SELECT count(*) FROM pg_stat_activity WHERE usename = 'blat' AND state = 'active'",
        Kind::MariaDb => {
            "SELECT count(*) FROM information_schema.processlist WHERE user = 'blat' AND command = 'Query'"
        }
    };
    lab.wait_for("the server to give up the query", || (database.sql(running).trim() == "0").then_some(()));
}

/// Nobody has to read a log to know that a target goes by what was wanted some time ago.
#[test]
fn status_tells_when_the_last_sync_went_by_the_last_good_answer() {
    let mut lab = lab("rmstandin", &[("core", "1")]);
    lab.release(&[("core", "1")]);
    let (releases, aside) = (lab.home().join("releases.yaml"), lab.home().join("aside"));
    lab.config("perth", &format!("release_manager: {{file: {}, mode: fallback}}", releases.display()));
    lab.start_master();
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    assert!(lab.target_status("perth")["last_sync"]["snapshot"].is_null(), "it was asked");

    fs::rename(&releases, &aside).expect("an own folder");
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    let taken = lab.target_status("perth")["last_sync"]["snapshot"].as_str().expect("a time").to_owned();
    let second = taken.get(.."2026-11-21T12:00:00".len()).expect("RFC 3339");
    lab.blat(&["status"])
        .expect_success()
        .says(&format!("Release Manager could not be asked; the last sync went by its answer of {second}"));

    fs::rename(&aside, &releases).expect("an own folder");
    lab.blat(&["sync", "perth", "--wait"]).expect_success();
    assert!(lab.target_status("perth")["last_sync"]["snapshot"].is_null(), "it was asked again");
}

#[test]
fn postgres_down_or_slow_fails_the_sync_or_leaves_it_to_the_last_good_answer() {
    down_slow_and_fallback(Kind::Postgres);
}

#[test]
fn mysql_down_or_slow_fails_the_sync_or_leaves_it_to_the_last_good_answer() {
    down_slow_and_fallback(Kind::MariaDb);
}

/// A program of the lab's home tree.
fn program(lab: &Lab, name: &str, script: &str) {
    let path = lab.home().join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("an own folder");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("an own file");
}

#[test]
fn a_command_prints_the_wanted_set_as_json() {
    let lab = lab("rmcmd", &[("core", "1"), ("core", "2")]);
    let script = "printf '{\"projects\": [{\"name\": \"%s\", \"releases\": [{\"id\": 1, \"name\": \"R\", \"packages\": \
                  [\"core@1\", \"../x@1\"]}]}]}' \"$1\"";
    program(&lab, "list", script);
    lab.config("perth", "release_manager: {command: [./list, \"Lab $(id) * '\"]}\nprojects: [\"Lab $(id) * '\"]");

    lab.agent_once("perth").expect_success().says("../x");

    assert_eq!(lab.package_list(), ["core 1"], "no shell came between");
}

#[test]
fn a_command_that_fails_prints_garbage_or_is_missing_fails_the_sync_with_what_it_said() {
    let lab = lab("rmcmdbad", &[("core", "1")]);
    let good = "{\"projects\": [{\"name\": \"Lab\", \"releases\": [{\"id\": 1, \"name\": \"R\", \"packages\": [\"core@1\"]}]}]}";
    program(&lab, "list", &format!("echo '{good}'"));
    lab.config("perth", "release_manager: {command: [./list]}");
    lab.agent_once("perth").expect_success();

    for (script, said) in [
        (
            format!("echo '{good}'; echo 'ORA-12541: no listener' >&2; exit 3"),
            "exit status: 3; it said: ORA-12541: no listener",
        ),
        (format!("echo '{good}'; kill -9 $$"), "signal: 9"),
        ("echo 'projects: []'".into(), "not the documented JSON"),
        (format!("echo '{good}' | head -c 60"), "not the documented JSON"),
        (format!("echo '{good}'; echo '{good}'"), "not the documented JSON"),
        ("echo '{\"projects\": []}'".into(), "knows no project \"Lab\""),
        ("exit 0".into(), "not the documented JSON"),
    ] {
        program(&lab, "list", &script);
        lab.agent_once("perth").expect(1).says(said);
    }
    fs::remove_file(lab.home().join("list")).expect("an own file");
    lab.agent_once("perth").expect(1).says("cannot start it");
    assert_eq!(
        (lab.visible(), lab.package_list()),
        (vec!["core@1".into()], vec!["core 1".into()]),
        "nothing is touched"
    );
}

#[test]
fn a_slow_command_is_killed_with_all_that_it_started() {
    let lab = lab("rmslow", &[("core", "1")]);
    program(&lab, "list", "sleep 1000 & echo $! >child; echo $$ >self; wait");
    lab.config("perth", "release_manager: {command: [./list], timeout: 2s}");

    lab.agent_once("perth").expect(1).says("no answer within 2s");

    for file in ["child", "self"] {
        let pid = fs::read_to_string(lab.home().join(file)).expect("it began").trim().parse().expect("a number");
        lab.wait_for("the command to end", || (!lives(pid)).then_some(()));
    }
}

#[test]
fn stopping_while_a_command_runs_leaves_nothing_of_it() {
    let mut lab = lab("rmstop", &[("core", "1")]);
    program(&lab, "list", "sleep 1000 & echo $! >child.tmp; mv child.tmp child; wait");
    lab.config("perth", "release_manager: {command: [./list], timeout: 1h}");
    lab.start_master();
    lab.wait_for("the command to begin", || lab.home().join("child").exists().then_some(()));

    lab.end_master(Signal::TERM).expect_success();

    lab.wait_until_nothing_runs();
}

#[test]
fn a_target_can_be_a_master_for_others_by_its_package_list() {
    let lab = lab("rmlist", &[("core", "1"), ("core", "2"), ("tools", "1")]);
    lab.release(&[("core", "1"), ("tools", "1")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    let list = lab.source().with_file_name("list");
    fs::copy(lab.target_archive().join(".dpkg_archive/PackageList.txt"), &list).expect("a shipped list");
    let manager = format!("release_manager: {{package_list: {}}}", list.display());
    lab.config("perth", &format!("{manager}\nprojects: []\npkg: {{core: 2}}\nexclude: [tools]"));

    lab.agent_once("perth").expect_success();
    assert_eq!(lab.package_list(), ["core 1", "core 2"], "what is listed, narrowed, and what is pinned");

    for torn in ["core 1\n", "core 1\n# end 2\n", "core 1\n# end 1\ntools 1\n", ""] {
        fs::write(&list, torn).expect("an own file");
        lab.agent_once("perth").expect(1).says("cannot read the releases from");
    }
    assert_eq!(lab.package_list(), ["core 1", "core 2"], "a list that is not whole changes nothing");

    lab.config("perth", &manager);
    lab.agent_once("perth").expect(78).says("projects have no meaning with a package_list");
}
