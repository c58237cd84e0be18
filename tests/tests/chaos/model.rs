//! What the people of a run wanted until now: packages, releases, pins and tags, as they mean them and without Blat.

use std::collections::{BTreeMap, BTreeSet};

use blat_tests::Dice;

/// `NAME` and `VERSION`.
pub(crate) type Package = (String, String);

/// The targets: one served by the receiver, one by scripts, one bucket.
pub(crate) const TARGETS: [&str; 3] = ["perth", "hobart", "cloud"];

/// A release of the project.
#[derive(Debug)]
pub(crate) struct Release {
    pub(crate) open: bool,
    pub(crate) packages: BTreeSet<Package>,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// What lies in the source.
    pub(crate) built: Vec<Package>,
    /// What was tagged and is not built yet.
    pub(crate) early: Vec<Package>,
    pub(crate) releases: Vec<Release>,
    pub(crate) pins: BTreeMap<&'static str, BTreeSet<Package>>,
    /// What was tagged since Release Manager last said anything: nothing may delete it.
    pub(crate) tagged: BTreeMap<&'static str, BTreeSet<Package>>,
    next: u64,
}

impl Model {
    /// The name of a package that does not exist yet: a new version of a few packages.
    pub(crate) fn new_package(&mut self, dice: &mut Dice) -> Package {
        const NAMES: [&str; 5] = ["core", "core_devl", "libfoo++", "tools", "zeta"];
        self.next += 1;
        (NAMES[dice.below(NAMES.len() as u64) as usize].to_owned(), format!("1.{}", self.next))
    }

    /// Any package of the source.
    pub(crate) fn any(&self, dice: &mut Dice) -> Option<Package> {
        (!self.built.is_empty()).then(|| self.built[dice.below(self.built.len() as u64) as usize].clone())
    }

    /// What a target has to hold.
    pub(crate) fn wanted(&self, target: &str) -> BTreeSet<Package> {
        let listed = self.releases.iter().filter(|release| release.open).flat_map(|release| &release.packages);
        listed.chain(self.pins.get(target).into_iter().flatten()).cloned().collect()
    }

    /// Whether nothing may delete this package now.
    pub(crate) fn is_safe(&self, target: &str, package: &Package) -> bool {
        self.tagged.get(target).is_some_and(|tagged| tagged.contains(package)) || self.wanted(target).contains(package)
    }

    /// What Release Manager says, as it stands in a file of releases.
    pub(crate) fn releases_file(&self) -> String {
        let release = |(number, release): (usize, &Release)| {
            let packages: Vec<String> =
                release.packages.iter().map(|(name, version)| format!("\"{name}@{version}\"")).collect();
            let (id, state) = (number + 1, if release.open { "open" } else { "closed" });
            format!(
                "      - {{id: {id}, name: Lab {id}, state: {state}, s3sync: true, packages: [{}]}}\n",
                packages.join(", ")
            )
        };
        let releases: String = self.releases.iter().enumerate().map(release).collect();
        format!("projects:\n  - name: Lab\n    releases:\n{releases}")
    }

    /// A target's pins, as its config has them.
    pub(crate) fn pins_of(&self, target: &str) -> String {
        let mut by_name: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (name, version) in self.pins.get(target).into_iter().flatten() {
            by_name.entry(name).or_default().push(format!("\"{version}\""));
        }
        let pins: Vec<String> =
            by_name.iter().map(|(name, versions)| format!("\"{name}\": [{}]", versions.join(", "))).collect();
        format!("pkg: {{{}}}", pins.join(", "))
    }
}
