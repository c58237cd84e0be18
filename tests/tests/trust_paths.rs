//! What a home tree is called is its owner's affair: ssh makes nothing else of it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use blat_tests::{Account, Lab, process};

/// Signs that ssh, shells and their quoting make something of, and one that is no text.
const ODD: &[u8] = b"a b${HOME}%h\"c\\'d\xff";

fn fingerprint(lab: &Lab) -> String {
    let mut keygen = Command::new("ssh-keygen");
    keygen.arg("-lf").arg(lab.home().join("../sshd/daemon/host_key.pub"));
    let listed = process::run(&mut keygen, &lab.home());
    listed.expect_success().stdout.split(' ').nth(1).expect("a fingerprint").to_owned()
}

/// The lab's home tree under another name, with neither identity nor known hosts.
fn moved(lab: &Lab, transport: &str) -> PathBuf {
    let home = lab.home().with_file_name(OsStr::from_bytes(ODD));
    lab.config("perth", &format!("identity: ssh/id_ed25519\nknown_hosts: ssh/known_hosts\ntransport: {transport}"));
    for folder in ["config", "ssh", "tags"] {
        fs::create_dir_all(home.join(folder)).expect("a scratch folder");
    }
    fs::copy(lab.home().join("config/perth.conf"), home.join("config/perth.conf")).expect("a config");
    Account::Master.own(&home);
    home
}

fn works_in_an_odd_home(name: &str, transport: &str) {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    let home = moved(&lab, transport);
    let blat = |words: &[&str]| process::run(lab.command_in(&home, "blat").args(words), Path::new("/"));

    let enrol = ["enrol", "perth", "--fingerprint", &fingerprint(&lab)];
    blat(&enrol).expect(1).says("takes no passwords");
    let public = fs::read_to_string(home.join("ssh/id_ed25519.pub")).expect("a key was made");
    let authorized = lab.home().join("../sshd/daemon/authorized_keys");
    // No other key is let in, so that none from another place can have been used.
    fs::write(&authorized, public).expect("the lab's own");
    blat(&enrol).expect_success().says("already trusted");
    blat(&["check", "perth", "--connect"]).expect_success();
    blat(&["ssh", "perth", "echo", "at the target"]).expect_success().says("at the target");
    let agent = |words: &[&str]| process::run(lab.command_in(&home, "blat-agent").args(words), Path::new("/"));
    agent(&["--target", "perth", "--once"]).expect_success();
    lab.assert_published("core", "1");
}

#[test]
fn a_home_of_any_name_works_by_the_ssh_client() {
    works_in_an_odd_home("oddhome", "openssh");
}

#[test]
fn a_home_of_any_name_works_by_libssh2() {
    works_in_an_odd_home("oddhometwo", "libssh2");
}
