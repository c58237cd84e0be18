//! Values as a server gives them: as text, with the type that says whether the text is what somebody wrote.

use blat_domain::policy::release::row::Cell;
use sqlx::{Column as _, ColumnIndex, Database, Decode, Error, MySql, Postgres, Row, TypeInfo, ValueRef};

/// What values of a type are for us.
enum ColumnType {
    /// Kept as written.
    Text,
    /// Padded with blanks that do not count.
    Padded,
    /// A whole number; leading zeros are how a column is shown.
    Whole,
    /// An exact number with digits behind the point.
    Decimal,
    Flag,
    /// Bits, which hold a truth value where there is one.
    Bits,
    /// Any other, which may be shown otherwise than it was written.
    Other,
}

/// By the names that the drivers give to the types of all three kinds of database.
fn kind(name: &str) -> ColumnType {
    match name {
        // An enumeration, or another type that the site has made, has the name "?". Bytes are as they were written, whatever they mean.
        "TEXT" | "VARCHAR" | "NAME" | "UNKNOWN" | "\"CHAR\"" | "?" | "ENUM" | "TINYTEXT" | "MEDIUMTEXT" | "LONGTEXT"
        | "VARBINARY" | "BINARY" | "BLOB" | "TINYBLOB" | "MEDIUMBLOB" | "LONGBLOB" => ColumnType::Text,
        "CHAR" => ColumnType::Padded,
        "INTEGER" | "INT2" | "INT4" | "INT8" | "OID" | "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT"
        | "TINYINT UNSIGNED" | "SMALLINT UNSIGNED" | "MEDIUMINT UNSIGNED" | "INT UNSIGNED" | "BIGINT UNSIGNED"
        // MySQL's is a number with one digit.
        | "BOOLEAN" => ColumnType::Whole,
        "NUMERIC" | "DECIMAL" => ColumnType::Decimal,
        "BOOL" => ColumnType::Flag,
        "BIT" => ColumnType::Bits,
        _ => ColumnType::Other,
    }
}

/// An exact number without digits behind its point where all of them are zeros: `7.00` is 7.
fn whole(text: String) -> String {
    match text.split_once('.') {
        Some((whole, rest)) if rest.bytes().all(|digit| digit == b'0') => whole.to_owned(),
        Some(_) | None => text,
    }
}

/// The value of a column, and how many bytes it has. A column is found in capitals as well, as some databases show it. Fails only where there is no
/// such column.
pub(super) fn read<DB: Database>(row: &DB::Row, column: &str) -> Result<(Cell, usize), String>
where
    for<'i> &'i str: ColumnIndex<DB::Row>,
    for<'r> String: Decode<'r, DB>,
{
    let is_it = |name: &&str| name.eq_ignore_ascii_case(column);
    let mut alike = row.columns().iter().map(|column| column.name()).filter(is_it);
    // Just that one, where there is one; and two that differ from it are none.
    let written = match (alike.next(), alike.next()) {
        (Some(written), None) => written,
        (None, _) | (Some(_), Some(_)) => column,
    };
    let value = match row.try_get_raw(written) {
        Ok(value) => value,
        Err(Error::ColumnNotFound(_)) => return Err(format!("it gives no column {column}")),
        Err(error) => return Err(format!("cannot read the column {column}: {error}")),
    };
    if value.is_null() {
        return Ok((Cell::Missing, 0));
    }
    let name = value.type_info().name().to_owned();
    // Text in no known encoding is no name.
    let Ok(text) = row.try_get_unchecked::<String, _>(written) else {
        return Ok((Cell::other(format!("a value of type {name} that is not UTF-8"), ""), 0));
    };
    let other = |text: String| Cell::other(format!("a value of type {name}"), text);
    let length = text.len();
    let cell = match kind(&name) {
        ColumnType::Text => Cell::Text(text),
        ColumnType::Padded => Cell::Text(text.trim_end_matches(' ').to_owned()),
        ColumnType::Whole => Cell::Number(text.parse::<i128>().map_or(text, |number| number.to_string())),
        ColumnType::Decimal => Cell::Number(whole(text)),
        ColumnType::Flag | ColumnType::Bits => match (DB::NAME, text.as_str()) {
            (Postgres::NAME, "t" | "1") | (MySql::NAME, "\u{1}") => Cell::Flag(true),
            (Postgres::NAME, "f" | "0") | (MySql::NAME, "\0") => Cell::Flag(false),
            // MySQL gives the bits themselves, and the number 49 looks like the digit 1.
            _ => other(text),
        },
        ColumnType::Other => other(text),
    };
    Ok((cell, length))
}
