//! One command on a channel: its input from a pipe of ours, its streams into others, its end told when all is out.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use ssh2::{Channel, Session};

use super::driver::LoopTurn;
use super::messages::{STREAMS, SshEvent};
use crate::transport::Exit;

/// How much of a stream is in hand at once, in bytes; libssh2 sends no more in a packet.
const IN_HAND: usize = 32 << 10;
/// How often one stream is served in a turn, before others have theirs.
const TURNS: usize = 8;

/// A command from the request to its end.
pub(super) struct RemoteCommand {
    /// What the agent calls it.
    number: u64,
    command: String,
    stage: CommandStage,
    input: InputPipe,
    output: OutputPipe,
    complaints: OutputPipe,
    /// Nobody waits for it any more.
    is_forgotten: bool,
}

enum CommandStage {
    /// The channel is asked for.
    Opening,
    /// The command is asked for.
    Starting(Channel),
    /// It runs.
    Talking(Channel),
    /// All is said; the exit status is known, unless nobody waits for it any more.
    Closing(Channel, Option<Exit>),
    /// Nothing is left to do.
    Done(Option<Exit>),
}

/// From a pipe to the channel.
struct InputPipe {
    pipe: Option<OwnedFd>,
    buffer: Vec<u8>,
    sent: usize,
    end_sent: bool,
}

/// From the channel to a pipe.
struct OutputPipe {
    pipe: Option<OwnedFd>,
    stream: i32,
    buffer: Vec<u8>,
    passed: usize,
    /// The channel has nothing more for it right now.
    dry: bool,
}

impl RemoteCommand {
    /// A command with the far ends of its input, its output and its complaints; none of them blocks.
    pub(super) fn new(number: u64, command: String, [stdin, stdout, stderr]: [OwnedFd; STREAMS]) -> Self {
        Self {
            number,
            command,
            stage: CommandStage::Opening,
            input: InputPipe { pipe: Some(stdin), buffer: Vec::with_capacity(IN_HAND), sent: 0, end_sent: false },
            output: OutputPipe::new(stdout, 0),
            complaints: OutputPipe::new(stderr, ssh2::EXTENDED_DATA_STDERR),
            is_forgotten: false,
        }
    }

    /// Nobody waits for the command of this number any more.
    pub(super) fn forget(&mut self, number: u64) {
        self.is_forgotten |= self.number == number;
    }

    /// Goes on as far as it can without waiting. An error breaks the whole connection.
    pub(super) fn advance(&mut self, session: &Session, turn: &mut LoopTurn) -> Result<(), String> {
        self.stage = match std::mem::replace(&mut self.stage, CommandStage::Done(None)) {
            CommandStage::Opening => self.open(session, turn),
            CommandStage::Starting(channel) => self.start(channel, session, turn),
            CommandStage::Talking(channel) => self.talk(channel, session, turn)?,
            CommandStage::Closing(channel, exit) => close(channel, exit, session, turn)?,
            CommandStage::Done(exit) => CommandStage::Done(exit),
        };
        Ok(())
    }

    /// Whether nothing is left to do.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, CommandStage::Done(_))
    }

    /// How the command ended; none where it was refused, nobody waits for it, or it is not known.
    pub(super) fn end(&self) -> Option<SshEvent> {
        match self.stage {
            CommandStage::Done(Some(exit)) | CommandStage::Closing(_, Some(exit)) => {
                Some(SshEvent::Ended { number: self.number, exit })
            }
            CommandStage::Done(None)
            | CommandStage::Closing(_, None)
            | CommandStage::Opening
            | CommandStage::Starting(_)
            | CommandStage::Talking(_) => None,
        }
    }

    /// Adds what it waits for besides the connection.
    pub(super) fn waits_for<'s>(&'s self, polled: &mut Vec<PollFd<'s>>) {
        if !matches!(self.stage, CommandStage::Talking(_)) {
            return;
        }
        if let Some(pipe) = self.input.pipe.as_ref().filter(|_| self.input.buffer.is_empty()) {
            polled.push(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN));
        }
        for outlet in [&self.output, &self.complaints] {
            if let Some(pipe) = outlet.pipe.as_ref().filter(|_| !outlet.buffer.is_empty()) {
                polled.push(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::OUT));
            }
        }
    }

    /// A session opens one channel at a time, and one that is asked for must be waited for.
    fn open(&mut self, session: &Session, turn: &mut LoopTurn) -> CommandStage {
        if !turn.take_door() {
            return CommandStage::Opening;
        }
        match turn.later(session, session.channel_session()) {
            Ok(Some(channel)) => self.start(channel, session, turn),
            Ok(None) => CommandStage::Opening,
            Err(why) => {
                self.refused(why, turn);
                CommandStage::Done(None)
            }
        }
    }

    fn start(&mut self, mut channel: Channel, session: &Session, turn: &mut LoopTurn) -> CommandStage {
        match turn.later(session, channel.exec(&self.command)) {
            Ok(Some(())) => {
                turn.report(SshEvent::Opened { number: self.number });
                turn.again = true;
                CommandStage::Talking(channel)
            }
            Ok(None) => CommandStage::Starting(channel),
            Err(why) => {
                self.refused(why, turn);
                CommandStage::Closing(channel, None)
            }
        }
    }

    fn refused(&self, why: String, turn: &mut LoopTurn) {
        turn.report(SshEvent::Refused { number: self.number, why });
        // Others may wait for the door.
        turn.again = true;
    }

    fn talk(&mut self, mut channel: Channel, session: &Session, turn: &mut LoopTurn) -> Result<CommandStage, String> {
        self.input.advance(&mut channel, session, turn)?;
        self.output.advance(&mut channel, session, turn)?;
        self.complaints.advance(&mut channel, session, turn)?;
        let all_out = self.output.is_out() && self.complaints.is_out();
        if all_out && channel.eof() {
            // The readers see the end now, the exit status may take longer: a command can close its streams and run on.
            (self.output.pipe, self.complaints.pipe, self.input.pipe) = (None, None, None);
            if turn.later(session, channel.wait_close())?.is_some() {
                let exit = exit_of(&channel)?;
                return Ok(leave(channel, Some(exit), turn));
            }
        }
        // Nobody waits for it any more.
        if self.is_forgotten {
            return Ok(leave(channel, None, turn));
        }
        Ok(CommandStage::Talking(channel))
    }
}

/// How the command on a channel ended that the far end has closed.
fn exit_of(channel: &Channel) -> Result<Exit, String> {
    let killed = channel.exit_signal().is_ok_and(|signal| signal.exit_signal.is_some());
    // A far end that told no status counts as 0 here; every answer of ours has an end mark of its own.
    Ok(match channel.exit_status().map_err(|error| error.message().to_owned())? {
        _ if killed => Exit::Killed,
        127 => Exit::NotFound,
        code => Exit::Code(code),
    })
}

/// Stops talking, as soon as nothing is half sent: such a packet is finished by whoever began it, or nothing else is ever sent.
fn leave(channel: Channel, exit: Option<Exit>, turn: &mut LoopTurn) -> CommandStage {
    if turn.is_calm() {
        turn.again = true;
        return CommandStage::Closing(channel, exit);
    }
    turn.postponed = true;
    CommandStage::Talking(channel)
}

fn close(
    mut channel: Channel,
    exit: Option<Exit>,
    session: &Session,
    turn: &mut LoopTurn,
) -> Result<CommandStage, String> {
    if !turn.is_calm() {
        turn.postponed = true;
        return Ok(CommandStage::Closing(channel, exit));
    }
    Ok(match turn.later(session, channel.close())? {
        Some(()) => CommandStage::Done(exit),
        None => CommandStage::Closing(channel, exit),
    })
}

impl InputPipe {
    fn advance(&mut self, channel: &mut Channel, session: &Session, turn: &mut LoopTurn) -> Result<(), String> {
        for _ in 0..TURNS {
            if self.buffer.is_empty() && !self.fill() {
                return self.end(channel, session, turn);
            }
            // libssh2 wants the same bytes at the same place until it has taken them: the buffer does not move meanwhile.
            let written = io::Write::write(channel, &self.buffer[self.sent..]);
            match turn.later(session, written)? {
                Some(count) => {
                    self.sent += count;
                    turn.again = true;
                }
                None => return Ok(()),
            }
            if self.sent == self.buffer.len() {
                self.buffer.clear();
                self.sent = 0;
            }
        }
        Ok(())
    }

    /// Takes what the pipe has; false when that is nothing.
    fn fill(&mut self) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        self.buffer.resize(IN_HAND, 0);
        match rustix::io::read(pipe, &mut self.buffer) {
            Ok(count) if count > 0 => {
                self.buffer.truncate(count);
                return true;
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            // Its other end is gone, one way or another: so is the input.
            Ok(_) | Err(_) => self.pipe = None,
        }
        self.buffer.clear();
        false
    }

    fn end(&mut self, channel: &mut Channel, session: &Session, turn: &mut LoopTurn) -> Result<(), String> {
        if self.pipe.is_some() || self.end_sent || channel.eof() {
            return Ok(());
        }
        if !turn.is_calm() {
            turn.postponed = true;
            return Ok(());
        }
        self.end_sent = turn.later(session, channel.send_eof())?.is_some();
        Ok(())
    }
}

impl OutputPipe {
    fn new(pipe: OwnedFd, stream: i32) -> Self {
        Self { pipe: Some(pipe), stream, buffer: Vec::with_capacity(IN_HAND), passed: 0, dry: false }
    }

    fn advance(&mut self, channel: &mut Channel, session: &Session, turn: &mut LoopTurn) -> Result<(), String> {
        for _ in 0..TURNS {
            if !self.pass_on() {
                return Ok(());
            }
            self.buffer.resize(IN_HAND, 0);
            let read = channel.stream(self.stream).read(&mut self.buffer);
            let count = match turn.later(session, read) {
                Ok(count) => count.unwrap_or(0),
                Err(why) => {
                    self.buffer.clear();
                    return Err(why);
                }
            };
            self.buffer.truncate(count);
            self.dry = count == 0;
            if self.dry {
                return Ok(());
            }
            turn.again = true;
        }
        Ok(())
    }

    /// Gives the pipe what is in hand; false when it does not take all of it now.
    fn pass_on(&mut self) -> bool {
        while self.passed < self.buffer.len() {
            // Where nobody reads any more, the command's words are dropped, so that it can end.
            let Some(pipe) = &self.pipe else { break };
            match rustix::io::write(pipe, &self.buffer[self.passed..]) {
                Ok(count) => self.passed += count,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return false,
                Err(_) => self.pipe = None,
            }
        }
        self.buffer.clear();
        self.passed = 0;
        true
    }

    fn is_out(&self) -> bool {
        self.dry && self.buffer.is_empty()
    }
}
