//! A database's URL: what it may say, which files it names, and by which way it leads to the server.
//!
//! Whoever answers in the server's place says which packages are wanted, and is given the password. So the files that say whom to take for the
//! server are held to the trust of the home tree's own, and it is known of each URL what keeps a stranger from that place.

use std::path::{Path, PathBuf};

use blat_domain::util::text::printable;
use url::{Url, form_urlencoded};

use crate::keys::Wrong;
use crate::settings::Database;
use crate::trust::{self, Distrust};

/// Where PostgreSQL's socket is, where a URL names no host.
const USUAL_FOLDER: &str = "/var/run/postgresql";

/// The two kinds of database servers.
#[derive(Clone, Copy)]
pub(crate) enum Server {
    Postgres,
    MySql,
}

impl Server {
    fn schemes(self) -> &'static [&'static str] {
        match self {
            Self::Postgres => &["postgres", "postgresql"],
            Self::MySql => &["mysql", "mariadb"],
        }
    }

    fn form(self) -> &'static str {
        match self {
            Self::Postgres => "postgres://USER@HOST:PORT/DATABASE",
            Self::MySql => "mysql://USER@HOST:PORT/DATABASE",
        }
    }

    fn elsewhere(self) -> &'static str {
        match self {
            Self::Postgres => "the password in password_file: PATH, in PGPASSWORD or in ~/.pgpass",
            Self::MySql => "the password in password_file: PATH or in MYSQL_PWD",
        }
    }

    /// The parameters that a URL may have. Where the values are not listed, they are any.
    fn parameters(self) -> &'static [(&'static str, &'static [&'static str])] {
        match self {
            Self::Postgres => &[
                ("sslmode", &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]),
                ("sslrootcert", &[]),
                ("sslcert", &[]),
                ("sslkey", &[]),
                ("host", &[]),
                ("application_name", &[]),
            ],
            Self::MySql => &[
                ("ssl-mode", &["disabled", "preferred", "required", "verify_ca", "verify_identity"]),
                ("ssl-ca", &[]),
                ("ssl-cert", &[]),
                ("ssl-key", &[]),
                ("socket", &[]),
            ],
        }
    }

    /// The same for the operator.
    fn known(self) -> &'static str {
        match self {
            Self::Postgres => "sslmode, sslrootcert, sslcert, sslkey, host or application_name",
            Self::MySql => "ssl-mode, ssl-ca, ssl-cert, ssl-key or socket",
        }
    }

    /// The kind of database that has this key in the configuration.
    fn of_key(key: &str) -> Option<Self> {
        match key {
            "postgres" => Some(Self::Postgres),
            "mysql" => Some(Self::MySql),
            _ => None,
        }
    }

    /// The parameters that name files, each with the variable that does where the parameter is not there.
    fn files(self) -> &'static [(&'static str, Option<&'static str>)] {
        match self {
            Self::Postgres => {
                &[("sslrootcert", Some("PGSSLROOTCERT")), ("sslcert", Some("PGSSLCERT")), ("sslkey", Some("PGSSLKEY"))]
            }
            Self::MySql => &[("ssl-ca", None), ("ssl-cert", None), ("ssl-key", None)],
        }
    }

    /// What an operator writes so that nobody can take the server's place.
    fn remedy(self) -> &'static str {
        match self {
            Self::Postgres => {
                "sslmode=verify-full, or with host=/var/run/postgresql or another folder of the server's own"
            }
            Self::MySql => {
                "ssl-mode=VERIFY_IDENTITY, or with socket=/run/mysqld/mysqld.sock or another one in a folder of the server's own"
            }
        }
    }
}

/// Whether this is the text behind such a key, up to the end of its line, and may hold anything: what is no good URL is not shown.
pub(crate) fn hides(key: &str, rest: &str) -> bool {
    let Some(server) = Server::of_key(key) else { return false };
    // The colon of the URL itself.
    if rest.starts_with("//") {
        return false;
    }
    let rest = rest.trim_start_matches([' ', '\t', '\'', '"']);
    // A value in the lines below, and a mapping or a list.
    if rest.is_empty() || rest.starts_with(['|', '>', '#']) {
        return false;
    }
    let value = rest.split(['\'', '"', ' ', '\t', ',', '}']).next().unwrap_or_default();
    url(server)(value).is_err()
}

/// A URL without a password. What is wrong with one is said without showing it.
pub(crate) fn url(server: Server) -> impl Fn(&str) -> Result<String, Wrong> {
    move |text| {
        let wrong = |message: String| Wrong { message, expected: Some(server.form()) };
        let url = Url::parse(text).map_err(|error| wrong(format!("this is not a URL: {error}")))?;
        if !server.schemes().contains(&url.scheme()) {
            return Err(wrong("this URL is not for this database, by what it begins with".to_owned()));
        }
        let named = url.query_pairs().any(|(key, _)| key.to_ascii_lowercase().contains("pass"));
        // `blat%3APASSWORD@` is a name with a colon to the driver, and a password to whoever wrote it.
        if url.password().is_some() || named || decoded(url.username()).contains(':') {
            let message = "a password must not stand in the configuration".to_owned();
            return Err(Wrong { message, expected: Some(server.elsewhere()) });
        }
        if url.fragment().is_some() {
            return Err(wrong(
                "this URL goes on behind a number sign; write one that belongs to a name as %23".to_owned(),
            ));
        }
        for (key, value) in url.query_pairs() {
            let Some((_, values)) = server.parameters().iter().find(|(known, _)| *known == key) else {
                let message = "this URL has a parameter that is not known".to_owned();
                return Err(Wrong { message, expected: Some(server.known()) });
            };
            if !values.is_empty() && !values.contains(&value.to_ascii_lowercase().as_str()) {
                let message = format!("{key} can be {}, and is none of these", values.join(", "));
                return Err(Wrong { message, expected: None });
            }
            let is_path = key == "socket" || server.files().iter().any(|(known, _)| *known == key);
            if is_path && !value.starts_with('/') {
                let message = format!("{key} is no absolute path");
                return Err(Wrong { message, expected: Some("a path from the root on") });
            }
        }
        Ok(text.to_owned())
    }
}

/// Where a database's server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// A Unix socket in this folder.
    Socket(PathBuf),
    /// TCP.
    Tcp {
        /// Host name or address, as the URL has it; an IPv6 address without its brackets.
        host: String,
        /// Whether a certificate says that it is the server, before anything is sent.
        is_verified: bool,
    },
}

impl Database {
    /// The way to the server, as the URL says, or the environment where the URL does not.
    pub fn address(&self) -> ServerAddress {
        let parsed = self.parsed();
        let is_verified = parsed.as_ref().is_some_and(is_verified);
        let tcp =
            |host: Option<String>| ServerAddress::Tcp { host: host.unwrap_or_else(|| "localhost".into()), is_verified };
        let Some((server, url)) = &parsed else { return tcp(None) };
        let host = url.host_str().filter(|host| !host.is_empty()).map(|host| bare(&decoded(host)));
        match server {
            Server::MySql => match last(url, "socket") {
                Some(socket) => ServerAddress::Socket(Path::new(&socket).parent().unwrap_or(Path::new("/")).to_owned()),
                None => tcp(host),
            },
            Server::Postgres => {
                let given = all(url, "host").into_iter().map(|host| bare(&host));
                let named: Vec<String> = host.into_iter().chain(given).collect();
                // As the driver does: a folder that is named anywhere counts, else the last host.
                let chosen = named.iter().rfind(|name| name.starts_with('/')).or(named.last()).cloned();
                match chosen.or_else(|| variable("PGHOSTADDR")).or_else(|| variable("PGHOST")) {
                    Some(folder) if folder.starts_with('/') => ServerAddress::Socket(folder.into()),
                    Some(host) => tcp(Some(host)),
                    // Never /tmp, where the driver looks too: anybody can make a socket there.
                    None if usual_socket(url).exists() => ServerAddress::Socket(USUAL_FOLDER.into()),
                    None => tcp(None),
                }
            }
        }
    }

    /// How a stranger may take the place of the server while that is down, and what to do about it. None where nobody can.
    pub fn exposure(&self) -> Option<String> {
        let (server, _) = self.parsed()?;
        let place = match self.address() {
            ServerAddress::Tcp { is_verified: true, .. } => return None,
            ServerAddress::Tcp { host, .. } => format!("at {}, on that machine or on the network,", printable(&host)),
            ServerAddress::Socket(folder) => {
                let is_open = trust::check_socket_folder(&folder).is_ok_and(|is_open| is_open);
                is_open.then(|| format!("in {}, where others can make files,", printable(&folder.to_string_lossy())))?
            }
        };
        let remedy = server.remedy();
        Some(format!(
            "whoever answers {place} while the database is down gets the password and says which packages are wanted; use a URL with {remedy}"
        ))
    }

    /// Files of this machine that the driver reads: whom it takes for the server, and as whom it logs in.
    fn files(&self) -> Vec<PathBuf> {
        let Some((server, url)) = self.parsed() else { return Vec::new() };
        let named = |(parameter, by_environment): &(&str, Option<&str>)| {
            let given = all(&url, parameter);
            // There a certificate may stand instead of its path.
            let from_environment = || by_environment.and_then(variable).filter(|value| !value.contains("-----BEGIN"));
            if given.is_empty() { from_environment().into_iter().collect() } else { given }
        };
        let mut files: Vec<PathBuf> = server.files().iter().flat_map(named).map(PathBuf::from).collect();
        files.extend(self.password_file.clone());
        if matches!(server, Server::Postgres) {
            files.extend(variable("PGPASSFILE").map(PathBuf::from));
            files.extend(std::env::home_dir().map(|home| home.join(".pgpass")).filter(|file| file.exists()));
        }
        files
    }

    /// Why it is not asked: files that it names and that others may write, or a socket in whose place others can put theirs at any time.
    pub(crate) fn distrusted(&self, home: &Path) -> Vec<(PathBuf, String)> {
        let mut distrusted: Vec<(PathBuf, String)> =
            self.files().into_iter().filter_map(|file| trust::open_to_others(home, &file)).collect();
        if let ServerAddress::Socket(folder) = self.address()
            && let Err(Distrust::OpenToOthers { path, what, .. }) = trust::check_socket_folder(&folder)
        {
            let path = printable(&path.to_string_lossy());
            let why = format!(
                "{path} {what}, so others may answer in the place of the database; have its socket in a folder of the server's own"
            );
            distrusted.push((folder, why));
        }
        distrusted
    }

    fn parsed(&self) -> Option<(Server, Url)> {
        let url = Url::parse(&self.url).ok()?;
        let server = [Server::Postgres, Server::MySql].into_iter().find(|kind| kind.schemes().contains(&url.scheme()));
        server.map(|server| (server, url))
    }
}

/// Whether nobody but the server's own host has a certificate that counts. That its authority is known is not enough: it may sign for others.
fn is_verified((server, url): &(Server, Url)) -> bool {
    let mode = match server {
        Server::Postgres => last(url, "sslmode").or_else(|| variable("PGSSLMODE")),
        Server::MySql => last(url, "ssl-mode"),
    };
    let mode = mode.unwrap_or_default().to_ascii_lowercase();
    ["verify-full", "verify_identity"].contains(&mode.as_str())
}

fn all(url: &Url, parameter: &str) -> Vec<String> {
    url.query_pairs().filter(|(key, _)| key == parameter).map(|(_, value)| value.into_owned()).collect()
}

/// Of several the last one counts.
fn last(url: &Url, parameter: &str) -> Option<String> {
    all(url, parameter).pop()
}

/// A host with its percent signs resolved: `%2Frun` is a folder.
fn decoded(host: &str) -> String {
    let plain = host.replace('+', "%2B");
    form_urlencoded::parse(plain.as_bytes()).next().map(|(name, _)| name.into_owned()).unwrap_or_default()
}

/// An IPv6 address has brackets in a URL, and nowhere else.
fn bare(host: &str) -> String {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned()
}

fn usual_socket(url: &Url) -> PathBuf {
    let port = url.port().map(|port| port.to_string()).or_else(|| variable("PGPORT")).unwrap_or_else(|| "5432".into());
    Path::new(USUAL_FOLDER).join(format!(".s.PGSQL.{port}"))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(url: &str) -> Database {
        Database { url: url.into(), password_file: None, queries: crate::settings::Queries::default() }
    }

    #[test]
    fn a_url_says_by_which_way_it_leads_to_the_server() {
        let socket = |folder: &str| ServerAddress::Socket(folder.into());
        let tcp = |host: &str, is_verified| ServerAddress::Tcp { host: host.into(), is_verified };
        for (url, address) in [
            ("postgres://blat@db/rm", tcp("db", false)),
            ("postgres://blat@db/rm?sslmode=require", tcp("db", false)),
            ("postgres://blat@db/rm?sslmode=verify-full&sslmode=prefer", tcp("db", false)),
            ("postgres://blat@db/rm?sslmode=Verify-Full", tcp("db", true)),
            ("postgres://blat@db/rm?host=/run/pg", socket("/run/pg")),
            ("postgres://blat@db/rm?host=/run/pg&host=other", socket("/run/pg")),
            ("postgresql://%2Frun%2fpg/rm?host=other", socket("/run/pg")),
            ("mysql://127.0.0.1:3306/rm", tcp("127.0.0.1", false)),
            ("postgres://blat@[::1]:5432/rm", tcp("::1", false)),
            ("postgres:///rm?host=[fe80::1%25eth0]", tcp("fe80::1%eth0", false)),
            ("mysql://blat@[2001:db8::1]/rm", tcp("2001:db8::1", false)),
            ("mysql://db/rm?ssl-mode=VERIFY_CA", tcp("db", false)),
            ("mysql://db/rm?ssl-mode=VERIFY_IDENTITY", tcp("db", true)),
            ("mariadb:///rm?socket=/run/mysqld/mysqld.sock", socket("/run/mysqld")),
        ] {
            assert_eq!(database(url).address(), address, "{url}");
        }
    }

    #[test]
    fn what_may_hold_a_password_is_no_url_of_a_database() {
        for text in [
            "mysql://blat:PW@db/rm",
            "mysql://blat%3APW@db/rm",
            "mysql:///rm#blat:PW",
            "mysql://db/rm?PassWord=PW",
            "mysql://db/rm?user=blat:PW",
        ] {
            let wrong = url(Server::MySql)(text).expect_err(text);
            assert!(!wrong.message.contains("PW"), "{}", wrong.message);
        }
        assert!(url(Server::MySql)("mysql://blat@db/rm").is_ok());
    }

    #[test]
    fn it_is_said_of_a_place_that_a_stranger_can_take() {
        for (url, remedy) in [
            ("postgres://blat@db/rm", "sslmode=verify-full"),
            ("postgres://blat@db/rm?sslmode=verify-ca", "sslmode=verify-full"),
            ("postgres://blat@db/rm?host=/tmp/blat-no-such-folder", "sslmode=verify-full"),
            ("mysql://db/rm", "ssl-mode=VERIFY_IDENTITY"),
        ] {
            let said = database(url).exposure().expect(url);
            assert!(said.contains("gets the password") && said.contains(remedy), "{said}");
        }
        for url in ["postgres://blat@db/rm?sslmode=verify-full", "mysql://db/rm?ssl-mode=verify_identity"] {
            assert_eq!(database(url).exposure(), None, "{url}");
        }
    }

    #[test]
    fn all_files_that_the_driver_reads_are_known() {
        let all = "postgres://db/rm?sslrootcert=/a&sslcert=/b&sslkey=/c&sslrootcert=/d";
        let files = database(all).files();
        let named: Vec<&Path> = ["/a", "/d", "/b", "/c"].map(Path::new).to_vec();
        assert!(files.iter().map(PathBuf::as_path).take(4).eq(named), "{files:?}");
        let files = database("mysql://db/rm?ssl-ca=/a&ssl-cert=/b&ssl-key=/c").files();
        assert_eq!(files, ["/a", "/b", "/c"].map(PathBuf::from));
    }
}
