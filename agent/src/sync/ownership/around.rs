//! What tells an archive from the source: where the source lies, and the ids of the archives that it is or lies in.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use blat_domain::archive::CONTROL;
use blat_domain::archive::record::{FILE, LONGEST, Record};
use blat_domain::archive::title::{MOST_ABOVE, Place};
use blat_domain::util::random_id::RandomId;
use blat_paths::{Missing, way};
use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;

/// What is seen of the source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Around {
    /// Where it is.
    pub(super) place: Place,
    /// The ids of the archives that it is or lies in, each with how far above the source that archive is.
    pub(super) ids: Vec<(RandomId, usize)>,
    /// Why nobody can tell which archive the source itself is, where nobody can.
    pub(super) unsure: Option<String>,
}

impl Around {
    /// Looks around by handles: whoever exchanges a directory for a link meanwhile changes nothing.
    ///
    /// In the source, any record counts. Above it, strangers may have folders that they can write, such as `/tmp`: there only a record counts that
    /// root, the home's owner or the source's owner owns, in a folder that such a one owns.
    ///
    /// # Errors
    /// There is no such directory, or it cannot be read.
    pub(super) fn look(source: &Path) -> Result<Self, String> {
        let failed =
            |error: io::Error| format!("cannot look at the source {}: {error}; is it mounted?", source.display());
        let mut at = way::open(source, Missing::Fail, "source").map_err(failed)?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let mut around = Self { place: Place { boot, directories: Vec::new() }, ..Self::default() };
        let mut owners = vec![0, geteuid().as_raw()];
        loop {
            let stat = rustix::fs::fstat(&at).map_err(|error| failed(error.into()))?;
            let this = (stat.st_dev, stat.st_ino);
            let above = around.place.directories.len();
            if around.place.directories.last() == Some(&this) || above >= MOST_ABOVE {
                return Ok(around);
            }
            if above == 0 {
                owners.push(stat.st_uid);
            }
            let counts = |owner: u32| above == 0 || owners.contains(&owner);
            match read_id(&at, counts) {
                Ok(id) => around.ids.extend(id.map(|id| (id, above))),
                // Above the source, others may keep us out.
                Err(_) if above > 0 => {}
                Err(error) => {
                    let file = record_above(source, 0);
                    around.unsure = Some(format!(
                        "cannot read {}: {error}; check its owner and mode, or remove it",
                        file.display()
                    ));
                }
            }
            around.place.directories.push(this);
            match rustix::fs::openat(&at, "..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
                Ok(next) => at = next,
                Err(_) => return Ok(around),
            }
        }
    }
}

/// The record that is so far above the source, for people.
pub(super) fn record_above(source: &Path, above: usize) -> PathBuf {
    let real = std::fs::canonicalize(source).unwrap_or_else(|_| source.to_owned());
    real.ancestors().nth(above).unwrap_or(&real).join(CONTROL).join(FILE)
}

/// The id of the archive that a directory is, if `counts` says so of the owners of its record and of the folder that holds it; none where it is no
/// archive, or its record is damaged.
fn read_id(directory: impl AsFd, counts: impl Fn(u32) -> bool) -> io::Result<Option<RandomId>> {
    let owner_counts = |handle: &OwnedFd| Ok::<_, io::Error>(counts(rustix::fs::fstat(handle)?.st_uid));
    let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Some(house) = if_there(rustix::fs::openat(directory, CONTROL, way, Mode::empty()))? else { return Ok(None) };
    if !owner_counts(&house)? {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Some(file) = if_there(rustix::fs::openat(&house, FILE, flags, Mode::empty()))? else { return Ok(None) };
    if !owner_counts(&file)? {
        return Ok(None);
    }
    let file = File::from(file);
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(Record::parse(&String::from_utf8_lossy(&bytes)).map(|record| record.archive))
}

fn if_there(opened: rustix::io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match opened.map_err(io::Error::from) {
        Ok(handle) => Ok(Some(handle)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}
