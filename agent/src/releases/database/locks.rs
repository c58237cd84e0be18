//! Locks that others hold. What a transaction sees was decided by its first query: of a table that was emptied and filled anew after that it sees no
//! row, with no error, and of one that is filled below a lock, half. So all tables are locked, as any query locks them, before anything is read.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Error};

use super::between::{DatabaseError, Passing};
use super::connection::{DatabaseConnection, failed};
use super::{MOST_CONFLICTS, Statements};

/// The longest pause before a transaction is begun anew that met a lock.
const PAUSE: Duration = Duration::from_millis(500);

impl DatabaseConnection {
    /// Locks what is read, in the transaction that was begun, before it decides which moment it sees.
    pub(super) async fn lock(&mut self, statements: &Statements) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(connection) => lock_tables(connection, &statements.tables).await,
            Self::MySql(connection) => open_tables(connection, statements).await,
        }
    }
}

/// Has MySQL open all tables that the queries read, also below views, without a look at their rows: they stay locked until the transaction ends, and
/// it sees the moment of the first row that is read after that.
async fn open_tables(connection: &mut MySqlConnection, statements: &Statements) -> Result<(), DatabaseError> {
    for query in [&statements.projects, &statements.releases, &statements.packages] {
        let opening = format!("SELECT 1 FROM DUAL WHERE FALSE AND EXISTS ({query}\n)");
        let opened = sqlx::raw_sql(AssertSqlSafe(opening)).execute(&mut *connection).await;
        match opened.map_err(|error| (matches!(error, Error::Database(_)), failed(error))) {
            // What is wrong with a query it says itself, and better.
            Ok(_) | Err((true, DatabaseError { passing: None, .. })) => {}
            Err((_, trouble)) => return Err(trouble),
        }
    }
    Ok(())
}

/// Locks these tables, where nobody changes them: it waits for none while it has another. What may not be locked, such as a table that is another
/// server's, is read as it is.
async fn lock_tables(connection: &mut PgConnection, tables: &[&str]) -> Result<(), DatabaseError> {
    for table in tables {
        let lock =
            format!("SAVEPOINT blat; LOCK TABLE \"{table}\" IN ACCESS SHARE MODE NOWAIT; RELEASE SAVEPOINT blat");
        let locked = sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *connection).await;
        match locked.map_err(|error| (matches!(error, Error::Database(_)), failed(error))) {
            Ok(_) => {}
            Err((true, DatabaseError { passing: None, .. })) => {
                sqlx::raw_sql("ROLLBACK TO SAVEPOINT blat").execute(&mut *connection).await.map_err(failed)?;
            }
            Err((_, trouble)) => return Err(trouble),
        }
    }
    Ok(())
}

/// How often all is read anew.
pub(super) struct Retries {
    conflicts: usize,
    until: Instant,
}

impl Retries {
    /// Within most of this time, so that there is time left to say why.
    pub(super) fn within(limit: Duration) -> Self {
        Self { conflicts: 0, until: Instant::now() + limit * 3 / 4 }
    }

    /// Whether all is to be read anew after this. Waits for a lock to go.
    pub(super) async fn allow(&mut self, passing: Passing) -> bool {
        match passing {
            Passing::GaveWay => {
                self.conflicts += 1;
                self.conflicts <= MOST_CONFLICTS
            }
            Passing::Locked => {
                let pause = random_part(PAUSE);
                let is_time = Instant::now() + pause < self.until;
                if is_time {
                    tokio::time::sleep(pause).await;
                }
                is_time
            }
        }
    }
}

/// A part of this time that differs each time: whoever comes again and again after the same time may come in step with somebody's job.
pub(in crate::releases) fn random_part(of: Duration) -> Duration {
    of * u32::from(RandomState::new().hash_one(std::process::id()).to_be_bytes()[0]) / 255
}
