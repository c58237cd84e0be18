//! Settings by which an administrator gets what is left out of a damaged server: it leaves out what it cannot read then, and no query fails by that.
//! To whoever only sees rows, what is left out is gone.

use blat_domain::policy::release::row::Cell;

use super::between::DatabaseError;
use super::connection::DatabaseConnection;
use super::rows::Cells;

/// What the queries below give.
const COLUMNS: [&str; 2] = ["variable_name", "value"];

/// Anybody may read them. A server that does not know one has none of it.
const POSTGRES: &str = "\
    SELECT 'zero_damaged_pages' AS variable_name, pg_catalog.current_setting('zero_damaged_pages', true) AS value UNION ALL \
    SELECT 'ignore_checksum_failure', pg_catalog.current_setting('ignore_checksum_failure', true) UNION ALL \
    SELECT 'ignore_invalid_pages', pg_catalog.current_setting('ignore_invalid_pages', true)";
const MYSQL: &str =
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('innodb_force_recovery', 'innodb_corrupt_table_action')";

impl DatabaseConnection {
    /// Fails where the server leaves out what is damaged. It is asked within the transaction: an administrator may change this at any time.
    pub(super) async fn expect_no_rescue(&mut self) -> Result<(), DatabaseError> {
        let query = match self {
            Self::Sqlite(_) => return Ok(()),
            Self::Postgres(_) => POSTGRES,
            Self::MySql(_) => MYSQL,
        };
        let mut refusal = None;
        let judge = |row: Cells<2>| refusal = refusal.take().or_else(|| refusal_of(row));
        self.rows("the server's settings", query, false, &COLUMNS, judge).await?;
        refusal.map_or(Ok(()), |why| Err(why.into()))
    }
}

/// Why nothing is read while a setting has this value.
fn refusal_of([name, value]: Cells<2>) -> Option<String> {
    let (Cell::Text(name), Cell::Text(value) | Cell::Number(value)) = (name, value) else { return None };
    let leaves_out = match name.as_str() {
        "zero_damaged_pages" | "ignore_checksum_failure" | "ignore_invalid_pages" => value != "off",
        "innodb_force_recovery" => value != "0",
        "innodb_corrupt_table_action" => value.eq_ignore_ascii_case("salvage"),
        _ => false,
    };
    leaves_out.then(|| {
        format!(
            "the server has {name} = {value}: it leaves out rows that are damaged, and Blat would take them for rows that are gone; restore the damaged \
             tables from a backup, and take that setting away"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_leaves_out_what_is_damaged_is_not_read() {
        for (name, value, is_refused) in [
            ("zero_damaged_pages", "on", true),
            ("zero_damaged_pages", "off", false),
            ("ignore_checksum_failure", "on", true),
            ("ignore_checksum_failure", "NULL", false),
            ("ignore_invalid_pages", "on", true),
            ("innodb_force_recovery", "0", false),
            ("innodb_force_recovery", "1", true),
            ("innodb_corrupt_table_action", "assert", false),
            ("innodb_corrupt_table_action", "salvage", true),
        ] {
            let cell = |word: &str| if word == "NULL" { Cell::Missing } else { Cell::Text(word.to_owned()) };
            let why = refusal_of([cell(name), cell(value)]);
            assert_eq!(why.is_some(), is_refused, "{name} = {value}");
            assert!(why.is_none_or(|why| why.contains(&format!("{name} = {value}")) && why.contains("backup")));
        }
    }
}
