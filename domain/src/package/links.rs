//! Versions that are symbolic links, and what they may address.
//!
//! A link addresses another version of its own package and nothing else, so that no link on a source can make a target
//! show what lies outside the package it belongs to.

use crate::package::name::{PackageId, Version};

/// The most links that may stand one after the other before a package.
pub const LONGEST_CHAIN: usize = 8;

/// The version that a link in the place of `link` addresses, when its text is `to`: a plain version, also written
/// `./VERSION`, `VERSION/` or `../NAME/VERSION` with the link's own name.
///
/// # Errors
/// Why no such link is sent, for the operator.
pub fn addressee(link: &PackageId, to: &str) -> Result<Version, String> {
    if to.starts_with('/') {
        return Err("it is absolute; make it address another version of its package, as VERSION alone".into());
    }
    let parts: Vec<&str> = to.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let version = match parts[..] {
        [version] if version != ".." => version,
        ["..", name, version] if name == link.name.as_str() && version != ".." => version,
        _ => return Err(format!("it leads out of {}; make it address another version of its package", link.name)),
    };
    version.parse().map_err(|error| format!("{error}; make it address another version of its package"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_addresses_a_version_of_its_own_package_or_nothing() {
        let link: PackageId = "core@current".parse().expect("a package");
        for to in ["1.2", "./1.2", "1.2/", "../core/1.2"] {
            assert_eq!(addressee(&link, to).expect(to).as_str(), "1.2");
        }
        for (to, why) in [
            ("/srv/core/1.2", "absolute"),
            ("../other/1.2", "leads out of core"),
            ("..", "leads out of core"),
            ("../core/..", "leads out of core"),
            ("1.2/bin", "leads out of core"),
            ("../../etc/passwd", "leads out of core"),
            ("", "leads out of core"),
            (".hidden", "package version"),
            ("a b", "package version"),
        ] {
            let refusal = addressee(&link, to).expect_err(to);
            assert!(refusal.contains(why), "{to:?}: {refusal}");
        }
    }
}
