//! The wanted set: what a target should hold, from what Release Manager knows and what the config selects.

mod known;
mod odd;
pub mod row;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use globset::{Glob, GlobSet, GlobSetBuilder};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::known::KnownReleases;
pub use self::odd::{About, OddRow, Oddity};
use crate::package::name::{PackageId, PackageName};
use crate::policy::retention::Distrust;
use crate::util::text::{nearest, printable};

/// What Release Manager knows, whichever source it was read from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// All projects with their releases.
    pub projects: Vec<Project>,
    /// Packages that belong to no release: a PackageList names them.
    pub listed: Vec<PackageId>,
    /// Rows that cannot be taken as they stand: what is not valid in them is never acted on.
    pub rejected: Vec<OddRow>,
}

impl Catalog {
    /// The releases that a selection chooses; one that is in several projects, once for each that is selected.
    pub fn chosen(&self, selection: &Selection) -> impl Iterator<Item = &Release> {
        self.projects
            .iter()
            .flat_map(move |project| project.releases.iter().filter(move |release| selection.chooses(project, release)))
    }
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReleaseState {
    /// Being worked on.
    Open,
    /// Only a few may change it.
    Restricted,
    /// Done with: a project no longer brings it.
    Closed,
}

impl ReleaseState {
    /// As Release Manager writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Restricted => "restricted",
            Self::Closed => "closed",
        }
    }
}

/// A release as the config names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReleaseKey {
    /// By digits: Release Manager's number, or a name of digits such as `2024`.
    Id(i64),
    /// By its name.
    Name(String),
    /// By Release Manager's number, and not by a name that is the same digits.
    OnlyId(i64),
}

impl ReleaseKey {
    /// Whether this key means that release.
    pub fn names(&self, release: &Release) -> bool {
        self.may_name(Some(release.id), std::slice::from_ref(&release.name))
    }

    /// Whether this key may mean a release of which no more is known than this number and these names.
    fn may_name(&self, number: Option<i64>, names: &[String]) -> bool {
        match self {
            Self::Id(id) => number == Some(*id) || names.iter().any(|name| is_written(name, *id)),
            Self::Name(name) => names.contains(name),
            Self::OnlyId(id) => number == Some(*id),
        }
    }
}

/// Whether a name is a number as it is usually written: `2024`, but not `02024`.
fn is_written(name: &str, number: i64) -> bool {
    name.parse() == Ok(number) && name == number.to_string()
}

impl fmt::Display for ReleaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) | Self::OnlyId(id) => write!(f, "{id}"),
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
/// Nearly every package has one, and has it in common with all others of its release: a copy shares its memory, since an archive has many packages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reasons(Arc<[Reason]>);

impl Reasons {
    /// Adds one, unless it is there.
    pub fn insert(&mut self, reason: Reason) {
        if let Err(place) = self.0.binary_search(&reason) {
            let (before, after) = self.0.split_at(place);
            self.0 = before.iter().cloned().chain([reason]).chain(after.iter().cloned()).collect();
        }
    }

    /// Adds all of `more`. Where there were none, the two share their memory.
    pub fn merge(&mut self, more: &Self) {
        if self.is_empty() {
            self.clone_from(more);
        } else {
            more.iter().for_each(|reason| self.insert(reason.clone()));
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
    /// Rows of Release Manager's that cannot be taken as they stand, and may hide that something is wanted here.
    pub odd: Vec<OddRow>,
    /// Releases that are chosen, had packages and have none now, each with what to do.
    pub emptied: Vec<String>,
    /// Releases that had packages and are still selected, and whose rows are gone or moved, each with what to do.
    pub vanished: Vec<String>,
    /// Whether releases or projects are selected and bring no package at all: more likely a mistake than a wish, and a few pins
    /// beside them must not hide it.
    pub brings_nothing: bool,
    /// When the snapshot was taken that stands in for Release Manager, where that could not be asked.
    pub snapshot: Option<Timestamp>,
}

/// What is shown of a list of rows or releases.
const SHOWN: usize = 20;

impl Resolution {
    /// The rows or releases for which an answer is distrusted, fit for printing; nothing where the distrust says all.
    pub fn because(&self, distrust: &Distrust) -> Vec<String> {
        let mut all: Vec<String> = match distrust {
            Distrust::Rejected | Distrust::Contradicting => {
                // Contradictions first, since those come first among what is distrusted.
                let (first, rest): (Vec<&OddRow>, Vec<&OddRow>) =
                    self.odd.iter().partition(|row| row.oddity == Oddity::Contradiction);
                first.into_iter().chain(rest).map(|row| printable(&row.text)).collect()
            }
            Distrust::Vanished => self.vanished.iter().chain(&self.emptied).cloned().collect(),
            Distrust::Emptied => self.emptied.clone(),
            Distrust::Snapshot
            | Distrust::Incomplete
            | Distrust::NothingWanted
            | Distrust::Forgotten
            | Distrust::NewMemory => Vec::new(),
        };
        if let Some(more @ 1..) = all.len().checked_sub(SHOWN) {
            all.truncate(SHOWN);
            all.push(format!("and {more} more"));
        }
        all
    }
}

/// Which packages `selection` means, given `catalog`; `known` are releases that brought packages before.
pub fn resolve(catalog: &Catalog, selection: &Selection, known: &KnownReleases) -> Resolution {
    let mut resolution = Resolution {
        unknown: unknown_names(catalog, selection),
        odd: odd_rows(catalog, selection, known),
        emptied: known.emptied(catalog, selection),
        vanished: known.vanished(catalog, selection).into_values().collect(),
        ..Resolution::default()
    };
    let mut bring = |package: &PackageId, reasons: &Reasons| {
        let is_let_in = selection.filter.admits(&package.name);
        let packages = if is_let_in { &mut resolution.wanted } else { &mut resolution.kept_out };
        packages.entry(package.clone()).or_default().merge(reasons);
    };
    for release in catalog.chosen(selection) {
        let reasons = [Reason::Release { id: release.id, name: release.name.as_str().into() }].into();
        release.packages.iter().for_each(|package| bring(package, &reasons));
    }
    let listed = [Reason::Listed].into();
    catalog.listed.iter().for_each(|package| bring(package, &listed));
    resolution.brings_nothing = selection.needs_catalog() && resolution.wanted.is_empty();
    for package in &selection.pinned {
        resolution.wanted.entry(package.clone()).or_default().insert(Reason::Pinned);
    }
    resolution
}

/// The rows that may hide something that is wanted, and digits in the config that are the number of one release and the name of another.
fn odd_rows(catalog: &Catalog, selection: &Selection, known: &KnownReleases) -> Vec<OddRow> {
    let hindering = catalog.rejected.iter().filter(|row| row.hinders(catalog, selection, known)).cloned();
    let releases = || catalog.projects.iter().flat_map(|project| &project.releases);
    let ambiguous = selection.releases.iter().filter_map(|key| {
        let ReleaseKey::Id(number) = key else { return None };
        let by_number = releases().find(|release| release.id == *number)?;
        let by_name = releases().find(|release| release.id != *number && key.names(release))?;
        let text = format!(
            "release {number} of the config is two: number {number} is called \"{}\", and \"{number}\" is the name of number {}; write {{id: {number}}} \
             or {{name: {number}}} in its place",
            printable(&by_number.name),
            by_name.id
        );
        Some(OddRow::contradiction(About::Anything, text))
    });
    hindering.chain(ambiguous).collect()
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
mod tests;
