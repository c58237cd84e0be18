//! What a bucket may demand of requests, as the block `s3` says it: how objects are encrypted, kept and shared, and who pays.

use crate::keys::{Keys, Wrong};
use crate::settings::Demands;

const SSE: [&str; 3] = ["AES256", "aws:kms", "aws:kms:dsse"];
const KEY: &str = "the key's id, alias or ARN, such as alias/packages";
/// Access control lists that an object can be given by their name.
const ACLS: [&str; 7] = [
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
];
/// Classes of AWS whose objects can be read at any time.
const CLASSES: [&str; 6] =
    ["STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY"];
/// Classes whose objects cannot be read before somebody restores them.
const ARCHIVES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// What the block says of that. `is_aws`: it names no other server, so AWS's own classes are the only ones.
pub(crate) fn read(keys: &mut Keys<'_>, is_aws: bool) -> Demands {
    let demands = Demands {
        sse: keys.optional("sse", |text| one_of(&SSE, "AES256, aws:kms or aws:kms:dsse", text)),
        kms_key_id: keys.optional("kms_key_id", key),
        storage_class: keys.optional("storage_class", |text| class(text, is_aws)),
        acl: keys.optional("acl", |text| one_of(&ACLS, "an ACL's name, such as bucket-owner-full-control", text)),
        is_requester_paying: keys
            .optional("request_payer", |text| one_of(&["requester"], "requester, or no such line", text))
            .is_some(),
    };
    let has_key = demands.kms_key_id.is_some() && !demands.sse.is_some_and(|sse| sse.starts_with("aws:kms"));
    // One complaint about `sse` is enough.
    if has_key
        && (demands.sse.is_some() || !keys.has("sse"))
        && let Some(found) = keys.own("kms_key_id")
    {
        let message = "kms_key_id means nothing without sse: aws:kms or aws:kms:dsse".to_owned();
        keys.complain_about(found, message, Some("one of the two beside it, or no such line"));
    }
    demands
}

fn one_of(words: &[&'static str], expected: &'static str, text: &str) -> Result<&'static str, Wrong> {
    words.iter().find(|word| **word == text).copied().ok_or_else(|| Wrong::expected(expected)(text))
}

fn key(text: &str) -> Result<String, Wrong> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":/_.-".contains(&byte);
    let fits = (1..=2048).contains(&text.len()) && text.bytes().all(plain);
    if fits { Ok(text.to_owned()) } else { Err(Wrong::expected(KEY)(text)) }
}

fn class(text: &str, is_aws: bool) -> Result<String, Wrong> {
    if ARCHIVES.contains(&text) {
        return Err(Wrong {
            message: format!("objects of the class {text} cannot be read before somebody restores them"),
            expected: Some("GLACIER_IR, whose objects can be read at any time"),
        });
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    let fits = if is_aws { CLASSES.contains(&text) } else { (1..=64).contains(&text.len()) && text.bytes().all(plain) };
    let expected = "STANDARD, STANDARD_IA, ONEZONE_IA, INTELLIGENT_TIERING, GLACIER_IR or REDUCED_REDUNDANCY, or beside an endpoint a class of its own";
    if fits { Ok(text.to_owned()) } else { Err(Wrong::expected(expected)(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Home, Transport, load_target};

    #[test]
    fn what_a_bucket_demands_is_read_and_what_is_not_said_is_not_demanded() {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let own = b"type: s3Sync\nsource: /a\nrelease_manager: {file: r.yaml}\ns3: {bucket: abc, sse: 'aws:kms', kms_key_id: alias/packages, \
            storage_class: STANDARD_IA, acl: bucket-owner-full-control, request_payer: requester}\n";
        std::fs::create_dir(directory.path().join("config")).expect("config/");
        std::fs::write(directory.path().join("config/cloud.conf"), own).expect("a config");
        let home = Home::locate(Some(directory.path())).expect("a home tree");
        let settings = load_target(&home, &"cloud".parse().expect("a name")).expect("valid");
        let Transport::S3(s3) = settings.transport else { panic!("a bucket") };
        let demands = Demands {
            sse: Some("aws:kms"),
            kms_key_id: Some("alias/packages".into()),
            storage_class: Some("STANDARD_IA".into()),
            acl: Some("bucket-owner-full-control"),
            is_requester_paying: true,
        };
        assert_eq!(s3.demands, demands);
    }

    #[test]
    fn classes_are_those_that_can_be_read_and_other_servers_have_their_own() {
        for name in CLASSES {
            assert!(class(name, true).is_ok() && class(name, false).is_ok(), "{name}");
        }
        for name in ["GLACIER", "DEEP_ARCHIVE", "", "standard ia", "\u{e9}", "a\n", &"A".repeat(65)] {
            assert!(class(name, true).is_err() && class(name, false).is_err(), "{name:?}");
        }
        for name in ["standard", "COLD", "fast-nvme"] {
            assert!(class(name, true).is_err() && class(name, false).is_ok(), "{name}");
        }
    }

    #[test]
    fn keys_are_named_as_aws_and_other_servers_name_them() {
        for name in [
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "mrk-1234abcd12ab34cd56ef1234567890ab",
            "alias/packages",
            "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "my-minio-key.1",
        ] {
            assert!(key(name).is_ok(), "{name}");
        }
        for name in ["", "a b", "a\nb", "a\r", "\u{e9}", "a\"b", &"a".repeat(2049)] {
            assert!(key(name).is_err(), "{name:?}");
        }
    }
}
