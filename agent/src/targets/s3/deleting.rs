//! Many objects deleted by one request. The answer names keys one by one: a key counts as deleted only where it says so.

use std::collections::BTreeMap;

use quick_xml::escape::escape;
use serde::Deserialize;

use super::body::xml;
use super::fault::ErrorResponse;

/// The most keys that one request names.
pub(super) const MOST: usize = 1000;
/// What such a request asks to be allowed, in the words of policies.
const ACTION: &str = "s3:DeleteObject";

#[derive(Deserialize)]
struct Result {
    #[serde(rename = "$value", default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
enum Item {
    Deleted(DeletedObject),
    Error(Refused),
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeletedObject {
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refused {
    key: Option<String>,
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The body of a request that deletes these keys.
pub(super) fn request(keys: &[String]) -> String {
    let mut body = "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">".to_owned();
    keys.iter().for_each(|key| body.push_str(&format!("<Object><Key>{}</Key></Object>", escape(key))));
    body + "</Delete>"
}

/// Those of `keys` of which the answer does not say that they are gone, each with what it says instead. One that was not there is gone. A key
/// that the answer does not name has failed, and so has one of which it says both; what it says of keys that nobody asked about does not count.
///
/// # Errors
/// It is no such answer.
pub(super) fn not_deleted(
    keys: &[String],
    body: &[u8],
) -> std::result::Result<BTreeMap<String, ErrorResponse>, String> {
    let result: Result = xml(body)?;
    let failed =
        |code: String, message: String| ErrorResponse { status: 200, code, message, action: ACTION, region: None };
    let silent = || failed(String::new(), "it says nothing of this key".to_owned());
    let (mut gone, mut refused): (Vec<String>, BTreeMap<String, ErrorResponse>) = Default::default();
    for item in result.items {
        match item {
            Item::Deleted(DeletedObject { key }) => gone.extend(key),
            Item::Error(Refused { key: Some(key), code, .. }) if code == "NoSuchKey" => gone.push(key),
            Item::Error(Refused { key: Some(key), code, message }) => {
                refused.insert(key, failed(code, message));
            }
            Item::Error(Refused { key: None, .. }) | Item::Other => {}
        }
    }
    gone.sort_unstable();
    let mut outcome = |key: &String| {
        let why = refused.remove(key).or_else(|| gone.binary_search(key).is_err().then(silent))?;
        Some((key.clone(), why))
    };
    Ok(keys.iter().filter_map(&mut outcome).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(keys: &[&str], inside: &str) -> BTreeMap<String, String> {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let body = format!("<?xml version=\"1.0\"?><DeleteResult xmlns=\"x\">{inside}</DeleteResult>");
        let failed = not_deleted(&keys, body.as_bytes()).expect("an answer");
        failed.into_iter().map(|(key, answer)| (key, format!("{} {}", answer.code, answer.message))).collect()
    }

    #[test]
    fn only_a_key_that_is_said_to_be_deleted_is() {
        let gone = |key: &str| format!("<Deleted><Key>{key}</Key></Deleted>");
        let error =
            |key: &str, code: &str| format!("<Error><Key>{key}</Key><Code>{code}</Code><Message>m</Message></Error>");
        assert!(of(&["a", "b"], &(gone("b") + &gone("a"))).is_empty());
        assert!(of(&["a"], &error("a", "NoSuchKey")).is_empty());
        let mixed = gone("a") + &error("b", "AccessDenied") + &gone("c") + "<Odd/>" + &gone("x");
        let failed = of(&["a", "b", "c", "d"], &mixed);
        assert_eq!(failed.keys().collect::<Vec<_>>(), ["b", "d"], "{failed:?}");
        assert!(failed["b"].contains("AccessDenied") && failed["d"].contains("nothing of this key"));
        assert_eq!(of(&["a"], &(gone("a") + &error("a", "InternalError"))).len(), 1, "it contradicts itself");
        let all = of(&["a", "b", "c"], "<Error><Code>InternalError</Code><Message>m</Message></Error>");
        assert_eq!(all.len(), 3, "an error of no key concerns all that have no answer");
        assert_eq!(of(&["a"], "").len(), 1);
    }

    #[test]
    fn names_that_look_like_errors_or_like_markup_are_names() {
        let keys = ["p/InternalError/1.zip", "p/SlowDown/Error.zip", "p/a&amp;<b>/1.zip"].map(str::to_owned);
        let body = request(&keys);
        assert!(body.contains("<Key>p/a&amp;amp;&lt;b&gt;/1.zip</Key>"), "{body}");
        let answer =
            body.replace("<Object>", "<Deleted>").replace("</Object>", "</Deleted>").replace("Delete xm", "R xm");
        let answer = answer.replace("</Delete>", "</R>");
        assert!(not_deleted(&keys, answer.as_bytes()).expect("an answer").is_empty());
        assert!(not_deleted(&keys, b"<html>please log in").is_err());
    }
}
