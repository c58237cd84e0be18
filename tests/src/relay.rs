//! A relay between agent and sshd that breaks links on order: cut, reset, damaged, or swallowed without a word.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Pieces of at most 16 KiB that may be on their way over a long road.
const ON_THE_WAY: usize = 256;

/// What becomes of one link, once so many bytes went from the agent to the target.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Both ends are closed in order.
    Cut(u64),
    /// Both ends are reset.
    Reset(u64),
    /// One bit of the next piece arrives changed.
    Flip(u64),
    /// From here on nothing passes, and nobody is told.
    Swallow(u64),
}

impl Fault {
    fn after(self) -> u64 {
        match self {
            Self::Cut(after) | Self::Reset(after) | Self::Flip(after) | Self::Swallow(after) => after,
        }
    }
}

/// A port that leads to another one of this machine.
pub struct Relay {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    coming: Mutex<VecDeque<Fault>>,
    links: Mutex<Vec<Arc<Link>>>,
    /// Bytes that came from the agent, over all links.
    sent: Arc<AtomicU64>,
    turns: Arc<Turns>,
}

/// Who spoke last over any link, and how often the agent did after the target had.
#[derive(Default)]
struct Turns {
    was_target: AtomicBool,
    count: AtomicU64,
}

impl Turns {
    fn spoke(&self, is_target: bool) {
        if self.was_target.swap(is_target, Ordering::Relaxed) && !is_target {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Link {
    near: TcpStream,
    far: TcpStream,
    /// How long a byte is on its way.
    delay: Duration,
    state: Mutex<State>,
    all_sent: Arc<AtomicU64>,
    turns: Arc<Turns>,
}

struct State {
    fault: Option<Fault>,
    /// Bytes from the agent until now.
    sent: u64,
    swallows: bool,
}

impl Relay {
    /// A relay to this port, which ends with the test's process.
    pub fn to(port: u16) -> Self {
        Self::over(port, Duration::ZERO)
    }

    /// The same, where a byte needs so long to the other end and back. Like a router's queue it takes much at once.
    pub fn far(port: u16, round_trip: Duration) -> Self {
        Self::over(port, round_trip / 2)
    }

    /// The same as [`Self::to`] at another address, which `make` gives once it knows the relay's port.
    pub fn listening(port: u16, make: impl FnOnce(u16) -> String) -> Self {
        let own = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let listener = TcpListener::bind((make(own), own)).expect("the same port at another address");
        Self::from(listener, port, Duration::ZERO)
    }

    fn over(port: u16, delay: Duration) -> Self {
        Self::from(TcpListener::bind("127.0.0.1:0").expect("a free port"), port, delay)
    }

    fn from(listener: TcpListener, port: u16, delay: Duration) -> Self {
        let own = listener.local_addr().expect("a bound port").port();
        let shared: Arc<Shared> = Arc::default();
        let all = shared.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let fault = own_lock(&all.coming).pop_front();
                let state = Mutex::new(State { fault, sent: 0, swallows: false });
                let (all_sent, turns) = (all.sent.clone(), all.turns.clone());
                let link = Arc::new(Link { near, far, delay, state, all_sent, turns });
                own_lock(&all.links).push(link.clone());
                let back = link.clone();
                thread::spawn(move || link.pass(true));
                thread::spawn(move || back.pass(false));
            }
        });
        Self { port: own, shared }
    }

    /// The next links break like this, one each; those after them are sound.
    pub fn breaks(&self, faults: &[Fault]) {
        own_lock(&self.shared.coming).extend(faults);
    }

    /// Whether every ordered fault has found its link.
    pub fn all_broken(&self) -> bool {
        own_lock(&self.shared.coming).is_empty()
    }

    /// Bytes that have come from the agent until now, over all links.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// How often the agent has sent something after the target had, until now and over all links: hardly more often than there were round trips.
    pub fn turns(&self) -> u64 {
        self.shared.turns.count.load(Ordering::Relaxed)
    }

    /// Whatever links stand now are black holes from here on; new ones are not.
    pub fn swallow(&self) {
        own_lock(&self.shared.links).iter().for_each(|link| own_lock(&link.state).swallows = true);
    }

    /// Cuts whatever links stand now.
    pub fn cut(&self) {
        own_lock(&self.shared.links).drain(..).for_each(|link| link.close());
    }
}

impl Link {
    fn pass(&self, towards_target: bool) {
        let (from, to) = if towards_target { (&self.near, &self.far) } else { (&self.far, &self.near) };
        if self.delay.is_zero() {
            return self.take(towards_target, from, |piece| (&*to).write_all(piece).is_ok());
        }
        let (on_the_way, arriving) = sync_channel(ON_THE_WAY);
        thread::scope(|scope| {
            scope.spawn(move || arrive(arriving, to));
            let due = |piece: &[u8]| on_the_way.send((Instant::now() + self.delay, piece.to_vec())).is_ok();
            self.take(towards_target, from, due);
            drop(on_the_way);
        });
    }

    /// Takes what comes from one end and gives it to `pass`, until either has an end.
    fn take(&self, towards_target: bool, mut from: &TcpStream, pass: impl Fn(&[u8]) -> bool) {
        let mut buffer = [0; 16 << 10];
        while let Ok(count) = from.read(&mut buffer) {
            let piece = &mut buffer[..count];
            self.turns.spoke(!towards_target);
            if towards_target && !self.let_through(piece) {
                return;
            }
            if count > 0 && own_lock(&self.state).swallows {
                continue;
            }
            if count == 0 || !pass(piece) {
                break;
            }
        }
        self.close();
    }

    /// Counts a piece from the agent and does to it what was ordered; false when that was the link's end.
    fn let_through(&self, piece: &mut [u8]) -> bool {
        let mut state = own_lock(&self.state);
        state.sent += piece.len() as u64;
        self.all_sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        let Some(fault) = state.fault.filter(|fault| state.sent > fault.after()) else { return true };
        state.fault = None;
        match fault {
            Fault::Flip(_) => piece.iter_mut().last().into_iter().for_each(|byte| *byte ^= 0x10),
            Fault::Swallow(_) => state.swallows = true,
            Fault::Cut(_) => self.close(),
            Fault::Reset(_) => self.reset(),
        }
        !matches!(fault, Fault::Cut(_) | Fault::Reset(_))
    }

    fn close(&self) {
        for end in [&self.near, &self.far] {
            // It may be gone already.
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    fn reset(&self) {
        for end in [&self.near, &self.far] {
            // Linux answers this with a reset at once, though other threads still hold the socket.
            rustix::net::connect_unspec(end).expect("a socket");
        }
    }
}

/// Gives each piece to the other end when its time has come.
fn arrive(pieces: Receiver<(Instant, Vec<u8>)>, mut to: &TcpStream) {
    for (due, piece) in pieces {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            return;
        }
    }
}

fn own_lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().expect("no thread of the relay panics with it")
}
