//! A scratch home tree, the real `blat`, and a master that says what a test tells it to.

// Each test file is a program of its own and uses a part of this.
#![allow(dead_code)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use blat_config::{Home, socket};
use blat_domain::protocol::messages::{Answer, MasterRequest};
use blat_domain::protocol::status::{
    ConfigStatus, Current, FarEnd, HeldPackage, LastError, Leftover, Queue, State, Status, SupervisorStatus,
    SyncReport, SyncResult, TargetStatus,
};
use jiff::Timestamp;

/// No wait in a test lasts longer than this, and none that is met lasts nearly as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How a run of `blat` ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Fails with both streams unless the exit code is this one.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }
}

/// A home tree of its own for each test.
pub(crate) struct Scratch {
    directory: tempfile::TempDir,
    /// The executable to run.
    pub(crate) blat: PathBuf,
}

impl Scratch {
    /// A directory that is no home tree yet.
    pub(crate) fn empty() -> Self {
        // Below the build's own directory, so that executables can be hard-linked into it.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory");
        Self { directory, blat: env!("CARGO_BIN_EXE_blat").into() }
    }

    /// A home tree with these targets, each on this machine.
    pub(crate) fn with_targets(names: &[&str]) -> Self {
        let scratch = Self::empty();
        for name in ["config", "run", "log", "state"] {
            fs::create_dir(scratch.path(name)).expect(name);
        }
        for name in names {
            let text = format!("transport: local\narchive: /srv/{name}\nsource: /srv/dpkg_archive\n");
            scratch.write(&format!("config/{name}.conf"), &text);
        }
        scratch
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is below the scratch directory")).expect(name);
        fs::write(path, text).expect(name);
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect(name)
    }

    pub(crate) fn home(&self) -> Home {
        Home::at(self.directory.path()).expect("an absolute path")
    }

    /// Every file below a directory, sorted.
    pub(crate) fn files(&self, name: &str) -> Vec<String> {
        let mut files: Vec<String> = fs::read_dir(self.path(name))
            .map(|entries| entries.map(|entry| entry.expect(name).file_name().to_string_lossy().into_owned()).collect())
            .unwrap_or_default();
        files.sort();
        files
    }

    /// Gives this home a `blat` of its own, with another executable beside it that does what the script says.
    pub(crate) fn with_sibling(mut self, name: &str, script: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let own = self.path("bin/blat");
        self.write(&format!("bin/{name}"), &format!("#!/bin/sh\n{script}\n"));
        fs::hard_link(&self.blat, &own).expect("a link to blat");
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.path(&format!("bin/{name}")), executable).expect("an executable");
        self.blat = own;
        self
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.blat);
        command.args(words).current_dir(self.directory.path()).stdin(Stdio::null());
        command.env_remove("BLAT_HOME").env_remove("NO_COLOR");
        command
    }

    /// Runs `blat` in this home tree to its end.
    pub(crate) fn blat(&self, words: &[&str]) -> Ran {
        let output = self.command(words).output().expect("blat runs");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        Ran {
            code: output.status.code().expect("blat ends by itself"),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

/// Something that answers on a home tree's socket.
pub(crate) struct FakeMaster {
    requests: Arc<Mutex<Vec<MasterRequest>>>,
}

impl FakeMaster {
    /// Answers each request with what `answers` makes of it, then closes the connection.
    pub(crate) fn start(home: &Home, answers: impl Fn(&MasterRequest) -> Vec<Answer> + Send + 'static) -> Self {
        let (listener, _) = socket::bind(home).expect("the socket is free");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut line = String::new();
                // Somebody may only want to know whether anybody is there.
                if BufReader::new(&stream).read_line(&mut line).expect("a request") == 0 {
                    continue;
                }
                let request: MasterRequest = serde_json::from_str(&line).expect("a request of ours");
                let answers = answers(&request);
                heard.lock().expect("no test panics here").push(request);
                for answer in answers {
                    let text = serde_json::to_string(&answer).expect("an answer of ours");
                    // A client that has heard enough may be gone.
                    if writeln!(stream, "{text}").is_err() {
                        break;
                    }
                }
            }
        });
        Self { requests }
    }

    pub(crate) fn requests(&self) -> Vec<MasterRequest> {
        self.requests.lock().expect("no test panics here").clone()
    }
}

/// Waits until it is so, and fails when it never is.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn time() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().expect("a time")
}

/// A package that is held.
pub(crate) fn held(version: u32) -> HeldPackage {
    HeldPackage { package: format!("late@{version}").parse().expect("a package"), why: "waits: still writable".into() }
}

pub(crate) fn report(result: SyncResult) -> SyncReport {
    SyncReport {
        result,
        wanted: 512,
        present: 512,
        sent: 3,
        bytes: 1024,
        snapshot: Some(time()),
        held_back: Some("nothing is marked or deleted: a release lost all its packages".into()),
        ..SyncReport::begun(time())
    }
}

/// A target in the middle of everything: no field is empty.
pub(crate) fn busy(name: &str, config: &Path) -> TargetStatus {
    TargetStatus {
        name: name.parse().expect("a target name"),
        kind: "dpkg_archive".into(),
        pid: Some(4711),
        restarts: 2,
        since: time(),
        state: State::Syncing,
        last_sync: Some(SyncReport { held: 1, held_packages: vec![held(1)], ..report(SyncResult::Ok) }),
        queue: Queue { tags: 1, packages: 12, bytes: 4096 },
        current: Some(Current { package: "core@1.2.3".parse().expect("a package"), done: 1, total: 2 }),
        last_error: Some(LastError {
            at: time(),
            package: Some("core@1.2.3".parse().expect("a package")),
            text: "the target is full".into(),
            retry_at: Some(time()),
        }),
        far_end: Some(FarEnd::Receiver { restricted: false, scripts: None }),
        waits_for: None,
        leftovers: vec![Leftover {
            path: ".dpkg_archive/trash/delete-1-1/core@1/work".into(),
            owner: Some(0),
            text: "removing it failed: Permission denied; remove it as its owner or as root".into(),
        }],
        config: ConfigStatus { path: config.to_owned(), loaded: Some(time()), error: None },
    }
}

pub(crate) fn status(home: &Home, names: &[&str]) -> Status {
    let supervisor = Some(SupervisorStatus { pid: 42, version: "0.1.0".into(), started: time(), last_error: None });
    let targets = names.iter().map(|name| busy(name, &home.config_dir().join(name))).collect();
    Status { home: home.root().to_owned(), supervisor, targets }
}
