//! `blat init`: a home tree with commented samples. What is there already is never touched, and no key is made.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use blat_config::{Home, account, home_id, samples};
use blat_domain::util::text::{printable, typed};

use crate::args::InitArgs;
use crate::commands::expect_owner;
use crate::failure::{Exit, Failure, Outcome};
use crate::sibling;

/// The tree's directories. Private keys live in ssh/, and what is in run/ and state/ is locked by those who use it, so that only its owner
/// enters them. Nobody else may write in any of them.
const DIRECTORIES: [(&str, u32); 6] =
    [("config", 0o755), ("tags", 0o755), ("ssh", 0o700), ("run", 0o700), ("log", 0o750), ("state", 0o700)];
/// The tree's samples. Targets are named so that none is active.
const SAMPLES: [(&str, &str); 4] = [
    ("config/blat.yaml", samples::MASTER),
    ("config/perth.conf.sample", samples::TARGET),
    ("config/full.conf.sample", samples::FULL),
    ("config/bucket.conf.sample", samples::BUCKET),
];

/// Makes the tree, and the database where one is asked for.
pub(crate) fn run(named: Option<&Path>, args: &InitArgs) -> Outcome {
    let root = args.dir.as_deref().or(named).unwrap_or(Path::new("."));
    let home = Home::at(root).map_err(|error| cannot("make the home tree", root, &error))?;
    let root = home.root();
    // What is there belongs to whoever will run the master.
    if root.exists() {
        expect_owner(root)?;
    } else if let Some(above) = root.ancestors().find(|above| above.exists()) {
        account::expect_own_way(above).map_err(|error| Failure::failed(error.to_string()))?;
    }
    DirBuilder::new().recursive(true).mode(0o755).create(root).map_err(|error| cannot("make", root, &error))?;
    let mut out = io::stdout().lock();
    writeln!(out, "home tree {}", shown(root))?;
    for (name, mode) in DIRECTORIES {
        let how = directory(&root.join(name), mode)?;
        writeln!(out, "  {how}  {name}/")?;
    }
    let how = if home.id_file().exists() { "kept" } else { "made" };
    home_id::ensure(&home).map_err(|error| Failure::failed(error.to_string()))?;
    writeln!(out, "  {how}  config/home-id")?;
    for (name, text) in SAMPLES {
        let how = sample(&root.join(name), text)?;
        writeln!(out, "  {how}  {name}")?;
    }
    out.flush()?;
    if let Some(path) = &args.database {
        let how = database(path)?;
        writeln!(out, "  {how}  {} (Release Manager database)", shown(path))?;
    }
    write!(out, "{}", next_steps(&home))?;
    Ok(Exit::DONE)
}

fn directory(path: &Path, mode: u32) -> Result<&'static str, Failure> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok("made"),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok("kept"),
        Err(error) => Err(cannot("make", path, &error)),
    }
}

fn sample(path: &Path, text: &str) -> Result<&'static str, Failure> {
    match OpenOptions::new().write(true).create_new(true).mode(0o644).open(path) {
        Ok(mut file) => match file.write_all(text.as_bytes()) {
            Ok(()) => Ok("made"),
            Err(error) => Err(cannot("write", path, &error)),
        },
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok("kept"),
        Err(error) => Err(cannot("make", path, &error)),
    }
}

/// Has the agent make the database: only it knows how to speak to one, and it says itself why it could not.
fn database(path: &Path) -> Result<&'static str, Failure> {
    if path.exists() {
        return Ok("kept");
    }
    let status = Command::new(sibling::find("blat-agent")?)
        .arg("--create-database")
        .arg(path)
        .status()
        .map_err(|error| Failure::failed(format!("cannot run blat-agent to make the database: {error}")))?;
    if status.success() { Ok("made") } else { Err(Failure::told(Exit::of(status))) }
}

/// What a person does next. Host keys are theirs to trust.
fn next_steps(home: &Home) -> String {
    let root = typed(&home.root().to_string_lossy());
    let mut text = String::from("\nnext:\n");
    let mut step = |what: &str, command: &str| text += &format!("  # {what}\n  {command}\n");
    step(
        "say what a target is to hold, and where it is",
        &format!("cp {root}/config/perth.conf.sample {root}/config/perth.conf && editor {root}/config/perth.conf"),
    );
    step(
        "once for each target: trust its host key, have it let this master in",
        &format!("blat --home {root} enrol perth"),
    );
    step(
        "check, then run",
        &format!("blat --home {root} check --connect && blat --home {root} start && blat --home {root} status"),
    );
    text
}

fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot {what} {}: {error}", shown(path)))
}
