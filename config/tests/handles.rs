//! A process that has no handles left cannot read a config, and says nothing against it. By itself, since the limit is the whole process's.

use std::fs;

use blat_config::{Home, load_master, load_target};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn a_config_that_no_handle_is_left_for_is_not_called_invalid() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    fs::create_dir(scratch.path().join("config")).expect("config/");
    let home = Home::locate(Some(scratch.path())).expect("a home tree");
    let target = "perth".parse().expect("a name");
    fs::write(home.target_config(&target), "transport: local\nsource: /a\narchive: /b\n").expect("a config");
    fs::write(home.master_config(), "verbose: 1\n").expect("a config");

    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).expect("a lower limit");
    let told = [load_target(&home, &target).err(), load_master(&home).err()];
    setrlimit(Resource::Nofile, limit).expect("the former limit");
    for complaints in told {
        let complaints = complaints.expect("no handle");
        let text = complaints.to_string();
        assert!(text.starts_with("error: cannot read the file: Too many open files"), "{text}");
        assert!(complaints.is_unread() && complaints.verdict() == "cannot be read", "{text}");
    }

    load_target(&home, &target).expect("well again");
    fs::write(home.target_config(&target), "transport: local\nsource: /a\narchive: /b\nsync: 4x\n").expect("a config");
    assert_eq!(load_target(&home, &target).expect_err("no time").verdict(), "is not valid");
    fs::write(home.target_config(&target), b"\xff").expect("a config");
    assert_eq!(load_target(&home, &target).expect_err("no text").verdict(), "is not valid");
}
