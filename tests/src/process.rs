//! Running executables with a deadline, finding processes, ending them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fmt, fs, thread};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything that works ever takes, on a machine busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// One of the workspace's executables, as built beside this test.
pub fn executable(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the running test has a path");
    let folder = test.parent().and_then(Path::parent).expect("a test lies in target/PROFILE/deps");
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not built: run `make test`, or first `cargo build --workspace --bins`",
        path.display()
    );
    path
}

/// A number that no other part of this process has got: tests may be threads of one process, or processes.
pub fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The build of the receiver that agents carry for this machine.
pub fn carried_receiver() -> PathBuf {
    let machine = std::env::consts::ARCH;
    let path = executable("blat-agent").with_file_name(format!("receivers/blat-receiver-{machine}-linux"));
    assert!(
        path.exists(),
        "{} is not built: run `make test`, or first `receiver/build target/debug/receivers --profile dev`",
        path.display()
    );
    path
}

/// Looks again and again until `look` gives something; fails when that takes longer than `longest`. Most of that time nobody looks: what takes
/// a process to look at would else take a good part of the machine from what is waited for.
pub fn poll<T>(longest: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let began = Instant::now();
        if let Some(found) = look() {
            return Some(found);
        }
        if start.elapsed() > longest {
            return None;
        }
        thread::sleep(Duration::from_millis(10).max(4 * began.elapsed()));
    }
}

/// How a command ended.
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
    lab: PathBuf,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.map_or("a signal".to_owned(), |code| format!("code {code}"));
        writeln!(f, "$ {}\n  ended with {code}", self.command)?;
        writeln!(f, "--- stdout\n{}\n--- stderr\n{}", self.stdout.trim_end(), self.stderr.trim_end())
    }
}

impl Outcome {
    /// How a command ended that ran in another process's place.
    pub(crate) fn told(command: String, code: Option<i32>, [stdout, stderr]: [String; 2], lab: &Path) -> Self {
        Self { command, code, stdout, stderr, lab: lab.to_owned() }
    }

    /// Fails with everything that may explain it, unless the command ended with this code.
    #[track_caller]
    pub fn expect(&self, code: i32) -> &Self {
        assert!(self.code == Some(code), "expected code {code}\n{self}{}", crate::scene::scene(&self.lab));
        self
    }

    /// Fails unless the command exited 0.
    #[track_caller]
    pub fn expect_success(&self) -> &Self {
        self.expect(0)
    }

    /// Fails unless one of the streams holds this text.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        let said = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(said, "expected {text:?}\n{self}{}", crate::scene::scene(&self.lab));
        self
    }
}

/// Runs a command to its end, or fails at the deadline with what it said until then.
pub fn run(command: &mut Command, lab: &Path) -> Outcome {
    Running::start(command, lab).finish()
}

/// A command under way, its streams being collected.
pub struct Running {
    child: Child,
    command: String,
    streams: [thread::JoinHandle<String>; 2],
    lab: PathBuf,
}

impl Running {
    /// Starts a command without input.
    pub fn start(command: &mut Command, lab: &Path) -> Self {
        let text = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {text}: {error}"));
        let streams = [
            collect(child.stdout.take().expect("a piped stream")),
            collect(child.stderr.take().expect("a piped stream")),
        ];
        Self { child, command: text, streams, lab: lab.to_owned() }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("an own child").is_some()
    }

    /// Waits for the end; at the deadline kills it and fails.
    pub fn finish(mut self) -> Outcome {
        let status = poll(DEADLINE, || self.child.try_wait().expect("an own child"));
        if status.is_none() {
            self.child.kill().expect("an own child");
        }
        // A grandchild that keeps the streams open would hang the test here: it is found and ended with the lab.
        let [stdout, stderr] = self.streams.map(|stream| {
            poll(DEADLINE, || stream.is_finished().then_some(())).expect("the command's streams close when it ends");
            stream.join().expect("a thread that only reads")
        });
        let code = status.and_then(|status| status.code());
        let outcome = Outcome { command: self.command, code, stdout, stderr, lab: self.lab };
        assert!(status.is_some(), "not done within {DEADLINE:?}\n{outcome}{}", crate::scene::scene(&outcome.lab));
        outcome
    }
}

fn collect(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an own pipe");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Sends a signal; that the process is gone already is no failure.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().expect("a pid")).expect("not process 0");
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("could not send {signal:?} to process {pid:?}: {error}"),
    }
}

/// A process as /proc shows it.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its executable's short name.
    pub name: String,
    /// Its command line, words separated by spaces.
    pub command_line: String,
}

impl Process {
    /// Whether it takes packages on a target: the script for a stream of them, the receiver as long as there is a connection.
    pub fn receives(&self) -> bool {
        ["receive_package", "blat-receiver"].iter().any(|name| self.command_line.contains(name))
    }
}

/// The living processes that `marked` with this text: in their environment, or where that is overwritten (ssh does it
/// for its title) on their command line. Zombies have neither.
pub fn processes_marked(mark: &str) -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc is there");
    let mut found: Vec<Process> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            let read = |what: &str| fs::read(format!("/proc/{pid}/{what}")).ok();
            let words = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace('\0', " ");
            let command_line = words(read("cmdline")?);
            let marked = command_line.contains(mark) || words(read("environ")?).contains(mark);
            let name = words(read("comm")?).trim_end().to_owned();
            marked.then_some(Process { pid, name, command_line })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// Whether a process lives; a zombie does not.
pub fn lives(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// The processor time that a living process has used until now, in user and system mode.
pub fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_else(|error| panic!("process {pid}: {error}"));
    // The fields after the name, which may hold anything; user and system time are the 14th and 15th of all.
    let fields = stat.rsplit_once(") ").expect("the form that Linux gives").1.split(' ');
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    // A hundredth of a second each, on every Linux that runs programs of today.
    Duration::from_millis(ticks * 10)
}

/// The memory that a living process holds now, in bytes.
pub fn memory(pid: u32) -> u64 {
    in_status(pid, "VmRSS:")
}

/// The memory that a living process holds now for itself alone, in bytes: neither its executable's pages nor other files'.
pub fn own_memory(pid: u32) -> u64 {
    in_status(pid, "RssAnon:")
}

/// The most memory that a living process ever held, in bytes.
pub fn most_memory(pid: u32) -> u64 {
    in_status(pid, "VmHWM:")
}

/// How often a living process has gone to sleep of its own accord until now, all its threads together: each time it had woken before.
pub fn wakes(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap_or_else(|error| panic!("process {pid}: {error}"));
    // A thread may end while they are looked at.
    let statuses = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let count = |status: String| value(&status, "voluntary_ctxt_switches:")?.parse::<u64>().ok();
    statuses.filter_map(count).sum()
}

fn value<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

fn in_status(pid: u32, key: &str) -> u64 {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).unwrap_or_else(|error| panic!("could not read {path}: {error}"));
    let line = value(&status, key).unwrap_or_else(|| panic!("no {key} in {path}"));
    let kib: u64 = line.trim_end_matches(" kB").parse().expect("a number of KiB");
    kib << 10
}
