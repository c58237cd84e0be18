//! Reads the agent's frames and hands each to its lane, which a thread works through. Heartbeats are answered here, whatever the lanes do.

use std::error::Error;
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use blat_domain::archive::package_list;
use blat_domain::package::name::PackageId;
use blat_domain::protocol::frames::{self, HEADER, LANES, Lane, PROTOCOL, Reply, Request};
use blat_domain::util::limits::Limit;

use crate::archive::Archive;
use crate::failure::{Ending, Failure, file_limit, shown};
use crate::lane::Worker;
use crate::staging;
use crate::wire::inbox::Inbox;
use crate::wire::replies::Replies;

/// Bytes of standard input that are read at once.
const READ: usize = 128 << 10;

/// How much the lanes of full syncs give way to others on the same processor, in the system's measure.
const NICE: i32 = 10;

/// One end of a conversation, as the main thread sees it.
struct Conversation {
    archive: Arc<Archive>,
    replies: Arc<Replies>,
    lanes: Vec<Option<Arc<Inbox>>>,
    /// What is done when a lane cannot go on.
    leave: fn(),
}

/// Serves the archive until `input` ends. A lane that cannot go on says why, to the agent and on standard error, and calls `leave`: `input` is
/// still being read then.
///
/// Lanes have threads of their own, which may still be at work on what came when this returns. `output` is closed once the last of them is done.
///
/// # Errors
/// Where the archive cannot be served, or what comes is no conversation: what was attempted, why it failed, and what to do.
pub fn serve(archive: &Path, input: impl Read, output: OwnedFd, leave: fn()) -> Result<(), Box<dyn Error>> {
    Ok(hold(archive, input, output, leave)?)
}

fn hold(archive: &Path, input: impl Read, output: OwnedFd, leave: fn()) -> Result<(), Ending> {
    check_file_limit(archive)?;
    let archive = Arc::new(Archive::open(archive)?);
    let replies = Arc::new(Replies::new(output)?);
    let mut conversation = Conversation { archive, replies, lanes: vec![None; LANES.into()], leave };
    let ending = conversation.read_frames(input);
    conversation.lanes.iter().flatten().for_each(|inbox| inbox.close());
    match &ending {
        Ok(()) | Err(Ending::Link(_) | Ending::Over) => {}
        Err(
            ending @ (Ending::Archive(_)
            | Ending::Frame(_)
            | Ending::Violation(_)
            | Ending::Protocol(_)
            | Ending::Thread(_)),
        ) => {
            conversation.replies.refuse(Lane::CONTROL, &ending.to_string())?;
        }
    }
    ending
}

/// Whoever writes beyond the account's limit on the length of a file is killed before he can say why. Packages' files are held against it one by
/// one; all else that we write is no longer than the longest PackageList.
fn check_file_limit(archive: &Path) -> Result<(), Failure> {
    match file_limit() {
        Some(most) if most < package_list::LONGEST => Err(Failure::refused(
            format!("serving {}", shown(archive.as_os_str().as_bytes())),
            format_args!(
                "this account may write files of {most} bytes at most, and {} are needed",
                package_list::LONGEST
            ),
            Limit::FileSize.words(),
        )),
        Some(_) | None => Ok(()),
    }
}

impl Conversation {
    fn read_frames(&mut self, input: impl Read) -> Result<(), Ending> {
        let mut input = BufReader::with_capacity(READ, input);
        let mut header = [0; HEADER];
        let mut body = Vec::new();
        let mut greeted = false;
        while whole(&mut input, &mut header)? {
            let (length, lane) = frames::header(header)?;
            body.resize(length, 0);
            if !whole(&mut input, &mut body)? {
                return Ok(());
            }
            // Only on the control lane is there anything to be answered here, and only there is a body looked into.
            match (lane == Lane::CONTROL).then(|| frames::decode(&body)).transpose()? {
                Some(Request::Hello { protocol }) => {
                    self.welcome(protocol)?;
                    greeted = true;
                }
                Some(Request::Ping { beat }) => self.pong(beat)?,
                Some(Request::Padding(_)) if greeted => {}
                Some(_) | None if !greeted => return Err(Ending::Violation("its first frame was no greeting")),
                Some(_) | None => self.pass_on(lane, &body)?,
            }
        }
        Ok(())
    }

    fn welcome(&self, protocol: u16) -> Result<(), Ending> {
        let (remains, are_more) = staging::remains(&self.archive)?;
        let named = if are_more { remains.clone() } else { Vec::new() };
        let welcome = Reply::Welcome { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION"), remains };
        self.replies.send(Lane::CONTROL, &[welcome])?;
        if are_more {
            self.sweep_all_but(named)?;
        }
        if protocol == PROTOCOL { Ok(()) } else { Err(Ending::Protocol(protocol)) }
    }

    /// Sweeps what interrupted attempts left of packages that the agent cannot be told of. It may be much, so nobody waits for it.
    fn sweep_all_but(&self, named: Vec<PackageId>) -> Result<(), Ending> {
        let archive = self.archive.clone();
        let sweeping = thread::Builder::new().name("sweeping".into()).spawn(move || {
            match staging::sweep(&archive, &named) {
                // What is stuck is named in the answer to each request that sweeps as well.
                Ok(_) => {}
                Err(failure) => eprintln!("blat-receiver: {failure}"),
            }
        });
        sweeping.map(drop).map_err(Ending::Thread)
    }

    fn pong(&self, beat: u64) -> Result<(), Ending> {
        let work = self.lanes.iter().map(|lane| lane.as_ref().map_or(0, |inbox| inbox.work())).collect();
        Ok(self.replies.send(Lane::CONTROL, &[Reply::Pong { beat, work }])?)
    }

    fn pass_on(&mut self, lane: Lane, body: &[u8]) -> Result<(), Ending> {
        let place = &mut self.lanes[usize::from(lane.0)];
        let inbox = match place {
            Some(inbox) => inbox,
            None => place.insert(start(lane, &self.archive, &self.replies, self.leave)?),
        };
        if inbox.put(body) { Ok(()) } else { Err(Ending::Violation("it sent more on a lane than it had credit for")) }
    }
}

/// Starts a lane's thread.
fn start(lane: Lane, archive: &Arc<Archive>, replies: &Arc<Replies>, leave: fn()) -> Result<Arc<Inbox>, Ending> {
    let inbox = Arc::new(Inbox::default());
    let mut worker = Worker::new(lane, archive.clone(), replies.clone(), inbox.clone());
    let working = thread::Builder::new().name(format!("lane {}", lane.0)).spawn(move || {
        if lane >= Lane::BULK {
            // Of this thread alone, which is what the system's threads are. Refused, it merely competes.
            let _ = rustix::process::setpriority_process(None, NICE);
        }
        let ending = worker.work();
        if !matches!(ending, Ending::Over) {
            complain(&ending, &worker);
            leave();
        }
    });
    working.map(|_| inbox).map_err(Ending::Thread)
}

/// Says why a lane cannot go on.
fn complain(ending: &Ending, worker: &Worker) {
    let text = ending.to_string();
    eprintln!("blat-receiver: {text}");
    // The agent may be gone; it has been said on standard error.
    let _ = worker.refuse(&text);
}

/// Fills a buffer; false where the input has ended. An end in mid-frame is a cut connection, and as good an end as any.
fn whole(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
