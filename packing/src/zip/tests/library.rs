//! Our ZIPs are those of the `zip` library, byte for byte: else what earlier versions sent would no longer be what the source gives.

use zip::write::{FullFileOptions, StreamWriter};
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::*;
use crate::zip::writer;

type Library<'a> = ZipWriter<StreamWriter<&'a mut Vec<u8>>>;

/// Of 2024-02-29 12:00:01.
const SECONDS: i64 = 1_709_208_001;

fn options(seconds: i64, mode: u32) -> FullFileOptions<'static, 'static> {
    let time = match seconds {
        SECONDS => DateTime::from_date_and_time(2024, 2, 29, 12, 0, 1).expect("a time"),
        i64::MIN..0 => DateTime::default(),
        _ => DateTime::from_date_and_time(2107, 12, 31, 23, 59, 58).expect("a time"),
    };
    let mut options = FullFileOptions::default().last_modified_time(time).unix_permissions(mode);
    if let Ok(exact) = i32::try_from(seconds) {
        let [a, b, c, d] = exact.to_le_bytes();
        options.add_extra_field(0x5455, [1, a, b, c, d], false).expect("an extra field");
    }
    options
}

fn stamp(seconds: i64) -> ZipTime {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    fs::create_dir_all(scratch.path().join("p/1")).expect("a folder");
    let root = Root::open(scratch.path(), &"p@1".parse().expect("a package")).expect("a package");
    ZipTime::of(&crate::walker::Stat { modified: (seconds, 5), ..*root.stat() })
}

fn by_us(fill: impl FnOnce(&mut writer::Writer<&mut Vec<u8>>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut ours = writer::Writer::new(Sink::new(&mut bytes), Spool::new("/nowhere"));
    fill(&mut ours);
    ours.finish().expect("memory takes it");
    bytes
}

fn by_library(fill: impl FnOnce(&mut Library<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut library = ZipWriter::new_stream(&mut bytes);
    fill(&mut library);
    library.finish().expect("memory takes it");
    bytes
}

#[test]
fn every_kind_of_entry_is_written_as_the_library_writes_it() {
    let contents = [Vec::new(), b"short".to_vec(), noise(300_000), b"a line as others\n".repeat(40_000)];
    for (name, seconds, mode) in
        [("plain", SECONDS, 0o644), ("größe/日本", -9_000_000_000, 0o555), ("x y", 9_000_000_000, 0o400)]
    {
        let stamp = stamp(seconds);
        let ours = by_us(|zip| {
            for (number, content) in contents.iter().enumerate() {
                for (deflated, large) in [(false, false), (true, false), (false, true), (true, true)] {
                    let name = format!("{name}{number}{deflated}{large}");
                    let kind = ZipKind::File { deflated, large };
                    let mut entry =
                        zip.begin(ZipHeader { name: &name, kind, permissions: mode, stamp }).expect("memory");
                    content.chunks(READ).for_each(|some| zip.add(&mut entry, some).expect("memory"));
                    zip.end(entry).expect("memory");
                }
            }
            let directory =
                zip.begin(ZipHeader { name, kind: ZipKind::Directory, permissions: mode, stamp }).expect("memory");
            zip.end(directory).expect("memory");
            let mut link =
                zip.begin(ZipHeader { name: "link", kind: ZipKind::Link, permissions: 0o777, stamp }).expect("memory");
            zip.add(&mut link, name.as_bytes()).expect("memory");
            zip.end(link).expect("memory");
        });
        let theirs = by_library(|zip| {
            for (number, content) in contents.iter().enumerate() {
                for (deflated, large) in [(false, false), (true, false), (false, true), (true, true)] {
                    let options = options(seconds, mode).large_file(large);
                    let options = match deflated {
                        true => options.compression_method(CompressionMethod::Deflated).compression_level(Some(3)),
                        false => options.compression_method(CompressionMethod::Stored),
                    };
                    zip.start_file(format!("{name}{number}{deflated}{large}"), options).expect("memory");
                    content.chunks(READ).for_each(|some| zip.write_all(some).expect("memory"));
                }
            }
            zip.add_directory(format!("{name}/"), options(seconds, mode)).expect("memory");
            zip.add_symlink("link", name, options(seconds, 0o777)).expect("memory");
        });
        assert!(ours == theirs, "{name}: {} and {} bytes", ours.len(), theirs.len());
    }
}

#[test]
fn more_entries_than_the_old_form_counts_are_written_as_the_library_writes_them() {
    for entries in [65_534, 65_535, 65_536] {
        let stamp = stamp(SECONDS);
        let ours = by_us(|zip| {
            for number in 0..entries {
                let name = &number.to_string();
                let entry = zip.begin(ZipHeader { name, kind: ZipKind::Directory, permissions: 0o755, stamp });
                zip.end(entry.expect("memory")).expect("memory");
            }
        });
        let theirs = by_library(|zip| {
            for number in 0..entries {
                zip.add_directory(format!("{number}/"), options(SECONDS, 0o755)).expect("memory");
            }
        });
        assert!(ours == theirs, "{entries}: {} and {} bytes", ours.len(), theirs.len());
    }
}
