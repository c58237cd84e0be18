//! A lab with a master and its three targets, and the means to put everything right.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blat_tests::disk::Disk;
use blat_tests::relay::Relay;
use blat_tests::s3_proxy::Proxy;
use blat_tests::{Account, Bucket, Dice, Lab, Store, accounts, process, tree};
use rustix::process::Signal;

use super::model::{Model, Package, Release, TARGETS};
use super::orders;

/// How long it may take until all is there once nothing goes wrong any more: a swallowed link is noticed after half a minute.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) struct World {
    pub(crate) model: Model,
    pub(crate) master: u32,
    pub(crate) relay: Relay,
    pub(crate) proxy: Proxy,
    pub(crate) bucket: Bucket,
    pub(crate) is_full: bool,
    /// How far the master's clock is ahead, for libfaketime; none where that is not installed.
    clock: Option<Clock>,
    _disk: Option<Disk>,
    pub(crate) lab: Lab,
}

struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl World {
    /// A master with three targets, none of which holds anything, and one release of one package.
    pub(crate) fn new(dice: &mut Dice) -> Self {
        process::carried_receiver();
        let mut lab = Lab::new("chaos");
        let bucket = Bucket::new(&mut lab, Store::SeaweedFs);
        let port = fs::read_to_string(lab.home().with_file_name("sshd").join("port")).expect("a started sshd");
        let relay = Relay::to(port.trim().parse().expect("a port"));
        let proxy = Proxy::to(bucket.port());
        let [_, hobart] = ["perth", "hobart"].map(|target| {
            let archive = archive_of(&lab, target);
            fs::create_dir_all(&archive).expect("a scratch folder");
            Account::Target.own(&archive);
            archive
        });
        let disk = accounts::is_root().then(|| Disk::mount(hobart, "size=64m"));
        let library = faketime();
        if library.is_none() {
            println!("no libfaketime here: no clock is set (apt-get install faketime)");
        }
        let clock = library.map(|library| Clock { library, file: lab.home().with_file_name("clock") });

        let mut model = Model::default();
        let first = model.new_package(dice);
        model.built.push(first.clone());
        model.releases.push(Release { open: true, packages: [first.clone()].into() });
        let mut world = Self { model, master: 0, relay, proxy, bucket, is_full: false, clock, _disk: disk, lab };
        orders::put_into_source(&world, &first, dice);
        world.set_clock(0);
        world.tell_releases();
        TARGETS.iter().for_each(|target| world.configure(target));
        world.start_master();
        world
    }

    /// Where a target keeps its packages; a bucket has no such place.
    pub(crate) fn archive(&self, target: &str) -> PathBuf {
        archive_of(&self.lab, target)
    }

    /// Writes a target's config as it should be.
    pub(crate) fn configure(&self, target: &str) {
        const OFTEN: &str = "sync: 5s\ntag_poll: 1s\nmax_delete: 100%";
        let pins = self.model.pins_of(target);
        let bin = self.lab.target_bin().with_file_name(format!("bin-{target}"));
        let (archive, bin, port) = (self.archive(target), bin.display(), self.relay.port);
        let archive = archive.display();
        match target {
            "perth" => self.lab.config(
                target,
                &format!(
                    "port: {port}\nknown_hosts: {}\narchive: {archive}\nbin: {bin}\nreceiver: auto\naging: immediate\n{OFTEN}\n{pins}",
                    self.known_hosts().display()
                ),
            ),
            "hobart" => self.lab.config(
                target,
                &format!("archive: {archive}\nbin: {bin}\nreceiver: never\naging: {{by: master, after: 10s}}\n{OFTEN}\n{pins}"),
            ),
            _ => self.bucket.config_through(
                self.proxy.port,
                &self.lab,
                target,
                &[],
                &format!("aging: immediate\n{OFTEN}\n{pins}\n"),
            ),
        }
    }

    /// The sshd's key, which is also that of the relay before it.
    fn known_hosts(&self) -> PathBuf {
        let path = self.lab.home().with_file_name("client").join("known_hosts_of_relay");
        if !path.exists() {
            let known = fs::read_to_string(path.with_file_name("known_hosts")).expect("what a started sshd has");
            let (_, key) = known.trim().split_once(' ').expect("a host and its key");
            fs::write(&path, format!("[127.0.0.1]:{} {key}\n", self.relay.port)).expect("a scratch folder");
            Account::Master.own(&path);
        }
        path
    }

    /// Release Manager's file says what the model does.
    pub(crate) fn tell_releases(&mut self) {
        self.lab.replace_releases(&self.model.releases_file());
        self.model.tagged.clear();
    }

    pub(crate) fn drop_tag(&mut self, target: &'static str, package: &Package) {
        self.lab.drop_tag(target, &package.0, &package.1);
        self.model.tagged.entry(target).or_default().insert(package.clone());
    }

    /// A file in a tag directory, dropped as a tag is.
    pub(crate) fn drop_file(&self, target: &str, name: &str, text: &str) {
        let folder = self.lab.home().join("tags").join(target);
        let aside = folder.join(format!(".{name}.tmp"));
        if fs::create_dir_all(&folder).and_then(|()| fs::write(&aside, text)).is_ok() {
            Account::Master.own(&folder);
            fs::rename(&aside, folder.join(name)).expect("a free name");
        }
    }

    pub(crate) fn start_master(&mut self) {
        self.master = match &self.clock {
            None => self.lab.start_master(),
            Some(Clock { library, file }) => {
                let library = format!("LD_PRELOAD={}", library.display());
                let file = format!("FAKETIME_TIMESTAMP_FILE={}", file.display());
                // Timers have to go on as they were: no machine's monotonic clock is ever set.
                let more = ["FAKETIME_DONT_FAKE_MONOTONIC=1", "FAKETIME_CACHE_DURATION=1"];
                self.lab.start_master_below(&["env", &library, &file, more[0], more[1]])
            }
        };
    }

    pub(crate) fn stop_master(&mut self) {
        self.lab.end_master(Signal::TERM).expect_success();
    }

    /// Sets the master's clock ahead by so many seconds of the machine's.
    pub(crate) fn set_clock(&self, seconds: i64) {
        if let Some(Clock { file, .. }) = &self.clock {
            let aside = file.with_extension("new");
            fs::write(&aside, format!("{seconds:+}\n"))
                .and_then(|()| fs::rename(&aside, file))
                .expect("a scratch folder");
        }
    }

    /// From here on nothing is wrong, and everything that was tagged or listed exists.
    pub(crate) fn put_right(&mut self, dice: &mut Dice) {
        self.set_clock(0);
        self.proxy.heals();
        self.relay.cut();
        if self.is_full {
            super::faults::fill_or_free(self, dice);
        }
        while !self.model.early.is_empty() {
            orders::build_tagged(self, dice);
        }
        TARGETS.iter().for_each(|target| self.configure(target));
        self.tell_releases();
    }

    /// Waits until each target holds what it should, which an operator would ask by `blat sync --wait`.
    pub(crate) fn wait_until_complete(&self, mut look: impl FnMut(&Self)) {
        let begun = Instant::now();
        for target in TARGETS {
            loop {
                let outcome = self.lab.blat(&["sync", target, "--wait"]);
                look(self);
                if outcome.code == Some(0) {
                    break;
                }
                assert!(begun.elapsed() < PATIENCE, "{target} is not complete after {PATIENCE:?}\n{outcome}");
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }

    /// What a target shows now.
    pub(crate) fn visible(&self, target: &str) -> Vec<Package> {
        let split = |name: &Path| {
            let mut parts = name.iter().map(|part| part.to_string_lossy().into_owned());
            Some((parts.next()?, parts.next()?))
        };
        if target == "cloud" {
            let keys = self.bucket.keys();
            let packages = keys.iter().filter_map(|key| key.strip_prefix("archive/")?.strip_suffix(".zip"));
            return packages.filter_map(|key| split(Path::new(key))).collect();
        }
        tree::visible_packages(&self.archive(target)).iter().filter_map(|path| split(path)).collect()
    }

    /// Fails unless what is wanted is there and the same as at the source, nothing is left over, and nothing runs.
    pub(crate) fn assert_whole(&self) {
        for target in ["perth", "hobart"] {
            let archive = self.archive(target);
            tree::assert_never_partial(&self.lab.source(), &archive);
            for room in ["stage", "trash"] {
                let left = fs::read_dir(archive.join(".dpkg_archive").join(room)).map_or(0, Iterator::count);
                assert_eq!(left, 0, "something is left in the {room} of {target}");
            }
        }
        for target in TARGETS {
            let there = self.visible(target);
            let missing: Vec<_> =
                self.model.wanted(target).into_iter().filter(|package| !there.contains(package)).collect();
            assert!(missing.is_empty(), "{target} lacks {missing:?}");
        }
        for (name, version) in self.model.wanted("cloud").iter().take(5) {
            self.bucket.assert_published(&self.lab, name, version);
        }
        assert_eq!(self.bucket.unfinished(), Vec::<String>::new(), "an upload is left");
        self.lab.wait_until_nothing_runs();
        assert_eq!(pids_of(&self.lab), Vec::<u32>::new(), "something runs on the target");
    }
}

/// What still runs on the target a moment after the last connection ended.
fn pids_of(lab: &Lab) -> Vec<u32> {
    let ended = process::poll(Duration::from_secs(20), || lab.remote_processes().is_empty().then_some(()));
    if ended.is_some() { Vec::new() } else { lab.remote_processes().iter().map(|process| process.pid).collect() }
}

fn archive_of(lab: &Lab, target: &str) -> PathBuf {
    lab.target_archive().with_file_name(format!("archive-of-{target}"))
}

/// The library that lets a process see another time, where it is installed.
fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())
}
