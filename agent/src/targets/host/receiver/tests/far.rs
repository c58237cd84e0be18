//! Roads with a length and a rate, simulated: what conversations learn of them, and whether deltas are made.

use blat_domain::flow::throughput::Throughput;
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};

use super::*;

const MEGABYTE: f64 = 1e6;

/// What arrived at the far end.
#[derive(Debug, Default)]
struct Arrived {
    /// Bytes of packages.
    data: usize,
    /// Pieces that refer to files which the target holds.
    referring: usize,
}

/// A road to a receiver that takes all and gives credit at once.
struct Road {
    throughput: Arc<Mutex<Throughput>>,
    arrived: Arc<Mutex<Arrived>>,
    /// Bytes a second.
    rate: f64,
    round_trip: Duration,
}

impl Road {
    fn new(rate: f64, round_trip_ms: u64) -> Self {
        let round_trip = Duration::from_millis(round_trip_ms);
        Self { throughput: Arc::default(), arrived: Arc::default(), rate: rate * MEGABYTE, round_trip }
    }

    /// A conversation over it that has begun.
    async fn conversation(&self) -> Conversation {
        let (stdin, near_input) = duplex(64 << 10);
        let (far_input, input) = duplex(64 << 10);
        let (output, far_output) = duplex(64 << 10);
        let (near_output, stdout) = duplex(64 << 10);
        tokio::spawn(pass(near_input, far_input, self.rate, self.round_trip / 2));
        tokio::spawn(pass(far_output, near_output, 1e9, self.round_trip / 2));
        tokio::spawn(receive(FarEnd { input, output, work: Some(vec![0; LANES.into()]) }, self.arrived.clone()));
        let remote = Remote {
            stdin: Box::pin(stdin),
            stdout: Box::pin(stdout),
            stderr: Box::pin(tokio::io::empty()),
            exit: Box::pin(std::future::ready(Ok(Exit::Code(0)))),
        };
        Conversation::begin(remote, unlimited(), self.throughput.clone()).await.expect("a greeting")
    }
}

/// Carries bytes at a rate, and each of them for a while. What is taken at once waits in a queue, as in routers and sockets.
async fn pass(mut from: DuplexStream, mut to: DuplexStream, rate: f64, delay: Duration) {
    let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let taking = async move {
        let (mut free, mut buffer) = (Instant::now(), vec![0; 16 << 10]);
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            free = free.max(Instant::now()) + Duration::from_secs_f64(count as f64 / rate);
            if queue.send((free + delay, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let giving = async move {
        while let Some((due, bytes)) = queued.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(taking, giving);
}

/// Takes whatever comes, as a receiver does that publishes everything.
async fn receive(mut far: FarEnd, arrived: Arc<Mutex<Arrived>>) {
    far.greet(PROTOCOL).await;
    let mut packages = Vec::new();
    while let Some((lane, body)) = far.next().await {
        far.say(lane, &Reply::Credit { bytes: u32::try_from(body.len()).expect("a body") }).await;
        match decode::<Request<'_>>(&body).expect("a request") {
            Request::Data(data) => arrived.lock().expect("a count").data += data.len(),
            Request::Piece(piece) => arrived.lock().expect("a count").referring += usize::from(!piece.base.is_empty()),
            Request::Package { package, .. } => packages.push(package),
            Request::Begin { .. } => far.say(lane, &Reply::Done).await,
            Request::Publish => {
                for PackageId { name, version } in packages.drain(..) {
                    far.say(lane, &Reply::Lines(&format!("published {name} {version}\n"))).await;
                }
                far.say(lane, &Reply::Done).await;
            }
            _ => {}
        }
    }
}

/// Sends so many bytes on a lane, as fast as they are taken.
async fn flood(conversation: &Conversation, lane: Lane, bytes: usize) {
    let guard = conversation.lane(lane).await;
    let mut frame = Vec::new();
    append(&mut frame, lane, &Request::Data(&[0; MOST_DATA])).expect("a frame that fits");
    for _ in 0..bytes / MOST_DATA {
        guard.sender().send(frame.clone()).await.expect("credit");
    }
    guard.settled();
}

/// Sends the next version of a package with a library that has changed in one byte, as a tag asks for it.
async fn send_next(conversation: &Conversation) {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let mut library = noise(500_000);
    item(scratch.path(), "p@1", &library);
    library[1_000] ^= 1;
    let item = item(scratch.path(), "p@2", &library);
    let held = HeldVersions::from([(item.package.name.clone(), BTreeMap::from([(id("p@1").version, TIME as i64)]))]);
    let transfer = LaneTransfer {
        conversation,
        lane: Lane::TAGS,
        reserve: 0,
        codec: codec(true, conversation.deltas_pay()),
        held: &held,
        cache: &Arc::new(PackCache::new(scratch.path().join("store"))),
        leftovers: &Leftovers::default(),
        owner: owner().to_string(),
    };
    let told = Mutex::new(Vec::new());
    let tell = |news: Vec<_>| told.lock().expect("a list").extend(news);
    transfer.send(vec![item], &AtomicU32::new(1), &Arc::default(), &tell).await.expect("a road");
    assert_eq!(told.into_inner().expect("a list"), [(id("p@2"), Delivery::Published)]);
}

/// Bytes that no compression makes smaller.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

#[tokio::test(start_paused = true)]
async fn after_a_hundred_small_tags_over_an_idle_far_road_the_delta_of_the_next_package_is_made() {
    let road = Road::new(25.0, 50);
    let conversation = road.conversation().await;
    for _ in 0..100 {
        flood(&conversation, Lane::TAGS, 2 * MOST_DATA).await;
        sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(std::mem::take(&mut *road.arrived.lock().expect("a count")).data, 200 * MOST_DATA, "all has arrived");

    // Packing takes real time.
    tokio::time::resume();
    send_next(&conversation).await;
    let arrived = road.arrived.lock().expect("a count");
    assert!(arrived.referring > 0 && arrived.data < 10_000, "{arrived:?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_road_shows_whether_deltas_pay_and_the_next_conversation_knows() {
    for (rate, round_trip_ms, lane, deltas_pay) in [
        (80.0, 50, Lane::BULK, false),
        (25.0, 50, Lane::BULK, true),
        (25.0, 50, Lane::TAGS, true),
        (5.0, 1, Lane::BULK, true),
        (5.0, 1, Lane::TAGS, true),
        (80.0, 1, Lane::BULK, false),
    ] {
        let shown = format!("{rate} MB/s, {round_trip_ms} ms, {lane:?}");
        let road = Road::new(rate, round_trip_ms);
        let conversation = road.conversation().await;
        assert_eq!(conversation.deltas_pay(), round_trip_ms > 5, "by the distance: {shown}");
        flood(&conversation, lane, (2.0 * rate * MEGABYTE) as usize).await;
        assert_eq!(conversation.deltas_pay(), deltas_pay, "{shown}");
        drop(conversation);
        assert_eq!(road.conversation().await.deltas_pay(), deltas_pay, "the next one: {shown}");
    }
}
