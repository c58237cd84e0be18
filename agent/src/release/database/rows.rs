//! What the rows of a Release Manager's database mean. Nothing in them is trusted: what is not valid is told, not used.

use std::collections::{BTreeMap, BTreeSet};

use blat_domain::name::PackageId;
use blat_domain::release::{About, Catalog, OddRow, Project, Release, ReleaseState, Selection};
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
    /// All names that rows give a project: one, unless they contradict each other.
    projects: BTreeMap<i64, BTreeSet<String>>,
    /// What each row of a release says, with its project. It has no packages there.
    releases: BTreeMap<i64, Vec<(i64, Release)>>,
    packages: BTreeMap<i64, Vec<PackageId>>,
    rejected: Vec<OddRow>,
}

impl Reading {
    pub(super) fn project(&mut self, [id, name]: Cells<2>) {
        match (number(id.as_deref()), name) {
            (Ok(id), Some(name)) => {
                self.projects.entry(id).or_default().insert(name);
            }
            (Err(why), name) => {
                let text = format!("project {}: its project_id {why}", shown(name.as_deref()));
                let about = About::Named { id: None, names: Vec::new(), projects: name.into_iter().collect() };
                self.rejected.push(OddRow::invalid(about, text));
            }
            // Nobody can select it by name; who selects a release of it is hindered by that.
            (Ok(id), None) => {
                let about = About::Named { id: None, names: Vec::new(), projects: Vec::new() };
                self.rejected.push(OddRow::invalid(about, format!("project {id}: it has no project_name")));
            }
        }
    }

    pub(super) fn release(&mut self, [project, id, name, state, s3sync]: Cells<5>) {
        let (project, id) = (number(project.as_deref()), number(id.as_deref()));
        let read = || -> Result<(i64, i64, ReleaseState, bool), String> {
            let project = project.clone().map_err(|why| format!("its project_id {why}"))?;
            let id = id.clone().map_err(|why| format!("its release_id {why}"))?;
            if !self.projects.contains_key(&project) {
                return Err(format!("there is no project {project}, which it is said to be of"));
            }
            Ok((project, id, release_state(state.as_deref())?, flag(s3sync.as_deref())?))
        };
        let why = match (read(), name.clone()) {
            (Ok((project, id, state, s3sync)), Some(name)) => {
                let row = (project, Release { id, name, state, s3sync, packages: Vec::new() });
                let rows = self.releases.entry(id).or_default();
                if !rows.contains(&row) {
                    rows.push(row);
                }
                return;
            }
            (Ok(_), None) => "it has no release_name".to_owned(),
            (Err(why), _) => why,
        };
        let number = id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
        let text = format!("release {}{number}: {why}", shown(name.as_deref()));
        let projects = project.ok().and_then(|project| self.projects.get(&project)).into_iter().flatten().cloned();
        let (names, projects): (Vec<_>, Vec<_>) = (name.into_iter().collect(), projects.collect());
        let about = match id {
            // It says neither which release it is nor whose.
            Err(_) if names.is_empty() && projects.is_empty() => About::Anything,
            id => About::Named { id: id.ok(), names, projects },
        };
        self.rejected.push(OddRow::invalid(about, text));
    }

    /// The releases whose packages are to be read.
    pub(super) fn chosen(&self, selection: &Selection) -> Vec<i64> {
        let chooses = |(project, release): &(i64, Release)| {
            let of = |name: &String| Project { name: name.clone(), releases: Vec::new() };
            self.projects.get(project).into_iter().flatten().any(|name| selection.chooses(&of(name), release))
        };
        self.releases.iter().filter(|(_, rows)| rows.iter().any(chooses)).map(|(id, _)| *id).collect()
    }

    pub(super) fn package(&mut self, [release, name, version]: Cells<3>) {
        let release = number(release.as_deref()).ok().and_then(|id| self.releases.get_key_value(&id));
        let Some((id, rows)) = release else {
            // Only rows of known releases were asked for.
            let text = format!("package {}: it is of no release that was asked for", shown(name.as_deref()));
            self.rejected.push(OddRow::invalid(About::Anything, text));
            return;
        };
        match PackageId::new(name.as_deref().unwrap_or_default(), version.as_deref().unwrap_or_default()) {
            Ok(package) => self.packages.entry(*id).or_default().push(package),
            Err(error) => {
                let of = rows.first().map(|(_, release)| printable(&release.name)).unwrap_or_default();
                let text = format!("release {of} ({id}): {error}");
                self.rejected.push(OddRow::invalid(About::PackagesOf(*id), text));
            }
        }
    }

    /// All that was read.
    pub(super) fn catalog(mut self) -> Catalog {
        for (id, names) in self.projects.iter().filter(|(_, names)| names.len() > 1) {
            let said: Vec<String> = names.iter().map(|name| printable(name)).collect();
            let about = About::Named { id: None, names: Vec::new(), projects: names.iter().cloned().collect() };
            let text = format!("project {id}: its rows differ in project_name ({}); make them agree", said.join(", "));
            self.rejected.push(OddRow::contradiction(about, text));
        }
        let mut projects: BTreeMap<(i64, &String), Project> = BTreeMap::new();
        for (id, names) in &self.projects {
            for name in names {
                projects.insert((*id, name), Project { name: name.clone(), releases: Vec::new() });
            }
        }
        for (id, rows) in self.releases {
            let packages = self.packages.remove(&id).unwrap_or_default();
            for (project, release) in rows {
                for name in self.projects.get(&project).into_iter().flatten() {
                    if let Some(project) = projects.get_mut(&(project, name)) {
                        project.releases.push(Release { packages: packages.clone(), ..release.clone() });
                    }
                }
            }
        }
        let projects = projects.into_values().collect();
        Catalog { projects, rejected: self.rejected, ..Catalog::default() }.united()
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
        assert!(!catalog.rejected.iter().any(|row| row.text.contains('\u{1b}')));
        let [project] = &catalog.projects[..] else { panic!("{:?}", catalog.projects) };
        let [release] = &project.releases[..] else { panic!("{project:?}") };
        assert_eq!((release.id, release.s3sync, release.packages.len()), (10, true, 1));
    }
}
