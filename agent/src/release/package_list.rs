//! `release_manager: {package_list: PATH}`: what another Blat shipped to its target is the wanted set of this one.

use blat_domain::package_list::{Listed, parse};
use blat_domain::release::{About, Catalog, OddRow};

/// What the list says, which must be whole.
pub(super) fn understood(text: &str) -> Result<Catalog, String> {
    let Listed { packages, rejected } = parse(text)?;
    let rejected = rejected.into_iter().map(|line| OddRow::invalid(About::Anything, line)).collect();
    Ok(Catalog { listed: packages, rejected, ..Catalog::default() })
}
