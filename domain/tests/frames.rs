//! Every message as it lies on the wire: the checked-in samples must stay readable, and what is written now must be the same bytes.
//!
//! `domain/tests/frames/requests` and `replies` have a line `NAME HEX` for each sample, the hex being a whole frame.

use blat_domain::archive::package_list::Purge;
use blat_domain::archive::record::Claim;
use blat_domain::package::name::{PackageId, Version};
use blat_domain::protocol::frames::{
    self, Base, Class, Copy, Entry, FrameError, HEADER, Kind, LANES, LONGEST_BODY, Lane, Leaving, MOST_DATA, PROTOCOL,
    Part, Piece, Reply, Request, Retirement, Rule, Time,
};
use blat_domain::util::identity::Identity;
use proptest::prelude::*;

const REQUESTS: &str = include_str!("frames/requests");
const OWNER: &str = "000102030405060708090a0b0c0d0e0f perth";
const RECORD: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff\n000102030405060708090a0b0c0d0e0f perth\n";
const REPLIES: &str = include_str!("frames/replies");

fn id(text: &str) -> PackageId {
    text.parse().expect("a package")
}

fn version(text: &str) -> Version {
    text.parse().expect("a version")
}

/// A value for each sample: every variant of every message, with every variant of what is in it.
fn requests() -> Vec<(&'static str, Request<'static>)> {
    let time = Time { seconds: -2, nanoseconds: 999_999_999 };
    let copy = |path: Option<&[u8]>| Some(Copy { version: version("1.2"), path: path.map(<[u8]>::to_vec) });
    let tool = |mode, copy| Kind::File { mode, size: 1 << 40, copy, shared: false };
    let entries = vec![
        Entry { path: vec![], kind: Kind::Directory { mode: 0o755 }, time },
        Entry { path: b"bin/odd \xff\n".to_vec(), kind: Kind::Link { to: b"../x".to_vec() }, time },
        Entry { path: b"bin/tool".to_vec(), kind: tool(0o555, copy(None)), time },
        Entry { path: b"bin/tool-1.3".to_vec(), kind: tool(0o755, copy(Some(b"bin/tool-1.2"))), time },
        Entry {
            path: b"descpkg".to_vec(),
            kind: Kind::File { mode: 0o644, size: 300, copy: None, shared: true },
            time: Time { seconds: 1_700_000_000, nanoseconds: 0 },
        },
        Entry { path: b"descpkg.again".to_vec(), kind: Kind::HardLink { to: 4 }, time },
    ];
    let piece = Piece {
        packed: 70_000,
        zstd: true,
        parts: vec![Part { entry: 3, bytes: 300 }, Part { entry: 4, bytes: 5 }],
        base: vec![Base { version: version("1.2"), path: b"descpkg".to_vec(), offset: 1 << 33, bytes: 7 }],
    };
    let package = |rule, manifest, ask| Request::Package {
        number: 7,
        package: id("core_devl@2.1.0.cr"),
        time: 1_700_000_000,
        mode: 0o755,
        rule,
        manifest,
        ask,
    };
    let source = vec![Identity::new(7, -5, 123_456_789), Identity::new(1 << 40, 1_700_000_000, 0)];
    let known = Leaving { source, ..Leaving::new(id("b@2"), Some(-5)) };
    let retire = |how| Request::Retire { how, packages: vec![Leaving::new(id("a@1"), None), known.clone()] };
    let claim = |how| Request::Claim { how, record: RECORD };
    vec![
        ("hello", Request::Hello { protocol: PROTOCOL }),
        ("ping", Request::Ping { beat: 300 }),
        ("list-nothing-known", Request::List { buckets: vec![], installed: vec![] }),
        ("list", Request::List { buckets: vec![[1; 16], [2; 16]], installed: vec![("pkg_mon", [0x44; 32])] }),
        ("store", Request::Store { bytes: 1 << 20, digest: [0xef; 32], purge: Purge::Held }),
        ("link", Request::Link { links: vec![(id("tools@current"), version("1.3.0"))] }),
        ("retire-unmark", retire(Retirement::Unmark)),
        ("retire-mark", retire(Retirement::Mark(86_400))),
        ("retire-delete-due", retire(Retirement::DeleteDue)),
        ("retire-delete", retire(Retirement::Delete)),
        ("verify", Request::Verify { packages: vec![id("a@1"), id("b@2~rc1+x")] }),
        ("begin", Request::Begin { bytes: 1 << 30, entries: 200, reserve: 512 << 20 }),
        ("package-new", package(Rule::New, None, true)),
        ("package-replace", package(Rule::Replace, Some([0x11; 32]), false)),
        ("package-repair", package(Rule::Repair, None, false)),
        ("entries", Request::Entries { entries }),
        ("piece", Request::Piece(piece)),
        ("piece-plain", Request::Piece(Piece { packed: 0, zstd: false, parts: vec![], base: vec![] })),
        ("data", Request::Data(b"\0bytes\xff")),
        ("whole", Request::Whole { entries: 4, manifest: [0x22; 32] }),
        ("forget", Request::Forget),
        ("publish", Request::Publish),
        ("sweep", Request::Sweep { keep: vec![id("a@1")] }),
        ("padding", Request::Padding(b"\0\0")),
        ("own", Request::Own { owner: OWNER }),
        ("claim-look", claim(Claim::Look)),
        ("claim-first", claim(Claim::First)),
        ("claim-adopt", claim(Claim::Adopt)),
        ("claim-withdraw", claim(Claim::Withdraw)),
        ("go", Request::Go),
    ]
}

fn replies() -> Vec<(&'static str, Reply<'static>)> {
    let failed = |class| Reply::Failed { class, text: "writing x failed: no space; make space" };
    vec![
        ("welcome", Reply::Welcome { protocol: PROTOCOL, version: "1.0.0", remains: vec![id("a@1")] }),
        ("pong", Reply::Pong { beat: 300, work: vec![0, 1, 1 << 40] }),
        ("credit", Reply::Credit { bytes: 262_144 }),
        ("lines", Reply::Lines("published a 1\n")),
        ("listed", Reply::Listed { buckets: vec![0, 1023] }),
        ("held", Reply::Held { number: 7, files: vec![(3, [0x33; 32])] }),
        ("lacks", Reply::Lacks { number: 7 }),
        ("done", Reply::Done),
        ("failed-space", failed(Class::Space)),
        ("failed-busy", failed(Class::Busy)),
        ("failed-refused", failed(Class::Refused)),
        ("ready", Reply::Ready),
    ]
}

fn hex(bytes: &[u8]) -> String {
    blat_domain::util::text::hex(bytes)
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).expect("digits"));
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("digits")).collect()
}

/// The frames of a file, by their names.
fn samples(text: &str) -> Vec<(&str, Vec<u8>)> {
    let lines = text.lines().map(|line| line.split_once(' ').expect("NAME HEX"));
    lines.map(|(name, digits)| (name, unhex(digits))).collect()
}

fn frame(message: &impl serde::Serialize) -> Vec<u8> {
    let mut frame = Vec::new();
    frames::append(&mut frame, Lane(3), message).expect("a message that fits");
    frame
}

/// Splits a frame, whose length has to be right.
fn body(frame: &[u8]) -> &[u8] {
    let (header, body) = frame.split_first_chunk::<HEADER>().expect("a header");
    assert_eq!(frames::header(*header), Ok((body.len(), Lane(3))));
    body
}

#[test]
fn every_request_is_written_and_read_as_its_sample() {
    let expected = requests();
    let written: String = expected.iter().map(|(name, request)| format!("{name} {}\n", hex(&frame(request)))).collect();
    assert_eq!(written, REQUESTS, "what is written now differs from domain/tests/frames/requests");
    for ((name, request), (sample, bytes)) in expected.iter().zip(samples(REQUESTS)) {
        assert_eq!((*name, &frames::decode::<Request<'_>>(body(&bytes)).expect(name)), (sample, request));
    }
}

#[test]
fn every_reply_is_written_and_read_as_its_sample() {
    let expected = replies();
    let written: String = expected.iter().map(|(name, reply)| format!("{name} {}\n", hex(&frame(reply)))).collect();
    assert_eq!(written, REPLIES, "what is written now differs from domain/tests/frames/replies");
    for ((name, reply), (sample, bytes)) in expected.iter().zip(samples(REPLIES)) {
        assert_eq!((*name, &frames::decode::<Reply<'_>>(body(&bytes)).expect(name)), (sample, reply));
    }
}

#[test]
fn a_sample_that_is_cut_or_goes_on_is_no_message() {
    for (name, bytes) in samples(REQUESTS) {
        let body = body(&bytes);
        for end in 0..body.len() {
            assert!(frames::decode::<Request<'_>>(&body[..end]).is_err(), "{name} cut at {end}");
        }
        assert!(frames::decode::<Request<'_>>(&[body, &[0]].concat()).is_err(), "{name} with a byte more");
    }
    for (name, bytes) in samples(REPLIES) {
        let body = body(&bytes);
        for end in 0..body.len() {
            assert!(frames::decode::<Reply<'_>>(&body[..end]).is_err(), "{name} cut at {end}");
        }
    }
}

#[test]
fn names_are_checked_while_they_are_decoded() {
    let mut hostile = frame(&Request::Sweep { keep: vec![id("aaaa@1")] });
    let at = hostile.windows(4).position(|bytes| bytes == b"aaaa").expect("the name");
    hostile[at..at + 4].copy_from_slice(b"../x");
    assert!(matches!(frames::decode::<Request<'_>>(body(&hostile)), Err(FrameError::Nonsense(_))));
}

#[test]
fn lengths_and_lanes_out_of_bounds_are_refused_before_anything_is_read() {
    let header = |length: usize, lane: u8| {
        let [a, b, c, d] = u32::try_from(length).expect("a length").to_le_bytes();
        frames::header([a, b, c, d, lane])
    };
    assert_eq!(header(LONGEST_BODY, LANES - 1), Ok((LONGEST_BODY, Lane(LANES - 1))));
    assert_eq!(header(LONGEST_BODY + 1, 0), Err(FrameError::TooLong(LONGEST_BODY as u64 + 1)));
    assert_eq!(header(0, LANES), Err(FrameError::NoLane(LANES)));
    let mut out = b"before".to_vec();
    assert!(frames::append(&mut out, Lane(0), &Request::Data(&vec![0; LONGEST_BODY])).is_err());
    assert_eq!(out, b"before", "a message that does not fit leaves nothing behind");
    assert!(frames::append(&mut out, Lane(0), &Request::Data(&vec![0; MOST_DATA])).is_ok());
}

#[test]
fn a_length_inside_a_message_makes_no_room_for_what_never_came() {
    // An Entries that says it has 2^60 of them, or takes 2^40 bytes, a Data of 2^40 bytes.
    let nonsense: [&[u8]; 3] = [
        &[9, 0, 9, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10],
        &[9, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40],
        &[11, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40],
    ];
    for nonsense in nonsense {
        assert!(frames::decode::<Request<'_>>(nonsense).is_err());
    }
}

/// Entries whose list unpacks to these bytes, and says that it unpacks to so many.
fn entries_of(said: usize, plain: &[u8]) -> Vec<u8> {
    let packed = zstd::bulk::compress(plain, 3).expect("a frame");
    let mut frame = Vec::new();
    frames::append(&mut frame, Lane(3), &(9u8, said, packed)).expect("a message that fits");
    frame.split_off(HEADER)
}

#[test]
fn a_list_is_packed_and_unpacks_to_what_it_says_and_no_more_than_a_body() {
    let time = Time { seconds: 7, nanoseconds: 0 };
    let copy = || Some(Copy { version: version("1.2"), path: None });
    let kind = || Kind::File { mode: 0o644, size: 9, copy: copy(), shared: false };
    let entry = |number| Entry { path: format!("share/locale/{number}/messages.mo").into_bytes(), kind: kind(), time };
    let entries: Vec<Entry> = (0..500).map(entry).collect();
    let mut plain = Vec::new();
    frames::append(&mut plain, Lane(3), &entries).expect("a list that fits");
    let plain = plain.split_off(HEADER);
    let request = Request::Entries { entries };
    assert!(frame(&request).len() < 4000 && plain.len() > 20_000, "{} bytes", frame(&request).len());
    assert_eq!(frames::decode(&entries_of(plain.len(), &plain)), Ok(request));

    let bomb = vec![0; LONGEST_BODY + 1];
    for (said, plain) in [
        (plain.len() - 1, &plain[..]),
        (plain.len() + 1, &plain),
        (0, &plain),
        (LONGEST_BODY + 1, &bomb),
        (LONGEST_BODY, &bomb),
        (plain.len() + 1, &[&plain[..], &[0]].concat()),
    ] {
        assert!(
            matches!(frames::decode::<Request<'_>>(&entries_of(said, plain)), Err(FrameError::Nonsense(_))),
            "{said}"
        );
    }
    let path = vec![b'x'; LONGEST_BODY];
    let long = Request::Entries { entries: vec![Entry { path, kind: kind(), time }] };
    assert!(frames::append(&mut Vec::new(), Lane(0), &long).is_err(), "nobody would read it");
}

fn some_entry() -> impl Strategy<Value = Entry> {
    let copy = proptest::option::of(("[a-z0-9]{1,9}", any::<Option<Vec<u8>>>()));
    let kind = prop_oneof![
        any::<u16>().prop_map(|mode| Kind::Directory { mode }),
        any::<Vec<u8>>().prop_map(|to| Kind::Link { to }),
        any::<u32>().prop_map(|to| Kind::HardLink { to }),
        (any::<u16>(), any::<u64>(), copy, any::<bool>()).prop_map(|(mode, size, copy, shared)| {
            let copy = copy.map(|(text, path)| Copy { version: version(&text), path });
            Kind::File { mode, size, copy, shared }
        }),
    ];
    (any::<Vec<u8>>(), kind, any::<i64>(), any::<u32>()).prop_map(|(path, kind, seconds, nanoseconds)| Entry {
        path,
        kind,
        time: Time { seconds, nanoseconds },
    })
}

proptest! {
    #[test]
    fn entries_and_pieces_come_back_as_they_were(
        entries in proptest::collection::vec(some_entry(), 0..9),
        packed: u32, zstd: bool, parts: Vec<(u32, u32)>, offset: u64, path: Vec<u8>,
    ) {
        let parts = parts.into_iter().map(|(entry, bytes)| Part { entry, bytes }).collect();
        let base = vec![Base { version: version("1"), path, offset, bytes: packed }];
        for request in [Request::Entries { entries }, Request::Piece(Piece { packed, zstd, parts, base })] {
            let frame = frame(&request);
            prop_assert_eq!(frames::decode::<Request<'_>>(body(&frame)), Ok(request));
        }
    }

    #[test]
    fn other_messages_come_back_as_they_were(data: Vec<u8>, buckets: Vec<[u8; 16]>, text: String, numbers: Vec<u16>, work: Vec<u64>) {
        for request in [Request::Data(&data), Request::List { buckets, installed: vec![] }] {
            let frame = frame(&request);
            prop_assert_eq!(frames::decode::<Request<'_>>(body(&frame)), Ok(request));
        }
        for reply in [Reply::Lines(&text), Reply::Listed { buckets: numbers }, Reply::Pong { beat: 1, work }] {
            let frame = frame(&reply);
            prop_assert_eq!(frames::decode::<Reply<'_>>(body(&frame)), Ok(reply));
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(variant in 0u8..20, mut bytes: Vec<u8>, header: [u8; HEADER]) {
        let _ = frames::header(header);
        let _ = (frames::decode::<Request<'_>>(&bytes), frames::decode::<Reply<'_>>(&bytes));
        bytes.insert(0, variant);
        let _ = (frames::decode::<Request<'_>>(&bytes), frames::decode::<Reply<'_>>(&bytes));
    }

    #[test]
    fn a_flipped_bit_of_a_sample_makes_no_reader_panic(which: prop::sample::Index, at: prop::sample::Index, bit in 0u8..8) {
        let all = samples(REQUESTS);
        let mut bytes = all[which.index(all.len())].1[HEADER..].to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let _ = frames::decode::<Request<'_>>(&bytes);
    }
}
