//! Releases are read by a process of their own, since whoever gives them is a stranger.
//!
//! A server may announce a value of a gigabyte, a hundred million columns, or half a row; the drivers take memory for whatever is announced, and
//! some of it makes them panic. A file or a command may give a million packages in a form that takes many times their size to read. So the memory
//! of that process has a limit, which ends it and nothing else, and it ends with the agent at the latest. The agent reads an answer of bounded
//! size that says what was read means, for the selected releases; never what was read.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use blat_config::{ReleaseSource, any_path, release_file};
use blat_domain::policy::release::{Catalog, ReleaseKey, Selection};
use blat_domain::util::text::printable;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};

use super::command::end_of;
use super::freshness::FileState;
use super::{Purpose, database, file, package_list, turns};
use crate::transport::tied;

/// The first argument by which this executable knows that it is to read releases: no option that a person types.
const READ: &str = "--read-releases";
/// The most memory that the reading process takes for a database, in bytes: enough for some million packages of selected releases.
const MOST_FOR_DATABASE: u64 = 128 << 20;
/// The same for a file or what a command prints: enough for some million packages, which are read whole, selected or not.
const MOST_FOR_TEXT: u64 = 768 << 20;
/// The most bytes that its answer has.
const LONGEST_ANSWER: u64 = 32 << 20;
/// The most bytes that a question has: as many as a config file, with room for how they are written.
const LONGEST_QUESTION: u64 = 8 << 20;

/// What is asked. The password is no part of it.
#[derive(Serialize, Deserialize)]
struct ReadRequest {
    source: ReleaseSource,
    releases: Vec<ReleaseKey>,
    projects: Vec<String>,
    only_s3sync: bool,
    limit: Duration,
    purpose: Purpose,
    /// The target's part of `state/`.
    #[serde(with = "any_path")]
    place: PathBuf,
}

/// What was read.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ReadCatalog {
    pub(super) catalog: Catalog,
    /// How the file was from before that until after it; none where there is no file, or it changed, or it says by itself when it is whole.
    pub(super) state: Option<FileState>,
    /// The longest time that a query of a database took.
    pub(super) slowest: Duration,
}

/// A process that reads, which ends when nobody waits for it any longer.
pub(super) struct Reader {
    process: Child,
    input: ChildStdin,
    output: ChildStdout,
    said: ChildStderr,
    most: u64,
}

impl Reader {
    /// Asks for what is selected of this source. A command is run by the caller, who gives [`Self::text`] what it prints.
    /// `place` is the target's part of `state/`.
    pub(super) async fn start(
        source: &ReleaseSource,
        selection: &Selection,
        limit: Duration,
        purpose: Purpose,
        place: &Path,
    ) -> Result<Self, String> {
        let Selection { releases, projects, only_s3sync, .. } = selection;
        let (releases, projects) = (releases.clone(), projects.clone());
        let question = ReadRequest {
            source: source.clone(),
            releases,
            projects,
            only_s3sync: *only_s3sync,
            limit,
            purpose,
            place: place.into(),
        };
        let question = serde_json::to_vec(&question).map_err(|error| format!("cannot write the question: {error}"))?;

        let mut command = tied::command(tied::ourselves());
        command.arg(READ).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // A trace would push the reason out of what is heard.
        command.env("RUST_BACKTRACE", "0");
        let mut process =
            command.spawn().map_err(|error| format!("cannot start the process that reads it: {error}"))?;
        let (Some(mut input), Some(output), Some(said)) =
            (process.stdin.take(), process.stdout.take(), process.stderr.take())
        else {
            return Err("the process that reads it has no pipes".into());
        };
        let length = (question.len() as u64).to_be_bytes();
        // One that is gone already says why by its status.
        let _ = input.write_all(&[&length, &question[..]].concat()).await;
        Ok(Self { process, input, output, said, most: most_memory(source) })
    }

    /// Where the text of a command goes.
    pub(super) fn text(&mut self) -> &mut ChildStdin {
        &mut self.input
    }

    /// What it read, once it has been given all.
    pub(super) async fn finish(self) -> Result<ReadCatalog, String> {
        let Self { mut process, input, output, said, most } = self;
        drop(input);
        let mut answer = Vec::new();
        let mut bounded = output.take(LONGEST_ANSWER + 1);
        let (read, said) = tokio::join!(bounded.read_to_end(&mut answer), end_of(said));
        read.map_err(|error| format!("cannot hear the process that reads it: {error}"))?;
        let status =
            process.wait().await.map_err(|error| format!("cannot wait for the process that reads it: {error}"))?;
        if !status.success() {
            return Err(why_it_failed(status, &said?, most));
        }
        let understanding =
            tokio::task::spawn_blocking(move || serde_json::from_slice::<Result<ReadCatalog, String>>(&answer));
        match understanding.await.map_err(|error| error.to_string()) {
            Ok(Ok(read)) => read,
            Ok(Err(why)) => {
                Err(format!("cannot understand the process that reads it: {}", printable(&why.to_string())))
            }
            Err(why) => Err(format!("cannot understand the process that reads it: {why}")),
        }
    }
}

fn why_it_failed(status: ExitStatus, said: &[u8], most: u64) -> String {
    let said = String::from_utf8_lossy(said).trim().to_owned();
    if said.contains("memory allocation of") {
        return format!(
            "what it answers takes more than {} MiB of memory; look what is in its tables or its text, or whether this is the right one",
            most >> 20
        );
    }
    let said = if said.is_empty() { "it said nothing".to_owned() } else { format!("it said: {}", printable(&said)) };
    format!("what it answers is broken: the process that reads it ended with {status}; {said}")
}

fn most_memory(source: &ReleaseSource) -> u64 {
    match source {
        ReleaseSource::Sqlite { .. } | ReleaseSource::Postgres(_) | ReleaseSource::MySql(_) => MOST_FOR_DATABASE,
        ReleaseSource::File { .. } | ReleaseSource::Command { .. } | ReleaseSource::PackageList { .. } => MOST_FOR_TEXT,
    }
}

/// Reads releases, where this process was started for that; else gives nothing.
pub(crate) fn read_instead(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Option<ExitCode> {
    if arguments.nth(1).as_deref() != Some(std::ffi::OsStr::new(READ)) {
        return None;
    }
    std::panic::set_hook(Box::new(|panic| {
        let said = panic.payload();
        let said = said.downcast_ref::<&str>().copied().or_else(|| said.downcast_ref::<String>().map(String::as_str));
        eprintln!("reading it panics: {}", said.unwrap_or("it does not say why"));
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
    tied::confine(MOST_FOR_TEXT)?;
    // A journal may say that the database it belongs to is of any size.
    let most = file::LARGEST.min(getrlimit(Resource::Fsize).maximum.unwrap_or(u64::MAX));
    setrlimit(Resource::Fsize, Rlimit { current: Some(most), maximum: Some(most) })?;
    let (mut length, mut question) = ([0; 8], Vec::new());
    io::stdin().read_exact(&mut length)?;
    io::stdin().take(u64::from_be_bytes(length).min(LONGEST_QUESTION)).read_to_end(&mut question)?;
    let question: ReadRequest = serde_json::from_slice(&question)?;
    let ReadRequest { source, releases, projects, only_s3sync, limit: within, purpose, place } = question;
    tied::confine(most_memory(&source))?;
    let selection = Selection { releases, projects, only_s3sync, ..Selection::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let read = runtime.block_on(read_all(&source, &selection, within, purpose, &place));
    // A name that is being looked up, or a database on a disk that hangs, is left behind.
    runtime.shutdown_background();
    let mut answer = Bounded(Vec::new());
    if serde_json::to_writer(&mut answer, &read).is_err() {
        let most = LONGEST_ANSWER >> 20;
        let why = format!("the packages of the selected releases take more than {most} MiB; select fewer releases");
        answer = Bounded(serde_json::to_vec(&Err::<ReadCatalog, String>(why))?);
    }
    io::stdout().write_all(&answer.0)
}

/// What this source says, without the packages of releases that nobody selects.
async fn read_all(
    source: &ReleaseSource,
    selection: &Selection,
    limit: Duration,
    purpose: Purpose,
    place: &Path,
) -> Result<ReadCatalog, String> {
    // Whoever waits for its turn holds a short text at most.
    let turn = |bytes| turns::turn(place, bytes, limit);
    let mut slowest = Duration::ZERO;
    let (mut catalog, state, _turn) = match source {
        ReleaseSource::File { path } => {
            let opened = file::open(path).await?;
            let turn = turn(opened.1.len()).await?;
            let (catalog, state) = file::load(opened).await?;
            (catalog, state, turn)
        }
        ReleaseSource::PackageList { path } => {
            let opened = file::open(path).await?;
            let turn = turn(opened.1.len()).await?;
            (package_list::understood(&file::read(opened).await?)?, None, turn)
        }
        ReleaseSource::Command { .. } => {
            let mut printing = io::stdin().lock();
            let mut text = printed(&mut printing, turns::LONG)?;
            let turn = turn(text.len() as u64).await?;
            text.extend(printed(&mut printing, file::LARGEST_TEXT - turns::LONG)?);
            (understood(&text)?, None, turn)
        }
        // These have less memory.
        ReleaseSource::Sqlite { .. } | ReleaseSource::Postgres(_) | ReleaseSource::MySql(_) => {
            let read = database::load(source, selection, limit, place, purpose).await?;
            slowest = read.slowest;
            (read.catalog, read.state, None)
        }
    };
    let chosen: BTreeSet<i64> = catalog.chosen(selection).map(|release| release.id).collect();
    let releases = catalog.projects.iter_mut().flat_map(|project| &mut project.releases);
    releases.filter(|release| !chosen.contains(&release.id)).for_each(|release| release.packages = Vec::new());
    Ok(ReadCatalog { catalog, state, slowest })
}

/// What a command prints next, up to so many bytes.
fn printed(text: impl io::Read, most: u64) -> Result<Vec<u8>, String> {
    let mut printed = Vec::new();
    text.take(most).read_to_end(&mut printed).map_err(|error| error.to_string())?;
    Ok(printed)
}

fn understood(printed: &[u8]) -> Result<Catalog, String> {
    release_file::parse_json(printed).map_err(|why| format!("it is not the documented JSON: {why}"))
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
