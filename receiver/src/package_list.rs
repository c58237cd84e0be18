//! The PackageList: put in its place, durable, by one rename, with what the clock said beside it. What `receive_file` does.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use blat_domain::archive::package_list::{self, Former, Purge};
use blat_domain::package::DESCPKG;
use blat_domain::package::name::PackageId;
use rustix::fs::FileType;
use sha2::{Digest as _, Sha256};

use crate::archive::Archive;
use crate::archive::dir::{Dir, kind};
use crate::archive::locks;
use crate::failure::Failure;
use crate::owner::mandate::Mandate;
use crate::owner::record;
use crate::staging::scratch::{Scratch, has_file};

/// A PackageList on its way. A failure is kept until all its bytes have come.
pub(crate) struct Store {
    shown: String,
    bytes: u64,
    purge: Purge,
    to: Result<(Scratch, File, Sha256), Failure>,
}

impl Store {
    /// Makes a stage for it.
    pub(crate) fn begin(archive: &Archive, bytes: u64, purge: Purge) -> Self {
        let what = || storing(&archive.shown());
        let to = Scratch::take(archive, "file").and_then(|scratch| {
            let file = scratch.dir.create("file").map_err(|error| Failure::io(what(), &error, "send it again"))?;
            Ok((scratch, file, Sha256::new()))
        });
        Self { shown: archive.shown(), bytes, purge, to }
    }

    /// Takes its next bytes.
    pub(crate) fn take(&mut self, data: &[u8]) {
        if let Ok((_, file, digest)) = &mut self.to {
            digest.update(data);
            if let Err(error) = file.write_all(data) {
                self.to = Err(Failure::io(storing(&self.shown), &error, "send it again"));
            }
        }
    }

    /// Puts it in its place, if it is what was announced, all that it names is there, and its mandate holds; says what was there. The stage is to be
    /// cleared away once that is told.
    pub(crate) fn finish(
        self,
        archive: &Archive,
        mandate: &mut Mandate<'_>,
        announced: &[u8; 32],
    ) -> (Result<Former, Failure>, Option<Scratch>) {
        match self.to {
            Ok((scratch, file, digest)) => {
                let came = if digest.finalize()[..] == announced[..] {
                    make_durable(&file).map_err(|error| {
                        Failure::io(storing(&self.shown), &error, "check the disk, then send it again")
                    })
                } else {
                    let why = format!("its {} bytes came with another digest than announced", self.bytes);
                    Err(Failure::refused(storing(&self.shown), why, "send it again"))
                };
                let stored = came.and_then(|()| {
                    locks::publishing(archive, &scratch.rooms, || {
                        publish(archive, mandate, &scratch, announced, self.purge)
                    })?
                });
                (stored, Some(scratch))
            }
            Err(failure) => (Err(failure), None),
        }
    }
}

fn storing(archive: &str) -> String {
    format!("storing {} in {archive}", package_list::FILE)
}

/// Makes the list durable in the stage.
fn make_durable(file: &File) -> io::Result<()> {
    file.set_permissions(PermissionsExt::from_mode(0o644))?;
    file.sync_all()
}

/// Makes durable in the stage what the clock says and, for `pkg_purge` to compare, for whom and where the list is stored and whether it may delete by it: under the publish lock.
fn note(archive: &Archive, scratch: &Scratch, purge: Purge) -> io::Result<()> {
    let text = tell_clock() + &record::stored_for(archive, &scratch.rooms.control)? + "purge " + purge.word() + "\n";
    let mut clock = scratch.dir.create("clock")?;
    clock.set_permissions(PermissionsExt::from_mode(0o644))?;
    clock.write_all(text.as_bytes())?;
    clock.sync_all()
}

fn publish(
    archive: &Archive,
    mandate: &mut Mandate<'_>,
    scratch: &Scratch,
    announced: &[u8; 32],
    purge: Purge,
) -> Result<Former, Failure> {
    let control = &scratch.rooms.control;
    mandate.check_owner(archive, control)?;
    let failed =
        |error: io::Error| Failure::io(storing(&archive.shown()), &error, "check what is in its place and who owns it");
    // One that cannot be read is not replaced: nobody could say what it is that goes.
    let (former, _, digest) = read_list(control, &HashSet::new()).map_err(failed)?;
    // The very list that is there harms nobody, whoever brings it: what it names cannot have been deleted since.
    if digest != *announced {
        mandate.confirm(archive)?;
        if let Some(missing) = first_missing(archive, scratch).map_err(failed)? {
            let why = format!("it names {missing}, which is not there any more");
            return Err(Failure::refused(storing(&archive.shown()), why, "let the archive be synced again"));
        }
    }
    let put = || -> io::Result<()> {
        note(archive, scratch, purge)?;
        // The former clock vouches for the former list alone, and may allow what this sync does not.
        if control.stat("clock")?.is_some() {
            control.unlink("clock")?;
        }
        // The note after the list: what is cut in between leaves a list for which nobody vouches, and `pkg_purge` waits.
        scratch.dir.rename("file", control, package_list::FILE)?;
        scratch.dir.rename("clock", control, "clock")?;
        control.sync()
    };
    put().map_err(failed)?;
    Ok(former)
}

/// The first line of the new list that names something that is not there: whoever made it looked at the archive minutes ago. Links count with what
/// they lead to.
fn first_missing(archive: &Archive, scratch: &Scratch) -> io::Result<Option<String>> {
    let mut path = String::new();
    for line in BufReader::new(scratch.dir.read("file")?).lines() {
        let line = line?;
        let Some((name, version)) = line.split_once(' ').filter(|_| !line.starts_with('#')) else { continue };
        let Ok(_) = PackageId::new(name, version) else { return Ok(Some(line)) };
        path.clear();
        path.extend([name, "/", version, "/", DESCPKG]);
        match archive.root.stat_as_readers_do(path.as_str())? {
            Some(stat) if kind(&stat) == FileType::RegularFile => {}
            Some(_) | None => return Ok(Some(line)),
        }
    }
    Ok(None)
}

/// `EPOCHSECOND UPTIME BOOT`: what the clock says beside what nobody can set, for `pkg_purge` to compare; `-` where the system does not tell.
fn tell_clock() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (uptime, boot) = (std::fs::read_to_string("/proc/uptime").unwrap_or_default(), record::boot_id());
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    format!("{now} {} {}\n", or_dash(uptime.split('.').next().unwrap_or_default()), or_dash(&boot))
}

/// The longest line of a PackageList, in bytes: two names and what is between them, twice over.
const LONGEST_LINE: u64 = 1024;

/// How the PackageList is, those of the packages that it names, and its digest.
pub(crate) fn read_list(
    control: &Dir,
    asked: &HashSet<&PackageId>,
) -> io::Result<(Former, HashSet<PackageId>, [u8; 32])> {
    let (mut wanted, mut digest) = (HashSet::new(), Sha256::new());
    if !has_file(control, package_list::FILE)? {
        return Ok((Former::Missing, wanted, [0; 32]));
    }
    let file = control.read(package_list::FILE)?;
    if file.metadata()?.len() > package_list::LONGEST {
        return Ok((Former::Damaged, wanted, [0; 32]));
    }
    let mut lines = BufReader::new(file);
    let (mut named, mut line, mut whole) = (0u64, Vec::new(), false);
    loop {
        line.clear();
        if io::Read::take(&mut lines, LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        digest.update(&line);
        let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line));
        if text.starts_with('#') {
            whole = text == format!("# end {named}");
            continue;
        }
        (whole, named) = (false, named + 1);
        let mut words = text.split_ascii_whitespace();
        if let (Some(name), Some(version)) = (words.next(), words.next())
            && let Ok(package) = PackageId::new(name, version)
            && asked.contains(&package)
        {
            wanted.insert(package);
        }
    }
    Ok((if whole && named > 0 { Former::Whole } else { Former::Damaged }, wanted, digest.finalize().into()))
}
