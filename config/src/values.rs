//! Single values: what each may be, and what is said where it is something else.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use blat_domain::util::text::{composed, hides_something, printable};
use blat_domain::util::units;

use crate::account;
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

/// A TCP port.
pub(crate) fn port(text: &str) -> Result<u16, Wrong> {
    const EXPECTED: &str = "a TCP port, 1 to 65535";
    let number = number(1, 65_535, EXPECTED)(text)?;
    u16::try_from(number).map_err(|_| Wrong::expected(EXPECTED)(text))
}

/// A host name or address, as the ssh client takes it: one word that is neither an option nor a pattern of known_hosts. An address comes out in
/// its usual form, by which the client looks for its key.
pub(crate) fn host(text: &str) -> Result<String, Wrong> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if let Some(address) = ipv6(bare.unwrap_or(text)) {
        return Ok(address);
    }
    if let Some(address) = ipv4(text) {
        return Ok(address.to_string());
    }
    let is_name = !text.is_empty() && text.len() <= 253 && !text.starts_with('-') && text.chars().all(is_of_a_host);
    if is_name {
        return Ok(text.to_owned());
    }
    let expected = if text.contains('@') || text.contains("://") {
        "a host name or address alone: the user goes to user:, the port to port:"
    } else if text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        "a host name or address alone: the port goes to port:"
    } else {
        "a host name or address, such as perth.example.com"
    };
    Err(Wrong::expected(expected)(text))
}

/// What a host's name may hold. The ssh client refuses quotes, brackets and blanks; the others here mean something else to it in a destination or
/// in known_hosts.
fn is_of_a_host(c: char) -> bool {
    !c.is_whitespace() && !"'\"`$\\;&<>|(){},@/[]*?!#:%".contains(c) && !hides_something(c.encode_utf8(&mut [0; 4]))
}

/// An IPv6 address in its shortest form, with the interface it is on where it needs one: `fe80::1%eth0`.
pub(crate) fn ipv6(text: &str) -> Option<String> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let fits = |zone: &str| !zone.is_empty() && zone.len() <= 32 && zone.chars().all(plain);
    let address: Ipv6Addr = address.parse().ok()?;
    match zone {
        None => Some(address.to_string()),
        Some(zone) => fits(zone).then(|| format!("{address}%{zone}")),
    }
}

/// An IPv4 address in any of the forms that inet_aton(3) reads, and so the ssh client: `127.1` and `0x7f000001` are 127.0.0.1.
fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if part.len() > 1 && part.starts_with('0') => u32::from_str_radix(&part[1..], 8).ok(),
        None => part.parse().ok(),
    };
    let is_number = |part: &&str| {
        part.starts_with(|c: char| c.is_ascii_digit()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let parts: Vec<&str> = text.split('.').collect();
    let (last, first) = parts.split_last().filter(|(last, first)| first.len() < 4 && is_number(last))?;
    let mut address = 0;
    for (index, part) in first.iter().enumerate() {
        let byte =
            Some(part).filter(|part| is_number(part)).and_then(|part| number(part)).filter(|byte| *byte < 256)?;
        address |= byte << (24 - 8 * index);
    }
    // The last part fills whatever bytes are left.
    let rest = number(last).filter(|rest| u64::from(*rest) < 1 << (32 - 8 * first.len()))?;
    Some(Ipv4Addr::from(address | rest))
}

/// The longest user name, in bytes: enough for any directory service's.
const LONGEST_USER: usize = 256;

/// A user name as the ssh client takes it: also that of a directory service, `DOMAIN\user` or `user@realm`. It is always one argument of its
/// own, and no shell of ours reads it.
pub(crate) fn user(text: &str) -> Result<String, Wrong> {
    let plain = |c: char| !"'`\";&<>|(){}".contains(c) && !hides_something(c.encode_utf8(&mut [0; 4]));
    // What the client takes for an option of another program, or for half of an escape.
    let is_option = |text: &str| text.trim_start().starts_with('-') || text.contains(" -");
    let is_blank = text.trim() != text || text.is_empty();
    let fits = !is_blank && text.len() <= LONGEST_USER && !is_option(text) && !text.ends_with('\\');
    if fits && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err(Wrong::expected("a user name, such as pkgadmin, EXAMPLE\\pkgadmin or pkgadmin@example.com")(text))
}

/// A directory on the target: absolute, or relative to the user's home directory there. Two texts for one directory come
/// out the same: without empty and `.` components.
pub(crate) fn remote_directory(text: &str) -> Result<String, Wrong> {
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let odd = text.chars().any(char::is_control) || text.starts_with('~') || text.len() > 1024;
    let is_option = !text.starts_with('/') && parts.first().is_some_and(|first| first.starts_with('-'));
    if parts.is_empty() || parts.contains(&"..") || odd || is_option {
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

/// A path on this machine that the ssh client reads too. As there, `~/` is the home directory of the account that runs this.
pub(crate) fn ssh_path(home: &Home) -> impl Fn(&str) -> Result<PathBuf, Wrong> {
    let plain = local_path(home);
    move |text| match text.strip_prefix("~/").filter(|rest| !rest.is_empty() && !rest.chars().any(char::is_control)) {
        None => plain(text),
        Some(rest) => match account::own_home() {
            Some(own) => Ok(own.join(rest.trim_start_matches('/'))),
            None => Err(Wrong {
                message: format!("nobody knows the home directory that \"{}\" begins with", printable(text)),
                expected: Some("a path, absolute or relative to the home tree"),
            }),
        },
    }
}

/// The name of a release or project, in the one form that names are compared in.
pub(crate) fn name(text: &str) -> Result<String, Wrong> {
    if text.trim().is_empty() { Err(Wrong::expected("a name")(text)) } else { Ok(composed(text.to_owned())) }
}

/// A glob on package names, checked here and compiled by whoever uses it.
pub(crate) fn glob(text: &str) -> Result<String, Wrong> {
    match blat_domain::policy::release::NameFilter::new(vec![text.to_owned()], Vec::new()) {
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
    fn hosts_are_what_ssh_takes_and_never_options_or_patterns() {
        for good in [
            "perth",
            "perth.example.com.",
            "10.0.0.1",
            "::1",
            "fe80::1%eth0",
            "a_b-c",
            "pérth",
            "a~b+c",
            "1.2.3.4.example",
            "3com",
            "0x7g",
        ] {
            assert!(host(good).is_ok_and(|host| host == good), "{good}");
        }
        for (text, address) in [
            ("[::1]", "::1"),
            ("[FE80::0:1%eth0]", "fe80::1%eth0"),
            ("0:0:0:0:0:0:0:1", "::1"),
            ("::FFFF:10.0.0.1", "::ffff:10.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("0x7f000001", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("010.0.0.1", "8.0.0.1"),
        ] {
            assert!(host(text).is_ok_and(|host| host == address), "{text}");
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
            "[::1",
            "[perth]",
            "[::1]:22",
            "::1%",
            "fe80::1%a b",
            "a/b",
            "$(id)",
            "a;b",
            "*",
            "a?",
            "!a",
            "a,b",
            "#a",
            "a%h",
            "a\u{202e}b",
            "ssh://perth",
        ] {
            assert!(host(bad).is_err(), "{bad:?}");
        }
        assert!(host(&"a".repeat(254)).is_err());
    }

    #[test]
    fn users_are_what_ssh_takes_and_never_options() {
        for good in [
            "pkgadmin",
            "_a.b-c9",
            "EXAMPLE\\pkgadmin",
            "pkgadmin@example.com",
            "Jane Doe",
            "perth$",
            "jürgen",
            "#1000",
            "a/b",
            "%h",
            "~x",
            "a+b",
        ] {
            assert!(user(good).is_ok_and(|user| user == good), "{good}");
        }
        for bad in [
            "",
            " ",
            "-l",
            "a ",
            "a -l",
            "a\\",
            "a'b",
            "a\"b",
            "a\n",
            "a;b",
            "$(id)",
            "${HOME}",
            "a|b",
            "a\u{202e}b",
            "a\0b",
        ] {
            assert!(user(bad).is_err(), "{bad:?}");
        }
        assert!(user(&"a".repeat(257)).is_err());
    }

    #[test]
    fn one_directory_has_one_text() {
        for (text, directory) in
            [("a", "a"), ("./a//b/.", "a/b"), ("/srv//x/", "/srv/x"), ("a b", "a b"), ("...", "...")]
        {
            assert!(remote_directory(text).is_ok_and(|read| read == directory), "{text}");
        }
        for bad in ["", ".", "./", "/", "//", "..", "a/../b", "/..", "-rf", "./-rf", "~/a", "a\nb", "a\0b"] {
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
