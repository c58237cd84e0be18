//! All suites, in one executable: each is a file beside this one, and some of them run by more than one way.

#![allow(clippy::duplicate_mod, reason = "a suite that runs by another way is the same file with another WAY")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use blat_tests::Way;

/// The way of the suites that are named here first.
const WAY: Way = Way::ORDINARY;

mod aging;
mod bandwidth;
#[path = "chaos/main.rs"]
mod chaos;
mod commands;
mod documents;
mod enrol;
mod fan_out;
mod faults;
mod faults_agent;
mod faults_link;
mod faults_net;
mod faults_power;
mod faults_source;
mod faults_target;
mod full;
mod hard_links;
mod history;
mod jumps;
mod killing;
mod link;
mod links;
mod logins;
mod notifications;
mod package_list;
mod receiver;
mod reconfigure;
mod releases;
mod replacing;
mod resting;
mod restrict;
mod resuming;
mod s3;
mod s3_credentials;
mod s3_faults;
mod s3_trust;
mod sessions;
mod structure;
mod supervision;
mod sync;
mod tags;
mod trust_accounts;
mod trust_adopting;
mod trust_databases;
mod trust_deleting;
mod trust_dropping;
mod trust_exchanging;
mod trust_folders;
mod trust_local;
mod trust_memory;
mod trust_orders;
mod trust_owner;
mod trust_paths;
mod trust_places;
mod trust_releases;
mod trust_same;
mod trust_sender;
mod trust_servers;
mod trust_source;
mod trust_ssh_process;
mod trust_surroundings;
mod trust_tags;
mod trust_targets;
mod trust_ways;
mod unwritable_releases;
mod verify;
mod wanting;

/// The receiver serves.
#[path = "."]
mod by_receiver {
    use blat_tests::Way;

    const WAY: Way = Way::BY_RECEIVER;

    mod aging;
    mod bandwidth;
    mod full;
    mod killing;
    mod link;
    mod links;
    mod replacing;
    mod sync;
    mod tags;
    mod trust_accounts;
    mod trust_deleting;
    mod trust_orders;
    mod verify;
}

/// The ssh client within the agent leads there.
#[path = "."]
mod over_libssh2 {
    use blat_tests::Way;

    const WAY: Way = Way::OVER_LIBSSH2;

    mod full;
    mod killing;
    mod link;
    mod logins;
    mod sessions;
    mod sync;
    mod tags;
}

/// The suites that are named here, by the module that names them.
fn named() -> BTreeMap<String, Vec<String>> {
    let mut modules = BTreeMap::new();
    let mut module = String::new();
    for line in include_str!("suites.rs").lines().map_while(|line| (!line.starts_with("fn ")).then(|| line.trim())) {
        match line.strip_prefix("mod ") {
            Some(rest) if rest.ends_with(" {") => module = rest.trim_end_matches(" {").to_owned(),
            Some(rest) => {
                modules.entry(module.clone()).or_insert_with(Vec::new).push(rest.trim_end_matches(';').to_owned())
            }
            None => {}
        }
    }
    modules
}

fn text_of(suite: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    fs::read_to_string(folder.join(suite).with_extension("rs")).expect("a suite that is named here")
}

/// Cargo finds no suite by itself, so that one which is not named here would never run, and nobody would miss it.
#[test]
fn every_suite_is_named() {
    let beside = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")).expect("the folder of the suites");
    let names =
        beside.map(|entry| entry.expect("a file").path().file_stem().expect("a name").to_string_lossy().into_owned());
    let modules = named();
    let missing: Vec<_> = names.filter(|name| name != "suites" && !modules[""].contains(name)).collect();
    assert!(missing.is_empty(), "tests/tests/suites.rs does not name {missing:?}");
}

/// [`Lab::new`](blat_tests::Lab::new) makes a lab of the ordinary way, by which such a suite runs anyway: it would prove nothing of another.
#[test]
fn suites_that_run_by_another_way_make_no_lab_of_the_ordinary_one() {
    let mut modules = named();
    modules.remove("");
    assert_eq!(modules.len(), 2, "{modules:?}");
    let wrong: Vec<_> = modules.into_values().flatten().filter(|suite| text_of(suite).contains("Lab::new(")).collect();
    assert!(wrong.is_empty(), "these ask for labs by no way: {wrong:?}");
}
