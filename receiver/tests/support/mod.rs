//! A tiny agent: drives the real executable over pipes, in frames.
#![allow(dead_code, reason = "each test file uses its share")]
#![allow(unreachable_pub, reason = "shared between test files")]

pub mod package;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use blat_domain::package::name::PackageId;
use blat_domain::protocol::frames::{self, Class, HEADER, Lane, MARKER, PROTOCOL, Reply, Request};

/// How long a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An ordinary user: of the usual number of nobody.
pub const NOBODY: u32 = 65534;

/// A reply that owns what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Welcome(Vec<String>),
    Pong(u64, Vec<u64>),
    Lines(String),
    Listed(Vec<u16>),
    Held(u32, Vec<(u32, [u8; 32])>),
    Lacks(u32),
    Done,
    Ready,
    Failed(Class, String),
}

/// One conversation with a receiver.
pub struct Agent {
    pub child: Child,
    input: Option<ChildStdin>,
    said: Receiver<(Lane, Said)>,
    kept: Vec<(Lane, Said)>,
    credit: Vec<i64>,
    credits: Receiver<(Lane, u32)>,
}

impl Agent {
    /// Starts a receiver and greets it.
    pub fn start(archive: &Path) -> Self {
        let mut agent = Self::start_without_greeting(archive);
        agent.send(Lane::CONTROL, &Request::Hello { protocol: PROTOCOL });
        agent
    }

    /// Starts a receiver.
    pub fn start_without_greeting(archive: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blat-receiver"));
        command.arg("--archive").arg(archive);
        Self::start_command(command)
    }

    /// Starts a receiver that may do no more than an ordinary user, whoever runs the tests, and greets it. The archive becomes that user's.
    pub fn start_unprivileged(archive: &Archive) -> Self {
        Self::start_unprivileged_by(archive, &archive.path)
    }

    /// The same by another path.
    pub fn start_unprivileged_by(archive: &Archive, path: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blat-receiver"));
        if rustix::process::geteuid().is_root() {
            let own = archive.beside("blat-receiver");
            // By another process: a test beside this one that starts something just now would keep our own copy open for writing, and busy.
            let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_blat-receiver")).arg(&own).status();
            assert!(copied.expect("a command of every Linux").success());
            fs::set_permissions(archive.scratch.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
            let chown = Command::new("chown").args(["-R", &format!("{NOBODY}:{NOBODY}")]).arg(&archive.path).status();
            assert!(chown.expect("a command of every Linux").success());
            command = Command::new(own);
            command.uid(NOBODY).gid(NOBODY);
        }
        command.arg("--archive").arg(path);
        let mut agent = Self::start_command(command);
        agent.send(Lane::CONTROL, &Request::Hello { protocol: PROTOCOL });
        agent
    }

    /// The same with these groups beside its own, in a setgid archive of a group.
    pub fn start_with_groups(archive: &Archive, groups: &str, archive_group: u32) -> Self {
        let own = archive.beside("blat-receiver");
        fs::copy(env!("CARGO_BIN_EXE_blat-receiver"), &own).expect("an executable");
        fs::set_permissions(archive.scratch.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        std::os::unix::fs::chown(&archive.path, Some(NOBODY), Some(archive_group)).expect("root may");
        fs::set_permissions(&archive.path, fs::Permissions::from_mode(0o2755)).expect("root may");
        let mut command = Command::new("setpriv");
        let id = NOBODY.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--groups", groups, "--"]).arg(own);
        command.arg("--archive").arg(&archive.path);
        let mut agent = Self::start_command(command);
        agent.send(Lane::CONTROL, &Request::Hello { protocol: PROTOCOL });
        agent
    }

    pub fn start_command(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the receiver starts");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, said) = channel();
        let (credit, credits) = channel();
        std::thread::spawn(move || {
            let mut marker = String::new();
            output.read_line(&mut marker).expect("a marker");
            if marker.is_empty() {
                return;
            }
            assert_eq!(marker.trim_end(), MARKER);
            let mut header = [0; HEADER];
            while output.read_exact(&mut header).is_ok() {
                let (length, lane) = frames::header(header).expect("a good header");
                let mut body = vec![0; length];
                if output.read_exact(&mut body).is_err() {
                    return;
                }
                let sent = match frames::decode(&body).expect("a reply") {
                    Reply::Credit { bytes } => credit.send((lane, bytes)).is_ok(),
                    reply => sender.send((lane, owned(reply))).is_ok(),
                };
                if !sent {
                    return;
                }
            }
        });
        let input = child.stdin.take();
        Self { child, input, said, kept: Vec::new(), credit: vec![frames::FIRST_CREDIT as i64; 8], credits }
    }

    /// Sends one message, as soon as the lane has credit for it.
    pub fn send(&mut self, lane: Lane, request: &Request<'_>) {
        let mut frame = Vec::new();
        frames::append(&mut frame, lane, request).expect("a message that fits");
        let length = (frame.len() - HEADER) as i64;
        let lane = usize::from(lane.0);
        while self.credit[lane] < length {
            match self.credits.recv_timeout(PATIENCE) {
                Ok((lane, bytes)) => self.credit[usize::from(lane.0)] += i64::from(bytes),
                Err(_) => return,
            }
        }
        self.credit[lane] -= length;
        self.send_bytes(&frame);
    }

    /// Sends bytes, whatever they are. A receiver that has ended the conversation does not take them.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.input.as_mut().expect("an open pipe").write_all(bytes);
    }

    /// The next thing said on a lane; none where the receiver has ended.
    pub fn hear(&mut self, lane: Lane) -> Option<Said> {
        if let Some(at) = self.kept.iter().position(|(of, _)| *of == lane) {
            return Some(self.kept.remove(at).1);
        }
        loop {
            match self.said.recv_timeout(PATIENCE) {
                Ok((of, said)) if of == lane => return Some(said),
                Ok(other) => self.kept.push(other),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("nothing is said on lane {}", lane.0),
            }
        }
    }

    /// Lines up to `Done`; or the failure. What is asked for is still wanted.
    pub fn lines(&mut self, lane: Lane) -> Result<Vec<String>, (Class, String)> {
        let mut lines = Vec::new();
        loop {
            match self.hear(lane).expect("an answer") {
                Said::Welcome(_) => {}
                Said::Lines(text) => lines.extend(text.lines().map(str::to_owned)),
                Said::Done => return Ok(lines),
                Said::Failed(class, text) => return Err((class, text)),
                Said::Listed(_) => {}
                Said::Ready => self.send(lane, &Request::Go),
                other => panic!("{other:?} is no part of an answer"),
            }
        }
    }

    /// Sends a request and gives its lines.
    pub fn ask(&mut self, lane: Lane, request: &Request<'_>) -> Result<Vec<String>, (Class, String)> {
        self.send(lane, request);
        self.lines(lane)
    }

    /// What the greeting was answered with: packages of which something is left.
    pub fn remains(&mut self) -> Vec<String> {
        match self.hear(Lane::CONTROL) {
            Some(Said::Welcome(remains)) => remains,
            other => panic!("{other:?} is no welcome"),
        }
    }

    /// Ends the conversation; how the receiver ended.
    pub fn end(mut self) -> ExitStatus {
        drop(self.input.take());
        self.ended()
    }

    /// How the receiver ended of its own accord.
    pub fn ended(&mut self) -> ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(since.elapsed() < PATIENCE, "the receiver does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills it at once.
    pub fn kill(mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn owned(reply: Reply<'_>) -> Said {
    match reply {
        Reply::Welcome { remains, .. } => Said::Welcome(remains.iter().map(PackageId::to_string).collect()),
        Reply::Pong { beat, work } => Said::Pong(beat, work),
        Reply::Credit { .. } => unreachable!("told apart before"),
        Reply::Lines(text) => Said::Lines(text.to_owned()),
        Reply::Listed { buckets } => Said::Listed(buckets),
        Reply::Held { number, files } => Said::Held(number, files),
        Reply::Lacks { number } => Said::Lacks(number),
        Reply::Done => Said::Done,
        Reply::Ready => Said::Ready,
        Reply::Failed { class, text } => Said::Failed(class, text.to_owned()),
    }
}

/// An empty archive in a scratch directory.
pub struct Archive {
    scratch: tempfile::TempDir,
    pub path: PathBuf,
}

impl Archive {
    pub fn new() -> Self {
        Self::of(tempfile::tempdir())
    }

    /// The same where no disk has to keep it, if there is such a place: for more folders than a test can wait for otherwise.
    pub fn in_memory() -> Self {
        Self::of(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()))
    }

    fn of(scratch: std::io::Result<tempfile::TempDir>) -> Self {
        let scratch = scratch.expect("a scratch directory");
        let path = scratch.path().join("archive");
        fs::create_dir(&path).expect("an archive");
        Self { scratch, path }
    }

    /// Something beside the archive.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub fn house(&self, path: &str) -> PathBuf {
        self.path.join(".dpkg_archive").join(path)
    }

    /// A package written there by hand, with a manifest.
    pub fn put(&self, name: &str, version: &str, files: &[(&str, &str)], time: i64) -> PathBuf {
        let package = package::Package::new(name, version).time(time);
        let package = files.iter().fold(package, |package, (path, text)| package.file(path, text.as_bytes()));
        package.write(&self.path)
    }

    /// Runs one of the target scripts on it; the lines between marker and end.
    pub fn script(&self, verb: &str, arguments: &[&str], input: &str) -> Vec<String> {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target-scripts");
        let mut child = Command::new("/bin/sh")
            .arg(scripts.join(verb))
            .arg("--archive")
            .arg(&self.path)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("a reading script");
        let output = child.wait_with_output().expect("a script");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success(), "{verb} ended with {}: {text}", output.status);
        let lines = text.lines().filter(|line| *line != "alive" && !line.starts_with("# "));
        lines.map(str::to_owned).collect()
    }
}

pub fn id(text: &str) -> PackageId {
    text.parse().expect("a package")
}

/// Waits until something is so.
pub fn wait_for(what: &str, so: impl Fn() -> bool) {
    let since = Instant::now();
    while !so() {
        assert!(since.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}
