//! The master's own machine is full of strangers: their files are not obeyed, their locks stop nobody, root makes nothing of its own in
//! another account's home, and of two targets with one archive the later one waits.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use blat_tests::accounts::Account;
use blat_tests::{Lab, process, tree};
use rustix::process::Signal;

/// A lab with one release and one target, whose config is in place. No master runs.
fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    lab.config("perth", "");
    lab
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// A process of a stranger's that ends with the test.
struct Intruder(Child);

impl Intruder {
    /// Takes a lock on this file, which it can only read, and holds it.
    fn with_lock_on(path: &Path) -> Self {
        let mut command = Account::Stranger.command("flock");
        command.args(["--shared", "--no-fork"]).arg(path).args(["sleep", "1000"]);
        let child = command.stdin(Stdio::null()).spawn().expect("flock, which the lab installs");
        let intruder = Self(child);
        // Whoever asks for the lock himself is refused once the stranger has it.
        let is_held = || {
            let file = fs::File::open(path).expect("it can be read");
            file.try_lock().is_err().then_some(())
        };
        process::poll(process::DEADLINE, is_held).expect("the stranger gets his lock");
        intruder
    }
}

impl Drop for Intruder {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("could not end the intruder: {error}");
        }
    }
}

/// Every file and folder below this one.
fn everything(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())).flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder { found.extend(everything(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

/// Line 1, defence in depth.
#[test]
fn as_root_a_config_of_a_strangers_is_not_obeyed() {
    let mut lab = lab("evilconf");
    let ran = lab.home().join("ran");
    let archive = lab.own_archive("evil");
    let text = lab.config_text(&format!("{archive}\nrelease_manager: {{command: [touch, {}]}}", ran.display()));
    lab.raw_config("evil", &text);
    let evil = lab.home().join("config/evil.conf");
    Account::Stranger.own(&evil);

    lab.blat(&["check"]).expect(78).says("evil.conf belongs to user").says("neither root nor the home's owner");
    lab.start_master();
    let status = lab.wait_for_status("evil", "refused", |s| s["state"] == "misconfigured");
    assert!(status["config"]["error"].as_str().is_some_and(|error| error.contains("chown")), "{status:#}");
    lab.wait_for_status("perth", "idle", |s| s["state"] == "idle");
    assert!(!ran.exists(), "the stranger's command ran");

    // The same text in the owner's name counts.
    Account::Master.own(&evil);
    lab.wait_for("the command to run", || ran.exists().then_some(()));
}

/// Whoever may write them has the agent take a stranger for the database.
#[test]
fn as_root_files_that_a_database_s_url_names_are_the_owner_s_or_not_obeyed() {
    let lab = lab("evilca");
    let file = lab.home().join("ssh/rm.pem");
    fs::write(&file, "").expect("an own folder");
    set_mode(&file, 0o644);
    let parameters = [
        ("postgres", "sslmode=verify-full", ["sslrootcert", "sslcert", "sslkey"]),
        ("mysql", "ssl-mode=VERIFY_IDENTITY", ["ssl-ca", "ssl-cert", "ssl-key"]),
    ];
    for (server, verified, names) in parameters {
        for name in names {
            let url = format!("{server}://blat@127.0.0.1:1/rm?{verified}&{name}={}", file.display());
            lab.raw_config("perth", &lab.config_text(&format!("release_manager: {{{server}: '{url}'}}")));
            Account::Stranger.own(&file);
            lab.blat(&["check"]).expect(78).says("rm.pem belongs to user").says("neither root nor the home's owner");
            lab.agent_once("perth").expect(78).says("rm.pem belongs to user");
            Account::Master.own(&file);
            let outcome = lab.blat(&["check"]);
            outcome.expect_success();
            assert!(!outcome.stderr.contains("warning"), "{outcome}");
        }
    }
}

/// As long as the server is down, its port and its socket in `/tmp` are anybody's; a socket where others may write is so at any time.
#[test]
fn check_warns_of_a_database_whose_place_a_stranger_can_take() {
    let lab = lab("evildb");
    let open = lab.home().join("open");
    fs::create_dir(&open).expect("an own folder");
    lab.hand_over();
    set_mode(&open, 0o777);
    let check = |server: &str, url: &str| {
        lab.raw_config("perth", &lab.config_text(&format!("release_manager: {{{server}: '{url}'}}")));
        lab.blat(&["check"])
    };
    for (server, url, place) in [
        ("postgres", "postgres://blat@127.0.0.1/rm", "at 127.0.0.1"),
        ("postgres", "postgres://blat@db/rm?sslmode=require", "at db"),
        ("postgres", "postgres://blat@db/rm?host=/tmp", "in /tmp"),
        ("mysql", "mysql://blat@db/rm", "at db"),
        ("mysql", "mysql://blat@db/rm?socket=/tmp/mysql.sock", "in /tmp"),
    ] {
        let outcome = check(server, url);
        outcome.expect_success().says("warning: config/perth.conf: whoever answers").says("gets the password");
        assert!(outcome.stderr.contains(place), "{outcome}");
    }
    check("postgres", &format!("postgres://blat@db/rm?host={}", open.display()))
        .expect(78)
        .says("so others may answer in the place of the database");
}

#[test]
fn a_file_that_others_may_write_is_a_complaint_and_changes_nothing() {
    let mut lab = lab("openfiles");
    lab.start_master();
    lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    let config = lab.home().join("config/perth.conf");
    lab.package("tools", "1", |p| p.file("a", "1"));
    lab.raw_config("perth", &lab.config_text("pkg: {tools: 1}"));
    lab.wait_until_published("tools", "1");

    for (path, open) in [(&config, 0o664), (&lab.home().join("config"), 0o757), (&lab.home(), 0o777)] {
        let before = mode(path);
        set_mode(path, open);
        lab.blat(&["check"]).expect(78).says("so others may change what is read here; chmod go-w ");
        // Something new for the master to look at.
        lab.raw_config("sydney", &lab.config_text(&lab.own_archive("sydney")));
        if *path == config {
            let status = lab.wait_for_status("perth", "complaining", |s| s["config"]["error"].is_string());
            assert!(status["pid"].is_u64() && status["state"] != "misconfigured", "{status:#}");
        } else {
            lab.wait_for_status("sydney", "refused", |s| s["state"] == "misconfigured");
        }
        set_mode(path, before);
        lab.blat(&["check"]).expect_success();
        lab.wait_for_status("perth", "well", |s| s["config"]["error"].is_null());
        lab.wait_for_status("sydney", "well", |s| s["state"] == "idle");
        fs::remove_file(lab.home().join("config/sydney.conf")).expect("the config");
        lab.wait_for("sydney to be forgotten", || lab.target_status("sydney").is_null().then_some(()));
    }
}

#[test]
fn keys_and_programs_that_others_may_write_are_not_used() {
    let mut lab = lab("openkeys");
    let known_hosts = lab.home().join("ssh/known_hosts");
    let client = lab.home().parent().expect("the lab").join("client/known_hosts");
    fs::copy(client, &known_hosts).expect("what the lab trusts");
    let program = lab.home().join("export");
    fs::write(&program, "#!/bin/sh\necho '{\"projects\": [{\"name\": \"Lab\"}]}'\n").expect("an own folder");
    set_mode(&program, 0o755);
    lab.hand_over();
    let extra =
        format!("known_hosts: {}\npkg: {{core: 1}}\nrelease_manager: {{command: [./export]}}", known_hosts.display());
    lab.config("perth", &extra);
    lab.start_master();
    lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");

    // The config was good when it was read; each is looked at again before it is used.
    for (path, open, good) in [(&known_hosts, 0o666, 0o644), (&program, 0o775, 0o755)] {
        set_mode(path, open);
        lab.blat(&["check"]).expect(78).says("so others may change what is read here");
        // A new connection is made by this.
        let pid = lab.target_status("perth")["pid"].as_u64().expect("an agent");
        lab.link_processes().into_iter().for_each(|pid| process::signal(pid, Signal::KILL));
        lab.blat(&["sync", "perth"]).expect_success();
        let status = lab.wait_for_status("perth", "refusing it", |s| {
            s["last_error"]["text"].as_str().is_some_and(|text| text.contains("so others may change"))
        });
        assert_eq!(status["pid"].as_u64(), Some(pid), "{status:#}");
        set_mode(path, good);
        lab.blat(&["sync", "perth", "--wait"]).expect_success();
    }
}

/// Line 15, the master's part.
#[test]
fn of_two_targets_with_one_archive_the_later_one_waits() {
    let mut lab = lab("rivals");
    lab.start_master();
    let perth = lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    // It comes later, though its name does not; the host's other name and another user's do not make it another archive.
    lab.config("hobart", "host: localhost\nuser: somebody-else");
    let status = lab.wait_for_status("hobart", "refused", |s| s["config"]["error"].is_string());
    assert_eq!((&status["state"], status["pid"].is_null()), (&"misconfigured".into(), true), "{status:#}");
    let error = status["config"]["error"].as_str().expect("a complaint");
    assert!(error.contains("are the same archive") && error.contains("config/hobart.conf"), "{error}");
    lab.blat(&["check"]).expect(78).says("are the same archive");
    let by_hand = lab.agent_once("hobart");
    by_hand.expect(78).says("are the same archive").says("that one's agent runs");
    assert_eq!(lab.target_status("perth")["pid"], perth["pid"]);

    lab.config("hobart", "");
    lab.wait_for_status("hobart", "refused", |s| s["state"] == "misconfigured");
    fs::remove_file(lab.home().join("config/perth.conf")).expect("the config");
    // It runs, but the archive stays perth's until somebody says otherwise.
    let says_whose = |text: &str| text.contains("belongs to target perth") && text.contains("blat adopt hobart");
    lab.wait_for_status("hobart", "started in its place", |s| s["last_error"]["text"].as_str().is_some_and(says_whose));
    lab.blat(&["adopt", "hobart"]).expect_success();
    lab.blat(&["sync", "hobart", "--wait"]).expect_success();
}

#[test]
fn two_names_of_one_local_directory_are_one_archive() {
    let lab = lab("onedir");
    fs::remove_file(lab.home().join("config/perth.conf")).expect("the config");
    let archive = lab.home().parent().expect("the lab").join("archive");
    fs::create_dir_all(archive.join("inner")).expect("a scratch folder");
    symlink(&archive, archive.with_file_name("link")).expect("a scratch folder");
    Account::Master.own(&archive);
    let config = |target: &str, place: &str| {
        let place = archive.with_file_name(place);
        lab.raw_config(
            target,
            &format!("transport: local\nsource: {}\narchive: {}\n", lab.source().display(), place.display()),
        );
    };
    config("a", "archive");
    config("b", "link");
    lab.blat(&["check"]).expect(78).says("a and b are the same archive");
    config("b", "link/inner");
    lab.blat(&["check"]).expect(78).says("lies inside a's");
}

/// Line 21.
#[test]
fn as_root_a_strangers_locks_stop_nobody() {
    let mut lab = lab("locks");
    // As a former version left it: open to all.
    let files = ["run/blatd.pid", "run/perth.pid", "state/handshakes/0", "state/history/perth.lock"];
    let files: Vec<PathBuf> = files
        .into_iter()
        .map(str::to_owned)
        .chain((1..8).map(|slot| format!("state/handshakes/{slot}")))
        .map(|file| lab.home().join(file))
        .collect();
    for path in &files {
        fs::create_dir_all(path.parent().expect("a folder")).expect("an own folder");
        fs::write(path, "").expect("an own folder");
    }
    lab.hand_over();
    let intruders: Vec<Intruder> = files.iter().map(|path| Intruder::with_lock_on(path)).collect();

    lab.start_master();
    lab.wait_until_published("core", "1");
    lab.wait_for_status("perth", "idle", |s| s["state"] == "idle" && s["last_sync"]["result"] == "ok");
    lab.blat(&["history"]).expect_success().says("core@1");
    for folder in ["run", "state"] {
        assert_eq!(mode(&lab.home().join(folder)), 0o700);
        for path in everything(&lab.home().join(folder)) {
            let path = path.display().to_string();
            assert_ne!(lab.run_as(Account::Stranger, &["test", "-r", &path]).code, Some(0), "{path} can be opened");
        }
    }
    drop(intruders);
    lab.end_master(Signal::TERM).expect_success();
    lab.wait_until_nothing_runs();
}

#[test]
fn a_new_home_is_closed_to_others() {
    let lab = lab("newhome");
    let new = lab.home().join("new");
    lab.blat(&["init", &new.display().to_string()]).expect_success();
    let modes =
        ["", "config", "tags", "ssh", "run", "log", "state", "config/blat.yaml"].map(|path| mode(&new.join(path)));
    assert_eq!(modes, [0o755, 0o755, 0o755, 0o700, 0o700, 0o750, 0o700, 0o644]);
}

/// Line 22.
#[test]
fn a_pid_file_that_cannot_be_looked_at_stops_nobody() {
    let mut lab = lab("eacces");
    let pid = lab.start_master();
    let agent = lab.wait_for_status("perth", "idle", |s| s["state"] == "idle")["pid"].as_u64().expect("an agent");
    let run = lab.home().join("run");
    let logged = |log: &str| {
        let text = fs::read_to_string(lab.home().join("log").join(log)).unwrap_or_default();
        text.matches("cannot look at the pid file").count()
    };
    if !can_be_shut_out() {
        return;
    }
    set_mode(&run, 0);
    for log in ["blatd.log", "perth.log"] {
        lab.wait_for(&format!("a line in {log}"), || (logged(log) > 0).then_some(()));
    }
    set_mode(&run, 0o700);
    // It goes on: what is tagged now is sent by the same agent of the same master.
    lab.package("tools", "1", |p| p.file("a", "1"));
    lab.drop_tag("perth", "tools", "1");
    lab.wait_until_published("tools", "1");
    assert_eq!(lab.status()["supervisor"]["pid"], pid);
    assert_eq!(lab.target_status("perth")["pid"].as_u64(), Some(agent));
    assert_eq!((logged("blatd.log"), logged("perth.log")), (1, 1), "one line is enough");
    // What is certainly gone still means that it is to stop.
    fs::remove_file(run.join("blatd.pid")).expect("the pid file");
    lab.wait_until_nothing_runs();
}

/// Whether modes say anything to the master: it is not root.
fn can_be_shut_out() -> bool {
    let id = Account::Master.command("id").arg("-u").output().expect("a command of every Linux");
    id.stdout != b"0\n"
}

/// Line 23. Done as the owner, what a config runs would find root's terminal, open files and environment.
#[test]
fn as_root_root_too_is_refused_in_the_home_of_another_account_and_told_how() {
    let lab = lab("rootblat");
    let owner = fs::metadata(lab.home()).expect("the home tree").uid();
    assert_ne!(owner, 0, "the lab's home belongs to the master's account");
    let home = lab.home().display().to_string();
    let tag = ["tag", "core", "1"];
    for arguments in [&["init", &home][..], &["check"], &tag, &["start"], &["status"], &["plan", "perth"], &["stop"]] {
        lab.blat_by(None, arguments).expect(1).says("belongs to blatmaster").says("`sudo -u blatmaster blat …`");
    }
    let once = process::run(lab.command_by(None, "blat-agent").args(["--target", "perth", "--once"]), &lab.home());
    once.expect(1).says("`sudo -u blatmaster blat-agent …`");
    process::run(&mut lab.command_by(None, "blatd"), &lab.home()).expect(1).says("`sudo -u blatmaster blatd …`");
    let is_roots = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|found| found.uid() != owner);
    let roots: Vec<PathBuf> = everything(&lab.home()).into_iter().filter(is_roots).collect();
    assert!(roots.is_empty(), "left behind by root: {roots:?}");
    assert!(!lab.home().join("run").exists(), "nothing was made");
}

/// Line 23: whoever owns the way to a home could put another directory in its place, and have root work there.
#[test]
fn as_root_root_works_in_no_home_that_others_can_exchange() {
    let lab = lab("rootsway");
    let theirs = lab.home().with_file_name("theirs");
    fs::create_dir(&theirs).expect("a scratch folder");
    let blat = |arguments: &[&str]| {
        let mut command = Command::new(process::executable("blat"));
        process::run(command.env_remove("BLAT_HOME").args(arguments), &lab.home())
    };
    let home = theirs.join("home").display().to_string();
    blat(&["init", &home]).expect_success();
    let (theirs_uid, _) = Account::Stranger.ids();
    std::os::unix::fs::chown(&theirs, Some(theirs_uid), None).expect("root may");
    for arguments in [&["--home", &home, "check"][..], &["--home", &home, "start"], &["init", &home]] {
        blat(arguments).expect(1).says("root does not work in").says("theirs belongs to user");
    }
    let new = theirs.join("new");
    blat(&["init", &new.display().to_string()]).expect(1).says("root does not work in");
    assert!(!new.exists(), "nothing was made");
}

/// Nor does the master: whose the folder above the home is, can have the master obey a config that came with a package.
#[test]
fn as_root_a_master_works_in_no_home_that_a_stranger_leads_to() {
    let lab = lab("mastersway");
    let theirs = lab.home().with_file_name("theirs");
    let home = theirs.join("home");
    fs::create_dir_all(home.join("config")).expect("a scratch folder");
    Account::Master.own(&home);
    let blat = |home: &Path, name: &str, arguments: &[&str]| {
        process::run(lab.command_in(home, name).args(arguments), &lab.home())
    };
    blat(&home, "blat", &["check"]).says("no targets yet");
    std::os::unix::fs::chown(&theirs, Some(Account::Stranger.ids().0), None).expect("root may");
    for (name, arguments) in
        [("blat", &["check"][..]), ("blat", &["start"]), ("blatd", &[]), ("blat-agent", &["--target", "x"])]
    {
        blat(&home, name, arguments).expect(1).says("does not work in").says("theirs belongs to user");
    }
    let link = lab.home().join("way");
    symlink(&home, &link).expect("a free name");
    blat(&link, "blat", &["check"]).expect(1).says("theirs belongs to user");
    assert!(!home.join("run").exists(), "nothing was made");
}

#[test]
fn as_root_anybody_else_is_refused_and_told_how() {
    let lab = lab("strangers");
    for arguments in [&["status"][..], &["tag", "core", "1"], &["start"], &["check"], &["stop"]] {
        let refused = lab.blat_by(Some(Account::Stranger), arguments);
        refused.expect(1).says("belongs to blatmaster").says("`sudo -u blatmaster blat …`");
    }
    for name in ["blatd", "blat-agent"] {
        let mut command = lab.command_by(Some(Account::Stranger), name);
        if name == "blat-agent" {
            command.args(["--target", "perth", "--once"]);
        }
        process::run(&mut command, &lab.home()).expect(1).says(&format!("`sudo -u blatmaster {name} …`"));
    }
    tree::assert_never_partial(&lab.source(), &lab.target_archive());
    assert!(!lab.home().join("run").exists(), "nothing was made");
}

/// What the lab's own account can do is done by plain commands: the tools that the tests above rest on are there.
#[test]
fn the_tools_of_these_tests_are_there() {
    let found = Command::new("flock").arg("--version").output();
    assert!(
        found.is_ok_and(|output| output.status.success()),
        "flock of util-linux is missing: run tests/lab/setup test"
    );
}

/// A container without root: only the account itself is known there, and all other owners look like one.
#[test]
fn in_a_user_namespace_the_home_is_trusted_and_what_lies_elsewhere_may_be_anybodys() {
    let lab = lab("namespace");
    let within = |map: &str, words: &[&str]| {
        let mut command = lab.command_below(&["unshare", "--user", map, "--"], "blat");
        process::run(command.args(words), Path::new("/"))
    };
    for map in ["--map-root-user", "--map-current-user"] {
        lab.config("perth", "");
        within(map, &["check", "perth"])
            .expect(78)
            .says("belongs to a user that this user namespace does not know")
            .says("move the file into the home tree");
        lab.keep_keys_at_home();
        lab.config("perth", "identity: ssh/id_ed25519\nknown_hosts: ssh/known_hosts");
        within(map, &["check", "perth", "--connect"]).expect_success();
    }
    // Without a map even the home's owner is nobody in particular.
    within("--user", &["check", "perth"])
        .expect(1)
        .says("does not know its own user")
        .says("unshare --map-current-user");
}
