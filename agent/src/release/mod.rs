//! Release Manager: where the wanted set comes from.

mod file;
mod freshness;
mod sqlite;

use blat_config::ReleaseManager;
use blat_domain::release::{Catalog, Resolution, Selection, resolve};
use blat_domain::text::printable;

pub(crate) use freshness::known_up_to;
pub(crate) use sqlite::create as create_database;

/// Why Release Manager could not be asked. A sync that does not know what is wanted does nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReleaseError {
    /// The config selects releases but names no source for them.
    #[error("the config selects releases or projects, but has no release_manager to look them up in; add one")]
    NoSource,
    /// The source could not be read.
    #[error("cannot read the releases from {from}: {why}")]
    Unreadable {
        /// Which source.
        from: String,
        /// What went wrong.
        why: String,
    },
}

/// What the target should hold, asked anew.
pub(crate) async fn wanted(
    manager: Option<&ReleaseManager>,
    selection: &Selection,
) -> Result<Resolution, ReleaseError> {
    let catalog = match manager {
        Some(manager) if selection.needs_catalog() => load(manager, selection).await?,
        None if selection.needs_catalog() => return Err(ReleaseError::NoSource),
        Some(_) | None => Catalog::default(),
    };
    for rejected in &catalog.rejected {
        tracing::warn!(entry = printable(rejected), "Release Manager lists something that is no package");
    }
    Ok(resolve(&catalog, selection))
}

async fn load(manager: &ReleaseManager, selection: &Selection) -> Result<Catalog, ReleaseError> {
    let (from, loaded) = match manager {
        ReleaseManager::File { path } => (path, file::load(path).await),
        ReleaseManager::Sqlite { path } => (path, sqlite::load(path, selection).await),
    };
    loaded.map_err(|why| ReleaseError::Unreadable { from: from.display().to_string(), why })
}
