//! What a hostile or broken agent sends is refused or ends the conversation, and nothing of it is ever published or written elsewhere.

mod support;

use std::fs;
use std::os::unix::fs::symlink;

use blat_domain::archive::package_list::Purge;
use blat_domain::protocol::frames::{
    Class, Copy, Entry, FIRST_CREDIT, Kind, LONGEST_BODY, Lane, MOST_DATA, Part, Piece, Request, Rule, Time,
};
use support::package::{How, Package, compress, noise};
use support::{Agent, Archive, Said, id};

const TIME: Time = Time { seconds: 5, nanoseconds: 0 };

fn nothing_is_there(archive: &Archive) {
    let names = fs::read_dir(&archive.path).expect("an archive").map(|entry| entry.expect("an entry").file_name());
    assert_eq!(names.filter(|name| name != ".dpkg_archive").collect::<Vec<_>>(), Vec::<std::ffi::OsString>::new());
}

/// The conversation ends with a failure whose text has these words.
fn ends(mut agent: Agent, lane: Lane, words: &str) {
    loop {
        match agent.hear(lane) {
            Some(Said::Failed(Class::Refused, text)) => {
                assert!(text.contains(words), "{text}");
                break;
            }
            Some(_) => {}
            None => panic!("it ended without a word"),
        }
    }
    assert_eq!(agent.ended().code(), Some(1));
}

fn directory(path: &[u8]) -> Entry {
    Entry { path: path.to_vec(), kind: Kind::Directory { mode: 0o755 }, time: TIME }
}

fn file(path: &[u8], size: u64) -> Entry {
    Entry { path: path.to_vec(), kind: Kind::File { mode: 0o644, size, copy: None, shared: false }, time: TIME }
}

fn begin(agent: &mut Agent, entries: Vec<Entry>) {
    let package = Request::Package {
        number: 1,
        package: id("p@1"),
        time: 5,
        mode: 0o755,
        rule: Rule::New,
        manifest: None,
        ask: false,
    };
    agent.send(Lane::BULK, &package);
    agent.send(Lane::BULK, &Request::Entries { entries });
}

/// Sends a piece of these bytes as they are.
fn piece(agent: &mut Agent, zstd: bool, packed: &[u8], parts: Vec<Part>) {
    agent.send(Lane::BULK, &Request::Piece(Piece { packed: packed.len() as u32, zstd, parts, base: vec![] }));
    for data in packed.chunks(MOST_DATA) {
        agent.send(Lane::BULK, &Request::Data(data));
    }
}

fn part(entry: u32, bytes: u32) -> Part {
    Part { entry, bytes }
}

/// The line that a package's failure is answered with; its rest is dropped, and the lane goes on.
fn failure(agent: &mut Agent, class: &str) -> String {
    let line = match agent.hear(Lane::BULK) {
        Some(Said::Lines(line)) => line,
        other => panic!("{other:?} is no line"),
    };
    assert!(line.starts_with(&format!("failed p 1 {class} ")) && line.ends_with('\n'), "{line}");
    agent.send(Lane::BULK, &Request::Whole { entries: 1, manifest: [0; 32] });
    assert_eq!(agent.ask(Lane::BULK, &Request::Publish), Ok(vec![]));
    line
}

/// A frame on the control lane of entries that are packed so, and are said to unpack to so many bytes.
fn entries_of(said: u32, packed: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    blat_domain::protocol::frames::append(&mut frame, Lane::CONTROL, &(9u8, said, packed)).expect("a frame");
    frame
}

#[test]
fn frames_that_are_none_end_the_conversation() {
    let too_long = u32::try_from(LONGEST_BODY + 1).expect("a length").to_le_bytes();
    let [a, b, c, d] = too_long;
    // Entries that would unpack to more than any may, and to more than they say.
    let bomb = compress(&vec![0; 64 << 20], &[]);
    let bombs = [(64 << 20, &bomb), (200_000, &bomb)].map(|(said, bomb)| entries_of(said, bomb));
    let cases: [(&[u8], &str); 7] = [
        (&bombs[0], "cannot be understood"),
        (&bombs[1], "cannot be understood"),
        (&[a, b, c, d, 2], "262145 bytes"),
        (&[1, 0, 0, 0, 8, 4], "lane 8"),
        (&[1, 0, 0, 0, 0, 99], "cannot be understood"),
        (&[3, 0, 0, 0, 0, 1, 1, 1], "1 bytes are left over"),
        (&[0, 0, 0, 0, 0], "cannot be understood"),
    ];
    for (bytes, words) in cases {
        let archive = Archive::new();
        let mut agent = Agent::start(&archive.path);
        agent.remains();
        agent.send_bytes(bytes);
        ends(agent, Lane::CONTROL, words);
        nothing_is_there(&archive);
    }
}

/// A receiver whose account may write files of so many bytes at most.
fn limited(archive: &Archive, bytes: u64) -> Agent {
    let mut command = std::process::Command::new("prlimit");
    command
        .arg(format!("--fsize={bytes}"))
        .arg(env!("CARGO_BIN_EXE_blat-receiver"))
        .arg("--archive")
        .arg(&archive.path);
    Agent::start_command(command)
}

#[test]
fn a_file_beyond_the_limit_of_the_account_fails_its_package_by_name_and_too_low_a_limit_serves_nobody() {
    let archive = Archive::new();
    let mut agent = limited(&archive, 64 << 20);
    agent.send(Lane::CONTROL, &Request::Hello { protocol: blat_domain::protocol::frames::PROTOCOL });
    begin(&mut agent, vec![directory(b""), file(b"lib/big", (64 << 20) + 1)]);
    let line = failure(&mut agent, "io");
    assert!(
        line.contains("writing \"lib/big\" failed") && line.contains("takes no file that large (ulimit -f)"),
        "{line}"
    );
    assert_eq!(Package::new("q", "1").deliver(&mut agent, &How::default()), "published q 1", "others are served");

    let output = std::process::Command::new("prlimit")
        .args(["--fsize=1000000", env!("CARGO_BIN_EXE_blat-receiver"), "--archive"])
        .arg(&archive.path)
        .output()
        .expect("a receiver");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("may write files of 1000000 bytes at most") && text.contains("(ulimit -f)"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn nothing_is_done_before_the_greeting_and_with_another_protocol() {
    let archive = Archive::new();
    let mut agent = Agent::start_without_greeting(&archive.path);
    agent.send(Lane::BULK, &Request::List { buckets: vec![], installed: vec![] });
    ends(agent, Lane::CONTROL, "no greeting");
    let mut agent = Agent::start_without_greeting(&archive.path);
    agent.send(Lane::CONTROL, &Request::Hello { protocol: 9 });
    ends(agent, Lane::CONTROL, "version 9 of the protocol");
}

#[test]
fn messages_out_of_their_order_end_the_conversation() {
    let whole = Request::Whole { entries: 1, manifest: [0; 32] };
    let plain = Request::Piece(Piece { packed: 1, zstd: false, parts: vec![], base: vec![] });
    let cases: [(&[Request<'_>], &str); 6] = [
        (&[Request::Data(b"x")], "belongs to nothing"),
        (&[Request::Entries { entries: vec![] }], "without their package"),
        (std::slice::from_ref(&plain), "without its package"),
        (&[whole], "without it"),
        (&[Request::Forget], "did not send"),
        (
            &[Request::Store { bytes: 5, digest: [0; 32], purge: Purge::Allowed }, Request::Publish],
            "where data were announced",
        ),
    ];
    for (requests, words) in cases {
        let archive = Archive::new();
        let mut agent = Agent::start(&archive.path);
        requests.iter().for_each(|request| agent.send(Lane::BULK, request));
        ends(agent, Lane::BULK, words);
        nothing_is_there(&archive);
    }
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    begin(&mut agent, vec![directory(b""), file(b"f", 9)]);
    piece_of_one_byte_with_more(&mut agent);
    ends(agent, Lane::BULK, "more data came");
}

fn piece_of_one_byte_with_more(agent: &mut Agent) {
    agent.send(Lane::BULK, &Request::Piece(Piece { packed: 1, zstd: false, parts: vec![part(1, 1)], base: vec![] }));
    agent.send(Lane::BULK, &Request::Data(b"xx"));
}

#[test]
fn a_lane_that_is_sent_more_than_its_credit_ends_the_conversation() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    // The lane waits for a lock that is held, so it takes nothing off.
    fs::create_dir_all(archive.house("stage")).expect("a directory");
    let lock = fs::File::create(archive.house("publish.lock")).expect("a lock");
    lock.lock().expect("a lock");
    agent.send(Lane::BULK, &Request::Link { links: vec![(id("p@1"), "2".parse().expect("a version"))] });
    let mut frame = Vec::new();
    blat_domain::protocol::frames::append(&mut frame, Lane::BULK, &Request::Data(&vec![0; MOST_DATA]))
        .expect("a frame");
    for _ in 0..FIRST_CREDIT / (MOST_DATA as u64) + 1 {
        agent.send_bytes(&frame);
    }
    ends(agent, Lane::CONTROL, "more on a lane than it had credit for");
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for path in ["/etc/x", "../x", "a/../../x", "a//b", ".", "a/.", "", "link/x", "file/x", "absent/x", "x\0y"] {
        let archive = Archive::new();
        fs::create_dir(archive.beside("outside")).expect("a directory");
        let mut agent = Agent::start(&archive.path);
        let to = archive.beside("outside").to_str().expect("a path").as_bytes().to_vec();
        let link = Entry { path: b"link".to_vec(), kind: Kind::Link { to }, time: TIME };
        let mut entries = vec![directory(b""), directory(b"a"), link, file(b"file", 0), file(path.as_bytes(), 1)];
        begin(&mut agent, std::mem::take(&mut entries));
        piece(&mut agent, false, b"x", vec![part(3, 0), part(4, 1)]);
        let line = failure(&mut agent, "foreign");
        assert!(line.contains("remove it at the source"), "{line}");
        assert_eq!(fs::read_dir(archive.beside("outside")).expect("a directory").count(), 0);
        nothing_is_there(&archive);
    }
}

#[test]
fn a_first_entry_that_is_no_root_and_an_entry_that_comes_twice_are_refused() {
    let twice = vec![directory(b""), directory(b"a"), directory(b"a")];
    for entries in
        [vec![directory(b"a")], vec![file(b"f", 0)], twice, vec![directory(b""), directory(&b"a/".repeat(300)[..599])]]
    {
        let archive = Archive::new();
        let mut agent = Agent::start(&archive.path);
        begin(&mut agent, entries);
        failure(&mut agent, "foreign");
        nothing_is_there(&archive);
    }
}

#[test]
fn a_directory_that_is_swapped_for_a_link_lets_nothing_be_written_outside() {
    let archive = Archive::new();
    let outside = archive.beside("outside");
    fs::create_dir(&outside).expect("a directory");
    let mut agent = Agent::start(&archive.path);
    let many: Vec<_> = (0..400).map(|number| file(format!("d{}/f{number}", number % 2).as_bytes(), 1)).collect();
    begin(&mut agent, [vec![directory(b""), directory(b"d0"), directory(b"d1")], many].concat());
    let staged = archive.house("stage/p@1/package");
    support::wait_for("the directories", || staged.join("d1").exists());
    // The handles that are open still lead to the directory that was made, wherever it is now; nothing leads through the link.
    for name in ["d0", "d1"] {
        fs::rename(staged.join(name), staged.join(format!("{name}.away"))).expect("a rename");
        symlink(&outside, staged.join(name)).expect("a link");
    }
    let parts = (3..403).map(|entry| part(entry, 1)).collect();
    piece(&mut agent, false, &[b'x'; 400], parts);
    failure(&mut agent, "foreign");
    assert_eq!(fs::read_dir(&outside).expect("a directory").count(), 0);
    nothing_is_there(&archive);
}

#[test]
fn names_and_rooms_that_are_links_lead_nowhere() {
    let archive = Archive::new();
    let outside = archive.beside("outside");
    fs::create_dir(&outside).expect("a directory");
    symlink(&outside, archive.path.join("p")).expect("a link");
    let mut agent = Agent::start(&archive.path);
    let line = Package::new("p", "1").deliver(&mut agent, &How::default());
    assert_eq!(line, "failed p 1 foreign p is not a directory; move it away");
    fs::remove_dir_all(archive.path.join(".dpkg_archive")).expect("our own directory");
    symlink(&outside, archive.path.join(".dpkg_archive")).expect("a link");
    let line = Package::new("q", "1").deliver(&mut agent, &How::default());
    assert!(line.starts_with("failed q 1 io "), "{line}");
    assert_eq!(fs::read_dir(&outside).expect("a directory").count(), 0);
}

#[test]
fn a_package_with_another_digest_time_or_number_of_entries_is_never_published() {
    let good = Package::new("p", "1").file("f", "bytes").time(5);
    let entries = good.nodes.len() as u64 + 1;
    let manifest = good.manifest_digest();
    let cases = [
        (entries, [1; 32], 5, "differ from its manifest"),
        (entries + 1, manifest, 5, "entries came of"),
        (entries, manifest, 6, "has the time 5, not 6"),
    ];
    for (entries, manifest, time, words) in cases {
        let archive = Archive::new();
        let mut agent = Agent::start(&archive.path);
        let package = Request::Package {
            number: 1,
            package: id("p@1"),
            time,
            mode: 0o755,
            rule: Rule::New,
            manifest: None,
            ask: false,
        };
        agent.send(Lane::BULK, &package);
        agent.send(Lane::BULK, &Request::Entries { entries: good.entries(&How::default()) });
        good.send_files(&mut agent, &How::default(), &[]);
        agent.send(Lane::BULK, &Request::Whole { entries, manifest });
        let lines = agent.ask(Lane::BULK, &Request::Publish).expect("an answer");
        assert!(lines[0].starts_with("failed p 1 digest ") && lines[0].contains(words), "{lines:?}");
        nothing_is_there(&archive);
        assert_eq!(good.deliver(&mut agent, &How::default()), "published p 1", "the lane goes on");
    }
}

#[test]
fn pieces_that_do_not_fit_their_entries_are_refused() {
    let bytes = noise(1, 1000);
    let bomb = compress(&vec![0; 64 << 20], &[]);
    let short = compress(&bytes[..500], &[]);
    let whole = compress(&bytes, &[]);
    let twice = [&whole[..], &whole].concat();
    let all = || vec![part(1, 1000)];
    let cases: Vec<(bool, &[u8], Vec<Part>, &str)> = vec![
        (true, &bomb, vec![part(1, 1000)], "more bytes than its parts"),
        (true, &short, all(), "fewer bytes than its parts"),
        (true, &twice, all(), "goes on after its end"),
        (true, &whole[..whole.len() - 3], all(), "ends early"),
        (true, b"this is no frame of zstd's", all(), "cannot be unpacked"),
        (true, &whole, vec![part(1, 500), part(1, 500)], "in its middle"),
        (true, &whole, vec![part(1, 500), part(2, 500)], "in its middle"),
        (true, &whole, vec![part(2, 1000)], "no bytes came for"),
        (true, &whole, vec![part(0, 1000)], "no file that waits"),
        (true, &whole, vec![part(9, 1000)], "no bytes came for"),
        (false, &bytes[..999], all(), "with other bytes than its parts have"),
        (false, &bytes, vec![part(1, 17 << 20)], "larger than any may be"),
    ];
    for (zstd, packed, parts, words) in cases {
        let archive = Archive::new();
        let mut agent = Agent::start(&archive.path);
        begin(&mut agent, vec![directory(b""), file(b"f", 1000), file(b"descpkg", 1000)]);
        piece(&mut agent, zstd, packed, parts);
        let line = failure(&mut agent, "digest");
        assert!(line.contains(words), "{line} lacks {words}");
        nothing_is_there(&archive);
    }
}

#[test]
fn files_are_referred_to_in_packages_alone() {
    let archive = Archive::new();
    fs::write(archive.beside("secret"), "secret").expect("a file");
    let mut agent = Agent::start(&archive.path);
    archive.put("p", "2", &[("f", "x")], 5);
    symlink(archive.beside("secret"), archive.path.join("p/2/link")).expect("a link");
    for path in ["../../../secret", "link", "/etc/passwd", "", "../2/f"] {
        let copy = Some(Copy { version: "2".parse().expect("a version"), path: Some(path.into()) });
        let entry =
            Entry { path: b"f".to_vec(), kind: Kind::File { mode: 0o644, size: 6, copy, shared: false }, time: TIME };
        begin(&mut agent, vec![directory(b""), entry]);
        assert_eq!(agent.hear(Lane::BULK), Some(Said::Lacks(1)), "{path}");
        agent.send(Lane::BULK, &Request::Forget);
    }
}

#[test]
fn a_heartbeat_is_answered_at_once_while_lanes_stand_still() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    agent.remains();
    fs::create_dir_all(archive.house("stage")).expect("a directory");
    let lock = fs::File::create(archive.house("publish.lock")).expect("a lock");
    lock.lock().expect("a lock");
    agent.send(Lane(3), &Request::Link { links: vec![(id("p@1"), "2".parse().expect("a version"))] });
    let mut beat = |number| {
        agent.send(Lane::CONTROL, &Request::Ping { beat: number });
        match agent.hear(Lane::CONTROL) {
            Some(Said::Pong(beat, work)) if beat == number => work,
            other => panic!("{other:?} is no answer to a heartbeat"),
        }
    };
    assert_eq!(beat(1).len(), 8);
    let before = beat(2);
    drop(lock);
    match agent.hear(Lane(3)) {
        Some(Said::Lines(line)) => assert!(line.starts_with("failed p 1 absent "), "{line}"),
        other => panic!("{other:?} is no line"),
    }
    agent.send(Lane::CONTROL, &Request::Ping { beat: 3 });
    let Some(Said::Pong(3, after)) = agent.hear(Lane::CONTROL) else { panic!("no answer to a heartbeat") };
    assert!(after[3] >= before[3] && after[3] > 0);
}
