//! A Release Manager's database on a real server, which the test starts and which ends with it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fmt, fs};

use crate::accounts::Account;
use crate::lab::Lab;
use crate::process;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// PostgreSQL.
    Postgres,
    /// MariaDB, which speaks as MySQL does.
    MariaDb,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "mariadb",
        })
    }
}

/// The password of the account that Blat reads with: a word that stands nowhere else.
pub const PASSWORD: &str = "Xq7-unlikely-word";

/// A server with the documented schema, empty, and an account `blat` with the documented grant.
pub struct Database {
    /// Which server it is.
    pub kind: Kind,
    dir: PathBuf,
    lab: PathBuf,
}

impl Database {
    /// Starts a server in the lab, each with column types of its own.
    pub fn new(lab: &Lab, kind: Kind) -> Self {
        let lab = lab.home().parent().expect("the lab's folder").to_owned();
        let database = Self { kind, dir: lab.join("db"), lab };
        database.start();
        database.sql(match kind {
            Kind::Postgres => POSTGRES,
            Kind::MariaDb => MARIADB,
        });
        database
    }

    /// Starts the server, on the data it had.
    pub fn start(&self) {
        process::run(self.tool("start").arg(self.kind.to_string()).arg(&self.dir), &self.lab).expect_success();
    }

    /// Stops the server.
    pub fn stop(&self) {
        process::run(self.tool("stop").arg(&self.dir), &self.lab).expect_success();
    }

    /// Starts the server anew with one more argument.
    pub fn restart_with(&self, option: &str) {
        self.stop();
        fs::write(self.dir.join("option"), option).expect("the lab's folder");
        self.start();
    }

    /// Has the server take nothing but reads from now on, as a replica does: PostgreSQL's is a standby then, whose primary sends nothing.
    pub fn become_replica(&self) {
        match self.kind {
            Kind::Postgres => {
                self.stop();
                let mark = self.dir.join("data/standby.signal").display().to_string();
                let touched = Account::Target.command("touch").arg(mark).status();
                assert!(touched.is_ok_and(|status| status.success()), "the server's own folder");
                self.start();
            }
            Kind::MariaDb => {
                self.sql("SET GLOBAL read_only = 1");
            }
        }
    }

    fn tool(&self, verb: &str) -> Command {
        let mut tool = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/database"));
        tool.arg(verb);
        tool
    }

    /// Runs statements as the server's administrator, and gives what they print.
    pub fn sql(&self, statements: &str) -> String {
        let mut command = self.tool("sql");
        command.arg(&self.dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut client = command.spawn().expect("the lab's tool");
        let mut stdin = client.stdin.take().expect("a pipe");
        stdin.write_all(statements.as_bytes()).expect("a client that reads");
        drop(stdin);
        let output = client.wait_with_output().expect("the lab's tool");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} refuses\n{statements}\n{said}", self.kind);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Adds a release of the project 1, which is `Lab`.
    pub fn release(&self, id: u32, name: &str, state: &str, packages: &[(&str, &str)]) {
        let table = self.release_table();
        let mut statements = format!("INSERT INTO {table} VALUES ({id}, 1, '{name}', '{state}', {});\n", self.no());
        for (package, version) in packages {
            writeln!(statements, "INSERT INTO release_package VALUES ({id}, '{package}', '{version}');")
                .expect("writing to a string");
        }
        self.sql(&statements);
    }

    /// The table of releases: its name is a word that MariaDB keeps for itself.
    pub fn release_table(&self) -> &'static str {
        match self.kind {
            Kind::Postgres => "release",
            Kind::MariaDb => "`release`",
        }
    }

    fn no(&self) -> &'static str {
        match self.kind {
            Kind::Postgres => "false",
            Kind::MariaDb => "0",
        }
    }

    /// The way there, without a password.
    pub fn url(&self) -> String {
        let port = fs::read_to_string(self.dir.join("port")).expect("a started server");
        format!("{}://blat@127.0.0.1:{}/rm", self.key(), port.trim())
    }

    /// The master's copy of the certificate that PostgreSQL shows; MariaDB has none.
    pub fn certificate(&self) -> String {
        let copy = self.lab.join("server.crt");
        fs::copy(self.dir.join("server.crt"), &copy).expect("the server's certificate");
        Account::Master.own(&copy);
        copy.display().to_string()
    }

    /// The key below `release_manager`.
    pub fn key(&self) -> &'static str {
        match self.kind {
            Kind::Postgres => "postgres",
            Kind::MariaDb => "mysql",
        }
    }

    /// `release_manager` with this source and further keys.
    pub fn config(&self, more: &str) -> String {
        format!("release_manager: {{{}: \"{}\"{more}}}", self.key(), self.url())
    }

    /// `release_manager` with a password file that holds this word.
    pub fn config_with(&self, password: &str, more: &str) -> String {
        let path = self.lab.join("password");
        fs::write(&path, format!("{password}\n")).expect("an own folder");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&path, private).expect("an own file");
        Account::Master.own(&path);
        self.config(&format!(", password_file: {}{more}", path.display()))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let stopped = self.tool("stop").arg(&self.dir).status();
        if !stopped.is_ok_and(|status| status.success()) {
            eprintln!("could not stop the {} of {}", self.kind, self.dir.display());
        }
    }
}

// The grants are those that docs/configuration.md tells operators to give.

const POSTGRES: &str = "
CREATE TYPE release_state AS ENUM ('open', 'restricted', 'closed');
CREATE TABLE project(project_id SMALLINT PRIMARY KEY, project_name TEXT NOT NULL);
CREATE TABLE release(release_id BIGINT PRIMARY KEY, project_id SMALLINT NOT NULL REFERENCES project,
  release_name VARCHAR(80) NOT NULL, state release_state NOT NULL, s3sync BOOLEAN);
CREATE TABLE release_package(release_id BIGINT NOT NULL REFERENCES release, package_name TEXT, package_version TEXT);
INSERT INTO project VALUES (1, 'Lab');
CREATE ROLE blat LOGIN PASSWORD 'Xq7-unlikely-word';
GRANT CONNECT ON DATABASE rm TO blat;
GRANT USAGE ON SCHEMA public TO blat;
GRANT SELECT ON project, release, release_package TO blat;
";

const MARIADB: &str = "
CREATE TABLE project(project_id INT UNSIGNED PRIMARY KEY, project_name VARCHAR(80) NOT NULL);
CREATE TABLE `release`(release_id BIGINT PRIMARY KEY, project_id INT UNSIGNED NOT NULL, release_name TEXT NOT NULL,
  state ENUM('open', 'restricted', 'closed') NOT NULL, s3sync TINYINT(1));
CREATE TABLE release_package(release_id BIGINT NOT NULL, package_name VARBINARY(200), package_version VARCHAR(200));
INSERT INTO project VALUES (1, 'Lab');
CREATE USER 'blat'@'%' IDENTIFIED BY 'Xq7-unlikely-word';
GRANT SELECT ON rm.project TO 'blat'@'%';
GRANT SELECT ON rm.`release` TO 'blat'@'%';
GRANT SELECT ON rm.release_package TO 'blat'@'%';
";
