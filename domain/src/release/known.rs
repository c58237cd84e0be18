//! Releases that are known to have had packages, so that one whose packages vanish is noticed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Catalog, Resolution, Selection};
use crate::text::printable;

/// The releases that brought packages to a target, by number, with their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KnownReleases(BTreeMap<i64, String>);

impl KnownReleases {
    /// Whether this release is one of them, as far as it is named.
    pub fn have(&self, id: Option<i64>, names: &[String]) -> bool {
        id.is_some_and(|id| self.0.contains_key(&id)) || self.0.values().any(|name| names.contains(name))
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

    /// What is known after a sync by this answer. A release that is empty now stays known until that `is_confirmed`, and one that an odd row
    /// may have hidden stays known as well.
    #[must_use]
    pub fn after(&self, catalog: &Catalog, selection: &Selection, resolution: &Resolution, is_confirmed: bool) -> Self {
        let keeps_all = !resolution.odd.is_empty();
        let mut known = if keeps_all { self.0.clone() } else { BTreeMap::new() };
        for release in catalog.chosen(selection) {
            let was_known = self.0.contains_key(&release.id);
            if !release.packages.is_empty() || (was_known && !is_confirmed) {
                known.insert(release.id, release.name.clone());
            } else if is_confirmed {
                known.remove(&release.id);
            }
        }
        Self(known)
    }
}
