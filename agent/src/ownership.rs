//! One archive, one owner: making the record at the first contact, keeping off an archive that is the source itself, and taking one over.
//!
//! Sending goes on whoever owns the archive. The PackageList, marks and deletions are for its owner alone: [`domain`](blat_domain::ownership)
//! judges, and the target looks again, under its lock, whenever one of these is asked for.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;
use std::sync::atomic::Ordering;

use blat_config::home_id;
use blat_domain::history::{Deed, Entry};
use blat_domain::ownership::{Bar, Claim, FILE, Found, LONGEST, MOST_ABOVE, Place, RandomId, Record, Title, judge};
use blat_domain::retry::Backoff;
use jiff::Timestamp;
use rustix::fs::{CWD, Mode, OFlags};

use crate::session::Problem;
use crate::sync::{problem, unreached};
use crate::target::TargetError;
use crate::workplace::Workplace;

/// Where Blat keeps what is its own in an archive.
const HOUSE: &str = ".dpkg_archive";

impl Workplace {
    /// Before anything is done to an archive: claims it where nobody owns it, and gives what keeps us from listing and deleting there.
    ///
    /// # Errors
    /// It is the source itself, to which nothing at all may be done; or it cannot be claimed.
    pub(crate) async fn make_contact(&self, title: &Title) -> Result<Option<Bar>, Problem> {
        let _in_force = self.permit().await?;
        let found = self.claimed(title).await?;
        let found = found.map_err(|error| unreached("cannot claim the archive", error))?;
        Ok(judge(&self.owner, &found))
    }

    /// As [`Self::make_contact`], once under these settings and without a listing: before a tag's packages are sent. A target that does not
    /// answer, or cannot be claimed, is not judged: sending to it goes on.
    ///
    /// # Errors
    /// It is the source itself.
    pub(crate) async fn make_first_contact(&self) -> Result<(), Problem> {
        if self.is_apart.load(Ordering::Relaxed) {
            return Ok(());
        }
        let claimed = match self.target.claim(Claim::Look, &self.new_record()?).await {
            Ok(title) => self.claimed(&title).await?,
            Err(error) => Err(error),
        };
        if let Err(error) = claimed {
            tracing::debug!(%error, "the archive cannot be claimed before a tag's packages are sent");
        }
        Ok(())
    }

    /// What the record says once there is one. The outer error is for an archive that is the source.
    async fn claimed(&self, title: &Title) -> Result<Result<Found, TargetError>, Problem> {
        self.keep_off_the_source(title).await?;
        let mut found = title.found.clone();
        if found == Found::Nothing {
            let record = self.new_record()?;
            let claimed = match self.target.claim(Claim::First, &record).await {
                Ok(claimed) => claimed,
                Err(error) => return Ok(Err(error)),
            };
            if let Err(problem) = self.keep_off_the_source(&claimed).await {
                self.withdraw(&record).await;
                return Err(problem);
            }
            if claimed.found == Found::Record(record) {
                tracing::info!(owner = %self.owner, "the archive belongs to this target from now on");
            }
            found = claimed.found;
        }
        self.is_apart.store(true, Ordering::Relaxed);
        Ok(Ok(found))
    }

    /// Takes a record away again that turned out to lie in the source.
    async fn withdraw(&self, record: &Record) {
        if let Err(error) = self.target.claim(Claim::Withdraw, record).await {
            tracing::warn!(target_name = %self.settings.name, %error, "cannot remove {HOUSE}/{FILE} from the source again; remove it by hand");
        }
    }

    /// Refuses an archive that is the source, lies in it, or holds it, by whatever name it is reached.
    pub(crate) async fn keep_off_the_source(&self, title: &Title) -> Result<(), Problem> {
        let (root, title) = (self.settings.source.clone(), title.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let (place, ids) = look_around(&root)?;
            Ok::<_, String>(title.is_source(&place, &ids))
        });
        let looked = looking.await.unwrap_or_else(|error| Err(format!("looking at the source failed: {error}")));
        let settings = &self.settings;
        match looked {
            Ok(false) => Ok(()),
            Ok(true) => {
                let text = format!(
                    "the target's archive {} and the source {} are the same directory, or one lies in the other; nothing is done to it: correct \
                     archive, host or source in config/{}.conf",
                    settings.archive,
                    settings.source.display(),
                    settings.name
                );
                Err(problem(None, text, Backoff::NEXT_SYNC))
            }
            Err(why) => Err(problem(None, why, Backoff::PACKAGE)),
        }
    }

    /// Takes the archive over, and gives how it was before and how it is now.
    ///
    /// # Errors
    /// The target cannot be reached or refuses, or its archive is the source.
    pub(crate) async fn adopt(&self) -> Result<(Found, Found), Problem> {
        let failed = |error| unreached("cannot take the archive over", error);
        let record = self.new_record()?;
        let before = self.target.claim(Claim::Look, &record).await.map_err(failed)?;
        self.keep_off_the_source(&before).await?;
        if before.found != Found::Nothing && judge(&self.owner, &before.found).is_none() {
            return Ok((before.found.clone(), before.found));
        }
        let how = if before.found == Found::Nothing { Claim::First } else { Claim::Adopt };
        let mut after = self.target.claim(how, &record).await.map_err(failed)?;
        if judge(&self.owner, &after.found).is_some() {
            // Somebody claimed it a moment before us.
            after = self.target.claim(Claim::Adopt, &record).await.map_err(failed)?;
        }
        if let Err(problem) = self.keep_off_the_source(&after).await {
            self.withdraw(&record).await;
            return Err(problem);
        }
        if let Some(bar) = judge(&self.owner, &after.found) {
            return Err(problem(None, bar.to_string(), Backoff::PACKAGE));
        }
        let detail = format!("the archive was adopted; before, {}", shown(&before.found));
        self.history.add(&[Entry {
            at: Timestamp::now(),
            deed: Deed::Adopted,
            package: None,
            bytes: 0,
            after_tag_ms: None,
            detail: Some(detail),
        }]);
        Ok((before.found, after.found))
    }

    fn new_record(&self) -> Result<Record, Problem> {
        let archive = home_id::random().map_err(|error| {
            problem(None, format!("cannot read random bytes for the archive's id: {error}"), Backoff::PACKAGE)
        })?;
        Ok(Record { archive, owner: self.owner.clone() })
    }
}

/// What an archive's record came to, for people.
pub(crate) fn shown(found: &Found) -> String {
    match found {
        Found::Nothing => "nobody owned it".to_owned(),
        Found::Record(Record { owner, .. }) => {
            format!("it belonged to target {} of the home tree {}", owner.target, owner.home)
        }
        Found::Malformed(why) => format!("its file {HOUSE}/{FILE} did not say whom it belonged to: {why}"),
    }
}

/// Where the source is, and the ids of the archives that it is or lies in. By handles: whoever exchanges a directory for a link meanwhile
/// changes nothing.
fn look_around(source: &Path) -> Result<(Place, Vec<RandomId>), String> {
    let failed = |error: io::Error| format!("cannot look at the source {}: {error}; is it mounted?", source.display());
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(CWD, source, directory, Mode::empty()).map_err(|error| failed(error.into()))?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let (mut place, mut ids) = (Place { boot, directories: Vec::new() }, Vec::new());
    loop {
        let stat = rustix::fs::fstat(&at).map_err(|error| failed(error.into()))?;
        let this = (stat.st_dev, stat.st_ino);
        if place.directories.last() == Some(&this) || place.directories.len() >= MOST_ABOVE {
            return Ok((place, ids));
        }
        match read_id(&at) {
            Ok(id) => ids.extend(id),
            // Above the source, others may keep us out.
            Err(_) if !place.directories.is_empty() => {}
            Err(error) => {
                let shown = source.display();
                return Err(format!(
                    "cannot read {HOUSE}/{FILE} in the source {shown}: {error}; check its owner and mode"
                ));
            }
        }
        place.directories.push(this);
        match rustix::fs::openat(&at, "..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(above) => at = above,
            Err(_) => return Ok((place, ids)),
        }
    }
}

/// The id of the archive that a directory is; none where it is none, or a damaged one.
fn read_id(directory: impl std::os::fd::AsFd) -> io::Result<Option<RandomId>> {
    let absent = |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let house = match rustix::fs::openat(directory, HOUSE, way, Mode::empty()).map_err(io::Error::from) {
        Ok(house) => house,
        Err(error) if absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file: File = match rustix::fs::openat(&house, FILE, flags, Mode::empty()).map_err(io::Error::from) {
        Ok(file) => file.into(),
        Err(error) if absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(Record::parse(&String::from_utf8_lossy(&bytes)).map(|record| record.archive))
}

#[cfg(test)]
mod tests;
