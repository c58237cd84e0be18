//! The thread that alone speaks to libssh2: every turn all conversations go on as far as they can, then it waits for any
//! of their streams or the connection.
//!
//! No call blocks. A packet that was sent in part is finished by repeating the call that began it, and until then libssh2 takes no
//! other: so every turn repeats all calls, and those that libssh2 cannot repeat faithfully (the end of an input, a close)
//! are begun only while nothing is half sent and the socket takes more.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use blat_domain::text::printable;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, Channel, Session};

use super::connect::Line;
use super::conversation::Conversation;
use crate::target::transport::greeting::{self, Answer, Listener};

/// How often the far end is asked for an echo.
const BEAT: Duration = Duration::from_secs(10);
/// With an echo outstanding, a connection on which nothing at all arrives for so long is dead.
const SILENCE: Duration = Duration::from_secs(30);
/// How long an echo may take where other things do arrive: a busy slow link delays it.
const STANDSTILL: Duration = Duration::from_secs(120);

/// The longest pause while a command runs. A call for one conversation takes in what has arrived for any, after their turn
/// perhaps, and nothing tells: the next turn finds it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What the calls of one turn found out.
pub(super) struct Turn {
    /// There is more to do without waiting for anything.
    pub(super) again: bool,
    /// Something was left for a turn in which nothing is half sent.
    pub(super) postponed: bool,
    /// A packet is half sent, or was when this turn began.
    half_sent: bool,
    /// A call wants the socket to take more.
    wants_out: bool,
    takes_more: bool,
    door_taken: bool,
}

impl Turn {
    fn new(half_sent: bool, takes_more: bool) -> Self {
        Self { again: false, postponed: false, half_sent, wants_out: false, takes_more, door_taken: false }
    }

    /// What a call gave; none when it has to be repeated later. The text of any other failure is fit for printing.
    pub(super) fn later<T, E: Fault>(&mut self, session: &Session, result: Result<T, E>) -> Result<Option<T>, String> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_later() => {
                let out = matches!(session.block_directions(), BlockDirections::Outbound | BlockDirections::Both);
                self.wants_out |= out;
                self.half_sent |= out;
                Ok(None)
            }
            Err(error) => Err(printable(&error.text())),
        }
    }

    /// Whether a call may begin that libssh2 could not repeat.
    pub(super) fn is_calm(&self) -> bool {
        !self.half_sent && self.takes_more
    }

    /// Whether this conversation is the one whose channel is opened in this turn.
    pub(super) fn take_door(&mut self) -> bool {
        !std::mem::replace(&mut self.door_taken, true)
    }
}

/// An error that may only mean "not now".
pub(super) trait Fault {
    fn is_later(&self) -> bool;
    fn text(&self) -> String;
}

impl Fault for ssh2::Error {
    fn is_later(&self) -> bool {
        // LIBSSH2_ERROR_EAGAIN
        self.code() == ssh2::ErrorCode::Session(-37)
    }

    fn text(&self) -> String {
        self.message().to_owned()
    }
}

impl Fault for io::Error {
    fn is_later(&self) -> bool {
        self.kind() == io::ErrorKind::WouldBlock
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// All that one connection consists of.
pub(super) struct Driver {
    session: Session,
    socket: TcpStream,
    heart: Heart,
    conversations: Vec<Conversation>,
    requests: mpsc::Receiver<Conversation>,
    woken: UnixStream,
    alive: Arc<AtomicBool>,
    place: String,
}

impl Driver {
    pub(super) fn new(
        line: Line,
        requests: mpsc::Receiver<Conversation>,
        woken: UnixStream,
        alive: Arc<AtomicBool>,
        place: String,
    ) -> Self {
        let Line { session, socket, heart, listener } = line;
        Self {
            session,
            socket,
            heart: Heart::new(heart, listener),
            conversations: Vec::new(),
            requests,
            woken,
            alive,
            place,
        }
    }

    /// Serves until the connection breaks or nobody can ask it for anything any more.
    pub(super) fn run(mut self) {
        let why = self.serve();
        self.alive.store(false, Ordering::Release);
        tracing::debug!(target = %self.place, %why, "the connection is gone");
        // Only now may libssh2 free what it holds without waiting for the far end. It may be shut already.
        let _ = self.socket.shutdown(Shutdown::Both);
        let left = self.conversations.into_iter().chain(self.requests.try_iter());
        left.for_each(|conversation| conversation.tell(&why));
    }

    /// Why it ended.
    fn serve(&mut self) -> String {
        let mut half_sent = false;
        loop {
            if !self.take_requests() {
                return "nobody needs it".into();
            }
            let takes_more = !half_sent && self.takes_more();
            let mut turn = Turn::new(half_sent, takes_more);
            if let Err(why) = self.take_turn(&mut turn) {
                return why;
            }
            half_sent = turn.wants_out;
            if let Err(why) = self.wait(&turn) {
                return why;
            }
        }
    }

    /// False when nobody is left who could ask.
    fn take_requests(&mut self) -> bool {
        loop {
            match self.requests.try_recv() {
                Ok(conversation) => self.conversations.push(conversation),
                Err(mpsc::TryRecvError::Empty) => return true,
                Err(mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn takes_more(&self) -> bool {
        let mut polled = [PollFd::new(&self.socket, PollFlags::OUT)];
        poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    fn take_turn(&mut self, turn: &mut Turn) -> Result<(), String> {
        self.heart.beat(&self.session, turn, Instant::now())?;
        for conversation in &mut self.conversations {
            conversation.advance(&self.session, turn)?;
        }
        for conversation in self.conversations.extract_if(.., |conversation| conversation.is_done()) {
            conversation.tell("it was refused");
        }
        Ok(())
    }

    fn wait(&mut self, turn: &Turn) -> Result<(), String> {
        let now = Instant::now();
        // What was put off waits for the socket; where nothing is half sent, the next turn can do it.
        let at_once = turn.again || (turn.postponed && !turn.wants_out && turn.takes_more);
        let due = self.heart.due().saturating_duration_since(now);
        let longest = match (at_once, self.conversations.is_empty()) {
            (true, _) => Duration::ZERO,
            (false, true) => due,
            (false, false) => due.min(LOOK_AGAIN),
        };
        let longest = Timespec { tv_sec: longest.as_secs().cast_signed(), tv_nsec: longest.subsec_nanos().into() };
        let flags = if turn.wants_out || turn.postponed { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        // Where no call takes in what arrives, it waits, and only the end of the connection matters.
        let is_deaf = self.heart.channel.is_none() && self.conversations.is_empty();
        let flags = if is_deaf { PollFlags::RDHUP } else { flags };
        let mut polled = vec![PollFd::new(&self.socket, flags), PollFd::new(&self.woken, PollFlags::IN)];
        self.conversations.iter().for_each(|conversation| conversation.waits_for(&mut polled));
        match poll(&mut polled, Some(&longest)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("cannot wait for it: {error}")),
        }
        let ended = PollFlags::HUP | PollFlags::ERR | PollFlags::RDHUP;
        if is_deaf && polled[0].revents().intersects(ended) {
            return Err("the host ended it".to_owned());
        }
        let heard = polled[0].revents().contains(PollFlags::IN);
        let called = !polled[1].revents().is_empty();
        if heard {
            self.heart.heard = Instant::now();
        }
        if called {
            let mut calls = [0; 64];
            // How many calls there were does not matter, and the end of them shows in the requests.
            let _ = self.woken.read(&mut calls);
        }
        Ok(())
    }
}

/// The far end's `cat`, whose echo shows that it lives, or a receiver in its place. Reading it also takes in whatever arrives for anybody.
/// Where there is none, commands have to notice themselves that nothing comes.
struct Heart {
    channel: Option<Channel>,
    listener: Listener,
    /// What is not sent yet of the question.
    question: Vec<u8>,
    asked: Option<Instant>,
    /// What has come of the answer.
    answer: Answer,
    next: Instant,
    /// When anything arrived on the connection.
    heard: Instant,
    count: u64,
}

impl Heart {
    fn new(channel: Option<Channel>, listener: Listener) -> Self {
        let now = Instant::now();
        let (question, answer) = (Vec::new(), Answer::default());
        Self { channel, listener, question, asked: None, answer, next: now + BEAT, heard: now, count: 0 }
    }

    /// When there is something to do, or to find out, even if nothing happens.
    fn due(&self) -> Instant {
        match self.asked {
            Some(asked) => (asked + STANDSTILL).min(asked.max(self.heard) + SILENCE),
            None => self.next,
        }
    }

    fn beat(&mut self, session: &Session, turn: &mut Turn, now: Instant) -> Result<(), String> {
        let Some(channel) = &mut self.channel else {
            self.next = now + BEAT;
            return Ok(());
        };
        let mut echo = [0; 256];
        if let Some(count) = turn.later(session, channel.read(&mut echo))? {
            if count == 0 && channel.eof() {
                return Err("its heartbeat ended".into());
            }
            if count > 0 && self.asked.is_none() {
                return Err("the far end of its heartbeat speaks without being asked".into());
            }
            if count > 0 && self.answer.take(self.listener, self.count, &echo[..count])? {
                (self.asked, self.answer) = (None, Answer::default());
            }
        }
        match self.asked {
            None if now >= self.next => {
                self.count += 1;
                self.question = greeting::question(self.listener, self.count);
                (self.asked, self.next) = (Some(now), now + BEAT);
            }
            Some(asked) if now >= asked.max(self.heard) + SILENCE => {
                return Err(format!("no sign of life for {} s", SILENCE.as_secs()));
            }
            Some(asked) if now >= asked + STANDSTILL => {
                return Err(format!("no heartbeat for {} s", STANDSTILL.as_secs()));
            }
            None | Some(_) => {}
        }
        // The rest of a question that was taken in part moves, which libssh2 allows: it was a packet of its own.
        if !self.question.is_empty()
            && let Some(count) = turn.later(session, channel.write(&self.question))?
        {
            self.question.drain(..count);
        }
        Ok(())
    }
}
