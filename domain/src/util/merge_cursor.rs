//! Reading one sorted map along another.

use std::cmp::Ordering;
use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;

/// A map that is asked for keys in their order, which takes one pass over it instead of a search for each key: tens of thousands of
/// packages are compared in a sync that then finds nothing to do.
pub(crate) struct MergeCursor<'a, K, V> {
    rest: Peekable<btree_map::Iter<'a, K, V>>,
}

impl<'a, K: Ord, V> MergeCursor<'a, K, V> {
    pub(crate) fn new(map: &'a BTreeMap<K, V>) -> Self {
        Self { rest: map.iter().peekable() }
    }

    /// The value of `key`, which must come after all that was asked for before.
    pub(crate) fn get(&mut self, key: &K) -> Option<&'a V> {
        loop {
            let (next, value) = *self.rest.peek()?;
            match next.cmp(key) {
                Ordering::Less => self.rest.next(),
                Ordering::Equal => return Some(value),
                Ordering::Greater => return None,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_map_read_along_another_tells_what_a_search_tells(
            map: BTreeMap<u8, u8>, keys in proptest::collection::btree_set(any::<u8>(), 0..100),
        ) {
            let mut along = MergeCursor::new(&map);
            for key in keys {
                prop_assert_eq!(along.get(&key), map.get(&key));
            }
        }
    }
}
