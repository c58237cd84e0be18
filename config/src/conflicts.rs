//! Targets that would get into each other's way. Each is valid by itself, so only a look at all of them can tell.

use std::path::Path;

use crate::settings::{S3Settings, Settings, Transport};

/// What is wrong between targets, one line a pair, fit for printing: two archives that are the same directory of the same
/// host or lie inside each other, or one place in a bucket for two, so that each would undo what the other does; or one tag directory for two, so that a
/// tag reaches only whichever is first.
pub fn conflicts(targets: &[Settings]) -> Vec<String> {
    let mut told = Vec::new();
    for (index, first) in targets.iter().enumerate() {
        for second in &targets[index + 1..] {
            match (&first.transport, &second.transport) {
                (Transport::S3(a), Transport::S3(b)) => told.extend(buckets((first, a), (second, b))),
                (Transport::S3(_), _) | (_, Transport::S3(_)) => {}
                _ if same_machine(first, second) => told.extend(archives(first, second)),
                _ => {}
            }
            if first.tags == second.tags {
                let tags = first.tags.display();
                told.push(format!(
                    "{} and {} share the tag directory {tags}: give each its own",
                    first.name, second.name
                ));
            }
        }
    }
    told
}

/// Whether a path means the same to both. A relative one begins at the user's home directory, an absolute one does not care
/// who the user is.
fn same_machine(first: &Settings, second: &Settings) -> bool {
    match (first.transport.ssh(), second.transport.ssh()) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            let absolute = first.archive.starts_with('/') && second.archive.starts_with('/');
            a.host.eq_ignore_ascii_case(&b.host) && a.port == b.port && (absolute || a.user == b.user)
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn buckets((first, a): (&Settings, &S3Settings), (second, b): (&Settings, &S3Settings)) -> Option<String> {
    let is_same = (&a.bucket, &a.prefix, &a.endpoint) == (&b.bucket, &b.prefix, &b.endpoint);
    let line = || format!("{} and {} are the same place, {}/{}", first.name, second.name, a.bucket, a.prefix);
    is_same.then(line)
}

fn archives(first: &Settings, second: &Settings) -> Option<String> {
    let (outer, inner) = match first.archive.len() <= second.archive.len() {
        true => (first, second),
        false => (second, first),
    };
    if first.archive == second.archive {
        return Some(format!("{} and {} are the same archive, {}", first.name, second.name, first.archive));
    }
    let nested = Path::new(&inner.archive).starts_with(&outer.archive);
    let line = || format!("{}'s archive {} lies inside {}'s, {}", inner.name, inner.archive, outer.name, outer.archive);
    nested.then(line)
}
