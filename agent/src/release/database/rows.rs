//! What the rows of a Release Manager's database mean. Nothing in them is trusted: what is not valid is told, not used.

use std::collections::BTreeMap;

use blat_domain::name::PackageId;
use blat_domain::release::{Catalog, Project, Release, ReleaseState, Selection};
use blat_domain::text::printable;

/// The values of one row, as text; none where it is NULL.
pub(super) type Cells<const N: usize> = [Option<String>; N];

/// What the query for projects gives.
pub(super) const PROJECT: [&str; 2] = ["project_id", "project_name"];
/// What the query for releases gives.
pub(super) const RELEASE: [&str; 5] = ["project_id", "release_id", "release_name", "state", "s3sync"];
/// What the query for packages gives.
pub(super) const PACKAGE: [&str; 3] = ["release_id", "package_name", "package_version"];

/// A catalog that is being read: first the projects, then the releases, then packages.
#[derive(Default)]
pub(super) struct Reading {
    projects: BTreeMap<i64, String>,
    /// Releases with their project.
    releases: BTreeMap<i64, (i64, Release)>,
    rejected: Vec<String>,
}

impl Reading {
    pub(super) fn project(&mut self, [id, name]: Cells<2>) {
        match (number(id.as_deref()), name) {
            (Ok(id), Some(name)) => {
                self.projects.insert(id, name);
            }
            (Err(why), name) => self.rejected.push(format!("project {}: its project_id {why}", shown(name.as_deref()))),
            (Ok(id), None) => self.rejected.push(format!("project {id}: it has no project_name")),
        }
    }

    pub(super) fn release(&mut self, [project, id, name, state, s3sync]: Cells<5>) {
        let read = || -> Result<(i64, i64, ReleaseState, bool), String> {
            let project = number(project.as_deref()).map_err(|why| format!("its project_id {why}"))?;
            let id = number(id.as_deref()).map_err(|why| format!("its release_id {why}"))?;
            if !self.projects.contains_key(&project) {
                return Err(format!("there is no project {project}, which it is said to be of"));
            }
            Ok((project, id, release_state(state.as_deref())?, flag(s3sync.as_deref())?))
        };
        match (read(), name) {
            (Ok((project, id, state, s3sync)), Some(name)) => {
                self.releases.insert(id, (project, Release { id, name, state, s3sync, packages: Vec::new() }));
            }
            (Ok((_, id, ..)), None) => self.rejected.push(format!("release {id}: it has no release_name")),
            (Err(why), name) => self.rejected.push(format!("release {}: {why}", shown(name.as_deref()))),
        }
    }

    /// The releases whose packages are to be read.
    pub(super) fn chosen(&self, selection: &Selection) -> Vec<i64> {
        let chosen = self.releases.values().filter(|(project, release)| {
            let name = self.projects.get(project).cloned().unwrap_or_default();
            selection.chooses(&Project { name, releases: Vec::new() }, release)
        });
        chosen.map(|(_, release)| release.id).collect()
    }

    pub(super) fn package(&mut self, [release, name, version]: Cells<3>) {
        let release = number(release.as_deref()).ok().and_then(|id| self.releases.get_mut(&id));
        let Some((_, release)) = release else {
            // Only rows of known releases were asked for.
            self.rejected.push(format!("package {}: it is of no release that was asked for", shown(name.as_deref())));
            return;
        };
        match PackageId::new(name.as_deref().unwrap_or_default(), version.as_deref().unwrap_or_default()) {
            Ok(package) => release.packages.push(package),
            Err(error) => self.rejected.push(format!("release {}: {error}", printable(&release.name))),
        }
    }

    /// All that was read.
    pub(super) fn catalog(self) -> Catalog {
        let mut projects: BTreeMap<i64, Project> =
            self.projects.into_iter().map(|(id, name)| (id, Project { name, releases: Vec::new() })).collect();
        for (project, release) in self.releases.into_values() {
            if let Some(project) = projects.get_mut(&project) {
                project.releases.push(release);
            }
        }
        Catalog { projects: projects.into_values().collect(), rejected: self.rejected, ..Catalog::default() }
    }
}

fn shown(text: Option<&str>) -> String {
    text.map_or_else(|| "without a name".into(), |text| format!("\"{}\"", printable(text)))
}

fn number(text: Option<&str>) -> Result<i64, String> {
    let Some(text) = text else { return Err("is missing".into()) };
    text.parse().map_err(|_| format!("is \"{}\", which is no whole number", printable(text)))
}

fn release_state(text: Option<&str>) -> Result<ReleaseState, String> {
    match text {
        Some("open") => Ok(ReleaseState::Open),
        Some("restricted") => Ok(ReleaseState::Restricted),
        Some("closed") => Ok(ReleaseState::Closed),
        Some(_) | None => Err(format!("its state is {}: expected open, restricted or closed", shown(text))),
    }
}

/// PostgreSQL writes a boolean as `t` or `f`.
fn flag(text: Option<&str>) -> Result<bool, String> {
    match text {
        Some("1" | "t" | "true") => Ok(true),
        Some("0" | "f" | "false") | None => Ok(false),
        Some(_) => Err(format!("its s3sync is {}: expected 0 or 1", shown(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells<const N: usize>(words: [&str; N]) -> Cells<N> {
        words.map(|word| (word != "NULL").then(|| word.to_owned()))
    }

    #[test]
    fn rows_that_make_no_sense_are_told_and_not_used() {
        let mut reading = Reading::default();
        for row in [["1", "P"], ["NULL", "Q"], ["x", "R"], ["2", "NULL"]] {
            reading.project(cells(row));
        }
        for row in [
            ["1", "10", "good", "open", "t"],
            ["1", "11", "no state", "NULL", "0"],
            ["1", "12", "odd state", "Open\u{1b}", "0"],
            ["9", "13", "no project", "open", "0"],
            ["1", "1e3", "odd id", "open", "0"],
            ["1", "14", "NULL", "open", "0"],
            ["1", "15", "odd flag", "open", "2"],
            ["1", "99999999999999999999", "huge id", "open", "0"],
        ] {
            reading.release(cells(row));
        }
        let selection = Selection { projects: vec!["P".into()], ..Selection::default() };
        assert_eq!(reading.chosen(&selection), [10]);
        for row in [["10", "a", "1"], ["10", "../a", "1"], ["10", "a", "NULL"], ["11", "b", "1"], ["NULL", "c", "1"]] {
            reading.package(cells(row));
        }
        let catalog = reading.catalog();
        assert_eq!(catalog.rejected.len(), 3 + 7 + 4, "{:#?}", catalog.rejected);
        assert!(!catalog.rejected.concat().contains('\u{1b}'));
        let [project] = &catalog.projects[..] else { panic!("{:?}", catalog.projects) };
        let [release] = &project.releases[..] else { panic!("{project:?}") };
        assert_eq!((release.id, release.s3sync, release.packages.len()), (10, true, 1));
    }
}
