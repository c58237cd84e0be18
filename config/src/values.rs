//! Single values: what each may be, and what is said where it is something else.

use std::net::Ipv6Addr;
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
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let is_name = !text.is_empty() && text.len() <= 253 && !text.starts_with('-') && text.chars().all(plain);
    if is_name || is_ipv6(text) {
        return Ok(text.to_owned());
    }
    let expected = match text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        true => "a host name or address alone: the port goes to port:",
        false => "a host name or address, such as perth.example.com",
    };
    Err(Wrong::expected(expected)(text))
}

/// An IPv6 address, with the interface it is on where it needs one: `fe80::1%eth0`.
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "0"));
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone.len() <= 32 && zone.chars().all(plain)
}

/// A user name as Unix systems have them.
pub(crate) fn user(text: &str) -> Result<String, Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let fits = !text.is_empty() && text.len() <= 64 && !text.starts_with('-') && text.chars().all(plain);
    if fits { Ok(text.to_owned()) } else { Err(Wrong::expected("a user name, such as pkgadmin")(text)) }
}

/// A directory on the target: absolute, or relative to the user's home directory there. Two texts for one directory come
/// out the same: without empty and `.` components.
pub(crate) fn remote_directory(text: &str) -> Result<String, Wrong> {
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let odd = text.chars().any(char::is_control) || text.starts_with(['-', '~']) || text.len() > 1024;
    if parts.is_empty() || parts.contains(&"..") || odd {
        let expected = "a directory on the target, below its root or below the user's home directory, without ..";
        return Err(Wrong::expected(expected)(text));
    }
    let root = if text.starts_with('/') { "/" } else { "" };
    Ok(format!("{root}{}", parts.join("/")))
}

/// A path on this machine, relative to the home tree. A leading `~` is a shell's word, and would be taken for a directory.
pub(crate) fn local_path(home: &Home) -> impl Fn(&str) -> Result<PathBuf, Wrong> {
    move |text| {
        if text.is_empty() || text.starts_with('~') || text.chars().any(char::is_control) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_and_never_options() {
        for good in ["perth", "perth.example.com", "10.0.0.1", "::1", "fe80::1%eth0", "a_b-c"] {
            assert!(host(good).is_ok_and(|host| host == good), "{good}");
        }
        for bad in [
            "",
            "-oProxyCommand=x",
            "-p",
            "a b",
            "a\tb",
            "a\n",
            "user@perth",
            "perth:22",
            "[::1]",
            "::1%",
            "fe80::1%a b",
            "a/b",
            "pérth",
            "$(id)",
            "a;b",
        ] {
            assert!(host(bad).is_err(), "{bad:?}");
        }
        assert!(host(&"a".repeat(254)).is_err());
    }

    #[test]
    fn users_are_one_word_and_never_options() {
        assert!(user("pkgadmin").is_ok() && user("_a.b-c9").is_ok());
        for bad in ["", "-l", "a b", "a@b", "a\n", "a;b", "$(id)", "é"] {
            assert!(user(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_directory_has_one_text() {
        for (text, directory) in
            [("a", "a"), ("./a//b/.", "a/b"), ("/srv//x/", "/srv/x"), ("a b", "a b"), ("...", "...")]
        {
            assert!(remote_directory(text).is_ok_and(|read| read == directory), "{text}");
        }
        for bad in ["", ".", "./", "/", "//", "..", "a/../b", "/..", "-rf", "~/a", "a\nb", "a\0b"] {
            assert!(remote_directory(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbers_are_plain_digits_in_range() {
        let port = number(1, 65_535, "a port");
        assert!(port("22").is_ok_and(|port| port == 22) && port("65535").is_ok());
        for bad in ["", "0", "65536", "-1", "+1", "012", "0x10", "1e3", "1_000", "2.0", "no", "99999999999"] {
            assert!(port(bad).is_err(), "{bad:?}");
        }
    }
}
