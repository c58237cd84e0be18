//! Databases are read by a process of their own, since whoever is at the other end is a stranger.
//!
//! A server may announce a value of a gigabyte, a hundred million columns, or half a row; the drivers take memory for whatever is announced, and
//! some of it makes them panic. So the memory of that process has a limit, which ends it and nothing else, and it ends with the agent at the
//! latest. The agent reads an answer of bounded size that says what the rows mean, never the rows.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use blat_config::ReleaseSource;
use blat_domain::release::{Catalog, ReleaseKey, Selection};
use blat_domain::text::printable;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::command::end_of;
use super::{database, file};
use crate::target::transport::tied;

/// The first argument by which this executable knows that it is to read a database: no option that a person types.
const READ: &str = "--read-database";
/// The most memory that the reading process takes, in bytes: enough for some million packages of selected releases.
const MOST_MEMORY: u64 = 128 << 20;
/// The most bytes that its answer has.
const LONGEST_ANSWER: u64 = 32 << 20;
/// The most bytes that a question has: as many as a config file, with room for how they are written.
const LONGEST_QUESTION: u64 = 8 << 20;

/// What is asked. The password is no part of it.
#[derive(Serialize, Deserialize)]
struct Question {
    source: ReleaseSource,
    releases: Vec<ReleaseKey>,
    projects: Vec<String>,
    only_s3sync: bool,
    limit: Duration,
    /// The target's part of `state/`.
    place: PathBuf,
}

/// Reads a database as [`database::load`] does, by a process of its own, which ends when nobody waits for it any longer.
pub(super) async fn load(
    source: &ReleaseSource,
    selection: &Selection,
    limit: Duration,
    place: &Path,
) -> Result<Catalog, String> {
    let Selection { releases, projects, only_s3sync, .. } = selection;
    let (releases, projects) = (releases.clone(), projects.clone());
    let question =
        Question { source: source.clone(), releases, projects, only_s3sync: *only_s3sync, limit, place: place.into() };
    let question = serde_json::to_vec(&question).map_err(|error| format!("cannot write the question: {error}"))?;

    let mut command = tied::command(tied::OURSELVES);
    command.arg(READ).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // A trace would push the reason out of what is heard.
    command.env("RUST_BACKTRACE", "0");
    let mut reader = command.spawn().map_err(|error| format!("cannot start the process that reads it: {error}"))?;
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (reader.stdin.take(), reader.stdout.take(), reader.stderr.take())
    else {
        return Err("the process that reads it has no pipes".into());
    };
    // One that is gone already says why by its status.
    let asked = stdin.write_all(&question).await;
    drop(stdin);
    let mut answer = Vec::new();
    let mut bounded = stdout.take(LONGEST_ANSWER + 1);
    let (read, said) = tokio::join!(bounded.read_to_end(&mut answer), end_of(stderr));
    read.map_err(|error| format!("cannot hear the process that reads it: {error}"))?;
    let status = reader.wait().await.map_err(|error| format!("cannot wait for the process that reads it: {error}"))?;
    if !status.success() || asked.is_err() {
        let said = String::from_utf8_lossy(&said?).trim().to_owned();
        if said.contains("memory allocation of") {
            return Err(format!(
                "what it answers takes more than {} MiB of memory; look what is in its tables, or whether this is the right server",
                MOST_MEMORY >> 20
            ));
        }
        let said =
            if said.is_empty() { "it said nothing".to_owned() } else { format!("it said: {}", printable(&said)) };
        return Err(format!("what it answers is broken: the process that reads it ended with {status}; {said}"));
    }
    serde_json::from_slice::<Result<Catalog, String>>(&answer)
        .map_err(|error| format!("cannot understand the process that reads it: {}", printable(&error.to_string())))?
}

/// Reads a database, where this process was started for that; else gives nothing.
pub(crate) fn read_instead(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Option<ExitCode> {
    if arguments.nth(1).as_deref() != Some(std::ffi::OsStr::new(READ)) {
        return None;
    }
    std::panic::set_hook(Box::new(|panic| {
        let said = panic.payload();
        let said = said.downcast_ref::<&str>().copied().or_else(|| said.downcast_ref::<String>().map(String::as_str));
        eprintln!("the driver panics: {}", said.unwrap_or("it does not say why"));
    }));
    Some(match read_one() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("blat-agent: {error}");
            ExitCode::FAILURE
        }
    })
}

fn read_one() -> io::Result<()> {
    let limit = |most| Rlimit { current: Some(most), maximum: Some(most) };
    // The memory may hold a password, and so may an image of it.
    setrlimit(Resource::Core, limit(0))?;
    setrlimit(Resource::Data, limit(MOST_MEMORY))?;
    // A journal may say that the database it belongs to is of any size.
    setrlimit(Resource::Fsize, limit(file::LARGEST))?;
    let mut question = Vec::new();
    io::stdin().take(LONGEST_QUESTION).read_to_end(&mut question)?;
    let Question { source, releases, projects, only_s3sync, limit, place } = serde_json::from_slice(&question)?;
    let selection = Selection { releases, projects, only_s3sync, ..Selection::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let read = runtime.block_on(database::load(&source, &selection, limit, &place));
    // A name that is being looked up, or a database on a disk that hangs, is left behind.
    runtime.shutdown_background();
    let mut answer = Bounded(Vec::new());
    if serde_json::to_writer(&mut answer, &read).is_err() {
        let most = LONGEST_ANSWER >> 20;
        let why = format!("the packages of the selected releases take more than {most} MiB; select fewer releases");
        answer = Bounded(serde_json::to_vec(&Err::<Catalog, String>(why))?);
    }
    io::stdout().write_all(&answer.0)
}

/// Takes no more than somebody is willing to read.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.0.len() + bytes.len()) as u64 > LONGEST_ANSWER {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
