//! Whose archive it is: the record in it, and that only its owner lists, marks and deletes. What `receive_file --name archive` does.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;

use blat_domain::ownership::{Claim, FILE, LONGEST, MOST_ABOVE, Place, RECORD, Record};
use rustix::fs::Stat;

use crate::archive::dir::{Dir, is_absence};
use crate::archive::{Archive, CHECK_MODES, HOUSE};
use crate::failure::Failure;
use crate::locks;
use crate::scratch::Scratch;

/// The most of a record that is told, in bytes: a good one is shorter.
const MOST_TOLD: usize = 300;
/// What somebody can do who does not own the archive.
const ADOPT: &str = "`blat adopt` takes it over";

/// The lines of an answer: what the record says, where there is one, and which directory this is.
pub(crate) fn lines(archive: &Archive) -> String {
    let told = match archive.root.open_if_there(HOUSE).and_then(|house| house.map_or(Ok(None), |house| told(&house))) {
        Ok(told) => told,
        Err(error) => Some(format!("? it cannot be read: {error}")),
    };
    let lines = told.map_or_else(String::new, |told| [RECORD, &told, "\n"].concat());
    lines + &place(&archive.root).render()
}

/// Makes a record, changes its owner or takes it away, as far as that is right under the lock; then tells as [`lines`].
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

fn change(scratch: &Scratch, how: Claim, mut record: Record) -> io::Result<()> {
    let house = &scratch.rooms.house;
    match (how, told(house)) {
        (Claim::Adopt, there) => {
            if let Some(there) = there.ok().flatten().and_then(|text| Record::parse(&text)) {
                record.archive = there.archive;
            }
        }
        (Claim::First, Ok(None)) => {}
        (Claim::Withdraw, Ok(Some(text))) if Record::parse(&text).is_some_and(|there| there == record) => {
            house.unlink(FILE)?;
            return house.sync();
        }
        (_, Err(error)) => return Err(error),
        (Claim::Look | Claim::First | Claim::Withdraw, Ok(_)) => return Ok(()),
    }
    let mut file = scratch.dir.create(FILE)?;
    file.set_permissions(PermissionsExt::from_mode(0o644))?;
    file.write_all(record.render().as_bytes())?;
    file.sync_all()?;
    match how {
        Claim::First => scratch.dir.rename_new(FILE, house, FILE)?,
        Claim::Look | Claim::Adopt | Claim::Withdraw => scratch.dir.rename(FILE, house, FILE)?,
    }
    house.sync()
}

/// Whether `owner` still owns the archive: to be asked under the publish lock, right before something is done that only its owner may do.
pub(crate) fn check(archive: &Archive, house: &Dir, owner: Option<&str>) -> Result<(), Failure> {
    let Some(owner) = owner else { return Ok(()) };
    let what = || format!("changing what the archive {} is to hold", archive.shown());
    let text = told(house).map_err(|error| Failure::io(what(), &error, CHECK_MODES))?;
    let lost = loss(&text.unwrap_or_default(), owner);
    lost.map_or(Ok(()), |now| Err(Failure::refused(what(), now, ADOPT)))
}

/// Why `owner` does not replace what is there, if somebody else may own the archive; to be asked under the publish lock. Where there is no record,
/// nobody else does.
pub(crate) fn keeps_from_replacing(house: &Dir, owner: Option<&str>) -> io::Result<Option<String>> {
    let Some(owner) = owner else { return Ok(None) };
    let lost = told(house)?.and_then(|text| loss(&text, owner));
    Ok(lost.map(|now| ["another one is there, and it is not replaced: ", &now, "; ", ADOPT].concat()))
}

/// What a record says where it does not name `owner`.
fn loss(text: &str, owner: &str) -> Option<String> {
    match Record::parse(text) {
        Some(record) if record.owner.to_string() == owner => None,
        Some(record) => Some(format!("its owner is {} now", record.owner)),
        None => Some(format!("{HOUSE}/{FILE} does not name its owner")),
    }
}

/// What the record says, in one line; none where there is none.
fn told(house: &Dir) -> io::Result<Option<String>> {
    let file: File = match house.read(FILE) {
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
                format!("it lies in the archive of target {whose}, which may delete it: {up} directories above is that one's {HOUSE}/{FILE}")
            });
        }
        up += 1;
    });
    found
}

/// What the record of a directory says, if it and its folder belong to root or `mine`. Where others keep us out, there is none for us.
fn record_of(dir: &Dir, mine: u32) -> Option<String> {
    let house = dir.open_if_there(HOUSE).ok()??;
    let is_theirs = |stat: &Stat| stat.st_uid == 0 || stat.st_uid == mine;
    (is_theirs(&house.own_stat().ok()?) && is_theirs(&house.stat(FILE).ok()??)).then(|| told(&house).ok()?)?
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
