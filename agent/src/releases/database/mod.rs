//! `release_manager: {sqlite: PATH}`, `{postgres: URL}` and `{mysql: URL}`: the documented schema, or a site's own queries in its place.
//!
//! All three are read by the same queries, in one read-only transaction, and every value as the server writes it, with its type. What a
//! value may be is one rule for all sources, and stands in [`blat_domain::policy::release::row`].

mod between;
mod connection;
mod lasting;
mod locks;
mod password;
mod rescue;
mod rows;
mod schema;
mod sqlite;
mod value;

use std::path::Path;
use std::time::{Duration, Instant};

use blat_config::{Queries, ReleaseSource};
use blat_domain::policy::release::{Catalog, Selection};

use between::DatabaseError;
use connection::DatabaseConnection;
pub(super) use locks::random_part;
use locks::{Relations, Retries};
use rows::CatalogBuilder;
pub(crate) use schema::create;

use super::Purpose;
use super::freshness::FileState;
use super::reader::ReadCatalog;

/// So often all is read anew where a replica gave way to its primary.
const MOST_CONFLICTS: usize = 5;
/// So many releases are named in one query.
const AT_ONCE: usize = 1000;

/// Reads projects and releases, and the packages of those that are selected. In `place`, a folder of the agent's own, lies a copy of a SQLite
/// database while one is needed. Gives also how the file was meanwhile, of a SQLite database that its writers change in place, unless it was held
/// still for long enough. One that something is to go by is refused where it is damaged.
pub(super) async fn load(
    source: &ReleaseSource,
    selection: &Selection,
    limit: Duration,
    place: &Path,
    purpose: Purpose,
) -> Result<ReadCatalog, String> {
    let (mut retries, mut tries, mut relations) = (Retries::within(limit), 0, Relations::default());
    while tries < sqlite::TRIES {
        let mut connection = DatabaseConnection::open(source, limit, place).await?;
        connection.begin(limit).await?;
        let statements = Statements::of(&connection, source);
        let begun = connection.begin_reading(purpose, &statements, &mut relations).await;
        let mut slowest = Duration::ZERO;
        let catalog = match begun {
            Ok(()) => read_lasting(&mut connection, &statements, selection, &mut slowest).await,
            Err(trouble) => Err(trouble),
        };
        let catalog = match catalog {
            Ok(catalog) if purpose.is_taking() => connection.expect_locked(&mut relations).await.map(|()| catalog),
            other => other,
        };
        let was_still = purpose == Purpose::TakingHeld && catalog.is_ok() && connection.hold_still().await;
        let state = connection.state().filter(|_| !was_still);
        let is_whole = connection.is_whole()?;
        let closed = connection.close(catalog.is_ok()).await;
        match catalog {
            Err(DatabaseError { passing: Some(passing), .. }) if retries.allow(passing).await => {}
            // Why it failed says more than how the connection ended after that.
            Err(DatabaseError { text, .. }) if is_whole => return Err(text),
            Ok(catalog) if is_whole => return closed.map(|()| ReadCatalog { catalog, state, slowest }),
            Ok(_) | Err(_) => tries += 1,
        }
    }
    Err(sqlite::CHANGES.into())
}

impl DatabaseConnection {
    /// See [`sqlite::Opened::begin_reading`]. Servers see to their files themselves, unless they were told not to.
    async fn begin_reading(
        &mut self,
        purpose: Purpose,
        statements: &Statements,
        relations: &mut Relations,
    ) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(opened) => {
                let queries = [&*statements.projects, &*statements.releases, &*statements.packages];
                opened.begin_reading(purpose.is_taking(), &queries).await.map_err(DatabaseError::from)
            }
            Self::Postgres(_) | Self::MySql(_) => {
                self.lock(statements, relations).await?;
                self.expect_no_rescue().await
            }
        }
    }

    /// See [`sqlite::Opened::hold_still`].
    async fn hold_still(&self) -> bool {
        match self {
            Self::Sqlite(opened) => opened.hold_still().await,
            Self::Postgres(_) | Self::MySql(_) => false,
        }
    }

    fn state(&self) -> Option<FileState> {
        match self {
            Self::Sqlite(opened) => opened.locked(),
            Self::Postgres(_) | Self::MySql(_) => None,
        }
    }
}

/// What is asked of a database.
struct Statements {
    projects: String,
    releases: String,
    packages: String,
    /// Whether the queries for projects and for releases are ours. A site's need not be one that can stand in another; the one for packages stands in
    /// ours anyway.
    are_ours: [bool; 2],
    /// The tables of the queries that are ours.
    tables: Vec<&'static str>,
}

impl Statements {
    fn of(connection: &DatabaseConnection, source: &ReleaseSource) -> Self {
        let queries = queries(source);
        // A word that MySQL keeps for itself.
        let release = connection.quoted("release");
        let are_ours = [queries.projects.is_none(), queries.releases.is_none()];
        let asked =
            [(are_ours[0], "project"), (are_ours[1], "release"), (queries.packages.is_none(), "release_package")];
        let tables = asked.into_iter().filter(|(is_ours, _)| *is_ours).map(|(_, table)| table).collect();
        let projects = queries.projects.unwrap_or_else(|| "SELECT project_id, project_name FROM project".into());
        let releases = queries
            .releases
            .unwrap_or_else(|| format!("SELECT project_id, release_id, release_name, state, s3sync FROM {release}"));
        let packages = queries
            .packages
            .unwrap_or_else(|| "SELECT release_id, package_name, package_version FROM release_package".into());
        Self { projects, releases, packages, are_ours, tables }
    }
}

/// The site's own queries; the sources that are no databases have none.
fn queries(source: &ReleaseSource) -> Queries {
    match source {
        ReleaseSource::Sqlite { queries, .. } => queries.clone(),
        ReleaseSource::Postgres(database) | ReleaseSource::MySql(database) => database.queries.clone(),
        ReleaseSource::File { .. } | ReleaseSource::Command { .. } | ReleaseSource::PackageList { .. } => {
            Queries::default()
        }
    }
}

/// As [`read`], where nothing of it is lost in a crash.
async fn read_lasting(
    connection: &mut DatabaseConnection,
    statements: &Statements,
    selection: &Selection,
    slowest: &mut Duration,
) -> Result<Catalog, DatabaseError> {
    let catalog = read(connection, statements, selection, slowest).await?;
    connection.expect_lasting(statements).await.map(|()| catalog)
}

async fn read(
    connection: &mut DatabaseConnection,
    statements: &Statements,
    selection: &Selection,
    slowest: &mut Duration,
) -> Result<Catalog, DatabaseError> {
    let Statements { projects, releases, packages, are_ours, .. } = statements;
    let mut builder = CatalogBuilder::default();
    let mut begun = Instant::now();
    let mut time = || {
        *slowest = (*slowest).max(begun.elapsed());
        begun = Instant::now();
    };
    connection.rows("projects", projects, are_ours[0], &rows::PROJECT, |row| builder.project(row)).await?;
    time();
    connection.rows("releases", releases, are_ours[1], &rows::RELEASE, |row| builder.release(row)).await?;
    time();
    for chosen in builder.chosen(selection).chunks(AT_ONCE) {
        // The line's end keeps a comment that ends the site's query from swallowing the parenthesis.
        let query = format!(
            "SELECT release_id, package_name, package_version FROM ({packages}\n) AS blat_packages WHERE {}",
            connection.is_among("release_id", chosen)
        );
        connection.rows("packages", &query, true, &rows::PACKAGE, |row| builder.package(chosen, row)).await?;
        time();
    }
    Ok(builder.catalog())
}
