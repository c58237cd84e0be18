//! Where things lie in a bucket, and what a key that is found there means.

use blat_domain::archive::inventory::Mark;
use blat_domain::package::name::PackageId;
use object_store::path::Path;

use crate::model::error::TargetError;

/// Below the prefix, where what is ours and no package lies. No package's name begins with a dot.
const CONTROL: &str = ".blat";

/// The keys of one target: all begin with its prefix.
#[derive(Debug, Clone)]
pub(super) struct ObjectKeys {
    /// The prefix with its slash; empty where there is none.
    prefix: String,
}

/// What a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A package's ZIP, or that of a version that is a link.
    Package(PackageId),
    /// A mark for deletion: its key says it all.
    Mark(PackageId, Mark),
    /// The PackageList.
    List,
    /// The record of whose archive it is.
    Record,
    /// The number of the last visit.
    Visit,
    /// Something in our own corner that a check or another version left.
    House,
    /// Somebody else's.
    Foreign,
}

impl ObjectKeys {
    /// The keys below a prefix without slashes at its ends.
    pub(super) fn below(prefix: &str) -> Self {
        Self { prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") } }
    }

    /// What all of them begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What all marks begin with.
    pub(super) fn marks(&self) -> String {
        format!("{}{CONTROL}/marks/", self.prefix)
    }

    /// A package's ZIP.
    pub(super) fn package(&self, package: &PackageId) -> String {
        format!("{}{}/{}.zip", self.prefix, package.name, package.version)
    }

    /// A mark. Everything is in the key, so that a listing tells it without another request.
    pub(super) fn mark(&self, package: &PackageId, Mark { at, wait }: Mark) -> String {
        format!("{}{}/{}/{at}+{wait}", self.marks(), package.name, package.version)
    }

    /// The PackageList.
    pub(super) fn list(&self) -> String {
        format!("{}{}", self.prefix, blat_domain::archive::package_list::FILE)
    }

    /// The record of whose archive it is.
    pub(super) fn record(&self) -> String {
        format!("{}{CONTROL}/{}", self.prefix, blat_domain::archive::record::FILE)
    }

    /// The number of the last visit.
    pub(super) fn visit(&self) -> String {
        format!("{}{CONTROL}/{}", self.prefix, blat_domain::archive::record::VISIT)
    }

    /// What `blat check --connect` writes and takes away again.
    pub(super) fn probe(&self) -> String {
        format!("{}{CONTROL}/check", self.prefix)
    }

    /// What a key in a listing means.
    pub(super) fn meaning(&self, key: &str) -> Meaning {
        let Some(rest) = key.strip_prefix(&self.prefix) else { return Meaning::Foreign };
        if rest == blat_domain::archive::package_list::FILE {
            return Meaning::List;
        }
        let parts: Vec<&str> = rest.split('/').collect();
        match parts[..] {
            [CONTROL, "marks", name, version, mark] => match read_mark(name, version, mark) {
                // What is not written as we write it (007, +7, -0) would never be removed, since that asks for the key as we write it.
                Some((package, mark)) if self.mark(&package, mark) == key => Meaning::Mark(package, mark),
                Some(_) | None => Meaning::Foreign,
            },
            [CONTROL, blat_domain::archive::record::FILE] => Meaning::Record,
            [CONTROL, blat_domain::archive::record::VISIT] => Meaning::Visit,
            [CONTROL, ..] => Meaning::House,
            [name, file] => match file.strip_suffix(".zip").map(|version| PackageId::new(name, version)) {
                Some(Ok(package)) => Meaning::Package(package),
                Some(Err(_)) | None => Meaning::Foreign,
            },
            _ => Meaning::Foreign,
        }
    }
}

fn read_mark(name: &str, version: &str, mark: &str) -> Option<(PackageId, Mark)> {
    let (at, wait) = mark.split_once('+')?;
    let mark = Mark { at: at.parse().ok()?, wait: wait.parse().ok()? };
    Some((PackageId::new(name, version).ok()?, mark))
}

/// A key of ours as the library wants it.
///
/// # Errors
/// It is none, which no checked name and prefix comes to.
pub(super) fn path(key: &str) -> Result<Path, TargetError> {
    Path::parse(key).map_err(|error| TargetError::Refused(format!("{key} is no key: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_all_else_is_somebody_elses() {
        let package: PackageId = "core_devl@2.1.0~rc+1.zip".parse().expect("a package");
        let mark = Mark { at: -5, wait: 2_592_000 };
        for keys in [ObjectKeys::below(""), ObjectKeys::below("a/b")] {
            assert_eq!(keys.meaning(&keys.package(&package)), Meaning::Package(package.clone()));
            assert_eq!(keys.meaning(&keys.mark(&package, mark)), Meaning::Mark(package.clone(), mark));
            assert_eq!((keys.meaning(&keys.list()), keys.meaning(&keys.probe())), (Meaning::List, Meaning::House));
            assert_eq!(keys.meaning(&keys.record()), Meaning::Record);
            assert_eq!(path(&keys.package(&package)).expect("a path").as_ref(), keys.package(&package));
            for foreign in [
                "",
                "x",
                "core/",
                "core/1.tar",
                "core/.zip",
                "core/x/1.zip",
                "core//1.zip",
                ".core/1.zip",
                "c re/1.zip",
                "core/1\u{e9}.zip",
            ] {
                assert_eq!(keys.meaning(&format!("{}{foreign}", keys.prefix())), Meaning::Foreign, "{foreign}");
            }
            for odd in ["soon+5", "7+", "007+0", "7+00", "+7+0", "7++0", "-0+0", "7+0 "] {
                assert_eq!(keys.meaning(&format!("{}core/1/{odd}", keys.marks())), Meaning::Foreign, "{odd}");
            }
        }
        assert_eq!(ObjectKeys::below("a").meaning("ab/core/1.zip"), Meaning::Foreign);
    }
    /// Two targets of one bucket may have a prefix within the other's: neither takes what the other wrote for a package, a mark, a list or a
    /// record of its own, and no two write the same key.
    #[test]
    fn targets_whose_prefixes_lie_within_each_other_mean_nothing_to_each_other() {
        let names = ["b", "core", "marks", "archive", "PackageList.txt", "1", "5+5", "check"];
        let versions = ["1", "5+5", "b", "PackageList.txt", "1.zip"];
        let mark = Mark { at: 5, wait: 5 };
        let all = |keys: &ObjectKeys| {
            let packages = names.iter().flat_map(|name| versions.iter().map(move |version| (name, version)));
            let packages = packages.map(|(name, version)| PackageId::new(name, version).expect("a package"));
            let of_packages = packages.flat_map(|package| [keys.package(&package), keys.mark(&package, mark)]);
            of_packages.chain([keys.list(), keys.record(), keys.probe()]).collect::<Vec<_>>()
        };
        for outer in ["", "a", "a/b"] {
            for inner in [
                "b",
                "b/c",
                "core/1",
                ".blat",
                ".blat/marks",
                ".blat/marks/core",
                ".blat/marks/core/1",
                ".blat/archive",
            ] {
                let inner = ObjectKeys::below(format!("{outer}/{inner}").trim_start_matches('/'));
                let outer = ObjectKeys::below(outer);
                let (of_outer, of_inner) = (all(&outer), all(&inner));
                assert!(of_outer.iter().all(|key| !of_inner.contains(key)), "{inner:?} in {outer:?}");
                for (keys, others) in [(&outer, &of_inner), (&inner, &of_outer)] {
                    for key in others {
                        let meaning = keys.meaning(key);
                        assert!(
                            matches!(meaning, Meaning::Foreign | Meaning::House),
                            "{key} is {meaning:?} to {keys:?}"
                        );
                    }
                }
            }
        }
    }
}
