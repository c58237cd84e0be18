//! Tells real changes of files from changes under way. Pure.
//!
//! A file that is being written, or replaced by removing and making it, looks half-done or absent for a moment. A
//! difference counts only when two looks, a little apart, found the same.

use std::collections::{BTreeMap, BTreeSet};

/// What is remembered of files by name: `K` names one, `M` says how it was found.
#[derive(Debug)]
pub(crate) struct Debounce<K, M> {
    accepted: BTreeMap<K, M>,
    doubtful: BTreeMap<K, Option<M>>,
}

impl<K: Ord + Clone, M: PartialEq + Clone> Debounce<K, M> {
    /// Nothing seen yet.
    pub(crate) fn new() -> Self {
        Self { accepted: BTreeMap::new(), doubtful: BTreeMap::new() }
    }

    /// Whether another look is needed soon.
    pub(crate) fn is_doubtful(&self) -> bool {
        !self.doubtful.is_empty()
    }

    /// Takes a look's result; returns the names whose change is certain now (none for a file that is gone).
    pub(crate) fn look(&mut self, found: &BTreeMap<K, M>) -> Vec<(K, Option<M>)> {
        let names: BTreeSet<K> =
            self.accepted.keys().chain(found.keys()).chain(self.doubtful.keys()).cloned().collect();
        let mut certain = Vec::new();
        for name in names {
            let present = found.get(&name);
            if present == self.accepted.get(&name) {
                self.doubtful.remove(&name);
            } else if self.doubtful.get(&name).is_some_and(|before| before.as_ref() == present) {
                self.doubtful.remove(&name);
                self.accept(&name, present);
                certain.push((name, present.cloned()));
            } else {
                self.doubtful.insert(name, present.cloned());
            }
        }
        certain
    }

    /// As [`Debounce::look`], believing everything at once: nothing was known before.
    pub(crate) fn first_look(&mut self, found: &BTreeMap<K, M>) -> Vec<(K, Option<M>)> {
        self.look(found);
        self.look(found)
    }

    fn accept(&mut self, name: &K, present: Option<&M>) {
        match present {
            Some(mark) => self.accepted.insert(name.clone(), mark.clone()),
            None => self.accepted.remove(name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&'static str, u8)]) -> BTreeMap<&'static str, u8> {
        files.iter().copied().collect()
    }

    #[test]
    fn a_change_counts_when_two_looks_agree() {
        let mut debounce = Debounce::new();
        assert_eq!(debounce.first_look(&found(&[("a", 1), ("b", 1)])), [("a", Some(1)), ("b", Some(1))]);
        assert_eq!(debounce.look(&found(&[("a", 2), ("b", 1)])), []);
        assert!(debounce.is_doubtful());
        assert_eq!(debounce.look(&found(&[("a", 3), ("b", 1)])), [], "it is still being written");
        assert_eq!(debounce.look(&found(&[("a", 3), ("b", 1)])), [("a", Some(3))]);
        assert!(!debounce.is_doubtful());
        assert_eq!(debounce.look(&found(&[("a", 3), ("b", 1)])), [], "it was told already");
    }

    #[test]
    fn a_file_that_is_replaced_by_removing_it_was_never_gone() {
        let mut debounce = Debounce::new();
        debounce.first_look(&found(&[("a", 1)]));
        assert_eq!(debounce.look(&found(&[])), []);
        assert_eq!(debounce.look(&found(&[("a", 2)])), []);
        assert_eq!(debounce.look(&found(&[("a", 2)])), [("a", Some(2))]);
        assert_eq!(debounce.look(&found(&[])), []);
        assert_eq!(debounce.look(&found(&[])), [("a", None)]);
    }

    #[test]
    fn a_storm_on_one_file_does_not_hide_the_others_and_its_end_counts() {
        let mut debounce = Debounce::new();
        debounce.first_look(&found(&[]));
        for mark in 1..50 {
            let certain = debounce.look(&found(&[("calm", 7), ("storm", mark)]));
            assert_eq!(certain.len(), usize::from(mark == 2), "{certain:?}");
        }
        assert_eq!(debounce.look(&found(&[("calm", 7), ("storm", 49)])), [("storm", Some(49))]);
    }
}
