//! The documented schema, and a SQLite database of that form for who has no Release Manager yet.

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

/// The documented schema.
const SCHEMA: &str = "\
CREATE TABLE project(project_id INTEGER PRIMARY KEY, project_name TEXT NOT NULL);
CREATE TABLE release(
  release_id INTEGER PRIMARY KEY,
  project_id INTEGER NOT NULL REFERENCES project,
  release_name TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'restricted', 'closed')),
  s3sync INTEGER NOT NULL DEFAULT 0 CHECK (s3sync IN (0, 1)));
CREATE TABLE release_package(
  release_id INTEGER NOT NULL REFERENCES release,
  package_name TEXT NOT NULL,
  package_version TEXT NOT NULL,
  PRIMARY KEY (release_id, package_name, package_version));
";

/// Makes an empty database at `path`, where there is none yet.
pub(crate) async fn create(path: &Path) -> Result<(), String> {
    if path.exists() {
        return Err(format!("{} exists already; it is left as it is", path.display()));
    }
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = options.connect().await.map_err(|error| format!("cannot make {}: {error}", path.display()))?;
    let made = sqlx::raw_sql(SCHEMA).execute(&mut connection).await;
    let closed = connection.close().await;
    made.map(|_| ()).and(closed).map_err(|error| format!("cannot make the tables in {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use blat_config::{Queries, ReleaseSource};
    use blat_domain::policy::release::{Catalog, KnownReleases, ReleaseKey, Selection, resolve};

    use super::super::{Purpose, load};
    use super::*;

    async fn database(rows: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("rm.db");
        create(&path).await.expect("an empty database");
        let mut connection =
            SqliteConnectOptions::new().filename(&path).connect().await.expect("the database just made");
        sqlx::raw_sql(sqlx::AssertSqlSafe(rows.to_owned())).execute(&mut connection).await.expect("rows");
        connection.close().await.expect("closed");
        (scratch, path)
    }

    async fn ask(path: &Path, queries: Queries, selection: &Selection) -> Result<Catalog, String> {
        let place = path.with_extension("state");
        let source = ReleaseSource::Sqlite { path: path.into(), queries };
        load(&source, selection, Duration::from_secs(60), &place, Purpose::Looking).await.map(|read| read.catalog)
    }

    fn wanted(catalog: &Catalog, selection: &Selection) -> Vec<String> {
        resolve(catalog, selection, &KnownReleases::default()).wanted.keys().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn only_the_packages_of_selected_releases_are_read() {
        let (_scratch, path) = database(
            "INSERT INTO project VALUES (1, 'Perth'), (2, 'Empty');
             INSERT INTO release VALUES (10, 1, 'P1', 'closed', 0), (11, 1, 'P2', 'open', 1);
             INSERT INTO release_package VALUES (10, 'a', '1'), (11, 'b', '2'), (11, '../x', '1'),
               (11, CAST(x'66ff' AS TEXT), '1'), (11, 'c', x'00');",
        )
        .await;
        let selection = Selection { projects: vec!["Perth".into(), "Empty".into()], ..Selection::default() };
        let catalog = ask(&path, Queries::default(), &selection).await.expect("a catalog");
        assert_eq!(catalog.rejected.len(), 3, "{:?}", catalog.rejected);
        assert!(resolve(&catalog, &selection, &KnownReleases::default()).unknown.is_empty());
        assert_eq!(wanted(&catalog, &selection), ["b@2"]);
        assert!(catalog.projects[0].releases[1].s3sync);

        let closed = Selection { releases: vec![ReleaseKey::Id(10)], ..Selection::default() };
        let catalog = ask(&path, Queries::default(), &closed).await.expect("a catalog");
        assert_eq!(wanted(&catalog, &closed), ["a@1"]);
    }

    /// A database of a site's own form, where columns take values of any type.
    async fn untyped(rows: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let tables = "DROP TABLE release_package; DROP TABLE release; DROP TABLE project;
             CREATE TABLE project(project_id, project_name); CREATE TABLE release(release_id, project_id, release_name, state, s3sync);
             CREATE TABLE release_package(release_id, package_name, package_version);
             INSERT INTO project VALUES (1, 'Perth'), ('2', 'Oslo');
             INSERT INTO release VALUES (10, '1', 'P1', 'open', 0), ('20', 2, 'O1', 'open', 0);";
        database(&format!("{tables}{rows}")).await
    }

    #[tokio::test]
    async fn an_id_is_the_same_as_text_and_as_a_number() {
        let (_scratch, path) = untyped(
            "INSERT INTO release_package VALUES (10, 'a', '1'), ('10', 'b', '1.10'), (x'3130', 'c', '1'), (20, 'd', '1'), ('20', 'e', '1'), (30, 'f', '1');",
        )
        .await;
        let selection = Selection { projects: vec!["Perth".into(), "Oslo".into()], ..Selection::default() };
        let catalog = ask(&path, Queries::default(), &selection).await.expect("a catalog");
        assert_eq!(catalog.rejected, []);
        assert_eq!(wanted(&catalog, &selection), ["a@1", "b@1.10", "c@1", "d@1", "e@1"]);
    }

    #[tokio::test]
    async fn columns_of_views_in_capitals_filled_up_and_with_nulls_are_read() {
        let (_scratch, path) = untyped(
            "INSERT INTO release VALUES ('11  ', 1, 'P2   ', 'Open  ', 'Y'), (12, 1, 'P3', 'CLOSED', NULL);
             INSERT INTO release_package VALUES ('11 ', 'a  ', '1.10  '), (11, 'b', '2'), (12, 'c', '3'), (10, 'd', '4 ');
             CREATE VIEW RELEASES AS SELECT release_id AS RELEASE_ID, project_id AS \"Project_Id\", release_name AS RELEASE_NAME,
               state AS STATE, s3sync AS S3SYNC FROM release;
             CREATE VIEW CONTENT AS SELECT release_id AS RELEASE_ID, package_name AS PACKAGE_NAME, package_version AS
               PACKAGE_VERSION FROM release_package;",
        )
        .await;
        let queries = Queries {
            projects: None,
            releases: Some("SELECT * FROM RELEASES".into()),
            packages: Some("SELECT * FROM CONTENT".into()),
        };
        let selection = Selection { projects: vec!["Perth".into()], ..Selection::default() };
        let catalog = ask(&path, queries.clone(), &selection).await.expect("a catalog");
        assert_eq!(catalog.rejected, []);
        assert_eq!(wanted(&catalog, &selection), ["a@1.10", "b@2", "d@4"]);
        let bucket = Selection { only_s3sync: true, ..selection };
        let catalog = ask(&path, queries, &bucket).await.expect("a catalog");
        assert_eq!(wanted(&catalog, &bucket), ["a@1.10", "b@2"]);
    }

    #[tokio::test]
    async fn a_value_that_may_mean_another_is_odd_and_hinders_those_who_select_what_it_may_be_of() {
        let of = |project: &str| Selection { projects: vec![project.into()], ..Selection::default() };
        for (row, perth, oslo) in [
            ("(10, 'a', 1.10)", true, false),
            ("(10, 'a', 7)", true, false),
            ("(10, 5, '1')", true, false),
            ("(10, NULL, '1')", true, false),
            ("('010', 'a', '1')", true, false),
            ("(10.0, 'a', '1')", true, false),
            ("(' 10', 'a', '1')", true, false),
            ("('10\n', 'a', '1')", true, false),
            ("('020', 'a', '1')", false, true),
            ("(NULL, 'a', '1')", true, true),
            ("('ten', 'a', '1')", true, true),
            ("('30', 'a', '1')", false, false),
        ] {
            let (_scratch, path) =
                untyped(&format!("INSERT INTO release_package VALUES (10, 'p', '1'), (20, 'o', '1'), {row};")).await;
            for (project, hinders, package) in [("Perth", perth, "p@1"), ("Oslo", oslo, "o@1")] {
                let catalog = ask(&path, Queries::default(), &of(project)).await.expect("a catalog");
                assert_eq!(wanted(&catalog, &of(project)), [package], "{row}");
                let odd = resolve(&catalog, &of(project), &KnownReleases::default()).odd;
                assert_eq!(!odd.is_empty(), hinders, "{project} by {row}: {odd:?}");
            }
        }
    }

    /// What stands in the place of an id names nothing, so that it is no less odd where a row of another project has the same.
    #[tokio::test]
    async fn packages_without_a_readable_release_hinder_all_whatever_odd_release_another_project_has() {
        for filler in ["NULL", "''", "'n/a'", "'-'", "1.5", "x'ff'", "'1e400'", "'2026-01-02'", "'twenty'"] {
            let (_scratch, path) = untyped(&format!(
                "INSERT INTO release VALUES ({filler}, 2, 'O2', 'open', 0);
                 INSERT INTO release_package VALUES (10, 'p', '1'), ({filler}, 'p', '2');"
            ))
            .await;
            for project in ["Perth", "Oslo"] {
                let selection = Selection { projects: vec![project.into()], ..Selection::default() };
                let catalog = ask(&path, Queries::default(), &selection).await.expect("a catalog");
                let odd = resolve(&catalog, &selection, &KnownReleases::default()).odd;
                assert!(odd.iter().any(|row| row.text.starts_with("package \"p\"")), "{project} by {filler}: {odd:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_query_that_lacks_a_column_or_writes_is_refused() {
        let (_scratch, path) = database("INSERT INTO project VALUES (1, 'Perth');").await;
        let selection = Selection { projects: vec!["Perth".into()], ..Selection::default() };
        let queries = |projects: &str| Queries { projects: Some(projects.into()), ..Queries::default() };
        let lacking = ask(&path, queries("SELECT project_id FROM project"), &selection).await.expect_err("a column");
        assert_eq!(lacking, "the query for projects failed: it gives no column project_name");
        let writing = queries("SELECT * FROM project; DELETE FROM project");
        assert!(ask(&path, writing, &selection).await.expect_err("read-only").contains("readonly"));
    }

    #[tokio::test]
    async fn a_query_without_end_is_cut() {
        let (_scratch, path) = database("").await;
        let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) \
                       SELECT count(*) AS project_id, '' AS project_name FROM n";
        let queries = Queries { projects: Some(endless.into()), ..Queries::default() };
        let place = path.with_extension("state");
        let source = ReleaseSource::Sqlite { path, queries };
        let cut = load(&source, &Selection::default(), Duration::from_millis(50), &place, Purpose::Looking)
            .await
            .expect_err("cut");
        assert!(cut.contains("interrupted"), "{cut}");
    }

    #[tokio::test]
    async fn a_missing_database_is_an_error_and_is_not_made() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("none.db");
        assert!(ask(&path, Queries::default(), &Selection::default()).await.is_err());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn an_existing_file_is_never_overwritten() {
        let (_scratch, path) = database("").await;
        assert!(create(&path).await.expect_err("it exists").contains("exists already"));
    }
}
