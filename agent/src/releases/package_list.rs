//! `release_manager: {package_list: PATH}`: what another Blat shipped to its target is the wanted set of this one.

use blat_domain::archive::package_list::{Listed, parse};
use blat_domain::policy::release::{About, Catalog, OddRow};
use blat_domain::util::text::unmarked;

/// What the list says, which must be whole. It may come from an editor that puts a byte order mark before text.
pub(super) fn understood(text: &str) -> Result<Catalog, String> {
    let Listed { packages, rejected } = parse(unmarked(text))?;
    let rejected = rejected.into_iter().map(|line| OddRow::invalid(About::Anything, line)).collect();
    Ok(Catalog { listed: packages, rejected, ..Catalog::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_name() {
        let read = understood("\u{feff}core 1\r\ntools 2\r\n# end 2\r\n").expect("a whole list");
        let listed: Vec<String> = read.listed.iter().map(ToString::to_string).collect();
        assert_eq!(listed, ["core@1", "tools@2"]);
        assert!(read.rejected.is_empty(), "{:?}", read.rejected);
    }
}
