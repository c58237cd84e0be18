//! A pooler before a standby, as far as it takes to read releases, and what is said of refusals.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use blat_config::{Database, Queries, ReleaseSource};
use blat_domain::policy::release::{Catalog, Selection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::{Purpose, load};
use super::*;

/// What PgBouncer takes at the start of a session; it refuses anything else.
const PARAMETERS: [&str; 7] =
    ["user", "database", "client_encoding", "datestyle", "timezone", "standard_conforming_strings", "application_name"];

/// Takes simple queries and nothing else, and has the first so many that ask for rows give way to the primary.
struct Pooler {
    conflicts: usize,
    /// How many rows the server counts, whatever it gives.
    count: &'static str,
    /// Whether the server is told to leave out what is damaged.
    damaged: &'static str,
    /// For each session that took its leave, whether that was in the middle of a transaction.
    left: Vec<bool>,
}

impl Pooler {
    /// Starts one, which ends with the test; gives what reads from it.
    async fn start(conflicts: usize) -> (Arc<Mutex<Self>>, ReleaseSource) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let pooler = Arc::new(Mutex::new(Self { conflicts, count: "1", damaged: "off", left: Vec::new() }));
        let serving = pooler.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // The agent may hang up at any moment.
                let _gone = serve(stream, &serving).await;
            }
        });
        let url = format!("postgres://blat@127.0.0.1:{port}/rm?sslmode=disable");
        (pooler, ReleaseSource::Postgres(Database { url, password_file: None, queries: Queries::default() }))
    }

    fn of(pooler: &Mutex<Self>) -> std::sync::MutexGuard<'_, Self> {
        pooler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_conflict(&mut self) -> bool {
        let has = self.conflicts > 0;
        self.conflicts = self.conflicts.saturating_sub(1);
        has
    }
}

async fn load_from(source: &ReleaseSource) -> Result<Catalog, String> {
    let selection = Selection { projects: vec!["Perth".into()], ..Selection::default() };
    load(source, &selection, Duration::from_secs(60), &std::env::temp_dir(), Purpose::Looking)
        .await
        .map(|read| read.catalog)
}

#[tokio::test]
async fn a_server_at_an_ipv6_address_is_found() {
    let database = |scheme: &str| Database {
        // Nobody listens there.
        url: format!("{scheme}://blat@[::1]:1/rm"),
        password_file: None,
        queries: Queries::default(),
    };
    for source in [ReleaseSource::Postgres(database("postgres")), ReleaseSource::MySql(database("mysql"))] {
        let why = load_from(&source).await.expect_err("nobody answers");
        assert!(!why.contains("lookup"), "{source:?}: {why}");
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
    [&[kind][..], &length, body].concat()
}

fn refusal(severity: &str, code: &str, text: &str) -> Vec<u8> {
    message(b'E', format!("S{severity}\0V{severity}\0C{code}\0M{text}\0\0").as_bytes())
}

/// One row of text: its columns and values.
fn row(cells: &[(&str, &str)]) -> Vec<u8> {
    let count = u16::try_from(cells.len()).expect("few").to_be_bytes();
    let (mut columns, mut values) = (count.to_vec(), count.to_vec());
    for (name, value) in cells {
        columns.extend([name.as_bytes(), &[0; 7]].concat());
        // The type text, of any length, without a modifier, as text.
        columns.extend([&25_u32.to_be_bytes()[..], &(-1_i16).to_be_bytes(), &(-1_i32).to_be_bytes(), &[0, 0]].concat());
        values.extend(u32::try_from(value.len()).expect("short").to_be_bytes());
        values.extend(value.as_bytes());
    }
    [message(b'T', &columns), message(b'D', &values), message(b'C', b"SELECT 1\0")].concat()
}

async fn serve(mut stream: TcpStream, pooler: &Mutex<Pooler>) -> std::io::Result<()> {
    let length = stream.read_u32().await? as usize;
    let mut start = vec![0; length - 4];
    stream.read_exact(&mut start).await?;
    let words: Vec<String> =
        start[4..].split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let odd = words
        .chunks(2)
        .map(|pair| &pair[0])
        .find(|name| !name.is_empty() && !PARAMETERS.contains(&name.to_ascii_lowercase().as_str()));
    if let Some(name) = odd {
        return stream.write_all(&refusal("FATAL", "08P01", &format!("unsupported startup parameter: {name}"))).await;
    }
    stream.write_all(&[message(b'R', &[0; 4]), message(b'Z', b"I")].concat()).await?;
    let mut state = b'I';
    loop {
        let kind = stream.read_u8().await?;
        let length = stream.read_u32().await? as usize;
        let mut body = vec![0; length - 4];
        stream.read_exact(&mut body).await?;
        let text = String::from_utf8_lossy(&body).into_owned();
        let answer = match (kind, text.as_str()) {
            (b'X', _) => {
                Pooler::of(pooler).left.push(state != b'I');
                return Ok(());
            }
            (b'Q', begin) if begin.starts_with("BEGIN") => {
                state = b'T';
                [message(b'C', b"BEGIN\0"), message(b'C', b"SET\0")].concat()
            }
            (b'Q', end) if end.starts_with("ROLLBACK") => {
                state = b'I';
                message(b'C', b"ROLLBACK\0")
            }
            (b'Q', _) if Pooler::of(pooler).has_conflict() => {
                state = b'E';
                refusal("ERROR", "40001", "storniere Anfrage wegen Konflikt mit der Wiederherstellung")
            }
            (b'Q', count) if count.starts_with("SELECT COUNT(*)") => row(&[("blat_count", Pooler::of(pooler).count)]),
            (b'Q', settings) if settings.starts_with("SELECT 'zero_damaged_pages'") => {
                row(&[("variable_name", "zero_damaged_pages"), ("value", Pooler::of(pooler).damaged)])
            }
            (b'Q', locked) if locked.starts_with("SELECT pg_catalog.format") => {
                row(&[("relation", "public.project"), ("kind", "lockable")])
            }
            (b'Q', projects) if projects.starts_with("SELECT project_id, project_name") => {
                row(&[("project_id", "1"), ("project_name", "Perth")])
            }
            (b'Q', releases) if releases.starts_with("SELECT project_id, release_id") => row(&[
                ("project_id", "1"),
                ("release_id", "10"),
                ("release_name", "P1"),
                ("state", "open"),
                ("s3sync", "0"),
            ]),
            (b'Q', _) => row(&[("release_id", "10"), ("package_name", "core"), ("package_version", "1.10")]),
            _ => refusal("ERROR", "26000", "prepared statement does not exist"),
        };
        stream.write_all(&[answer, message(b'Z', &[state])].concat()).await?;
    }
}

#[tokio::test]
async fn a_pooler_is_asked_nothing_that_it_does_not_know_and_left_outside_a_transaction() {
    let (pooler, source) = Pooler::start(0).await;
    let catalog = load_from(&source).await.expect("a catalog");
    assert_eq!(catalog.projects[0].releases[0].packages[0].to_string(), "core@1.10");
    let left = async {
        loop {
            if let Some(left) = Pooler::of(&pooler).left.first() {
                break *left;
            }
            tokio::task::yield_now().await;
        }
    };
    let was_in_the_middle = tokio::time::timeout(Duration::from_secs(30), left).await.expect("it takes its leave");
    assert!(!was_in_the_middle, "a pooler gives up the server's connection then");
}

#[tokio::test]
async fn a_query_that_gave_way_to_the_primary_is_asked_again_and_named_where_it_always_does() {
    let (_pooler, source) = Pooler::start(2).await;
    assert_eq!(load_from(&source).await.expect("a catalog").projects.len(), 1);
    let (_pooler, source) = Pooler::start(usize::MAX).await;
    let why = load_from(&source).await.expect_err("a busy replica");
    assert!(why.contains("Konflikt mit der Wiederherstellung; this server is a replica"), "{why}");
    assert!(why.contains("hot_standby_feedback = on"), "{why}");
}

#[tokio::test]
async fn an_answer_that_something_between_cut_short_is_none() {
    for (count, words) in [("2", "gave 1 rows of 2; a proxy"), ("0", "gave 1 rows of 0; a proxy")] {
        let (pooler, source) = Pooler::start(0).await;
        Pooler::of(&pooler).count = count;
        let why = load_from(&source).await.expect_err("fewer than there are");
        assert!(why.contains("the query for projects") && why.contains(words), "{why}");
    }
}

#[tokio::test]
async fn a_server_that_leaves_out_what_is_damaged_gives_no_answer() {
    let (pooler, source) = Pooler::start(0).await;
    Pooler::of(&pooler).damaged = "on";
    let why = load_from(&source).await.expect_err("rows may be missing");
    assert!(why.contains("zero_damaged_pages = on") && why.contains("take that setting away"), "{why}");
}

#[tokio::test]
async fn a_connection_that_is_cut_is_named_as_that() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let url = format!("postgres://blat@127.0.0.1:{port}/rm?sslmode=disable");
    let source = ReleaseSource::Postgres(Database { url, password_file: None, queries: Queries::default() });
    let why = load_from(&source).await.expect_err("cut");
    assert!(why.contains("something ended the connection"), "{why}");
}

#[test]
fn what_poolers_proxies_and_replicas_refuse_comes_with_what_to_do() {
    for (code, message, words) in [
        (Code::Postgres("08P01"), "unsupported startup parameter: options", "ignore_startup_parameters"),
        (
            Code::Postgres("08P01"),
            "transaction blocks not allowed in statement pooling mode",
            "pool_mode = transaction",
        ),
        (Code::Postgres("08P01"), "query_wait_timeout", "the size of the pool"),
        (Code::Postgres("08P01"), "no such database: rm", "does not know it"),
        (Code::Postgres("53300"), "sorry, too many clients already", "max_connections"),
        (Code::Postgres("57P03"), "the database system is starting up", "hot_standby = on"),
        (Code::Postgres("40001"), "terminating connection due to conflict with recovery", "name the primary"),
        (Code::Postgres("55P03"), "could not obtain lock on relation \"project\"", "end what holds the lock"),
        (Code::MySql(1205), "Lock wait timeout exceeded; try restarting transaction", "end what holds the lock"),
        (Code::Postgres("25006"), "cannot execute SELECT FOR UPDATE in a read-only transaction", "no FOR UPDATE"),
        (
            Code::Postgres("42501"),
            "query would be affected by row-level security policy for table \"project\"",
            "give its account BYPASSRLS",
        ),
        (Code::MySql(1290), "The MariaDB server is running with the --read-only option", "Blat only reads"),
        (Code::MySql(1047), "WSREP has not yet prepared node for application use", "name another node"),
        (Code::MySql(9001), "Max connect timeout reached while reaching hostgroup 1 after 10000ms", "are taken"),
        (Code::MySql(9006), "ProxySQL Error: connection is locked to hostgroup 1", "one hostgroup"),
        (Code::MySql(1927), "Connection killed", "something ended the connection"),
    ] {
        assert!(remedy_of(code, message).is_some_and(|remedy| remedy.contains(words)), "{code:?}, {message}");
    }
    // What has nothing to do with it stays as it is.
    for (code, message) in [
        (Code::Postgres("42P01"), "relation \"project\" does not exist"),
        (Code::Postgres("28P01"), "password authentication failed for user \"blat\""),
        (Code::MySql(1045), "Access denied for user 'blat'@'localhost'"),
        (Code::MySql(1047), "Unknown command"),
    ] {
        assert_eq!(remedy_of(code, message), None, "{code:?}, {message}");
    }
}
