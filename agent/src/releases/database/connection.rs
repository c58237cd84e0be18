//! One connection to a database of either kind. It can read, and nothing else.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use blat_config::{ReleaseSource, ServerAddress};
use blat_domain::policy::release::row::Cell;
use blat_domain::util::text::printable;
use futures_util::TryStreamExt;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::{
    AssertSqlSafe, ColumnIndex, ConnectOptions, Database, Decode, Error, Executor, MySql, MySqlConnection,
    PgConnection, Postgres, Sqlite,
};

use super::between::{CUT_SHORT, DatabaseError, passing, remedy};
use super::rows::Cells;
use super::sqlite::{self, Opened};
use super::{password, value};

/// No Release Manager knows so much; a query that never ends is cut here, before it fills the memory.
const MOST_ROWS: u64 = 20_000_000;

/// The most bytes that one query gives, its cells' own cost included: as much as a file of releases may have.
const MOST_BYTES: usize = 256 << 20;

/// A connection, by the kind of its database.
pub(super) enum DatabaseConnection {
    Sqlite(Box<Opened>),
    Postgres(PgConnection),
    MySql(MySqlConnection),
}

impl DatabaseConnection {
    /// Connects. A query of SQLite's gives up by itself after `limit`; servers are told when the transaction begins. `place` is for a private
    /// copy of a SQLite database that needs one.
    pub(super) async fn open(source: &ReleaseSource, limit: Duration, place: &Path) -> Result<Self, String> {
        match source {
            ReleaseSource::Sqlite { path, .. } => Ok(Self::Sqlite(Box::new(sqlite::open(path, limit, place).await?))),
            ReleaseSource::Postgres(database) => {
                // The environment and .pgpass are looked into here. How many digits a number has matters to nobody, and poolers refuse to be asked.
                let options = PgConnectOptions::from_str(&database.url).map_err(|error| said(&error))?;
                // What was judged is what is connected to: the driver would look for a socket in /tmp as well.
                let options = match database.address() {
                    ServerAddress::Socket(folder) => options.socket(folder),
                    ServerAddress::Tcp { host, .. } => options.host(&host),
                };
                let mut options = options.extra_float_digits(None);
                if let Some(path) = &database.password_file {
                    options = options.password(&password::read(path).await?);
                }
                Ok(Self::Postgres(options.disable_statement_logging().connect().await.map_err(|error| said(&error))?))
            }
            ReleaseSource::MySql(database) => {
                // Proxies follow the character set, and not all of them the modes and times that the driver would set.
                let options = MySqlConnectOptions::from_str(&database.url).map_err(|error| said(&error))?;
                let mut options = options.pipes_as_concat(false).no_engine_substitution(false).timezone(None);
                // The driver would look the brackets of an IPv6 address up as part of a name.
                if let ServerAddress::Tcp { host, .. } = database.address() {
                    options = options.host(&host);
                }
                if let Some(path) = &database.password_file {
                    options = options.password(&password::read(path).await?);
                } else if let Ok(password) = std::env::var("MYSQL_PWD") {
                    options = options.password(&password);
                }
                Ok(Self::MySql(options.disable_statement_logging().connect().await.map_err(|error| said(&error))?))
            }
            ReleaseSource::File { .. } | ReleaseSource::Command { .. } | ReleaseSource::PackageList { .. } => {
                Err("it is no database".into())
            }
        }
    }

    /// Begins one read-only transaction for all queries, so that a release never appears half-changed. Which moment it sees is decided by its first
    /// query, after its tables are locked.
    pub(super) async fn begin(&mut self, limit: Duration) -> Result<(), String> {
        let milliseconds = limit.as_millis();
        let begun = match self {
            Self::Sqlite(opened) => sqlx::raw_sql("BEGIN").execute(&mut opened.connection).await.map(|_| ()),
            Self::Postgres(connection) => {
                // Rows that a policy hides, or that an index leaves out, as one that is damaged does, would be taken for rows that are gone.
                // Whoever waits for a lock of Blat's looks for a deadlock after a second (deadlock_timeout), and is rolled back where Blat waits too.
                let begin = format!(
                    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {milliseconds}; \
                     SET LOCAL lock_timeout = 300; \
                     SET LOCAL row_security = off; SET LOCAL gin_fuzzy_search_limit = 0; SET LOCAL enable_seqscan = on; \
                     SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off"
                );
                sqlx::raw_sql(AssertSqlSafe(begin)).execute(connection).await.map(|_| ())
            }
            Self::MySql(connection) => {
                // The two servers have the limit under different names, each in a comment that only it reads. The rest is what would have rows,
                // or the ends of values, left out with no error; DEFAULT would be what the server's administrator has set, but for the time.
                let begin = format!(
                    "SET /*M! SESSION max_statement_time = {}, */ /*!50708 SESSION max_execution_time = {milliseconds}, */ \
                     /*M!100202 SESSION max_recursive_iterations = 4294967295, */ \
                     /*M!100304 SESSION system_versioning_asof = DEFAULT, */ \
                     SESSION sql_select_limit = 18446744073709551615, SESSION group_concat_max_len = 1073741824, \
                     SESSION net_write_timeout = 60, SESSION lock_wait_timeout = 1; \
                     SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION READ ONLY",
                    limit.as_secs().max(1)
                );
                sqlx::raw_sql(AssertSqlSafe(begin)).execute(connection).await.map(|_| ())
            }
        };
        begun.map_err(|error| format!("cannot begin to read: {}", said(&error)))
    }

    /// A name as this database's SQL has it, whatever word it is.
    pub(super) fn quoted(&self, name: &str) -> String {
        match self {
            Self::Sqlite(_) | Self::Postgres(_) => format!("\"{name}\""),
            Self::MySql(_) => format!("`{name}`"),
        }
    }

    /// The condition that a column is one of these ids, or that it is none that [`Cell::id`] takes: whoever reads it must see that too,
    /// since the text `01` may be meant for 1. It compares text, so that it does not matter which type the column is of.
    pub(super) fn is_among(&self, column: &str, ids: &[i64]) -> String {
        let ids: Vec<String> = ids.iter().map(|id| format!("'{id}'")).collect();
        let ids = ids.join(", ");
        match self {
            Self::Sqlite(_) => {
                let (text, again) = (format!("CAST({column} AS TEXT)"), format!("CAST({column} AS INTEGER)"));
                format!("{text} IN ({ids}) OR {text} IS NULL OR {text} <> CAST({again} AS TEXT)")
            }
            Self::Postgres(_) => {
                let text = format!("CAST({column} AS text)");
                format!("{text} IN ({ids}) OR {text} IS NULL OR {text} !~ '^(0|-?[1-9][0-9]*)$'")
            }
            Self::MySql(_) => {
                let (text, again) = (format!("CAST({column} AS CHAR)"), format!("CAST({column} AS SIGNED)"));
                format!("{text} IN ({ids}) OR {text} IS NULL OR {text} <> CAST({again} AS CHAR)")
            }
        }
    }

    /// Runs a query and gives these columns of each of its rows. `what` it asks for is said in errors. Where it `is_counted`, the server is
    /// asked as well how many rows there are, in the same transaction: whoever stands between may cut an answer with no error.
    pub(super) async fn rows<const N: usize>(
        &mut self,
        what: &str,
        query: &str,
        is_counted: bool,
        columns: &[&str; N],
        each: impl FnMut(Cells<N>) + Send,
    ) -> Result<(), DatabaseError> {
        let given = self.read(what, query, columns, each).await?;
        // Nobody stands between us and a file.
        if !is_counted || matches!(self, Self::Sqlite(_)) {
            return Ok(());
        }
        let count = format!("SELECT COUNT(*) AS blat_count FROM ({query}\n) AS blat_counted");
        let mut counted = Cell::Missing;
        self.read(what, &count, &["blat_count"], |[count]| counted = count).await?;
        match counted {
            Cell::Number(count) | Cell::Text(count) if count == given.to_string() => Ok(()),
            Cell::Number(count) | Cell::Text(count) => {
                Err(format!("the query for {what} gave {given} rows of {}; {CUT_SHORT}", printable(&count)).into())
            }
            _ => Err(format!("the query for {what} gave {given} rows, and the server did not count them; {CUT_SHORT}")
                .into()),
        }
    }

    async fn read<const N: usize>(
        &mut self,
        what: &str,
        query: &str,
        columns: &[&str; N],
        each: impl FnMut(Cells<N>) + Send,
    ) -> Result<u64, DatabaseError> {
        let read = match self {
            Self::Sqlite(opened) => read::<Sqlite, N>(&mut opened.connection, query, columns, each).await,
            Self::Postgres(connection) => read::<Postgres, N>(connection, query, columns, each).await,
            Self::MySql(connection) => read::<MySql, N>(connection, query, columns, each).await,
        };
        read.map_err(|DatabaseError { text, passing }| DatabaseError {
            text: format!("the query for {what} failed: {text}"),
            passing,
        })
    }

    /// Whether what was read is one state of the database; else all of it must be read again. Transactions see to that, and where a SQLite
    /// database is read without locks, its files are looked at again.
    pub(super) fn is_whole(&self) -> Result<bool, String> {
        match self {
            Self::Sqlite(opened) => opened.is_whole(),
            Self::Postgres(_) | Self::MySql(_) => Ok(true),
        }
    }

    /// Takes leave. The transaction wrote nothing and ends with the connection; where all was read (`is_done`), before it: a pooler gives up the
    /// server's connection otherwise.
    pub(super) async fn close(self, is_done: bool) -> Result<(), String> {
        let closed = match self {
            Self::Sqlite(opened) => opened.close().await,
            Self::Postgres(connection) => leave(connection, is_done).await,
            Self::MySql(connection) => leave(connection, is_done).await,
        };
        closed.map_err(|error| format!("cannot close the connection: {}", said(&error)))
    }
}

/// Ends the transaction of a server, where that `is_done`, and the connection.
async fn leave<C: sqlx::Connection>(mut connection: C, is_done: bool) -> Result<(), Error>
where
    for<'c> &'c mut C: Executor<'c>,
{
    if is_done {
        connection.execute(sqlx::raw_sql("ROLLBACK")).await?;
    }
    connection.close().await
}

/// What a query's failure comes to.
pub(super) fn failed(error: Error) -> DatabaseError {
    DatabaseError { text: said(&error), passing: passing(&error) }
}

/// What went wrong: in the server's own words where it has any, else in the driver's; and what to do about it, where that is known.
pub(super) fn said(error: &Error) -> String {
    let text = printable(&match error {
        Error::Database(refusal) => refusal.message().to_owned(),
        other => other.to_string(),
    });
    match remedy(error) {
        Some(remedy) => format!("{text}; {remedy}"),
        None => text,
    }
}

/// Gives the number of rows. Queries are sent unprepared: then the servers answer in text, whatever the columns' types.
async fn read<DB: Database, const N: usize>(
    connection: &mut DB::Connection,
    query: &str,
    columns: &[&str; N],
    mut each: impl FnMut(Cells<N>) + Send,
) -> Result<u64, DatabaseError>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    for<'i> &'i str: ColumnIndex<DB::Row>,
    for<'r> String: Decode<'r, DB>,
{
    let mut rows = sqlx::raw_sql(AssertSqlSafe(query.to_owned())).fetch(connection);
    let (mut count, mut bytes) = (0, 0);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        count += 1;
        if count > MOST_ROWS {
            return Err(format!("it gives more than {MOST_ROWS} rows").into());
        }
        let mut cells: Cells<N> = [const { Cell::Missing }; N];
        for (cell, column) in cells.iter_mut().zip(columns) {
            let (read, length) = value::read::<DB>(&row, column)?;
            *cell = read;
            bytes += length + size_of::<Cell>();
        }
        if bytes > MOST_BYTES {
            return Err(format!("it gives more than {} MiB", MOST_BYTES >> 20).into());
        }
        each(cells);
    }
    Ok(count)
}
