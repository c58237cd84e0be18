//! What a target holds, as its listing tells it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::archive::listing_digest::{Buckets, bucket};
use crate::archive::title::Title;
use crate::package::name::{PackageId, PackageName, Version};
use crate::util::text::printable;

/// The most lines of one target's listing.
pub const MOST_LISTED: u64 = 1_000_000;
/// The most memory that one target's inventory may take, in bytes: as much as some 250,000 packages with names of an ordinary length. A target
/// that lists more could make an agent hold whatever it likes.
pub const MOST_MEMORY: usize = 32 << 20;
/// What an entry of an inventory takes beside its texts, in bytes.
const ENTRY: usize = 80;
/// What a text takes beside its bytes.
const TEXT: usize = 24;

/// A listing that is longer than any that is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the target lists more than {} MiB of packages, links and marks, and an agent keeps no more of one target in mind: delete what nobody wants there, or \
     spread it over several archives",
    MOST_MEMORY >> 20
)]
pub struct TooLarge;

/// A listing on its way in, which becomes no larger than [`MOST_MEMORY`].
#[derive(Debug, Default)]
pub struct Listing {
    inventory: Inventory,
    memory: usize,
}

impl Listing {
    /// Takes one line, as [`Inventory::add_line`] does.
    ///
    /// # Errors
    /// [`TooLarge`] where there have been too many.
    pub fn add_line(&mut self, line: &str) -> Result<(), TooLarge> {
        self.memory += self.inventory.take(line);
        if self.memory > MOST_MEMORY { Err(TooLarge) } else { Ok(()) }
    }

    /// All that was taken.
    pub fn finish(self) -> Inventory {
        self.inventory
    }
}

/// How much of [`MOST_MEMORY`] is left to packages that come otherwise than in the lines of a listing.
#[derive(Debug, Clone, Copy)]
pub struct ListingBudget(usize);

impl Default for ListingBudget {
    fn default() -> Self {
        Self(MOST_MEMORY)
    }
}

impl ListingBudget {
    /// Takes what one entry needs.
    ///
    /// # Errors
    /// [`TooLarge`] where there have been too many.
    pub fn take(&mut self, package: &PackageId) -> Result<(), TooLarge> {
        self.take_all(memory(None, package, 0))
    }

    /// Takes what a version needs that is a link to another.
    ///
    /// # Errors
    /// As [`ListingBudget::take`].
    pub fn take_link(&mut self, package: &PackageId, to: &str) -> Result<(), TooLarge> {
        self.take_all(memory(None, package, TEXT + to.len()))
    }

    fn take_all(&mut self, bytes: usize) -> Result<(), TooLarge> {
        self.0 = self.0.checked_sub(bytes).ok_or(TooLarge)?;
        Ok(())
    }
}

/// The packages of one archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Complete packages, with the modification time of their `descpkg` in whole epoch seconds.
    pub packages: BTreeMap<PackageId, i64>,
    /// Versions that are symbolic links, with what they address.
    pub links: BTreeMap<PackageId, String>,
    /// Free bytes on the archive's disk for its owner, where the target could tell.
    pub free: Option<u64>,
    /// Versions that are marked for deletion.
    pub marks: BTreeMap<PackageId, Mark>,
    /// The target's own clock while it was listed, in epoch seconds.
    pub clock: Option<i64>,
    /// Entries that are not ours: counted, and the first few kept for the log.
    pub foreign: Foreign,
    /// Whose archive it is, and where.
    pub title: Title,
}

/// A mark beside the archive: its package may be deleted once it has waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When it was made, in epoch seconds of the target's clock.
    pub at: i64,
    /// Seconds that the package stays from then on.
    pub wait: u64,
}

impl Mark {
    /// `SECOND WAIT`, as a listing has it.
    fn parse(text: &str) -> Option<Self> {
        let (at, wait) = text.split_once(' ')?;
        Some(Self { at: at.parse().ok()?, wait: wait.parse().ok()? })
    }
}

/// Entries of a listing that name nothing Blat could have put there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// How many there are.
    pub count: u64,
    /// The first of them, fit for printing.
    pub examples: Vec<String>,
}

impl Foreign {
    const EXAMPLES: usize = 5;

    /// Notes one.
    pub fn note(&mut self, line: &str) {
        self.count += 1;
        if self.examples.len() < Self::EXAMPLES {
            self.examples.push(printable(line));
        }
    }
}

impl Inventory {
    /// Takes one line of `get_plist`: `package NAME VERSION EPOCHSECOND`, `link NAME VERSION TARGET`,
    /// `mark NAME VERSION EPOCHSECOND WAIT`, `clock EPOCHSECOND`, `free BYTES`, `archive ID HOME-ID TARGET` or `place BOOT-ID DEVICE:INODE …`.
    /// A line that is none of these is foreign: a target's archive may hold what others put there.
    pub fn add_line(&mut self, line: &str) {
        self.take(line);
    }

    /// As [`Self::add_line`]; gives how much memory what was added takes, in bytes.
    fn take(&mut self, line: &str) -> usize {
        if let Some(free) = line.strip_prefix("free ").and_then(|free| free.parse().ok()) {
            self.free = Some(free);
            return 0;
        }
        if let Some(second) = line.strip_prefix("clock ").and_then(|second| second.parse().ok()) {
            self.clock = Some(second);
            return 0;
        }
        if self.title.add_line(line) {
            return 0;
        }
        let mut words = line.splitn(4, ' ');
        let (kind, name, version, rest) = (words.next(), words.next(), words.next(), words.next());
        let id = PackageId::new(name.unwrap_or_default(), version.unwrap_or_default());
        let taken = match (kind, id, rest) {
            (Some("package"), Ok(id), Some(time)) => time.parse().ok().map(|time| {
                let neighbour = self.packages.range(..&id).next_back().map(|(neighbour, _)| neighbour);
                let memory = memory(neighbour, &id, 0);
                self.packages.insert(id.beside(neighbour), time);
                memory
            }),
            (Some("link"), Ok(id), Some(to)) => {
                let memory = memory(None, &id, TEXT + to.len());
                self.links.insert(id, to.to_owned());
                Some(memory)
            }
            (Some("mark"), Ok(id), Some(mark)) => Mark::parse(mark).map(|mark| {
                let memory = memory(None, &id, 0);
                self.marks.insert(id, mark);
                memory
            }),
            _ => None,
        };
        taken.unwrap_or_else(|| {
            self.foreign.note(line);
            0
        })
    }

    /// How much memory all of it takes, about, in bytes.
    pub fn memory(&self) -> usize {
        let mut neighbour = None;
        let packages = self.packages.keys().map(|id| memory(neighbour.replace(id), id, 0)).sum::<usize>();
        let links = self.links.iter().map(|(id, to)| memory(None, id, TEXT + to.len())).sum::<usize>();
        packages + links + self.marks.keys().map(|id| memory(None, id, 0)).sum::<usize>()
    }

    /// Adds all of `news`, whose clock, space, foreign entries and title hold from now on.
    pub fn merge(&mut self, mut news: Self) {
        self.packages.append(&mut news.packages);
        self.links.append(&mut news.links);
        self.marks.append(&mut news.marks);
        (self.free, self.clock, self.foreign, self.title) = (news.free, news.clock, news.foreign, news.title);
    }
}

/// How much memory an entry takes, `more` with it, whose name is shared with that of the neighbour where it is the same.
fn memory(neighbour: Option<&PackageId>, id: &PackageId, more: usize) -> usize {
    let is_shared = neighbour.is_some_and(|neighbour| neighbour.name == id.name);
    let name = if is_shared { 0 } else { TEXT + id.name.as_str().len() };
    ENTRY + name + TEXT + id.version.as_str().len() + more
}

/// The line of a listing for a package.
pub fn package_line(package: &PackageId, time: i64) -> String {
    format!("package {} {} {time}", package.name, package.version)
}

/// The line of a listing for a version that is a symbolic link. Whatever is not printable ASCII in its target becomes `?`.
pub fn link_line(package: &PackageId, to: &[u8]) -> String {
    let plain = |byte: &u8| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '?' };
    let to: String = to.iter().map(plain).collect();
    format!("link {} {} {to}", package.name, package.version)
}

/// The line of a listing for a mark.
pub fn mark_line(package: &PackageId, mark: Mark) -> String {
    format!("mark {} {} {} {}", package.name, package.version, mark.at, mark.wait)
}

impl Inventory {
    /// Whether it holds no packages at all.
    pub fn is_bare(&self) -> bool {
        self.packages.is_empty() && self.links.is_empty()
    }

    /// The versions of one package, with the times of their `descpkg`.
    pub fn versions(&self, name: &PackageName) -> BTreeMap<Version, i64> {
        let lowest = self.packages.keys().find(|package| package.name == *name);
        let all = lowest.into_iter().flat_map(|lowest| self.packages.range(lowest..));
        let ours = all.take_while(|(package, _)| package.name == *name);
        ours.map(|(package, time)| (package.version.clone(), *time)).collect()
    }

    /// The digests of this listing, in so many buckets.
    pub fn digests(&self, count: usize) -> Vec<[u8; 16]> {
        let mut buckets = Buckets::new(count);
        let mut add = |package: &PackageId, line: &str| buckets.add(package.name.as_str(), line);
        self.packages.iter().for_each(|(package, time)| add(package, &package_line(package, *time)));
        self.links.iter().for_each(|(package, to)| add(package, &link_line(package, to.as_bytes())));
        self.marks.iter().for_each(|(package, mark)| add(package, &mark_line(package, *mark)));
        buckets.digests()
    }

    /// Drops what is in these of `count` buckets, so that their lines can be taken in anew.
    pub fn empty_buckets(&mut self, numbers: &[u16], count: usize) {
        if numbers.is_empty() {
            return;
        }
        let mut is_emptied = vec![false; count];
        for number in numbers {
            if let Some(bucket) = is_emptied.get_mut(usize::from(*number)) {
                *bucket = true;
            }
        }
        let stays =
            |package: &PackageId| bucket(package.name.as_str(), count).is_some_and(|bucket| !is_emptied[bucket]);
        self.packages.retain(|package, _| stays(package));
        self.links.retain(|package, _| stays(package));
        self.marks.retain(|package, _| stays(package));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_and_links_are_told_apart_from_what_is_not_ours() {
        let mut inventory = Inventory::default();
        for line in [
            "free 1024",
            "free lunch",
            "package core 2.1 1700000000",
            "package old 1 -5",
            "link tools current 1.3.0",
            "mark old 1 1700000000 2592000",
            "clock 1700000100",
            "mark old 2 soon 5",
            "mark ../x 1 5 5",
            "clock soon",
            "package ../x 1 5",
            "package core 2.2",
            "package core 2.3 soon",
            "\u{1b}[2J",
            "",
        ] {
            inventory.add_line(line);
        }
        let packages: Vec<_> = inventory.packages.iter().map(|(id, time)| format!("{id} {time}")).collect();
        assert_eq!(packages, ["core@2.1 1700000000", "old@1 -5"]);
        assert_eq!(inventory.links.len(), 1);
        assert_eq!(inventory.free, Some(1024));
        assert_eq!(inventory.clock, Some(1_700_000_100));
        let marks: Vec<_> =
            inventory.marks.into_iter().map(|(id, mark)| (id.to_string(), mark.at, mark.wait)).collect();
        assert_eq!(marks, [("old@1".to_owned(), 1_700_000_000, 2_592_000)]);
        assert_eq!(inventory.foreign.count, 9);
        assert!(inventory.foreign.examples.iter().all(|e| !e.contains('\u{1b}')));
    }

    #[test]
    fn an_endless_listing_is_refused_before_it_takes_much_memory_and_a_large_one_is_taken() {
        for line in
            [|n: u64| format!("package p{n} 1 5"), |n| format!("link p{n} now 1"), |n| format!("mark p{n} 1 5 5")]
        {
            let mut listing = Listing::default();
            let taken = (0..MOST_LISTED).take_while(|n| listing.add_line(&line(*n)).is_ok()).count();
            assert!((150_000..400_000).contains(&taken), "{taken}");
            let inventory = listing.finish();
            assert!(inventory.memory() <= MOST_MEMORY + 1000 && inventory.memory() > MOST_MEMORY / 2);
        }
        let mut listing = Listing::default();
        let versions = (0..250_000).map(|n| format!("package some_package_{} 1.{}.{n} 1700000000", n / 40, n % 40));
        assert!(
            versions.into_iter().all(|line| listing.add_line(&line).is_ok()),
            "40 versions of each of 6,250 packages"
        );
    }

    #[test]
    fn a_bucket_is_emptied_and_filled_again_alone() {
        let lines = ["package core 2.1 5", "package tools 1 6", "link tools current 1", "mark old 1 7 8"];
        let mut inventory = Inventory::default();
        lines.iter().for_each(|line| inventory.add_line(line));
        let (before, count) = (inventory.clone(), 64);
        let number = bucket("tools", count).and_then(|bucket| u16::try_from(bucket).ok()).expect("a bucket");
        inventory.empty_buckets(&[number], count);
        assert!(inventory.links.is_empty() && inventory.packages.len() < 2, "{inventory:?}");
        assert_ne!(inventory.digests(count), before.digests(count));
        lines.iter().for_each(|line| inventory.add_line(line));
        assert_eq!(inventory.digests(count), before.digests(count));
    }
}
