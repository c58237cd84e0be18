//! The form in which `file:` and `command:` give projects, releases and packages: as YAML, or as JSON.

use blat_domain::name::PackageId;
use blat_domain::release::{About, Catalog, OddRow, Project, Release, ReleaseState};
use blat_domain::text::printable;
use serde::Deserialize;
use serde_yaml::Options;

/// The most values that a file may hold, once its aliases are followed.
const MOST_NODES: usize = 20_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    projects: Vec<FileProject>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileProject {
    name: String,
    #[serde(default)]
    releases: Vec<FileRelease>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRelease {
    id: i64,
    name: String,
    #[serde(default = "open")]
    state: ReleaseState,
    #[serde(default)]
    s3sync: bool,
    #[serde(default)]
    packages: Vec<String>,
}

fn open() -> ReleaseState {
    ReleaseState::Open
}

/// Reads a catalog from YAML text.
///
/// # Errors
/// What is wrong with the text as a whole, with its line and column. A package whose name is not valid is no error of the whole:
/// it is listed in [`Catalog::rejected`].
pub fn parse(text: &str) -> Result<Catalog, String> {
    let mut options = Options::default();
    options.with_snippet = false;
    if let Some(budget) = &mut options.budget {
        // Release Manager may well know a million packages; the size of the file is its reader's bound.
        (budget.max_nodes, budget.max_events) = (MOST_NODES, 2 * MOST_NODES);
    }
    let file: File = serde_yaml::from_str_with_options(text, options).map_err(|error| printable(&error.to_string()))?;
    Ok(catalog(file))
}

/// Reads a catalog from JSON bytes of the same form. Half of a JSON text is no JSON text, so a torn one is never taken for
/// a shorter one.
///
/// # Errors
/// As [`parse`].
pub fn parse_json(bytes: &[u8]) -> Result<Catalog, String> {
    serde_json::from_slice(bytes).map(catalog).map_err(|error| printable(&error.to_string()))
}

fn catalog(file: File) -> Catalog {
    let mut catalog = Catalog::default();
    for project in file.projects {
        let mut releases = Vec::new();
        for release in project.releases {
            let mut packages: Vec<PackageId> = Vec::with_capacity(release.packages.len());
            for text in release.packages {
                match text.parse::<PackageId>() {
                    Ok(package) => packages.push(package.beside(packages.last())),
                    Err(error) => catalog.rejected.push(OddRow::invalid(
                        About::PackagesOf(release.id),
                        format!("release {} ({}): {error}", printable(&release.name), release.id),
                    )),
                }
            }
            releases.push(Release {
                id: release.id,
                name: release.name,
                state: release.state,
                s3sync: release.s3sync,
                packages,
            });
        }
        catalog.projects.push(Project { name: project.name, releases });
    }
    catalog.united()
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert!(error.contains("line"), "{error}");
        }
    }

    #[test]
    fn json_of_the_same_form_is_read_and_half_of_it_is_not() {
        let text =
            br#"{"projects": [{"name": "P", "releases": [{"id": 1, "name": "R", "packages": ["a@1", "-x@1"]}]}]}"#;
        let catalog = parse_json(text).expect("the form");
        assert_eq!((catalog.projects[0].releases[0].packages.len(), catalog.rejected.len()), (1, 1));
        for end in 0..text.len() {
            assert!(parse_json(&text[..end]).is_err(), "the first {end} bytes");
        }
        assert!(parse_json(b"{\"projects\": []}\nWARNING: half of the rows\n").is_err(), "text after it");
    }
}
