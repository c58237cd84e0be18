//! The PackageList: the wanted set as a target sees it, the last thing that a sync ships.

use std::fmt::Write as _;

use crate::name::PackageId;

/// The file's name below the archive's `.dpkg_archive`.
pub const FILE: &str = "PackageList.txt";

/// The list of `packages`, which come sorted and once each: lines `NAME VERSION`, closed by `# end COUNT`, so that
/// a reader knows a whole list from a torn one.
pub fn render<'a>(packages: impl Iterator<Item = &'a PackageId>) -> String {
    let mut text = String::new();
    let mut count = 0u64;
    for package in packages {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {}", package.name, package.version);
        count += 1;
    }
    let _ = writeln!(text, "# end {count}");
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_is_sorted_and_counted() {
        let packages: BTreeSet<PackageId> =
            ["b@1", "a@2", "a@10"].map(|p| p.parse().expect("a package")).into_iter().collect();
        assert_eq!(render(packages.iter()), "a 10\na 2\nb 1\n# end 3\n");
        assert_eq!(render([].iter()), "# end 0\n");
    }
}
