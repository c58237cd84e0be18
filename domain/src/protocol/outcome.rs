//! What an answer says became of packages, one line each: the same from target scripts and from a receiver. `docs/target-scripts.md` has the
//! grammar. A line comes from a stranger: texts are as they came, and fit for printing only once somebody made them so.

use std::fmt;
use std::str::FromStr;

use crate::package::name::PackageId;

/// A line: `WORD NAME VERSION [REST]`, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<T> {
    /// The package that it is about.
    pub package: PackageId,
    /// What it says of it.
    pub says: T,
}

/// What became of a package that was sent, linked, marked or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is in its place, which was free.
    Published,
    /// It is in the place of another one of its version.
    Replaced,
    /// It is a link, and leads where it should now.
    Linked,
    /// It was there already, or led there.
    Already,
    /// It is marked, to be deleted once it has waited.
    Marked,
    /// It has no mark.
    Unmarked,
    /// It is gone.
    Deleted,
    /// It was not there.
    Absent,
    /// It was not deleted, since it may not be.
    Kept(KeptFor, String),
    /// Nothing became of it, and why.
    Failed(FailedFor, String),
}

/// Names of values, as lines have them.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $value:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$of])* $value,)* }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$value => $word,)* })
            }
        }

        impl FromStr for $name {
            type Err = NoOutcome;

            fn from_str(word: &str) -> Result<Self, NoOutcome> {
                match word { $($word => Ok(Self::$value),)* _ => Err(NoOutcome) }
            }
        }
    };
}

words! {
    /// Why a package is kept that was to go.
    KeptFor {
        /// The PackageList names it.
        Wanted = "wanted",
        /// It has no mark.
        Unmarked = "unmarked",
        /// Its mark has not waited.
        Waiting = "waiting",
        /// It is another one than was listed.
        Changed = "changed",
    }
}

words! {
    /// What a failure has to do with, and so what can be done about it.
    FailedFor {
        /// What a link addresses is not there.
        Absent = "absent",
        /// Another one is there, which is not to be replaced.
        Conflict = "conflict",
        /// One is there that looks the same and has other bytes.
        Differs = "differs",
        /// What came is not what was announced.
        Digest = "digest",
        /// It is, or there is in its place, what is none of Blat's.
        Foreign = "foreign",
        /// The system refused something.
        Io = "io",
        /// There is no space.
        Space = "space",
        /// The archive has no record of whose it is, so it may be another one.
        Unowned = "unowned",
    }
}

/// What was found when a package was hashed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It is as its manifest and its tree file say.
    Good {
        /// The digest of its manifest.
        manifest: String,
        /// The digest of its tree file; none where it has none.
        tree: Option<String>,
    },
    /// It is not, and what is wrong.
    Bad(String),
    /// What can be read is as it should be, and this cannot.
    Closed(String),
    /// Nobody can tell, and why.
    Unknown(String),
    /// It is not there, and how that shows.
    Absent(String),
}

/// A line that tells nothing of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it tells of no package")]
pub struct NoOutcome;

/// Word and rest of what a line says: the package stands between them.
trait Says: Sized {
    fn word(&self) -> &'static str;
    fn rest(&self) -> String;
    fn read(word: &str, rest: &str) -> Result<Self, NoOutcome>;
}

impl Says for Outcome {
    fn word(&self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Replaced => "replaced",
            Self::Linked => "linked",
            Self::Already => "already",
            Self::Marked => "marked",
            Self::Unmarked => "unmarked",
            Self::Deleted => "deleted",
            Self::Absent => "absent",
            Self::Kept(..) => "kept",
            Self::Failed(..) => "failed",
        }
    }

    fn rest(&self) -> String {
        match self {
            Self::Kept(why, text) => format!("{why} {text}"),
            Self::Failed(why, text) => format!("{why} {text}"),
            Self::Published
            | Self::Replaced
            | Self::Linked
            | Self::Already
            | Self::Marked
            | Self::Unmarked
            | Self::Deleted
            | Self::Absent => String::new(),
        }
    }

    fn read(word: &str, rest: &str) -> Result<Self, NoOutcome> {
        let (class, text) = rest.split_once(' ').unwrap_or((rest, ""));
        Ok(match word {
            "published" => Self::Published,
            "replaced" => Self::Replaced,
            "linked" => Self::Linked,
            "already" => Self::Already,
            "marked" => Self::Marked,
            "unmarked" => Self::Unmarked,
            "deleted" => Self::Deleted,
            "absent" => Self::Absent,
            "kept" => Self::Kept(class.parse()?, text.to_owned()),
            "failed" => Self::Failed(class.parse()?, text.to_owned()),
            _ => return Err(NoOutcome),
        })
    }
}

impl Says for Finding {
    fn word(&self) -> &'static str {
        match self {
            Self::Good { .. } => "good",
            Self::Bad(_) => "bad",
            Self::Closed(_) => "closed",
            Self::Unknown(_) => "unknown",
            Self::Absent(_) => "absent",
        }
    }

    fn rest(&self) -> String {
        match self {
            Self::Good { manifest, tree: Some(tree) } => format!("{manifest} {tree}"),
            Self::Good { manifest: text, tree: None }
            | Self::Bad(text)
            | Self::Closed(text)
            | Self::Unknown(text)
            | Self::Absent(text) => text.clone(),
        }
    }

    fn read(word: &str, rest: &str) -> Result<Self, NoOutcome> {
        let text = || rest.to_owned();
        Ok(match word {
            "good" => {
                let (manifest, tree) = rest.split_once(' ').map_or((rest, None), |(of, tree)| (of, Some(tree)));
                Self::Good { manifest: manifest.to_owned(), tree: tree.map(str::to_owned) }
            }
            "bad" => Self::Bad(text()),
            "closed" => Self::Closed(text()),
            "unknown" => Self::Unknown(text()),
            "absent" => Self::Absent(text()),
            _ => return Err(NoOutcome),
        })
    }
}

impl<T: Says> fmt::Display for Line<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PackageId { name, version } = &self.package;
        write!(f, "{} {name} {version}", self.says.word())?;
        match self.says.rest() {
            rest if rest.is_empty() => Ok(()),
            rest => write!(f, " {rest}"),
        }
    }
}

impl<T: Says> FromStr for Line<T> {
    type Err = NoOutcome;

    fn from_str(line: &str) -> Result<Self, NoOutcome> {
        let mut words = line.splitn(4, ' ');
        let (Some(word), Some(name), Some(version)) = (words.next(), words.next(), words.next()) else {
            return Err(NoOutcome);
        };
        let says = T::read(word, words.next().unwrap_or_default())?;
        PackageId::new(name, version).map(|package| Self { package, says }).map_err(|_| NoOutcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Says>(line: &str) -> Result<T, NoOutcome> {
        line.parse().map(|line: Line<T>| line.says)
    }

    #[test]
    fn what_is_written_is_read_back() {
        use {FailedFor as F, KeptFor as K};
        let package: PackageId = "core@1.2".parse().expect("a package");
        let outcomes = [
            ("published core 1.2", Outcome::Published),
            ("replaced core 1.2", Outcome::Replaced),
            ("linked core 1.2", Outcome::Linked),
            ("already core 1.2", Outcome::Already),
            ("marked core 1.2", Outcome::Marked),
            ("unmarked core 1.2", Outcome::Unmarked),
            ("deleted core 1.2", Outcome::Deleted),
            ("absent core 1.2", Outcome::Absent),
            ("kept core 1.2 waiting it stays for 3 s more", Outcome::Kept(K::Waiting, "it stays for 3 s more".into())),
            ("failed core 1.2 unowned whose it is", Outcome::Failed(F::Unowned, "whose it is".into())),
            ("failed core 1.2 io ", Outcome::Failed(F::Io, String::new())),
        ];
        for (text, says) in outcomes {
            let line = Line { package: package.clone(), says };
            assert_eq!(line.to_string(), text);
            assert_eq!(text.parse(), Ok(line));
        }
        let good = |tree: Option<&str>| Finding::Good { manifest: "ab".into(), tree: tree.map(str::to_owned) };
        let findings = [
            ("good core 1.2 ab", good(None)),
            ("good core 1.2 ab cd", good(Some("cd"))),
            ("bad core 1.2 bin/a: FAILED", Finding::Bad("bin/a: FAILED".into())),
            ("closed core 1.2 lib/a: it cannot be read", Finding::Closed("lib/a: it cannot be read".into())),
            ("unknown core 1.2 its manifest is gone", Finding::Unknown("its manifest is gone".into())),
            ("absent core 1.2 no package is there", Finding::Absent("no package is there".into())),
        ];
        for (text, says) in findings {
            let line = Line { package: package.clone(), says };
            assert_eq!(line.to_string(), text);
            assert_eq!(text.parse(), Ok(line));
        }
    }

    #[test]
    fn nonsense_tells_of_no_package() {
        for line in [
            "",
            "published",
            "published core",
            "published ../x 1",
            "exploded core 1",
            "failed core 1",
            "kept core 1 x y",
        ] {
            assert_eq!(read::<Outcome>(line), Err(NoOutcome), "{line:?}");
        }
        for line in ["good ../x 1 ab", "fine core 1", "published core 1"] {
            assert_eq!(read::<Finding>(line), Err(NoOutcome), "{line:?}");
        }
    }
}
