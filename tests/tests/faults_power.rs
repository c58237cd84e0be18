//! Power cuts of the target, in earnest: its file system is stopped with what it has not written lost, then mounted again.
//! Whatever the agent was told by then, every version is absent or whole afterwards, and the next sync completes.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use blat_tests::{Dice, Lab, process};

/// How often the power goes.
const ROUNDS: u64 = 14;

/// A file system on which the power is cut, as `mkfs` names it.
const SYSTEMS: [&str; 2] = ["ext4", "xfs"];

/// Stops the ext4 or xfs at `$ARGV[0]` as a power cut does: 1 with its journal written, 2 without.
const CUT: &str = r#"open(my $disk, "<", $ARGV[0]) or die "$!\n"; my $how = pack("L", $ARGV[1]);
    ioctl($disk, 0x8004587d, $how) or die "$!\n""#;

/// A file system of its own over the target's archive.
struct Disk {
    image: PathBuf,
    over: PathBuf,
}

impl Disk {
    fn mount(lab: &Lab, system: &str) -> Self {
        let disk = Self { image: lab.home().with_file_name("disk"), over: lab.target_archive() };
        let owner = fs::metadata(&disk.over).expect("the target's archive");
        fs::File::create_new(&disk.image).and_then(|file| file.set_len(320 << 20)).expect("an own file");
        let force = if system == "ext4" { "-F" } else { "-f" };
        must(Command::new(format!("mkfs.{system}")).args(["-q", force]).arg(&disk.image));
        disk.up();
        chown(&disk.over, Some(owner.uid()), Some(owner.gid())).expect("root may");
        fs::set_permissions(&disk.over, fs::Permissions::from_mode(0o755)).expect("root may");
        must(Command::new("sync").arg("-f").arg(&disk.over));
        disk
    }

    fn up(&self) {
        must(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.over));
    }

    /// The power goes: nothing more is written, and nothing that runs there survives. Then it comes back.
    fn cut(&self, lab: &Lab, how: &str) {
        must(Command::new("perl").args(["-e", CUT]).arg(&self.over).arg(how));
        lab.sshd("stop").expect_success();
        let unmounted = process::poll(process::DEADLINE, || {
            let status = Command::new("umount").arg(&self.over).status().expect("a command of every Linux");
            status.success().then_some(())
        });
        unmounted.expect("nothing uses the disk any longer");
        self.up();
        lab.sshd("start").expect_success();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nothing can be unmounted that stands still; it does only where a test failed.
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.over).stderr(Stdio::null()).status();
        if !Command::new("umount").arg("--lazy").arg(&self.over).status().is_ok_and(|status| status.success()) {
            eprintln!("could not unmount {}", self.over.display());
        }
    }
}

fn must(command: &mut Command) {
    let status = command.status().expect("a command of every Linux");
    assert!(status.success(), "{command:?} ended with {status}");
}

/// Packages of this round.
fn add_packages(lab: &Lab, round: u64, wanted: &mut Vec<(String, String)>) {
    let version = format!("1.{round}");
    lab.package("big", &version, |p| p.noise("a", 2 << 20).noise("b", 1 << 20));
    lab.package("files", &version, |p| (0..100).fold(p, |p, n| p.file(&format!("d{}/{n}", n % 7), [b'x'; 700])));
    wanted.extend(["big", "files"].map(|name| (name.to_owned(), version.clone())));
    lab.release(&wanted.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect::<Vec<_>>());
}

#[test]
fn as_root_faults_long_a_power_cut_at_any_moment_leaves_every_version_absent_or_whole() {
    SYSTEMS.iter().for_each(|system| comes_through("power", system, "never"));
}

#[test]
fn as_root_faults_long_a_power_cut_under_a_receiver_leaves_every_version_absent_or_whole() {
    SYSTEMS.iter().for_each(|system| comes_through("rpower", system, "auto"));
}

/// The power is cut in so many syncs that this kind of far end serves.
fn comes_through(name: &str, system: &str, receiver: &str) {
    let lab = Lab::new(name);
    let disk = Disk::mount(&lab, system);
    let (mut dice, mut wanted) = (Dice::cast(), Vec::new());
    lab.config("perth", &format!("disk_reserve: 0\nreceiver: {receiver}"));
    add_packages(&lab, 0, &mut wanted);
    lab.agent_once("perth").expect_success();
    add_packages(&lab, 1, &mut wanted);
    let start = Instant::now();
    lab.agent_once("perth").expect_success();
    let usual = start.elapsed();
    let mut cut_short = 0;
    for round in 2..2 + ROUNDS {
        add_packages(&lab, round, &mut wanted);
        let sync = lab.start_agent_once("perth");
        let moment = dice.moment(usual + Duration::from_millis(100));
        thread::sleep(moment);
        let answered = lab.home().join("state/history/perth.jsonl");
        let history = fs::read_to_string(&answered).unwrap_or_default();
        let acknowledged = history.lines().filter(|line| !line.contains("\"failed\"")).count();
        disk.cut(&lab, if round % 2 == 0 { "1" } else { "2" });
        let outcome = sync.finish();
        println!(
            "{system}, receiver: {receiver}, round {round}: after {moment:?} of {usual:?}: {:?}, {} are there",
            outcome.code,
            lab.visible().len()
        );
        cut_short += u32::from(outcome.code != Some(0));
        lab.assert_never_partial();
        assert!(
            lab.visible().len() >= acknowledged,
            "{acknowledged} were acknowledged before the power went\n{outcome}"
        );
        lab.agent_once("perth").expect_success();
    }
    assert!(cut_short > 0, "in {ROUNDS} rounds the sync was always done before");
    assert_eq!((lab.visible().len(), lab.package_list().len()), (wanted.len(), wanted.len()));
    lab.assert_never_partial();
    lab.blat(&["verify", "perth"]).expect_success();
}

/// A disk whose writers wait for ever, as a file server's does that is gone: that target is given up and named, the other one is served all the
/// while, and once the disk goes on, the same agent completes.
#[test]
fn as_root_faults_long_a_disk_that_hangs_is_given_up_and_holds_up_nobody_else() {
    let mut lab = Lab::new("hanging");
    let disk = Disk::mount(&lab, "ext4");
    lab.config("perth", "disk_reserve: 0");
    lab.config("sydney", &lab.own_archive("sydney"));
    add_packages(&lab, 0, &mut Vec::new());
    lab.start_master();
    let idle = |status: &serde_json::Value| status["state"] == "idle" && status["last_sync"]["result"] == "ok";
    let agent = lab.wait_for_status("perth", "idle", idle)["pid"].clone();
    lab.wait_for_status("sydney", "idle", idle);

    must(Command::new("fsfreeze").arg("--freeze").arg(&disk.over));
    lab.package("core", "1", |p| p.noise("a", 1 << 20));
    let tags = ["perth", "sydney"].map(|target| lab.drop_tag(target, "core", "1"));
    lab.wait_for("the other one to be served", || (!tags[1].exists()).then_some(()));
    let given_up = process::poll(process::DEADLINE * 4, || {
        lab.target_status("perth")["last_error"]["text"].as_str().map(str::to_owned)
    });
    println!("{}", given_up.expect("the disk is given up"));
    assert!(tags[0].exists(), "nothing can have been published");
    must(Command::new("fsfreeze").arg("--unfreeze").arg(&disk.over));
    let served = process::poll(process::DEADLINE * 4, || (!tags[0].exists()).then_some(()));
    served.expect("it is served once the disk goes on");
    lab.assert_published("core", "1");
    lab.assert_never_partial();
    assert_eq!(lab.target_status("perth")["pid"], agent, "no reason for an agent to end");
}
