//! Files that have several names in a package. The first one that a walk meets brings the bytes, the others are sent as hard links to it; so a package is
//! measured and sent by the same rule.
//!
//! A `descpkg` always comes by itself: targets look at it, and renew it, by itself. What is remembered is bounded. Where a package has more
//! such files, as one made by `cp -al` may have, the rest come once for each name.

use std::collections::HashMap;

use blat_domain::protocol::frames::{MOST_SHARED, shared_cost};

use super::walker::{Node, Root, SourceError, Stat};

/// The first name of a file that may have others.
#[derive(Debug)]
pub(crate) struct FirstName {
    /// Below the package's root.
    pub(crate) path: Vec<u8>,
    /// The number of its entry.
    pub(crate) entry: u32,
    stat: Stat,
    digest: Option<[u8; 32]>,
}

/// What a walk has met of a file before.
#[derive(Debug)]
pub(crate) enum Meeting<'a> {
    /// Nothing, and nothing will be made of its other names.
    Alone,
    /// Nothing, but others may follow.
    First,
    /// This name of it.
    Again(&'a FirstName),
}

/// The files of one package that may have several names in it.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// By device and inode.
    first: HashMap<((u32, u32), u64), FirstName>,
    /// Bytes of memory that they take at the target.
    cost: usize,
}

impl Names {
    /// Takes note of the next entry of a walk, which has this number.
    pub(crate) fn meet(&mut self, node: &Node, entry: u32) -> Meeting<'_> {
        let Node { path, stat } = node;
        if !stat.is_file() || stat.names < 2 || node.is_descpkg() {
            return Meeting::Alone;
        }
        let key = key(stat);
        let cost = self.cost + shared_cost(path);
        if !self.first.contains_key(&key) {
            if cost > MOST_SHARED {
                return Meeting::Alone;
            }
            self.cost = cost;
            self.first.insert(key, FirstName { path: path.clone(), entry, stat: *stat, digest: None });
            return Meeting::First;
        }
        // One that has changed since, or another file of the same number, as some file servers have them, comes by itself.
        self.first.get(&key).filter(|first| first.stat == *stat).map_or(Meeting::Alone, Meeting::Again)
    }

    /// Keeps the digest of a file whose first name this is.
    pub(crate) fn keep(&mut self, node: &Node, digest: &[u8; 32]) {
        if let Some(first) = self.first.get_mut(&key(&node.stat)).filter(|first| first.path == node.path) {
            first.digest = Some(*digest);
        }
    }

    /// The digest of a file of which an earlier name was met.
    ///
    /// # Errors
    /// Nobody kept it: the file is another one than it was.
    pub(crate) fn digest(&self, root: &Root, node: &Node) -> Result<[u8; 32], SourceError> {
        let kept = self.first.get(&key(&node.stat)).and_then(|first| first.digest);
        kept.ok_or_else(|| root.changed(&node.path))
    }
}

fn key(stat: &Stat) -> ((u32, u32), u64) {
    (stat.device, stat.inode)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use blat_domain::package::name::PackageId;

    use super::*;
    use crate::tar;
    use crate::tree::{Links, Tree};
    use crate::walker::WalkOrder;

    /// A package with three names of one file over folders, one that is a name of its descpkg, and two whose other names lie elsewhere.
    fn package() -> (tempfile::TempDir, PackageId) {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let package: PackageId = "core@1".parse().expect("a package");
        let root = scratch.path().join(package.path());
        fs::create_dir_all(root.join("z/y")).expect("a package directory");
        for (name, bytes) in [("b", "12345"), ("descpkg", "123"), ("out", "1234567"), ("plain", "1")] {
            fs::write(root.join(name), bytes).expect("a file");
        }
        for (of, name) in [("b", "a"), ("b", "z/y/c"), ("descpkg", "d"), ("out", "../elsewhere")] {
            fs::hard_link(root.join(of), root.join(name)).expect("a hard link");
        }
        (scratch, package)
    }

    fn open(archive: &tempfile::TempDir, package: &PackageId) -> Root {
        Root::open(archive.path(), package).expect("a package")
    }

    /// How each file of a walk is met, by its path.
    fn met(root: &Root, names: &mut Names) -> Vec<(String, String)> {
        let files = root.walk(WalkOrder::Name).map(|node| node.expect("an entry")).filter(|node| node.stat.is_file());
        let meet = |(node, entry): (Node, u32)| {
            let met = match names.meet(&node, entry) {
                Meeting::Alone => "alone".to_owned(),
                Meeting::First => "first".to_owned(),
                Meeting::Again(first) => format!("{} {}", String::from_utf8_lossy(&first.path), first.entry),
            };
            (String::from_utf8(node.path).expect("text"), met)
        };
        files.zip(0..).map(meet).collect()
    }

    #[test]
    fn the_first_name_brings_the_bytes_and_a_descpkg_always_its_own() {
        let (archive, package) = package();
        let met = met(&open(&archive, &package), &mut Names::default());
        let met: Vec<_> = met.iter().map(|(path, met)| (path.as_str(), met.as_str())).collect();
        let expected = [
            ("a", "first"),
            ("b", "a 0"),
            ("d", "first"),
            ("descpkg", "alone"),
            ("out", "first"),
            ("plain", "alone"),
            ("z/y/c", "a 0"),
        ];
        assert_eq!(met, expected);
    }

    #[test]
    fn what_changed_since_its_first_name_and_what_is_too_much_to_remember_come_by_themselves() {
        let (archive, package) = package();
        let root = open(&archive, &package);
        let mut names = Names { cost: MOST_SHARED - shared_cost(b"a"), ..Names::default() };
        let alone = |names: &mut Names| met(&root, names).into_iter().filter(|(_, met)| met == "alone").count();
        assert_eq!(alone(&mut names), 4, "all but the names of the first");
        fs::write(archive.path().join("core/1/b"), "other").expect("a file");
        assert_eq!(alone(&mut names), 7);
    }

    #[test]
    fn a_file_with_several_names_is_counted_once_where_they_are_kept_and_hashed_as_each_of_them() {
        let (archive, package) = package();
        let root = open(&archive, &package);
        let tree = Tree::look(&root).expect("a tree");
        let bytes = |links| tree.size_with(links).bytes;
        assert_eq!((bytes(Links::Copied), bytes(Links::Kept)), (3 * 5 + 2 * 3 + 7 + 1, 5 + 2 * 3 + 7 + 1));
        assert_eq!(tree.size_with(Links::Kept).entries, 9);

        let linked = tar::digests(&root).expect("digests");
        for name in ["a", "b", "z/y/c"] {
            let path = archive.path().join("core/1").join(name);
            fs::remove_file(&path).and_then(|()| fs::write(path, "12345")).expect("a file");
        }
        let apart = tar::digests(&open(&archive, &package));
        assert_eq!(apart.expect("digests"), linked, "each name is in the manifest");
    }
}
