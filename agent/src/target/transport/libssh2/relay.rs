//! Between a host and libssh2 until the login is done: whatever the host says, it takes a bounded time and comes to a bounded number of bytes.
//!
//! libssh2 reads for as long as a host sends: lines before its version, packets that nobody asked for, which it keeps. So at first it has one end
//! of a pair of sockets, and a thread passes on what goes back and forth, which counts and looks at the clock. After the login the connection
//! itself takes the place of that end, and costs nothing more.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{DupFlags, dup3, ioctl_fionread};

/// The most that a host may say before the login is done, in bytes: its version, its keys, and what its shell prints.
const MOST: usize = 256 << 10;
/// The most that is passed on at once, in bytes.
const PORTION: usize = 16 << 10;

/// The end that libssh2 has: its number stays, what it stands for changes.
#[derive(Debug, Clone)]
pub(super) struct Near(Arc<Mutex<OwnedFd>>);

impl Near {
    fn lock(&self) -> MutexGuard<'_, OwnedFd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRawFd for Near {
    fn as_raw_fd(&self) -> RawFd {
        self.lock().as_raw_fd()
    }
}

/// A connection on its way to a login.
pub(crate) struct Relay {
    host: TcpStream,
    near: Near,
    /// Its end ends the thread.
    until: Option<UnixStream>,
    thread: Option<JoinHandle<Result<Pump, String>>>,
}

impl Relay {
    /// Passes on what goes between this host and [`Relay::near`], for so long.
    ///
    /// # Errors
    /// The system has no more sockets or threads.
    pub(super) fn begin(host: TcpStream, patience: Duration) -> io::Result<Self> {
        let (near, inner) = UnixStream::pair()?;
        let (until, ended) = UnixStream::pair()?;
        host.set_nonblocking(true)?;
        inner.set_nonblocking(true)?;
        let pump = Pump { host: host.try_clone()?, inner, ended, inward: Vec::new(), outward: Vec::new(), left: MOST };
        let thread = std::thread::Builder::new().name("login".into()).spawn(move || pump.run(patience))?;
        Ok(Self { host, near: Near(Arc::new(Mutex::new(near.into()))), until: Some(until), thread: Some(thread) })
    }

    /// What libssh2 is to read and write.
    pub(super) fn near(&self) -> Near {
        self.near.clone()
    }

    /// The connection to the host, for whoever wants to hang up.
    pub(super) fn connection(&self) -> io::Result<TcpStream> {
        self.host.try_clone()
    }

    /// Ends it, and says why it ended before that, where it did.
    pub(crate) fn end(&mut self) -> Option<String> {
        self.stop()?.err()
    }

    fn stop(&mut self) -> Option<Result<Pump, String>> {
        drop(self.until.take());
        let ended = self.thread.take()?.join();
        Some(ended.unwrap_or_else(|_| Err("the thread of its login failed".to_owned())))
    }

    /// Has libssh2 speak to the host itself from now on; gives the connection for waiting. `take_in` lets it take in all that there is, and
    /// does not block.
    ///
    /// # Errors
    /// Why that cannot be done, fit for printing.
    pub(super) fn hand_over(mut self, mut take_in: impl FnMut()) -> Result<TcpStream, String> {
        let mut pump = self.stop().ok_or("its login has ended")??;
        let failed = |error: io::Error| format!("cannot go on after the login: {error}");
        while ioctl_fionread(&*self.near.lock()).map_err(|error| failed(error.into()))? > 0 {
            take_in();
        }
        // What it answered to that, and what the thread did not come to.
        while take(&mut pump.inner, &mut pump.outward).map_err(failed)? != Taken::Nothing {
            pump.host.write_all(&pump.outward).map_err(failed)?;
            pump.outward.clear();
        }
        dup3(&self.host, &mut self.near.lock(), DupFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        self.host.try_clone().map_err(failed)
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
enum Taken {
    Some,
    Nothing,
    End,
}

/// Takes in what there is, where nothing waits to be passed on.
fn take(from: &mut impl Read, into: &mut Vec<u8>) -> io::Result<Taken> {
    if !into.is_empty() {
        return Ok(Taken::Some);
    }
    let mut portion = [0; PORTION];
    match from.read(&mut portion) {
        Ok(0) => Ok(Taken::End),
        Ok(count) => {
            into.extend_from_slice(&portion[..count]);
            Ok(Taken::Some)
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(Taken::Nothing),
        Err(error) => Err(error),
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

/// The thread's.
struct Pump {
    host: TcpStream,
    inner: UnixStream,
    ended: UnixStream,
    inward: Vec<u8>,
    outward: Vec<u8>,
    /// How many bytes the host may still say.
    left: usize,
}

impl Pump {
    /// Runs until it is ended from outside, which is no error. After an error libssh2 finds its end closed.
    fn run(mut self, patience: Duration) -> Result<Self, String> {
        let due = Instant::now() + patience;
        loop {
            let rest = due.saturating_duration_since(Instant::now());
            let is_over = if rest.is_zero() {
                Err(format!("no login within {} s", patience.as_secs()))
            } else {
                self.wait(rest).map_err(|error| error.to_string())
            };
            match is_over.and_then(|is_over| self.pass().map(|()| is_over)) {
                Ok(false) => {}
                Ok(true) if self.inward.is_empty() => return Ok(self),
                Ok(true) => return Err("libssh2 does not take what the host says".to_owned()),
                Err(why) => {
                    // The host learns it too.
                    let _ = self.host.shutdown(Shutdown::Both);
                    return Err(why);
                }
            }
        }
    }

    /// Waits until something can be done; says whether it has been ended.
    fn wait(&self, longest: Duration) -> io::Result<bool> {
        let longest = Timespec { tv_sec: longest.as_secs().cast_signed(), tv_nsec: longest.subsec_nanos().into() };
        let wants = |takes_more: bool, has_more: bool| {
            let read = if takes_more { PollFlags::IN } else { PollFlags::empty() };
            if has_more { read | PollFlags::OUT } else { read }
        };
        let mut polled = [
            PollFd::new(&self.host, wants(self.inward.is_empty(), !self.outward.is_empty())),
            PollFd::new(&self.inner, wants(self.outward.is_empty(), !self.inward.is_empty())),
            PollFd::new(&self.ended, PollFlags::IN),
        ];
        match poll(&mut polled, Some(&longest)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!polled[2].revents().is_empty()),
            Err(error) => Err(error.into()),
        }
    }

    /// Passes on what can be, either way.
    fn pass(&mut self) -> Result<(), String> {
        let broke = |error: io::Error| format!("the connection broke: {error}");
        let had = self.inward.len();
        let heard = take(&mut self.host, &mut self.inward).map_err(broke)?;
        self.left = self
            .left
            .checked_sub(self.inward.len() - had)
            .ok_or_else(|| format!("it says more than {} KiB before the login is done", MOST >> 10))?;
        give(&mut self.inner, &mut self.inward).map_err(broke)?;
        if heard == Taken::End {
            return Err("the host closed the connection".to_owned());
        }
        let said = take(&mut self.inner, &mut self.outward).map_err(broke)?;
        give(&mut self.host, &mut self.outward).map_err(broke)?;
        if said == Taken::End { Err("the login was given up".to_owned()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A relay, libssh2's end of it and the host's.
    fn relay(patience: Duration) -> (Relay, UnixStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("a listener");
        let (host, _) = listener.accept().expect("a caller");
        let relay = Relay::begin(near, patience).expect("sockets");
        let end = UnixStream::from(relay.near.lock().try_clone().expect("a socket"));
        (relay, end, host)
    }

    #[test]
    fn nothing_is_lost_where_the_connection_takes_over() {
        let (relay, mut end, mut host) = relay(Duration::from_secs(60));
        host.write_all(b"SSH-2.0-x\r\n").expect("a relay");
        let mut heard = [0; 11];
        end.read_exact(&mut heard).expect("a relay");
        end.write_all(b"one ").expect("a relay");
        host.write_all(b"late").expect("a relay");
        let number = relay.near.as_raw_fd();
        let (near, mut late) = (relay.near(), Vec::new());
        let mut host_end = relay
            .hand_over(|| {
                let mut some = [0; 4];
                let count = end.read(&mut some).expect("what arrived");
                late.extend_from_slice(&some[..count]);
                end.write_all(b"two ").expect("a socket");
            })
            .expect("a connection");
        assert_eq!(near.as_raw_fd(), number);
        host_end.set_nonblocking(false).expect("a socket");
        let mut direct = TcpStream::from(near.lock().try_clone().expect("a socket"));
        direct.write_all(b"three").expect("the host");
        let said = if late.is_empty() { "one three" } else { "one two three" };
        let mut heard = vec![0; said.len()];
        host.read_exact(&mut heard).expect("all of it");
        assert_eq!(String::from_utf8_lossy(&heard), said);
        let mut rest = vec![0; 4 - late.len()];
        host_end.read_exact(&mut rest).expect("the rest");
        assert_eq!([late, rest].concat(), b"late");
    }

    #[test]
    fn a_host_without_end_is_cut_by_bytes_and_by_time() {
        let (mut endless, mut end, mut host) = relay(Duration::from_secs(60));
        let flood = std::thread::spawn(move || while host.write_all(b"no ssh\r\n").is_ok() {});
        let mut all = Vec::new();
        // Either is an end.
        let _ = end.read_to_end(&mut all);
        assert!(all.len() <= MOST, "{}", all.len());
        assert!(endless.end().is_some_and(|why| why.contains("256 KiB before the login")));
        flood.join().expect("no panic");

        let (mut silent, mut end, _host) = relay(Duration::from_millis(50));
        assert_eq!(end.read(&mut [0]).expect("an end"), 0);
        assert!(silent.end().is_some_and(|why| why.contains("no login within")));
    }
}
