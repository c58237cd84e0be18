//! What may stand between us and a database: poolers (PgBouncer, Odyssey), proxies (ProxySQL, MaxScale, HAProxy, a firewall), and a replica in the
//! place of the primary.
//!
//! As little is asked as all of them let through: no prepared statements, one transaction, and no setting of the session that a pooler does not
//! follow. What they refuse all the same comes with what to do, by the server's code where it has one, since its words may be in any language.

use std::io::ErrorKind;

use sqlx::Error;
use sqlx::mysql::MySqlDatabaseError;

#[cfg(test)]
mod tests;

/// Why something could not be read.
#[derive(Debug)]
pub(super) struct DatabaseError {
    /// What went wrong, fit for printing.
    pub(super) text: String,
    /// Why it may be gone when all is read anew; none where it stays.
    pub(super) passing: Option<Passing>,
}

/// What goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passing {
    /// A replica gave way to its primary, for an instant.
    GaveWay,
    /// Somebody keeps a table locked, for as long as it takes.
    Locked,
    /// A table was read that had not been locked before that.
    Unlocked,
}

impl From<String> for DatabaseError {
    fn from(text: String) -> Self {
        Self { text, passing: None }
    }
}

/// By what a server says why it refuses.
#[derive(Debug, Clone, Copy)]
enum Code<'a> {
    /// PostgreSQL's SQLSTATE.
    Postgres(&'a str),
    /// The number of MySQL, MariaDB, and the proxies before them.
    MySql(u16),
}

const GAVE_WAY: &str = "this server is a replica, and the query gave way to what came from its primary: set hot_standby_feedback = on or a longer \
                        max_standby_streaming_delay there, or name the primary in the URL";
const LOCKED: &str = "somebody keeps a table locked that Blat reads, and what it sees of such a table may be half a change: end what holds the lock, or \
                      raise timeout";
const ONLY_READS: &str =
    "Blat only reads: let each query be a SELECT that locks no rows (no FOR UPDATE) and calls no function that writes";
const FULL: &str = "all connections that the server or a pooler before it allows are taken: raise that limit (max_connections, the size of the \
                    pool), or end what holds them";
const STARTS: &str = "the server is starting or stopping, or is a standby that takes no queries: wait, set hot_standby = on there, or name another \
                      server";
const PARAMETER: &str = "a pooler before the server refuses that parameter: take it out of the URL, or add it to the pooler's \
                         ignore_startup_parameters";
const STATEMENTS: &str =
    "a pooler before the server allows no transactions: set pool_mode = transaction or session for this database there";
const UNKNOWN: &str = "a pooler before the server does not know it: add it there (databases, users or auth_query)";
const NOT_READY: &str =
    "this node does not take part in its cluster at present: name another node, or a proxy that knows which ones do";
const HOSTGROUPS: &str = "a proxy wants to send parts of one session to several servers: give this account one hostgroup there \
                          (transaction_persistent = 1, and no rule that splits its reads off)";
const FILTERED: &str = "Blat would take the rows that the policy hides for rows that are gone: have it read a view that belongs to the tables' \
                        owner, or give its account BYPASSRLS";
/// Where an answer has fewer rows than the server counts.
pub(super) const CUT_SHORT: &str = "a proxy before the server cuts answers (a limit of rows, a rule that adds LIMIT): take that away for this \
                                    account, or name the server itself in the URL";
const CUT: &str = "something ended the connection: look at the server's log, and at the time limits of what stands between (pooler, proxy, firewall)";

/// What an operator can do about it, where that is known.
pub(super) fn remedy(error: &Error) -> Option<&'static str> {
    match error {
        Error::Database(refusal) => code(error).and_then(|code| remedy_of(code, refusal.message())),
        Error::Io(cut) => match cut.kind() {
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe => Some(CUT),
            _ => None,
        },
        _ => None,
    }
}

/// Why it may be gone when all is read anew.
pub(super) fn passing(error: &Error) -> Option<Passing> {
    match code(error)? {
        code if is_conflict(code) => Some(Passing::GaveWay),
        code if is_lock(code) => Some(Passing::Locked),
        _ => None,
    }
}

fn code(error: &Error) -> Option<Code<'_>> {
    let Error::Database(refusal) = error else { return None };
    match refusal.try_downcast_ref::<MySqlDatabaseError>() {
        Some(refusal) => Some(Code::MySql(refusal.number())),
        None => match refusal.code()? {
            std::borrow::Cow::Borrowed(code) => Some(Code::Postgres(code)),
            std::borrow::Cow::Owned(_) => None,
        },
    }
}

/// A transaction that only reads meets no other conflict than that of a replica with its primary.
fn is_conflict(code: Code<'_>) -> bool {
    matches!(code, Code::Postgres("40001" | "40P01"))
}

/// MySQL has whoever only reads give way where two wait for each other. PostgreSQL does not, so that Blat never waits there for long enough to be one
/// of two.
fn is_lock(code: Code<'_>) -> bool {
    matches!(code, Code::Postgres("55P03") | Code::MySql(1205 | 1213))
}

fn remedy_of(code: Code<'_>, message: &str) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    match code {
        _ if is_conflict(code) => Some(GAVE_WAY),
        _ if is_lock(code) => Some(LOCKED),
        Code::Postgres("25006") => Some(ONLY_READS),
        Code::Postgres("42501") if says(&["row-level security"]) => Some(FILTERED),
        Code::Postgres("53300") => Some(FULL),
        Code::Postgres("57P01" | "57P02" | "57P03") => Some(STARTS),
        // Poolers have one code for everything, and words that are the same in any language.
        Code::Postgres(_) if says(&["unsupported startup parameter", "Unsupported startup parameter"]) => {
            Some(PARAMETER)
        }
        Code::Postgres(_) if says(&["statement pooling mode"]) => Some(STATEMENTS),
        Code::Postgres(_) if says(&["query_wait_timeout", "no more connections allowed"]) => Some(FULL),
        Code::Postgres(_) if says(&["no such database", "no such user"]) => Some(UNKNOWN),
        Code::Postgres(_) => None,
        Code::MySql(1290 | 1792 | 1836) => Some(ONLY_READS),
        Code::MySql(1040 | 1203 | 1226 | 9001) => Some(FULL),
        Code::MySql(1047) if says(&["WSREP"]) => Some(NOT_READY),
        Code::MySql(1053) => Some(STARTS),
        Code::MySql(9006) => Some(HOSTGROUPS),
        Code::MySql(1927) => Some(CUT),
        Code::MySql(_) => None,
    }
}
