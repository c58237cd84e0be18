//! The agent dies, or is refused what it needs, at each of its own steps: system calls are made to fail or to kill, one after the other.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Command;

use blat_tests::accounts::Account;
use blat_tests::process::{self, Running};
use blat_tests::{Lab, Outcome};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

/// More steps than one sync has.
const MOST_STEPS: usize = 400;

/// A target on which a sync sends one package, deletes another and keeps Release Manager's answer.
fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    for version in ["1", "2", "3"] {
        lab.package("core", version, |p| p.file("a", version));
    }
    lab.release(&[("core", "1"), ("core", "2")]);
    let source = format!("{{file: {}, mode: fallback}}", lab.home().join("releases.yaml").display());
    lab.config("perth", &format!("release_manager: {source}\naging: immediate\nmax_delete: 100%"));
    lab.agent_once("perth").expect_success();
    lab
}

/// `blat-agent --once` with something done to its system calls, which are counted in each of its threads and children by itself.
fn once_injected(lab: &Lab, calls: &str, what: &str) -> Outcome {
    let agent = lab.command("blat-agent");
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{what}")]);
    command.arg(agent.get_program()).args(agent.get_args()).args(["--target", "perth", "--once"]);
    command.env("BLAT_LAB", lab.home().parent().expect("the lab")).env_remove("BLAT_HOME");
    process::run(&mut command, &lab.home())
}

/// The other of two wanted sets, so that every sync has something to send and something to delete.
fn want(lab: &Lab, round: usize) -> [&'static str; 2] {
    let (other, package) = [("2", "core@2"), ("3", "core@3")][round % 2];
    lab.release(&[("core", "1"), ("core", other)]);
    ["core@1", package]
}

/// `blat-agent --once`, killed once its threads have made this many of these calls, all together; whether they made so many. Each thread is held
/// after each of them, so that none is further when the kill comes.
fn is_killed_after(lab: &Lab, calls: &str, step: usize) -> bool {
    let made = lab.home().with_file_name("calls");
    mknodat(CWD, &made, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    Account::Master.own(&made);
    let held = format!("inject={calls}:delay_exit=100000");
    let strace = ["strace", "-f", "-o", made.to_str().expect("a path"), "-e", &format!("trace={calls}"), "-e", &held]
        .map(str::to_owned);
    let strace: Vec<&str> = strace.iter().map(String::as_str).collect();
    let mut command = lab.command_below(&strace, "blat-agent");
    let agent = Running::start(command.args(["--target", "perth", "--once"]), &lab.home());

    let (mut count, mut was_killed) = (0, false);
    for line in BufReader::new(File::open(&made).expect("the pipe")).lines() {
        let line = line.expect("a line of strace");
        let (thread, call) = line.split_once(' ').expect("the thread, and what it did");
        let Some(process) = call.contains(" = ").then(|| process_of(thread)).flatten() else { continue };
        count += 1;
        if count == step {
            process::signal(process, Signal::KILL);
            was_killed = true;
        }
    }
    drop(agent.finish());
    fs::remove_file(&made).expect("the pipe is ours");
    was_killed
}

/// The agent that this thread belongs to; none where it belongs to a child.
fn process_of(thread: &str) -> Option<u32> {
    let of = Path::new("/proc").join(thread);
    fs::read_link(of.join("exe")).ok().filter(|exe| exe.ends_with("blat-agent"))?;
    let status = fs::read_to_string(of.join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// Everything that a sync renames, makes durable, removes, creates or writes at the master's side is a moment to die. What it writes counts with
/// what it tells other hosts and its own threads, which is much: one moment in so many serves.
#[test]
fn faults_long_the_agent_is_killed_at_each_step_of_its_own_and_the_next_one_completes() {
    let lab = lab("steps");
    for (calls, stride) in [
        ("rename,renameat,renameat2", 1),
        ("fsync,fdatasync,syncfs", 1),
        ("unlink,unlinkat", 1),
        ("mkdir,mkdirat", 1),
        ("write,writev,pwrite64", 7),
    ] {
        let mut kills = 0;
        for step in (1..).step_by(stride) {
            let wanted = want(&lab, kills);
            let was_killed = is_killed_after(&lab, calls, step);
            lab.assert_never_partial();
            if was_killed {
                lab.agent_once("perth").expect_success();
            }
            assert_eq!(lab.visible(), wanted, "{calls}, step {step}");
            if !was_killed {
                break;
            }
            kills += 1;
            assert!(kills < MOST_STEPS, "{calls}: no run came to its end");
        }
        println!("{calls}: killed {kills} times");
        assert!(kills > 0, "no sync uses {calls}: this shows nothing");
    }
    lab.wait_until_nothing_runs();
}

/// Without a thread there is no work: the agent says so and ends without a trace on the target.
#[test]
fn an_agent_that_may_make_no_thread_says_so_and_the_next_one_completes() {
    let lab = lab("threadless");
    let wanted = want(&lab, 1);
    let outcome = once_injected(&lab, "clone,clone3", "error=EAGAIN:when=1");
    outcome.expect(1).says("cannot make a thread").says("ulimit -u");
    lab.assert_never_partial();
    assert_eq!(lab.visible(), ["core@1", "core@2"], "nothing was begun");

    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible(), wanted);
}

/// From the Nth call on, in each thread and child by itself, there is no memory, or no descriptor: however far it came by then, what was sent is
/// whole, it ends by itself, and it says little.
fn runs_out(name: &str, calls: &str, error: &str, moments: &[usize]) {
    let lab = lab(name);
    let mut failed = 0;
    for (round, moment) in moments.iter().enumerate() {
        let wanted = want(&lab, round);
        let outcome = once_injected(&lab, calls, &format!("error={error}:when={moment}+"));
        lab.assert_never_partial();
        assert!(outcome.stderr.lines().count() < 100, "{error} from call {moment} on: {outcome}");
        failed += usize::from(outcome.code != Some(0));
        lab.agent_once("perth").expect_success();
        assert_eq!(lab.visible(), wanted, "{error} from call {moment} on: {outcome}");
    }
    assert!(failed > 0, "there was enough every time: this shows nothing");
    lab.wait_until_nothing_runs();
}

#[test]
fn an_agent_without_memory_ends_and_the_next_one_completes() {
    runs_out("memoryless", "mmap,mremap,brk", "ENOMEM", &[30, 60, 120]);
}

#[test]
fn an_agent_without_descriptors_ends_and_the_next_one_completes() {
    let calls = "openat,socket,socketpair,pipe2,eventfd2,epoll_create1,dup,dup3,fcntl,accept4,inotify_init1";
    runs_out("handleless", calls, "EMFILE", &[20, 60, 150]);
}
