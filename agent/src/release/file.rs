//! `release_manager: {file: PATH}`, and reading what is given as a file.

use std::path::Path;

use blat_domain::release::Catalog;
use tokio::io::AsyncReadExt;

/// A file larger than this is not a list of releases.
pub(super) const LARGEST: u64 = 256 << 20;

/// Reads the whole catalog.
pub(super) async fn load(path: &Path) -> Result<Catalog, String> {
    blat_config::release_file::parse(&read(path).await?)
}

/// The text of a regular file of bounded size. It is opened only once it is known to be one: a named pipe would wait.
pub(super) async fn read(path: &Path) -> Result<String, String> {
    const IRREGULAR: &str = "it is not a regular file";
    let found = tokio::fs::metadata(path).await.map_err(|error| error.to_string())?;
    if !found.is_file() {
        return Err(IRREGULAR.into());
    }
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = tokio::fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path).await;
    let file = opened.map_err(|error| error.to_string())?;
    if !file.metadata().await.map_err(|error| error.to_string())?.is_file() {
        return Err(IRREGULAR.into());
    }
    let mut text = String::new();
    let read = file.take(LARGEST + 1).read_to_string(&mut text).await.map_err(|error| error.to_string())?;
    if read as u64 > LARGEST {
        return Err(format!("it is larger than {} MiB", LARGEST >> 20));
    }
    Ok(text)
}
