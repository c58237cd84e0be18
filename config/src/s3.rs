//! `type: s3Sync` and the block `s3`: a place in a bucket. Credentials are no part of the configuration, as no password is.

use blat_domain::policy::retention::{Aging, Deleter};
use url::Url;

use crate::demands;
use crate::keys::{Keys, Wrong};
use crate::settings::S3Settings;

/// What only a target on a host has.
const HOSTS: [&str; 11] = [
    "host",
    "port",
    "user",
    "proxy_jump",
    "identity",
    "known_hosts",
    "transport",
    "archive",
    "bin",
    "disk_reserve",
    "receiver",
];
const BUCKET: &str = "3 to 63 lower-case letters, digits, dots and hyphens, such as builds-example";
const PREFIX: &str = "names separated by slashes, of letters, digits and ._+~-, such as packages/perth";
const ENDPOINT: &str = "the server alone, such as https://s3.example.com or http://127.0.0.1:8333";

/// Where the bucket is; a bucket without a name where that was complained about. What belongs to hosts is refused in the target's own file; among the
/// defaults it is for other targets.
pub(crate) fn read(keys: &mut Keys<'_>) -> S3Settings {
    for key in HOSTS {
        if let Some(found) = keys.own(key) {
            let message = format!("{key} means nothing for type s3Sync, whose target is a bucket");
            keys.complain_about(found, message, Some("no such line"));
        }
    }
    let found = keys.find("s3");
    let mut inner = Keys::new();
    match found {
        Some(found) => inner.add(found),
        None => keys.missing("s3", "{bucket: NAME, prefix: PREFIX, region: REGION}"),
    }
    let endpoint = inner.optional("endpoint", endpoint);
    let settings = S3Settings {
        bucket: inner.required("bucket", "the bucket's name", bucket).unwrap_or_default(),
        prefix: inner.value("prefix", String::new(), prefix),
        region: inner.optional("region", region),
        path_style: inner.optional("path_style", |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(Wrong::expected("true or false")(other)),
        }),
        demands: demands::read(&mut inner, endpoint.is_none()),
        endpoint,
    };
    inner.refuse_unknown(&[], |key| {
        let is_secret =
            ["secret", "access", "token", "credential", "profile", "key"].iter().any(|word| key.contains(word));
        // A key of the server's is named, not given.
        (is_secret && !key.starts_with("kms")).then_some("to the environment or the files of the AWS tools, never here")
    });
    keys.complaints.append(&mut inner.complaints);
    settings
}

/// Complains where a target on a host says where its bucket is.
pub(crate) fn refuse(keys: &mut Keys<'_>) {
    if let Some(found) = keys.own("s3") {
        let message = "s3 means nothing for type dpkg_archive, whose target is a host".to_owned();
        keys.complain_about(found, message, Some("type: s3Sync beside it, or no such line"));
    }
}

/// What cannot work with a bucket although it is right in itself.
pub(crate) fn contradictions(aging: Aging, keys: &mut Keys<'_>) {
    let (Aging::After { by: Deleter::Target, .. }, Some(found)) = (aging, keys.find("aging")) else { return };
    let message =
        "aging by: target cannot work for type s3Sync: nothing runs beside a bucket that could delete".to_owned();
    keys.complain_about(found, message, Some("none, immediate, or {by: master, after: 30d}"));
}

fn bucket(text: &str) -> Result<String, Wrong> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    let ends = [text.bytes().next(), text.bytes().next_back()];
    let ends_well = ends.iter().flatten().all(u8::is_ascii_alphanumeric);
    let fits = (3..=63).contains(&text.len()) && text.bytes().all(plain) && ends_well && !text.contains("..");
    if fits { Ok(text.to_owned()) } else { Err(Wrong::expected(BUCKET)(text)) }
}

/// Two texts for one prefix come out the same: without slashes at its ends.
fn prefix(text: &str) -> Result<String, Wrong> {
    let trimmed = text.trim_matches('/');
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+~-".contains(&byte));
    let is_name = |part: &str| !part.is_empty() && part != "." && part != ".." && plain(part);
    let fits = trimmed.len() <= 512 && (trimmed.is_empty() || trimmed.split('/').all(is_name));
    if fits { Ok(trimmed.to_owned()) } else { Err(Wrong::expected(PREFIX)(text)) }
}

fn region(text: &str) -> Result<String, Wrong> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let fits = !text.is_empty() && text.len() <= 64 && text.bytes().all(plain);
    if fits { Ok(text.to_owned()) } else { Err(Wrong::expected("a region, such as eu-central-1")(text)) }
}

fn endpoint(text: &str) -> Result<String, Wrong> {
    let Ok(url) = Url::parse(text) else { return Err(Wrong::expected(ENDPOINT)(text)) };
    if !url.username().is_empty() || url.password().is_some() {
        // Without the value: it holds what must not be shown.
        return Err(Wrong { message: "an endpoint holds no user and no password".into(), expected: Some(ENDPOINT) });
    }
    let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let fits = matches!(url.scheme(), "http" | "https") && url.has_host() && is_bare;
    if fits { Ok(text.trim_end_matches('/').to_owned()) } else { Err(Wrong::expected(ENDPOINT)(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_prefixes_and_endpoints_are_checked_and_have_one_text_each() {
        for good in ["abc", "a-b.c1", &"a".repeat(63)] {
            assert!(bucket(good).is_ok(), "{good}");
        }
        for bad in ["", "ab", "Abc", "a_b", "-abc", "abc.", "a..b", "a/b", "a b", &"a".repeat(64)] {
            assert!(bucket(bad).is_err(), "{bad}");
        }
        for (text, one) in [("", ""), ("/", ""), ("a", "a"), ("/a/b-1.2/", "a/b-1.2")] {
            assert!(prefix(text).is_ok_and(|read| read == one), "{text}");
        }
        for bad in ["a//b", "a/../b", ".", "a b", "a?b", "\u{e9}", "a\n", &"a".repeat(513)] {
            assert!(prefix(bad).is_err(), "{bad:?}");
        }
        assert!(endpoint("http://127.0.0.1:8333/").is_ok_and(|read| read == "http://127.0.0.1:8333"));
        assert!(endpoint("https://s3.example.com").is_ok());
        for bad in ["s3.example.com", "ftp://a", "https://a/b", "https://a?x", "https://u:p@a", "https://", "a\n"] {
            assert!(endpoint(bad).is_err(), "{bad:?}");
        }
    }
}
