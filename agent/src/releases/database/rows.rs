//! What the rows of a Release Manager's database mean. Nothing in them is trusted: what is not valid is reported and not used.

use std::collections::{BTreeMap, BTreeSet};

use blat_domain::package::name::PackageId;
use blat_domain::policy::release::row::{Cell, Columns, ReleaseRow, package, stray_package};
use blat_domain::policy::release::{About, Catalog, OddRow, Project, Release, Selection};
use blat_domain::util::text::printable;

/// The values of one row.
pub(super) type Cells<const N: usize> = [Cell; N];

/// What the query for projects gives.
pub(super) const PROJECT: [&str; 2] = ["project_id", "project_name"];
/// What the query for releases gives.
pub(super) const RELEASE: [&str; 5] = ["project_id", "release_id", "release_name", "state", "s3sync"];
/// What the query for packages gives.
pub(super) const PACKAGE: [&str; 3] = ["release_id", "package_name", "package_version"];
/// So many odd rows are remembered one by one. Where there are more, nobody can say any longer whom they concern.
const MOST_ODD: usize = 100_000;

/// A catalog that is being read: first the projects, then the releases, then packages.
#[derive(Default)]
pub(super) struct CatalogBuilder {
    /// All names that rows give a project: one, unless they contradict each other.
    projects: BTreeMap<i64, BTreeSet<String>>,
    /// What each row of a release says, with its project. It has no packages there.
    releases: BTreeMap<i64, Vec<(i64, Release)>>,
    packages: BTreeMap<i64, Vec<PackageId>>,
    odd: Odd,
}

/// The odd rows, as many as are remembered, and how many more there are.
#[derive(Default)]
struct Odd {
    rows: Vec<OddRow>,
    more: usize,
}

impl Odd {
    fn push(&mut self, row: OddRow) {
        if self.rows.len() < MOST_ODD {
            self.rows.push(row);
        } else {
            self.more += 1;
        }
    }

    fn into_rows(mut self) -> Vec<OddRow> {
        if self.more > 0 {
            let text = format!("{} more rows are not valid, beside the first {MOST_ODD}", self.more);
            self.rows.push(OddRow::invalid(About::Anything, text));
        }
        self.rows
    }
}

impl CatalogBuilder {
    pub(super) fn project(&mut self, [id, name]: Cells<2>) {
        let subject = format!("project {name}");
        match (id.id(), name.name()) {
            (Ok(id), Ok(name)) => {
                self.projects.entry(id).or_default().insert(name);
            }
            (Err(why), name) => {
                let about = About::Named { id: None, names: Vec::new(), projects: name.into_iter().collect() };
                self.odd.push(OddRow::invalid(about, format!("{subject}: its project_id {why}")));
            }
            // Nobody can select it by name; who selects a release of it is hindered by that.
            (Ok(id), Err(why)) => {
                let about = About::Named { id: None, names: Vec::new(), projects: Vec::new() };
                self.odd.push(OddRow::invalid(about, format!("project {id}: its project_name {why}")));
            }
        }
    }

    pub(super) fn release(&mut self, [project, id, name, state, s3sync]: Cells<5>) {
        let project = project.id().map_err(|why| format!("its project_id {why}"));
        let names = project.as_ref().ok().and_then(|project| self.projects.get(project));
        let of: Result<Vec<String>, String> = match (&project, names) {
            (_, Some(names)) => Ok(names.iter().cloned().collect()),
            (Ok(project), None) => Err(format!("there is no project {project}, which it is said to be of")),
            (Err(why), None) => Err(why.clone()),
        };
        let row = ReleaseRow { id, name, state, s3sync };
        let read = row.read(Columns::TABLE, of.as_deref().map_err(Clone::clone));
        match (read, project) {
            (Ok(release), Ok(project)) => {
                let rows = self.releases.entry(release.id).or_default();
                let row = (project, release);
                if !rows.contains(&row) {
                    rows.push(row);
                }
            }
            (Ok(_), Err(_)) => {}
            (Err(odd), _) => self.odd.push(odd),
        }
    }

    /// The releases whose packages are to be read.
    pub(super) fn chosen(&self, selection: &Selection) -> Vec<i64> {
        let chooses = |(project, release): &(i64, Release)| {
            let of = |name: &String| Project { name: name.clone(), releases: Vec::new() };
            self.projects.get(project).into_iter().flatten().any(|name| selection.chooses(&of(name), release))
        };
        self.releases.iter().filter(|(_, rows)| rows.iter().any(chooses)).map(|(id, _)| *id).collect()
    }

    /// A package of one of the releases that were `asked` for, in order, or of a release that nobody can make out. A database gives others as well
    /// where it writes ids otherwise, such as `7.00`.
    pub(super) fn package(&mut self, asked: &[i64], [release, name, version]: Cells<3>) {
        match release.id() {
            Ok(id) if asked.binary_search(&id).is_err() => {}
            Ok(id) => {
                // Of a release that does not exist, or that is odd itself, which is reported already.
                let Some(rows) = self.releases.get(&id) else { return };
                let of = rows.first().map(|(_, release)| release.name.as_str()).unwrap_or_default();
                match package(name, version, id, of) {
                    Ok(package) => {
                        let packages = self.packages.entry(id).or_default();
                        let package = package.beside(packages.last());
                        packages.push(package);
                    }
                    Err(odd) => self.odd.push(odd),
                }
            }
            // Never taken for one of an odd release that has the same in place of its id: two NULLs, or two times `n/a`, say nothing of each other.
            Err(why) => self.odd.push(stray_package(&release, &name, &why)),
        }
    }

    /// All that was read.
    pub(super) fn catalog(mut self) -> Catalog {
        for (id, names) in self.projects.iter().filter(|(_, names)| names.len() > 1) {
            let said: Vec<String> = names.iter().map(|name| printable(name)).collect();
            let about = About::Named { id: None, names: Vec::new(), projects: names.iter().cloned().collect() };
            let text = format!("project {id}: its rows differ in project_name ({}); make them agree", said.join(", "));
            self.odd.push(OddRow::contradiction(about, text));
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
        Catalog { projects, rejected: self.odd.into_rows(), ..Catalog::default() }.united()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells<const N: usize>(words: [&str; N]) -> Cells<N> {
        words.map(|word| if word == "NULL" { Cell::Missing } else { Cell::Text(word.to_owned()) })
    }

    #[test]
    fn rows_that_make_no_sense_are_told_and_not_used() {
        let mut builder = CatalogBuilder::default();
        for row in [["1", "P"], ["NULL", "Q"], ["x", "R"], ["2", "NULL"]] {
            builder.project(cells(row));
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
            builder.release(cells(row));
        }
        let selection = Selection { projects: vec!["P".into()], ..Selection::default() };
        assert_eq!(builder.chosen(&selection), [10]);
        for row in [["10", "a", "1"], ["10", "../a", "1"], ["10", "a", "NULL"], ["11", "b", "1"], ["NULL", "c", "1"]] {
            builder.package(&[10, 11], cells(row));
        }
        let catalog = builder.catalog();
        // The package of release 11 concerns those whom the odd row of that release concerns.
        assert_eq!(catalog.rejected.len(), 3 + 7 + 3, "{:#?}", catalog.rejected);
        assert!(!catalog.rejected.iter().any(|row| row.text.contains('\u{1b}')));
        let [project] = &catalog.projects[..] else { panic!("{:?}", catalog.projects) };
        let [release] = &project.releases[..] else { panic!("{project:?}") };
        assert_eq!((release.id, release.s3sync, release.packages.len()), (10, true, 1));
    }
}
