//! Logins that fail say what is wrong: with our key here, with what the server says, with the account there, with the host's key.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use blat_tests::{Lab, Outcome, process};

use super::WAY;

/// A lab with one small package that is wanted.
fn lab(name: &str) -> Lab {
    let lab = WAY.lab(name);
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    lab
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("could not read {}: {error}", path.display()))
}

/// A copy of the lab's key in `ssh/`, with another text.
fn key(lab: &Lab, name: &str, change: impl FnOnce(String) -> String) -> PathBuf {
    let path = lab.home().join("ssh").join(name);
    fs::write(&path, change(read(&lab.home().join("../sshd/id_ed25519")))).expect("an own folder");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("an own file");
    lab.hand_over();
    path
}

/// From now on our key runs this on the target, whatever it asks for.
fn force(lab: &Lab, script: &str) {
    let daemon = lab.home().join("../sshd/daemon");
    fs::write(daemon.join("forced"), script).expect("the lab's own folder");
    let path = fs::canonicalize(daemon.join("forced")).expect("what was just written");
    let key = read(&lab.home().join("../sshd/id_ed25519.pub"));
    fs::write(daemon.join("authorized_keys"), format!("command=\"/bin/sh {}\" {key}", path.display()))
        .expect("the lab's own file");
}

/// Starts the target's sshd anew with these settings before its own.
fn sshd_with(lab: &Lab, settings: &str) {
    lab.sshd("stop").expect_success();
    fs::write(lab.home().join("../sshd/daemon/own_config"), settings).expect("the lab's own folder");
    lab.sshd("start").expect_success();
}

fn says_not(outcome: &Outcome, words: &str) {
    assert!(!outcome.to_string().contains(words), "it says {words:?}\n{outcome}");
}

#[test]
fn a_private_key_that_cannot_be_used_here_is_reported_as_that_with_the_clients_words() {
    let lab = lab("localkey");
    let tried = |path: &Path, expected: &str, remedy: &str| {
        lab.config("perth", &format!("identity: {}", path.display()));
        let outcome = lab.agent_once("perth");
        println!("{outcome}");
        let path = path.display().to_string();
        outcome.expect(1).says("cannot be used here").says(&path).says(expected).says(remedy);
        says_not(&outcome, "authorized_keys");
        outcome
    };
    tried(&lab.home().join("ssh/missing"), "there is no such file", "blat enrol perth");
    let open = key(&lab, "open", |text| text);
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).expect("an own file");
    tried(&open, "mode 0644", "chmod 600");

    let locked = key(&lab, "locked", |text| text);
    let mut keygen = Command::new("ssh-keygen");
    process::run(keygen.args(["-q", "-p", "-N", "secret", "-f"]).arg(&locked), &lab.home()).expect_success();
    lab.hand_over();
    tried(&locked, "passphrase", "ssh-keygen -p").says(" says: ");

    let public = lab.home().join("ssh/half.pub");
    fs::copy(lab.home().join("../sshd/id_ed25519.pub"), &public).expect("an own folder");
    lab.hand_over();
    tried(&public, "public half", "ssh/half").says(" says: ");
    tried(&key(&lab, "cut", |text| text[..200].to_owned()), "-----END", "blat enrol").says(" says: ");
    assert_eq!(lab.visible(), Vec::<String>::new());
}

/// libssh2 reads such keys; the ssh client does not.
#[test]
fn a_private_key_from_windows_or_without_its_last_line_end_serves_or_is_reported_as_that() {
    let lab = lab("lineends");
    let keys = [
        (key(&lab, "crlf", |text| text.replace('\n', "\r\n")), "CR LF", "sed -i"),
        (key(&lab, "endless", |text| text.trim_end().to_owned()), "no line end", "echo >>"),
        (key(&lab, "marked", |text| format!("\u{feff}{text}")), "before its first line", "remove that"),
    ];
    for (path, expected, remedy) in keys {
        lab.config("perth", &format!("identity: {}", path.display()));
        let outcome = lab.agent_once("perth");
        println!("{outcome}");
        if lab.config_text("").contains("transport: libssh2") && outcome.code == Some(0) {
            continue;
        }
        outcome.expect(1).says("cannot be used here").says(expected).says(remedy).says(" says: ");
        says_not(&outcome, "authorized_keys");
    }
}

#[test]
fn as_root_a_private_key_that_the_agent_may_not_read_is_reported_as_that() {
    let lab = lab("unreadable");
    let path = key(&lab, "roots", |text| text);
    process::run(Command::new("chown").arg("root:").arg(&path), &lab.home()).expect_success();
    lab.config("perth", &format!("identity: {}", path.display()));
    let outcome = lab.agent_once("perth");
    outcome.expect(1).says("cannot be used here").says("it cannot be read").says("Permission denied").says("mode 600");
    says_not(&outcome, "authorized_keys");

    // Nor its folder.
    let closed = lab.home().join("ssh/closed");
    fs::create_dir(&closed).expect("root may");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("root may");
    lab.config("perth", &format!("identity: {}", closed.join("id").display()));
    let outcome = lab.agent_once("perth");
    outcome.expect(1).says(&closed.join("id").display().to_string()).says("Permission denied");
    says_not(&outcome, "authorized_keys");
}

#[test]
fn a_key_that_the_server_refuses_is_what_authorized_keys_is_named_for_and_what_the_server_says_is_shown() {
    let lab = lab("refusal");
    let banner = lab.home().join("../sshd/daemon/banner");
    // Among it what the client would say of a key that it cannot read.
    let said =
        "Load key \"/k/id\": error in libcrypto\nno such identity: /k/id: No such file\nMaintenance until noon.\n";
    fs::write(&banner, said).expect("the lab's own folder");
    let banner = fs::canonicalize(banner).expect("what was just written");
    sshd_with(&lab, &format!("Banner \"{}\"\n", banner.display()));
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    fs::write(lab.home().join("../sshd/daemon/authorized_keys"), "").expect("the lab's own file");
    let outcome = lab.agent_once("perth");
    outcome.expect(1).says("not logged in").says("does not accept the key").says("add its public half");
    outcome.says("Maintenance until noon.");
    says_not(&outcome, "cannot be used here");
}

#[test]
fn a_host_that_takes_connections_and_never_answers_is_not_logged_in_to() {
    let lab = lab("silenthost");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    lab.config("perth", &format!("port: {}", silent.local_addr().expect("bound").port()));
    let outcome = lab.agent_once("perth");
    outcome.says("cannot connect to ");
    assert_ne!(outcome.code, Some(0), "{outcome}");
    says_not(&outcome, "runs no commands");
}

#[test]
fn what_a_login_printed_before_it_failed_is_shown_and_that_we_were_logged_in() {
    let lab = lab("printed");
    lab.config("perth", "");
    for (script, expected) in [
        ("echo This account is currently not available.; exit 1", "This account is currently not available."),
        ("echo 'sh: ./rc: Permission denied' >&2; exit 126", "sh: ./rc: Permission denied"),
        ("printf 'Welcome to perth\\n\\033[31mpassword expired\\n'; exit 0", "\\u{1b}[31mpassword expired"),
        ("printf 'no line end'; exit 255", "no line end"),
        ("exec 2>&1; rsync --server --no-such-option", "rsync"),
        ("exit 3", "it printed nothing"),
    ] {
        force(&lab, script);
        let outcome = lab.agent_once("perth");
        println!("{outcome}");
        outcome.expect(1).says("logged in to ").says(expected).says("shell");
        says_not(&outcome, "add its public half");
        says_not(&outcome, "not logged in");
        says_not(&outcome, "\u{1b}[31m");
    }
    force(&lab, "while :; do echo 0123456789; done");
    lab.agent_once("perth").expect(1).says("logged in to ").says("0123456789; 0123456789");
    assert_eq!(lab.visible(), Vec::<String>::new());
}

/// A banner, and start-up files that greet on both streams before each command: none of it is taken for an answer, by either kind of far end.
#[test]
fn whatever_is_said_before_the_protocol_hinders_nobody() {
    let lab = lab("greeted");
    let banner = lab.home().join("../sshd/daemon/banner");
    fs::write(&banner, "Authorised use only.\npublished core 1\n").expect("the lab's own folder");
    let banner = fs::canonicalize(banner).expect("what was just written");
    sshd_with(&lab, &format!("Banner \"{}\"\n", banner.display()));
    let greeting = "echo Welcome to perth; printf 'published core 1\\n# end 0\\n'; echo quota: 90 % >&2";
    force(&lab, &format!("{greeting}\neval \"$SSH_ORIGINAL_COMMAND\"\n"));
    for (version, receiver) in [("2", "auto"), ("3", "never")] {
        lab.package("core", version, |p| p.file("a", version));
        lab.release(&[("core", version)]);
        lab.config("perth", &format!("receiver: {receiver}"));
        lab.agent_once("perth").expect_success();
        lab.assert_published("core", version);
    }
}

#[test]
fn an_account_for_sftp_alone_and_one_that_may_open_no_session_are_logged_in_to_and_named() {
    let lab = lab("sftponly");
    lab.config("perth", "");
    sshd_with(&lab, "ForceCommand internal-sftp\n");
    lab.agent_once("perth")
        .expect(1)
        .says("logged in to ")
        .says("This service allows sftp connections only.")
        .says("shell");
    sshd_with(&lab, "MaxSessions 0\n");
    lab.agent_once("perth").expect(1).says("logged in to ");
    sshd_with(&lab, "");
    lab.agent_once("perth").expect_success();
}

/// An account of its own, and an sshd as root that lets the lab's key in: both end with the test.
struct RealHost {
    user: String,
    folder: PathBuf,
    sshd: std::process::Child,
}

impl RealHost {
    fn new(lab: &Lab) -> Self {
        let folder = lab.home().with_file_name("real");
        let home = folder.join("home");
        fs::create_dir_all(&folder).expect("an own folder");
        fs::create_dir_all("/run/sshd").expect("root may");
        let user = format!("blatln{}n{}", std::process::id(), process::next_number());
        let run = |command: &mut Command| process::run(command, &lab.home()).expect_success().stdout.clone();
        run(Command::new("useradd")
            .args(["--create-home", "--shell", "/bin/bash", "--home-dir"])
            .arg(&home)
            .arg(&user));
        let key = folder.join("host_key");
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
        let keys = fs::canonicalize(lab.home().join("../sshd/id_ed25519.pub")).expect("the lab's own key");
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nUsePAM yes\nStrictModes no\nUseDNS no\n\
             AuthorizedKeysFile {}\nAllowUsers {user}\n",
            key.display(),
            keys.display()
        );
        fs::write(folder.join("config"), config).expect("an own folder");
        let known_hosts = format!("[127.0.0.1]:{port} {}", read(&key.with_extension("pub")));
        fs::write(lab.home().join("ssh/known_hosts"), known_hosts).expect("an own folder");
        lab.config("perth", &format!("port: {port}\nuser: {user}\nknown_hosts: ssh/known_hosts"));
        lab.hand_over();
        let sshd = Command::new("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(folder.join("config")).spawn();
        let host = Self { user, folder, sshd: sshd.expect("OpenSSH's server") };
        lab.wait_for("the sshd", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        host
    }

    fn change(&self, program: &str, words: &[&str]) {
        process::run(Command::new(program).args(words).arg(&self.user), &self.folder).expect_success();
    }
}

impl Drop for RealHost {
    fn drop(&mut self) {
        if let Err(error) = self.sshd.kill().and_then(|()| self.sshd.wait()) {
            eprintln!("could not end the sshd: {error}");
        }
        let gone = process::poll(std::time::Duration::from_secs(20), || {
            let removed = Command::new("userdel").args(["--force", &self.user]).output();
            removed.is_ok_and(|output| output.status.success()).then_some(())
        });
        if gone.is_none() {
            eprintln!("could not remove the account {}", self.user);
        }
    }
}

#[test]
fn as_root_accounts_without_a_shell_with_one_that_leaves_and_expired_ones_are_each_named() {
    let lab = lab("accounts");
    let host = RealHost::new(&lab);
    let tried = |expected: &[&str]| {
        let outcome = lab.blat(&["check", "--connect", "perth"]);
        println!("{outcome}");
        outcome.expect(1);
        for words in expected {
            outcome.says(words);
        }
    };
    host.change("usermod", &["--shell", "/usr/sbin/nologin"]);
    tried(&["logged in to ", "This account is currently not available.", "shell"]);
    host.change("usermod", &["--shell", "/bin/false"]);
    tried(&["logged in to ", "status 1", "it printed nothing"]);
    host.change("usermod", &["--shell", "/bin/bash"]);
    fs::write(host.folder.join("home/.bashrc"), "echo back at noon >&2; exit 7\n").expect("root may");
    tried(&["logged in to ", "status 7", "back at noon"]);
    host.change("chage", &["--expiredate", "0"]);
    // libssh2 keeps to itself what the host says of that.
    let said = if lab.config_text("").contains("transport: libssh2") { "may be expired" } else { "has expired" };
    tried(&["not logged in", said]);
}

/// A start-up file that takes long or becomes another program: takes as long as a login is waited for.
#[test]
fn a_start_up_file_that_replaces_the_shell_is_what_the_report_names() {
    let lab = lab("startup");
    lab.config("perth", "");
    force(&lab, "printf 'Choose a menu entry: '; exec sleep 1000");
    let outcome = lab.agent_once("perth");
    outcome.expect(1).says("logged in to ").says("Choose a menu entry:").says("does not answer").says("start-up files");
}

#[test]
fn a_host_that_was_never_enrolled_one_whose_key_changed_and_one_whose_key_is_revoked_read_differently() {
    let lab = lab("hostkeys");
    let own = read(&lab.home().join("../sshd/known_hosts"));
    let (name, key) = own.trim().split_once(' ').expect("a name and a key");
    let mut keygen = Command::new("ssh-keygen");
    keygen.arg("-lf").arg(lab.home().join("../sshd/daemon/host_key.pub"));
    let listed = process::run(&mut keygen, &lab.home());
    let fingerprint = listed.stdout.split(' ').nth(1).expect("a fingerprint");
    let other = read(&lab.home().join("../sshd/id_ed25519.pub"));
    let known_hosts = lab.home().join("ssh/known_hosts");
    lab.config("perth", "known_hosts: ssh/known_hosts");
    let said = |text: &str| {
        fs::write(&known_hosts, text).expect("an own folder");
        let outcome = lab.agent_once("perth");
        outcome.expect(1).says("the host key of").says("nothing is sent until");
        outcome
    };
    let stranger = said("");
    stranger.says("is not known yet").says(fingerprint).says("blat enrol perth");
    let changed = said(&format!("{name} {other}"));
    changed.says("has changed").says(fingerprint).says("ssh-keygen -R").says("blat enrol perth");
    let revoked = said(&format!("{name} {key}\n@revoked * {key}\n"));
    revoked.says("is revoked in");
    let unsigned = said(&format!("@cert-authority * {other}"));
    unsigned.says("has no certificate that counts here").says(fingerprint).says("blat enrol perth");
    for (outcome, words) in
        [(&stranger, "changed"), (&changed, "not known yet"), (&revoked, "changed"), (&unsigned, "changed")]
    {
        says_not(outcome, words);
    }
    assert_eq!(lab.visible(), Vec::<String>::new());
}

/// A certificate for the host, signed by an authority of the test's own; gives the authority's public key.
fn certify(lab: &Lab, principals: &str) -> String {
    let daemon = lab.home().join("../sshd/daemon");
    let authority = lab.home().join("ssh/authority");
    if !authority.exists() {
        let mut keygen = Command::new("ssh-keygen");
        process::run(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&authority), &lab.home())
            .expect_success();
    }
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-h", "-I", "a host", "-n", principals, "-s"]).arg(&authority).arg(daemon.join("host_key.pub"));
    process::run(&mut keygen, &lab.home()).expect_success();
    let certificate = fs::canonicalize(daemon.join("host_key-cert.pub")).expect("what was just made");
    fs::set_permissions(&certificate, fs::Permissions::from_mode(0o644)).expect("an own file");
    sshd_with(lab, &format!("HostCertificate \"{}\"\n", certificate.display()));
    lab.hand_over();
    read(&authority.with_extension("pub"))
}

/// `blat enrol perth` where nobody can be asked.
fn enrol(lab: &Lab) -> Outcome {
    let blat = lab.command("blat");
    let mut command = Command::new("setsid");
    command.arg("-w").arg(blat.get_program()).args(blat.get_args()).args(["enrol", "perth"]);
    process::run(&mut command, &lab.home())
}

#[test]
fn enrol_asks_nobody_about_a_host_whose_key_a_trusted_authority_has_signed() {
    let lab = lab("authority");
    let known_hosts = lab.home().join("ssh/known_hosts");
    lab.config("perth", "known_hosts: ssh/known_hosts");
    let public = certify(&lab, "sydney");
    let text = format!("@cert-authority 127.0.0.1 {public}");
    fs::write(&known_hosts, &text).expect("an own folder");
    lab.hand_over();
    // A certificate for another host.
    enrol(&lab).expect(1).says("not signed by a certificate authority").says("--fingerprint");
    assert_eq!(read(&known_hosts), text);

    certify(&lab, "127.0.0.1");
    if !lab.config_text("").contains("transport: libssh2") {
        lab.agent_once("perth").expect_success();
    }
    enrol(&lab).expect_success().says("signed by a certificate authority").says("login      works");
    lab.agent_once("perth").expect_success();
    assert_eq!(read(&known_hosts), text + &read(&lab.home().join("../sshd/known_hosts")));
}
