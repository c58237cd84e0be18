//! The agent's end against a far end that is broken, slow or hostile: over pipes in memory, in simulated time.

mod far;
mod unasked;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use blat_domain::flow::bandwidth::Bandwidth;
use blat_domain::protocol::frames::{
    FIRST_CREDIT, HEADER, Kind, LANES, LONGEST_BODY, MARKER, PROTOCOL, append, header,
};
use blat_domain::util::random_id::RandomId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::{Instant, timeout};

use super::conversation::LaneGuard;
use super::*;
use crate::flow::rate_limit::RateLimiter;
use crate::targets::Rule;
use crate::transport::{Exit, Remote};

/// The other end of a conversation, in a test's hands.
struct FarEnd {
    input: DuplexStream,
    output: DuplexStream,
    /// The lanes' numbers in its answers to heartbeats; none where it does not answer them.
    work: Option<Vec<u64>>,
}

/// A command whose pipes hold so many bytes, and who has their other ends.
fn remote(pipe: usize) -> (Remote, FarEnd) {
    let (stdin, input) = duplex(pipe);
    let (output, stdout) = duplex(pipe);
    let remote = Remote {
        stdin: Box::pin(stdin),
        stdout: Box::pin(stdout),
        stderr: Box::pin(tokio::io::empty()),
        exit: Box::pin(std::future::ready(Ok(Exit::Code(0)))),
    };
    (remote, FarEnd { input, output, work: Some(vec![0; LANES.into()]) })
}

fn unlimited() -> Arc<RateLimiter> {
    Arc::new(RateLimiter::new(Bandwidth::Windows(Vec::new())))
}

/// A conversation that has begun.
async fn begun(pipe: usize) -> (Conversation, FarEnd) {
    let (remote, mut far) = remote(pipe);
    let (conversation, ()) =
        tokio::join!(Conversation::begin(remote, unlimited(), Arc::default()), far.greet(PROTOCOL));
    (conversation.expect("a greeting"), far)
}

impl FarEnd {
    /// The next frame but for heartbeats, which it answers.
    async fn hear(&mut self) -> (Lane, Vec<u8>) {
        self.next().await.expect("a frame")
    }

    /// The same; none where the agent has hung up.
    async fn next(&mut self) -> Option<(Lane, Vec<u8>)> {
        loop {
            let mut head = [0; HEADER];
            self.input.read_exact(&mut head).await.ok()?;
            let (length, lane) = header(head).expect("a header");
            let mut body = vec![0; length];
            self.input.read_exact(&mut body).await.expect("a body");
            let Request::Ping { beat } = decode(&body).expect("a request") else { return Some((lane, body)) };
            if let Some(work) = self.work.clone() {
                self.say(Lane::CONTROL, &Reply::Pong { beat, work }).await;
            }
        }
    }

    /// Says this for ever, until the agent has hung up.
    async fn flood(&mut self, lane: Lane, reply: &Reply<'_>) {
        let mut frame = Vec::new();
        append(&mut frame, lane, reply).expect("a reply that fits");
        while self.output.write_all(&frame).await.is_ok() {}
    }

    /// Hears everything for ever.
    async fn listen(&mut self) {
        while self.next().await.is_some() {}
        std::future::pending().await
    }

    async fn say(&mut self, lane: Lane, reply: &Reply<'_>) {
        let mut frame = Vec::new();
        append(&mut frame, lane, reply).expect("a reply that fits");
        self.say_bytes(&frame).await;
    }

    /// An agent that has hung up does not hear it.
    async fn say_bytes(&mut self, bytes: &[u8]) {
        let _ = self.output.write_all(bytes).await;
    }

    /// Greets and answers the first question, which measures the way there.
    async fn greet(&mut self, protocol: u16) {
        self.say_bytes(format!("Welcome to this host\n{MARKER}\n").as_bytes()).await;
        self.hear().await;
        self.say(Lane::CONTROL, &Reply::Welcome { protocol, version: "9\x1b[31m", remains: vec![] }).await;
        if protocol == PROTOCOL {
            self.hear().await;
            self.say(Lane::CONTROL, &Reply::Done).await;
        }
    }

    /// Hears one round of packages to its end: their numbers, and whether any of them makes use of what is held.
    async fn round(&mut self) -> (Vec<u32>, bool) {
        let (mut numbers, mut uses_held) = (Vec::new(), false);
        loop {
            let (_, body) = self.hear().await;
            match decode::<Request<'_>>(&body).expect("a request") {
                Request::Package { number, .. } => numbers.push(number),
                Request::Entries { entries } => {
                    uses_held |= entries.iter().any(|entry| matches!(&entry.kind, Kind::File { copy: Some(_), .. }));
                }
                Request::Piece(piece) => uses_held |= !piece.base.is_empty(),
                Request::Publish => return (numbers, uses_held),
                Request::Own { .. }
                | Request::Begin { .. }
                | Request::Data(_)
                | Request::Whole { .. }
                | Request::Forget => {}
                other => panic!("{other:?} is no part of sending"),
            }
        }
    }
}

fn id(text: &str) -> PackageId {
    text.parse().expect("a package")
}

/// What a guard hears in the end.
async fn error(guard: &mut LaneGuard<'_>) -> TargetError {
    guard.hear().await.expect_err("an ending")
}

async fn begin_with(bytes: &[u8]) -> TargetError {
    let (remote, mut far) = remote(1 << 20);
    let (begun, ()) = tokio::join!(Conversation::begin(remote, unlimited(), Arc::default()), far.say_bytes(bytes));
    begun.expect_err("no conversation")
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_does_not_greet_is_given_up_after_a_while() {
    for said in [&b"motd\n"[..], format!("{MARKER}\n").as_bytes()] {
        let since = Instant::now();
        let why = begin_with(said).await;
        assert!(matches!(&why, TargetError::Link(text) if text.contains("does not greet")), "{why}");
        assert_eq!(since.elapsed().as_secs(), 30);
    }
}

#[tokio::test(start_paused = true)]
async fn endless_noise_is_not_read_for_ever() {
    for line in ["noise\n", "noise without an end "] {
        let why = begin_with(line.repeat(20_000).as_bytes()).await;
        assert!(matches!(&why, TargetError::Refused(text) if text.contains("nothing endless")), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_protocol_is_for_an_operator_to_mend() {
    let (remote, mut far) = remote(1 << 20);
    let (begun, ()) = tokio::join!(Conversation::begin(remote, unlimited(), Arc::default()), far.greet(PROTOCOL + 1));
    let why = begun.expect_err("no conversation");
    assert!(
        matches!(&why, TargetError::Operator(text) if text.contains(&format!("protocol {}", PROTOCOL + 1)) && !text.contains('\x1b')),
        "{why}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_no_frame_of_a_receiver_ends_the_conversation() {
    let [a, b, c, d] = u32::try_from(LONGEST_BODY + 1).expect("a length").to_le_bytes();
    let cases: [(&[u8], &str); 6] = [
        (&[a, b, c, d, 0], "262145 bytes"),
        (&[1, 0, 0, 0, LANES, 7], "lane 8"),
        (&[1, 0, 0, 0, 0, 99], "cannot be understood"),
        (&[2, 0, 0, 0, 0, 7, 0], "left over"),
        (&[2, 0, 0, 0, 2, 2, 1], "more credit than"),
        (&[0, 0, 0, 0, 0], "cannot be understood"),
    ];
    for (bytes, words) in cases {
        let (conversation, mut far) = begun(1 << 20).await;
        let mut guard = conversation.lane(Lane::CONTROL).await;
        far.say_bytes(bytes).await;
        let why = error(&mut guard).await;
        assert!(matches!(&why, TargetError::Refused(text) if text.contains(words)), "{words}: {why}");
        assert!(conversation.is_over());
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_frame_is_a_broken_link() {
    let (conversation, mut far) = begun(1 << 20).await;
    let mut guard = conversation.lane(Lane::CONTROL).await;
    far.say_bytes(&[9, 0, 0, 0, 0, 3]).await;
    drop(far);
    assert!(matches!(error(&mut guard).await, TargetError::Link(_)));
}

#[tokio::test(start_paused = true)]
async fn an_answer_out_of_turn_ends_the_request_and_the_conversation() {
    let welcome = Reply::Welcome { protocol: PROTOCOL, version: "1", remains: vec![] };
    for reply in [welcome, Reply::Held { number: 1, files: vec![] }, Reply::Lacks { number: 1 }] {
        let (conversation, mut far) = begun(1 << 20).await;
        let mut guard = conversation.lane(Lane::CONTROL).await;
        guard.say(&Request::List { buckets: vec![], installed: vec![] }).await.expect("credit");
        far.say(Lane::CONTROL, &reply).await;
        let answer = guard.answer(Bounds::NONE, |_| Ok(())).await;
        assert!(matches!(&answer, Err(TargetError::Refused(text)) if text.contains("nothing asked for")), "{answer:?}");
        drop(guard);
        assert!(conversation.is_over());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_dropped_in_its_middle_ends_the_conversation_and_a_settled_one_does_not() {
    let (conversation, _far) = begun(1 << 20).await;
    conversation.lane(Lane::TAGS).await.settled();
    assert!(!conversation.is_over());
    let guard = conversation.lane(Lane::CONTROL).await;
    guard.say(&Request::Publish).await.expect("credit");
    drop(guard);
    assert!(conversation.is_over());
    let mut other = conversation.lane(Lane::TAGS).await;
    assert!(error(&mut other).await.to_string().contains("given up before its answer"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_far_end_is_dead_after_45_seconds() {
    let (conversation, mut far) = begun(1 << 20).await;
    far.work = None;
    let mut guard = conversation.lane(Lane::CONTROL).await;
    let since = Instant::now();
    let why = tokio::select! {
        why = error(&mut guard) => why,
        () = far.listen() => unreachable!("it listens for ever"),
    };
    assert!(matches!(&why, TargetError::Link(text) if text.contains("no sign of life for 45 s")), "{why}");
    assert!((45..=55).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_lane_with_work_that_stands_still_for_120_seconds_ends_the_conversation_and_an_idle_one_does_not() {
    let (conversation, mut far) = begun(1 << 20).await;
    let hour = timeout(Duration::from_secs(3600), far.listen()).await;
    assert!(hour.is_err() && !conversation.is_over(), "nobody asked for anything");

    let mut guard = conversation.lane(Lane::BULK).await;
    let since = Instant::now();
    let why = tokio::select! {
        why = error(&mut guard) => why,
        () = far.listen() => unreachable!("it listens for ever"),
    };
    assert!(matches!(&why, TargetError::Link(text) if text.contains("no progress for 120 s")), "{why}");
    // It is looked at every 8 s, and stood still at the look before.
    assert!((111..=140).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_gets_on_slowly_is_waited_for() {
    let (conversation, mut far) = begun(1 << 20).await;
    let _strand = conversation.lane(Lane::BULK).await;
    for _ in 0..20 {
        assert!(timeout(Duration::from_secs(60), far.listen()).await.is_err());
        far.work.as_mut().expect("it answers")[2] += 1;
    }
    assert!(!conversation.is_over());
}

#[tokio::test(start_paused = true)]
async fn a_lane_without_credit_waits_and_holds_up_no_other() {
    let (conversation, mut far) = begun(16 << 20).await;
    let bulk = conversation.lane(Lane::BULK).await;
    let data = vec![0; MOST_DATA];
    let flood = async {
        for _ in 0..FIRST_CREDIT as usize / MOST_DATA + 1 {
            bulk.say(&Request::Data(&data)).await.expect("credit");
        }
    };
    assert!(timeout(Duration::from_secs(5), flood).await.is_err(), "it has no credit for the last ones");
    let tags = conversation.lane(Lane::TAGS).await;
    tags.say(&Request::Publish).await.expect("credit of its own");
    while far.hear().await.0 != Lane::TAGS {}

    far.say(Lane::BULK, &Reply::Credit { bytes: 2 * MOST_DATA as u32 }).await;
    bulk.say(&Request::Data(&data)).await.expect("credit was given");
}

#[tokio::test(start_paused = true)]
async fn a_tag_overtakes_what_waits_for_the_link() {
    // A link that takes next to nothing at a time.
    let (conversation, mut far) = begun(1 << 10).await;
    let (bulk, tags) = (conversation.lane(Lane::BULK).await, conversation.lane(Lane::TAGS).await);
    let data = vec![0; MOST_DATA];
    for _ in 0..20 {
        bulk.say(&Request::Data(&data)).await.expect("credit");
    }
    tokio::task::yield_now().await;
    tags.say(&Request::Publish).await.expect("credit");
    let mut before = 0;
    while far.hear().await.0 != Lane::TAGS {
        before += 1;
    }
    assert!(before <= 1, "{before} frames went before it");
}

/// A package in a scratch archive.
fn item(archive: &Path, package: &str, held: &[u8]) -> TransferItem {
    let package = id(package);
    let path = archive.join(package.path());
    fs::create_dir_all(&path).expect("a directory");
    fs::write(path.join("held"), held).expect("a file");
    fs::write(path.join("descpkg"), package.version.as_str()).expect("a file");
    let descpkg = fs::File::options().append(true).open(path.join("descpkg")).expect("a file");
    descpkg.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(TIME)).expect("a time");
    TransferItem {
        package,
        archive: archive.into(),
        time: TIME as i64,
        size: Size { bytes: 9, entries: 3 },
        rule: Rule::New,
        tagged: None,
        print: None,
        orders: None,
    }
}

const TIME: u64 = 1_700_000_000;

/// Us, as owner of the archive.
fn owner() -> Owner {
    Owner { home: RandomId::from_random([7; 16]), target: "perth".parse().expect("a name") }
}

/// Sends `p@2` to a target that holds `p@1`, while `answer` is the far end; how that ended, and what was told.
async fn sent(answer: impl AsyncFnOnce(&mut FarEnd)) -> (Result<(), TargetError>, Vec<(PackageId, Delivery)>) {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    item(scratch.path(), "p@1", b"the same in both");
    let item = item(scratch.path(), "p@2", b"the same in both");
    let (conversation, mut far) = begun(1 << 20).await;
    let held = HeldVersions::from([(item.package.name.clone(), BTreeMap::from([(id("p@1").version, TIME as i64)]))]);
    let cache = Arc::new(PackCache::new(scratch.path().join("store")));
    let transfer = LaneTransfer {
        conversation: &conversation,
        lane: Lane::BULK,
        reserve: 0,
        codec: Codec::Referring,
        held: &held,
        cache: &cache,
        leftovers: &Leftovers::default(),
        owner: owner().to_string(),
    };
    let told = Mutex::new(Vec::new());
    let tell = |news: Vec<_>| told.lock().expect("a list").extend(news);
    let (numbers, progress) = (AtomicU32::new(1), Arc::default());
    let sending = transfer.send(vec![item], &numbers, &progress, &tell);
    let (sent, ()) = tokio::join!(sending, answer(&mut far));
    if matches!(sent, Ok(()) | Err(TargetError::Space(_))) {
        assert!(!conversation.is_over(), "what was answered to its end leaves others in peace: {sent:?}");
    }
    (sent, told.into_inner().expect("a list"))
}

#[tokio::test]
async fn what_the_target_cannot_make_of_what_it_holds_is_sent_again_without() {
    let (sent, told) = sent(async |far| {
        let (first, uses_held) = far.round().await;
        assert!(uses_held, "the first try refers to what is held");
        far.say(Lane::BULK, &Reply::Done).await;
        far.say(Lane::BULK, &Reply::Lacks { number: first[0] }).await;
        far.say(Lane::BULK, &Reply::Done).await;
        let (second, uses_held) = far.round().await;
        assert!(!uses_held && second.len() == 1 && second != first, "{first:?} {second:?}");
        far.say(Lane::BULK, &Reply::Done).await;
        far.say(Lane::BULK, &Reply::Lines("published p 2\n")).await;
        far.say(Lane::BULK, &Reply::Done).await;
    })
    .await;
    assert_eq!((sent, told), (Ok(()), vec![(id("p@2"), Delivery::Published)]));
}

#[tokio::test]
async fn a_target_that_lacks_what_it_was_not_told_to_use_is_not_asked_for_ever() {
    let (sent, told) = sent(async |far| {
        for _ in 0..2 {
            let (numbers, _) = far.round().await;
            far.say(Lane::BULK, &Reply::Done).await;
            far.say(Lane::BULK, &Reply::Lacks { number: numbers[0] }).await;
            far.say(Lane::BULK, &Reply::Done).await;
        }
    })
    .await;
    assert!(sent.is_ok() && matches!(&told[..], [(package, Delivery::Failed(_))] if *package == id("p@2")), "{told:?}");
}

#[test]
fn packages_are_spread_over_the_lanes_in_their_order_with_their_versions_together() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let items = ["z@2", "a@1", "z@1", "b@1", "z@10"].map(|package| item(scratch.path(), package, b"held"));
    let shares: Vec<Vec<String>> =
        spread(&items).iter().map(|share| share.iter().map(|item| item.package.to_string()).collect()).collect();
    assert_eq!(shares, [vec!["z@1", "z@2", "z@10"], vec!["a@1", "b@1"]]);
}

#[tokio::test]
async fn a_failure_in_the_middle_is_an_error_and_nothing_is_told_as_delivered() {
    for (class, full) in [(Class::Space, true), (Class::Refused, false)] {
        let (sent, told) = sent(async |far| {
            far.round().await;
            far.say(Lane::BULK, &Reply::Done).await;
            far.say(Lane::BULK, &Reply::Failed { class, text: "writing failed\x1b[31m" }).await;
            far.say(Lane::BULK, &Reply::Done).await;
        })
        .await;
        let error = sent.expect_err("a failure");
        assert_eq!(matches!(&error, TargetError::Space(_)), full);
        assert!(!error.to_string().contains('\x1b') && told.is_empty(), "{error} {told:?}");
    }
}

#[tokio::test]
async fn a_receiver_that_goes_away_in_the_middle_is_a_broken_link() {
    let (sent, told) = sent(async |far| {
        far.round().await;
        let (_, gone) = remote(1);
        *far = gone;
    })
    .await;
    assert!(matches!(sent, Err(TargetError::Link(_))) && told.is_empty(), "{sent:?}");
}

#[test]
fn only_files_of_ours_are_named_as_outdated() {
    assert_eq!(outdated_file("outdated pkg_mon"), Some("pkg_mon"));
    assert_eq!(outdated_file("outdated blat-receiver"), Some("blat-receiver"));
    for line in ["outdated", "outdated ", "outdated ../pkg_mon", "outdated pkg_mon ", "current pkg_mon"] {
        assert_eq!(outdated_file(line), None, "{line}");
    }
}
