//! `blat enrol --restrict`: with the key of the master nothing is possible on the target but the receiver. Shown by trying.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use blat_tests::{Lab, Outcome, process};

/// A target that lets a key of the master's own in by the user's authorized_keys, and no other way.
struct Enrolled {
    lab: Lab,
    /// The user's authorized_keys.
    keys: PathBuf,
    /// The key's public half, with its line end.
    public: String,
}

/// What stands in the file beside our key.
const OTHERS: &str = "# somebody else's\nssh-ed25519 AAAAelse else\n";

impl Enrolled {
    fn new(name: &str, transport: &str) -> Self {
        let lab = Lab::new(name);
        lab.package("core", "1", |p| p.file("a", "1"));
        lab.release(&[("core", "1")]);
        lab.config("perth", &format!("identity: ssh/id_ed25519\ntransport: {transport}\nreceiver: auto"));
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "blat", "-f"]).arg(lab.home().join("ssh/id_ed25519"));
        process::run(&mut keygen, &lab.home()).expect_success();
        lab.hand_over();
        let public = fs::read_to_string(lab.home().join("ssh/id_ed25519.pub")).expect("a key");
        let ssh = lab.home().with_file_name("sshd").join("home/.ssh");
        lab.as_target_user(&["mkdir", "-m", "700", &ssh.display().to_string()]).expect_success();
        let enrolled = Self { lab, keys: ssh.join("authorized_keys"), public };
        enrolled.write_keys(&format!("{OTHERS}{}", enrolled.public));
        enrolled
    }

    fn write_keys(&self, text: &str) {
        let keys = self.keys.display().to_string();
        self.lab.as_target_user(&["sh", "-c", "printf %s \"$1\" >\"$2\"", "sh", text, &keys]).expect_success();
    }

    fn keys(&self) -> String {
        fs::read_to_string(&self.keys).expect("authorized_keys")
    }

    /// The system's ssh, scp or sftp with the master's key and these arguments, `HOST` being the target.
    fn client(&self, program: &str, arguments: &[&str]) -> Outcome {
        let sshd = self.lab.home().with_file_name("sshd");
        let read = |file: &str| fs::read_to_string(sshd.join(file)).expect("a started sshd").trim().to_owned();
        let mut command = Command::new(program);
        command.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "StrictHostKeyChecking=yes",
        ]);
        command.arg("-o").arg(format!("IdentityFile={}", self.lab.home().join("ssh/id_ed25519").display()));
        command.arg("-o").arg(format!("UserKnownHostsFile={}", sshd.join("known_hosts").display()));
        command.arg("-o").arg(format!("Port={}", read("port")));
        let host = format!("{}@127.0.0.1", read("user"));
        command.args(arguments.iter().map(|argument| argument.replace("HOST", &host)));
        process::run(&mut command, &self.lab.home())
    }
}

fn restrict(enrolled: &Enrolled) -> Outcome {
    enrolled.lab.blat(&["enrol", "perth", "--restrict"])
}

#[test]
fn with_a_restricted_key_nothing_is_possible_but_the_receiver() {
    let enrolled = Enrolled::new("restrict", "openssh");
    let scratch = enrolled.lab.target_archive().with_file_name("proof").display().to_string();
    enrolled.client("ssh", &["HOST", &format!("touch {scratch}; echo free")]).expect_success().says("free");
    fs::remove_file(&scratch).expect("what an unrestricted key can do");

    restrict(&enrolled).expect_success().says("restricted: it can run nothing but blat-receiver");

    let (archive, bin) = (enrolled.lab.target_archive(), enrolled.lab.target_bin());
    let (archive, bin) = (archive.display(), bin.display());
    let line = format!("restrict,command=\"'{bin}/blat-receiver' --archive '{archive}'\" {}", enrolled.public);
    assert_eq!(enrolled.keys(), format!("{OTHERS}{line}"));
    assert!(!enrolled.keys.with_extension("blat-before").exists(), "nothing is left beside it");

    // Whatever is asked for, the receiver answers, and takes what is no frame for the end of the conversation.
    let other = format!("{bin}/blat-receiver --archive /");
    for asked in [&["touch", &scratch][..], &["sh", "-c", &format!("'echo >{scratch}'")], &[&other], &[]] {
        let outcome = enrolled.client("ssh", &[&["HOST"], asked].concat());
        assert_eq!(outcome.stdout, "# blat-receiver 1\n", "{outcome}");
    }
    enrolled.client("ssh", &["-tt", "HOST"]).says("PTY allocation request failed");

    let local = enrolled.lab.home().join("local");
    fs::write(&local, "x").expect("an own file");
    let local = local.display().to_string();
    for copy in [&["scp", &local, &format!("HOST:{scratch}")][..], &["scp", "-O", &local, &format!("HOST:{scratch}")]] {
        assert_ne!(enrolled.client(copy[0], &copy[1..]).code, Some(0), "{copy:?}");
    }
    let fetched = enrolled.lab.home().join("fetched").display().to_string();
    assert_ne!(enrolled.client("scp", &["HOST:/etc/passwd", &fetched]).code, Some(0));
    assert_ne!(enrolled.client("sftp", &["HOST:/etc/passwd", &fetched]).code, Some(0));
    assert!(!PathBuf::from(&fetched).exists() && !PathBuf::from(&scratch).exists());
    assert_ports_are_not_forwarded(&enrolled);
}

/// Neither from here to there nor back: both need the server's consent, which a client learns by trying.
fn assert_ports_are_not_forwarded(enrolled: &Enrolled) {
    let back = enrolled.client("ssh", &["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:9", "-N", "HOST"]);
    assert_ne!(back.code, Some(0), "{back}");
    back.says("remote port forwarding failed");
    let forth = enrolled.client("ssh", &["-W", "127.0.0.1:22", "HOST"]);
    assert_ne!(forth.code, Some(0), "{forth}");
    forth.says("administratively prohibited");
}

/// Over both transports, with a path that every reader of authorized_keys could misread.
#[test]
fn a_restricted_key_is_recognised_and_its_heartbeat_and_checks_go_on() {
    for (name, transport) in [("recognised", "openssh"), ("recognised2", "libssh2")] {
        let enrolled = Enrolled::new(name, transport);
        let bin = enrolled.lab.target_bin().with_file_name("it's a \"bin\" \\");
        let text = enrolled.lab.config_text(&format!(
            "identity: ssh/id_ed25519\ntransport: {transport}\nreceiver: auto\nbin: '{}'",
            bin.display().to_string().replace('\'', "''")
        ));
        enrolled.lab.raw_config("perth", &text);
        restrict(&enrolled).expect_success();
        assert!(bin.join("pkg_mon").exists(), "cron runs scripts all the same");

        enrolled.lab.blat(&["check", "--connect", "perth"]).expect_success().says("nothing but blat-receiver");
        restrict(&enrolled).expect_success().says("can run nothing but blat-receiver");
        enrolled.lab.blat(&["enrol", "perth"]).expect_success().says("can run nothing but blat-receiver");

        enrolled.lab.raw_config("perth", &text.replace("receiver: auto", "receiver: never"));
        enrolled.lab.agent_once("perth").expect(1).says("receiver: never");
    }
}

#[test]
fn another_receiver_behind_the_key_is_told_with_what_to_do() {
    let enrolled = Enrolled::new("otherreceiver", "openssh");
    for (said, told) in
        [("# blat-receiver 2", "# blat-receiver 2"), ("nothing of ours", "it printed \"nothing of ours\"")]
    {
        let line = format!("restrict,command=\"echo '{said}'\" {}", enrolled.public);
        enrolled.write_keys(&line);
        let outcome = enrolled.lab.agent_once("perth");
        outcome.expect(1).says(told);
        if told.starts_with('#') {
            outcome.says("blat enrol --restrict");
        }
    }
}

#[test]
fn a_key_that_is_let_in_by_another_file_or_without_a_receiver_is_not_restricted() {
    let enrolled = Enrolled::new("elsewhere", "openssh");
    let daemon = enrolled.lab.home().with_file_name("sshd").join("daemon/authorized_keys");
    let mut other = fs::OpenOptions::new().append(true).open(&daemon).expect("the lab's own");
    other.write_all(enrolled.public.as_bytes()).expect("the lab's own");
    let before = enrolled.keys();
    restrict(&enrolled).expect(1).says("another line").says("restrict,command=").says("nothing is changed");
    assert_eq!(enrolled.keys(), before, "the old file is back");
    enrolled.write_keys(OTHERS);
    restrict(&enrolled).expect(1).says("no line of ~/.ssh/authorized_keys has the key").says("restrict,command=");
    assert_eq!(enrolled.keys(), OTHERS);

    enrolled.lab.config("perth", "identity: ssh/id_ed25519\nreceiver: never");
    restrict(&enrolled).expect(1).says("not restricted").says("receiver: never");
}
