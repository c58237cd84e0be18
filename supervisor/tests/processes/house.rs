//! A home tree with a master of its own and a shell script in the agents' place.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use blat_config::{Home, socket};
use blat_domain::protocol::messages::{Answer, MasterRequest};
use blat_domain::protocol::status::{Status, TargetStatus};
use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take before the test calls it missing.
const PATIENCE: Duration = Duration::from_secs(30);

/// The agent's stand-in. It notes what it sees in `seen/TARGET`; `behaviour/TARGET` is run before it takes orders.
const AGENT: &str = r#"#!/bin/sh
home=$2 target=$4
note() { echo "$*" >> "$home/seen/$target"; }
report() {
    echo '{"event":"report","state":"'$1'","last_sync":null,"queue":{"tags":0,"packages":0,"bytes":0},"current":null,"last_error":null}'
}
trap 'got=1; note usr1' USR1
trap 'got=1; note hup' HUP
trap 'note term; exit 0' TERM
note start $$
if [ -f "$home/behaviour/$target" ]; then . "$home/behaviour/$target"; fi
report idle
while :; do
    got=
    if read -r order; then
        case $order in
        *reload*) note reload "$(cat "$home/config/$target.conf")" ;;
        *) note "$order" ;;
        esac
        case $order in *sync*)
            ticket=${order##*:}
            report syncing
            if [ -f "$home/behaviour/$target.dies" ]; then kill -9 $$; fi
            at=2026-01-01T00:00:00Z
            echo '{"event":"sync_finished","tickets":['${ticket%\}}'],"report":{"started":"'$at'","finished":"'$at'","result":"ok","wanted":1,"present":1,"sent":0,"failed":0,"marked":0,"deleted":0,"bytes":0},"error":null}'
            report idle ;;
        esac
    else
        [ -n "$got" ] || break
    fi
done
note eof
"#;

/// A home tree, its master, and an end for both.
pub(crate) struct House {
    scratch: tempfile::TempDir,
    root: PathBuf,
    master: Option<Child>,
}

impl House {
    /// A home tree without targets, and no master yet.
    pub(crate) fn new() -> Self {
        Self::at("home")
    }

    /// As [`House::new`], at this place below the scratch directory.
    pub(crate) fn at(place: &str) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let root = scratch.path().join(place);
        for directory in ["config", "seen", "behaviour"] {
            fs::create_dir_all(root.join(directory)).expect("a directory of the home tree");
        }
        let house = Self { scratch, root, master: None };
        house.install_agent();
        house
    }

    /// Where the agent's program is.
    pub(crate) fn agent(&self) -> PathBuf {
        self.scratch.path().join("agent")
    }

    /// Puts the agent's program in place, in one step.
    pub(crate) fn install_agent(&self) {
        use std::os::unix::fs::PermissionsExt;
        let new = self.agent().with_extension("new");
        fs::write(&new, AGENT).expect("the agent is written");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("the agent is executable");
        fs::rename(new, self.agent()).expect("the agent is in place");
    }

    /// A path in the home tree.
    pub(crate) fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.join(below)
    }

    /// A valid config for `target`; `salt` makes it differ from others.
    pub(crate) fn config(&self, target: &str, salt: &str) -> String {
        format!("# {salt}\nsource: {}/source\ntransport: local\narchive: {0}/on/{target}\n", self.root.display())
    }

    /// Writes a target's config in one step.
    pub(crate) fn configure(&self, target: &str, text: &str) {
        let new = self.path(format!("config/.{target}"));
        fs::write(&new, text).expect("a config is written");
        fs::rename(new, self.path(format!("config/{target}.conf"))).expect("a config is in place");
    }

    /// Gives targets valid configs.
    pub(crate) fn targets<'a>(&self, targets: impl IntoIterator<Item = &'a str>) {
        for target in targets {
            self.configure(target, &self.config(target, ""));
        }
    }

    /// Shell that the agent of `target` runs when it starts.
    pub(crate) fn behaviour(&self, target: &str, shell: &str) {
        fs::write(self.path(format!("behaviour/{target}")), shell).expect("a behaviour is written");
    }

    /// A master's command, not started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blatd"));
        command.arg("--home").arg(&self.root).args(arguments).env("BLAT_AGENT", self.agent());
        command.env_remove("BLAT_HOME").stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Starts the master and waits until it answers.
    pub(crate) fn start(&mut self, arguments: &[&str]) {
        self.master = Some(self.command(arguments).spawn().expect("the master starts"));
        self.until("the master answers", |house| house.ask(&MasterRequest::Status).is_ok());
    }

    /// Signals the master.
    pub(crate) fn signal(&self, signal: Signal) {
        let master = self.master.as_ref().expect("a master");
        self::signal(master.id(), signal);
    }

    /// Waits for the master's end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        let mut master = self.master.take().expect("a master");
        self.until("the master ends", |_| {
            status = master.try_wait().expect("the master is our child");
            status.is_some()
        });
        status.expect("it was there a moment ago")
    }

    /// Stops the master in good order.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.ended();
        assert!(status.success(), "the master ended with {status}\n{}", self.evidence());
    }

    /// All answers to a request.
    pub(crate) fn ask(&self, request: &MasterRequest) -> std::io::Result<Vec<Answer>> {
        let home = Home::at(&self.root).expect("an absolute path");
        let mut stream = socket::connect(&home)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let line = serde_json::to_string(request).expect("a request");
        stream.write_all(format!("{line}\n").as_bytes())?;
        BufReader::new(stream).lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect()
    }

    /// What the master shows.
    pub(crate) fn status(&self) -> Status {
        match self.ask(&MasterRequest::Status).expect("an answer").as_slice() {
            [Answer::Status(status)] => status.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// What the master shows of one target.
    pub(crate) fn target(&self, name: &str) -> Option<TargetStatus> {
        self.status().targets.into_iter().find(|target| target.name.as_str() == name)
    }

    /// What the agents of a target saw, in lines.
    pub(crate) fn seen(&self, target: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(format!("seen/{target}"))).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The processes that were ever started for a target.
    pub(crate) fn started(&self, target: &str) -> Vec<u32> {
        self.seen(target).iter().filter_map(|line| line.strip_prefix("start ")?.parse().ok()).collect()
    }

    /// Polls until something is so, and fails with all the evidence where it never is.
    pub(crate) fn until(&self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(Instant::now() < deadline, "never: {what}\n{}", self.evidence());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn evidence(&self) -> String {
        let log = fs::read_to_string(self.path("log/blatd.log")).unwrap_or_default();
        let files = Command::new("ls").arg("-lR").arg(&self.root).output().expect("ls");
        format!("{log}\n{}", String::from_utf8_lossy(&files.stdout))
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let Some(mut master) = self.master.take() else { return };
        // Told twice to stop, it kills whatever does not end, so that no test leaves a process behind.
        signal(master.id(), Signal::TERM);
        signal(master.id(), Signal::INT);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if master.try_wait().expect("the master is our child").is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        master.kill().and_then(|()| master.wait()).expect("the master is our child");
    }
}

/// Signals a process.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process number");
    kill_process(pid, signal).expect("the process is there");
}

/// Whether a process is there and not just waiting to be reaped.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
