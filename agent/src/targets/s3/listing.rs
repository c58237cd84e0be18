//! What the server answers to "what is there": read strictly, since a short listing would look like packages that are gone.

use blat_domain::protocol::reply::LONGEST_LINE;
use serde::Deserialize;

use super::body::xml;

/// One page of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) objects: Vec<Object>,
    /// Where the next page begins; none after the last.
    pub(super) next: Option<String>,
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) key: String,
    pub(super) size: u64,
    /// Without its quotes.
    pub(super) etag: String,
}

/// One page of the uploads in parts that nobody has finished.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Uploads {
    pub(super) uploads: Vec<Upload>,
    /// The key and the upload after which the next page begins.
    pub(super) next: Option<(String, String)>,
}

/// An unfinished upload.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Upload {
    pub(super) key: String,
    #[serde(rename = "UploadId")]
    pub(super) id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ObjectsAnswer {
    #[serde(default)]
    contents: Vec<Contents>,
    is_truncated: bool,
    next_continuation_token: Option<String>,
    encoding_type: Option<String>,
    key_count: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Contents {
    key: String,
    size: u64,
    #[serde(rename = "ETag", default)]
    etag: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UploadsAnswer {
    #[serde(default, rename = "Upload")]
    uploads: Vec<Upload>,
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
    encoding_type: Option<String>,
}

/// Reads the answer to ListObjectsV2.
///
/// # Errors
/// Why it is not a whole page: it is cut, counts other than it has, or says that more follows and not where.
pub(super) fn objects(body: &[u8]) -> Result<Page, String> {
    let answer: ObjectsAnswer = xml(body)?;
    if let Some(count) = answer.key_count.filter(|count| *count != answer.contents.len()) {
        return Err(format!("it says {count} objects and names {}", answer.contents.len()));
    }
    let next = match (answer.is_truncated, answer.next_continuation_token) {
        (true, Some(next)) if !next.is_empty() => Some(short(next)?),
        (true, _) => return Err("it is truncated and does not say where it goes on".into()),
        (false, _) => None,
    };
    let is_encoded = answer.encoding_type.is_some();
    let object =
        |Contents { key, size, etag }| Object { key: decoded(key, is_encoded), size, etag: bare(&etag).to_owned() };
    Ok(Page { objects: answer.contents.into_iter().map(object).collect(), next })
}

/// Reads the answer to ListMultipartUploads.
///
/// # Errors
/// As [`objects`].
pub(super) fn uploads(body: &[u8]) -> Result<Uploads, String> {
    let answer: UploadsAnswer = xml(body)?;
    let is_encoded = answer.encoding_type.is_some();
    let next = match (answer.is_truncated, answer.next_key_marker, answer.next_upload_id_marker) {
        (true, Some(key), Some(id)) => Some((decoded(short(key)?, is_encoded), short(id)?)),
        (true, _, _) => return Err("it is truncated and does not say where it goes on".into()),
        (false, _, _) => None,
    };
    let upload = |Upload { key, id }| Upload { key: decoded(key, is_encoded), id };
    Ok(Uploads { uploads: answer.uploads.into_iter().map(upload).collect(), next })
}

/// Where a listing goes on, which is kept and asked for: no server needs a long text for that.
fn short(place: String) -> Result<String, String> {
    let length = place.len();
    if length > LONGEST_LINE {
        Err(format!("it goes on at a place that takes {length} bytes to name"))
    } else {
        Ok(place)
    }
}

/// An entity tag without what HTTP puts around it.
pub(super) fn bare(etag: &str) -> &str {
    etag.trim().trim_start_matches("W/").trim_matches('"')
}

/// A key as it is. Some servers leave a `+` as it is, and none of our keys has a blank: a `+` stands for itself.
fn decoded(key: String, is_encoded: bool) -> String {
    if !is_encoded || !key.contains('%') {
        return key;
    }
    percent_encoding::percent_decode_str(&key).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(inside: &str) -> Result<Page, String> {
        objects(format!("<?xml version=\"1.0\"?><ListBucketResult xmlns=\"x\">{inside}</ListBucketResult>").as_bytes())
    }

    const ONE: &str = "<Contents><Key>p/core/1%2B~2.zip</Key><Size>5</Size><ETag>&quot;ab-2&quot;</ETag>\
                       <StorageClass>STANDARD</StorageClass></Contents>";

    #[test]
    fn a_page_is_read_with_its_keys_as_they_are() {
        let whole = page(&format!(
            "<IsTruncated>false</IsTruncated><EncodingType>url</EncodingType><KeyCount>1</KeyCount>{ONE}"
        ));
        let object = Object { key: "p/core/1+~2.zip".into(), size: 5, etag: "ab-2".into() };
        assert_eq!(whole, Ok(Page { objects: vec![object], next: None }));
        let more =
            page(&format!("<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>{ONE}{ONE}"));
        let more = more.expect("a page");
        assert_eq!((more.objects.len(), more.next.as_deref()), (2, Some("t")));
        assert_eq!(more.objects[0].key, "p/core/1%2B~2.zip", "a server that does not encode means what it says");
        assert_eq!(page("<IsTruncated>false</IsTruncated>"), Ok(Page { objects: vec![], next: None }));
    }

    #[test]
    fn a_truncated_cut_or_miscounted_listing_is_never_a_short_one() {
        for bad in [
            "<IsTruncated>true</IsTruncated>",
            "<IsTruncated>true</IsTruncated><NextContinuationToken></NextContinuationToken>",
            "<IsTruncated>false</IsTruncated><KeyCount>3</KeyCount>",
            "<IsTruncated>perhaps</IsTruncated>",
            "<Code>InternalError</Code>",
            "",
        ] {
            assert!(page(&format!("{bad}{}", if bad.is_empty() { "" } else { ONE })).is_err(), "{bad}");
        }
        let whole = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{ONE}</ListBucketResult>");
        for end in 0..whole.len() {
            assert!(objects(&whole.as_bytes()[..end]).is_err(), "cut after {end}");
        }
        assert!(objects(b"<html>please log in</html>").is_err() && objects(b"\xff").is_err());
    }

    #[test]
    fn unfinished_uploads_are_read_to_their_last_page() {
        let body = "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>\
                    <NextUploadIdMarker>i</NextUploadIdMarker><Upload><Key>p/a/1.zip</Key><UploadId>u</UploadId>\
                    <Initiated>2026-01-01T00:00:00Z</Initiated></Upload></ListMultipartUploadsResult>";
        let read = uploads(body.as_bytes()).expect("a page");
        assert_eq!(read.uploads, [Upload { key: "p/a/1.zip".into(), id: "u".into() }]);
        assert_eq!(read.next, Some(("k".into(), "i".into())));
        assert!(uploads(body.replace("<NextKeyMarker>k</NextKeyMarker>", "").as_bytes()).is_err());
    }
}
