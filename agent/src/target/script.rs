//! A target served by POSIX shell scripts: one run a request, one stream for many packages.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use blat_domain::inventory::Inventory;
use blat_domain::name::PackageId;
use blat_domain::plan::Size;
use blat_domain::text::printable;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::answer::{Input, ask};
use super::install::{Compression, ensure_installed, hex, shell_word};
use super::transport::Transport;
use super::{Delivery, Parcel, Retired, Retirement, Target, TargetError};
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
    facts: Mutex<Option<Facts>>,
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
    pub(crate) fn new(transport: Transport, archive: String, bin: String, reserve: u64) -> Self {
        let (facts, batches) = (Mutex::new(None), AtomicU64::new(0));
        Self { transport, archive, bin, reserve, facts, batches }
    }

    /// What is known of the target, asked again after every reconnect and every refusal.
    async fn facts(&self) -> Result<Facts, TargetError> {
        let generation = self.transport.generation().await?;
        let mut facts = self.facts.lock().await;
        if let Some(known) = facts.filter(|known| known.generation == generation) {
            return Ok(known);
        }
        let compression = ensure_installed(&self.transport, &self.bin).await?;
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

    /// A name for one batch's stage, not used before by anybody.
    fn batch_id(&self) -> String {
        let number = self.batches.fetch_add(1, Ordering::Relaxed);
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos());
        format!("{now:x}-{:x}-{number:x}", std::process::id())
    }
}

#[async_trait]
impl Target for ScriptTarget {
    async fn inventory(&self) -> Result<Inventory, TargetError> {
        *self.facts.lock().await = None;
        self.facts().await?;
        let mut inventory = Inventory::default();
        self.run("get_plist", "", Input::Bytes(Vec::new()), |line| inventory.add_line(line)).await?;
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
        let arguments = format!(
            " --batch {} --compression {} --bytes {} --entries {} --reserve {}",
            self.batch_id(),
            compression.word(),
            size.bytes.min(MOST),
            size.entries.min(MOST),
            self.reserve.min(MOST)
        );
        let (chunks, packing) = pack::start(parcels.to_vec(), compression, progress.clone());
        let mut deliveries = Vec::new();
        let asked = self
            .run("receive_package", &arguments, Input::Stream(chunks), |line| deliveries.extend(delivery(line)))
            .await;
        let given_up = packing.await.map_err(|error| TargetError::Refused(format!("packing failed: {error}")))?;
        asked?;
        deliveries.extend(given_up.into_iter().map(|(package, why)| (package, Delivery::Failed(why))));
        let heard: BTreeSet<PackageId> = deliveries.iter().map(|(package, _)| package.clone()).collect();
        let unheard = parcels.iter().filter(|parcel| !heard.contains(&parcel.package));
        let silent = || Delivery::Failed("the target did not say what became of it".to_owned());
        let unheard: Vec<_> = unheard.map(|parcel| (parcel.package.clone(), silent())).collect();
        deliveries.extend(unheard);
        Ok(deliveries)
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

    async fn store_list(&self, list: &str) -> Result<(), TargetError> {
        self.facts().await?;
        let arguments = format!(
            " --name {} --bytes {} --sha256 {}",
            blat_domain::package_list::FILE,
            list.len(),
            hex(&Sha256::digest(list))
        );
        self.run("receive_file", &arguments, Input::Bytes(list.as_bytes().to_vec()), |_| {}).await
    }
}

/// One line of `receive_package`'s answer: `published NAME VERSION`, `replaced …`, `already …` or
/// `failed NAME VERSION CLASS TEXT`.
fn delivery(line: &str) -> Option<(PackageId, Delivery)> {
    let mut words = line.splitn(5, ' ');
    let (word, name, version) = (words.next()?, words.next()?, words.next()?);
    let (class, text) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let what = match word {
        "published" => Delivery::Published,
        "replaced" => Delivery::Replaced,
        "already" => Delivery::Already,
        "failed" => Delivery::Failed(format!("{} ({})", printable(text), printable(class))),
        _ => return None,
    };
    PackageId::new(name, version).ok().map(|package| (package, what))
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
        assert_eq!(retired("deleted core 1").map(|(_, what)| what), Some(Retired::Done));
        let kept = Retired::Kept("the PackageList names it".into());
        assert_eq!(retired("kept core 1 wanted the PackageList names it").map(|(_, what)| what), Some(kept));
        assert_eq!(retired("deleted ../x 1"), None);
        assert_eq!(delivery("published ../x 1"), None);
        assert_eq!(delivery("exploded core 1"), None);
        assert_eq!(delivery(""), None);
    }
}
