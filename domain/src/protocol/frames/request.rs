//! What an agent says.

use serde::{Deserialize, Serialize};

use super::{bytes, packed};
use crate::archive::package_list::Purge;
use crate::archive::record::Claim;
use crate::package::name::{PackageId, Version};
use crate::util::identity::Identity;

/// One message to a receiver. Each lane is worked through in order.
///
/// Packages are sent one after the other on a lane: `Package`, then `Entries` and `Piece`s with their `Data`, then `Whole` or `Forget`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request<'a> {
    /// The first frame, on the control lane: answered by `Welcome`.
    Hello {
        /// [`super::PROTOCOL`] of the agent.
        protocol: u16,
    },
    /// Answered at once by `Pong`, whatever the lanes do.
    Ping {
        /// Comes back in the answer.
        beat: u64,
    },
    /// What does the archive hold? `buckets` are the digests of what the agent knows of it (see [`crate::archive::listing_digest`]); none where it
    /// knows nothing. Answered by lines for the buckets that differ, then `Listed`, then `Done`. Before them comes a line `outdated NAME` for
    /// each file of `installed` that is not there or another one, and for the receiver's own where it is not the one that runs.
    List {
        /// One digest for each bucket.
        buckets: Vec<[u8; 16]>,
        /// Names and SHA-256 of what is installed in the receiver's own directory; nothing where nobody wants to know.
        #[serde(borrow)]
        installed: Vec<(&'a str, [u8; 32])>,
    },
    /// Replaces the PackageList by so many bytes of `Data` that follow, if they have this SHA-256 and all that they name is there. Answered by
    /// `Ready` under the lock; after `Go`, by a line that says what was in its place (see [`crate::archive::package_list::Former`]), then `Done`.
    Store {
        /// How many bytes.
        bytes: u64,
        /// Their digest.
        digest: [u8; 32],
        /// Whether `pkg_purge` may delete by it.
        purge: Purge,
    },
    /// Makes versions symbolic links to others of the same name, in this order. Answered by a line each, then `Done`.
    Link {
        /// Which leads to what.
        links: Vec<(PackageId, Version)>,
    },
    /// Takes versions out of the archive or marks them. All of it fails where one of them is the source's own. Answered by `Ready` under
    /// the lock; after `Go`, by a line each, then `Done`.
    Retire {
        /// In what way.
        how: Retirement,
        /// Which.
        packages: Vec<Leaving>,
    },
    /// Hashes packages again and compares them with their manifests. Answered by a line each, then `Done`.
    Verify {
        /// Which.
        packages: Vec<PackageId>,
    },
    /// So much will be sent on this lane: is there room? Answered by `Done` or `Failed`.
    Begin {
        /// Bytes of all files.
        bytes: u64,
        /// Files, directories and links.
        entries: u64,
        /// Bytes that must stay free on the disk.
        reserve: u64,
    },
    /// A package begins.
    Package {
        /// The agent's number for this attempt, which its answers bear.
        number: u32,
        /// Which package.
        package: PackageId,
        /// Modification time of its `descpkg`, in whole epoch seconds.
        time: i64,
        /// Permission bits of its root.
        mode: u16,
        /// What may be done to a version in its place.
        rule: Rule,
        /// The digest of its manifest, where it is known already.
        manifest: Option<[u8; 32]>,
        /// Whether files that an interrupted attempt left are to be told of by `Held`.
        ask: bool,
    },
    /// The package's next directories, links and files, parents first and `descpkg` last of all. Files are filled in this order.
    Entries {
        /// What comes next.
        #[serde(with = "packed")]
        entries: Vec<Entry>,
    },
    /// The next bytes of the package's files; so many bytes of `Data` follow and unpack to what `parts` say.
    Piece(Piece),
    /// Bytes of what was announced last.
    Data(#[serde(borrow, serialize_with = "bytes::serialize")] &'a [u8]),
    /// The package is complete. Answered by a line, at the latest after the next `Publish`.
    Whole {
        /// How many entries it has, its root among them.
        entries: u64,
        /// The digest of its manifest.
        manifest: [u8; 32],
    },
    /// The package will not be completed: what came of it is dropped. Not answered.
    Forget,
    /// No more packages come for now: publish what is whole. Answered by `Done` once all are dealt with.
    Publish,
    /// Drops what interrupted attempts left, but for these packages. Answered by `Done`.
    Sweep {
        /// What somebody still wants.
        keep: Vec<PackageId>,
    },
    /// Nothing, on the control lane: bytes that fill a packet. Not answered.
    Padding(#[serde(borrow, serialize_with = "bytes::serialize")] &'a [u8]),
    /// From now on `Store` and `Retire` on this lane are done only while the archive's record names this owner, or is this one (see
    /// [`crate::policy::ownership`]), packages come only under such a record, and links replace others only while it names nobody else. Not answered.
    Own {
        /// `HOME-ID TARGET`, or a whole record, `ID HOME-ID TARGET`; nobody where it is empty.
        owner: &'a str,
    },
    /// Looks at the archive's record, or changes it. Answered by the lines `archive …`, `visit …` and `place …` of a listing, as they are then, and `Done`.
    Claim {
        /// What is to become of it.
        how: Claim,
        /// The record, or the visit, as it would be written.
        record: &'a str,
    },
    /// The answer to `Ready`: what was asked for on this lane is still wanted.
    Go,
}

/// What a package may do to a version in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// Nothing: one with another `descpkg` time is a conflict.
    New,
    /// Replace one with another `descpkg` time.
    Replace,
    /// Replace it, whatever its time.
    Repair,
}

impl Rule {
    /// The word that `receive_package` knows it by.
    pub fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Replace => "replace",
            Self::Repair => "repair",
        }
    }
}

/// How versions leave an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retirement {
    /// Their marks are taken away: they stay.
    Unmark,
    /// They are marked, to go after so many seconds.
    Mark(u64),
    /// They go if the PackageList does not name them and their marks have waited.
    DeleteDue,
    /// They go if the PackageList does not name them.
    Delete,
}

/// A version that is to leave an archive, or to be marked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Which.
    pub package: PackageId,
    /// The time that its `descpkg` must still have, in whole epoch seconds, where one is given.
    pub time: Option<i64>,
    /// What the source has under the same name and version: its `descpkg`, and the link where it is one. Nothing where the source lacks it.
    pub source: Vec<Identity>,
}

impl Leaving {
    /// A version of which the source has nothing.
    pub fn new(package: PackageId, time: Option<i64>) -> Self {
        Self { package, time, source: Vec::new() }
    }
}

/// Something in a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where, below the package's root; `/` between its parts. Empty for the root itself, which comes first.
    #[serde(serialize_with = "bytes::serialize")]
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// When it was modified.
    pub time: Time,
}

/// The kinds of entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A directory with these permission bits.
    Directory {
        /// Nine bits.
        mode: u16,
    },
    /// A symbolic link.
    Link {
        /// Where it leads, byte for byte.
        #[serde(serialize_with = "bytes::serialize")]
        to: Vec<u8>,
    },
    /// A regular file.
    File {
        /// Nine bits.
        mode: u16,
        /// Bytes.
        size: u64,
        /// Where the archive has these bytes already: then no piece brings them.
        copy: Option<Copy>,
        /// Whether other names of it may follow. The receiver remembers it until the package's end (see [`super::MOST_SHARED`]).
        shared: bool,
    },
    /// Another name of a regular file of this package: no piece brings its bytes.
    HardLink {
        /// The number of that file's entry, which came before and is `shared`. It is no other name itself.
        to: u32,
    },
}

/// A time of modification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// Whole epoch seconds, rounded downwards.
    pub seconds: i64,
    /// Nanoseconds on top of them, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// A file of another version of the same package, of the same size. Whether the bytes are right shows in the digest of the package's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// Which version.
    pub version: Version,
    /// Where in it; none where it has the same path.
    pub path: Option<Vec<u8>>,
}

/// Bytes of one or several files in a row, packed together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// How many bytes of `Data` follow.
    pub packed: u32,
    /// Whether they are a zstd frame; they are the bytes themselves otherwise.
    pub zstd: bool,
    /// What they unpack to, in the order of the entries. Only the last part may end in the middle of its file.
    #[serde(with = "packed")]
    pub parts: Vec<Part>,
    /// What the zstd frame refers to: its prefix is these, one after the other.
    #[serde(with = "packed")]
    pub base: Vec<Base>,
}

/// A piece's share of one file: the next so many bytes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The number of its entry, counted from the package's root, which is 0.
    pub entry: u32,
    /// How many bytes.
    pub bytes: u32,
}

/// Part of a file of another version of the same package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Which version.
    pub version: Version,
    /// Where in it.
    #[serde(serialize_with = "bytes::serialize")]
    pub path: Vec<u8>,
    /// From which byte on.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u32,
}
