//! Every shipped sample must parse; every invalid one must be refused with just the words that stand in `NAME.expected` beside it.
//!
//! `BLESS=1 cargo test -p blat-config` writes those files anew: read the difference before it is committed.

use std::fs;
use std::path::{Path, PathBuf};

use blat_config::{Home, Transport, conflicts, load_master, load_target, samples};
use blat_domain::name::TargetName;
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
    for (target, text) in [("perth", samples::TARGET), ("full", samples::FULL), ("local", samples::LOCAL)] {
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
    assert!(samples.len() >= 30, "only {} samples found", samples.len());
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
fn two_targets_on_one_archive_are_told() {
    let tree = Tree::with(&[
        ("a.conf", b"source: /a\nhost: h\narchive: /srv/x\n"),
        ("b.conf", b"source: /a\nhost: h\narchive: /srv//x/.\n"),
        ("c.conf", b"source: /a\nhost: i\narchive: /srv/x\n"),
    ]);
    let load = |target| load_target(&tree.home, &name(target)).expect("valid");
    assert_eq!(conflicts(&[load("a"), load("b"), load("c")]), ["a and b are the same archive, /srv/x"]);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let tree = Tree::with(&[("x.conf", &bytes)]);
        let _ = load_target(&tree.home, &name("x"));
    }
}
