//! What an object says of itself: the metadata that tells a package of ours from anything else.

use blat_domain::package::name::{PackageId, Version};
use blat_domain::util::text::hex;
use blat_packing::zip::Zipped;
use object_store::{Attribute, Attributes};

/// Names of the metadata, which clients see as `x-amz-meta-blat-…`.
const TIME: &str = "blat-time";
const DIGEST: &str = "blat-sha256";
const FILES: &str = "blat-files";
const SIZE: &str = "blat-size";
const LINK: &str = "blat-link";
const PACKAGE: &str = "blat-package";
/// What the objects are.
pub(super) const ZIP: &str = "application/zip";

/// A package's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectMetadata {
    /// Modification time of its `descpkg`, in epoch seconds.
    pub(super) time: i64,
    /// SHA-256 of the ZIP, in hexadecimal digits.
    pub(super) digest: String,
    /// Regular files in it.
    pub(super) files: u64,
    /// How long the ZIP is, in bytes. Objects of earlier builds do not say it.
    pub(super) size: Option<u64>,
    /// The version that this one is a link to, where it is one.
    pub(super) link: Option<Version>,
    /// Which package it is. Objects of earlier builds do not say it.
    pub(super) package: Option<PackageId>,
}

impl ObjectMetadata {
    /// That of a package just packed.
    pub(super) fn of(zipped: &Zipped, package: &PackageId, time: i64) -> Self {
        let (digest, package) = (hex(&zipped.digest), Some(package.clone()));
        Self { time, digest, files: zipped.files, size: Some(zipped.bytes), link: None, package }
    }

    /// Whether an object in the place of this package can be the one that was sent. Whoever copies an object copies its card with it.
    pub(super) fn is_of(&self, package: &PackageId) -> bool {
        self.package.as_ref().is_none_or(|own| own == package)
    }

    /// Whether an object of so many bytes can be the one that was sent.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        self.size.is_none_or(|size| size == bytes)
    }

    /// Whether another card says the same, as far as both say it.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let common = |one: &Self, another: &Self| Self {
            size: another.size.and(one.size),
            package: another.package.as_ref().and(one.package.clone()),
            ..one.clone()
        };
        common(self, other) == common(other, self)
    }

    /// The same as the metadata of an object.
    pub(super) fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs =
            vec![(TIME, self.time.to_string()), (DIGEST, self.digest.clone()), (FILES, self.files.to_string())];
        pairs.extend(self.size.map(|size| (SIZE, size.to_string())));
        pairs.extend(self.link.as_ref().map(|link| (LINK, link.to_string())));
        pairs.extend(self.package.as_ref().map(|package| (PACKAGE, package.to_string())));
        pairs
    }

    /// The same with the type of the content, as the library takes it.
    pub(super) fn attributes(&self) -> Attributes {
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::ContentType, ZIP.into());
        for (name, value) in self.pairs() {
            attributes.insert(Attribute::Metadata(name.into()), value.into());
        }
        attributes
    }

    /// What an object says; none where it is not one of ours.
    pub(super) fn read(attributes: &Attributes) -> Option<Self> {
        let get = |name: &'static str| attributes.get(&Attribute::Metadata(name.into())).map(AsRef::as_ref);
        let digest =
            get(DIGEST).filter(|digest| digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()))?;
        let link = match get(LINK) {
            Some(link) => Some(link.parse().ok()?),
            None => None,
        };
        let size = match get(SIZE) {
            Some(size) => Some(size.parse().ok()?),
            None => None,
        };
        let package = match get(PACKAGE) {
            Some(package) => Some(package.parse().ok()?),
            None => None,
        };
        let (time, files) = (get(TIME)?.parse().ok()?, get(FILES)?.parse().ok()?);
        Some(Self { time, digest: digest.to_owned(), files, size, link, package })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_comes_back_as_it_was_and_anything_less_is_not_ours() {
        let zipped = Zipped { digest: [0xab; 32], bytes: 5, files: 3 };
        let link = Some("1.2".parse().expect("a version"));
        let package: PackageId = "core@1.2".parse().expect("a package");
        for card in [
            ObjectMetadata::of(&zipped, &package, -7),
            ObjectMetadata { link, ..ObjectMetadata::of(&zipped, &package, 1) },
        ] {
            assert_eq!(ObjectMetadata::read(&card.attributes()), Some(card.clone()));
            for (name, _) in card.pairs().iter().filter(|(name, _)| *name != LINK) {
                let mut less = card.attributes();
                less.insert(Attribute::Metadata((*name).into()), "?".into());
                assert_eq!(ObjectMetadata::read(&less), None, "{name}");
            }
        }
        assert_eq!(ObjectMetadata::read(&Attributes::new()), None);
        let card = ObjectMetadata::of(&zipped, &package, 1);
        let former = ObjectMetadata { size: None, package: None, ..card.clone() };
        assert_eq!(ObjectMetadata::read(&former.attributes()), Some(former.clone()), "as an earlier build wrote it");
        assert!(
            card.is_same(&former)
                && former.is_same(&card)
                && !card.is_same(&ObjectMetadata { size: Some(4), ..card.clone() })
        );
        assert!(!card.is_same(&ObjectMetadata { time: 2, ..former.clone() }));
        assert!(
            card.is_of(&package) && former.is_of(&package) && !card.is_of(&"core@1.2-keep".parse().expect("a package"))
        );
        assert!(card.fits(5) && !card.fits(4) && former.fits(4));
    }
}
