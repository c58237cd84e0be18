//! Names, checked at the door: past this module a bad one cannot exist.
//!
//! Their text is shared between copies: an agent keeps each in several tables of as many entries as its archive has packages.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::util::text::printable;

/// Longest name of a package or a version, in bytes.
pub const LONGEST: usize = 128;
/// The most bytes that name and version of a package have together: `NAME@VERSION` and a few characters more have to be the name of one file, which
/// has 255 at most.
pub const LONGEST_TOGETHER: usize = 240;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} \"{text}\" is not valid: {why}", text = printable(text))]
pub struct NameError {
    what: &'static str,
    text: String,
    why: &'static str,
}

/// `[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}`: nothing that a shell, a path or a terminal could take for something else.
fn checked(what: &'static str, text: &str) -> Result<Arc<str>, NameError> {
    let fault = |why| NameError { what, text: text.to_owned(), why };
    let bytes = text.as_bytes();
    match bytes.first() {
        None => return Err(fault("it is empty")),
        Some(first) if !first.is_ascii_alphanumeric() => return Err(fault("it must begin with a letter or a digit")),
        Some(_) => {}
    }
    if bytes.len() > LONGEST {
        return Err(fault("it is longer than 128 bytes"));
    }
    if !bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._+~-".contains(b)) {
        return Err(fault("only letters, digits and . _ + ~ - are allowed"));
    }
    Ok(text.into())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                checked($what, text).map(Self)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// The name of a package, the same in all its versions.
    PackageName, "package name"
}
name! {
    /// One version of a package, as the directory below the package's name is called.
    Version, "package version"
}
name! {
    /// The name of a target: the stem of its config file.
    TargetName, "target name"
}

/// One package: a name and a version, written `NAME@VERSION`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PackageId {
    /// What the package is called.
    pub name: PackageName,
    /// Which version of it.
    pub version: Version,
}

impl PackageId {
    /// A package from the two words of a list's line.
    pub fn new(name: &str, version: &str) -> Result<Self, NameError> {
        let one = Self { name: name.parse()?, version: version.parse()? };
        if name.len() + version.len() <= LONGEST_TOGETHER {
            return Ok(one);
        }
        Err(NameError {
            what: "package",
            text: one.to_string(),
            why: "NAME and VERSION have more than 240 characters together",
        })
    }

    /// A package from two words that [`Self::new`] has accepted before.
    pub(crate) fn checked_before(name: &str, version: &str) -> Self {
        Self { name: PackageName(name.into()), version: Version(version.into()) }
    }

    /// The same, with the text of its name shared with that of a neighbour in a list, which mostly has the same one.
    pub fn beside(self, neighbour: Option<&Self>) -> Self {
        match neighbour {
            Some(neighbour) if neighbour.name == self.name => Self { name: neighbour.name.clone(), ..self },
            Some(_) | None => self,
        }
    }

    /// Where the package lives below an archive: `NAME/VERSION`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.name, self.version)
    }
}

impl FromStr for PackageId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (name, version) = text.split_once('@').ok_or_else(|| NameError {
            what: "package",
            text: text.to_owned(),
            why: "it must be written NAME@VERSION",
        })?;
        Self::new(name, version)
    }
}

impl TryFrom<String> for PackageId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<PackageId> for String {
    fn from(package: PackageId) -> String {
        package.to_string()
    }
}

impl fmt::Display for PackageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}@{}", self.name, self.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_packages_are_accepted() {
        for text in ["core_devl@2.1.0.cr", "g++-12@1~rc1+b2", "A@0", "x.y@1-2_3"] {
            assert_eq!(text.parse::<PackageId>().expect(text).to_string(), text);
        }
        assert!(format!("{}@1", "n".repeat(128)).parse::<PackageId>().is_ok());
        assert!(format!("{}@{}", "n".repeat(128), "1".repeat(112)).parse::<PackageId>().is_ok());
    }

    #[test]
    fn hostile_packages_are_refused() {
        for text in [
            "",
            "@",
            "x@",
            "@1",
            "x",
            ".@1",
            "..@1",
            "-x@1",
            "../x@1",
            "a/b@1",
            "x@../1",
            "x@1/..",
            "a b@1",
            "a\n@1",
            "é@1",
            "x@1\u{1b}[0m",
            ".dpkg_archive@1",
            "~x@1",
            "x@1@2",
            "x@$(id)",
            "x@;ls",
            "x@*",
        ] {
            assert!(text.parse::<PackageId>().is_err(), "{text:?} must be refused");
        }
        assert!(format!("{}@1", "n".repeat(129)).parse::<PackageId>().is_err());
        let together = format!("{}@{}", "n".repeat(128), "1".repeat(113)).parse::<PackageId>();
        let why = together.expect_err("no file can be called so").to_string();
        assert!(why.ends_with("NAME and VERSION have more than 240 characters together"), "{why}");
    }

    #[test]
    fn the_complaint_shows_the_name_without_its_control_characters() {
        let complaint = "a\u{1b}b@1".parse::<PackageId>().expect_err("a control character").to_string();
        assert!(complaint.contains("package name") && !complaint.contains('\u{1b}'), "{complaint}");
    }
}
