//! Whether a database is damaged, as it is left where it is overwritten in place: half of it is the old one then, and rows of both may be missing.
//!
//! All of it is looked over. An application may have functions and collations of its own in its indexes, and rows that break the rules of its tables;
//! neither is damage. There SQLite cannot look at all, or has more to say than that, and only what is read is looked over.

use std::collections::BTreeSet;

use blat_domain::util::text::printable;
use sqlx::{AssertSqlSafe, Error, Row as _, SqliteConnection};

use crate::releases::database::connection::said;

/// How complaints begin that are about a value, or about what belongs to an extension that is not there.
const NO_DAMAGE: [&str; 5] =
    ["NULL value in ", "CHECK constraint failed in ", "NUMERIC value in ", "TEXT value in ", "non-"];
const NO_EXTENSION: &str = "unable to validate the inverted index for ";
/// SQLite's code for a statement that it does not understand, as one with a function that it does not know.
const NOT_UNDERSTOOD: i32 = 1;

/// Fails where it is damaged, as far as these queries can meet it.
pub(super) async fn expect_undamaged(connection: &mut SqliteConnection, queries: &[&str]) -> Result<(), String> {
    let failed = |error: Error| format!("cannot check that it is undamaged before anything goes: {}", said(&error));
    match complaints(connection, "PRAGMA integrity_check").await {
        Ok(complaints) if complaints.is_empty() => return Ok(()),
        Ok(complaints) => {
            if let Some(damage) = complaints.iter().find(|complaint| !is_no_damage(complaint)) {
                return Err(damaged(damage));
            }
        }
        Err(error) if is_not_understood(&error) => {}
        Err(error) => return Err(failed(error)),
    }
    for table in tables(connection, queries).await? {
        expect_good(connection, &table).await?;
    }
    Ok(())
}

/// Fails where this table or its indexes are damaged, or where nobody can say.
async fn expect_good(connection: &mut SqliteConnection, table: &str) -> Result<(), String> {
    let check = format!("PRAGMA integrity_check('{}')", table.replace('\'', "''"));
    let found = match complaints(connection, &check).await {
        Ok(complaints) => complaints.into_iter().next(),
        Err(error) => {
            let remedy = match is_not_understood(&error) {
                true => {
                    "; let no index of a table that Blat reads use a function or a collation of the application's own, or have Blat read a table of its \
                     own that the application fills"
                }
                false => "",
            };
            let (table, said) = (printable(table), said(&error));
            return Err(format!(
                "cannot check that its table {table} is undamaged before anything goes: {said}{remedy}"
            ));
        }
    };
    match found {
        None => Ok(()),
        Some(rule) if is_no_damage(&rule) => Err(format!(
            "it has a row that its own rules forbid, or is being overwritten in place: {}; correct or remove that row",
            printable(&rule)
        )),
        Some(damage) => Err(damaged(&damage)),
    }
}

fn damaged(damage: &str) -> String {
    let damage = printable(damage);
    format!(
        "it is damaged, or is being overwritten in place: {damage}; copy a database aside and rename it, or put a good one in its place"
    )
}

fn is_no_damage(complaint: &str) -> bool {
    // "non-unique entry in index" is damage, "non-INT value in" a column is not.
    let is_of_a_value =
        NO_DAMAGE.iter().any(|begin| complaint.starts_with(begin)) && !complaint.starts_with("non-unique ");
    is_of_a_value || complaint.starts_with(NO_EXTENSION)
}

fn is_not_understood(error: &Error) -> bool {
    let Error::Database(refusal) = error else { return false };
    // What stands above the lowest byte says more of the same.
    refusal.code().and_then(|code| code.parse::<i32>().ok()).is_some_and(|code| code & 0xff == NOT_UNDERSTOOD)
}

/// What SQLite finds wrong; nothing where all is well.
async fn complaints(connection: &mut SqliteConnection, check: &str) -> Result<Vec<String>, Error> {
    let rows = sqlx::raw_sql(AssertSqlSafe(check.to_owned())).fetch_all(connection).await?;
    let mut complaints = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, Error>>()?;
    if complaints == ["ok"] {
        complaints.clear();
    }
    Ok(complaints)
}

/// The tables that these queries read, also by views, and the one that says which tables there are.
async fn tables(connection: &mut SqliteConnection, queries: &[&str]) -> Result<BTreeSet<String>, String> {
    let failed = |error: Error| format!("cannot find out which tables are to be checked: {}", said(&error));
    let mut tables = BTreeSet::from(["sqlite_schema".to_owned()]);
    let mut roots: BTreeSet<i64> = BTreeSet::new();
    for query in queries {
        let plan = AssertSqlSafe(format!("EXPLAIN {query}"));
        for step in sqlx::raw_sql(plan).fetch_all(&mut *connection).await.map_err(failed)? {
            match step.try_get::<&str, _>("opcode").map_err(failed)? {
                "OpenRead" | "ReopenIdx" => {
                    roots.insert(step.try_get("p2").map_err(failed)?);
                }
                "VOpen" => {
                    let why = "a query reads a table of an extension, which nobody can check for damage; have Blat read an ordinary table";
                    return Err(why.into());
                }
                _ => {}
            }
        }
    }
    let places = sqlx::raw_sql("SELECT rootpage, tbl_name FROM sqlite_schema WHERE rootpage > 0");
    for place in places.fetch_all(connection).await.map_err(failed)? {
        if roots.contains(&place.try_get(0).map_err(failed)?) {
            tables.insert(place.try_get(1).map_err(failed)?);
        }
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use sqlx::ConnectOptions as _;
    use sqlx::sqlite::SqliteConnectOptions;

    use super::*;

    const QUERIES: [&str; 2] = ["SELECT * FROM project", "SELECT * FROM seen -- by a view"];

    /// A database by an application of its own, which is written in Python here: `db` is its connection.
    fn made_by(application: &str) -> (tempfile::TempDir, PathBuf) {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("r.db");
        let script = format!(
            "import sqlite3, sys\n\
             db = sqlite3.connect(sys.argv[1])\n\
             db.create_collation('german', lambda a, b: (a > b) - (a < b))\n\
             db.create_function('norm', 1, lambda a: a.lower(), deterministic=True)\n\
             db.executescript('''CREATE TABLE project(id, name); CREATE TABLE content(id, name) ; CREATE TABLE \"o'n\"(a);\n\
             CREATE VIEW seen AS SELECT c.id, c.name FROM content c JOIN \"o'n\" ON a = id; INSERT INTO project VALUES (1, 'x')''')\n\
             {application}\ndb.commit()\n"
        );
        let ran = Command::new("python3").args(["-c", &script]).arg(&path).output().expect("python3 is installed");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        (scratch, path)
    }

    async fn checked(application: &str) -> Result<(), String> {
        let (_scratch, path) = made_by(application);
        let options = SqliteConnectOptions::new().filename(&path).read_only(true);
        let mut connection = options.connect().await.expect("a database");
        expect_undamaged(&mut connection, &QUERIES).await
    }

    #[tokio::test]
    async fn what_an_application_has_in_other_tables_is_its_own_matter() {
        let people =
            "db.execute('CREATE TABLE people(name TEXT)'); db.execute(\"INSERT INTO people VALUES (NULL), ('x')\")";
        for more in [
            "",
            "db.execute('CREATE INDEX i ON people(name COLLATE german)')",
            "db.execute('CREATE INDEX i ON people(norm(name)) WHERE name NOT NULL')",
            "db.execute('PRAGMA writable_schema = 1'); db.execute(\"UPDATE sqlite_master SET sql = 'CREATE TABLE people(name TEXT NOT NULL)' \
             WHERE name = 'people'\")",
            "db.execute('PRAGMA ignore_check_constraints = 1'); db.execute('CREATE TABLE old(age CHECK (age > 0))'); \
             db.execute('INSERT INTO old VALUES (-1)')",
        ] {
            assert_eq!(checked(&format!("{people}; {more}")).await, Ok(()), "{more}");
        }
    }

    #[tokio::test]
    async fn what_keeps_a_table_that_is_read_from_being_checked_is_named_with_what_to_do() {
        for (more, words) in [
            (
                "db.execute('CREATE INDEX i ON content(name COLLATE german)')",
                "table content is undamaged before anything goes: no such collation",
            ),
            ("db.execute('''CREATE INDEX i ON \"o'n\"(norm(a))''')", "table o'n is undamaged"),
            (
                "db.execute('PRAGMA writable_schema = 1'); db.execute(\"INSERT INTO content VALUES (1, NULL)\"); \
                 db.execute(\"UPDATE sqlite_master SET sql = 'CREATE TABLE content(id, name NOT NULL)' WHERE name = 'content'\")",
                "that its own rules forbid, or is being overwritten in place: NULL value in content.name",
            ),
        ] {
            let why = checked(more).await.expect_err(more);
            assert!(why.contains(words) && !why.contains("it is damaged"), "{why}");
        }
    }

    #[tokio::test]
    async fn what_is_read_is_checked_for_damage_also_where_the_whole_cannot_be() {
        // The whole cannot be checked because of an index of names, and a row was written while the index of contents was not there.
        let damage = "db.executescript('CREATE TABLE people(name); CREATE INDEX i ON content(id)')
db.execute('CREATE INDEX j ON people(name COLLATE german)')
db.execute('PRAGMA writable_schema = 1')
index = db.execute(\"SELECT * FROM sqlite_master WHERE name = 'i'\").fetchone()
db.execute(\"DELETE FROM sqlite_master WHERE name = 'i'\")
db.commit()
db.close()
db = sqlite3.connect(sys.argv[1])
db.execute(\"INSERT INTO content VALUES (1, 'a')\")
db.execute('PRAGMA writable_schema = 1')
db.execute('INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)', index)";
        let why = checked(damage).await.expect_err("a row that its index lacks");
        assert!(why.contains("it is damaged") && why.contains("index i"), "{why}");
    }
}
