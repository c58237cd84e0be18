//! Rows of Release Manager's that cannot be taken as they stand, and whom they hinder.
//!
//! Such a row may hide that a package is wanted, so nothing is marked or deleted by an answer that rests on it. It hinders those who select
//! what it is about, and nobody else.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Catalog, KnownReleases, Release, ReleaseState, Selection};
use crate::util::text::printable;

/// A row that cannot be taken as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "KeptRow")]
pub struct OddRow {
    /// Which row it is, what is wrong with it, and what to do where that is not plain; fit for printing.
    pub text: String,
    /// What it is about.
    pub about: About,
    /// What is wrong with it.
    pub oddity: Oddity,
}

/// What an odd row is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// Nobody can say: it may be about whatever is wanted.
    Anything,
    /// The packages of the release with this number, which the catalog holds.
    PackagesOf(i64),
    /// A release or project, as far as the row names it.
    Named {
        /// The release's number.
        id: Option<i64>,
        /// The release's names.
        names: Vec<String>,
        /// The projects that it is of.
        projects: Vec<String>,
    },
}

/// What is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Oddity {
    /// A name, number or state in it is not valid.
    Invalid,
    /// Another row says otherwise.
    Contradiction,
}

/// A row as a snapshot keeps it: at first that kept no more than the text.
#[derive(Deserialize)]
#[serde(untagged)]
enum KeptRow {
    Text(String),
    Row { text: String, about: About, oddity: Oddity },
}

impl From<KeptRow> for OddRow {
    fn from(kept: KeptRow) -> Self {
        match kept {
            KeptRow::Text(text) => Self { text, about: About::Anything, oddity: Oddity::Invalid },
            KeptRow::Row { text, about, oddity } => Self { text, about, oddity },
        }
    }
}

impl OddRow {
    /// A row that is not valid.
    pub fn invalid(about: About, text: String) -> Self {
        Self { text, about, oddity: Oddity::Invalid }
    }

    /// A row that another one contradicts.
    pub fn contradiction(about: About, text: String) -> Self {
        Self { text, about, oddity: Oddity::Contradiction }
    }

    /// The number of the release that it is about, where it says that.
    pub(super) fn release(&self) -> Option<i64> {
        match &self.about {
            About::Anything => None,
            About::PackagesOf(id) => Some(*id),
            About::Named { id, .. } => *id,
        }
    }

    /// Whether it may hide that `selection` wants something; `known` are the releases that it chose before.
    pub fn hinders(&self, catalog: &Catalog, selection: &Selection, known: &KnownReleases) -> bool {
        match &self.about {
            About::Anything => true,
            About::PackagesOf(id) => catalog.chosen(selection).any(|release| release.id == *id),
            About::Named { id, names, projects } => {
                projects.iter().any(|project| selection.projects.contains(project))
                    || selection.releases.iter().any(|key| key.may_name(*id, names))
                    || known.have(*id, names)
            }
        }
    }
}

impl Catalog {
    /// Makes one release of all rows with one number: every project that a row names has it, with the packages of all rows. Where rows
    /// contradict each other, all of them stay, so that nothing is lost that one of them wants, and an odd row says so.
    #[must_use]
    pub fn united(mut self) -> Self {
        let mut places: BTreeMap<i64, Vec<(usize, usize)>> = BTreeMap::new();
        for (project, releases) in self.projects.iter().map(|project| &project.releases).enumerate() {
            for (release, Release { id, .. }) in releases.iter().enumerate() {
                places.entry(*id).or_default().push((project, release));
            }
        }
        places.retain(|_, places| places.len() > 1);
        for places in places.values() {
            let packages: BTreeSet<_> = places.iter().flat_map(|place| self.at(*place).packages.clone()).collect();
            self.rejected.extend(self.contradiction(places));
            for (project, release) in places {
                self.projects[*project].releases[*release].packages = packages.iter().cloned().collect();
            }
        }
        for project in &mut self.projects {
            let mut seen: BTreeSet<(i64, String, ReleaseState, bool)> = BTreeSet::new();
            project.releases.retain(|release| {
                let Release { id, name, state, s3sync, .. } = release;
                !places.contains_key(id) || seen.insert((*id, name.clone(), *state, *s3sync))
            });
        }
        self
    }

    fn at(&self, (project, release): (usize, usize)) -> &Release {
        &self.projects[project].releases[release]
    }

    /// What the rows of one release do not agree on.
    fn contradiction(&self, places: &[(usize, usize)]) -> Option<OddRow> {
        let all = |say: &dyn Fn(&Release) -> String| -> BTreeSet<String> {
            places.iter().map(|place| say(self.at(*place))).collect()
        };
        let names = all(&|release| release.name.clone());
        let told = [
            ("release_name", names.clone()),
            ("state", all(&|release| release.state.word().to_owned())),
            ("s3sync", all(&|release| u8::from(release.s3sync).to_string())),
        ];
        let differing = told.into_iter().filter(|(_, values)| values.len() > 1).map(|(what, values)| {
            let values: Vec<String> = values.iter().map(|value| printable(value)).collect();
            format!("{what} ({})", values.join(", "))
        });
        let differing: Vec<String> = differing.collect();
        if differing.is_empty() {
            return None;
        }
        let id = self.at(*places.first()?).id;
        let projects: BTreeSet<String> =
            places.iter().map(|(project, _)| self.projects[*project].name.clone()).collect();
        let about =
            About::Named { id: Some(id), names: names.into_iter().collect(), projects: projects.into_iter().collect() };
        let text = format!("release {id}: its rows differ in {}; make them agree", differing.join(" and "));
        Some(OddRow::contradiction(about, text))
    }
}
