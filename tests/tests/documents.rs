//! Every command that a document prints is run, in its order, by a shell, as whoever reads the document would type it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use blat_tests::accounts::{self, Account};
use blat_tests::process::{self, executable};
use blat_tests::{Bucket, Lab, Outcome, Store};

/// The document whose commands need a bucket.
const BUCKETS: &str = "docs/s3.md";
/// Languages of blocks that hold no commands.
const NOT_COMMANDS: [&str; 5] = ["text", "yaml", "json", "sql", "crontab"];
/// How long a command that goes on until it is interrupted is let go on.
const FOLLOWED: &str = "timeout --signal INT 1";
/// The exit status of `timeout` where it had to interrupt.
const INTERRUPTED: &str = "[ $? -eq 124 ]";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The documents, by their paths in the repository.
fn documents() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![String::new(), "docs/".to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(repository().join(&folder)).expect("a folder of the repository").flatten() {
            let name = entry.file_name().into_string().expect("a name that is text");
            let kind = entry.file_type().expect("a kind");
            if name.ends_with(".md") {
                found.push(format!("{folder}{name}"));
            } else if kind.is_dir() && !folder.is_empty() {
                folders.push(format!("{folder}{name}/"));
            }
        }
    }
    found.sort();
    found
}

/// The fenced blocks of a document: language, lines.
fn blocks(document: &str) -> Vec<(String, Vec<String>)> {
    let text = fs::read_to_string(repository().join(document)).expect("a document");
    let mut blocks = Vec::new();
    let mut open = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), open.as_mut()) {
            (Some(language), None) => open = Some((language.to_owned(), Vec::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, lines))) => lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{document} has a block that does not end");
    blocks
}

/// A command as it is run here: in the lab's home tree, with a config that fits the lab, and not for ever.
fn runnable(line: &str, lab: &Lab) -> Option<String> {
    let command = line.split(" # ").next().unwrap_or(line).trim();
    if let Some(goal) = command.strip_prefix("make ") {
        assert!(is_goal(goal), "the Makefile has no {goal:?}");
        return None;
    }
    let mut command = command.replace("/srv/blat", &lab.home().display().to_string());
    if command.contains("cp config/") {
        command += " && cp ../edited.conf config/perth.conf";
    } else if command.contains("--watch") || command.contains("--follow") {
        command = format!("{FOLLOWED} {command} || {INTERRUPTED}");
    }
    (!command.is_empty()).then_some(command)
}

fn is_goal(words: &str) -> bool {
    let makefile = fs::read_to_string(repository().join("Makefile")).expect("the Makefile");
    let goal = words.split_whitespace().next().unwrap_or_default();
    makefile.lines().any(|line| line.split(':').next() == Some(goal))
}

/// A home tree in which what the documents speak of exists.
fn documented_lab() -> Lab {
    let lab = Lab::new("documents");
    lab.package("core_devl", "2.1.0.cr", |p| p.file("a", "1"));
    lab.package("tools", "1.3.0", |p| p.file("a", "1"));
    lab.release(&[("tools", "1.3.0")]);
    for target in ["perth", "sydney"] {
        lab.config(target, &format!("archive: {}/{target}", lab.target_archive().display()));
        lab.as_target_user(&["mkdir", "-p", &format!("{}/{target}", lab.target_archive().display())]).expect_success();
    }
    fs::copy(lab.home().join("config/perth.conf"), lab.home().join("../edited.conf")).expect("a config");
    lab
}

/// The bucket that the document of buckets speaks of, empty, and a target `cloud` that is to fill it.
fn documented_bucket() -> (Lab, Bucket) {
    let mut lab = Lab::new("bucket");
    let bucket = Bucket::new(&mut lab, Store::Moto);
    let endpoint = format!("http://127.0.0.1:{}", bucket.port());
    let client = [("AWS_ENDPOINT_URL", endpoint), ("AWS_DEFAULT_REGION", "us-east-1".to_owned())];
    let path = format!("{}:{}", bucket.tools(), std::env::var("PATH").unwrap_or_default());
    lab.set_environment(bucket.owner().environment().into_iter().chain(client).chain([("PATH", path)]));
    bucket.config(&lab, "cloud", &["prefix: dpkg_archive"], "");
    bucket.aws(&["iam", "create-user", "--user-name", "blat"]);
    let packages = [("core_devl", "2.1.0.cr"), ("tools", "1.3.0")];
    packages.iter().for_each(|(name, version)| drop(lab.package(name, version, |p| p.file("a", "1"))));
    lab.release_for_buckets(&packages);
    (lab, bucket)
}

/// Runs all commands of a document in one shell, which stops at the first that fails.
fn run(document: &str, lab: &Lab) -> Outcome {
    let blocks = blocks(document).into_iter().filter(|(language, _)| language == "sh");
    let lines: Vec<String> = blocks.flat_map(|(_, lines)| lines).collect();
    let commands: Vec<String> = lines.iter().filter_map(|line| runnable(line, lab)).collect();
    let built = executable("blat").parent().expect("a folder").to_owned();
    let executables = accounts::executables(&built).display().to_string();
    let own = std::env::var("PATH").unwrap_or_default();
    let path = lab.environment().find(|(name, _)| *name == "PATH").map_or(own, |(_, path)| path.to_owned());
    let path = format!("{executables}:{path}");
    let mut shell = Account::Master.command("sh");
    shell.args(["-exc", &commands.join("\n")]).current_dir(lab.home());
    shell
        .envs(lab.environment())
        .env("PATH", path)
        .env("BLAT_LAB", lab.home().join("..").canonicalize().expect("the lab"))
        .env_remove("BLAT_HOME");
    process::run(&mut shell, &lab.home())
}

#[test]
fn every_command_of_the_readme_works() {
    run("README.md", &documented_lab()).expect_success();
}

#[test]
fn every_command_of_the_documents_works() {
    for document in documents().iter().filter(|document| !["README.md", BUCKETS].contains(&document.as_str())) {
        let lab = documented_lab();
        run(document, &lab).expect_success();
    }
}

#[test]
fn every_command_of_the_document_of_buckets_works_with_the_aws_client_and_curl() {
    let (lab, _bucket) = documented_bucket();
    run(BUCKETS, &lab).expect_success();
    for file in ["core_devl/descpkg", "tools/descpkg"] {
        assert!(lab.home().join(file).is_file(), "{file} was not fetched");
    }
}

#[test]
fn every_block_of_a_document_says_whether_it_holds_commands() {
    let documents = documents();
    assert!(documents.len() > 5, "{documents:?}");
    for document in documents {
        for (language, lines) in blocks(&document) {
            assert!(
                language == "sh" || NOT_COMMANDS.contains(&language.as_str()),
                "{document}: a block of {language:?} begins with {:?}",
                lines.first()
            );
        }
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    for document in documents() {
        let text = fs::read_to_string(repository().join(&document)).expect("a document");
        let folder = repository().join(&document).parent().expect("a folder").to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let outside = link.is_empty() || link.contains("://");
            assert!(outside || folder.join(link).exists(), "{document} links to {link}, which is not there");
        }
    }
}

/// The longest line of prose, in characters. Blocks and tables are as wide as they have to be, and so is a single word.
const WIDEST: usize = 100;

#[test]
fn prose_is_wrapped() {
    let mut wide = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(repository().join(&document)).expect("a document");
        let mut in_block = false;
        for (number, line) in (1..).zip(text.lines()) {
            in_block ^= line.trim_start().starts_with("```");
            let may_be_wide =
                in_block || line.starts_with(['|', '#']) || !line.trim_start().trim_start_matches("- ").contains(' ');
            if line.chars().count() > WIDEST && !may_be_wide {
                wide.push(format!("{document}:{number}"));
            }
        }
    }
    assert!(wide.is_empty(), "wrap these lines at {WIDEST} columns: {wide:?}");
}

/// The documents that name a test for each thing they promise.
const PROMISES: [&str; 4] =
    ["docs/requirements.md", "docs/requirements-trust.md", "docs/requirements-sites.md", "docs/security.md"];

/// The file of a `path::name` and its name, of all that a document names.
fn named_tests(document: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(repository().join(document)).expect("a document");
    let quoted = text.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.split_once("::"));
    quoted.map(|(path, name)| (path.to_owned(), name.to_owned())).collect()
}

#[test]
fn every_test_that_a_promise_names_exists() {
    for document in PROMISES {
        assert_tests_exist(document);
    }
}

/// The document that names tests by the words behind their file.
const FAULTS: &str = "docs/requirements-faults.md";
/// The last fault of the list that Blat was made against.
const LAST_FAULT: u32 = 81;

/// All source of Rust below this folder.
fn source_below(folder: &Path) -> String {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let text = |path: PathBuf| match path.is_dir() {
        true => source_below(&path),
        false if path.extension().is_some_and(|end| end == "rs") => fs::read_to_string(&path).unwrap_or_default(),
        false => String::new(),
    };
    entries.map(text).collect()
}

#[test]
fn every_fault_has_a_row_and_the_tests_that_rows_name_exist() {
    let text = fs::read_to_string(repository().join(FAULTS)).expect("a document");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
    let number = |row: &&str| row.split('|').nth(1).and_then(|cell| cell.trim().parse::<u32>().ok());
    let numbers: BTreeSet<u32> = rows.iter().filter_map(number).collect();
    let without: Vec<u32> = (1..=LAST_FAULT).filter(|number| !numbers.contains(number)).collect();
    assert!(without.is_empty(), "{FAULTS} has no row for {without:?}");

    let crates = ["agent", "cli", "config", "domain", "logging", "packing", "paths", "receiver", "supervisor", "tests"];
    let source: String = crates.iter().map(|name| source_below(&repository().join(name))).collect();
    // Names of tests have several words; those that end in "_…" are cut.
    let is_name = |word: &&str| word.matches('_').count() > 2 && !word.contains(['`', '/', '\u{2026}']);
    let words = rows.iter().flat_map(|row| row.split([' ', ',', ';', ':', '|', '(', ')'])).filter(is_name);
    let missing: BTreeSet<&str> = words.filter(|word| !source.contains(&format!("fn {word}("))).collect();
    assert!(missing.is_empty(), "{FAULTS} names tests that are not there: {missing:#?}");
}

fn assert_tests_exist(document: &str) {
    let named = named_tests(document);
    assert!(named.len() > 3, "{document} names {} tests", named.len());
    let is_missing = |named: &&(String, String)| {
        let (path, name) = named;
        let text = fs::read_to_string(repository().join(path)).unwrap_or_default();
        let (is_rust, is_shell) = (text.contains(&format!("fn {name}(")), text.contains(&format!("\n{name}() {{")));
        !(if path.ends_with(".sh") { is_shell } else { is_rust })
    };
    let missing: Vec<_> = named.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "{document} names tests that are not there: {missing:#?}");
}
