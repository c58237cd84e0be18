//! One conversation with a receiver: frames both ways over one channel, kept as long as it lasts.
//!
//! Whoever wants something takes a lane for himself, speaks, listens, and gives it back settled. A lane that is dropped in the middle of a
//! request ends the conversation, since nobody could tell what the next answer on it belongs to.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use blat_domain::archive::listing_digest::USUAL;
use blat_domain::flow::throughput::{NEAR, Throughput};
use blat_domain::package::name::PackageId;
use blat_domain::protocol::frames::{FIRST_CREDIT, HEADER, LANES, Lane, PROTOCOL, Reply, Request, append, header};
use blat_domain::util::text::printable;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Mutex, MutexGuard, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::marker::skip_noise;
use super::outbox::Outbox;
use super::{broke, congestion, out_of_turn, protocol_error, refused, understand};
use crate::flow::rate_limit::RateLimiter;
use crate::model::error::TargetError;
use crate::targets::host::receiver::congestion::Pacing;
use crate::targets::host::receiver::watchdog::{Duty, Watchdog};
use crate::transport::bounded::{Bounds, StderrExcerpt};
use crate::transport::{Exit, Remote};

/// From starting the receiver to its greeting.
const GREETING: Duration = Duration::from_secs(30);
/// How long a receiver whose conversation broke may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Replies that may wait for whoever listens on a lane: nobody listens on more than four at once, and none is longer than a frame, so all of them
/// take 16 MiB at the most.
const REPLIES: usize = 16;

/// A receiver that answers.
#[derive(Debug)]
pub(crate) struct Conversation {
    shared: Arc<Shared>,
    lanes: Vec<Mutex<mpsc::Receiver<Vec<u8>>>>,
    remains: std::sync::Mutex<BTreeSet<PackageId>>,
    /// From a question to its answer, in nanoseconds: the least that was seen.
    round_trip: AtomicU64,
    talk: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    outbox: Outbox,
    pacing: Pacing,
    limiter: Arc<RateLimiter>,
    lanes: [LaneState; LANES as usize],
    ended: watch::Sender<Option<TargetError>>,
}

#[derive(Debug)]
struct LaneState {
    /// Bytes of bodies that may still be sent.
    credit: Semaphore,
    busy: AtomicBool,
    /// Frames given to the link.
    written: AtomicU64,
}

impl Shared {
    fn lane(&self, lane: Lane) -> &LaneState {
        &self.lanes[usize::from(lane.0)]
    }

    fn duty(&self, lane: usize) -> Duty {
        let LaneState { busy, written, .. } = &self.lanes[lane];
        if !busy.load(Ordering::Acquire) {
            return Duty::Free;
        }
        let held_back = self.outbox.has(lane) && self.limiter.is_closed();
        Duty::Busy { written: written.load(Ordering::Relaxed), held_back }
    }

    fn end(&self, why: TargetError) {
        self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert(why);
            is_first
        });
    }
}

impl Conversation {
    /// Greets a receiver that has just been started. The limiter holds back what is sent to it; `throughput` is what is known of the link there.
    pub(crate) async fn begin(
        remote: Remote,
        limiter: Arc<RateLimiter>,
        throughput: Arc<std::sync::Mutex<Throughput>>,
    ) -> Result<Self, TargetError> {
        let lane_state = || LaneState {
            credit: Semaphore::new(FIRST_CREDIT as usize),
            busy: AtomicBool::new(false),
            written: AtomicU64::new(0),
        };
        let shared = Arc::new(Shared {
            outbox: Outbox::default(),
            pacing: Pacing::new(throughput),
            limiter,
            lanes: std::array::from_fn(|_| lane_state()),
            ended: watch::Sender::new(None),
        });
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..LANES).map(|_| mpsc::channel(REPLIES)).unzip();
        let talk = tokio::spawn(talk(remote, shared.clone(), senders));
        let lanes = receivers.into_iter().map(Mutex::new).collect();
        let conversation =
            Self { shared, lanes, remains: std::sync::Mutex::default(), round_trip: AtomicU64::new(u64::MAX), talk };
        let remains = match timeout(GREETING, conversation.greet()).await {
            Ok(greeted) => greeted?,
            Err(_) => return Err(broke("it does not greet")),
        };
        conversation.set_remains(remains.into_iter().collect());
        Ok(conversation)
    }

    async fn greet(&self) -> Result<Vec<PackageId>, TargetError> {
        let mut guard = self.lane(Lane::CONTROL).await;
        guard.say(&Request::Hello { protocol: PROTOCOL }).await?;
        let body = guard.hear().await?;
        let Reply::Welcome { protocol, version, remains } = understand(&body)? else {
            return Err(broke("its first word is no greeting"));
        };
        if protocol != PROTOCOL {
            return Err(TargetError::Operator(format!(
                "the target's blat-receiver {} speaks protocol {protocol}, this agent {PROTOCOL}; install it anew by `blat enrol`",
                printable(version)
            )));
        }
        guard.settled();
        // That answer took the receiver's start as well.
        self.feel_round_trip().await?;
        self.shared.pacing.begin(self.is_near());
        Ok(remains)
    }

    /// Sees how long it takes to be answered.
    async fn feel_round_trip(&self) -> Result<(), TargetError> {
        let mut guard = self.lane(Lane::CONTROL).await;
        let asked = Instant::now();
        guard.say(&Request::Publish).await?;
        guard.answer(Bounds::NONE, |_| Ok(())).await?;
        guard.settled();
        let took = u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.round_trip.fetch_min(took, Ordering::Relaxed);
        Ok(())
    }

    /// Looks again at how far it is, where that may matter much and only chance may have made it look far: a machine was busy at that moment.
    pub(crate) async fn look_closer(&self) -> Result<(), TargetError> {
        for _ in 0..2 {
            if self.shared.pacing.is_measured() || self.is_near() {
                break;
            }
            self.feel_round_trip().await?;
        }
        Ok(())
    }

    fn is_near(&self) -> bool {
        Duration::from_nanos(self.round_trip.load(Ordering::Relaxed)) <= NEAR
    }

    /// Whether saving bytes pays even if it takes time: by the limit, by what the link has delivered, and before that by the time of a round trip.
    pub(crate) fn deltas_pay(&self) -> bool {
        self.shared.pacing.deltas_pay(self.is_near(), self.shared.limiter.rate())
    }

    /// Packages of which interrupted attempts had left something when the conversation began, and which were not swept since.
    pub(crate) fn remains(&self) -> BTreeSet<PackageId> {
        self.remains.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is left, from now on.
    pub(crate) fn set_remains(&self, remains: BTreeSet<PackageId>) {
        *self.remains.lock().unwrap_or_else(PoisonError::into_inner) = remains;
    }

    /// Whether it has ended, for whatever reason.
    pub(crate) fn is_over(&self) -> bool {
        self.shared.ended.borrow().is_some()
    }

    /// A lane for one request, once it is free.
    pub(crate) async fn lane(&self, lane: Lane) -> LaneGuard<'_> {
        let replies = self.lanes[usize::from(lane.0)].lock().await;
        self.shared.lane(lane).busy.store(true, Ordering::Release);
        LaneGuard { shared: &self.shared, lane, replies, is_settled: false }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.talk.abort();
    }
}

/// A lane in somebody's hands.
pub(crate) struct LaneGuard<'a> {
    shared: &'a Arc<Shared>,
    lane: Lane,
    replies: MutexGuard<'a, mpsc::Receiver<Vec<u8>>>,
    is_settled: bool,
}

impl LaneGuard<'_> {
    /// Somebody who speaks on this lane while another listens.
    pub(crate) fn sender(&self) -> LaneSender {
        LaneSender { shared: self.shared.clone(), lane: self.lane }
    }

    /// Says something as soon as there is credit for it.
    pub(crate) async fn say(&self, request: &Request<'_>) -> Result<(), TargetError> {
        self.sender().say(request).await
    }

    /// The body of the next reply.
    pub(crate) async fn hear(&mut self) -> Result<Vec<u8>, TargetError> {
        match self.replies.recv().await {
            Some(body) => Ok(body),
            None => Err(ended(self.shared).await),
        }
    }

    /// Hears the answer to its end: every line of it to `each`, as many as `bounds` allow. An error of `each` says why nothing asked for a line.
    pub(crate) async fn answer(
        &mut self,
        bounds: Bounds,
        each: impl FnMut(&str) -> Result<(), String>,
    ) -> Result<(), TargetError> {
        match self.whole_answer(bounds, false, each).await? {
            None => Ok(()),
            Some(_) => Err(out_of_turn()),
        }
    }

    /// The same where the receiver asks, once it holds its lock, whether that is still wanted, and hears that it is.
    pub(crate) async fn confirmed_answer(
        &mut self,
        bounds: Bounds,
        each: impl FnMut(&str) -> Result<(), String>,
    ) -> Result<(), TargetError> {
        match self.whole_answer(bounds, true, each).await? {
            None => Ok(()),
            Some(_) => Err(out_of_turn()),
        }
    }

    /// The same for a listing; gives the numbers of the buckets that it was of.
    pub(crate) async fn listing(
        &mut self,
        each: impl FnMut(&str) -> Result<(), String>,
    ) -> Result<Vec<u16>, TargetError> {
        self.whole_answer(Bounds::LISTING, false, each).await?.ok_or_else(out_of_turn)
    }

    async fn whole_answer(
        &mut self,
        mut bounds: Bounds,
        mut may_ask: bool,
        mut each: impl FnMut(&str) -> Result<(), String>,
    ) -> Result<Option<Vec<u16>>, TargetError> {
        let mut listed = None;
        loop {
            let body = self.hear().await?;
            match understand(&body)? {
                Reply::Lines(lines) => take_lines(lines, &mut bounds, &mut each)?,
                Reply::Listed { buckets } if listed.is_none() && buckets.len() <= USUAL => listed = Some(buckets),
                Reply::Done => return Ok(listed),
                Reply::Ready if may_ask => {
                    may_ask = false;
                    self.say(&Request::Go).await?;
                }
                Reply::Failed { class, text } => {
                    self.settle();
                    return Err(super::failed(class, text));
                }
                Reply::Welcome { .. }
                | Reply::Listed { .. }
                | Reply::Held { .. }
                | Reply::Lacks { .. }
                | Reply::Ready
                | Reply::Pong { .. }
                | Reply::Credit { .. } => return Err(out_of_turn()),
            }
        }
    }

    /// The request is answered to its end.
    pub(crate) fn settled(mut self) {
        self.settle();
    }

    /// The same where it is still in somebody's hands.
    pub(super) fn settle(&mut self) {
        self.is_settled = true;
    }
}

impl Drop for LaneGuard<'_> {
    fn drop(&mut self) {
        self.shared.lane(self.lane).busy.store(false, Ordering::Release);
        if !self.is_settled {
            self.shared.end(broke("a request was given up before its answer"));
        } else if self.replies.try_recv().is_ok() {
            // It would be taken for the answer to the next request.
            self.shared.end(out_of_turn());
        }
    }
}

/// Gives each line of a reply to `each`, if there may be so many.
pub(super) fn take_lines(
    lines: &str,
    bounds: &mut Bounds,
    mut each: impl FnMut(&str) -> Result<(), String>,
) -> Result<(), TargetError> {
    if lines.is_empty() {
        return Err(out_of_turn());
    }
    let mut lines = lines.lines();
    lines.try_for_each(|line| bounds.take(line).and_then(|()| each(line))).map_err(|why| protocol_error(&why))
}

/// Speaks on a lane.
#[derive(Debug, Clone)]
pub(crate) struct LaneSender {
    shared: Arc<Shared>,
    lane: Lane,
}

impl LaneSender {
    /// Says something as soon as there is credit for it.
    pub(crate) async fn say(&self, request: &Request<'_>) -> Result<(), TargetError> {
        let mut frame = Vec::new();
        append(&mut frame, self.lane, request).map_err(refused)?;
        self.send(frame).await
    }

    /// Sends a whole frame of this lane as soon as there is credit for it.
    pub(crate) async fn send(&self, frame: Vec<u8>) -> Result<(), TargetError> {
        let body = u32::try_from(frame.len().saturating_sub(HEADER)).unwrap_or(u32::MAX);
        match self.shared.lane(self.lane).credit.acquire_many(body).await {
            Ok(permit) => permit.forget(),
            Err(_) => return Err(ended(&self.shared).await),
        }
        self.shared.outbox.put(self.lane, frame);
        Ok(())
    }
}

/// Why the conversation ended, once that is known.
async fn ended(shared: &Shared) -> TargetError {
    let mut ended = shared.ended.subscribe();
    let known = ended.wait_for(Option::is_some).await;
    match known {
        Ok(why) => why.clone().unwrap_or_else(|| broke("nobody knows why")),
        Err(_) => broke("nobody serves it any more"),
    }
}

/// Serves the conversation until it breaks; then tells everybody why.
async fn talk(remote: Remote, shared: Arc<Shared>, lanes: Vec<mpsc::Sender<Vec<u8>>>) {
    let Remote { stdin, stdout, stderr, exit } = remote;
    let watchdog = Watchdog::default();
    // Read all the time, so that it never blocks on them.
    let mut complaining = tokio::spawn(async move {
        let mut complaints = StderrExcerpt::default();
        complaints.read(stderr).await.map(|()| complaints.all())
    });
    let mut said = None;
    let mut ended = shared.ended.subscribe();
    let why = tokio::select! {
        Err(why) = read(stdout, &shared, &lanes, &watchdog) => why,
        Err(why) = write(stdin, &shared) => why,
        why = watchdog.beat(&shared.outbox, |lane| shared.duty(lane)) => why,
        why = endless(&mut complaining, &mut said) => protocol_error(&why),
        Ok(why) = ended.wait_for(Option::is_some) => why.clone().unwrap_or_else(|| broke("nobody knows why")),
    };
    let why = match why {
        TargetError::Link(why) => last_words(why, complaining, said, exit).await,
        other @ (TargetError::Space(_) | TargetError::Refused(_) | TargetError::Operator(_)) => other,
    };
    shared.end(why);
    shared.lanes.iter().for_each(|lane| lane.credit.close());
}

/// What a receiver complained of, being read.
type Complaining = JoinHandle<Result<String, String>>;

/// Why complaints have no end; never ends where they do, and puts them into `said`.
async fn endless(complaining: &mut Complaining, said: &mut Option<String>) -> String {
    match complaining.await {
        Ok(Err(why)) => return why,
        Ok(Ok(all)) => *said = Some(all),
        // It is read by nobody any more, and ends with its conversation.
        Err(_) => *said = Some(String::new()),
    }
    std::future::pending().await
}

/// Why a link broke: what the receiver has `said` or says now, or how its command ended, tells more than `why`.
async fn last_words(
    why: String,
    complaining: Complaining,
    said: Option<String>,
    exit: impl Future<Output = Result<Exit, TargetError>>,
) -> TargetError {
    let all = async {
        match said {
            Some(said) => (said, exit.await),
            None => (complaining.await.unwrap_or_else(|_| Ok(String::new())).unwrap_or_else(|why| why), exit.await),
        }
    };
    match timeout(LAST_WORDS, all).await {
        Ok((said, _)) if !said.is_empty() => broke(&said),
        Ok((_, Err(TargetError::Link(link)))) => TargetError::Link(format!("{why}; {link}")),
        Ok(_) | Err(_) => TargetError::Link(why),
    }
}

async fn write(mut stdin: Pin<Box<dyn AsyncWrite + Send>>, shared: &Shared) -> Result<(), TargetError> {
    loop {
        let (lane, mut frame) = shared.outbox.take(&shared.limiter, &shared.pacing).await;
        shared.pacing.write(lane, &mut frame).map_err(refused)?;
        shared.lane(lane).written.fetch_add(1, Ordering::Relaxed);
        stdin.write_all(&frame).await.map_err(|error| broke(&error.to_string()))?;
        stdin.flush().await.map_err(|error| broke(&error.to_string()))?;
    }
}

async fn read(
    stdout: impl AsyncRead + Unpin,
    shared: &Shared,
    lanes: &[mpsc::Sender<Vec<u8>>],
    watchdog: &Watchdog,
) -> Result<(), TargetError> {
    let cut = |error: std::io::Error| broke(&error.to_string());
    let mut input = BufReader::with_capacity(128 << 10, stdout);
    skip_noise(&mut input).await?;
    let mut head = [0; HEADER];
    loop {
        input.read_exact(&mut head).await.map_err(cut)?;
        let (length, lane) = header(head).map_err(refused)?;
        let mut body = vec![0; length];
        input.read_exact(&mut body).await.map_err(cut)?;
        match understand(&body)? {
            Reply::Pong { beat, work } => {
                let is_asked =
                    if beat == congestion::QUESTION { shared.pacing.answer() } else { watchdog.is_next(beat) };
                if !is_asked || work.len() > usize::from(LANES) {
                    return Err(out_of_turn());
                }
                watchdog.felt(&work);
                shared.outbox.look_again();
            }
            Reply::Credit { bytes: 0 } => return Err(out_of_turn()),
            Reply::Credit { bytes } => {
                let credit = &shared.lane(lane).credit;
                if credit.available_permits() as u64 + u64::from(bytes) > FIRST_CREDIT {
                    return Err(TargetError::Refused("blat-receiver gives more credit than it was asked for".into()));
                }
                credit.add_permits(bytes as usize);
            }
            Reply::Welcome { .. }
            | Reply::Lines(_)
            | Reply::Listed { .. }
            | Reply::Held { .. }
            | Reply::Lacks { .. }
            | Reply::Ready
            | Reply::Done
            | Reply::Failed { .. } => {
                // Nobody asked for anything on a lane that nobody has.
                if !shared.lane(lane).busy.load(Ordering::Acquire) {
                    return Err(out_of_turn());
                }
                if lanes[usize::from(lane.0)].send(body).await.is_err() {
                    return Err(broke("nobody listens any more"));
                }
            }
        }
    }
}
