//! The line to the master: orders on standard input, events on standard output, one JSON object each.

use std::io::{BufRead as _, Read as _, Write as _};

use blat_domain::messages::{AgentReport, Event, LONGEST_LINE, Order};
use blat_domain::text::printable;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{BUSY_TICK, HEARTBEAT};

/// Events that may wait for a master that is slow to read.
const WAITING: usize = 64;

/// The agent's end of the line.
pub(super) struct Master {
    orders: Option<mpsc::Receiver<Order>>,
    events: Option<mpsc::Sender<Event>>,
    told: Option<(AgentReport, Instant)>,
}

impl Master {
    /// A line to the master that started this agent; without one, nothing is told and no orders come.
    ///
    /// # Errors
    /// Where no thread can be made for it.
    pub(super) fn new(supervised: bool) -> std::io::Result<Self> {
        let (orders, events) = if supervised { (Some(read_orders()?), Some(write_events()?)) } else { (None, None) };
        Ok(Self { orders, events, told: None })
    }

    /// The next order; none when the master is gone. Without a master it never comes.
    pub(super) async fn order(&mut self) -> Option<Order> {
        match &mut self.orders {
            Some(orders) => orders.recv().await,
            None => std::future::pending().await,
        }
    }

    /// Tells the agent's state where it changed or a heartbeat is due. A master that does not read misses states, not events.
    pub(super) fn report(&mut self, report: AgentReport) {
        let Some(events) = &self.events else { return };
        if let Some((told, when)) = &self.told {
            let is_same_kind = |told: &AgentReport, report: &AgentReport| {
                let (waited, waits) = (told.queue.tags > 0, report.queue.tags > 0);
                told.state == report.state && told.far_end == report.far_end && waited == waits
            };
            let only_progress = is_same_kind(told, &report) && told.last_error == report.last_error;
            let pause = if only_progress { BUSY_TICK } else { std::time::Duration::ZERO };
            let is_due = when.elapsed() >= HEARTBEAT || (*told != report && when.elapsed() >= pause);
            if !is_due {
                return;
            }
        }
        if events.try_send(Event::Report(report.clone())).is_ok() {
            self.told = Some((report, Instant::now()));
        }
    }

    /// Tells the agent's state before an event that speaks of it: the master never knows the one without the other.
    pub(super) async fn report_surely(&mut self, report: AgentReport) {
        self.tell(Event::Report(report.clone())).await;
        self.told = Some((report, Instant::now()));
    }

    /// Tells an event that must not be lost.
    pub(super) async fn tell(&self, event: Event) {
        if let Some(events) = &self.events {
            // A writer that is gone means a master that is gone, which the orders' end will say.
            let _ = events.send(event).await;
        }
    }
}

/// A thread of its own reads: the runtime's workers are for work that ends.
fn read_orders() -> std::io::Result<mpsc::Receiver<Order>> {
    let (sender, orders) = mpsc::channel(WAITING);
    thread("orders", move || {
        let mut input = std::io::stdin().lock();
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut input).take(LONGEST_LINE as u64).read_until(b'\n', &mut line);
            if !matches!(read, Ok(1..)) {
                return;
            }
            match serde_json::from_slice(&line) {
                Ok(order) => {
                    if sender.blocking_send(order).is_err() {
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
    Ok(orders)
}

/// Starts a thread that ends with the process.
fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

/// A thread of its own writes: a master that stands still must not hold up the loop.
fn write_events() -> std::io::Result<mpsc::Sender<Event>> {
    let (sender, mut events) = mpsc::channel::<Event>(WAITING);
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
