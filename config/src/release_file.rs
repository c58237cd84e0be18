//! The form in which `file:` and `command:` give projects, releases and packages: as YAML, or as JSON.

mod loose;

use blat_domain::package::name::PackageId;
use blat_domain::policy::release::row::{Cell, Columns, ReleaseRow, odd_package};
use blat_domain::policy::release::{About, Catalog, OddRow, Project, Release};
use blat_domain::util::text::{printable, unmarked};
use serde::Deserialize;
use serde_yaml::Options;

use crate::document::wording;
use loose::{Entry, Loose, Many, Scalar, given};

/// The most values that a file may hold, once its aliases are followed.
const MOST_NODES: usize = 20_000_000;

/// Keys that are not known are mistakes in the form, and fail the whole; a value that is none hinders only those whom it may concern.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound = "S: Scalar")]
struct File<S> {
    #[serde(default = "Vec::new")]
    projects: Vec<Entry<FileProject<S>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound = "S: Scalar")]
struct FileProject<S> {
    #[serde(default, deserialize_with = "given")]
    name: Option<S>,
    #[serde(default, deserialize_with = "given")]
    releases: Option<Many<Entry<FileRelease<S>>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound = "S: Scalar")]
struct FileRelease<S> {
    #[serde(default, deserialize_with = "given")]
    id: Option<S>,
    #[serde(default, deserialize_with = "given")]
    name: Option<S>,
    #[serde(default, deserialize_with = "given")]
    state: Option<S>,
    #[serde(default, deserialize_with = "given")]
    s3sync: Option<S>,
    #[serde(default, deserialize_with = "given")]
    packages: Option<Many<Loose>>,
}

/// Reads a catalog from YAML text.
///
/// # Errors
/// What is wrong with the text as a whole, with its line and column. A value that is not valid is no error of the whole: what it is of
/// is listed in [`Catalog::rejected`].
pub fn parse(text: &str) -> Result<Catalog, String> {
    let mut options = Options::default();
    options.with_snippet = false;
    if let Some(budget) = &mut options.budget {
        // Release Manager may well know a million packages; the size of the file is its reader's bound.
        (budget.max_nodes, budget.max_events) = (MOST_NODES, 2 * MOST_NODES);
    }
    let text = unmarked(text);
    let file: File<loose::Yaml> =
        serde_yaml::from_str_with_options(text, options).map_err(|error: serde_yaml::Error| said(&error))?;
    Ok(Reading { text, catalog: Catalog::default() }.read(file))
}

/// What is wrong with the text, and where, in words that say nothing of the library that reads it.
fn said(error: &serde_yaml::Error) -> String {
    let error = error.without_snippet();
    let place = error.location().map(|at| format!(" at line {}, column {}", at.line(), at.column()));
    wording(error, "file of releases") + &place.unwrap_or_default()
}

/// Reads a catalog from JSON bytes of the same form. Half of a JSON text is no JSON text, so a torn one is never taken for
/// a shorter one.
///
/// # Errors
/// As [`parse`].
pub fn parse_json(bytes: &[u8]) -> Result<Catalog, String> {
    // As before YAML, which editors and shells of Windows write it to.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let file: File<loose::Json> = serde_json::from_slice(bytes).map_err(|error| printable(&error.to_string()))?;
    Ok(Reading { text: "", catalog: Catalog::default() }.read(file))
}

/// A catalog that is being read from a text.
struct Reading<'t> {
    text: &'t str,
    catalog: Catalog,
}

impl Reading<'_> {
    fn read<S: Scalar>(mut self, file: File<S>) -> Catalog {
        for (index, project) in file.projects.into_iter().enumerate() {
            match project {
                Entry::Good(project) => self.project(index, project),
                Entry::Odd(kind) => {
                    self.odd(About::Anything, format!("project number {} is {kind}; expected a mapping", index + 1))
                }
            }
        }
        self.catalog.united()
    }

    /// What is no list of releases, or no release, may have been one that is selected by its number, or that is of other projects too: it is about
    /// anything, whatever project it stands in.
    fn odd(&mut self, about: About, text: String) {
        self.catalog.rejected.push(OddRow::invalid(about, text));
    }

    fn project<S: Scalar>(&mut self, index: usize, project: FileProject<S>) {
        let name = project.name.map(|name| name.cell(self.text)).unwrap_or_default().name();
        let subject = match &name {
            Ok(name) => format!("project \"{}\"", printable(name)),
            Err(why) => format!("project number {}: its name {why}", index + 1),
        };
        let of: Result<&[String], String> = match &name {
            Ok(name) => Ok(std::slice::from_ref(name)),
            Err(why) => Err(format!("the name of its project {why}")),
        };
        if name.is_err() {
            // Whoever selects it misses it, and each of its releases says by itself whom it hinders. Without a list nobody knows which they were.
            let about = match &project.releases {
                Some(Many::Good(_)) => About::Named { id: None, names: Vec::new(), projects: Vec::new() },
                Some(Many::Odd(_)) | None => About::Anything,
            };
            self.odd(about, subject.clone());
        }
        let mut releases = Vec::new();
        match project.releases {
            None => {}
            Some(Many::Odd(kind)) => {
                self.odd(About::Anything, format!("{subject}: its releases are {kind}; expected a list"));
            }
            Some(Many::Good(entries)) => {
                for (index, entry) in entries.into_iter().enumerate() {
                    match entry {
                        Entry::Good(release) => releases.extend(self.release(release, of.clone())),
                        Entry::Odd(kind) => {
                            let text =
                                format!("{subject}: its release number {} is {kind}; expected a mapping", index + 1);
                            self.odd(About::Anything, text);
                        }
                    }
                }
            }
        }
        if let Ok(name) = name {
            self.catalog.projects.push(Project { name, releases });
        }
    }

    fn release<S: Scalar>(&mut self, release: FileRelease<S>, of: Result<&[String], String>) -> Option<Release> {
        let cell = |scalar: Option<S>| scalar.map(|scalar| scalar.cell(self.text)).unwrap_or_default();
        let row = ReleaseRow {
            id: cell(release.id),
            name: cell(release.name),
            // A release is open unless something else is said, and null is something else.
            state: release.state.map_or_else(|| Cell::Text("open".into()), |state| state.cell(self.text)),
            s3sync: release.s3sync.map(Scalar::flag).unwrap_or_default(),
        };
        let mut release_read = match row.read(Columns::FILE, of) {
            Ok(read) => read,
            Err(odd) => {
                self.catalog.rejected.push(odd);
                return None;
            }
        };
        self.packages(&mut release_read, release.packages);
        Some(release_read)
    }

    fn packages(&mut self, release: &mut Release, packages: Option<Many<Loose>>) {
        let odd = |why: &str| odd_package(release.id, &release.name, why);
        match packages {
            None => {}
            Some(Many::Odd(kind)) => {
                self.catalog.rejected.push(odd(&format!("its packages are {kind}; expected a list")));
            }
            Some(Many::Good(entries)) => {
                let mut packages: Vec<PackageId> = Vec::with_capacity(entries.len());
                for entry in entries {
                    let read = match entry {
                        Loose(Cell::Text(text)) => {
                            text.trim_end_matches(' ').parse::<PackageId>().map_err(|error| error.to_string())
                        }
                        Loose(cell) => Err(format!("one of its packages is {cell}; expected NAME@VERSION")),
                    };
                    match read {
                        Ok(package) => packages.push(package.beside(packages.last())),
                        Err(why) => self.catalog.rejected.push(odd(&why)),
                    }
                }
                release.packages = packages;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blat_domain::policy::release::{KnownReleases, ReleaseKey, ReleaseState, Selection, resolve};

    #[test]
    fn values_that_come_from_columns_are_read_as_from_a_database() {
        let rows = r#"{"id": "7  ", "name": "R ", "state": "CLOSED", "s3sync": "Y", "packages": ["core@1  "]}"#;
        let json = format!(r#"{{"projects": [{{"name": "P  ", "releases": [{rows}]}}]}}"#);
        for catalog in [parse(&json), parse_json(json.as_bytes())] {
            let catalog = catalog.expect("valid");
            assert_eq!(catalog.rejected, []);
            let project = &catalog.projects[0];
            let release = &project.releases[0];
            assert_eq!((project.name.as_str(), release.id, release.name.as_str()), ("P", 7, "R"));
            assert!(release.s3sync && release.state == ReleaseState::Closed);
            assert_eq!(release.packages[0].to_string(), "core@1");
        }
    }

    #[test]
    fn the_documented_form_is_read() {
        let text = "projects:\n  - name: Perth Metro\n    releases:\n      - {id: 4711, name: Perth 7.1, state: restricted, \
                    s3sync: true, packages: [core_devl@2.1.0.cr, tools@1.3.0, ../x@1]}\n      - {id: 2, name: P}\n";
        let catalog = parse(text).expect("the documented example");
        let release = &catalog.projects[0].releases[0];
        assert_eq!((release.id, release.state, release.packages.len()), (4711, ReleaseState::Restricted, 2));
        assert_eq!(catalog.projects[0].releases[1].state, ReleaseState::Open);
        assert_eq!(catalog.rejected.len(), 1);
    }

    #[test]
    fn what_is_not_of_the_form_says_where() {
        for text in ["projects: 5", "projects:\n  - nam: x\n", "project: []", "projects:\n - {name: a, name: b}"] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(" at line "), "{error}");
        }
        for (text, words) in [
            ("projects: []\nprojects: []", "the key projects is given twice at line 2, column 1"),
            ("projects: []\n---\nprojects: []", "a second document begins here: a file of releases is one document"),
            ("projects:\n - {name: !!binary /w==}", "is no text: write it as text"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(words) && !error.contains("Options") && !error.contains("from_str"), "{error}");
        }
    }

    #[test]
    fn json_of_the_same_form_is_read_and_half_of_it_is_not() {
        let text =
            br#"{"projects": [{"name": "P", "releases": [{"id": 1, "name": "R", "packages": ["a@1", "-x@1"]}]}]}"#;
        let catalog = parse_json(text).expect("the form");
        assert_eq!((catalog.projects[0].releases[0].packages.len(), catalog.rejected.len()), (1, 1));
        assert!(
            parse_json(&[b"\xef\xbb\xbf", &text[..]].concat()).is_ok(),
            "with the mark that shells of Windows write"
        );
        for end in 0..text.len() {
            assert!(parse_json(&text[..end]).is_err(), "the first {end} bytes");
        }
        assert!(parse_json(b"{\"projects\": []}\nWARNING: half of the rows\n").is_err(), "text after it");
    }

    /// Both forms of this text, which is JSON and so YAML too.
    fn both(text: &str) -> [Catalog; 2] {
        [parse(text).expect("YAML"), parse_json(text.as_bytes()).expect("JSON")]
    }

    #[test]
    fn a_value_that_is_none_is_an_odd_row_of_what_it_belongs_to_and_fails_nothing_else() {
        let good = r#"{"id": 1, "name": "R", "packages": ["a@1"]}"#;
        let hinders = |catalog: &Catalog, project: &str| {
            let selection = Selection { projects: vec![project.into()], ..Selection::default() };
            !resolve(catalog, &selection, &KnownReleases::default()).odd.is_empty()
        };
        for odd in [
            r#"{"id": null, "name": "X"}"#,
            r#"{"name": "X"}"#,
            r#"{"id": "x", "name": "X"}"#,
            r#"{"id": 1.5, "name": "X"}"#,
            r#"{"id": "02", "name": "X"}"#,
            r#"{"id": [2], "name": "X"}"#,
            r#"{"id": 2, "name": null}"#,
            r#"{"id": 2}"#,
            r#"{"id": 2, "name": {"a": [1]}}"#,
            r#"{"id": 2, "name": "X", "state": null}"#,
            r#"{"id": 2, "name": "X", "state": "opened"}"#,
            r#"{"id": 2, "name": "X", "state": 5}"#,
            r#"{"id": 2, "name": "X", "s3sync": 2}"#,
            r#"{"id": 2, "name": "X", "s3sync": "maybe"}"#,
            r#"{"id": 2, "name": "X", "packages": null}"#,
            r#"{"id": 2, "name": "X", "packages": {"a": 1}}"#,
            r#"{"id": 2, "name": "X", "packages": [null]}"#,
            r#"{"id": 2, "name": "X", "packages": [["a@1"]]}"#,
            r#"{"id": 2, "name": "X", "packages": [1.10]}"#,
        ] {
            let text = format!(
                r#"{{"projects": [{{"name": "P", "releases": [{good}]}}, {{"name": "Q", "releases": [{odd}]}}]}}"#
            );
            for catalog in both(&text) {
                assert_eq!(catalog.rejected.len(), 1, "{odd}: {:?}", catalog.rejected);
                assert_eq!(catalog.projects[0].releases[0].packages.len(), 1, "{odd}");
                assert!(hinders(&catalog, "Q") && !hinders(&catalog, "P"), "{odd}: {:?}", catalog.rejected);
            }
        }
    }

    #[test]
    fn a_project_that_is_none_or_has_no_name_hinders_those_who_had_its_releases() {
        for odd in [
            r#"{"name": null, "releases": [{"id": 7, "name": "S"}]}"#,
            r#"{"releases": [{"id": 7, "name": "S"}]}"#,
            r#"{"name": ["Q"], "releases": [{"id": 7, "name": "S"}]}"#,
        ] {
            let text = format!(r#"{{"projects": [{{"name": "P", "releases": []}}, {odd}]}}"#);
            for catalog in both(&text) {
                let selection = |key| Selection { releases: vec![key], ..Selection::default() };
                let by_id = resolve(&catalog, &selection(ReleaseKey::Id(7)), &KnownReleases::default());
                let other = resolve(&catalog, &selection(ReleaseKey::Id(8)), &KnownReleases::default());
                assert_eq!((by_id.odd.len(), other.odd.len()), (1, 0), "{odd}: {:?}", catalog.rejected);
            }
        }
    }

    /// A release may stand in two projects, or twice in one, with other packages each time: what is lost of it may be anybody's.
    #[test]
    fn an_entry_that_does_not_say_which_release_it_is_hinders_all() {
        for odd in [
            "null",
            "5",
            "[]",
            "[1]",
            "{}",
            r#"{"name": null}"#,
            r#"{"name": 5, "releases": 5}"#,
            r#"{"name": "Q", "releases": null}"#,
            r#"{"name": "Q", "releases": 5}"#,
            r#"{"name": "Q", "releases": [null]}"#,
            r#"{"name": "Q", "releases": [5]}"#,
            r#"{"name": "Q", "releases": ["X"]}"#,
            r#"{"name": "Q", "releases": [[{"id": 7, "name": "R"}]]}"#,
            r#"{"name": "Q", "releases": [{}]}"#,
            r#"{"name": "Q", "releases": [{"packages": ["c@1"]}]}"#,
            r#"{"name": null, "releases": [null]}"#,
            r#"{"name": "P", "releases": [{"id": 7, "name": "R"}, null]}"#,
        ] {
            let good = r#"{"name": "P", "releases": [{"id": 7, "name": "R", "packages": ["a@1"]}]}"#;
            for catalog in both(&format!(r#"{{"projects": [{good}, {odd}]}}"#)) {
                assert_eq!(&*catalog.projects[0].name, "P", "{odd}");
                for selection in [
                    Selection { releases: vec![ReleaseKey::Id(7)], ..Selection::default() },
                    Selection { projects: vec!["P".into()], ..Selection::default() },
                ] {
                    let resolution = resolve(&catalog, &selection, &KnownReleases::default());
                    assert!(!resolution.odd.is_empty(), "{odd}: {selection:?}");
                }
            }
        }
    }

    #[test]
    fn plain_scalars_of_yaml_are_taken_as_they_are_written_and_numbers_of_json_are_no_names() {
        let text = "projects:\n  - name: 7.10\n    releases:\n      - {id: 1, name: 1.10, s3sync: yes}\n      - {id: '2', name: no, s3sync: off}\n";
        let catalog = parse(text).expect("YAML");
        assert_eq!((catalog.rejected.len(), &*catalog.projects[0].name), (0, "7.10"), "{:?}", catalog.rejected);
        let releases: Vec<_> = catalog.projects[0].releases.iter().map(|r| (r.id, &*r.name, r.s3sync)).collect();
        assert_eq!(releases, [(1, "1.10", true), (2, "no", false)]);
        let json = br#"{"projects": [{"name": "P", "releases": [{"id": 1, "name": 1.10}, {"id": "2", "name": "R"}]}]}"#;
        let catalog = parse_json(json).expect("JSON");
        assert!(
            catalog.rejected[0].text.contains("its name is the number 1.1; expected text"),
            "{:?}",
            catalog.rejected
        );
        assert_eq!(catalog.projects[0].releases[0].id, 2);
    }
}
