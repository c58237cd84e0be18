//! Tables that a crash of the server empties, with no error then or later: to whoever only sees rows, their rows are gone.

use blat_domain::policy::release::row::Cell;
use blat_domain::util::text::printable;

use super::Statements;
use super::between::DatabaseError;
use super::connection::DatabaseConnection;

/// The schemas that an account of MySQL's sees, but for the server's own, and whether the queries' tables are in it unless they say otherwise.
const SCHEMAS: &str = "\
    SELECT SCHEMA_NAME AS schema_name, IF(SCHEMA_NAME = DATABASE(), 'ours', 'other') AS kind FROM information_schema.SCHEMATA \
    WHERE SCHEMA_NAME NOT IN ('information_schema', 'performance_schema', 'mysql', 'sys')";

impl DatabaseConnection {
    /// Fails where something is read that a crash empties.
    pub(super) async fn expect_lasting(&mut self, statements: &Statements) -> Result<(), DatabaseError> {
        let (lost, what) = match self {
            Self::Sqlite(_) => return Ok(()),
            Self::Postgres(_) => {
                let unlogged = |(name, kind): (String, String)| (kind == "unlogged").then_some(name);
                (self.relations().await?.into_iter().find_map(unlogged), "is UNLOGGED: it loses all rows in a crash")
            }
            Self::MySql(_) => {
                (self.in_memory(statements).await?, "is of the engine MEMORY: it loses all rows in a crash or restart")
            }
        };
        let Some(name) = lost else { return Ok(()) };
        let why = format!(
            "the table {} {what} of the server, and Blat would take them for rows that are gone; make it one that lasts (SET LOGGED, ENGINE = InnoDB)",
            printable(&name)
        );
        Err(why.into())
    }

    /// A table in memory, in a schema that the queries read. What is below views cannot be seen, so that all tables of a schema count that Blat may read.
    async fn in_memory(&mut self, statements: &Statements) -> Result<Option<String>, DatabaseError> {
        let queries = [&*statements.projects, &*statements.releases, &*statements.packages];
        let mut schemas = Vec::new();
        let each = |row: [Cell; 2]| {
            if let [Cell::Text(name), Cell::Text(kind)] = row
                && (kind == "ours" || queries.iter().any(|query| query.contains(&name)))
            {
                schemas.push(name);
            }
        };
        self.rows("the server's schemas", SCHEMAS, false, &["schema_name", "kind"], each).await?;
        let mut found = None;
        for schema in schemas {
            let name = schema.replace('\\', "\\\\").replace('\'', "''");
            // Named by one schema at a time, the server looks into no other.
            let query = format!(
                "SELECT TABLE_NAME AS table_name FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{name}' AND ENGINE = 'MEMORY'"
            );
            let each = |[table]: [Cell; 1]| {
                if let Cell::Text(table) = table {
                    found.get_or_insert_with(|| format!("{schema}.{table}"));
                }
            };
            self.rows("the server's tables", &query, false, &["table_name"], each).await?;
        }
        Ok(found)
    }
}
