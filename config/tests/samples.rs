//! Every shipped sample must parse; every invalid one must be refused with just the words that stand in `NAME.expected` beside it.
//!
//! `BLESS=1 cargo test -p blat-config` writes those files anew: read the difference before it is committed.

use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blat_config::{
    Database, Demands, Home, Mode, Queries, Receiver, ReleaseManager, ReleaseSource, S3Settings, Transport, conflicts,
    load_master, load_target, samples,
};
use blat_domain::flow::bandwidth::{Bandwidth, Day, RateWindow};
use blat_domain::package::name::TargetName;
use blat_domain::policy::release::ReleaseKey;
use proptest::prelude::*;

struct Tree {
    _directory: tempfile::TempDir,
    home: Home,
}

impl Tree {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a scratch directory");
        fs::create_dir(directory.path().join("config")).expect("config/");
        let home = Home::locate(Some(directory.path())).expect("a home tree");
        Self { _directory: directory, home }
    }

    fn with(files: &[(&str, &[u8])]) -> Self {
        let tree = Self::new();
        for (name, content) in files {
            fs::write(tree.home.config_dir().join(name), content).expect(name);
        }
        tree
    }
}

fn name(text: &str) -> TargetName {
    text.parse().expect("a target name")
}

fn invalid_samples() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/invalid");
    let entries = fs::read_dir(directory).expect("the samples");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    paths.sort();
    paths
}

#[test]
fn every_shipped_sample_parses() {
    let shipped =
        [("perth", samples::TARGET), ("full", samples::FULL), ("local", samples::LOCAL), ("bucket", samples::BUCKET)];
    for (target, text) in shipped {
        let file = format!("{target}.conf");
        for defaults in [samples::MASTER, ""] {
            let tree = Tree::with(&[(&file, text.as_bytes()), ("blat.yaml", defaults.as_bytes())]);
            load_target(&tree.home, &name(target)).unwrap_or_else(|complaints| panic!("{target}:\n{complaints}"));
            load_master(&tree.home).unwrap_or_else(|complaints| panic!("blat.yaml:\n{complaints}"));
        }
    }
}

#[test]
fn every_invalid_sample_is_refused_in_the_expected_words() {
    let samples = invalid_samples();
    assert!(samples.len() >= 55, "only {} samples found", samples.len());
    let mut wrong = String::new();
    for path in samples {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        let tree = Tree::with(&[(&format!("{stem}.conf"), &fs::read(&path).expect("a sample"))]);
        let said = match load_target(&tree.home, &name(stem)) {
            Ok(_) => "accepted\n".to_owned(),
            Err(complaints) => format!("{complaints}\n"),
        };
        let expected = path.with_extension("expected");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &said).expect("blessed");
        }
        if said == "accepted\n" || fs::read_to_string(&expected).ok().as_ref() != Some(&said) {
            wrong.push_str(&format!("--- {stem}\n{said}\n"));
        }
    }
    assert!(wrong.is_empty(), "not as expected:\n{wrong}");
}

#[test]
fn a_targets_own_key_wins_over_the_defaults() {
    let tree = Tree::with(&[
        ("blat.yaml", b"defaults: {source: /default, verbose: 3, host: d}\n"),
        ("perth.conf", b"source: own\nhost: p\n"),
    ]);
    let settings = load_target(&tree.home, &name("perth")).expect("valid");
    assert_eq!(settings.source, tree.home.root().join("own"));
    assert_eq!(settings.verbose, 3);
}

#[test]
fn a_bucket_ignores_what_the_defaults_say_for_hosts_and_takes_only_s3sync_releases() {
    let defaults = b"defaults: {source: /a, user: someone, transport: libssh2, disk_reserve: 1g, s3: {bucket: abc, region: eu-west-1}}\n";
    let own = b"type: s3Sync\ns3: {bucket: abc, prefix: /x/y/, endpoint: 'http://127.0.0.1:1/', path_style: true}\n";
    let tree = Tree::with(&[("blat.yaml", defaults), ("cloud.conf", own), ("perth.conf", b"host: p\n")]);
    let settings = load_target(&tree.home, &name("cloud")).expect("valid");
    let s3 = S3Settings {
        bucket: "abc".into(),
        prefix: "x/y".into(),
        region: None,
        endpoint: Some("http://127.0.0.1:1".into()),
        path_style: Some(true),
        demands: Demands::default(),
    };
    assert_eq!((settings.kind().to_string().as_str(), settings.transport), ("s3Sync", Transport::S3(s3)));
    assert!(settings.selection.only_s3sync);
    let host = load_target(&tree.home, &name("perth")).expect("a host ignores the bucket among the defaults");
    assert_eq!((host.kind().to_string().as_str(), host.selection.only_s3sync), ("dpkg_archive", false));
}

#[test]
fn a_complaint_about_a_default_names_the_masters_file() {
    let tree = Tree::with(&[("blat.yaml", b"defaults:\n  sync: soon\n"), ("perth.conf", b"source: /a\nhost: p\n")]);
    let complaints = load_target(&tree.home, &name("perth")).expect_err("a bad default");
    assert_eq!(complaints.list()[0].path, Path::new("config/blat.yaml"));
    assert_eq!(complaints.list()[0].place.expect("a place").line, 2);
}

#[test]
fn versions_keep_their_zeros_and_numbers_are_releases() {
    let text = b"source: /a\ntransport: local\npkg: {tools: [1.10, 012, 1e3]}\nreleases: [4711, '4712', Perth 7.1]\n\
        release_manager: {file: r.yaml}\n";
    let tree = Tree::with(&[("perth.conf", text)]);
    let settings = load_target(&tree.home, &name("perth")).expect("valid");
    let pinned: Vec<String> = settings.selection.pinned.iter().map(ToString::to_string).collect();
    assert_eq!(pinned, ["tools@012", "tools@1.10", "tools@1e3"]);
    let releases: Vec<String> = settings.selection.releases.iter().map(ToString::to_string).collect();
    assert_eq!(releases, ["4711", "4712", "\"Perth 7.1\""]);
    assert_eq!(settings.transport, Transport::Local);
}

#[test]
fn files_that_are_no_files_never_hold_anybody_up() {
    let tree = Tree::new();
    let config = tree.home.config_dir();
    rustix::fs::mkfifoat(rustix::fs::CWD, config.join("pipe.conf"), 0o644.into()).expect("a FIFO");
    fs::create_dir(config.join("directory.conf")).expect("a directory");
    fs::File::create(config.join("large.conf")).expect("a file").set_len(1 << 30).expect("1 GiB");
    fs::write(config.join("latin.conf"), b"source: /a\nhost: \xe9\n").expect("a file");
    for (target, why) in [
        ("pipe", "named pipe"),
        ("directory", "a directory"),
        ("large", "larger than"),
        ("latin", "line 2"),
        ("gone", "missing"),
    ] {
        let complaints = load_target(&tree.home, &name(target)).expect_err(target).to_string();
        assert!(complaints.contains(why), "{complaints}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_told_and_is_not_a_missing_one() {
    let tree = Tree::with(&[("perth.conf", b"source: /a\nhost: p\n")]);
    // A link to itself cannot be opened by anybody, root included.
    std::os::unix::fs::symlink("blat.yaml", tree.home.master_config()).expect("a link");
    for complaints in [load_target(&tree.home, &name("perth")).err(), load_master(&tree.home).err()] {
        let complaints = complaints.expect("unreadable").to_string();
        assert!(complaints.starts_with("error: cannot read the file") && complaints.contains("config/blat.yaml"));
    }
}

#[test]
fn the_masters_file_is_optional_and_is_refused_with_all_its_complaints() {
    let tree = Tree::new();
    assert_eq!(load_master(&tree.home), Ok(blat_config::MasterSettings::default()));
    let text = b"verbose: 4\nlog: {keep: 2, max: lots}\nhttp: 127.0.0.1:7817\nsource: /a\nbandwith: 0\n";
    let tree = Tree::with(&[("blat.yaml", text)]);
    let complaints = load_master(&tree.home).expect_err("wrong in five ways");
    let lines: Vec<(usize, &str)> = complaints
        .list()
        .iter()
        .map(|complaint| (complaint.place.expect("a place").line, complaint.message.as_str()))
        .collect();
    assert_eq!(lines.len(), 5, "{complaints}");
    assert_eq!(lines[2], (3, "http is not available yet"));
    assert_eq!(lines[3], (4, "source belongs below defaults:, or to one target's own file"));
    assert_eq!(lines[4], (5, "unknown key \"bandwith\""));
}

#[test]
fn defaults_are_checked_but_for_what_a_target_says_itself() {
    let defaults = b"defaults: {source: /d, soruce: /e, verbose: 9, port: 0}\n";
    let tree = Tree::with(&[("blat.yaml", defaults), ("perth.conf", b"host: p\nport: 22\n")]);
    let complaints = load_target(&tree.home, &name("perth")).expect_err("two bad defaults");
    let messages: Vec<&str> = complaints.list().iter().map(|complaint| complaint.message.as_str()).collect();
    assert_eq!(messages, ["unknown key \"soruce\"; did you mean \"source\"?", "\"9\" is not valid here"]);
}

#[test]
fn what_is_not_given_has_the_documented_defaults() {
    let tree = Tree::with(&[("perth.conf", b"source: archive\nhost: p\n")]);
    let settings = load_target(&tree.home, &name("perth")).expect("valid");
    let root = tree.home.root();
    let Transport::Openssh(ssh) = &settings.transport else { panic!("ssh is the default") };
    assert_eq!((ssh.port, ssh.user.as_str()), (22, "pkgadmin"));
    assert_eq!((&ssh.identity, &ssh.known_hosts), (&root.join("ssh/id_ed25519"), &root.join("ssh/known_hosts")));
    assert_eq!((settings.archive.as_str(), settings.bin.as_str()), ("dpkg_archive", "bin"));
    assert_eq!((settings.source, settings.tags), (root.join("archive"), root.join("tags/perth")));
    let seconds = [settings.tag_poll, settings.sync, settings.writable].map(|duration| duration.as_secs());
    assert_eq!(seconds, [5, 4 * 3_600, 86_400]);
    assert_eq!((settings.disk_reserve, settings.log.max, settings.log.keep), (512 << 20, 10 << 20, 5));
    assert_eq!((settings.verbose, settings.release_manager, settings.receiver), (1, None, Receiver::Auto));
}

#[test]
fn values_that_mean_what_is_in_force_are_accepted() {
    let text =
        b"source: /a\nhost: p\ntype: dpkg_archive\naging: none\nmax_size: 0\nbandwidth: 0k\nreceiver: builds/r\n\
        release_manager: {file: r.yaml, mode: strict}\nreleases: 4711\nsync: 012\nuser: no\nwritable: 0\n";
    let tree = Tree::with(&[("perth.conf", text)]);
    let settings = load_target(&tree.home, &name("perth")).unwrap_or_else(|complaints| panic!("{complaints}"));
    assert_eq!((settings.sync.as_secs(), settings.writable.as_secs()), (12, 0));
    assert_eq!(settings.receiver, Receiver::Build(tree.home.root().join("builds/r")));
    let source = ReleaseSource::File { path: tree.home.root().join("r.yaml") };
    let manager = ReleaseManager { source, mode: Mode::Strict, timeout: Duration::from_secs(60) };
    assert_eq!(settings.release_manager, Some(manager));
    assert!(matches!(&settings.transport, Transport::Openssh(ssh) if ssh.user == "no"));
}

#[test]
fn a_bandwidth_is_a_size_a_second_or_windows() {
    let bandwidth = |value: &str| {
        let tree = Tree::with(&[("perth.conf", format!("source: /a\nhost: p\n{value}\n").as_bytes())]);
        load_target(&tree.home, &name("perth")).unwrap_or_else(|complaints| panic!("{complaints}")).bandwidth
    };
    assert_eq!(bandwidth(""), Bandwidth::Always(None));
    assert_eq!(bandwidth("bandwidth: 0"), Bandwidth::Always(None));
    assert_eq!(bandwidth("bandwidth: 2m"), Bandwidth::Always(NonZeroU64::new(2 << 20)));
    let time = |text: &str| text.parse().expect("a time");
    let window = |from, to, days: Vec<Day>, rate| {
        RateWindow::new(time(from), time(to), days, NonZeroU64::new(rate)).expect("a window")
    };
    let windows =
        "bandwidth:\n- {from: 08:00, to: '18:00', days: [mon, sun], rate: 1}\n- {from: '22:00', to: '06:00', rate: 0}";
    let days = ["mon", "sun"].map(|day| day.parse().expect("a day")).to_vec();
    let read = vec![window("08:00", "18:00", days, 1 << 10), window("22:00", "06:00", Day::all(), 0)];
    assert_eq!(bandwidth(windows), Bandwidth::Windows(read));
}

#[test]
fn a_config_that_says_nothing_is_no_target_whatever_the_defaults_say() {
    let all = b"defaults: {source: /a, transport: local, archive: /b, bin: /c}\n";
    for text in ["", "# nothing yet\n\n", "\u{feff}", "---\n", "~\n", "{}\n", "\r\n# host: p\r\n"] {
        for defaults in [&b""[..], b"verbose: 2\n", b"defaults: {source: /a}\n", b"defaults:\n", all] {
            let tree = Tree::with(&[("blat.yaml", defaults), ("perth.conf", text.as_bytes())]);
            let complaints = load_target(&tree.home, &name("perth")).expect_err("an empty file");
            let about = |complaint: &&blat_config::Complaint| complaint.path == Path::new("config/perth.conf");
            assert_eq!(
                complaints.list().iter().filter(about).count(),
                complaints.list().len(),
                "{text:?}: {complaints}"
            );
            let is_said = |message: &str| complaints.list().iter().any(|complaint| complaint.message == message);
            assert!(is_said("the file is empty: it has no key, or comments alone"), "{complaints}");
            assert_eq!(is_said("host is missing"), defaults != all, "{text:?}: {complaints}");
        }
    }
}

#[test]
fn without_a_host_nothing_is_taken_for_this_machine() {
    // On this machine, this archive and this source would be in each other's way.
    for text in
        ["archive: /a/b\n", "archive: /a/b\ntransport: libssh2\n", "archive: /a/b\ntransport: openssh\nhost: '-x'\n"]
    {
        let tree = Tree::with(&[("blat.yaml", b"defaults: {source: /a}\n"), ("perth.conf", text.as_bytes())]);
        let complaints = load_target(&tree.home, &name("perth")).expect_err("no host");
        assert_eq!(complaints.list().len(), 1, "{complaints}");
        assert_eq!(complaints.list()[0].path, Path::new("config/perth.conf"));
    }
}

#[test]
fn what_may_stand_in_a_file_that_cannot_be_read_is_not_said_to_be_missing() {
    let own = b"releases: [4711]\nverbose: 2\n";
    for (defaults, line) in [
        ("defaults: {source: /a\n", Some(1)),
        ("# x\ndefaults: all\n", Some(2)),
        ("verbose: 1\n\tx: 1\n", Some(1)),
        ("a\0b", None),
    ] {
        let tree = Tree::with(&[("blat.yaml", defaults.as_bytes()), ("perth.conf", own)]);
        let complaints = load_target(&tree.home, &name("perth")).expect_err("bad defaults");
        assert_eq!(complaints.list().len(), 1, "{complaints}");
        assert_eq!(complaints.list()[0].path, Path::new("config/blat.yaml"));
        assert!(line.is_none() || complaints.list()[0].place.map(|place| place.line) == line, "{complaints}");
    }
    let tree = Tree::with(&[("blat.yaml", b"defaults: {source: /a, host: p}\n"), ("perth.conf", b"- host\n")]);
    let complaints = load_target(&tree.home, &name("perth")).expect_err("a list").to_string();
    assert!(complaints.contains("perth.conf:1:1") && !complaints.contains("missing"), "{complaints}");
}

/// The way to a target of these keys.
fn way(lines: &str) -> blat_config::SshSettings {
    let text = format!("source: /a\n{lines}\n");
    let tree = Tree::with(&[("perth.conf", text.as_bytes())]);
    let settings = load_target(&tree.home, &name("perth")).unwrap_or_else(|complaints| panic!("{complaints}"));
    settings.transport.ssh().expect("by ssh").clone()
}

#[test]
fn hosts_and_users_are_taken_as_a_person_writes_them_in_yaml() {
    for (value, host) in [
        ("[::1]", "::1"),
        ("\"[::1]\"", "::1"),
        ("::1", "::1"),
        ("[fe80::1%eth0]", "fe80::1%eth0"),
        ("10.1", "10.0.0.1"),
        ("2024", "0.0.7.232"),
        ("no", "no"),
    ] {
        assert_eq!(way(&format!("host: {value}")).host, host, "{value}");
    }
    for (value, user) in [
        ("EXAMPLE\\pkgadmin", "EXAMPLE\\pkgadmin"),
        ("'A\\b'", "A\\b"),
        ("a@example.com", "a@example.com"),
        ("012", "012"),
    ] {
        assert_eq!(way(&format!("host: p\nuser: {value}")).user, user, "{value}");
    }
    for value in ["[a]", "[::1, ::2]", "[]", "[[::1]]"] {
        let text = format!("source: /a\nhost: {value}\n");
        let tree = Tree::with(&[("perth.conf", text.as_bytes())]);
        let complaints = load_target(&tree.home, &name("perth")).expect_err(value).to_string();
        assert!(complaints.contains("this is a list"), "{complaints}");
    }
}

#[test]
fn keys_of_the_accounts_own_are_named_as_for_ssh() {
    let ssh = way("host: p\nidentity: ~/.ssh/id_ed25519\nknown_hosts: ~//a b");
    assert!(ssh.identity.is_absolute() && ssh.identity.ends_with(".ssh/id_ed25519"), "{ssh:?}");
    assert_eq!(ssh.known_hosts.file_name(), Some("a b".as_ref()));
    assert_eq!(ssh.known_hosts.parent(), ssh.identity.parent().and_then(Path::parent));
    for lines in ["identity: ~root/x", "identity: ~/", "source: ~/a", "tags: ~/t"] {
        let tree = Tree::with(&[("blat.yaml", b"defaults: {source: /a, host: p}\n"), ("perth.conf", lines.as_bytes())]);
        load_target(&tree.home, &name("perth")).expect_err(lines);
    }
}

#[test]
fn a_release_is_an_id_or_a_name_or_one_of_the_two() {
    let selection = |value: &str| {
        let text = format!("source: /a\nhost: p\nrelease_manager: {{file: r.yaml}}\nreleases: {value}\n");
        let tree = Tree::with(&[("perth.conf", text.as_bytes())]);
        load_target(&tree.home, &name("perth")).map(|settings| settings.selection.releases)
    };
    let named = |text: &str| ReleaseKey::Name(text.into());
    for (value, key) in [
        ("2024", ReleaseKey::Id(2024)),
        ("['2024']", ReleaseKey::Id(2024)),
        ("[{id: 2024}]", ReleaseKey::OnlyId(2024)),
        ("{name: 2024}", named("2024")),
        ("[02024]", named("02024")),
        ("[+1]", named("+1")),
        ("[1e3]", named("1e3")),
        ("[2024.10]", named("2024.10")),
        ("[Zu\u{308}rich]", named("Z\u{fc}rich")),
    ] {
        assert_eq!(selection(value).unwrap_or_else(|complaints| panic!("{complaints}")), [key], "{value}");
    }
    for value in ["[{}]", "[{id: 1, name: x}]", "[{id: x}]", "[{id: 01}]", "[{nam: x}]", "[[1]]", "[{name: ''}]"] {
        selection(value).expect_err(value);
    }
}

/// What `release_manager` says, in a target that is right for the rest.
fn manager(value: &str) -> ReleaseManager {
    let text = format!("source: /a\nhost: p\nrelease_manager: {value}\n");
    let tree = Tree::with(&[("perth.conf", text.as_bytes())]);
    let settings = load_target(&tree.home, &name("perth")).unwrap_or_else(|complaints| panic!("{complaints}"));
    let root = format!("{}/", tree.home.root().display());
    let mut manager = settings.release_manager.expect("a release_manager");
    if let ReleaseSource::Command { argv } = &mut manager.source {
        argv.iter_mut().for_each(|word| *word = word.replace(&root, "HOME/"));
    }
    manager
}

#[test]
fn every_documented_source_is_read() {
    let queries = Queries { packages: Some("SELECT * FROM p".into()), ..Queries::default() };
    let url = || "postgres://blat@db/rm?sslmode=verify-full".to_owned();
    let value = "{postgres: 'postgres://blat@db/rm?sslmode=verify-full', password_file: /etc/pw, timeout: 5m, \
        mode: fallback, queries: {packages: ' SELECT * FROM p ;'}}";
    assert_eq!(
        manager(value),
        ReleaseManager {
            source: ReleaseSource::Postgres(Database { url: url(), password_file: Some("/etc/pw".into()), queries }),
            mode: Mode::Fallback,
            timeout: Duration::from_secs(300),
        }
    );
    let argv = |words: &[&str]| ReleaseSource::Command { argv: words.iter().map(ToString::to_string).collect() };
    assert_eq!(
        manager("{command: [oracle2json, --all, 'a b', '']}").source,
        argv(&["oracle2json", "--all", "a b", ""])
    );
    assert_eq!(manager("{command: [bin/list, bin/x]}").source, argv(&["HOME/bin/list", "bin/x"]));
    assert_eq!(manager("{package_list: /l}").source, ReleaseSource::PackageList { path: "/l".into() });
    assert!(matches!(manager("{mysql: mysql://db:3307/rm}").source, ReleaseSource::MySql(_)));
}

#[test]
fn a_name_that_is_the_masters_is_refused() {
    let tree = Tree::with(&[("blatd.conf", b"source: /a\nhost: p\n")]);
    let complaints = load_target(&tree.home, &name("blatd")).expect_err("its pid file is the master's").to_string();
    assert!(complaints.contains("no target can be named blatd"), "{complaints}");
}

#[test]
fn a_file_that_is_wrong_in_every_line_is_refused_in_a_few_words() {
    let flood: String = (0..10_000).map(|n| format!("wrong_{n}:\n")).collect();
    let tree = Tree::with(&[("x.conf", flood.as_bytes())]);
    let complaints = load_target(&tree.home, &name("x")).expect_err("a flood");
    assert_eq!(complaints.list().len(), 100);
    assert!(complaints.to_string().len() < 100_000);
}

/// What [`conflicts`] says of targets that differ from a common one in these lines.
fn told(targets: &[(&str, &str)]) -> Vec<String> {
    let tree = Tree::new();
    let load = |(target, lines): &(&str, &str)| {
        let text = format!("source: /a\n{lines}\n");
        fs::write(tree.home.target_config(&name(target)), text).expect(target);
        load_target(&tree.home, &name(target)).unwrap_or_else(|complaints| panic!("{complaints}"))
    };
    conflicts(&targets.iter().map(load).collect::<Vec<_>>())
}

#[test]
fn two_targets_on_one_archive_are_told() {
    let same = "a and b are the same archive, /srv/x";
    assert_eq!(
        told(&[
            ("a", "host: h\narchive: /srv/x"),
            ("b", "host: H\nuser: else\narchive: /srv//x/."),
            ("c", "host: i\narchive: /srv/x"),
            ("d", "host: h\nport: 2222\narchive: /srv/x"),
            ("e", "transport: local\narchive: /srv/x"),
        ]),
        [same]
    );
    assert_eq!(told(&[("a", "host: h"), ("b", "host: h")]), ["a and b are the same archive, dpkg_archive"]);
    assert_eq!(told(&[("a", "host: h"), ("b", "host: h\nuser: else"), ("c", "host: h\narchive: x")]), [""; 0]);
    let local = "transport: local\narchive: /srv/x";
    assert_eq!(told(&[("a", local), ("b", local)]), [same]);
}

#[test]
fn two_targets_on_one_place_in_a_bucket_are_told() {
    let bucket = |prefix: &str| format!("type: s3Sync\ns3: {{bucket: abc, prefix: {prefix}}}");
    let (one, same, other) = (bucket("p/q"), bucket("/p/q/"), bucket("p"));
    let elsewhere = "type: s3Sync\ns3: {bucket: abc, prefix: p/q, endpoint: 'http://h'}";
    let all =
        [("a", &*one), ("b", &*same), ("c", &*other), ("d", elsewhere), ("e", "transport: local"), ("f", "host: h")];
    assert_eq!(told(&all), ["a and b are the same place, abc/p/q"]);
}

#[test]
fn an_archive_inside_another_and_a_shared_tag_directory_are_told() {
    let nested =
        [("a", "host: h\narchive: /srv/x/y"), ("b", "host: h\narchive: /srv/x"), ("c", "host: h\narchive: /srv/xy")];
    assert_eq!(told(&nested), ["a's archive /srv/x/y lies inside b's, /srv/x"]);
    let shared = [("a", "host: h\ntags: /t"), ("b", "host: i\ntags: /t")];
    assert_eq!(told(&shared), ["a and b share the tag directory /t: give each its own"]);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let tree = Tree::with(&[("x.conf", &bytes)]);
        let _ = load_target(&tree.home, &name("x"));
    }
}
