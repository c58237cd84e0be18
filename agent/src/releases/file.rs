//! `release_manager: {file: PATH}`, and reading what is given as a file.

use std::fs::Metadata;
use std::path::Path;

use blat_domain::policy::release::Catalog;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncReadExt;

use super::freshness::FileState;
use super::turns::LONG;

/// A database, or what is kept of one, is not larger than this.
pub(super) const LARGEST: u64 = 256 << 20;
/// A text larger than this is not a list of releases.
pub(super) const LARGEST_TEXT: u64 = 64 << 20;

/// Reads the whole catalog of an open file that was like this `before`, and gives how the file was then: nothing where it changed meanwhile.
pub(super) async fn load((file, before): (File, Metadata)) -> Result<(Catalog, Option<FileState>), String> {
    let (text, file) = text(file, &before).await?;
    let after = file.metadata().await.map_err(|error| error.to_string())?;
    let state = FileState::of(&before);
    let state = (state == FileState::of(&after)).then_some(state);
    Ok((blat_config::release_file::parse(&text)?, state))
}

/// The text of a regular file of bounded size.
pub(super) async fn read((file, before): (File, Metadata)) -> Result<String, String> {
    text(file, &before).await.map(|(text, _)| text)
}

fn too_large() -> String {
    format!("it is larger than {} MiB; leave out what no target selects", LARGEST_TEXT >> 20)
}

/// What is left to read of a file of bounded size, and the file. Of one that was short `before` no long text is read: a long one takes its turn first.
async fn text(file: File, before: &Metadata) -> Result<(String, File), String> {
    if before.len() > LARGEST_TEXT {
        return Err(too_large());
    }
    let mut text = String::new();
    let mut bounded = file.take(before.len().max(LONG));
    bounded.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
    expect_no_hole(&text)?;
    Ok((text, bounded.into_inner()))
}

/// A copy that is not done, and a disk that lost what was written, leave zeros where there will be text. Behind what ends a text they would mean nothing.
fn expect_no_hole(text: &str) -> Result<(), String> {
    let Some(at) = text.find('\0') else { return Ok(()) };
    let line = text[..at].matches('\n').count() + 1;
    Err(format!("it has a NUL character in line {line}: it was not written to its end; write it aside and rename it"))
}

/// A regular file, and what is known of it. Opening never waits, whatever takes the file's place: not for a named pipe's writer.
pub(super) async fn open(path: &Path) -> Result<(File, Metadata), String> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).await;
    let file = opened.map_err(|error| error.to_string())?;
    let found = file.metadata().await.map_err(|error| error.to_string())?;
    if found.is_file() { Ok((file, found)) } else { Err("it is not a regular file".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_a_file_that_was_short_when_it_was_opened_no_long_text_is_read() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("grows");
        std::fs::write(&path, "short").expect("an own file");
        let opened = open(&path).await.expect("a file");
        std::fs::write(&path, vec![b'x'; 3 << 20]).expect("an own file");
        assert_eq!(read(opened).await.expect("its text").len() as u64, LONG);
    }

    #[tokio::test]
    async fn a_file_that_ends_in_zeros_is_not_taken_for_whole() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("releases");
        let text = "projects:\n- {name: P, releases: [{id: 1, name: R, packages: [a@1]}]}\n...\n";
        for (rest, is_whole) in [("", true), ("\0\0\0", false), ("\n# \0\n", false), ("# half\0", false)] {
            std::fs::write(&path, format!("{text}{rest}")).expect("an own file");
            let loaded = load(open(&path).await.expect("a file")).await;
            let why = loaded.map(|(catalog, _)| assert_eq!(catalog.projects.len(), 1)).err();
            assert_eq!(why.is_none(), is_whole, "{rest:?}: {why:?}");
            assert!(why.is_none_or(|why| why.contains("NUL character in line") && why.contains("rename it")));
        }
    }

    #[tokio::test]
    async fn what_is_no_regular_file_is_refused_at_once() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let pipe = scratch.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o644.into()).expect("a FIFO");
        let large = scratch.path().join("large");
        std::fs::File::create(&large).and_then(|file| file.set_len(LARGEST_TEXT + 1)).expect("a sparse file");
        for (path, why) in
            [(&pipe, "not a regular file"), (&large, "larger than 64 MiB"), (&scratch.path().join("none"), "")]
        {
            let loaded = async { load(open(path).await?).await };
            assert!(loaded.await.expect_err("no list of releases").contains(why), "{}", path.display());
        }
    }
}
