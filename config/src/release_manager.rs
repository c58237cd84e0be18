//! `release_manager`: where the wanted set is looked up, and what may be said about it.
//!
//! No password is ever a part of the configuration, so none can be shown with it: URLs that hold one are refused.

use std::path::PathBuf;
use std::time::Duration;

use blat_domain::util::text::printable;

use crate::database::{Server, url};
use crate::document::Value;
use crate::home::Home;
use crate::keys::{Found, Keys, Wrong};
use crate::settings::{Database, Mode, Queries, ReleaseManager, ReleaseSource};
use crate::values;

/// Every source; one of them is named.
const SOURCES: [&str; 6] = ["sqlite", "postgres", "mysql", "file", "command", "package_list"];
const EXPECTED: &str = "one of {sqlite: PATH}, {postgres: URL}, {mysql: URL}, {file: PATH}, {command: [ARGV…]} or \
                        {package_list: PATH}, or none";
/// How long a source may take to answer, unless the config says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The shortest time that is worth asking for.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest: a source that hangs must be noticed some time, and servers count milliseconds in 31 bits.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Reads the key; none where it is not given, is `none`, or was complained about.
pub(crate) fn read(home: &Home, keys: &mut Keys<'_>) -> Option<ReleaseManager> {
    let found = keys.find("release_manager")?;
    if keys.is_text("release_manager", "none") {
        return None;
    }
    if !matches!(found.node.value, Value::Map(_)) {
        keys.complain_about(found, "release_manager is not a mapping".into(), Some(EXPECTED));
        return None;
    }
    let mut inner = Keys::new();
    inner.add(found);
    let source = source(home, &mut inner);
    let mode = inner.value("mode", Mode::Strict, |text| match text {
        "strict" => Ok(Mode::Strict),
        "fallback" => Ok(Mode::Fallback),
        other => Err(Wrong::expected("strict or fallback")(other)),
    });
    let timeout = inner.value("timeout", TIMEOUT, timeout);
    inner.refuse_unknown(&[], |_| None);
    let named = SOURCES.iter().filter(|source| inner.has(source)).count();
    // A source whose name is misspelt was complained about already.
    if named > 1 || (named == 0 && inner.complaints.is_empty()) {
        let message = if named == 0 { "names no source" } else { "names more than one source" };
        inner.complain_about(found, format!("release_manager {message}"), Some(EXPECTED));
    }
    keys.complaints.append(&mut inner.complaints);
    Some(ReleaseManager { source: source?, mode, timeout })
}

fn timeout(text: &str) -> Result<Duration, Wrong> {
    match values::duration_from(SHORTEST)(text)? {
        long if long > LONGEST => {
            Err(Wrong { message: format!("{} is too long", printable(text)), expected: Some("at most one day") })
        }
        timeout => Ok(timeout),
    }
}

fn source(home: &Home, inner: &mut Keys<'_>) -> Option<ReleaseSource> {
    let path = values::local_path(home);
    let sqlite = inner.optional("sqlite", &path);
    let postgres = inner.optional("postgres", url(Server::Postgres));
    let mysql = inner.optional("mysql", url(Server::MySql));
    let file = inner.optional("file", &path);
    let command = command(home, inner);
    let package_list = inner.optional("package_list", &path);
    let has_queries = ["sqlite", "postgres", "mysql"].iter().any(|key| inner.has(key));
    let queries = queries(inner, has_queries);
    let has_password = ["postgres", "mysql"].iter().any(|key| inner.has(key));
    let password_file = password_file(inner, has_password, &path);
    let database = |url: String| Database { url, password_file: password_file.clone(), queries: queries.clone() };
    let sqlite = sqlite.map(|path| ReleaseSource::Sqlite { path, queries: queries.clone() });
    let postgres = postgres.map(|url| ReleaseSource::Postgres(database(url)));
    let mysql = mysql.map(|url| ReleaseSource::MySql(database(url)));
    sqlite
        .or(postgres)
        .or(mysql)
        .or(file.map(|path| ReleaseSource::File { path }))
        .or(command.map(|argv| ReleaseSource::Command { argv }))
        .or(package_list.map(|path| ReleaseSource::PackageList { path }))
}

/// `command: [PROGRAM, ARGUMENT…]`: no shell reads it, so one text with spaces in it would be the name of a program.
fn command(home: &Home, inner: &mut Keys<'_>) -> Option<Vec<String>> {
    const LIST: &str = "a list: [PROGRAM, ARGUMENT, …]";
    let found = inner.find("command")?;
    if !matches!(&found.node.value, Value::List(items) if !items.is_empty()) {
        inner.complain_about(found, "command is not a list of words".into(), Some(LIST));
        return None;
    }
    let before = inner.complaints.len();
    let mut argv = inner.scalars(found, |word| match word.contains('\0') {
        true => Err(Wrong { message: "no argument can hold a NUL".into(), expected: None }),
        false => Ok(word.to_owned()),
    });
    if inner.complaints.len() > before {
        return None;
    }
    let program = argv.first_mut()?;
    if program.is_empty() || program.starts_with('~') {
        let message = format!("\"{}\" is no program", printable(program));
        inner.complain_about(found, message, Some("a name that is looked for in PATH, or a path"));
        return None;
    }
    if program.contains('/') {
        // As all paths of this machine: relative to the home tree.
        *program = home.root().join(&*program).to_str()?.to_owned();
    }
    Some(argv)
}

fn queries(inner: &mut Keys<'_>, allowed: bool) -> Queries {
    let Some(found) = inner.find("queries") else { return Queries::default() };
    if !allowed {
        inner.complain_about(found, "queries are only for sqlite, postgres and mysql".into(), None);
    }
    let mut own = Keys::new();
    own.add(found);
    let queries = Queries {
        projects: own.optional("projects", query),
        releases: own.optional("releases", query),
        packages: own.optional("packages", query),
    };
    own.refuse_unknown(&[], |_| None);
    inner.complaints.append(&mut own.complaints);
    queries
}

/// A query is put into parentheses where packages are read, so it is one statement without its end mark.
fn query(text: &str) -> Result<String, Wrong> {
    let text = text.trim().trim_end_matches(';').trim_end();
    let first = text.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default().to_ascii_lowercase();
    if ["select", "with"].contains(&first.as_str()) && !text.contains('\0') {
        return Ok(text.to_owned());
    }
    Err(Wrong::expected("one SELECT")(text))
}

fn password_file(
    inner: &mut Keys<'_>,
    allowed: bool,
    path: impl Fn(&str) -> Result<PathBuf, Wrong>,
) -> Option<PathBuf> {
    let found = inner.find("password_file")?;
    if !allowed {
        inner.complain_about(found, "a password_file is only for postgres and mysql".into(), None);
    }
    inner.scalar(found, path)
}

/// What is right in each key and wrong between them: a selection without a source, or with one that knows no releases.
pub(crate) fn contradictions(manager: Option<&ReleaseManager>, keys: &mut Keys<'_>) {
    let (about, expected) = match manager.map(|manager| &manager.source) {
        Some(ReleaseSource::PackageList { .. }) => {
            ("have no meaning with a package_list, which is the wanted set itself", "neither, or another source")
        }
        // A source may be among the defaults, where those could not be read.
        None if keys.is_cut() => return,
        None if !keys.has("release_manager") || keys.is_text("release_manager", "none") => {
            ("need a release_manager to be looked up in", "release_manager: {file: PATH} or another source")
        }
        // No source because what was given is wrong, which was said.
        None => return,
        Some(
            ReleaseSource::Sqlite { .. }
            | ReleaseSource::Postgres(_)
            | ReleaseSource::MySql(_)
            | ReleaseSource::File { .. }
            | ReleaseSource::Command { .. },
        ) => return,
    };
    for key in ["releases", "projects"] {
        let Some(found @ Found { node, .. }) = keys.find(key) else { continue };
        if !matches!(&node.value, Value::List(items) if items.is_empty()) {
            keys.complain_about(found, format!("{key} {about}"), Some(expected));
        }
    }
}
