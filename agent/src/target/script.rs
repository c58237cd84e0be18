//! A target served by POSIX shell scripts: one run a request, one stream for many packages.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use blat_domain::inventory::Inventory;
use blat_domain::manifest::hex;
use blat_domain::name::PackageId;
use blat_domain::plan::{Link, Size};
use blat_domain::status;
use blat_domain::text::printable;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::answer::{Input, ask};
use super::far_end::{FarEnd, Scout, Serves};
use super::install::{Compression, EXECUTABLE, shell_word};
use super::transport::Transport;
use super::{Delivery, Parcel, Retired, Retirement, Target, TargetError, Verdict};
use crate::progress::Progress;
use crate::source::pack;

/// The largest number that the scripts take, since every awk counts to it exactly. No disk has room for so many bytes.
const MOST: u64 = 999_999_999_999_999;

/// A target that runs our scripts.
#[derive(Debug)]
pub(crate) struct ScriptTarget {
    transport: Transport,
    archive: String,
    bin: String,
    reserve: u64,
    scout: Scout,
    facts: Mutex<Option<Facts>>,
    /// What serves there, for the status.
    shown: std::sync::Mutex<Option<status::FarEnd>>,
    /// What the streams under way will take on the target's disk, in bytes.
    under_way: AtomicU64,
    batches: AtomicU64,
}

/// What was found out over one connection.
#[derive(Debug, Clone, Copy)]
struct Facts {
    generation: u64,
    compression: Compression,
}

impl ScriptTarget {
    /// A target whose archive and scripts are at these paths there. `reserve` bytes stay free on its disk.
    pub(crate) fn new(transport: Transport, scout: Scout, archive: String, bin: String, reserve: u64) -> Self {
        let (facts, under_way, batches) = (Mutex::new(None), AtomicU64::new(0), AtomicU64::new(0));
        let shown = std::sync::Mutex::default();
        Self { transport, archive, bin, reserve, scout, facts, shown, under_way, batches }
    }

    /// What is known of the target, asked again after every reconnect and every refusal.
    async fn facts(&self) -> Result<Facts, TargetError> {
        let generation = self.transport.generation().await?;
        let mut facts = self.facts.lock().await;
        if let Some(known) = facts.filter(|known| known.generation == generation) {
            return Ok(known);
        }
        let FarEnd { serves, compression } = self.scout.far_end(&self.transport).await?;
        let serves = match serves {
            Serves::Scripts { .. } => serves,
            Serves::Receiver { restricted: false, .. } => Serves::Scripts {
                why: Some(format!("{EXECUTABLE} is installed, and this agent does not speak to it yet")),
            },
            Serves::Receiver { restricted: true, .. } => {
                return Err(TargetError::Operator(format!("the key can run nothing but {EXECUTABLE}, and no scripts")));
            }
        };
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(serves.shown());
        Ok(*facts.insert(Facts { generation, compression }))
    }

    async fn run(&self, verb: &str, arguments: &str, input: Input, each: impl FnMut(&str)) -> Result<(), TargetError> {
        let script = shell_word(&format!("{}/{verb}", self.bin));
        let command = format!("exec /bin/sh {script} --archive {}{arguments}", shell_word(&self.archive));
        let result = ask(self.transport.exec(&command).await?, input, each).await;
        if matches!(result, Err(TargetError::Refused(_))) {
            // It may have refused because a script is gone or changed: look before the next request.
            *self.facts.lock().await = None;
        }
        result
    }

    async fn receive_file(&self, name: &str, content: &str, each: impl FnMut(&str)) -> Result<(), TargetError> {
        self.facts().await?;
        let digest = hex(&Sha256::digest(content));
        let arguments = format!(" --name {name} --bytes {} --sha256 {digest}", content.len());
        self.run("receive_file", &arguments, Input::Bytes(content.as_bytes().to_vec()), each).await
    }

    /// A name for one batch's stage, not used before by anybody.
    fn batch_id(&self) -> String {
        let number = self.batches.fetch_add(1, Ordering::Relaxed);
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos());
        format!("{now:x}-{:x}-{number:x}", std::process::id())
    }
}

/// One stream's share of what is under way, as long as this lives.
struct UnderWay<'a> {
    all: &'a AtomicU64,
    share: u64,
    /// What others had under way when this began.
    before: u64,
}

impl<'a> UnderWay<'a> {
    fn begin(all: &'a AtomicU64, size: Size) -> Self {
        let share = size.on_disk();
        Self { before: all.fetch_add(share, Ordering::AcqRel), share, all }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.share, Ordering::AcqRel);
    }
}

#[async_trait]
impl Target for ScriptTarget {
    async fn inventory(&self) -> Result<Inventory, TargetError> {
        *self.facts.lock().await = None;
        self.facts().await?;
        let mut inventory = Inventory::default();
        self.run("get_plist", "", Input::Bytes(Vec::new()), |line| inventory.add_line(line)).await?;
        let taken = self.reserve.saturating_add(self.under_way.load(Ordering::Acquire));
        inventory.free = inventory.free.map(|free| free.saturating_sub(taken));
        Ok(inventory)
    }

    async fn receive(
        &self,
        parcels: &[Parcel],
        progress: &Arc<Progress>,
    ) -> Result<Vec<(PackageId, Delivery)>, TargetError> {
        let compression = self.facts().await?.compression;
        let mut size = Size::default();
        parcels.iter().for_each(|parcel| size += parcel.size);
        let under_way = UnderWay::begin(&self.under_way, size);
        let arguments = format!(
            " --batch {} --compression {} --bytes {} --entries {} --reserve {}",
            self.batch_id(),
            compression.word(),
            size.bytes.min(MOST),
            size.entries.min(MOST),
            self.reserve.saturating_add(under_way.before).min(MOST)
        );
        let (chunks, packing) = pack::start(parcels.to_vec(), compression, progress.clone());
        let mut deliveries = Vec::new();
        let asked = self
            .run("receive_package", &arguments, Input::Stream(chunks), |line| deliveries.extend(delivery(line)))
            .await;
        let given_up = packing.await.map_err(|error| TargetError::Refused(format!("packing failed: {error}")))?;
        asked?;
        deliveries.extend(given_up.into_iter().map(|(package, why)| (package, Delivery::Failed(why))));
        Ok(with_silent_ones(deliveries, parcels.iter().map(|parcel| &parcel.package)))
    }

    async fn link(&self, links: &[Link]) -> Result<Vec<(PackageId, Delivery)>, TargetError> {
        let line = |link: &Link| format!("{} {} {}\n", link.package.name, link.package.version, link.to);
        let lines: String = links.iter().map(line).collect();
        let mut deliveries = Vec::new();
        self.receive_file("links", &lines, |line| deliveries.extend(delivery(line))).await?;
        Ok(with_silent_ones(deliveries, links.iter().map(|link| &link.package)))
    }

    async fn verify(&self, packages: &[PackageId]) -> Result<Vec<(PackageId, Verdict)>, TargetError> {
        self.facts().await?;
        let lines: String = packages.iter().map(|package| format!("{} {}\n", package.name, package.version)).collect();
        let mut verdicts = Vec::new();
        let each = |line: &str| verdicts.extend(verdict(line));
        self.run("get_plist", " --verify", Input::Bytes(lines.into_bytes()), each).await?;
        Ok(verdicts)
    }

    async fn retire(
        &self,
        how: Retirement,
        packages: &[(PackageId, Option<i64>)],
    ) -> Result<Vec<(PackageId, Retired)>, TargetError> {
        self.facts().await?;
        let arguments = match how {
            Retirement::Unmark => " --unmark".to_owned(),
            Retirement::Mark(wait) => format!(" --mark {}", wait.min(MOST)),
            Retirement::DeleteDue => " --due".to_owned(),
            Retirement::Delete => " --unlisted".to_owned(),
        };
        let mut list = String::new();
        for (PackageId { name, version }, time) in packages {
            // Writing to a String cannot fail.
            let _ = match time {
                Some(time) => writeln!(list, "{name} {version} {time}"),
                None => writeln!(list, "{name} {version}"),
            };
        }
        let _ = writeln!(list, "# end {}", packages.len());
        let mut answers = Vec::new();
        let input = Input::Bytes(list.into_bytes());
        self.run("delete_package", &arguments, input, |line| answers.extend(retired(line))).await?;
        Ok(answers)
    }

    fn far_end(&self) -> Option<status::FarEnd> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn store_list(&self, list: &str) -> Result<(), TargetError> {
        self.receive_file(blat_domain::package_list::FILE, list, |_| {}).await
    }
}

/// Adds a failure for each package of which the target said nothing.
fn with_silent_ones<'a>(
    mut deliveries: Vec<(PackageId, Delivery)>,
    asked: impl Iterator<Item = &'a PackageId>,
) -> Vec<(PackageId, Delivery)> {
    let heard: BTreeSet<PackageId> = deliveries.iter().map(|(package, _)| package.clone()).collect();
    let silent = || Delivery::Failed("the target did not say what became of it".to_owned());
    deliveries.extend(asked.filter(|package| !heard.contains(*package)).map(|package| (package.clone(), silent())));
    deliveries
}

/// One line of an answer: `published NAME VERSION`, `replaced …`, `linked …`, `already …` or
/// `failed NAME VERSION CLASS TEXT`.
fn delivery(line: &str) -> Option<(PackageId, Delivery)> {
    let mut words = line.splitn(5, ' ');
    let (word, name, version) = (words.next()?, words.next()?, words.next()?);
    let (class, text) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let what = match word {
        "published" => Delivery::Published,
        "replaced" => Delivery::Replaced,
        "linked" => Delivery::Linked,
        "already" => Delivery::Already,
        "failed" if class == "differs" => Delivery::Differs(printable(text)),
        "failed" => Delivery::Failed(format!("{} ({})", printable(text), printable(class))),
        _ => return None,
    };
    PackageId::new(name, version).ok().map(|package| (package, what))
}

/// One line of what `get_plist --verify` says: `good NAME VERSION DIGEST`, `bad NAME VERSION WHY`, `unknown …` or `absent …`.
fn verdict(line: &str) -> Option<(PackageId, Verdict)> {
    let mut words = line.splitn(4, ' ');
    let (word, name, version) = (words.next()?, words.next()?, words.next()?);
    let rest = printable(words.next().unwrap_or_default());
    let verdict = match word {
        "good" => Verdict::Good(rest),
        "bad" => Verdict::Bad(rest),
        "unknown" => Verdict::Unknown(rest),
        "absent" => Verdict::Absent,
        _ => return None,
    };
    PackageId::new(name, version).ok().map(|package| (package, verdict))
}

/// One line of `delete_package`'s answer: `WORD NAME VERSION [CLASS TEXT]`.
fn retired(line: &str) -> Option<(PackageId, Retired)> {
    let mut words = line.splitn(5, ' ');
    let (word, name, version) = (words.next()?, words.next()?, words.next()?);
    let (class, text) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let what = match word {
        "deleted" | "marked" | "unmarked" => Retired::Done,
        "absent" => Retired::Absent,
        "kept" => Retired::Kept(printable(text)),
        "failed" => Retired::Failed(format!("{} ({})", printable(text), printable(class))),
        _ => return None,
    };
    PackageId::new(name, version).ok().map(|package| (package, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_nonsense_is_not() {
        let package: PackageId = "core@1".parse().expect("a package");
        assert_eq!(delivery("published core 1"), Some((package.clone(), Delivery::Published)));
        assert_eq!(
            delivery("failed core 1 digest the bytes differ"),
            Some((package, Delivery::Failed("the bytes differ (digest)".into())))
        );
        assert!(matches!(delivery("failed core 1 differs other bytes"), Some((_, Delivery::Differs(_)))));
        assert_eq!(retired("deleted core 1").map(|(_, what)| what), Some(Retired::Done));
        let kept = Retired::Kept("the PackageList names it".into());
        assert_eq!(retired("kept core 1 wanted the PackageList names it").map(|(_, what)| what), Some(kept));
        assert_eq!(retired("deleted ../x 1"), None);
        assert_eq!(delivery("published ../x 1"), None);
        assert_eq!(delivery("exploded core 1"), None);
        assert_eq!(delivery(""), None);
    }

    #[test]
    fn verdicts_are_read_and_nonsense_is_not() {
        let package: PackageId = "core@1".parse().expect("a package");
        assert_eq!(verdict("good core 1 ab"), Some((package.clone(), Verdict::Good("ab".into()))));
        assert_eq!(verdict("bad core 1 bin/a: FAILED"), Some((package, Verdict::Bad("bin/a: FAILED".into()))));
        assert_eq!(verdict("good ../x 1 ab"), None);
        assert_eq!(verdict("fine core 1"), None);
    }
}
