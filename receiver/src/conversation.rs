//! Reads the agent's frames and hands each to its lane, which a thread works through. Heartbeats are answered here, whatever the lanes do.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::{process, thread};

use blat_domain::frames::{self, FrameError, HEADER, LANES, Lane, PROTOCOL, Reply, Request};

use crate::archive::Archive;
use crate::failure::Failure;
use crate::inbox::Inbox;
use crate::lane::Worker;
use crate::replies::Replies;
use crate::stage;

/// Bytes of standard input that are read at once.
const READ: usize = 128 << 10;
/// Open files that we ask the system for: packages that wait to be published hold two each.
const OPEN_FILES: u64 = 4096;

/// Why a conversation cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ending {
    /// The archive cannot be served.
    #[error(transparent)]
    Archive(#[from] Failure),
    /// What came is no frame of ours.
    #[error("reading the agent's frames failed: {0}; check that blat-agent and blat-receiver are of one version")]
    Frame(#[from] FrameError),
    /// A frame came that has no place there.
    #[error("following the agent failed: {0}; check that blat-agent and blat-receiver are of one version")]
    Violation(&'static str),
    /// The agent speaks another protocol.
    #[error(
        "talking to the agent failed: it speaks version {0} of the protocol, and this is version {PROTOCOL}; install both of one version"
    )]
    Protocol(u16),
    /// The way to the agent is gone.
    #[error("talking to the agent failed: {0}; connect again")]
    Link(#[from] io::Error),
}

/// One end of a conversation, as the main thread sees it.
struct Conversation {
    archive: Arc<Archive>,
    replies: Arc<Replies>,
    lanes: Vec<Option<Arc<Inbox>>>,
}

/// Serves the archive until standard input ends.
pub(crate) fn hold(archive: &Path) -> Result<(), Ending> {
    // Names that are made for everybody are for everybody to read; what is staged says its modes itself.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let archive = Arc::new(Archive::open(archive)?);
    ask_for_open_files();
    let mut conversation =
        Conversation { archive, replies: Arc::new(Replies::new()?), lanes: vec![None; LANES.into()] };
    let ending = conversation.read_frames();
    match &ending {
        Ok(()) | Err(Ending::Link(_)) => {}
        Err(ending @ (Ending::Archive(_) | Ending::Frame(_) | Ending::Violation(_) | Ending::Protocol(_))) => {
            conversation.replies.refuse(Lane::CONTROL, &ending.to_string())?;
        }
    }
    ending
}

/// Where the system gives less, fewer packages are published together.
fn ask_for_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES, |most| most.min(OPEN_FILES));
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        // Refused is as good as a low limit: it is asked for where it matters.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

impl Conversation {
    fn read_frames(&mut self) -> Result<(), Ending> {
        let input: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
        let mut input = BufReader::with_capacity(READ, File::from(input));
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
                Some(_) | None if !greeted => return Err(Ending::Violation("its first frame was no greeting")),
                Some(_) | None => self.pass_on(lane, &body)?,
            }
        }
        Ok(())
    }

    fn welcome(&self, protocol: u16) -> Result<(), Ending> {
        let remains = stage::remains(&self.archive)?;
        let welcome = Reply::Welcome { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION"), remains };
        self.replies.send(Lane::CONTROL, &[welcome])?;
        if protocol == PROTOCOL { Ok(()) } else { Err(Ending::Protocol(protocol)) }
    }

    fn pong(&self, beat: u64) -> Result<(), Ending> {
        let work = self.lanes.iter().map(|lane| lane.as_ref().map_or(0, |inbox| inbox.work())).collect();
        Ok(self.replies.send(Lane::CONTROL, &[Reply::Pong { beat, work }])?)
    }

    fn pass_on(&mut self, lane: Lane, body: &[u8]) -> Result<(), Ending> {
        let place = &mut self.lanes[usize::from(lane.0)];
        let inbox = match place {
            Some(inbox) => inbox,
            None => place.insert(start(lane, &self.archive, &self.replies)?),
        };
        if inbox.put(body) { Ok(()) } else { Err(Ending::Violation("it sent more on a lane than it had credit for")) }
    }
}

/// Starts a lane's thread.
fn start(lane: Lane, archive: &Arc<Archive>, replies: &Arc<Replies>) -> Result<Arc<Inbox>, Ending> {
    let inbox = Arc::new(Inbox::default());
    let mut worker = Worker::new(lane, archive.clone(), replies.clone(), inbox.clone());
    thread::Builder::new().name(format!("lane {}", lane.0)).spawn(move || leave(&worker.work(), &worker))?;
    Ok(inbox)
}

/// Ends the conversation from a lane, while the main thread waits for frames that nobody would understand any more. What is staged stays for
/// another time.
fn leave(ending: &Ending, worker: &Worker) -> ! {
    let text = ending.to_string();
    eprintln!("blat-receiver: {text}");
    // The agent may be gone; it has been said on standard error.
    let _ = worker.refuse(&text);
    process::exit(1)
}

/// Fills a buffer; false where the input has ended. An end in mid-frame is a cut connection, and as good an end as any.
fn whole(input: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
