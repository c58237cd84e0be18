//! The PackageList: the wanted set as a target sees it, the last thing that a sync ships.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::archive::inventory::ListingBudget;
use crate::package::name::PackageId;
use crate::util::text::printable;

/// The file's name below the archive's `.dpkg_archive`.
pub const FILE: &str = "PackageList.txt";
/// The most bytes that one has: a longer one counts as damaged, and is not read.
pub const LONGEST: u64 = 64 << 20;

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

/// What a PackageList names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// The packages, in the order of the list.
    pub packages: Vec<PackageId>,
    /// Lines whose names are not valid, for the log.
    pub rejected: Vec<String>,
}

/// The most lines whose names are not valid that are kept.
const MOST_REJECTED: usize = 100;

/// Whether `pkg_purge` may delete by a list that a sync stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purge {
    /// It deletes what the list does not name once its mark has waited.
    Allowed,
    /// The sync held deletions back, or the master deletes by itself.
    Held,
}

impl Purge {
    /// How `clock` has it, after `purge `, and `receive_file` after `--purge`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Allowed => "yes",
            Self::Held => "no",
        }
    }
}

/// What was in a PackageList's place before it was replaced. Where that was no whole list, nobody knows what the target was meant to hold, and
/// whether this is the archive that it was: nothing is marked or deleted until another sync has found the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Former {
    /// A whole list that names something.
    Whole,
    /// Something that is cut short, or names nothing.
    Damaged,
    /// No file.
    Missing,
}

impl Former {
    /// The line of an answer that says so.
    pub fn line(self) -> String {
        let word = match self {
            Self::Whole => "whole",
            Self::Damaged => "damaged",
            Self::Missing => "missing",
        };
        format!("former {word}")
    }

    /// Reads such a line; none where it is another.
    pub fn read(line: &str) -> Option<Self> {
        [Self::Whole, Self::Damaged, Self::Missing].into_iter().find(|former| former.line() == line)
    }
}

/// Reads a list that somebody else may have written.
///
/// # Errors
/// Why it is not a whole list, fit for printing: its last line must be `# end COUNT` and count its other lines, comments
/// left out. It may also name more packages than an agent keeps of one target in mind.
pub fn parse(text: &str) -> Result<Listed, String> {
    let mut listed = Listed::default();
    let (mut count, mut end, mut room) = (0u64, None, ListingBudget::default());
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with('#') {
            end = line.strip_prefix("# end ").map(|text| (number, text));
            continue;
        }
        // Only the last line can close the list.
        end = None;
        let Some((name, version)) = line.split_once(' ') else {
            return Err(format!("line {number} is \"{}\": expected NAME VERSION", printable(line)));
        };
        count += 1;
        match PackageId::new(name, version) {
            Ok(package) => {
                room.take(&package)
                    .map_err(|_| format!("line {number}: it names more packages than any target holds"))?;
                listed.packages.push(package);
            }
            Err(error) if listed.rejected.len() < MOST_REJECTED => {
                listed.rejected.push(format!("line {number}: {error}"));
            }
            Err(_) => {}
        }
    }
    match end {
        None => Err("it does not end in `# end COUNT`: a part of it may be missing".into()),
        Some((_, text)) if text.parse() == Ok(count) => Ok(listed),
        Some((number, text)) => {
            let counted = printable(text);
            Err(format!("its end in line {number} counts {counted} packages, and {count} are listed: it is not whole"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_sorted_and_counted() {
        let packages: BTreeSet<PackageId> =
            ["b@1", "a@2", "a@10"].map(|p| p.parse().expect("a package")).into_iter().collect();
        assert_eq!(render(packages.iter()), "a 10\na 2\nb 1\n# end 3\n");
        assert_eq!(render([].iter()), "# end 0\n");
    }

    #[test]
    fn a_list_of_very_many_names_takes_bounded_memory() {
        let text = "a 1\n".repeat(400_000) + "# end 400000\n";
        assert!(parse(&text).is_err_and(|why| why.contains("more packages than")));
        let odd = parse(&("? ?\n".repeat(1000) + "# end 1000\n")).expect("a whole list");
        assert_eq!((odd.packages.len(), odd.rejected.len()), (0, MOST_REJECTED));
    }

    #[test]
    fn what_is_rendered_is_read_again() {
        let packages: Vec<PackageId> = ["a@1", "b@2.0~rc1"].map(|p| p.parse().expect("a package")).into();
        let listed = parse(&format!("# for Perth\n{}", render(packages.iter()))).expect("a whole list");
        assert_eq!(listed, Listed { packages, rejected: vec![] });
        assert_eq!(parse("# end 0\n"), Ok(Listed::default()));
    }

    #[test]
    fn a_list_that_is_not_whole_is_refused() {
        let torn =
            ["", "a 1\n", "a 1\n# end 2\n", "a 1\n# end 1\nb 1\n", "# end 1\n", "a 1\n# end", "a 1\n# end one\n"];
        for text in
            torn.into_iter().chain(["a\n# end 1\n", "a 1\n# end 1\n# more\n", "a 1\n\n# end 1\n", "a 1\n# end -1\n"])
        {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn hostile_names_are_told_and_not_listed() {
        let listed = parse("../x 1\na 1 2\na ../1\nb 1\n# end 4\n").expect("a whole list");
        assert_eq!((listed.packages.len(), listed.rejected.len()), (1, 3));
        assert!(listed.rejected[0].starts_with("line 1: package name \"../x\""), "{:?}", listed.rejected);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_no_part_of_a_list_is_a_list(text in "[-a-c0-9#./ \\n]{0,60}", names in proptest::collection::btree_set("[a-c]{1,3}@[0-9]", 1..9), cut in 0usize..200) {
            let _ = parse(&text);
            let packages: Vec<PackageId> = names.iter().map(|name| name.parse().expect("a package")).collect();
            let whole = render(packages.iter());
            let part = &whole[..cut.min(whole.len() - 2)];
            prop_assert!(parse(part).is_err(), "{part:?} of {whole:?}");
            prop_assert_eq!(parse(&whole).expect("whole").packages, packages);
        }
    }
}
