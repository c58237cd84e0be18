//! Single values: what each may be, and what is said where it is something else.

use std::path::PathBuf;
use std::time::Duration;

use blat_domain::text::printable;
use blat_domain::units;

use crate::home::Home;
use crate::keys::Wrong;

/// A duration of at least `least`.
pub(crate) fn duration_from(least: Duration) -> impl Fn(&str) -> Result<Duration, Wrong> {
    move |text| match units::duration(text)? {
        duration if duration < least => {
            Err(Wrong { message: format!("{text} is too short"), expected: Some("at least one second") })
        }
        duration => Ok(duration),
    }
}

/// A duration of any length.
pub(crate) fn duration(text: &str) -> Result<Duration, Wrong> {
    Ok(units::duration(text)?)
}

/// A size in bytes.
pub(crate) fn size(text: &str) -> Result<u64, Wrong> {
    Ok(units::size(text)?)
}

/// A whole number of this range, written with digits alone.
pub(crate) fn number(least: u32, most: u32, expected: &'static str) -> impl Fn(&str) -> Result<u32, Wrong> {
    move |text| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let leading_zero = text.len() > 1 && text.starts_with('0');
        match text.parse() {
            Ok(number) if digits && !leading_zero && (least..=most).contains(&number) => Ok(number),
            Ok(_) | Err(_) => Err(Wrong::expected(expected)(text)),
        }
    }
}

/// A host name or address, which must never look like an option or hold anything but one word.
pub(crate) fn host(text: &str) -> Result<String, Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:%".contains(c);
    let fits = !text.is_empty() && text.len() <= 253 && !text.starts_with('-') && text.chars().all(plain);
    if fits {
        Ok(text.to_owned())
    } else {
        Err(Wrong::expected("a host name or address, such as perth.example.com")(text))
    }
}

/// A user name as Unix systems have them.
pub(crate) fn user(text: &str) -> Result<String, Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let fits = !text.is_empty() && text.len() <= 64 && !text.starts_with('-') && text.chars().all(plain);
    if fits { Ok(text.to_owned()) } else { Err(Wrong::expected("a user name, such as pkgadmin")(text)) }
}

/// A directory on the target: absolute, or relative to the user's home directory there.
pub(crate) fn remote_directory(text: &str) -> Result<String, Wrong> {
    let expected = Wrong::expected("a directory on the target, below its root or the user's home, without ..");
    let names_something = text.split('/').any(|part| !part.is_empty() && part != ".");
    let climbs = text.split('/').any(|part| part == "..");
    let odd = text.chars().any(char::is_control) || text.starts_with(['-', '~']) || text.len() > 1024;
    if names_something && !climbs && !odd { Ok(text.to_owned()) } else { Err(expected(text)) }
}

/// A path on this machine, relative to the home tree.
pub(crate) fn local_path(home: &Home) -> impl Fn(&str) -> Result<PathBuf, Wrong> {
    move |text| {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(Wrong::expected("a path, absolute or relative to the home tree")(text));
        }
        Ok(home.root().join(text))
    }
}

/// Any text that is not empty.
pub(crate) fn text(text: &str) -> Result<String, Wrong> {
    if text.trim().is_empty() { Err(Wrong::expected("a name")(text)) } else { Ok(text.to_owned()) }
}

/// A glob on package names, checked here and compiled by whoever uses it.
pub(crate) fn glob(text: &str) -> Result<String, Wrong> {
    match blat_domain::release::NameFilter::new(vec![text.to_owned()], Vec::new()) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(Wrong {
            message: format!("\"{}\" is not a glob: {}", printable(text), error.kind()),
            expected: Some("a glob on package names, such as core_*"),
        }),
    }
}
