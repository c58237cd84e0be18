//! Comparing two listings of an archive without sending either: names are spread over buckets, and each bucket has a digest.
//!
//! A bucket's digest is the sum of the digests of its lines, so lines can come in any order, from several threads at once.

use sha2::{Digest, Sha256};

/// How many buckets two ends compare unless one has a reason for another number. A change of one package then brings the lines of about a
/// thousandth of all.
pub const USUAL: usize = 1024;
/// The most buckets that anybody may ask for.
pub const MOST: usize = 8192;

/// The buckets of one listing.
#[derive(Debug, Clone)]
pub struct Buckets {
    sums: Vec<u128>,
    /// The name whose lines came last, with its bucket: lines mostly come name by name.
    last: Option<(String, usize)>,
}

impl Buckets {
    /// So many buckets, all empty.
    pub fn new(count: usize) -> Self {
        Self { sums: vec![0; count], last: None }
    }

    /// Takes in a line of a listing (`package NAME …`, `link NAME …` or `mark NAME …`) that belongs to a name.
    pub fn add(&mut self, name: &str, line: &str) {
        let last = self.last.take().filter(|(last, _)| last == name);
        self.last = last.or_else(|| Some((name.to_owned(), bucket(name, self.sums.len())?)));
        if let Some((_, bucket)) = self.last {
            self.sums[bucket] = self.sums[bucket].wrapping_add(first_16(line));
        }
    }

    /// Takes in what others, of the same number, have seen.
    pub fn merge(&mut self, other: &Self) {
        for (sum, more) in self.sums.iter_mut().zip(&other.sums) {
            *sum = sum.wrapping_add(*more);
        }
    }

    /// A digest for each bucket.
    pub fn digests(&self) -> Vec<[u8; 16]> {
        self.sums.iter().map(|sum| sum.to_le_bytes()).collect()
    }
}

/// The bucket that a name's lines are in; none where there are no buckets.
pub fn bucket(name: &str, count: usize) -> Option<usize> {
    let count = u128::try_from(count).ok().filter(|count| *count > 0)?;
    usize::try_from(first_16(name) % count).ok()
}

fn first_16(text: &str) -> u128 {
    let mut first = [0; 16];
    first.copy_from_slice(&Sha256::digest(text)[..16]);
    u128::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_lines_does_not_matter_and_every_line_does() {
        let of = |lines: &[(&str, &str)]| {
            let mut buckets = Buckets::new(USUAL);
            lines.iter().for_each(|(name, line)| buckets.add(name, line));
            buckets.digests()
        };
        let (a, b) = (("a", "package a 1 5"), ("b", "package b 1 5"));
        assert_eq!(of(&[a, b]), of(&[b, a]));
        assert_ne!(of(&[a, b]), of(&[a]));
        assert_ne!(of(&[a]), of(&[("a", "package a 1 6")]));
    }

    #[test]
    fn halves_add_up() {
        let (mut whole, mut half, mut rest) = (Buckets::new(7), Buckets::new(7), Buckets::new(7));
        for (buckets, line) in [(&mut half, "package a 1 5"), (&mut rest, "package a 2 5")] {
            buckets.add("a", line);
            whole.add("a", line);
        }
        half.merge(&rest);
        assert_eq!(half.digests(), whole.digests());
    }
}
