//! Locks that others hold. What a transaction sees was decided by its first query: of a table that was emptied and filled anew after that it sees no
//! row, with no error, and of one that is filled below a lock, half. So all tables are locked, as any query locks them, before anything is read.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use blat_domain::policy::release::row::Cell;
use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Error};

use super::between::{DatabaseError, Passing};
use super::connection::{DatabaseConnection, failed};
use super::{MOST_CONFLICTS, Statements};

/// What the query below gives.
const COLUMNS: [&str; 2] = ["relation", "kind"];
/// What PostgreSQL has locked for this transaction: all that it reads, also below views and in functions, and in no catalog of its own. A view is
/// locked with what is below it, in its owner's name.
const RELATIONS: &str = "\
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS relation, CASE WHEN c.relpersistence = 'u' THEN 'unlogged' \
    WHEN c.relkind IN ('r', 'p', 'v') AND pg_catalog.has_table_privilege(c.oid, 'SELECT') THEN 'lockable' ELSE 'other' END AS kind \
    FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_class AS c ON c.oid = l.relation \
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
    WHERE l.locktype = 'relation' AND l.pid = pg_catalog.pg_backend_pid() AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')";
/// So often a query may show tables that were not locked before it.
const MOST_UNLOCKED: usize = 3;
/// The longest pause before a transaction is begun anew that met a lock.
const PAUSE: Duration = Duration::from_millis(500);

/// What PostgreSQL's queries read.
#[derive(Default)]
pub(super) struct Relations {
    /// What earlier transactions read and had not locked before that, as SQL has it.
    further: BTreeSet<String>,
    /// What this one had locked before its first query.
    locked: BTreeSet<String>,
}

impl DatabaseConnection {
    /// Locks what is read, in the transaction that was begun, before it decides which moment it sees.
    pub(super) async fn lock(
        &mut self,
        statements: &Statements,
        relations: &mut Relations,
    ) -> Result<(), DatabaseError> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(connection) => {
                let ours = statements.tables.iter().map(|table| format!("\"{table}\""));
                lock_tables(connection, ours.chain(relations.further.iter().cloned())).await?;
                relations.locked = self.relations().await?.into_keys().collect();
                Ok(())
            }
            Self::MySql(connection) => open_tables(connection, statements).await,
        }
    }

    /// Fails where something was read that was not locked before that, and can be: the next transaction locks it first. Nobody knows what a query of
    /// a site's own reads before it has read it.
    pub(super) async fn expect_locked(&mut self, relations: &mut Relations) -> Result<(), DatabaseError> {
        if !matches!(self, Self::Postgres(_)) {
            return Ok(());
        }
        let read = self.relations().await?.into_iter();
        let lockable = read.filter(|(name, kind)| kind == "lockable" && !relations.locked.contains(name));
        let known = relations.further.len();
        relations.further.extend(lockable.map(|(name, _)| name));
        if relations.further.len() == known {
            return Ok(());
        }
        let text =
            "the tables that its queries read are others each time, so that none is locked before it is read".into();
        Err(DatabaseError { text, passing: Some(Passing::Unlocked) })
    }

    /// What PostgreSQL has locked for this transaction, and of which kind it is.
    pub(super) async fn relations(&mut self) -> Result<BTreeMap<String, String>, DatabaseError> {
        let mut found = BTreeMap::new();
        let each = |row: [Cell; 2]| {
            if let [Cell::Text(name), Cell::Text(kind)] = row {
                found.insert(name, kind);
            }
        };
        self.rows("the tables that it reads", RELATIONS, false, &COLUMNS, each).await?;
        Ok(found)
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
async fn lock_tables(connection: &mut PgConnection, tables: impl Iterator<Item = String>) -> Result<(), DatabaseError> {
    for table in tables {
        let lock = format!("SAVEPOINT blat; LOCK TABLE {table} IN ACCESS SHARE MODE NOWAIT; RELEASE SAVEPOINT blat");
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
    unlocked: usize,
    until: Instant,
}

impl Retries {
    /// Within most of this time, so that there is time left to say why.
    pub(super) fn within(limit: Duration) -> Self {
        Self { conflicts: 0, unlocked: 0, until: Instant::now() + limit * 3 / 4 }
    }

    /// Whether all is to be read anew after this. Waits for a lock to go.
    pub(super) async fn allow(&mut self, passing: Passing) -> bool {
        match passing {
            Passing::GaveWay => {
                self.conflicts += 1;
                self.conflicts <= MOST_CONFLICTS
            }
            Passing::Unlocked => {
                self.unlocked += 1;
                self.unlocked <= MOST_UNLOCKED
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
