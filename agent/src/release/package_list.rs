//! `release_manager: {package_list: PATH}`: what another Blat shipped to its target is the wanted set of this one.

use std::path::Path;

use blat_domain::package_list::{Listed, parse};
use blat_domain::release::{About, Catalog, OddRow};

/// Reads the list, which must be whole.
pub(super) async fn load(path: &Path) -> Result<Catalog, String> {
    let Listed { packages, rejected } = parse(&super::file::read(path).await?)?;
    let rejected = rejected.into_iter().map(|line| OddRow::invalid(About::Anything, line)).collect();
    Ok(Catalog { listed: packages, rejected, ..Catalog::default() })
}
