//! Once for each target: `blat enrol`, and the commands that log in for a person, `blat ssh` and `blat check --connect`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use blat_tests::{Disk, Lab, Outcome, process};

/// A lab whose target has to be enrolled first: the master has neither identity nor host key.
fn new_target(name: &str) -> Lab {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    lab.config("perth", "identity: ssh/id_ed25519\nknown_hosts: ssh/known_hosts");
    lab
}

/// `blat …` where nobody can be asked: without a terminal.
fn unattended(lab: &Lab, words: &[&str]) -> Outcome {
    let blat = lab.command("blat");
    let mut command = Command::new("setsid");
    command.arg("-w").arg(blat.get_program()).args(blat.get_args()).args(words);
    process::run(&mut command, &lab.home())
}

/// `blat …` at a terminal, where somebody types these answers, each once there is one more prompt of this form.
fn typing(lab: &Lab, words: &str, prompt: &str, answers: &[&str]) -> Outcome {
    const TYPIST: &str = r#"
        line=$1 prompt=$2 seen=$3; shift 3
        rm -f "$seen"
        count=0
        for answer do
            count=$((count + 1)) tries=0
            until [ "$(grep -osa -e "$prompt" "$seen" | wc -l)" -ge $count ] || [ $tries -ge 1000 ]; do
                sleep 0.05; tries=$((tries + 1))
            done
            printf '%s\n' "$answer"
        done | script -qefc "$line" "$seen""#;
    let blat = lab.command("blat");
    let own: Vec<String> = blat.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let line = format!("{} {} {words}", blat.get_program().to_string_lossy(), own.join(" "));
    let mut command = Command::new("sh");
    command.args(["-c", TYPIST, "sh", &line, prompt]).arg(lab.home().join("terminal")).args(answers);
    process::run(&mut command, &lab.home())
}

/// The host key's fingerprint, as its owner tells it.
fn fingerprint(lab: &Lab) -> String {
    fingerprint_of(lab, &lab.home().join("../sshd/daemon/host_key.pub"))
}

/// The fingerprint of a public key, as `ssh-keygen` shows it.
fn fingerprint_of(lab: &Lab, key: &Path) -> String {
    let listed = process::run(Command::new("ssh-keygen").arg("-lf").arg(key), &lab.home());
    listed.expect_success().stdout.split(' ').nth(1).expect("a fingerprint").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("could not read {}: {error}", path.display()))
}

/// Does what `blat enrol` says is to be done by hand.
fn let_in_by_hand(lab: &Lab) {
    let public = read(&lab.home().join("ssh/id_ed25519.pub"));
    let authorized = lab.home().join("../sshd/daemon/authorized_keys");
    fs::write(&authorized, read(&authorized) + &public).expect("the lab's own");
}

#[test]
fn enrol_trusts_a_host_key_only_when_its_fingerprint_is_confirmed() {
    let lab = new_target("hostkeys");
    let known = lab.home().join("ssh/known_hosts");
    let shown = fingerprint(&lab);

    unattended(&lab, &["enrol", "perth"]).expect(1).says(&shown).says("ssh-ed25519").says("--fingerprint");
    unattended(&lab, &["enrol", "perth", "--fingerprint", "SHA256:another"]).expect(1).says(&shown);
    typing(&lab, "enrol perth", "yes/no", &["no"]).says(&shown).says("not confirmed");
    assert!(!known.exists(), "nothing was stored");

    typing(&lab, "enrol perth", "yes/no. \\|yes or no: ", &["maybe", "yes"])
        .says(&shown)
        .says("yes or no")
        .says("now trusted");
    let stored = read(&known);
    assert_eq!(stored, read(&lab.home().join("../sshd/known_hosts")));
    unattended(&lab, &["enrol", "perth", "--fingerprint", &shown]).says("already trusted");
    assert_eq!(read(&known), stored, "it is stored once");

    let name = stored.split(' ').next().expect("a name");
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(lab.home().join("ssh/other"));
    process::run(&mut keygen, &lab.home()).expect_success();
    let other = format!("{name} {}", read(&lab.home().join("ssh/other.pub")));
    fs::write(&known, &other).expect("an own file");
    unattended(&lab, &["enrol", "perth", "--fingerprint", &shown])
        .expect(1)
        .says("has another key")
        .says("ssh-keygen -R");
    assert_eq!(read(&known), other, "a key is never replaced");
    fs::write(&known, "").expect("an own file");
    unattended(&lab, &["enrol", "perth", "--fingerprint", &shown]).says("now trusted");
}

#[test]
fn enrol_says_how_to_let_the_key_in_where_no_password_is_taken() {
    let lab = new_target("byhand");
    let shown = fingerprint(&lab);
    let first = unattended(&lab, &["enrol", "perth", "--fingerprint", &shown]);

    let public = read(&lab.home().join("ssh/id_ed25519.pub"));
    first.expect(1).says("takes no passwords").says("authorized_keys").says(public.trim());
    let mode = |file: &str| fs::metadata(lab.home().join(file)).expect(file).permissions().mode() & 0o777;
    assert_eq!(mode("ssh/id_ed25519"), 0o600);

    let_in_by_hand(&lab);
    unattended(&lab, &["enrol", "perth"]).expect_success().says("already let in").says("login      works");
    assert!(lab.target_bin().join("receive_package").exists(), "the scripts are there");
    lab.agent_once("perth").expect_success();
    lab.assert_published("core", "1");

    let identity = read(&lab.home().join("ssh/id_ed25519"));
    unattended(&lab, &["enrol", "perth"]).expect_success();
    assert_eq!(read(&lab.home().join("ssh/id_ed25519")), identity, "an identity is made once");
}

/// An account of its own with a password, and an sshd as root that takes it: both end with the test.
struct PasswordHost {
    user: String,
    folder: PathBuf,
    sshd: std::process::Child,
    port: String,
}

const PASSWORD: &str = "pass word 'with' $igns";

impl PasswordHost {
    fn new(lab: &Lab) -> Self {
        let folder = lab.home().with_file_name("passwords");
        fs::create_dir_all(folder.join("archive")).expect("an own folder");
        let user = format!("blatpw{}n{}", std::process::id(), process::next_number());
        let run = |command: &mut Command| process::run(command, &lab.home()).expect_success().stdout.clone();
        let home = folder.join("home");
        run(Command::new("useradd").args(["--create-home", "--shell", "/bin/sh", "--home-dir"]).arg(&home).arg(&user));
        run(Command::new("sh").args(["-c", "printf '%s:%s\\n' \"$1\" \"$2\" | chpasswd", "sh", &user, PASSWORD]));
        run(Command::new("chown").arg(&user).arg(folder.join("archive")));
        // Where sshd, as root, puts the part of it that talks to strangers.
        fs::create_dir_all("/run/sshd").expect("root may");
        let key = folder.join("host_key");
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nPasswordAuthentication yes\n\
             KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nUseDNS no\nAllowUsers {user}\n",
            key.display()
        );
        fs::write(folder.join("config"), config).expect("an own folder");
        let sshd = Command::new("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(folder.join("config")).spawn();
        let host = Self { user, folder, sshd: sshd.expect("OpenSSH's server"), port: port.to_string() };
        lab.wait_for("the sshd", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        host
    }

    fn config(&self) -> String {
        format!(
            "port: {}\nuser: {}\narchive: {}\nbin: bin\nidentity: ssh/id_ed25519\nknown_hosts: ssh/known_hosts",
            self.port,
            self.user,
            self.folder.join("archive").display()
        )
    }

    fn authorized_keys(&self) -> PathBuf {
        self.folder.join("home/.ssh/authorized_keys")
    }
}

impl Drop for PasswordHost {
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
fn as_root_enrol_lets_the_key_in_by_password_once_and_keeps_other_lines() {
    let lab = new_target("password");
    let host = PasswordHost::new(&lab);
    lab.config("perth", &host.config());
    let shown = fingerprint_of(&lab, &host.folder.join("host_key.pub"));
    let ssh = host.folder.join("home/.ssh");
    fs::create_dir_all(&ssh).expect("an own folder");
    fs::write(host.authorized_keys(), "# somebody else's\nssh-ed25519 AAAAelse else").expect("an own folder");
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("an own folder");
    fs::set_permissions(host.authorized_keys(), fs::Permissions::from_mode(0o644)).expect("an own file");
    process::run(Command::new("chown").arg("-R").arg(&host.user).arg(&ssh), &lab.home()).expect_success();

    let wrong = lab.home().join("wrong");
    fs::write(&wrong, "not it\n").expect("an own folder");
    let wrong = wrong.display().to_string();
    let enrol = ["enrol", "perth", "--fingerprint", &shown, "--password-file"];
    unattended(&lab, &[&enrol[..], &[&wrong]].concat()).expect(1).says("does not accept the password");

    let file = lab.home().join("password");
    fs::write(&file, format!("{PASSWORD}\n")).expect("an own folder");
    let file = file.display().to_string();
    let done = unattended(&lab, &[&enrol[..], &[&file]].concat());
    done.expect_success().says("let in by");
    assert!(!done.stdout.contains(PASSWORD) && !done.stderr.contains(PASSWORD), "{done}");
    let public = read(&lab.home().join("ssh/id_ed25519.pub"));
    let expected = format!("# somebody else's\nssh-ed25519 AAAAelse else\n{public}");
    assert_eq!(read(&host.authorized_keys()), expected);
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&ssh), mode(&host.authorized_keys())), (0o755, 0o644), "modes stay");

    unattended(&lab, &["enrol", "perth"]).expect_success().says("already let in");
    assert_eq!(read(&host.authorized_keys()), expected, "the key is added once");
    lab.agent_once("perth").expect_success();
    assert!(host.folder.join("archive/core/1/descpkg").exists());

    // The same at a terminal, mistyping once. The password is not shown.
    fs::write(host.authorized_keys(), "").expect("an own file");
    let typed = typing(&lab, "enrol perth", "used once to let", &["oops", PASSWORD]);
    typed.says("once more").says("let in by");
    assert!(!typed.stdout.contains(PASSWORD), "{typed}");
    assert_eq!(read(&host.authorized_keys()), public);
}

#[test]
fn as_root_enrol_restrict_renews_by_password_a_receiver_that_cannot_be_talked_to() {
    let lab = new_target("renewed");
    let host = PasswordHost::new(&lab);
    lab.config("perth", &format!("{}\nreceiver: auto", host.config()));
    let shown = fingerprint_of(&lab, &host.folder.join("host_key.pub"));
    let file = lab.home().join("password");
    fs::write(&file, format!("{PASSWORD}\n")).expect("an own folder");
    let file = file.display().to_string();
    let enrol = ["enrol", "perth", "--restrict", "--fingerprint", &shown];
    let by_password = [&enrol[..], &["--password-file", &file]].concat();

    unattended(&lab, &by_password).expect_success().says("restricted: it can run nothing but");
    let archive = host.folder.join("archive");
    let options = format!("restrict,command=\"'bin/blat-receiver' --archive '{}'\"", archive.display());
    let restricted = format!("{options} {}", read(&lab.home().join("ssh/id_ed25519.pub")));
    assert_eq!(read(&host.authorized_keys()), restricted);

    let receiver = host.folder.join("home/bin/blat-receiver");
    let carried = fs::read(&receiver).expect("it is installed");
    fs::write(&receiver, "#!/bin/sh\necho '# blat-receiver 9'\n").expect("root may");
    unattended(&lab, &enrol).expect(1).says("nobody is there to type a password");
    assert_eq!(read(&host.authorized_keys()), restricted);
    unattended(&lab, &by_password).expect_success().says("restricted: it can run nothing but");
    assert!(fs::read(&receiver).expect("it is there") == carried, "the receiver is ours again");
    assert_eq!(read(&host.authorized_keys()), restricted, "and the key restricted, once");
    unattended(&lab, &["check", "--connect", "perth"]).expect_success().says("nothing but blat-receiver");
}

/// On a full disk, and where what follows fails: other people's keys stay, and so does the restriction.
#[test]
fn as_root_enrol_restrict_that_fails_loses_no_key_and_leaves_none_free() {
    let lab = new_target("fullhome");
    let host = PasswordHost::new(&lab);
    let (bin, home) = (host.folder.join("bin"), host.folder.join("home"));
    fs::create_dir(&bin).expect("an own folder");
    let disk = Disk::mount(home.clone(), "size=64k");
    let ssh = home.join(".ssh");
    fs::create_dir(&ssh).expect("an own folder");
    let others: String = (0..40).map(|number| format!("ssh-ed25519 AAAA{number:040} admin{number}\n")).collect();
    fs::write(host.authorized_keys(), &others).expect("an own folder");
    let own = |path: &Path| {
        process::run(Command::new("chown").arg("-R").arg(&host.user).arg(path), &lab.home()).expect_success();
    };
    own(&bin);
    own(&ssh);
    let config = host.config().replace("bin: bin", &format!("bin: {}", bin.display()));
    lab.config("perth", &format!("{config}\nreceiver: auto"));
    let shown = fingerprint_of(&lab, &host.folder.join("host_key.pub"));
    let file = lab.home().join("password");
    fs::write(&file, format!("{PASSWORD}\n")).expect("an own folder");
    let file = file.display().to_string();
    let enrol = ["enrol", "perth", "--restrict", "--fingerprint", &shown, "--password-file", &file];
    unattended(&lab, &enrol).expect_success().says("restricted: it can run nothing but");
    let restricted = read(&host.authorized_keys());
    assert!(restricted.starts_with(&format!("{others}restrict,command=")), "{restricted}");

    let mut fill = Command::new("sh");
    fill.args(["-c", "head -c 1000000 /dev/zero >\"$1\" 2>/dev/null", "sh"]).arg(home.join("fill"));
    process::run(&mut fill, &lab.home());
    unattended(&lab, &enrol).expect(1).says("nothing is changed");
    assert_eq!(read(&host.authorized_keys()), restricted);

    fs::remove_file(home.join("fill")).expect("an own file");
    process::run(Command::new("chown").args(["-R", "root"]).arg(&bin), &lab.home()).expect_success();
    fs::remove_file(bin.join("get_plist")).expect("a script");
    unattended(&lab, &enrol).expect(1).says("the key is restricted as before");
    assert_eq!(read(&host.authorized_keys()), restricted);
    own(&bin);
    unattended(&lab, &enrol).expect_success();
    assert_eq!(read(&host.authorized_keys()), restricted);
    let mut names: Vec<_> =
        fs::read_dir(&ssh).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["authorized_keys", "blat.lock"]);
    drop(disk);
}

/// A crontab command that keeps its table in a file beside it, as far as cron itself is concerned.
fn fake_crontab(lab: &Lab) -> PathBuf {
    let tools = lab.home().join("tools");
    fs::create_dir_all(&tools).expect("an own folder");
    let table = tools.join("table").display().to_string();
    let text = format!(
        "#!/bin/sh\ncase $1 in\n-l) [ -f {table} ] || {{ echo 'no crontab for you' >&2; exit 1; }}; cat {table} ;;\n\
         -) cat >{table} ;;\nesac\n"
    );
    fs::write(tools.join("crontab"), text).expect("an own folder");
    fs::set_permissions(tools.join("crontab"), fs::Permissions::from_mode(0o755)).expect("an own file");
    lab.hand_over();
    tools
}

#[test]
fn enrol_cron_installs_both_lines_once_and_keeps_the_others() {
    let lab = new_target("cron");
    lab.local_config("perth", "");
    let tools = fake_crontab(&lab);
    fs::write(tools.join("table"), "# mine\n5 4 * * * true\n").expect("an own folder");
    lab.hand_over();
    let enrol = || {
        let mut command = lab.command("blat");
        let path = std::env::var("PATH").expect("a path");
        command.args(["enrol", "perth", "--cron"]).env("PATH", format!("{}:{path}", tools.display()));
        process::run(&mut command, &lab.home())
    };

    enrol().expect_success().says("pkg_mon").says("transport local");
    let (archive, bin) = (lab.target_archive(), lab.local_bin());
    let (archive, bin) = (archive.display(), bin.display());
    let expected = format!(
        "# mine\n5 4 * * * true\n# blat begin {archive}\n0 3 * * * /bin/sh '{bin}/pkg_mon' --archive '{archive}'\n\
         0 6 * * 1 /bin/sh '{bin}/pkg_purge' --archive '{archive}'\n# blat end {archive}\n"
    );
    assert_eq!(read(&tools.join("table")), expected);
    enrol().expect_success().says("current already");
    assert_eq!(read(&tools.join("table")), expected);
}

#[test]
fn ssh_logs_in_as_the_agent_would() {
    let lab = Lab::new("ssh");
    lab.config("perth", "");
    let user = read(&lab.home().join("../sshd/user"));
    lab.blat(&["ssh", "perth", "id", "-un"]).expect_success().says(user.trim());
    let passed = lab.blat(&["ssh", "perth", "echo 'two  words'; exit 7"]);
    assert_eq!(passed.expect(7).stdout, "two  words\n");
    lab.blat(&["ssh", "perth", "--", "printf", "%s", "-x"]).expect_success().says("-x");

    lab.config("perth", "known_hosts: ssh/none");
    assert_ne!(lab.blat(&["ssh", "perth", "true"]).code, Some(0), "no host is trusted that the agent would not trust");
    lab.local_config("here", "");
    lab.blat(&["ssh", "here"]).expect(1).says("transport: local");
    lab.blat(&["ssh", "nobody"]).expect(2);
}

#[test]
fn check_connect_names_everything_that_is_wrong_at_once() {
    let lab = Lab::new("connect");
    lab.config("perth", "");
    lab.config("sydney", "tags: tags/sydney\narchive: /nowhere/dpkg_archive");
    lab.blat(&["check", "--connect", "perth"]).expect_success().says("ok  perth").says("free");
    assert!(!lab.target_bin().join("get_plist").exists(), "it changes nothing");

    fs::set_permissions(lab.target_archive(), fs::Permissions::from_mode(0o000)).expect("the lab's own");
    let bin = lab.target_bin().display().to_string();
    lab.as_target_user(&["chmod", "500", &bin]).expect_success();
    fs::remove_dir(lab.source()).expect("an empty folder");
    let all = lab.blat(&["check", "--connect"]);
    all.expect(1).says("error: perth: the archive").says("read and write").says("error: perth: the scripts' directory");
    all.says("error: perth: the source").says("error: sydney: the archive /nowhere/dpkg_archive does not exist");
    fs::set_permissions(lab.target_archive(), fs::Permissions::from_mode(0o755)).expect("the lab's own");
    lab.as_target_user(&["chmod", "755", &bin]).expect_success();

    lab.config("perth", "disk_reserve: 1000000000m");
    lab.blat(&["check", "--connect", "perth"]).expect(1).says("disk_reserve");
    lab.config("perth", "identity: ssh/none");
    lab.blat(&["check", "--connect", "perth"]).expect(1).says("ssh/none").says("blat enrol perth");
    lab.config("perth", "");
    lab.sshd("stop").expect_success();
    lab.blat(&["check", "--connect", "perth"]).expect(1).says("cannot connect");
}

#[test]
fn check_connect_names_packages_with_attributes_that_do_not_go_with_them() {
    let lab = Lab::new("attributes");
    lab.package("core", "1", |p| p.file("a", "1"));
    let tools = lab.package("tools", "1", |p| p.with_mode("bin/ping", "1", 0o644));
    lab.release(&[("core", "1"), ("tools", "1")]);
    lab.config("perth", "");
    let before = lab.blat(&["check", "--connect", "perth"]);
    assert!(!before.expect_success().stdout.contains("extended attributes"), "{before}");
    let set = rustix::fs::setxattr(tools.join("bin/ping"), "user.origin", b"x", rustix::fs::XattrFlags::empty());
    if let Err(why) = set {
        println!("skipped, since the file system keeps no such attributes: {why}");
        return;
    }
    let outcome = lab.blat(&["check", "--connect", "perth"]);
    outcome.expect_success().says("attributes do not go to the target: tools@1 (bin/ping: user.origin)");
}
