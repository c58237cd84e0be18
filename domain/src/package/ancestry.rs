//! Which version of a package another one most likely came from: what they share need not be sent again.

use std::cmp::Ordering;

use crate::package::name::Version;

/// The best of `held` to refer to when `version` is sent: the one just before it, else the one just after it.
pub fn nearest<'a>(version: &Version, held: impl Iterator<Item = &'a Version>) -> Option<&'a Version> {
    let (mut before, mut after): (Option<&Version>, Option<&Version>) = (None, None);
    for other in held {
        match natural_order(other.as_str(), version.as_str()) {
            Ordering::Less if before.is_none_or(|best| natural_order(best.as_str(), other.as_str()).is_lt()) => {
                before = Some(other);
            }
            Ordering::Greater if after.is_none_or(|best| natural_order(best.as_str(), other.as_str()).is_gt()) => {
                after = Some(other);
            }
            Ordering::Less | Ordering::Greater | Ordering::Equal => {}
        }
    }
    before.or(after)
}

/// Orders versions as people number them: runs of digits by their value, everything else by its bytes.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let ((a_run, a_rest), (b_run, b_rest)) = match (run(a), run(b)) {
            (Some(a), Some(b)) => (a, b),
            (a, b) => return a.is_some().cmp(&b.is_some()),
        };
        let order = match (digits(a_run), digits(b_run)) {
            (Some(x), Some(y)) => x.len().cmp(&y.len()).then(x.cmp(y)),
            (Some(_) | None, _) => a_run.cmp(b_run),
        };
        if order.is_ne() {
            return order;
        }
        (a, b) = (a_rest, b_rest);
    }
}

/// The longest beginning of only digits or of no digit at all, and the rest.
fn run(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let kind = text.first()?.is_ascii_digit();
    let end = text.iter().position(|byte| byte.is_ascii_digit() != kind).unwrap_or(text.len());
    Some(text.split_at(end))
}

/// A run of digits without its leading zeros.
fn digits(run: &[u8]) -> Option<&[u8]> {
    let zeros = run.iter().take_while(|byte| **byte == b'0').count();
    run.first().is_some_and(u8::is_ascii_digit).then(|| &run[zeros..])
}

/// What stays of a file's name when its versions and digests are left out: its parts, between dots, dashes and underscores, that have no
/// digit. Two files of one stem, in two versions of a package, are most likely one that was renamed.
pub fn stem(name: &[u8]) -> Vec<u8> {
    let parts = name.split(|byte| b"._-+".contains(byte)).filter(|part| !part.iter().any(u8::is_ascii_digit));
    parts.collect::<Vec<_>>().join(&b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(version: &str, held: &[&str]) -> Option<String> {
        let held: Vec<Version> = held.iter().map(|text| text.parse().expect("a version")).collect();
        nearest(&version.parse().expect("a version"), held.iter()).map(ToString::to_string)
    }

    #[test]
    fn the_version_just_before_is_the_best_and_the_one_just_after_the_next_best() {
        assert_eq!(best("1.10.0", &["1.2.0", "1.9.1", "1.9.0", "1.11.0"]).as_deref(), Some("1.9.1"));
        assert_eq!(best("1.2", &["1.10", "1.3"]).as_deref(), Some("1.3"));
        assert_eq!(best("2.0.1.cr", &["2.0.1.cr"]), None, "it does not come from itself");
        assert_eq!(best("1", &[]), None);
    }

    #[test]
    fn a_stem_outlives_versions_and_digests_in_a_name() {
        assert_eq!(stem(b"libavif-8a7f9d56.so.16.4.2"), stem(b"libavif-c6062d5f.so.16.5"));
        assert_ne!(stem(b"libtiff-8a7f9d56.so.6"), stem(b"libavif-8a7f9d56.so.6"));
        assert_eq!(stem(b"README"), b"README");
        assert_eq!(stem(b"12345"), b"");
    }

    #[test]
    fn numbers_count_by_value_however_long() {
        assert_eq!(natural_order("1.9", "1.10"), Ordering::Less);
        assert_eq!(natural_order("1.009", "1.9"), Ordering::Equal);
        assert_eq!(natural_order("1.0", "1.0.1"), Ordering::Less);
        assert_eq!(natural_order("20261121000000000000000001", "20261121000000000000000002"), Ordering::Less);
        assert_eq!(natural_order("1a", "1.b"), Ordering::Greater);
    }
}
