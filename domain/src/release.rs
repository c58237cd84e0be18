//! The wanted set: what a target should hold, from what Release Manager knows and what the config selects.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use globset::{Glob, GlobSet, GlobSetBuilder};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::{PackageId, PackageName};
use crate::text::{nearest, printable};

/// What Release Manager knows, whichever source it was read from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// All projects with their releases.
    pub projects: Vec<Project>,
    /// Packages that belong to no release: a PackageList names them.
    pub listed: Vec<PackageId>,
    /// Entries whose names are not valid, for the log: they are never acted on.
    pub rejected: Vec<String>,
}

/// A project: a group of releases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// What people call it.
    pub name: String,
    /// Its releases.
    pub releases: Vec<Release>,
}

/// A release: a named list of packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Release Manager's number for it.
    pub id: i64,
    /// What people call it.
    pub name: String,
    /// Whether it still counts for its project.
    pub state: ReleaseState,
    /// Whether it is to be kept in the S3 bucket too.
    pub s3sync: bool,
    /// What belongs to it.
    pub packages: Vec<PackageId>,
}

/// The life of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReleaseState {
    /// Being worked on.
    Open,
    /// Only a few may change it.
    Restricted,
    /// Done with: a project no longer brings it.
    Closed,
}

/// A release as the config names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReleaseKey {
    /// By Release Manager's number.
    Id(i64),
    /// By its name.
    Name(String),
}

impl ReleaseKey {
    /// Whether this key means that release.
    pub fn names(&self, release: &Release) -> bool {
        match self {
            Self::Id(id) => release.id == *id,
            Self::Name(name) => release.name == *name,
        }
    }
}

impl fmt::Display for ReleaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => write!(f, "\"{}\"", printable(name)),
        }
    }
}

/// What a target's config asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    /// Releases by id or name, whatever their state.
    pub releases: Vec<ReleaseKey>,
    /// Projects by name, meaning all their releases that are not closed.
    pub projects: Vec<String>,
    /// Narrows what releases bring.
    pub filter: NameFilter,
    /// Packages wanted whatever the releases say; never narrowed.
    pub pinned: BTreeSet<PackageId>,
    /// Whether only releases count that are to be kept in the S3 bucket too.
    pub only_s3sync: bool,
}

impl Selection {
    /// Whether this release of this project is selected: a source need not read the packages of any other.
    pub fn chooses(&self, project: &Project, release: &Release) -> bool {
        let by_project = release.state != ReleaseState::Closed && self.projects.contains(&project.name);
        let is_selected = by_project || self.releases.iter().any(|key| key.names(release));
        is_selected && (release.s3sync || !self.only_s3sync)
    }

    /// Whether Release Manager has to be asked at all.
    pub fn needs_catalog(&self) -> bool {
        !self.releases.is_empty() || !self.projects.is_empty()
    }
}

/// `include` and `exclude`: globs on package names.
#[derive(Debug, Clone, Default)]
pub struct NameFilter {
    include: Patterns,
    exclude: Patterns,
}

/// The patterns of one key, kept as text for comparison.
#[derive(Debug, Clone, Default)]
struct Patterns {
    text: Vec<String>,
    set: GlobSet,
}

impl Patterns {
    fn new(text: Vec<String>) -> Result<Self, globset::Error> {
        let mut builder = GlobSetBuilder::new();
        for pattern in &text {
            builder.add(Glob::new(pattern)?);
        }
        Ok(Self { set: builder.build()?, text })
    }
}

impl PartialEq for NameFilter {
    fn eq(&self, other: &Self) -> bool {
        self.include.text == other.include.text && self.exclude.text == other.exclude.text
    }
}

impl NameFilter {
    /// A filter from its globs. An empty `include` lets every name in.
    pub fn new(include: Vec<String>, exclude: Vec<String>) -> Result<Self, globset::Error> {
        Ok(Self { include: Patterns::new(include)?, exclude: Patterns::new(exclude)? })
    }

    /// Whether a package of this name passes.
    pub fn admits(&self, name: &PackageName) -> bool {
        (self.include.text.is_empty() || self.include.set.is_match(name.as_str()))
            && !self.exclude.set.is_match(name.as_str())
    }
}

/// Why a package is wanted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A release lists it.
    Release {
        /// The release's number.
        id: i64,
        /// The release's name.
        name: Arc<str>,
    },
    /// The PackageList that `release_manager` names has it.
    Listed,
    /// The config's `pkg` names it.
    Pinned,
    /// A tag asks for it.
    Tag,
    /// Another wanted version is a link to it.
    Link {
        /// That version.
        from: PackageId,
    },
}

/// All reasons for which one package is wanted: in their order, each once.
///
/// Nearly every package has one, and an archive has many packages: a list of just that length takes the least memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reasons(Vec<Reason>);

impl Reasons {
    /// Adds one, unless it is there.
    pub fn insert(&mut self, reason: Reason) {
        if let Err(place) = self.0.binary_search(&reason) {
            self.0.reserve_exact(1);
            self.0.insert(place, reason);
        }
    }

    /// Whether this is one of them.
    pub fn contains(&self, reason: &Reason) -> bool {
        self.0.binary_search(reason).is_ok()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Reason> {
        self.0.iter()
    }
}

impl Extend<Reason> for Reasons {
    fn extend<I: IntoIterator<Item = Reason>>(&mut self, more: I) {
        more.into_iter().for_each(|reason| self.insert(reason));
    }
}

impl FromIterator<Reason> for Reasons {
    fn from_iter<I: IntoIterator<Item = Reason>>(reasons: I) -> Self {
        let mut all = Self::default();
        all.extend(reasons);
        all
    }
}

impl<const N: usize> From<[Reason; N]> for Reasons {
    fn from(reasons: [Reason; N]) -> Self {
        reasons.into_iter().collect()
    }
}

impl IntoIterator for Reasons {
    type Item = Reason;
    type IntoIter = std::vec::IntoIter<Reason>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Reasons {
    type Item = &'a Reason;
    type IntoIter = std::slice::Iter<'a, Reason>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release { id, name } => write!(f, "release {} ({id})", printable(name)),
            Self::Listed => f.write_str("the PackageList of release_manager"),
            Self::Pinned => f.write_str("pkg in its config"),
            Self::Tag => f.write_str("a tag"),
            Self::Link { from } => write!(f, "{from} is a link to it"),
        }
    }
}

/// What should be on a target, and why.
pub type WantedSet = BTreeMap<PackageId, Reasons>;

/// A selection applied to a catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolution {
    /// The union of all that is selected.
    pub wanted: WantedSet,
    /// What would be wanted as well if `include` and `exclude` let it.
    pub kept_out: WantedSet,
    /// Releases and projects that the config names and Release Manager does not know. While there are any, the wanted
    /// set is not the whole one: nothing may be deleted by it, and no PackageList made of it.
    pub unknown: Vec<String>,
    /// How many entries of Release Manager's have no valid name or state, and so may be missing from the wanted set.
    pub rejected: u64,
    /// Whether releases or projects are selected and bring no package at all: more likely a mistake than a wish, and a few pins
    /// beside them must not hide it.
    pub brings_nothing: bool,
    /// When the snapshot was taken that stands in for Release Manager, where that could not be asked.
    pub snapshot: Option<Timestamp>,
}

/// Which packages `selection` means, given `catalog`.
pub fn resolve(catalog: &Catalog, selection: &Selection) -> Resolution {
    let mut resolution = Resolution {
        unknown: unknown_names(catalog, selection),
        rejected: catalog.rejected.len() as u64,
        ..Resolution::default()
    };
    let mut bring = |package: &PackageId, reason: Reason| {
        let is_let_in = selection.filter.admits(&package.name);
        let packages = if is_let_in { &mut resolution.wanted } else { &mut resolution.kept_out };
        packages.entry(package.clone()).or_default().insert(reason);
    };
    for project in &catalog.projects {
        for release in project.releases.iter().filter(|release| selection.chooses(project, release)) {
            let name: Arc<str> = release.name.as_str().into();
            for package in &release.packages {
                bring(package, Reason::Release { id: release.id, name: name.clone() });
            }
        }
    }
    for package in &catalog.listed {
        bring(package, Reason::Listed);
    }
    resolution.brings_nothing = selection.needs_catalog() && resolution.wanted.is_empty();
    for package in &selection.pinned {
        resolution.wanted.entry(package.clone()).or_default().insert(Reason::Pinned);
    }
    resolution
}

/// What the selection names and the catalog does not have.
fn unknown_names(catalog: &Catalog, selection: &Selection) -> Vec<String> {
    let releases = || catalog.projects.iter().flat_map(|project| &project.releases);
    let missing_releases = selection.releases.iter().filter(|key| !releases().any(|release| key.names(release)));
    let missing_projects = selection.projects.iter().filter(|name| !catalog.projects.iter().any(|p| p.name == **name));
    missing_releases
        .map(|key| unknown("release", &key.to_string(), releases().map(|release| release.name.as_str())))
        .chain(missing_projects.map(|name| {
            let quoted = format!("\"{}\"", printable(name));
            unknown("project", &quoted, catalog.projects.iter().map(|project| project.name.as_str()))
        }))
        .collect()
}

fn unknown<'a>(what: &str, quoted: &str, known: impl Iterator<Item = &'a str>) -> String {
    let hint = nearest(quoted.trim_matches('"'), known).map(|near| format!("; did you mean \"{}\"?", printable(near)));
    format!("Release Manager knows no {what} {quoted}{}", hint.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retention::Distrust;

    fn release(id: i64, name: &str, state: ReleaseState, packages: &[&str]) -> Release {
        let packages = packages.iter().map(|p| p.parse().expect("a package")).collect();
        Release { id, name: name.into(), state, s3sync: false, packages }
    }

    fn catalog() -> Catalog {
        let perth = vec![
            release(1, "Perth 7.0", ReleaseState::Closed, &["old@1"]),
            release(2, "Perth 7.1", ReleaseState::Open, &["core@2", "tools@1"]),
            release(3, "Perth 7.2", ReleaseState::Restricted, &["core@3", "tools@1"]),
        ];
        let oslo = vec![release(4, "Oslo 1", ReleaseState::Open, &["core@1"])];
        Catalog {
            projects: vec![
                Project { name: "Perth Metro".into(), releases: perth },
                Project { name: "Oslo".into(), releases: oslo },
            ],
            ..Catalog::default()
        }
    }

    fn wanted(selection: &Selection) -> Vec<String> {
        resolve(&catalog(), selection).wanted.keys().map(PackageId::to_string).collect()
    }

    #[test]
    fn a_project_means_its_releases_that_are_not_closed() {
        let selection = Selection { projects: vec!["Perth Metro".into()], ..Selection::default() };
        assert_eq!(wanted(&selection), ["core@2", "core@3", "tools@1"]);
    }

    #[test]
    fn releases_are_named_by_id_or_name_and_joined() {
        let releases = vec![ReleaseKey::Id(1), ReleaseKey::Name("Oslo 1".into())];
        assert_eq!(wanted(&Selection { releases, ..Selection::default() }), ["core@1", "old@1"]);
    }

    #[test]
    fn a_bucket_takes_only_releases_with_s3sync_set_however_they_are_selected() {
        let mut catalog = catalog();
        catalog.projects[0].releases[1].s3sync = true;
        let selection = Selection {
            projects: vec!["Perth Metro".into()],
            releases: vec![ReleaseKey::Id(1), ReleaseKey::Id(4)],
            pinned: ["core@9".parse().expect("a package")].into(),
            only_s3sync: true,
            ..Selection::default()
        };
        let resolution = resolve(&catalog, &selection);
        let wanted: Vec<String> = resolution.wanted.keys().map(PackageId::to_string).collect();
        assert_eq!(wanted, ["core@2", "core@9", "tools@1"]);
        assert_eq!(resolution.unknown, Vec::<String>::new(), "a release that does not count is known all the same");
        catalog.projects[0].releases[1].s3sync = false;
        assert!(resolve(&catalog, &selection).brings_nothing, "a flag taken away everywhere deletes nothing");
    }

    #[test]
    fn globs_narrow_releases_but_not_pins() {
        let filter = NameFilter::new(vec!["*o*".into()], vec!["core".into()]).expect("globs");
        let pinned = ["core@9".parse().expect("a package")].into();
        let projects = vec!["Perth Metro".into()];
        let selection = Selection { projects, filter, pinned, ..Selection::default() };
        assert_eq!(wanted(&selection), ["core@9", "tools@1"]);
        let kept_out = resolve(&catalog(), &selection).kept_out;
        assert_eq!(kept_out.keys().map(PackageId::to_string).collect::<Vec<_>>(), ["core@2", "core@3"]);
    }

    #[test]
    fn what_release_manager_does_not_know_is_said_with_a_suggestion() {
        let selection = Selection {
            releases: vec![ReleaseKey::Name("Perth 7,1".into())],
            projects: vec!["Berlin".into()],
            ..Selection::default()
        };
        let unknown = resolve(&catalog(), &selection).unknown;
        assert_eq!(unknown[0], "Release Manager knows no release \"Perth 7,1\"; did you mean \"Perth 7.1\"?");
        assert_eq!(unknown[1], "Release Manager knows no project \"Berlin\"");
    }

    #[test]
    fn every_wanted_package_says_why() {
        let selection = Selection { projects: vec!["Perth Metro".into()], ..Selection::default() };
        let resolution = resolve(&catalog(), &selection);
        let tools = &resolution.wanted[&"tools@1".parse::<PackageId>().expect("a package")];
        assert_eq!(
            tools.iter().map(Reason::to_string).collect::<Vec<_>>(),
            ["release Perth 7.1 (2)", "release Perth 7.2 (3)"]
        );
    }

    #[test]
    fn pins_do_not_hide_that_releases_bring_nothing() {
        let pinned: BTreeSet<PackageId> = ["core@9".parse().expect("a package")].into();
        let projects = vec!["Oslo".to_owned()];
        let selection = Selection { projects, pinned, ..Selection::default() };
        let pins_only = Selection { projects: vec![], ..selection.clone() };
        let mut emptied = catalog();
        emptied.projects[1].releases[0].packages.clear();
        assert!(!resolve(&catalog(), &selection).brings_nothing);
        assert!(resolve(&emptied, &selection).brings_nothing);
        assert!(!resolve(&emptied, &pins_only).brings_nothing, "nothing else is asked for");
    }

    #[test]
    fn a_package_list_is_narrowed_as_releases_are() {
        let listed = ["core@1", "tools@1"].map(|p| p.parse().expect("a package")).into();
        let filter = NameFilter::new(vec![], vec!["tools".into()]).expect("globs");
        let selection = Selection { filter, ..Selection::default() };
        let wanted = resolve(&Catalog { listed, ..Catalog::default() }, &selection).wanted;
        assert_eq!(wanted, WantedSet::from([("core@1".parse().expect("a package"), [Reason::Listed].into())]));
    }

    #[test]
    fn nothing_is_deleted_by_an_old_unsure_or_empty_wanted_set() {
        let sure = resolve(&catalog(), &Selection { projects: vec!["Oslo".into()], ..Selection::default() });
        assert_eq!(Distrust::of(&sure, true), None);
        assert_eq!(Distrust::of(&sure, false), Some(Distrust::Incomplete));
        for (unsure, distrust) in [
            (Resolution { snapshot: Some(Timestamp::UNIX_EPOCH), ..sure.clone() }, Distrust::Snapshot),
            (Resolution { rejected: 1, ..sure.clone() }, Distrust::Rejected),
            (Resolution { brings_nothing: true, ..sure.clone() }, Distrust::NothingWanted),
        ] {
            assert_eq!(Distrust::of(&unsure, true), Some(distrust));
        }
        let hostile = Catalog { rejected: vec!["release x: package name \"..\" is not valid".into()], ..catalog() };
        assert_eq!(resolve(&hostile, &Selection::default()).rejected, 1);
    }
}
