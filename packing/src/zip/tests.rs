//! What was packed is read back by programs that know nothing of ours: `unzip`, and Python's own reader.

use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

use blat_domain::package::DESCPKG;

use super::*;

mod library;

/// A package in a scratch folder.
struct Scratch {
    dir: tempfile::TempDir,
    root: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let root = dir.path().join("p/1");
        fs::create_dir_all(&root).expect("a folder");
        fs::write(root.join(DESCPKG), "Package: p\n").expect("a file");
        Self { dir, root }
    }

    fn file(&self, name: &str, bytes: &[u8], mode: u32, time: u64) {
        let path = self.root.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, bytes).expect("a file");
        let file = File::options().write(true).open(&path).expect("a file");
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(time)).expect("a time");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
    }

    fn zip(&self) -> Result<(Vec<u8>, Zipped), ZipError> {
        let mut bytes = Vec::new();
        let zipped = zip(&self.opened(), &Progress::default(), self.dir.path(), &mut bytes)?;
        Ok((bytes, zipped))
    }

    fn opened(&self) -> Root {
        Root::open(self.dir.path(), &"p@1".parse().expect("a package")).expect("a package")
    }

    /// The package as a ZIP in a file beside it.
    fn packed(&self) -> (PathBuf, Zipped) {
        let (bytes, zipped) = self.zip().expect("a package that can be packed");
        let path = self.dir.path().join("package.zip");
        fs::write(&path, bytes).expect("a file");
        (path, zipped)
    }

    fn refused(&self) -> String {
        match self.zip() {
            Err(ZipError::Package(why)) => why,
            other => panic!("not refused for the package's sake: {other:?}"),
        }
    }
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("a program of the tests' set-up");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// What Python's reader says of each entry: name, method, mode, time, length; then whether all checksums are right.
fn listed(zip: &Path) -> String {
    let script = "import sys, zipfile\n\
        z = zipfile.ZipFile(sys.argv[1])\n\
        for i in z.infolist():\n\
        \x20   print(i.filename, i.compress_type, oct(i.external_attr >> 16), '%d-%d-%d %d:%d:%d' % i.date_time, i.file_size)\n\
        print('bad:', z.testzip())";
    output(Command::new("python3").args(["-c", script]).arg(zip))
}

/// Bytes that nothing makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let blocks = (0..length.div_ceil(32) as u64).map(|number| <[u8; 32]>::from(Sha256::digest(number.to_le_bytes())));
    let mut bytes: Vec<u8> = blocks.flatten().collect();
    bytes.truncate(length);
    bytes
}

#[test]
fn unzip_gives_back_contents_modes_links_times_and_empty_folders() {
    let scratch = Scratch::new();
    scratch.file("bin/tool", b"#!/bin/sh\n", 0o555, 1_709_208_001);
    scratch.file("größe \u{1f4e6}", &[b'x'; 300_000], 0o444, 1_600_000_000);
    scratch.file("secret", &noise(200_000), 0o600, 1_700_000_000);
    scratch.file("nothing", b"", 0o640, 1_700_000_000);
    symlink("bin/tool", scratch.root.join("to-tool")).expect("a link");
    symlink("/nowhere/at all", scratch.root.join("dangling")).expect("a link");
    fs::create_dir(scratch.root.join("empty")).expect("a folder");
    fs::set_permissions(scratch.root.join("empty"), Permissions::from_mode(0o750)).expect("a mode");
    let (path, zipped) = scratch.packed();

    let out = scratch.dir.path().join("out");
    // In another time zone than the packer's: times are exact all the same.
    output(
        Command::new("unzip")
            .env("TZ", "Asia/Kolkata")
            .env("LC_ALL", "C.UTF-8")
            .arg("-q")
            .arg(&path)
            .arg("-d")
            .arg(&out),
    );
    let tree = |root: &Path| {
        let mut lines = String::new();
        for entry in WalkDir::new(root).min_depth(1).sort_by_file_name() {
            let entry = entry.expect("an entry");
            let found = entry.metadata().expect("metadata");
            let time = if found.is_file() { found.mtime() } else { 0 };
            let content = match (found.is_file(), found.is_symlink()) {
                (true, _) => format!("{:x?}", Sha256::digest(fs::read(entry.path()).expect("a file"))),
                (_, true) => fs::read_link(entry.path()).expect("a link").display().to_string(),
                _ => String::new(),
            };
            let name = entry.path().strip_prefix(root).expect("below").display();
            lines.push_str(&format!("{name:?} {:o} {time} {content}\n", found.mode()));
        }
        lines
    };
    assert_eq!(tree(&scratch.root), tree(&out));
    assert_eq!(zipped.files, 5);
    assert_eq!(zipped.bytes, fs::metadata(&path).expect("a file").len());
    assert_eq!(zipped.digest, <[u8; 32]>::from(Sha256::digest(fs::read(&path).expect("a file"))));
}

#[test]
fn the_same_package_gives_the_same_bytes_wherever_and_whenever_it_lies() {
    let make = |backwards: bool| {
        let scratch = Scratch::new();
        let mut names = ["a/x", "a.txt", "a0", "b/c/d", "Z"];
        if backwards {
            names.reverse();
        }
        names.iter().for_each(|name| scratch.file(name, name.as_bytes(), 0o444, 1_700_000_000));
        for folder in ["a", "b", "b/c", "descpkg"] {
            let file = File::open(scratch.root.join(folder)).expect("an entry");
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).expect("a time");
        }
        scratch
    };
    let (one, other) = (make(false), make(true));
    let (bytes, zipped) = one.zip().expect("a package");
    assert_eq!(other.zip().expect("a package"), (bytes, zipped));
    let (path, _) = one.packed();
    let names: Vec<String> =
        listed(&path).lines().map(|line| line.split(' ').next().unwrap_or("").to_owned()).collect();
    assert_eq!(names, ["Z", "a.txt", "a/", "a/x", "a0", "b/", "b/c/", "b/c/d", "descpkg", "bad:"]);
}

/// What docs/s3.md says of times that do not fit, by the reader that it names.
#[test]
fn times_come_back_exactly_from_1970_to_2038_and_as_the_nearest_otherwise() {
    let scratch = Scratch::new();
    let times: [(i64, i64); 9] = [
        (-2_147_483_648, 315_532_800),
        (-1, 315_532_800),
        (0, 0),
        (315_532_799, 315_532_799),
        (2_147_483_647, 2_147_483_647),
        // From here on two seconds each, and never younger than the file. `unzip` takes 2100 for a leap year.
        (2_147_483_648, 2_147_483_648),
        (2_147_483_649, 2_147_483_648),
        (4_107_542_399, 4_107_542_398),
        (-9_000_000_000, 315_532_800),
    ];
    for (number, (time, _)) in times.iter().enumerate() {
        let path = scratch.root.join(format!("{number:02}"));
        fs::write(&path, "x").expect("a file");
        let span = Duration::from_secs(time.unsigned_abs());
        let moment = if *time < 0 { SystemTime::UNIX_EPOCH - span } else { SystemTime::UNIX_EPOCH + span };
        File::options().write(true).open(&path).and_then(|file| file.set_modified(moment)).expect("a time");
    }
    let (path, _) = scratch.packed();
    let out = scratch.dir.path().join("out");
    output(Command::new("unzip").env("TZ", "UTC").arg("-q").arg(&path).arg("-d").arg(&out));
    for (number, (time, expected)) in times.iter().enumerate() {
        let name = format!("{number:02}");
        let mtime = |root: &Path| fs::metadata(root.join(&name)).expect("a file").mtime();
        // Some file systems hold less than a ZIP: then there is nothing to see.
        if mtime(&scratch.root) == *time {
            assert_eq!(mtime(&out), *expected, "{time}");
        }
    }
}

#[test]
fn what_is_compressed_already_is_stored_whatever_it_is_called() {
    let scratch = Scratch::new();
    scratch.file("really.txt", &noise(400_000), 0o444, 1_700_000_000);
    scratch.file("text.zip", &[b'y'; 400_000], 0o444, 1_700_000_000);
    scratch.file("old", b"from before there were ZIPs", 0o444, 0);
    let (path, zipped) = scratch.packed();
    let said = listed(&path);
    assert!(said.contains("really.txt 0 0o100444 2023-11-14 22:13:20 400000"), "{said}");
    assert!(said.contains("text.zip 8 0o100444 2023-11-14 22:13:20 400000"), "{said}");
    assert!(said.contains("old 0 0o100444 1980-1-1 0:0:0 27"), "{said}");
    assert!(said.ends_with("bad: None\n"), "{said}");
    assert!(zipped.bytes < 410_000, "{zipped:?}");
}

#[test]
fn what_a_zip_cannot_keep_is_refused_by_name() {
    let scratch = Scratch::new();
    let pipe = scratch.root.join("pipe");
    output(Command::new("mkfifo").arg(&pipe));
    assert!(scratch.refused().contains("pipe is neither file, directory nor symbolic link"), "{}", scratch.refused());
    fs::remove_file(pipe).expect("a pipe");

    let odd = scratch.root.join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    fs::write(&odd, "").expect("a file");
    assert!(scratch.refused().contains("not named in UTF-8"), "{}", scratch.refused());
    fs::remove_file(odd).expect("a file");

    fs::remove_file(scratch.root.join(DESCPKG)).expect("a file");
    assert_eq!(scratch.refused(), "its descpkg vanished from the source");
}

#[test]
fn a_package_that_is_larger_than_an_object_is_refused_before_its_file_is_read() {
    let scratch = Scratch::new();
    let hole = File::create(scratch.root.join("hole")).expect("a file");
    // With its descpkg it is too large.
    hole.set_len(MOST_IN_OBJECT).expect("a file with a hole");
    assert!(scratch.refused().contains("more than 5.0 TiB"), "{}", scratch.refused());
}

#[test]
fn setuid_and_its_like_are_dropped() {
    let scratch = Scratch::new();
    scratch.file("su", b"x", 0o4755, 1_700_000_000);
    let (path, _) = scratch.packed();
    assert!(listed(&path).contains("su 0 0o100755 "), "{}", listed(&path));
}

/// Changes the package once some of the ZIP has been taken.
struct Meddler<'a>(&'a Path, u64);

impl Write for Meddler<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = File::options().write(true).open(self.0)?;
        file.set_len(self.1)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_spoils_the_zip() {
    for length in [0, 2_000_000] {
        let scratch = Scratch::new();
        scratch.file("big", &noise(1_000_000), 0o644, 1_700_000_000);
        let meddler = Meddler(&scratch.root.join("big"), length);
        let result = zip(&scratch.opened(), &Progress::default(), scratch.dir.path(), meddler);
        assert!(matches!(&result, Err(ZipError::Package(why)) if why.contains("big changed while")), "{result:?}");
    }
}

/// Hangs up; what comes after that is an error of ours.
struct HangsUp(bool);

impl Write for HangsUp {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        assert!(!self.0, "written to after an error");
        self.0 = true;
        Err(io::Error::from(io::ErrorKind::ConnectionReset))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_that_breaks_is_told_from_a_package_that_cannot_be_read() {
    let scratch = Scratch::new();
    scratch.file("big", &noise(1_000_000), 0o644, 1_700_000_000);
    let result = zip(&scratch.opened(), &Progress::default(), scratch.dir.path(), HangsUp(false));
    assert!(
        matches!(&result, Err(ZipError::Stream(error)) if error.kind() == io::ErrorKind::ConnectionReset),
        "{result:?}"
    );
}
