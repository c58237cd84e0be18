//! `release_manager: {sqlite: PATH}`: the contract's schema in a SQLite file, opened read-only.

use std::path::Path;
use std::time::Duration;

use blat_domain::name::PackageId;
use blat_domain::release::{Catalog, Project, Release, ReleaseState, Selection};
use blat_domain::text::printable;
use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};

/// The contract's schema.
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

/// How long a writer may hold the database before the sync fails and is tried again later.
const BUSY: Duration = Duration::from_secs(10);

/// Reads projects and releases, and the packages of those that are selected.
pub(super) async fn load(path: &Path, selection: &Selection) -> Result<Catalog, String> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY);
    let mut connection = options.disable_statement_logging().connect().await.map_err(|error| error.to_string())?;
    // One transaction, so that a release never appears half-changed.
    let mut snapshot = connection.begin().await.map_err(|error| error.to_string())?;
    let catalog = read(&mut snapshot, selection).await.map_err(|error| error.to_string())?;
    snapshot.rollback().await.map_err(|error| error.to_string())?;
    Ok(catalog)
}

async fn read(connection: &mut SqliteConnection, selection: &Selection) -> Result<Catalog, sqlx::Error> {
    let mut catalog = Catalog::default();
    let rows = sqlx::query(
        "SELECT p.project_id, p.project_name, r.release_id, r.release_name, r.state, r.s3sync \
         FROM project p LEFT JOIN release r ON r.project_id = p.project_id ORDER BY p.project_id, r.release_id",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut project_id = None;
    for row in rows {
        let id: i64 = row.try_get(0)?;
        if project_id != Some(id) {
            project_id = Some(id);
            catalog.projects.push(Project { name: row.try_get(1)?, releases: Vec::new() });
        }
        let Some(release_id) = row.try_get::<Option<i64>, _>(2)? else { continue };
        let name: String = row.try_get(3)?;
        let Some(state) = state(row.try_get(4)?) else {
            let said: &str = row.try_get(4)?;
            catalog
                .rejected
                .push(format!("release {name} has the state {said:?}: expected open, restricted or closed"));
            continue;
        };
        let release = Release { id: release_id, name, state, s3sync: row.try_get(5)?, packages: Vec::new() };
        if let Some(project) = catalog.projects.last_mut() {
            project.releases.push(release);
        }
    }
    let Catalog { projects, rejected } = &mut catalog;
    for project in projects {
        for index in 0..project.releases.len() {
            if selection.chooses(project, &project.releases[index]) {
                project.releases[index].packages = packages(connection, &project.releases[index], rejected).await?;
            }
        }
    }
    Ok(catalog)
}

async fn packages(
    connection: &mut SqliteConnection,
    release: &Release,
    rejected: &mut Vec<String>,
) -> Result<Vec<PackageId>, sqlx::Error> {
    let mut packages = Vec::new();
    let mut rows = sqlx::query("SELECT package_name, package_version FROM release_package WHERE release_id = ?")
        .bind(release.id)
        .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        match PackageId::new(row.try_get(0)?, row.try_get(1)?) {
            Ok(package) => packages.push(package),
            Err(error) => rejected.push(format!("release {}: {error}", printable(&release.name))),
        }
    }
    Ok(packages)
}

fn state(word: &str) -> Option<ReleaseState> {
    match word {
        "open" => Some(ReleaseState::Open),
        "restricted" => Some(ReleaseState::Restricted),
        "closed" => Some(ReleaseState::Closed),
        _ => None,
    }
}

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
    use super::*;
    use blat_domain::release::{ReleaseKey, resolve};

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

    #[tokio::test]
    async fn only_the_packages_of_selected_releases_are_read() {
        let (_scratch, path) = database(
            "INSERT INTO project VALUES (1, 'Perth'), (2, 'Empty');
             INSERT INTO release VALUES (10, 1, 'P1', 'closed', 0), (11, 1, 'P2', 'open', 1);
             INSERT INTO release_package VALUES (10, 'a', '1'), (11, 'b', '2'), (11, '../x', '1');",
        )
        .await;
        let selection = Selection { projects: vec!["Perth".into(), "Empty".into()], ..Selection::default() };
        let catalog = load(&path, &selection).await.expect("a catalog");
        assert_eq!(catalog.rejected.len(), 1);
        let resolution = resolve(&catalog, &selection);
        assert_eq!(resolution.wanted.keys().map(ToString::to_string).collect::<Vec<_>>(), ["b@2"]);
        assert!(resolution.unknown.is_empty());

        let closed = Selection { releases: vec![ReleaseKey::Id(10)], ..Selection::default() };
        let resolution = resolve(&load(&path, &closed).await.expect("a catalog"), &closed);
        assert_eq!(resolution.wanted.keys().map(ToString::to_string).collect::<Vec<_>>(), ["a@1"]);
    }

    #[tokio::test]
    async fn a_missing_database_is_an_error_and_is_not_made() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("none.db");
        assert!(load(&path, &Selection::default()).await.is_err());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn an_existing_file_is_never_overwritten() {
        let (_scratch, path) = database("").await;
        assert!(create(&path).await.expect_err("it exists").contains("exists already"));
    }
}
