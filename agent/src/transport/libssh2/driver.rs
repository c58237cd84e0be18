//! What the ssh process does once it is logged in: every turn a portion of what the host says is put before libssh2, all conversations go on as far as
//! they can, and what libssh2 says goes to the host; then it waits for any of their streams, the connection or the agent.
//!
//! No call blocks. A packet that was sent in part is finished by repeating the call that began it, and until then libssh2 takes no
//! other: so every turn repeats all calls, and those that libssh2 cannot repeat faithfully (the end of an input, a close)
//! are begun only while nothing is half sent and the socket takes more.

use std::convert::Infallible;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blat_domain::util::text::printable;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, Channel, Session};

use super::connect::AuthenticatedSession;
use super::conversation::RemoteCommand;
use super::entry::report;
use super::messages::{SshEvent, SshOrder, Wait, receive};
use super::process::too_much_memory;
use super::relay::{Pump, ReadOutcome, has_room};
use crate::flow::STALL_TIMEOUT;
use crate::transport::peer_detection;
use crate::transport::peer_detection::{HeartbeatAnswer, Listener};

/// How often the far end is asked for an echo.
const BEAT: Duration = Duration::from_secs(10);
/// With an echo outstanding, a connection on which nothing at all arrives for so long is dead.
const SILENCE: Duration = Duration::from_secs(30);

/// What the calls of one turn found out.
pub(super) struct LoopTurn {
    /// There is more to do without waiting for anything.
    pub(super) again: bool,
    /// Something was left for a turn in which nothing is half sent.
    pub(super) postponed: bool,
    /// A packet is half sent, or was when this turn began.
    half_sent: bool,
    /// A call wants the socket to take more.
    wants_out: bool,
    /// What libssh2 writes to.
    near: Arc<UnixStream>,
    door_taken: bool,
    /// What the agent is to know.
    events: Vec<SshEvent>,
}

impl LoopTurn {
    fn new(half_sent: bool, near: Arc<UnixStream>) -> Self {
        let events = Vec::new();
        Self { again: false, postponed: false, half_sent, wants_out: false, near, door_taken: false, events }
    }

    /// What a call gave; none when it has to be repeated later. The text of any other failure is fit for printing.
    pub(super) fn later<T, E: TryAgain>(
        &mut self,
        session: &Session,
        result: Result<T, E>,
    ) -> Result<Option<T>, String> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_later() => {
                let out = matches!(session.block_directions(), BlockDirections::Outbound | BlockDirections::Both);
                self.wants_out |= out;
                self.half_sent |= out;
                Ok(None)
            }
            Err(_) if is_short_of_memory(session) => Err(too_much_memory()),
            Err(error) => Err(printable(&error.text())),
        }
    }

    /// The agent is to know this.
    pub(super) fn report(&mut self, event: SshEvent) {
        self.events.push(event);
    }

    /// Whether a call may begin that libssh2 could not repeat.
    pub(super) fn is_calm(&self) -> bool {
        // What others wrote in this turn may have taken all the room.
        !self.half_sent && has_room(&self.near)
    }

    /// Whether this conversation is the one whose channel is opened in this turn.
    pub(super) fn take_door(&mut self) -> bool {
        !std::mem::replace(&mut self.door_taken, true)
    }
}

/// Whether the last call failed for want of memory.
fn is_short_of_memory(session: &Session) -> bool {
    // LIBSSH2_ERROR_ALLOC
    ssh2::Error::last_session_error(session).is_some_and(|error| error.code() == ssh2::ErrorCode::Session(-6))
}

/// An error that may only mean "not now".
pub(super) trait TryAgain {
    fn is_later(&self) -> bool;
    fn text(&self) -> String;
}

impl TryAgain for ssh2::Error {
    fn is_later(&self) -> bool {
        // LIBSSH2_ERROR_EAGAIN
        self.code() == ssh2::ErrorCode::Session(-37)
    }

    fn text(&self) -> String {
        self.message().to_owned()
    }
}

impl TryAgain for io::Error {
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
    pump: Pump,
    heartbeat: Heartbeat,
    commands: Vec<RemoteCommand>,
    agent: OwnedFd,
}

impl Driver {
    /// A connection that is logged in, for the agent at the other end of this socket.
    pub(super) fn new(login: AuthenticatedSession, agent: OwnedFd) -> Self {
        let AuthenticatedSession { session, pump, heartbeat, listener } = login;
        Self { session, pump, heartbeat: Heartbeat::new(heartbeat, listener), commands: Vec::new(), agent }
    }

    /// Serves until the connection breaks, which the agent learns, or the agent does not need it any more.
    ///
    /// # Errors
    /// The agent is gone.
    pub(super) fn run(mut self) -> io::Result<()> {
        let Err(why) = self.serve();
        // Only now may libssh2 free what it holds without waiting for the far end. It may be shut already.
        let _ = self.pump.host().shutdown(Shutdown::Both);
        // Where they have ended, that is known to be so.
        self.commands.iter().filter_map(RemoteCommand::end).try_for_each(|end| report(&self.agent, &end))?;
        report(&self.agent, &SshEvent::Broken { why })
    }

    /// Why it ended.
    fn serve(&mut self) -> Result<Infallible, String> {
        let (mut half_sent, mut is_called) = (false, true);
        loop {
            if is_called {
                self.take_orders()?;
            }
            let mut turn = LoopTurn::new(half_sent, self.pump.near());
            self.hear(&mut turn)?;
            self.take_turn(&mut turn)?;
            half_sent = turn.wants_out;
            let all_out = self.pump.pass_out()?;
            is_called = self.wait(&turn, all_out)?;
        }
    }

    /// Whether no call takes in what arrives: then it waits, and only the end of the connection matters.
    fn is_deaf(&self) -> bool {
        self.heartbeat.channel.is_none() && self.commands.is_empty()
    }

    /// Puts a portion of what the host says before libssh2.
    fn hear(&mut self, turn: &mut LoopTurn) -> Result<(), String> {
        if !self.is_deaf() && self.pump.pass_in()? == ReadOutcome::Some {
            self.heartbeat.heard = Instant::now();
            // A call for one conversation takes in what has arrived for any, after their turn perhaps.
            turn.again = true;
        }
        Ok(())
    }

    fn take_orders(&mut self) -> Result<(), String> {
        loop {
            match receive(&self.agent, Wait::No) {
                Ok(Some((SshOrder::Run { number, command }, streams))) => {
                    let streams = streams.try_into().map_err(|_| "a command came without its streams")?;
                    self.commands.push(RemoteCommand::new(number, command, streams));
                }
                Ok(Some((SshOrder::Forget { number }, _))) => {
                    self.commands.iter_mut().for_each(|command| command.forget(number));
                }
                Ok(Some((order, _))) => return Err(format!("it is asked for what it is not for: {order:?}")),
                Ok(None) => return Err("nobody needs it".into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(format!("what is asked of it cannot be understood: {error}")),
            }
        }
    }

    fn take_turn(&mut self, turn: &mut LoopTurn) -> Result<(), String> {
        self.heartbeat.beat(&self.session, turn, Instant::now())?;
        for command in &mut self.commands {
            command.advance(&self.session, turn)?;
        }
        let done = self.commands.extract_if(.., |command| command.is_done());
        turn.events.extend(done.filter_map(|command| command.end()));
        let gone = |error| format!("the agent is gone: {error}");
        turn.events.drain(..).try_for_each(|event| report(&self.agent, &event)).map_err(gone)
    }

    /// Waits until something can be done; says whether the agent is one that wants something.
    fn wait(&mut self, turn: &LoopTurn, all_out: bool) -> Result<bool, String> {
        let now = Instant::now();
        // What was put off until the host takes more can be done where it has taken all.
        let at_once = turn.again || (all_out && (turn.postponed || turn.wants_out));
        let due = self.heartbeat.due().saturating_duration_since(now);
        let longest = if at_once { Duration::ZERO } else { due };
        let longest = Timespec::try_from(longest).map_err(|error| format!("cannot wait for it: {error}"))?;
        let is_deaf = self.is_deaf();
        let flags = match is_deaf {
            true => PollFlags::RDHUP | (self.pump.waits_for() & PollFlags::OUT),
            false => self.pump.waits_for(),
        };
        let mut polled = vec![PollFd::new(self.pump.host(), flags), PollFd::new(&self.agent, PollFlags::IN)];
        self.commands.iter().for_each(|command| command.waits_for(&mut polled));
        match poll(&mut polled, Some(&longest)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("cannot wait for it: {error}")),
        }
        let ended = PollFlags::HUP | PollFlags::ERR | PollFlags::RDHUP;
        if is_deaf && polled[0].revents().intersects(ended) {
            return Err("the host ended it".to_owned());
        }
        Ok(!polled[1].revents().is_empty())
    }
}

/// The far end's `cat`, whose echo shows that it lives, or a receiver in its place. Reading it also takes in whatever arrives for anybody.
/// Where there is none, commands have to notice themselves that nothing comes.
struct Heartbeat {
    channel: Option<Channel>,
    listener: Listener,
    /// What is not sent yet of the question.
    question: Vec<u8>,
    asked: Option<Instant>,
    /// What has come of the answer.
    answer: HeartbeatAnswer,
    next: Instant,
    /// When anything arrived on the connection.
    heard: Instant,
    count: u64,
}

impl Heartbeat {
    fn new(channel: Option<Channel>, listener: Listener) -> Self {
        let now = Instant::now();
        let (question, answer) = (Vec::new(), HeartbeatAnswer::default());
        Self { channel, listener, question, asked: None, answer, next: now + BEAT, heard: now, count: 0 }
    }

    /// When there is something to do, or to find out, even if nothing happens.
    fn due(&self) -> Instant {
        match self.asked {
            Some(asked) => (asked + STALL_TIMEOUT).min(asked.max(self.heard) + SILENCE),
            None => self.next,
        }
    }

    fn beat(&mut self, session: &Session, turn: &mut LoopTurn, now: Instant) -> Result<(), String> {
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
                (self.asked, self.answer) = (None, HeartbeatAnswer::default());
            }
        }
        match self.asked {
            None if now >= self.next => {
                self.count += 1;
                self.question = peer_detection::question(self.listener, self.count);
                (self.asked, self.next) = (Some(now), now + BEAT);
            }
            Some(asked) if now >= asked.max(self.heard) + SILENCE => {
                return Err(format!("no sign of life for {} s", SILENCE.as_secs()));
            }
            Some(asked) if now >= asked + STALL_TIMEOUT => {
                return Err(format!("no heartbeat for {} s", STALL_TIMEOUT.as_secs()));
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
