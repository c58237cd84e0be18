//! The name of an entry: a digest of everything that its frames follow from.
//!
//! No file is read for that: a package's tree is known by its [`Fingerprint`], so a key costs far less than what it saves.

use blat_domain::package::name::{PackageId, Version};
use blat_domain::protocol::frames::PROTOCOL;
use blat_domain::util::text::hex;
use sha2::{Digest, Sha256};

use crate::item::Fingerprint;
use crate::tree::add;

/// What an entry looks like: another number for every change of the format.
const FORMAT: u32 = 1;

/// What a package's frames follow from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ingredients<'a> {
    /// Which package.
    pub package: &'a PackageId,
    /// The time of its `descpkg`, in whole epoch seconds.
    pub time: i64,
    /// Its tree.
    pub tree: &'a Fingerprint,
    /// How it is packed: everything about that which may differ from agent to agent or from version to version.
    pub form: &'a str,
    /// The version that its frames may refer to: which, the time of its `descpkg`, and its tree.
    pub base: Option<(&'a Version, i64, &'a Fingerprint)>,
}

/// The name of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CacheKey(pub(super) String);

impl CacheKey {
    /// The name of the entry that is made from these.
    pub(crate) fn of(ingredients: &Ingredients<'_>) -> Self {
        let Ingredients { package, time, tree, form, base } = ingredients;
        let mut sum = Sha256::new();
        add(&mut sum, format!("{FORMAT} {PROTOCOL} {} {package} {time}", env!("CARGO_PKG_VERSION")).as_bytes());
        add(&mut sum, form.as_bytes());
        add(&mut sum, *tree);
        if let Some((version, time, tree)) = base {
            add(&mut sum, format!("{version} {time}").as_bytes());
            add(&mut sum, *tree);
        }
        Self(hex(&sum.finalize()))
    }
}
