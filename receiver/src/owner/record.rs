//! Whose archive it is: the record in it, and that only its owner lists, marks and deletes. What `receive_file --name archive` does.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;

use blat_domain::archive::record::{Claim, FILE, LONGEST, Record, VISIT};
use blat_domain::archive::title::{LAST_VISIT, MOST_ABOVE, Place, RECORD};
use blat_domain::archive::{CONTROL, MARKS};
use rustix::fs::Stat;

use crate::archive::dir::{Dir, is_absence};
use crate::archive::locks;
use crate::archive::{Archive, CHECK_MODES};
use crate::failure::Failure;
use crate::staging::scratch::Scratch;

/// The most of a record that is told, in bytes: a good one is shorter.
const MOST_TOLD: usize = 300;
/// What somebody can do who does not own the archive.
const ADOPT: &str = "`blat adopt` takes it over";

/// The lines of an answer: what record and visit say, where there are such, and which directory this is.
pub(crate) fn lines(archive: &Archive) -> String {
    let control = archive.root.open_if_there(CONTROL);
    let line = |word: &str, file: &str| {
        let told = match &control {
            Ok(None) => Ok(None),
            Ok(Some(control)) => told(control, file).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let told = told.unwrap_or_else(|why| Some(format!("? it cannot be read: {why}")));
        told.map_or_else(String::new, |told| [word, &told, "\n"].concat())
    };
    line(RECORD, FILE) + &line(LAST_VISIT, VISIT) + &place(&archive.root).render()
}

/// For whom and where a PackageList is stored, two lines: the record as `ID HOME-ID TARGET`, or `-` where there is none, and the archive's
/// `DEVICE:INODE`. To be asked under the publish lock.
pub(crate) fn stored_for(archive: &Archive, control: &Dir) -> io::Result<String> {
    let record = match told(control, FILE)? {
        None => "-".to_owned(),
        Some(text) => Record::parse(&text).map_or("?".to_owned(), |record| record.line()),
    };
    let stat = archive.root.own_stat()?;
    Ok(format!("{record}\n{}:{}\n", stat.st_dev, stat.st_ino))
}

/// Makes a record, changes its owner, takes it away or notes a visit, as far as that is right under the lock; then tells as [`lines`].
pub(crate) fn claim(archive: &Archive, how: Claim, record: &str) -> Result<String, Failure> {
    let what = || format!("claiming the archive {}", archive.shown());
    if how != Claim::Look {
        let Some(record) = Record::parse(record) else {
            return Err(Failure::refused(what(), "no owner is named", "install both ends of one version"));
        };
        if how == Claim::First
            && let Some(outer) = outer_record(&archive.root)
        {
            // Without a path, which may be long: this has to arrive whole.
            return Err(Failure::refused("claiming it", outer, "choose a directory outside for it"));
        }
        let scratch = Scratch::take(archive, "claim")?;
        let changed = locks::publishing(archive, &scratch.rooms, || change(&scratch, how, record));
        scratch.clear_away();
        changed?.map_err(|error| Failure::io(what(), &error, CHECK_MODES))?;
    }
    Ok(lines(archive))
}

fn change(scratch: &Scratch, how: Claim, record: Record) -> io::Result<()> {
    let control = &scratch.rooms.control;
    match (how, told(control, FILE)) {
        (Claim::Adopt, _) | (Claim::First, Ok(None)) => {}
        (Claim::Visit, Ok(Some(text))) if loss(&text, &record.owner.to_string()).is_none() => {}
        (Claim::Withdraw, Ok(Some(text))) if Record::parse(&text).is_some_and(|there| there == record) => {
            // An adoption has put it there.
            if told(control, VISIT)?.is_some() {
                control.unlink(VISIT)?;
            }
            control.unlink(FILE)?;
            return control.sync();
        }
        (_, Err(error)) => return Err(error),
        (Claim::Look | Claim::First | Claim::Withdraw | Claim::Visit, Ok(_)) => return Ok(()),
    }
    if matches!(how, Claim::Adopt | Claim::First) {
        // What a former owner marked waits anew once its new one marks it.
        match control.rename(MARKS, &scratch.dir, MARKS) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    // The record before the visit: an adoption that is cut in between has to be asked for again.
    let files: &[&str] = match how {
        Claim::Adopt => &[FILE, VISIT],
        Claim::Visit => &[VISIT],
        Claim::Look | Claim::First | Claim::Withdraw => &[FILE],
    };
    for name in files {
        let mut file = scratch.dir.create(name)?;
        file.set_permissions(PermissionsExt::from_mode(0o644))?;
        file.write_all(record.render().as_bytes())?;
        file.sync_all()?;
        match how {
            Claim::First => scratch.dir.rename_new(name, control, name)?,
            Claim::Look | Claim::Adopt | Claim::Withdraw | Claim::Visit => scratch.dir.rename(name, control, name)?,
        }
    }
    control.sync()
}

/// Whether `owner` still owns the archive: to be asked under the publish lock, right before something is done that only its owner may do.
pub(crate) fn check(archive: &Archive, control: &Dir, owner: Option<&str>) -> Result<(), Failure> {
    let Some(owner) = owner else { return Ok(()) };
    let what = || format!("changing what the archive {} is to hold", archive.shown());
    let text = told(control, FILE).map_err(|error| Failure::io(what(), &error, CHECK_MODES))?;
    let lost = loss(&text.unwrap_or_default(), owner);
    lost.map_or(Ok(()), |(now, advice)| Err(Failure::refused(what(), now, advice)))
}

/// Why nothing is brought for `owner` to an archive without a record; to be asked under the publish lock. At the first contact the owner's agent
/// makes one before it sends anything, so another directory may be in the archive's place: a disk that is not mounted, or what somebody put there.
fn is_missing(control: &Dir, owner: Option<&str>) -> io::Result<Option<String>> {
    let is_missing = owner.is_some() && told(control, FILE)?.is_none();
    Ok(is_missing.then(|| {
        "the archive has no record of its owner (.dpkg_archive/archive) any more, so it may be another directory than before; a sync that finds it \
         right writes the record anew, or `blat adopt` does"
            .to_owned()
    }))
}

/// As [`is_missing`], and where the record names somebody else. Who knows that another one owns the archive replaces nothing, and names no owner.
pub(crate) fn keeps_from_bringing(control: &Dir, owner: Option<&str>) -> io::Result<Option<String>> {
    let missing = is_missing(control, owner)?;
    let (None, Some(owner), Some(text)) = (&missing, owner, told(control, FILE)?) else { return Ok(missing) };
    let Some(record) = Record::parse(&text) else {
        let why = "the archive's record (.dpkg_archive/archive) does not name its owner, so nothing is brought; the next try looks again";
        return Ok(Some(why.to_owned()));
    };
    let named = record.owner.to_string();
    Ok((!owner.ends_with(&named)).then(|| {
        format!("the archive has the record of another owner by now ({named}), so nothing is brought; the next try looks again")
    }))
}

/// Why `owner` makes no link. Who names a whole record saw it, and links under no other one; who names an owner alone knows that somebody else owns
/// the archive, and replaces no link there.
pub(crate) fn keeps_from_linking(control: &Dir, owner: Option<&str>) -> io::Result<Option<String>> {
    match owner {
        Some(named) if named.split(' ').count() == 3 => keeps_from_bringing(control, owner),
        Some(_) | None => is_missing(control, owner),
    }
}

/// Why `owner` does not replace what is there, if somebody else may own the archive; to be asked under the publish lock. Where there is no record,
/// nobody else does.
pub(crate) fn keeps_from_replacing(control: &Dir, owner: Option<&str>) -> io::Result<Option<String>> {
    let Some(owner) = owner else { return Ok(None) };
    let lost = told(control, FILE)?.and_then(|text| loss(&text, owner));
    Ok(lost.map(|(now, advice)| ["another one is there, and it is not replaced: ", &now, "; ", advice].concat()))
}

/// What a record says where it neither names `owner` nor is this one, and what to do.
fn loss(text: &str, owner: &str) -> Option<(String, &'static str)> {
    let Some(record) = Record::parse(text) else {
        return Some((format!("{CONTROL}/{FILE} does not name its owner"), ADOPT));
    };
    let named = record.owner.to_string();
    match owner.strip_suffix(&named) {
        Some(id) if id.is_empty() || record.line() == owner => None,
        Some(_) => Some(("it was adopted since this was planned".to_owned(), "sync it again")),
        None => Some((format!("its owner is {named} now"), ADOPT)),
    }
}

/// What the record, or the visit, says in one line; none where there is none.
fn told(control: &Dir, name: &str) -> io::Result<Option<String>> {
    let file: File = match control.read(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if is_absence(&error) => return Ok(Some("? it is no regular file".to_owned())),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    let plain = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte),
        b'\n' => ' ',
        _ => '?',
    };
    Ok(Some(bytes.iter().take(MOST_TOLD).map(plain).collect()))
}

/// The id of the system's present run; empty where it does not tell.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Which directory this is, and which are above it.
fn place(root: &Dir) -> Place {
    let mut directories = Vec::new();
    climb(root, &mut |_, stat| directories.push((stat.st_dev, stat.st_ino)));
    Place { boot: boot_id(), directories }
}

/// What is wrong where this archive lies in another one, by that one's record. Only one that root or this archive's owner put there counts: anybody
/// may leave a file in a directory that is everybody's.
fn outer_record(root: &Dir) -> Option<String> {
    let (mut up, mut found, mut mine) = (0, None, 0);
    climb(root, &mut |here, stat| {
        if up == 0 {
            mine = stat.st_uid;
        } else if found.is_none() {
            found = record_of(here, mine).map(|record| {
                let whose = Record::parse(&record).map_or("?".to_owned(), |record| record.owner.target.to_string());
                format!("it lies in the archive of target {whose}, which may delete it: {up} directories above is that one's {CONTROL}/{FILE}")
            });
        }
        up += 1;
    });
    found
}

/// What the record of a directory says, if it and its folder belong to root or `mine`. Where others keep us out, there is none for us.
fn record_of(dir: &Dir, mine: u32) -> Option<String> {
    let control = dir.open_if_there(CONTROL).ok()??;
    let is_theirs = |stat: &Stat| stat.st_uid == 0 || stat.st_uid == mine;
    (is_theirs(&control.own_stat().ok()?) && is_theirs(&control.stat(FILE).ok()??))
        .then(|| told(&control, FILE).ok()?)?
}

/// Calls `see` with a directory and all those above it, as far as others let us.
fn climb(root: &Dir, see: &mut dyn FnMut(&Dir, &Stat)) {
    let (mut at, mut last): (Option<Dir>, _) = (None, None);
    for _ in 0..MOST_ABOVE {
        let here = at.as_ref().unwrap_or(root);
        let Ok(stat) = here.own_stat() else { return };
        let this = Some((stat.st_dev, stat.st_ino));
        if this == last {
            return;
        }
        last = this;
        see(here, &stat);
        let Ok(above) = here.above() else { return };
        at = Some(above);
    }
}
