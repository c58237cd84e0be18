//! The master's socket: one request a connection, bounded in length, number and patience.
//!
//! Requests are handed to the loop, which answers from memory. A connection that dawdles or floods harms only itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use blat_domain::protocol::exit_code::FAILED;
use blat_domain::protocol::messages::{Answer, MasterRequest};
use rustix::process::getuid;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use crate::agent::lines;
use crate::agent::lines::Piece;
use crate::fleet::sync_waiters::Asker;

/// The most connections at a time.
const MOST: usize = 64;
/// How long a connection may take to say what it wants, and to take an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest request in bytes.
const LONGEST_REQUEST: usize = 256 << 10;
/// How long the master waits at its end for answers to go out.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// The pause after a connection could not be taken (no descriptors left), so that waiting costs no processor time.
const PAUSE: Duration = Duration::from_millis(100);

/// What connections tell the loop.
#[derive(Debug)]
pub(crate) enum Call {
    /// Somebody asks for something.
    Asked(Asker, MasterRequest, Reply),
    /// Whoever asked is gone or served.
    Left(Asker),
}

/// The way back to whoever asked; `unsent` counts the answers of all connections that are on their way. Dropping it ends the connection, once all answers are out.
///
/// The queue has no bound of its own: progress is queued only while it is empty, and of all else there is one line a
/// target at most.
#[derive(Debug)]
pub(crate) struct Reply {
    answers: mpsc::UnboundedSender<Answer>,
    unsent: Arc<AtomicUsize>,
}

impl Reply {
    /// Queues an answer; mere progress only when all before it is out.
    pub(crate) fn send(&self, answer: Answer) {
        let is_progress = matches!(answer, Answer::Progress { .. });
        if is_progress && self.unsent.load(Ordering::Acquire) > 0 {
            return;
        }
        self.unsent.fetch_add(1, Ordering::AcqRel);
        if self.answers.send(answer).is_err() {
            // Whoever asked hung up, which the loop hears in its own way.
            self.unsent.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The socket's side of the master.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    calls: mpsc::Sender<Call>,
    open: Arc<Semaphore>,
    askers: Arc<AtomicU64>,
    unsent: Arc<AtomicUsize>,
}

impl Server {
    /// A server that hands its requests to `calls`.
    pub(crate) fn new(calls: mpsc::Sender<Call>) -> Self {
        Self { calls, open: Arc::new(Semaphore::new(MOST)), askers: Arc::default(), unsent: Arc::default() }
    }

    /// Takes connections for ever.
    pub(crate) async fn serve(self, listener: UnixListener) {
        loop {
            // Those beyond the most wait in the kernel's queue.
            let Ok(place) = Arc::clone(&self.open).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    tokio::spawn(async move {
                        if let Err(error) = server.converse(stream).await {
                            tracing::debug!(%error, "a connection ended early");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Waits until the answers given so far are out, or their readers have lost their chance.
    pub(crate) async fn flushed(&self) {
        let deadline = Instant::now() + LAST_ANSWERS;
        while self.unsent.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn converse(&self, stream: UnixStream) -> io::Result<()> {
        let peer = stream.peer_cred()?.uid();
        let (from, mut to) = stream.into_split();
        let mut from = BufReader::new(from);
        if peer != getuid().as_raw() && peer != 0 {
            return refuse(&mut to, "only the owner of the home tree may speak to its master").await;
        }
        let line = match timeout(PATIENCE, lines::next(&mut from, LONGEST_REQUEST)).await {
            Ok(Ok(Some(Piece::Line(line)))) => line,
            Ok(Ok(Some(Piece::TooLong))) => return refuse(&mut to, "the request is too long").await,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return refuse(&mut to, "no request came in time").await,
        };
        match serde_json::from_slice(&line) {
            Ok(request) => self.ask(request, from, to).await,
            Err(error) => refuse(&mut to, &format!("the request is not understood: {error}")).await,
        }
    }

    /// Hands the request over, and answers back until all are out or the other end hangs up.
    async fn ask(&self, request: MasterRequest, from: BufReader<OwnedReadHalf>, to: OwnedWriteHalf) -> io::Result<()> {
        let asker = Asker(self.askers.fetch_add(1, Ordering::Relaxed));
        let (answers, queue) = mpsc::unbounded_channel();
        let reply = Reply { answers, unsent: Arc::clone(&self.unsent) };
        // A short answer comes even to an end that said that it will say no more; a long wait would be for nobody.
        let is_long = matches!(request, MasterRequest::Sync { wait: true, .. });
        if self.calls.send(Call::Asked(asker, request, reply)).await.is_err() {
            return Ok(());
        }
        let result = self.answer(queue, from, to, is_long).await;
        // The loop is gone only when the whole master is about to be.
        let _ = self.calls.send(Call::Left(asker)).await;
        result
    }

    async fn answer(
        &self,
        mut queue: mpsc::UnboundedReceiver<Answer>,
        mut from: BufReader<OwnedReadHalf>,
        mut to: OwnedWriteHalf,
        is_long: bool,
    ) -> io::Result<()> {
        let mut hung_up = false;
        let result = loop {
            tokio::select! {
                biased;
                answer = queue.recv() => {
                    let Some(answer) = answer else { break Ok(()) };
                    let sent = send(&mut to, &answer).await;
                    self.unsent.fetch_sub(1, Ordering::AcqRel);
                    if sent.is_err() {
                        break sent;
                    }
                }
                // Nothing more is expected from there: whatever comes is ignored up to the end.
                more = lines::next(&mut from, 0), if !hung_up => hung_up = !matches!(more, Ok(Some(_))),
            }
            if hung_up && is_long {
                break Ok(());
            }
        };
        queue.close();
        while queue.try_recv().is_ok() {
            self.unsent.fetch_sub(1, Ordering::AcqRel);
        }
        result
    }
}

async fn refuse(to: &mut OwnedWriteHalf, error: &str) -> io::Result<()> {
    send(to, &Answer::Refused { error: error.to_owned(), exit_code: FAILED }).await
}

/// Writes one answer, or gives up on an end that does not read.
async fn send(to: &mut OwnedWriteHalf, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    timeout(PATIENCE, to.write_all(&line)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
