//! `release_manager: {file: PATH}`.

use std::path::Path;

use blat_domain::release::Catalog;
use tokio::io::AsyncReadExt;

/// A file larger than this is not a list of releases.
const LARGEST: u64 = 256 << 20;

/// Reads the whole catalog.
pub(super) async fn load(path: &Path) -> Result<Catalog, String> {
    let file = tokio::fs::File::open(path).await.map_err(|error| error.to_string())?;
    if !file.metadata().await.map_err(|error| error.to_string())?.is_file() {
        return Err("it is not a regular file".into());
    }
    let mut text = String::new();
    let read = file.take(LARGEST + 1).read_to_string(&mut text).await.map_err(|error| error.to_string())?;
    if read as u64 > LARGEST {
        return Err(format!("it is larger than {} MiB", LARGEST >> 20));
    }
    blat_config::release_file::parse(&text)
}
