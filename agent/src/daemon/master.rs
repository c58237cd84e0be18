//! The line to the master: orders on standard input, events on standard output, one JSON object each. By standard input the master also hands
//! over the descriptor of its inotify instance.

use std::io::{self, BufRead as _, BufReader, IoSliceMut, Read, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use blat_config::notifications::Notifications;
use blat_domain::protocol::messages::{AgentMessage, AgentReport, LONGEST_LINE, Order};
use blat_domain::util::text::printable;
use rustix::fs::{FileType, fstat};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{BUSY_TICK, HEARTBEAT};
use crate::daemon::watcher::Origin;

/// Events that may wait for a master that is slow to read.
const WAITING: usize = 64;

/// What comes from the master.
pub(super) enum MasterInput {
    /// An order.
    Order(Order),
    /// Its inotify instance, which every agent shares.
    Instance(Arc<Notifications>),
}

/// The agent's end of the line.
pub(super) struct Master {
    input: Option<mpsc::Receiver<MasterInput>>,
    gives_instance: bool,
    events: Option<mpsc::Sender<AgentMessage>>,
    told: Option<(AgentReport, Instant)>,
}

impl Master {
    /// A line to the master that started this agent; without one, nothing is told and no orders come.
    ///
    /// # Errors
    /// Where no thread can be made for it.
    pub(super) fn new(supervised: bool) -> std::io::Result<Self> {
        // A former master's line is a pipe, which carries no descriptors.
        let gives_instance = supervised && FileType::from_raw_mode(fstat(io::stdin())?.st_mode) == FileType::Socket;
        let (input, events) =
            if supervised { (Some(read_input(gives_instance)?), Some(write_events()?)) } else { (None, None) };
        Ok(Self { input, gives_instance, events, told: None })
    }

    /// Where notifications of tags come from.
    pub(super) fn origin(&self) -> Origin {
        if self.gives_instance { Origin::Master(None) } else { Origin::Own }
    }

    /// What comes next; none when the master is gone. Without a master nothing ever comes.
    pub(super) async fn input(&mut self) -> Option<MasterInput> {
        match &mut self.input {
            Some(input) => input.recv().await,
            None => std::future::pending().await,
        }
    }

    /// Tells the agent's state where it changed or a heartbeat is due. A master that does not read misses states, not events.
    pub(super) fn report(&mut self, report: AgentReport) {
        let Some(events) = &self.events else { return };
        if let Some((told, when)) = &self.told {
            let is_same_kind = |told: &AgentReport, report: &AgentReport| {
                let (waited, waits) = (told.queue.tags > 0, report.queue.tags > 0);
                let is_same_place = told.far_end == report.far_end && told.watch == report.watch;
                told.state == report.state && is_same_place && waited == waits
            };
            let only_progress = is_same_kind(told, &report) && told.last_error == report.last_error;
            let pause = if only_progress { BUSY_TICK } else { std::time::Duration::ZERO };
            let is_due = when.elapsed() >= HEARTBEAT || (*told != report && when.elapsed() >= pause);
            if !is_due {
                return;
            }
        }
        if events.try_send(AgentMessage::Report(report.clone())).is_ok() {
            self.told = Some((report, Instant::now()));
        }
    }

    /// Tells the agent's state before an event that speaks of it: the master never knows the one without the other.
    pub(super) async fn report_surely(&mut self, report: AgentReport) {
        self.tell(AgentMessage::Report(report.clone())).await;
        self.told = Some((report, Instant::now()));
    }

    /// Tells an event that must not be lost.
    pub(super) async fn tell(&self, event: AgentMessage) {
        if let Some(events) = &self.events {
            // A writer that is gone means a master that is gone, which the orders' end will say.
            let _ = events.send(event).await;
        }
    }
}

/// A thread of its own reads: the runtime's workers are for work that ends.
fn read_input(carries_descriptors: bool) -> io::Result<mpsc::Receiver<MasterInput>> {
    let (sender, input) = mpsc::channel(WAITING);
    thread("orders", move || {
        let line = MasterLine { carries_descriptors, to: sender.clone() };
        let mut from = BufReader::new(line);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut from).take(LONGEST_LINE as u64).read_until(b'\n', &mut line);
            if !matches!(read, Ok(1..)) {
                return;
            }
            match serde_json::from_slice(&line) {
                Ok(order) => {
                    if sender.blocking_send(MasterInput::Order(order)).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let line = printable(&String::from_utf8_lossy(&line));
                    tracing::warn!(line, %error, "the master sent an order that is not understood");
                }
            }
        }
    })?;
    Ok(input)
}

/// Standard input, with the descriptors that come along.
struct MasterLine {
    carries_descriptors: bool,
    to: mpsc::Sender<MasterInput>,
}

impl Read for MasterLine {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.carries_descriptors {
            return io::stdin().read(buffer);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(buffer)];
        let received = recvmsg(io::stdin(), &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                descriptors.for_each(|descriptor| self.hand_on(descriptor));
            }
        }
        Ok(received.bytes)
    }
}

impl MasterLine {
    fn hand_on(&self, descriptor: OwnedFd) {
        let instance = Arc::new(Notifications::from(descriptor));
        // The loop is gone only when the whole process is about to be.
        let _ = self.to.blocking_send(MasterInput::Instance(instance));
    }
}

/// Starts a thread that ends with the process.
fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

/// A thread of its own writes: a master that stands still must not hold up the loop.
fn write_events() -> std::io::Result<mpsc::Sender<AgentMessage>> {
    let (sender, mut events) = mpsc::channel::<AgentMessage>(WAITING);
    thread("events", move || {
        let mut output = std::io::stdout();
        while let Some(event) = events.blocking_recv() {
            let written = serde_json::to_string(&event)
                .map_err(std::io::Error::from)
                .and_then(|line| writeln!(output, "{line}").and_then(|()| output.flush()));
            if let Err(error) = written {
                tracing::debug!(%error, "the master does not listen any more");
                return;
            }
        }
    })?;
    Ok(sender)
}
