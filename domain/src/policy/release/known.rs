//! Releases that are known to have had packages, so that one whose packages vanish, or that vanishes itself, is noticed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Catalog, OddRow, Release, ReleaseKey, ReleaseState, Resolution, Selection};
use crate::util::text::printable;

/// The releases that brought packages to a target, by number, with their names and what selected them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KnownReleases(BTreeMap<i64, Known>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "KeptRelease")]
struct Known {
    name: String,
    /// What selected it; nothing where that was not noted down yet.
    by: Option<ChosenBy>,
}

/// What of a config selects a release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ChosenBy {
    projects: BTreeSet<String>,
    releases: BTreeSet<ReleaseKey>,
}

/// A known release as the agent's memory keeps it: at first that kept no more than the name.
#[derive(Deserialize)]
#[serde(untagged)]
enum KeptRelease {
    Name(String),
    Release { name: String, by: Option<ChosenBy> },
}

impl From<KeptRelease> for Known {
    fn from(kept: KeptRelease) -> Self {
        match kept {
            KeptRelease::Name(name) => Self { name, by: None },
            KeptRelease::Release { name, by } => Self { name, by },
        }
    }
}

impl ChosenBy {
    /// What `selection` still has of it.
    fn within(&self, selection: &Selection) -> Self {
        let projects = self.projects.iter().filter(|project| selection.projects.contains(project)).cloned().collect();
        let releases = self.releases.iter().filter(|key| selection.releases.contains(key)).cloned().collect();
        Self { projects, releases }
    }

    fn is_empty(&self) -> bool {
        self.projects.is_empty() && self.releases.is_empty()
    }
}

impl Known {
    /// Why it is missing; nothing where the config or Release Manager says that it no longer counts. A config that no longer selects it says so as long
    /// as Release Manager still has it somewhere (`is_anywhere`): one that is gone altogether may have been lost by what made somebody edit the
    /// config, such as a project's new name. `rows` are those of its number that nothing selects, with their projects.
    fn missing(&self, id: i64, rows: &[(&str, &Release)], is_anywhere: bool, selection: &Selection) -> Option<String> {
        let by = self.by.as_ref().map(|by| by.within(selection));
        if by.as_ref().is_some_and(ChosenBy::is_empty) {
            return (!is_anywhere).then(|| {
                format!(
                    "release {} ({id}) is missing: no row of it is left, and the config no longer has what selected it; if that is right, confirm once \
                     with blat sync --allow-delete, else bring it back",
                    printable(&self.name)
                )
            });
        }
        // A key selects its release whatever the state; a project only those that are not closed.
        let is_by_key = by.as_ref().is_some_and(|by| !by.releases.is_empty());
        let is_done_with = |release: &Release| {
            (release.state == ReleaseState::Closed && !is_by_key) || (selection.only_s3sync && !release.s3sync)
        };
        if !rows.is_empty() && rows.iter().all(|(_, release)| is_done_with(release)) {
            return None;
        }
        let now = match rows.first() {
            None => "no row of it is left".to_owned(),
            Some((project, release)) => {
                format!("it is \"{}\" of project \"{}\" now", printable(&release.name), printable(project))
            }
        };
        Some(format!(
            "release {} ({id}) is missing: {now}; bring it back, close it or deselect it, or confirm once with blat sync --allow-delete",
            printable(&self.name)
        ))
    }
}

impl KnownReleases {
    /// Whether this release is one of them, as far as it is named.
    pub fn have(&self, id: Option<i64>, names: &[String]) -> bool {
        id.is_some_and(|id| self.0.contains_key(&id)) || self.0.values().any(|known| names.contains(&known.name))
    }

    /// Those among what `selection` chooses that have no package any more.
    pub(super) fn emptied(&self, catalog: &Catalog, selection: &Selection) -> Vec<String> {
        let empty: BTreeMap<i64, &str> = catalog
            .chosen(selection)
            .filter(|release| release.packages.is_empty() && self.0.contains_key(&release.id))
            .map(|release| (release.id, release.name.as_str()))
            .collect();
        let said = |(id, name): (i64, &str)| {
            format!(
                "release {} ({id}) had packages and has none now; if that is right, confirm once with blat sync --allow-delete",
                printable(name)
            )
        };
        empty.into_iter().map(said).collect()
    }

    /// Those that are not there to be chosen any more: their rows are gone or, where `selection` would choose them as before, moved.
    pub(super) fn vanished(&self, catalog: &Catalog, selection: &Selection) -> BTreeMap<i64, String> {
        let chosen: BTreeSet<i64> = catalog.chosen(selection).map(|release| release.id).collect();
        let mut rows: BTreeMap<i64, Vec<(&str, &Release)>> = BTreeMap::new();
        for project in &catalog.projects {
            for release in project.releases.iter().filter(|release| !chosen.contains(&release.id)) {
                rows.entry(release.id).or_default().push((&project.name, release));
            }
        }
        // A row that cannot be taken as it stands is one all the same.
        let odd: BTreeSet<i64> = catalog.rejected.iter().filter_map(OddRow::release).collect();
        let unchosen = self.0.iter().filter(|(id, _)| !chosen.contains(id));
        let missing = |(id, known): (&i64, &Known)| {
            let is_anywhere = rows.contains_key(id) || odd.contains(id);
            let rows = rows.get(id).map_or(&[][..], Vec::as_slice);
            known.missing(*id, rows, is_anywhere, selection).map(|why| (*id, why))
        };
        unchosen.filter_map(missing).collect()
    }

    /// What is known after a sync by this answer. A release that is empty or missing now stays known until that `is_confirmed`, and one that an
    /// odd row may have hidden stays known as well.
    #[must_use]
    pub fn after(&self, catalog: &Catalog, selection: &Selection, resolution: &Resolution, is_confirmed: bool) -> Self {
        let keeps_all = !resolution.odd.is_empty();
        let mut known = if keeps_all { self.0.clone() } else { BTreeMap::new() };
        if !is_confirmed {
            for id in self.vanished(catalog, selection).keys() {
                known.extend(self.0.get(id).map(|missing| (*id, missing.clone())));
            }
        }
        for project in &catalog.projects {
            for release in project.releases.iter().filter(|release| selection.chooses(project, release)) {
                let was_known = self.0.contains_key(&release.id);
                if release.packages.is_empty() && (is_confirmed || !was_known) {
                    if is_confirmed {
                        known.remove(&release.id);
                    }
                    continue;
                }
                let now = known.entry(release.id).or_insert_with(|| Known { name: String::new(), by: None });
                now.name.clone_from(&release.name);
                let by = now.by.get_or_insert_default();
                *by = by.within(selection);
                by.projects.extend(selection.projects.iter().find(|name| **name == project.name).cloned());
                by.releases.extend(selection.releases.iter().filter(|key| key.names(release)).cloned());
            }
        }
        Self(known)
    }
}
