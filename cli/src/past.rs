//! What agents wrote down of what they did: `state/history/TARGET.jsonl`.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use blat_config::Home;
use blat_domain::history::{Entry, parse};
use blat_domain::name::TargetName;
use blat_domain::text::printable;

use crate::failure::Failure;

/// The most of one file that is read, in bytes: an agent rolls it long before.
const MOST: u64 = 64 << 20;

/// All that is kept of one target, the oldest first; nothing where nothing was done yet. Torn lines are left out.
pub(crate) fn of(home: &Home, target: &TargetName) -> Result<Vec<Entry>, Failure> {
    let path = home.history(target);
    let mut entries = Vec::new();
    for path in [path.with_extension("jsonl.1"), path] {
        let text = read(&path)?;
        entries.extend(text.split(|byte| *byte == b'\n').filter_map(parse));
    }
    Ok(entries)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut text));
    match read {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(text),
        Err(error) => {
            let path = printable(&path.to_string_lossy());
            Err(Failure::failed(format!("cannot read the history {path}: {error}")))
        }
    }
}
