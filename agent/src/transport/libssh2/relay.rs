//! Between a host and libssh2: what the host says is counted, and libssh2 reads no more of it at once than is put before it.
//!
//! libssh2 reads for as long as a host sends, and keeps what nobody asked for: lines before its version, packets of kinds that it does not wait
//! for. So it never has the connection itself, but one end of a pair of sockets, and a [`Pump`] passes on what goes back and forth: during the
//! login on a thread of its own ([`Relay`]), since libssh2's calls wait then; afterwards between its calls, on the thread that makes them.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size;

/// The most that a host may say before the login is done, in bytes: its version, its keys, and what its shell prints.
const MOST: u64 = 256 << 10;
/// The most that is passed on at once, in bytes.
const PORTION: usize = 64 << 10;
/// The most of what libssh2 says that waits for the connection to take it, in bytes: whatever is urgent comes after it.
const WAITING: usize = 64 << 10;

/// A connection on its way to a login.
pub(crate) struct Relay {
    host: TcpStream,
    /// Its end ends the thread.
    until: Option<UnixStream>,
    thread: Option<JoinHandle<Result<Pump, String>>>,
}

impl Relay {
    /// Passes on, for so long, what goes between this host and the socket that it gives: that is for libssh2 to read and write.
    ///
    /// # Errors
    /// The system has no more sockets or threads.
    pub(super) fn begin(host: TcpStream, patience: Duration) -> io::Result<(Self, UnixStream)> {
        let (until, ended) = UnixStream::pair()?;
        let (pump, near) = Pump::new(host.try_clone()?)?;
        let thread = std::thread::Builder::new().name("login".into()).spawn(move || pump.run(&ended, patience))?;
        Ok((Self { host, until: Some(until), thread: Some(thread) }, near))
    }

    /// The connection to the host, for whoever wants to hang up.
    pub(super) fn connection(&self) -> io::Result<TcpStream> {
        self.host.try_clone()
    }

    /// Ends it, and says why it ended before that, where it did.
    pub(crate) fn end(&mut self) -> Option<String> {
        self.stop()?.err()
    }

    /// Ends it after the login; whoever makes libssh2's calls passes on from now.
    ///
    /// # Errors
    /// Why it ended before that, fit for printing.
    pub(super) fn hand_over(mut self) -> Result<Pump, String> {
        self.stop().ok_or("its login has ended")?
    }

    fn stop(&mut self) -> Option<Result<Pump, String>> {
        drop(self.until.take());
        let ended = self.thread.take()?.join();
        Some(ended.unwrap_or_else(|_| Err("the thread of its login failed".to_owned())))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Whoever wanted to know why it ended has asked.
        let _ = self.stop();
    }
}

/// What reading came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// There is something.
    Some,
    /// There is nothing now.
    Nothing,
    /// There will be nothing any more.
    End,
}

/// Takes in what there is, where nothing waits to be passed on.
fn take(from: impl AsFd, into: &mut Vec<u8>) -> io::Result<ReadOutcome> {
    if !into.is_empty() {
        return Ok(ReadOutcome::Some);
    }
    into.reserve(PORTION);
    match rustix::io::read(from, spare_capacity(into)) {
        Ok(0) => Ok(ReadOutcome::End),
        Ok(_) => Ok(ReadOutcome::Some),
        Err(Errno::AGAIN | Errno::INTR) => Ok(ReadOutcome::Nothing),
        Err(error) => Err(error.into()),
    }
}

/// Passes on as much as is taken.
fn give(to: &mut impl Write, from: &mut Vec<u8>) -> io::Result<()> {
    while !from.is_empty() {
        match to.write(from) {
            Ok(count) => drop(from.drain(..count)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether what libssh2 writes there has room for packets of a few hundred bytes, whole.
pub(super) fn has_room(near: &UnixStream) -> bool {
    // A socket says so while three fourths of its room are free.
    poll(&mut [PollFd::new(near, PollFlags::OUT)], Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

fn broke(error: io::Error) -> String {
    format!("the connection broke: {error}")
}

/// What goes back and forth between a host and libssh2. None of its calls waits.
pub(super) struct Pump {
    host: TcpStream,
    /// The end that libssh2 has, to see how much it takes.
    near: Arc<UnixStream>,
    inner: UnixStream,
    inward: Vec<u8>,
    outward: Vec<u8>,
    /// How many bytes the host has said.
    heard: u64,
    has_ended: bool,
}

impl Pump {
    /// It, and the end that is libssh2's.
    fn new(host: TcpStream) -> io::Result<(Self, UnixStream)> {
        let (near, inner) = UnixStream::pair()?;
        host.set_nonblocking(true)?;
        inner.set_nonblocking(true)?;
        set_socket_send_buffer_size(&near, WAITING)?;
        let (inward, outward, own) = (Vec::new(), Vec::new(), Arc::new(near.try_clone()?));
        Ok((Self { host, near: own, inner, inward, outward, heard: 0, has_ended: false }, near))
    }

    /// The connection to the host, for waiting and for hanging up.
    pub(super) fn host(&self) -> &TcpStream {
        &self.host
    }

    /// What libssh2 writes to.
    pub(super) fn near(&self) -> Arc<UnixStream> {
        self.near.clone()
    }

    /// What of the connection has to be waited for.
    pub(super) fn waits_for(&self) -> PollFlags {
        let is_read = self.inward.is_empty() && !self.has_ended;
        let read = if is_read { PollFlags::IN } else { PollFlags::empty() };
        if self.outward.is_empty() { read } else { read | PollFlags::OUT }
    }

    /// Puts a portion of what the host says before libssh2, or its end. What libssh2 does not take now waits, and counts as nothing.
    ///
    /// # Errors
    /// The connection broke; fit for printing.
    pub(super) fn pass_in(&mut self) -> Result<ReadOutcome, String> {
        if self.has_ended {
            return Ok(ReadOutcome::End);
        }
        let had = self.inward.len();
        let taken = take(&self.host, &mut self.inward).map_err(broke)?;
        let waits = self.inward.len();
        self.heard += (waits - had) as u64;
        give(&mut self.inner, &mut self.inward).map_err(broke)?;
        if taken == ReadOutcome::End {
            self.has_ended = true;
            self.inner.shutdown(Shutdown::Write).map_err(broke)?;
            return Ok(ReadOutcome::End);
        }
        Ok(if self.inward.len() < waits { ReadOutcome::Some } else { ReadOutcome::Nothing })
    }

    /// Tells the host what libssh2 says, as much as the connection takes now. Says whether that is all.
    ///
    /// # Errors
    /// The connection broke; fit for printing.
    pub(super) fn pass_out(&mut self) -> Result<bool, String> {
        loop {
            match take(&self.inner, &mut self.outward).map_err(broke)? {
                ReadOutcome::Some => {}
                ReadOutcome::Nothing | ReadOutcome::End => return Ok(true),
            }
            give(&mut self.host, &mut self.outward).map_err(broke)?;
            if !self.outward.is_empty() {
                return Ok(false);
            }
        }
    }

    /// Runs until it is ended from outside, which is no error. After an error libssh2 finds its end closed.
    fn run(mut self, ended: &UnixStream, patience: Duration) -> Result<Self, String> {
        let due = Instant::now() + patience;
        loop {
            let rest = due.saturating_duration_since(Instant::now());
            let is_over = if rest.is_zero() {
                Err(format!("no login within {} s", patience.as_secs()))
            } else {
                self.wait(ended, rest).map_err(|error| error.to_string())
            };
            match is_over.and_then(|is_over| self.pass().map(|()| is_over)) {
                Ok(false) => {}
                Ok(true) => return Ok(self),
                Err(why) => {
                    // The host learns it too.
                    let _ = self.host.shutdown(Shutdown::Both);
                    return Err(why);
                }
            }
        }
    }

    /// Waits until something can be done; says whether it has been ended.
    fn wait(&self, ended: &UnixStream, longest: Duration) -> io::Result<bool> {
        let longest = Timespec::try_from(longest).map_err(io::Error::other)?;
        let read = if self.outward.is_empty() { PollFlags::IN } else { PollFlags::empty() };
        let near = if self.inward.is_empty() { read } else { read | PollFlags::OUT };
        let mut polled = [
            PollFd::new(&self.host, self.waits_for()),
            PollFd::new(&self.inner, near),
            PollFd::new(ended, PollFlags::IN),
        ];
        match poll(&mut polled, Some(&longest)) {
            Ok(_) | Err(Errno::INTR) => Ok(!polled[2].revents().is_empty()),
            Err(error) => Err(error.into()),
        }
    }

    /// Passes on what can be, either way, within what a host may say before the login is done.
    fn pass(&mut self) -> Result<(), String> {
        let taken = self.pass_in()?;
        if self.heard > MOST {
            return Err(format!("it says more than {} KiB before the login is done", MOST >> 10));
        }
        if taken == ReadOutcome::End {
            return Err("the host closed the connection".to_owned());
        }
        self.pass_out().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use super::*;

    /// A relay, libssh2's end of it and the host's.
    fn relay(patience: Duration) -> (Relay, UnixStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("a listener");
        let (host, _) = listener.accept().expect("a caller");
        let (relay, end) = Relay::begin(near, patience).expect("sockets");
        (relay, end, host)
    }

    #[test]
    fn nothing_is_lost_where_somebody_else_passes_on() {
        let (relay, mut end, mut host) = relay(Duration::from_secs(60));
        host.write_all(b"SSH-2.0-x\r\n").expect("a relay");
        let mut heard = [0; 11];
        end.read_exact(&mut heard).expect("a relay");
        end.write_all(b"one ").expect("a relay");
        host.write_all(b"late ").expect("a relay");
        let mut pump = relay.hand_over().expect("a login");
        end.write_all(b"two").expect("a socket");
        while !pump.pass_out().expect("a connection") {}
        host.write_all(b"later").expect("a connection");
        host.shutdown(Shutdown::Write).expect("a connection");
        let mut said = [0; 7];
        host.read_exact(&mut said).expect("all of it");
        assert_eq!(&said, b"one two");
        while pump.pass_in().expect("a connection") != ReadOutcome::End {}
        let mut rest = String::new();
        end.read_to_string(&mut rest).expect("the rest, and its end");
        assert_eq!(rest, "late later");
        assert_eq!(pump.heard, 21);
    }

    /// Else the driver would turn without a pause, and take a host for alive that says nothing.
    #[test]
    fn what_libssh2_does_not_take_is_nothing_new() {
        let (relay, mut end, mut host) = relay(Duration::from_secs(60));
        let mut pump = relay.hand_over().expect("a login");
        let flood = std::thread::spawn(move || while host.write_all(&[0; 4 << 10]).is_ok() {});
        while pump.inward.is_empty() {
            pump.pass_in().expect("a connection");
        }
        assert_eq!(pump.pass_in().expect("a connection"), ReadOutcome::Nothing);
        assert!(!pump.waits_for().contains(PollFlags::IN));
        let waits = pump.inward.len();
        while pump.inward.len() == waits {
            assert!(end.read(&mut [0; 64 << 10]).expect("what waits") > 0);
            pump.pass_in().expect("a connection");
        }
        drop((pump, end));
        flood.join().expect("no panic");
    }

    /// The driver begins only then what it cannot repeat: the second half of a packet would never be sent, nor anything after it.
    #[test]
    fn where_there_is_room_small_packets_go_whole_and_a_full_socket_has_none() {
        let (relay, mut end, _host) = relay(Duration::from_secs(60));
        let mut pump = relay.hand_over().expect("a login");
        end.set_nonblocking(true).expect("a socket");
        let mut taken = 0;
        while has_room(&pump.near()) {
            let packet = [0; 300];
            assert_eq!(end.write(&packet).expect("room"), packet.len());
            taken += packet.len();
        }
        assert!(taken > 1000, "{taken}");
        while end.write(&[0; 32 << 10]).is_ok() {}
        assert!(!has_room(&pump.near()));
        while !pump.pass_out().expect("a connection") {}
        assert!(has_room(&pump.near()));
    }

    #[test]
    fn a_host_without_end_is_cut_by_bytes_and_by_time() {
        let (mut endless, mut end, mut host) = relay(Duration::from_secs(60));
        let flood = std::thread::spawn(move || while host.write_all(b"no ssh\r\n").is_ok() {});
        let mut all = Vec::new();
        // Either is an end.
        let _ = end.read_to_end(&mut all);
        assert!(all.len() as u64 <= MOST + PORTION as u64, "{}", all.len());
        assert!(endless.end().is_some_and(|why| why.contains("256 KiB before the login")));
        flood.join().expect("no panic");

        let (mut silent, mut end, _host) = relay(Duration::from_millis(50));
        assert_eq!(end.read(&mut [0]).expect("an end"), 0);
        assert!(silent.end().is_some_and(|why| why.contains("no login within")));
    }
}
