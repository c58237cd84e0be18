//! Whatever is said to a receiver: it never panics, answers in frames, and nothing outside of its archive is touched.
//!
//! The short form of what `make fuzz` does for longer.

#[path = "support/world.rs"]
#[allow(unreachable_pub, reason = "shared with the fuzz targets")]
mod world;

use blat_domain::protocol::frames::HEADER;
use proptest::prelude::*;
use proptest::sample::Index;
use world::{World, conversation};

/// Places that nothing may be written to, by any way.
const HOSTILE: [&[u8]; 12] = [
    b"lib/../../../../../../outside/evil",
    b"out/evil",
    b"../evil",
    b"/tmp/../evil",
    b"out",
    b"lib/away/evil",
    b"..",
    b".",
    b"lib//evil",
    b"lib/",
    b"evil\0",
    b"descpkg/evil",
];

#[test]
fn a_whole_conversation_is_held() {
    let world = World::new().expect("a world");
    let heard = world.hear(&conversation(&[b"lib/new"]).concat()).expect("a conversation");
    let heard = String::from_utf8_lossy(&heard);
    assert_eq!(world.read("p/3/lib/new").as_deref(), Some(&b"new bytes"[..]));
    assert_eq!(world.read("p/3/lib/held"), world.read("p/1/lib/held"));
    assert_eq!(world.read(".dpkg_archive/PackageList.txt").as_deref(), Some(&b"p 1\np 3\n# end 2\n"[..]));
    assert!(world.read("p/2/descpkg").is_none(), "it was to be deleted: {heard}");
    assert!(world.is_untouched().expect("a picture"));
}

#[test]
fn no_hostile_path_leads_out_of_the_archive() {
    for path in HOSTILE {
        let world = World::new().expect("a world");
        world.hear(&conversation(&[path]).concat()).expect("a conversation");
        assert!(world.is_untouched().expect("a picture"), "{}", path.escape_ascii());
        assert!(world.read("p/3/descpkg").is_none(), "{} was published", path.escape_ascii());
    }
}

/// What can be done to a conversation.
#[derive(Debug, Clone)]
enum Mutation {
    Flip(Index, Index, u8),
    Drop(Index),
    Repeat(Index, Index),
    Swap(Index, Index),
    OtherLane(Index, u8),
    Insert(Index, Vec<u8>),
    Cut(Index, Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (any::<Index>(), any::<Index>(), 0u8..8).prop_map(|(frame, at, bit)| Mutation::Flip(frame, at, bit)),
        1 => any::<Index>().prop_map(Mutation::Drop),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(frame, to)| Mutation::Repeat(frame, to)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(one, two)| Mutation::Swap(one, two)),
        1 => (any::<Index>(), 0u8..9).prop_map(|(frame, lane)| Mutation::OtherLane(frame, lane)),
        1 => (any::<Index>(), proptest::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(frame, bytes)| Mutation::Insert(frame, bytes)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(frame, at)| Mutation::Cut(frame, at)),
    ]
}

/// Frames stay frames, so that what is wrong lies deeper.
fn mutate(conversation: &mut Vec<Vec<u8>>, mutation: Mutation) {
    let count = conversation.len();
    match mutation {
        Mutation::Flip(frame, at, bit) => {
            let frame = &mut conversation[frame.index(count)];
            if frame.len() > HEADER {
                let at = HEADER + at.index(frame.len() - HEADER);
                frame[at] ^= 1 << bit;
            }
        }
        Mutation::Drop(frame) if count > 1 => drop(conversation.remove(frame.index(count))),
        Mutation::Drop(_) => {}
        Mutation::Repeat(frame, to) => conversation.insert(to.index(count), conversation[frame.index(count)].clone()),
        Mutation::Swap(one, two) => conversation.swap(one.index(count), two.index(count)),
        Mutation::OtherLane(frame, lane) => conversation[frame.index(count)][4] = lane,
        Mutation::Insert(frame, bytes) => {
            let header = [bytes.len() as u8, 0, 0, 0, bytes[0] % 9];
            conversation.insert(frame.index(count), [&header, &bytes[..]].concat());
        }
        Mutation::Cut(frame, at) => {
            let frame = &mut conversation[frame.index(count)];
            let length = at.index(frame.len() - HEADER + 1);
            frame.truncate(HEADER + length);
            frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_conversations_never_panic_and_never_write_outside_of_the_archive(
        path in proptest::sample::select([&HOSTILE[..], &[b"lib/new"]].concat()),
        mutations in proptest::collection::vec(mutation(), 1..6),
    ) {
        let world = World::new().expect("a world");
        let mut conversation = conversation(&[path]);
        mutations.into_iter().for_each(|mutation| mutate(&mut conversation, mutation));
        world.hear(&conversation.concat()).expect("a conversation");
        prop_assert!(world.is_untouched().expect("a picture"));
    }

    #[test]
    fn random_bytes_never_panic_and_never_write_outside_of_the_archive(bytes: Vec<u8>, greeted: bool) {
        let world = World::new().expect("a world");
        let greeting = if greeted { conversation(&[])[0].clone() } else { Vec::new() };
        world.hear(&[greeting, bytes].concat()).expect("a conversation");
        prop_assert!(world.is_untouched().expect("a picture"));
    }
}
