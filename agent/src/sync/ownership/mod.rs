//! One archive, one owner: making the record at the first contact, keeping off an archive that is the source itself, and taking one over.
//!
//! Sending goes on whoever owns the archive. The PackageList, marks and deletions are for its owner alone: [`domain`](blat_domain::policy::ownership)
//! judges, and the target looks again, under its lock, whenever one of these is asked for.

mod around;
mod visit;

use std::mem;
use std::sync::PoisonError;

use blat_config::{Settings, Transport, home_id};
use blat_domain::archive::CONTROL;
use blat_domain::archive::inventory::Inventory;
use blat_domain::archive::record::{Claim, FILE, Found, Record};
use blat_domain::archive::title::{Likeness, Title};
use blat_domain::policy::ownership::{Bar, judge};
use blat_domain::policy::release::WantedSet;
use blat_domain::policy::retry::Backoff;
use blat_domain::protocol::history::{HistoryEntry, Operation};
use blat_domain::util::random_id::RandomId;
use jiff::Timestamp;

use around::{Around, record_above};

use crate::model::error::TargetError;
use crate::model::problem::Problem;
use crate::sync::context::SyncContext;
use crate::sync::{Prepared, problem, unreached};

/// Why an archive may be another one than before.
const EXCHANGED: &str = "the archive is another directory than the one that had its record, with packages or a record of its own: a wrong disk \
                         may be mounted there, or somebody put it there";

/// What is known of the archive under one version of the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Contact {
    /// Nobody has looked at its record yet, or what was seen decides nothing.
    #[default]
    None,
    /// It is not the source, and what keeps us from listing and deleting there, if anything does.
    Made(Option<Bar>),
}

/// What a listing showed of an archive's packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// There was no listing.
    None,
    /// There are no packages.
    Bare,
    /// There are packages, and all of them are wanted as they are, in an archive without a record.
    Wanted,
    /// There are packages.
    Packages,
}

impl Sight {
    /// What this listing shows. `times`: those of `descpkg` of what is wanted, in its order, as far as the source tells them. A name alone says
    /// nothing: an old disk of the same site has the same ones.
    pub(crate) fn of(inventory: &Inventory, wanted: &WantedSet, times: &[Option<i64>]) -> Self {
        let is_wanted = || {
            let is_same =
                |(package, time): (_, &Option<i64>)| time.is_some() && inventory.packages.get(package) == time.as_ref();
            let same = wanted.keys().zip(times).filter(|both| is_same(*both)).count();
            same == inventory.packages.len() && inventory.links.keys().all(|link| wanted.contains_key(link))
        };
        if inventory.is_bare() {
            Self::Bare
        } else if inventory.title.found == Found::Nothing && is_wanted() {
            Self::Wanted
        } else {
            Self::Packages
        }
    }
}

/// What a look at an archive's record came to.
struct Tenure {
    /// What keeps us from listing and deleting.
    bar: Option<Bar>,
    /// The record, where nothing does: the archive is ours as long as it has this one.
    owned: Option<Record>,
    /// Whether our memory did not know it until now, nor what tags brought to it before.
    begins: bool,
}

impl SyncContext {
    /// Before anything is done to an archive: claims it where nobody owns it, and enters in a plan by what record it is ours, or what keeps us from
    /// listing and deleting there.
    ///
    /// # Errors
    /// It is the source itself, or another archive than before, to which nothing at all may be done; it cannot be claimed; or it was adopted since the
    /// plan was made.
    pub(crate) async fn make_contact(&self, prepared: &mut Prepared) -> Result<(), Problem> {
        let _in_force = self.permit().await?;
        let sight = self.sight_of(prepared).await?;
        let claimed = self.claimed(&prepared.inventory.title, sight).await?;
        let Tenure { bar, owned, begins } = claimed.map_err(|error| unreached("cannot claim the archive", error))?;
        if owned.is_some() && begins && !prepared.begins {
            let text = "the archive was adopted or claimed while this sync was planned; it is planned again";
            return Err(problem(None, text.to_owned(), Backoff::LINK));
        }
        prepared.owned = owned;
        bar.into_iter().for_each(|bar| prepared.plan.bar(bar));
        Ok(())
    }

    /// What the listing of a plan shows.
    async fn sight_of(&self, prepared: &Prepared) -> Result<Sight, Problem> {
        let Prepared { inventory, wanted, .. } = prepared;
        if inventory.title.found != Found::Nothing {
            return Ok(Sight::of(inventory, wanted, &[]));
        }
        let (source, inventory, wanted) = (self.source.clone(), inventory.clone(), wanted.clone());
        let looking = tokio::task::spawn_blocking(move || Sight::of(&inventory, &wanted, &source.quick_scan(&wanted)));
        let failed = |error| problem(None, format!("looking at the source failed: {error}"), Backoff::PACKAGE);
        looking.await.map_err(failed)
    }

    /// As [`Self::make_contact`], once under these settings and without a listing: before a tag's packages are sent. A target that does not
    /// answer, or cannot be claimed, is not judged: sending to it goes on.
    ///
    /// # Errors
    /// It is the source itself, or another archive than before.
    pub(crate) async fn make_first_contact(&self) -> Result<Option<Bar>, Problem> {
        if let Contact::Made(bar) = self.contact() {
            return Ok(bar);
        }
        let claimed = match self.target.claim(Claim::Look, &self.new_record()?).await {
            Ok(title) => {
                self.keep_tags_from_another_bucket(&title)?;
                self.claimed(&title, Sight::None).await?.map(|tenure| tenure.bar)
            }
            Err(error) => Err(error),
        };
        Ok(claimed.unwrap_or_else(|error| {
            tracing::debug!(%error, "the archive cannot be claimed before a tag's packages are sent");
            None
        }))
    }

    /// As [`Self::make_first_contact`], by what a listing shows: what a tag asks for may be in it, and counts as there only where this is the archive
    /// that it was. What the packages are proves nothing here, since nobody has asked what is wanted.
    pub(crate) async fn judge_listing(&self, title: &Title) -> Result<Option<Bar>, Problem> {
        self.keep_tags_from_another_bucket(title)?;
        let claimed = self.claimed(title, Sight::None).await?;
        claimed.map(|tenure| tenure.bar).map_err(|error| unreached("cannot claim the archive", error))
    }

    /// Where the endpoint of a bucket shows another one than was seen there last, another server may answer, with a bucket of the same name, and a
    /// tag must not be used up by that one. A full sync judges. Of somebody else's bucket, any other record is another bucket's.
    fn keep_tags_from_another_bucket(&self, title: &Title) -> Result<(), Problem> {
        let Some(seen) = self.seen().filter(|_| matches!(self.settings.transport, Transport::S3(_))) else {
            return Ok(());
        };
        let was_ours = seen.owner == self.owner;
        let now = match &title.found {
            Found::Record(record) if record.owner == self.owner || *record == seen => return Ok(()),
            Found::Record(record) => format!("its owner is {} now, or it was adopted", record.owner),
            // What a sync has judged needs no other one.
            Found::Malformed(_) if self.contact() == Contact::Made(judge(&self.owner, &title.found)) => return Ok(()),
            Found::Malformed(why) => format!("its record does not name its owner: {why}"),
            // The rest is judged as at any contact.
            Found::Nothing if was_ours => return Ok(()),
            Found::Nothing => "its record is gone".to_owned(),
        };
        let whose = if was_ours { "this target".to_owned() } else { seen.owner.to_string() };
        let text = format!(
            "nothing is sent to the archive {} by tag before the next sync has looked whose it is: it belonged to {whose}, and {now}",
            self.settings.archive
        );
        Err(problem(None, text, Backoff::PACKAGE))
    }

    fn contact(&self) -> Contact {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What we may do, once the archive has a record. The outer error is for an archive that is the source, or another one than before.
    async fn claimed(&self, title: &Title, sight: Sight) -> Result<Result<Tenure, TargetError>, Problem> {
        let unsure = self.keep_off_the_source(title).await?;
        if self.is_exchanged(title, sight) {
            self.look_again();
            let (name, archive) = (&self.settings.name, &self.settings.archive);
            let text = format!(
                "nothing is sent to the archive {archive}: {EXCHANGED}; put the right one in its place, or take this one over by `blat adopt {name}`"
            );
            return Err(problem(None, text, Backoff::PACKAGE));
        }
        let mut found = self.remembering(title, sight);
        let mut begins = self.is_new_to_memory(title);
        if found == Found::Nothing && unsure.is_none() {
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
                self.tell_of_claim(sight == Sight::Bare);
            } else {
                begins |= self.is_new_to_memory(&claimed);
            }
            found = claimed.found;
        }
        if let Found::Record(record) = &found {
            let place = place(&self.settings);
            self.lasting.note_archive(&place, title.place.inode(), record, begins.then_some(&title.visit));
        }
        if unsure.is_some() {
            let bar = self.foreseen_bar(title, sight, unsure);
            return Ok(Ok(Tenure { bar, owned: None, begins: false }));
        }
        let bar = judge(&self.owner, &found);
        self.target.met(&found);
        let made = Contact::Made(bar.clone());
        let former = mem::replace(&mut *self.contact.lock().unwrap_or_else(PoisonError::into_inner), made);
        if bar.is_none() && (begins || former == Contact::None || self.lasting.visit_is_due()) {
            self.leave_visit().await;
        }
        let owned = match found {
            Found::Record(record) if bar.is_none() => Some(record),
            Found::Record(_) | Found::Nothing | Found::Malformed(_) => None,
        };
        Ok(Ok(Tenure { bar, owned, begins }))
    }

    /// What was found in the record's place, in the light of what this target has seen before, there and elsewhere.
    fn remembering(&self, title: &Title, sight: Sight) -> Found {
        let found = &title.found;
        match self.lasting.archive(&place(&self.settings)) {
            Ok(None) if sight != Sight::Bare => match self.lasting.archive_of_another(&self.owner) {
                Some((place, record)) => found.clone().beside(&place, &record, &self.owner),
                None => found.clone(),
            },
            Ok(Some(_)) if *found == Found::Nothing && self.is_exchanged(title, sight) => {
                Found::Malformed(format!("it is not there, and {EXCHANGED}"))
            }
            Ok(seen) => found.clone().after(seen.as_ref(), &self.owner, title.is_adopted()),
            Err(why) if *found == Found::Nothing => {
                Found::Malformed(format!("it is gone, if it ever was there: {why}"))
            }
            Err(_) => found.clone(),
        }
    }

    /// Whether the archive may not be the directory any more in which this target saw a record of its own last. It has packages and no record: it may
    /// be a copy, or an old disk of the same site, even where the number of a visit is there. Or it has another inode, and a record that is somebody
    /// else's or names nobody; or the record of another target of this home, and is the root of a file system, which has the same inode as any other:
    /// two disks changed places. One without packages may be a new disk, and where all are wanted, there is nothing to lose.
    fn is_exchanged(&self, title: &Title, sight: Sight) -> bool {
        let known = self.lasting.directory(&place(&self.settings));
        let is_another = known.zip(title.place.inode()).is_some_and(|(known, now)| known != now);
        let is_strange = match &title.found {
            Found::Nothing if is_another => sight != Sight::Bare,
            Found::Nothing => !matches!(sight, Sight::Bare | Sight::Wanted),
            Found::Record(record) if record.owner == self.owner => false,
            Found::Record(record) => {
                is_another || (record.owner.home == self.owner.home && title.place.is_root_of_file_system())
            }
            Found::Malformed(_) => is_another,
        };
        is_strange && self.seen().is_some_and(|record| record.owner == self.owner)
    }

    /// Something was not brought there: the archive may not be the one any more that it was at the first contact.
    pub(crate) fn look_again(&self) {
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = Contact::None;
    }

    /// What will keep us from listing and deleting, by what a listing shows: an archive that is free will be ours. `unsure`: why nobody knows
    /// whether it is the source.
    pub(crate) fn foreseen_bar(&self, title: &Title, sight: Sight, unsure: Option<String>) -> Option<Bar> {
        let found = self.remembering(title, sight);
        let bar = if found == Found::Nothing { None } else { judge(&self.owner, &found) };
        bar.or(unsure.map(|why| Bar::Unsure { why }))
    }

    /// The archive is ours from now on. Where it was before, its record has disappeared, and maybe more than that.
    fn tell_of_claim(&self, is_bare: bool) {
        let (target_name, archive) = (&self.settings.name, &self.settings.archive);
        if self.seen().is_none() {
            tracing::info!(owner = %self.owner, "the archive belongs to this target from now on");
        } else if is_bare {
            tracing::warn!(
                %target_name,
                "the archive {archive} belonged to this target; now it holds no packages, and its record is gone; the record is written anew and \
                 everything is sent again: check that {}",
                place_to_check(&self.settings)
            );
        } else {
            tracing::warn!(
                %target_name,
                "the archive {archive} belonged to this target, and its record was gone; it is written anew: find out who removes files below it"
            );
        }
    }

    /// Takes a record away again that turned out to lie in the source.
    async fn withdraw(&self, record: &Record) {
        if let Err(error) = self.target.claim(Claim::Withdraw, record).await {
            tracing::warn!(target_name = %self.settings.name, %error, "cannot remove {CONTROL}/{FILE} from the source again; remove it by hand");
        }
    }

    /// Refuses an archive that is the source, lies in it, or holds it, by whatever name it is reached. Where the source's own record cannot be read,
    /// it gives the reason: then nobody can tell, though both seem to be apart.
    pub(crate) async fn keep_off_the_source(&self, title: &Title) -> Result<Option<String>, Problem> {
        let (root, title) = (self.settings.source.clone(), title.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let around = Around::look(&root)?;
            let ids: Vec<RandomId> = around.ids.iter().map(|(id, _)| *id).collect();
            let likeness = title.likeness(&around.place, &ids);
            Ok::<_, String>((likeness, around))
        });
        let looked = looking.await.unwrap_or_else(|error| Err(format!("looking at the source failed: {error}")));
        let (likeness, around) = looked.map_err(|why| problem(None, why, Backoff::PACKAGE))?;
        match likeness {
            None => Ok(around.unsure),
            Some(likeness) => Err(problem(None, self.refusal(likeness, &around), Backoff::NEXT_SYNC)),
        }
    }

    /// Why nothing is done to an archive that is taken for the source.
    fn refusal(&self, likeness: Likeness, around: &Around) -> String {
        let Settings { name, source, archive, .. } = &*self.settings;
        let shown = source.display();
        let id = match likeness {
            Likeness::Place => {
                return format!(
                    "the target's archive {archive} and the source {shown} are the same directory, or one lies in the other; nothing is done to it: \
                     correct archive, host or source in config/{name}.conf"
                );
            }
            Likeness::Id(id) => id,
        };
        let above = around.ids.iter().find(|(seen, _)| *seen == id).map_or(0, |(_, above)| *above);
        let here = record_above(source, above).display().to_string();
        let (there, removal) = record_at(&self.settings);
        format!(
            "the target's archive and the source {shown} have the same archive id, {id}: it stands in {there} at the target and in {here} on this \
             machine. So they are taken for the same directory, and nothing is done to it. If they are the same, correct archive, host or source in \
             config/{name}.conf. If one is a copy of the other, remove the record from the copy: on this machine by `rm {here}`, at the target \
             {removal}"
        )
    }

    /// Takes the archive over, and gives how it was before and how it is now.
    ///
    /// # Errors
    /// The target cannot be reached or refuses, or its archive is the source.
    pub(crate) async fn adopt(&self) -> Result<(Found, Found), Problem> {
        let failed = |error| unreached("cannot take the archive over", error);
        let mut record = self.new_record()?;
        let looked = self.target.claim(Claim::Look, &record).await.map_err(failed)?;
        if let Some(why) = self.keep_off_the_source(&looked).await? {
            let text = format!("cannot take the archive over: {}", Bar::Unsure { why }.cause());
            return Err(problem(None, text, Backoff::PACKAGE));
        }
        let before = self.remembering(&looked, Sight::None);
        // One that was cut ends here: where the number of a visit is still somebody else's, so may be what is marked.
        let is_cut = matches!(&looked.visit, Found::Record(visit) if visit.owner != self.owner);
        if before != Found::Nothing && judge(&self.owner, &before).is_none() && !is_cut {
            return Ok((before.clone(), before));
        }
        let how = if before == Found::Nothing { Claim::First } else { Claim::Adopt };
        if how == Claim::Adopt {
            record = self.record_of(None)?;
        }
        let mut after = self.target.claim(how, &record).await.map_err(failed)?;
        if judge(&self.owner, &after.found).is_some() {
            // Somebody claimed it a moment before us.
            record = self.record_of(None)?;
            after = self.target.claim(Claim::Adopt, &record).await.map_err(failed)?;
        }
        if let Err(problem) = self.keep_off_the_source(&after).await {
            self.withdraw(&record).await;
            return Err(problem);
        }
        if let Some(bar) = judge(&self.owner, &after.found) {
            return Err(problem(None, bar.to_string(), Backoff::PACKAGE));
        }
        let detail = format!("the archive was adopted; before, {}", shown(&before));
        self.history.add(&[HistoryEntry {
            at: Timestamp::now(),
            deed: Operation::Adopted,
            package: None,
            bytes: 0,
            after_tag_ms: None,
            detail: Some(detail),
        }]);
        Ok((before, after.found))
    }

    /// The record that was last seen in the archive, as far as that is known.
    fn seen(&self) -> Option<Record> {
        self.lasting.archive(&place(&self.settings)).ok().flatten()
    }

    /// A record that makes the archive ours. One whose record is gone stays the archive that it was.
    fn new_record(&self) -> Result<Record, Problem> {
        self.record_of(self.seen().map(|record| record.archive))
    }

    /// As [`Self::new_record`], with this id, else with a new random one: by it each adoption differs from every other.
    fn record_of(&self, archive: Option<RandomId>) -> Result<Record, Problem> {
        let archive = archive.map_or_else(home_id::random, Ok).map_err(|error| {
            problem(None, format!("cannot read random bytes for the archive's id: {error}"), Backoff::PACKAGE)
        })?;
        Ok(Record { archive, owner: self.owner.clone() })
    }
}

/// The place of an archive, as a target remembers it.
fn place(settings: &Settings) -> String {
    let archive = &settings.archive;
    match &settings.transport {
        Transport::Openssh(ssh) | Transport::Libssh2(ssh) => {
            format!("ssh {}@{}:{} {archive}", ssh.user, ssh.host, ssh.port)
        }
        Transport::Local => format!("local {archive}"),
        Transport::S3(s3) => format!("s3 {} {} {}", s3.endpoint.as_deref().unwrap_or("-"), s3.bucket, s3.prefix),
    }
}

/// What to look at where an archive is empty all at once.
fn place_to_check(settings: &Settings) -> &'static str {
    match settings.transport {
        Transport::Openssh(_) | Transport::Libssh2(_) | Transport::Local => {
            "the archive's disk is mounted and is the right one"
        }
        Transport::S3(_) => "the bucket and its prefix are the right ones",
    }
}

/// The record of a target's archive for people, and how it is removed.
fn record_at(settings: &Settings) -> (String, String) {
    let Settings { name, archive, .. } = settings;
    let file = format!("{archive}/{CONTROL}/{FILE}");
    match &settings.transport {
        Transport::Openssh(_) | Transport::Libssh2(_) => {
            let removal = format!("by `blat ssh {name} rm {file}`");
            (file, removal)
        }
        Transport::Local => {
            let removal = format!("by `rm {file}`");
            (file, removal)
        }
        Transport::S3(s3) => {
            let prefix = if s3.prefix.is_empty() { String::new() } else { format!("{}/", s3.prefix) };
            let key = format!("{prefix}.blat/{FILE}");
            (format!("the object {key} of the bucket {}", s3.bucket), format!("by deleting the object {key}"))
        }
    }
}

/// What an archive's record came to, for people.
pub(crate) fn shown(found: &Found) -> String {
    match found {
        Found::Nothing => "nobody owned it".to_owned(),
        Found::Record(Record { owner, .. }) => {
            format!("it belonged to target {} of the home tree {}", owner.target, owner.home)
        }
        Found::Malformed(why) => format!("its file {CONTROL}/{FILE} did not say whom it belonged to: {why}"),
    }
}

#[cfg(test)]
mod tests;
