//! What does not fit into memory is listed again: nothing comes twice, nothing is left out, and the order stays.

use std::collections::BTreeSet;

use super::*;
use crate::walker::walk::Room;

/// Walks with no more room than that. Gives the paths, the most bytes that names took, and how often a directory was listed.
fn walked(root: &Root, order: WalkOrder, room: Room) -> (Vec<Vec<u8>>, usize, usize) {
    let mut walk = root.walk(order).with_room(room);
    let (mut paths, mut most) = (Vec::new(), 0);
    while let Some(node) = walk.next() {
        paths.push(node.expect("an entry").path);
        most = most.max(walk.taken());
    }
    (paths, most, walk.listings())
}

impl Scratch {
    /// Many names in the root and in each of two directories below it, one within the other.
    fn crowded(names: usize) -> Self {
        let scratch = Self::new();
        for number in 0..names {
            // In no order, with names that sort otherwise as directories, and some directories among them.
            let name = format!("{:04x}", number * 7919 % 65_536);
            for below in ["", "m/", "m/m/"] {
                scratch.file(&format!("archive/core/1/{below}{name}.f"), "");
                if number % 5 == 0 {
                    scratch.file(&format!("archive/core/1/{below}{name}/x"), "");
                }
            }
        }
        scratch
    }
}

#[test]
fn a_walk_with_little_room_gives_what_one_with_much_room_gives() {
    let scratch = Scratch::crowded(120);
    let root = scratch.open_by(PathResolution::AtOnce).expect("a package");
    for order in [WalkOrder::Name, WalkOrder::Path] {
        let (all, most, listings) = walked(&root, order, Room { batch: 1 << 20, looked_at: 1024 });
        assert_eq!(all.len(), all.iter().collect::<BTreeSet<_>>().len());
        let directories = 1 + 4 + 3 * 24;
        assert_eq!((all.len(), listings), (3 * 120 + 6 * 24 + 8, directories), "each directory is listed once");
        assert!(most > 4_000);
        for (batch, looked_at) in [(20_000, 1), (2_000, 7), (1_000, 3), (200, 50), (60, 1)] {
            let (paths, most, more) = walked(&root, order, Room { batch, looked_at });
            assert!(paths == all, "{order:?} {batch}");
            let looked_at = looked_at * size_of::<(Box<[u8]>, Stat)>();
            assert!(most <= 2 * batch.max(50) + looked_at, "{order:?} {batch}: {most}");
            assert!(batch >= 20_000 || more > directories, "{order:?} {batch}: {more}");
        }
    }
}

#[test]
fn a_directory_that_changes_between_two_looks_at_it_is_noticed() {
    for (looked_at, name) in [(1, "0000.f"), (100, "m")] {
        let scratch = Scratch::crowded(30);
        let root = scratch.open_by(PathResolution::AtOnce).expect("a package");
        let mut walk = root.walk(WalkOrder::Name).with_room(Room { batch: 400, looked_at });
        let met = |node: &Result<Node, SourceError>| node.as_ref().is_ok_and(|node| node.path == name.as_bytes());
        assert!(walk.by_ref().any(|node| met(&node)));
        scratch.file("archive/core/1/zz", "");
        let rest: Vec<_> = walk.collect();
        assert!(matches!(rest.last(), Some(Err(SourceError::Changed(what))) if what.ends_with("core/1")), "{rest:?}");
    }
}
