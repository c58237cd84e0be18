//! The lab itself: a scratch folder holding a master's home tree, a source archive, and a target behind an sshd of its own.

mod running;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use rustix::process::Signal;
use serde_json::Value;

use crate::accounts::{self, Account};
use crate::package::Package;
use crate::process::{self, DEADLINE, Outcome, Running, executable};
use crate::scene::scene;
use crate::tree;
use crate::way::Way;

/// A world of its own: whatever runs in it ends with it.
pub struct Lab {
    dir: PathBuf,
    way: Way,
    master: Option<Running>,
    /// Set for the executables: credentials of a bucket.
    environment: BTreeMap<&'static str, String>,
}

impl Lab {
    /// A home tree, an empty source, and an empty target whose sshd runs. `name` may be any; it helps to find a kept lab. Where root runs the
    /// tests, the home tree belongs to the master's account, and the executables run as that.
    pub fn new(name: &str) -> Self {
        Way::ORDINARY.lab(name)
    }

    /// As [`Self::new`], by another way.
    pub(crate) fn of_way(way: Way, name: &str) -> Self {
        // Short, since ssh's control sockets lie in here and their paths may have 90 bytes.
        let name: String = name.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
        // No lab's path begins with another's: processes are found by it.
        let dir = env::temp_dir().join(format!("blat-{}-{}-{name}", std::process::id(), process::next_number()));
        tree::remove(&dir);
        // A config that its group may write does not count, and that is what files are on some systems.
        rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
        let lab = Self { dir, way, master: None, environment: BTreeMap::new() };
        for folder in ["home/config", "home/tags", "home/ssh", "source"] {
            fs::create_dir_all(lab.dir.join(folder)).expect("a scratch folder");
        }
        fs::set_permissions(&lab.dir, fs::Permissions::from_mode(0o755)).expect("an own folder");
        lab.sshd("start").expect_success();
        for file in ["id_ed25519", "id_ed25519.pub", "known_hosts"] {
            let copy = lab.dir.join("client").join(file);
            fs::create_dir_all(lab.dir.join("client")).expect("a scratch folder");
            fs::copy(lab.dir.join("sshd").join(file), copy).expect("what a started sshd has");
        }
        for folder in ["home", "source", "client"] {
            Account::Master.own(&lab.dir.join(folder));
        }
        lab
    }

    /// Starts or stops the target's sshd, with all sessions.
    pub fn sshd(&self, verb: &str) -> Outcome {
        process::run(&mut self.sshd_tool(verb), &self.dir)
    }

    fn sshd_tool(&self, verb: &str) -> Command {
        let mut tool = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/sshd"));
        tool.arg(verb).arg(self.dir.join("sshd"));
        tool
    }

    /// The master's home tree.
    pub fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    /// The master's archive.
    pub fn source(&self) -> PathBuf {
        self.dir.join("source")
    }

    /// The target's archive.
    pub fn target_archive(&self) -> PathBuf {
        self.dir.join("sshd/home/dpkg_archive")
    }

    /// Where the scripts go on the target.
    pub fn target_bin(&self) -> PathBuf {
        self.dir.join("sshd/home/bin")
    }

    /// Where a version lies on the target, once it is published.
    pub fn on_target(&self, name: &str, version: &str) -> PathBuf {
        self.target_archive().join(name).join(version)
    }

    /// Puts a package into the source.
    pub fn package(&self, name: &str, version: &str, fill: impl FnOnce(Package) -> Package) -> PathBuf {
        fill(Package::new(name, version)).write(&self.source())
    }

    /// What Release Manager knows from now on: project `Lab` with one open release of these packages.
    pub fn release(&self, packages: &[(&str, &str)]) {
        let packages: Vec<String> = packages.iter().map(|(name, version)| format!("{name}@{version}")).collect();
        let yaml = format!(
            "projects:\n  - name: Lab\n    releases:\n      - {{id: 1, name: Lab 1, state: open, packages: [{}]}}\n",
            packages.join(", ")
        );
        self.replace_releases(&yaml);
    }

    /// What Release Manager knows from now on, as its file says it.
    pub fn replace_releases(&self, yaml: &str) {
        replace(&self.home().join("releases.yaml"), yaml);
    }

    /// What Release Manager knows from now on: project `Lab` with one open release of these packages, which asks for its bucket.
    pub fn release_for_buckets(&self, packages: &[(&str, &str)]) {
        self.release(packages);
        let path = self.home().join("releases.yaml");
        let text = fs::read_to_string(&path).expect("what was just written");
        replace(&path, &text.replace("state: open,", "state: open, s3sync: true,"));
    }

    /// The executables find these variables in their environment from now on, and no others of the AWS tools.
    pub fn set_environment(&mut self, variables: impl IntoIterator<Item = (&'static str, String)>) {
        self.environment = variables.into_iter().collect();
    }

    /// What [`Self::set_environment`] was told.
    pub fn environment(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.environment.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// What a working target's config says, with the keys of `extra` in place of its own or added.
    pub fn config_text(&self, extra: &str) -> String {
        let read = |file: &str| fs::read_to_string(self.dir.join("sshd").join(file)).expect("a started sshd");
        let path = |file: &str| self.dir.join(file).display().to_string();
        let own = [
            ("host", "127.0.0.1".to_owned()),
            ("port", read("port")),
            ("user", read("user")),
            ("identity", path("client/id_ed25519")),
            ("known_hosts", path("client/known_hosts")),
            ("transport", self.way.transport().to_owned()),
            ("receiver", self.way.receiver().to_owned()),
            ("source", path("source")),
            ("archive", path("sshd/home/dpkg_archive")),
            ("bin", path("sshd/home/bin")),
            ("release_manager", format!("{{file: {}}}", path("home/releases.yaml"))),
            ("projects", "[Lab]".to_owned()),
            ("disk_reserve", "1m".to_owned()),
        ];
        let replaced = |key: &str| extra.lines().any(|line| line.split(':').next() == Some(key));
        let mut text = String::new();
        for (key, value) in own.iter().filter(|(key, _)| !replaced(key)) {
            writeln!(text, "{key}: {}", value.trim()).expect("writing to a string");
        }
        text + extra + "\n"
    }

    /// Writes a target's config: that of a working target, changed by `extra`.
    pub fn config(&self, target: &str, extra: &str) {
        self.raw_config(target, &self.config_text(extra));
    }

    /// The scripts' directory of targets on this machine: nothing on the way to it is the target's account's.
    pub fn local_bin(&self) -> PathBuf {
        self.dir.join("local/bin")
    }

    /// Writes the config of a target on this machine, without ssh: that of a working target, changed by `extra`. Its archive becomes the master's, and the
    /// folder that the archive lies in becomes root's, where root runs this: scripts serve no archive in a folder of anybody else's.
    pub fn local_config(&self, target: &str, extra: &str) {
        const WAY: [&str; 5] = ["host:", "port:", "user:", "identity:", "known_hosts:"];
        let given = extra.lines().any(|line| line.starts_with("bin:"));
        let bin = if given { String::new() } else { format!("bin: {}\n", self.local_bin().display()) };
        let text = self.config_text(&format!("transport: local\n{bin}{extra}"));
        let kept: Vec<&str> = text.lines().filter(|line| !WAY.iter().any(|key| line.starts_with(key))).collect();
        self.raw_config(target, &kept.join("\n"));
        fs::create_dir_all(self.local_bin()).expect("a scratch folder");
        [self.target_archive(), self.local_bin()].iter().for_each(|folder| Account::Master.own(folder));
        if accounts::is_root() {
            std::os::unix::fs::chown(self.dir.join("sshd/home"), Some(0), None).expect("root may");
        }
    }

    /// Waits until something of a package lies in the target's stage.
    pub fn wait_until_receiving(&self) {
        let stage = self.target_archive().join(".dpkg_archive/stage");
        self.wait_for("a package to be on its way", || std::fs::read_dir(&stage).ok()?.next().map(drop));
    }

    /// Copies the key and the known hosts to `ssh/`. In a user namespace, folders outside of the home tree belong to nobody who is trusted.
    pub fn keep_keys_at_home(&self) {
        for file in ["id_ed25519", "known_hosts"] {
            let copy = self.home().join("ssh").join(file);
            fs::copy(self.dir.join("client").join(file), copy).expect("a scratch folder");
        }
        self.hand_over();
    }

    /// Gives the home tree to the master: for what a test made there by hand, which is root's where root runs it.
    pub fn hand_over(&self) {
        Account::Master.own(&self.home());
    }

    /// Writes a target's config, whatever it says, in one step.
    pub fn raw_config(&self, target: &str, text: &str) {
        replace(&self.home().join(format!("config/{target}.conf")), text);
    }

    /// Drops a tag as a build server does: written aside, then renamed.
    pub fn drop_tag(&self, target: &str, name: &str, version: &str) -> PathBuf {
        let path = self.home().join("tags").join(target).join(format!("{name}@{version}"));
        let folder = path.parent().expect("a tag directory");
        if !folder.exists() {
            fs::create_dir_all(folder).expect("an own folder");
            accounts::as_its_folder(folder);
        }
        replace(&path, "");
        path
    }

    /// One of the executables with `--home` set, its processes marked as this lab's.
    pub fn command(&self, name: &str) -> Command {
        self.command_below(&[], name)
    }

    /// One of the executables for another home tree than the lab's, as the master's account.
    pub fn command_in(&self, home: &Path, name: &str) -> Command {
        let built = executable(name);
        let program = accounts::executables(built.parent().expect("a folder of executables")).join(name);
        let mut command = Account::Master.command(program);
        command.arg("--home").arg(home).env("BLAT_LAB", &self.dir).env_remove("BLAT_HOME").process_group(0);
        command
    }

    /// As [`Self::command`], run by somebody else: by root where root runs the tests, or by one of the people around the lab.
    pub fn command_by(&self, account: Option<Account>, name: &str) -> Command {
        let built = executable(name);
        let program = accounts::executables(built.parent().expect("a folder of executables")).join(name);
        let mut command = account.map_or_else(|| Command::new(&program), |account| account.command(&program));
        command.arg("--home").arg(self.home()).env("BLAT_LAB", &self.dir).env_remove("BLAT_HOME").process_group(0);
        command
    }

    /// Runs a command of [`Self::command_by`] to its end.
    pub fn blat_by(&self, account: Option<Account>, arguments: &[&str]) -> Outcome {
        process::run(self.command_by(account, "blat").args(arguments), &self.dir)
    }

    /// An archive for one target alone, as its config names it.
    pub fn own_archive(&self, target: &str) -> String {
        let folder = self.target_archive().with_file_name(format!("archive-of-{target}"));
        fs::create_dir_all(&folder).expect("a scratch folder");
        Account::Target.own(&folder);
        format!("archive: {}", folder.display())
    }

    /// As [`Self::command`], by a command that ends in executing its further arguments.
    pub fn command_below(&self, wrapper: &[&str], name: &str) -> Command {
        let built = executable(name);
        let program = accounts::executables(built.parent().expect("a folder of executables")).join(name);
        let mut command = match wrapper.split_first() {
            None => Account::Master.command(program),
            Some((first, rest)) => {
                let mut wrapped = Account::Master.command(first);
                wrapped.args(rest).arg(program);
                wrapped
            }
        };
        command.arg("--home").arg(self.home()).env("BLAT_LAB", &self.dir).env_remove("BLAT_HOME").process_group(0);
        command.envs(&self.environment);
        command
    }

    /// `blat-agent --once`, to its end.
    pub fn agent_once(&self, target: &str) -> Outcome {
        self.start_agent_once(target).finish()
    }

    /// `blat-agent --once`, under way.
    pub fn start_agent_once(&self, target: &str) -> Running {
        Running::start(self.command("blat-agent").args(["--target", target, "--once"]), &self.dir)
    }

    /// A `blat` command, to its end.
    pub fn blat(&self, arguments: &[&str]) -> Outcome {
        process::run(self.command("blat").args(arguments), &self.dir)
    }

    /// Starts `blatd` in the foreground and waits until it answers.
    pub fn start_master(&mut self) -> u32 {
        self.start_master_below(&[])
    }

    /// As [`Self::start_master`], by a command that ends in executing its further arguments.
    pub fn start_master_below(&mut self, wrapper: &[&str]) -> u32 {
        assert!(self.master.is_none(), "one master at a time");
        let mut command = self.command_below(wrapper, "blatd");
        let master = Running::start(&mut command, &self.dir);
        let pid = master.pid();
        self.master = Some(master);
        self.wait_for("the master to answer", || (self.blat(&["status"]).code == Some(0)).then_some(()));
        pid
    }

    /// Starts the master in a namespace of its own, where it and its agents may have so many inotify instances and watches together. That
    /// needs [`Self::keep_keys_at_home`] before.
    pub fn start_master_with_notifications(&mut self, instances: u32, watches: u32) -> u32 {
        let limited = format!("{} && exec \"$0\" \"$@\"", set_notifications(instances, watches));
        self.start_master_below(&["unshare", "--user", "--map-root-user", "sh", "-c", &limited])
    }

    /// Sets other limits for a master that was started by [`Self::start_master_with_notifications`].
    pub fn limit_notifications(&self, master: u32, instances: u32, watches: u32) {
        let (master, limits) = (master.to_string(), set_notifications(instances, watches));
        let argv = ["--preserve-credentials", "--user", "--target", &master, "sh", "-c", &limits];
        process::run(Account::Master.command("nsenter").args(argv), &self.dir).expect_success();
    }

    /// Sends the master a signal and waits for its end.
    pub fn end_master(&mut self, signal: Signal) -> Outcome {
        let master = self.master.take().expect("a started master");
        process::signal(master.pid(), signal);
        master.finish()
    }

    /// `blat status --json`, of a running master.
    pub fn status(&self) -> Value {
        let outcome = self.blat(&["status", "--json"]);
        serde_json::from_str(&outcome.expect_success().stdout).unwrap_or_else(|error| panic!("{error} in\n{outcome}"))
    }

    /// One target of [`Self::status`]; null when there is no such target.
    pub fn target_status(&self, target: &str) -> Value {
        let status = self.status();
        let targets = status["targets"].as_array().expect("targets is a list");
        targets.iter().find(|entry| entry["name"] == target).cloned().unwrap_or(Value::Null)
    }

    /// Waits until a target's status satisfies `is`, and gives that status.
    pub fn wait_for_status(&self, target: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = process::poll(DEADLINE, || {
            last = self.target_status(target);
            is(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("{target} was not {what} within {DEADLINE:?}: {last:#}\n{}", scene(&self.dir)))
    }

    /// Waits until `look` gives something; fails with the whole scene when that takes too long.
    pub fn wait_for<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        process::poll(DEADLINE, look)
            .unwrap_or_else(|| panic!("waited for {what}, {DEADLINE:?} long, in vain\n{}", scene(&self.dir)))
    }

    /// Waits until a version is visible on the target, and compares it with the source's.
    pub fn wait_until_published(&self, name: &str, version: &str) {
        let path = self.on_target(name, version);
        self.wait_for(&format!("{name}@{version} on the target"), || path.exists().then_some(()));
        self.assert_published(name, version);
    }

    /// Fails unless this version is on the target, the same as in the source.
    pub fn assert_published(&self, name: &str, version: &str) {
        tree::assert_same_package(&self.source().join(name).join(version), &self.on_target(name, version));
    }

    /// Fails if anything that the target shows is not the source's, whole.
    pub fn assert_never_partial(&self) {
        tree::assert_never_partial(&self.source(), &self.target_archive());
    }

    /// What the target shows, as `NAME@VERSION`, sorted.
    pub fn visible(&self) -> Vec<String> {
        let packages = tree::visible_packages(&self.target_archive());
        packages.iter().map(|path| path.display().to_string().replacen('/', "@", 1)).collect()
    }

    /// The PackageList's packages, as `NAME VERSION`, after checking its form: sorted, counted.
    pub fn package_list(&self) -> Vec<String> {
        let path = self.target_archive().join(".dpkg_archive/PackageList.txt");
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("could not read {}: {error}", path.display()));
        tree::listed(&text)
    }

    /// Runs a command as the target's user, who is never root.
    pub fn as_target_user(&self, argv: &[&str]) -> Outcome {
        self.run_as(Account::Target, argv)
    }

    /// Runs a command as one of the people around the lab.
    pub fn run_as(&self, account: Account, argv: &[&str]) -> Outcome {
        let (program, arguments) = argv.split_first().expect("a command");
        process::run(account.command(program).args(arguments), &self.dir)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(mut master) = self.master.take() {
            process::signal(master.pid(), Signal::TERM);
            if process::poll(Duration::from_secs(40), || master.ended().then_some(())).is_none() {
                eprintln!("the master did not stop, and was killed");
                process::signal(master.pid(), Signal::KILL);
            }
        }
        for left in self.local_processes() {
            process::signal(left.pid, Signal::KILL);
        }
        if !self.sshd_tool("stop").status().is_ok_and(|status| status.success()) {
            eprintln!("could not stop the sshd of {}", self.dir.display());
        }
        if env::var_os("BLAT_KEEP").is_some() {
            eprintln!("kept: {}", self.dir.display());
        } else {
            tree::remove(&self.dir);
        }
    }
}

/// Writes a file so that nobody sees it half-written.
fn replace(path: &Path, text: &str) {
    let aside = path.with_file_name(format!(".{}.tmp", path.file_name().expect("a file's path").to_string_lossy()));
    fs::write(&aside, text).unwrap_or_else(|error| panic!("could not write {}: {error}", aside.display()));
    accounts::as_its_folder(&aside);
    fs::rename(&aside, path).unwrap_or_else(|error| panic!("could not write {}: {error}", path.display()));
}

/// Shell that bounds the notifications of the user namespace that it runs in.
fn set_notifications(instances: u32, watches: u32) -> String {
    let limits = "/proc/sys/user/max_inotify";
    format!("echo {instances} >{limits}_instances && echo {watches} >{limits}_watches")
}
