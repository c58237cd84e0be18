//! A proxy between agent and S3 server that counts requests by what they ask, and spoils them on order.
//!
//! Requests pass as they are, so their signatures stay valid: clients sign for the proxy's own address.

mod message;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use message::{Body, Head, HttpEnd};

/// What a request asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asks {
    /// A page of the bucket's objects.
    List,
    /// What is known of an object, without its bytes.
    Head,
    /// An object.
    Get,
    /// An object to be stored in one request.
    Put,
    /// An upload in parts to begin.
    Begin,
    /// A part to be stored.
    Part,
    /// An upload in parts to end.
    Complete,
    /// An upload in parts to be forgotten.
    Abort,
    /// Which uploads in parts are unfinished.
    ListUploads,
    /// One object to be deleted.
    Delete,
    /// Many objects to be deleted.
    DeleteMany,
    /// The number of the last visit to be read or stored, which each agent does when it begins.
    Visit,
    /// Anything else.
    Other,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
pub enum RequestFault {
    /// It is refused with this status and S3 code, and never reaches the server.
    Refused(u16, &'static str),
    /// The connection is reset before an answer; the request never reaches the server whole.
    Reset,
    /// The server does as asked, and the connection is cut in the middle of its answer.
    CutAnswer,
    /// The server does as asked, and the connection is reset before its answer: nobody can know.
    LostAnswer,
    /// Every few thousandth byte of what is sent arrives changed.
    Damaged,
    /// What is sent passes at so many bytes a second.
    Slow(u64),
    /// The server does as asked, and its answer gets this status and another text.
    Answered(u16, fn(String) -> String),
    /// Nothing passes and nobody is told, until the other end hangs up.
    Silence,
}

/// A port that leads to an S3 server of this machine.
pub struct Proxy {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    shared: Arc<Mutex<ProxyState>>,
}

#[derive(Default)]
struct ProxyState {
    counts: BTreeMap<Asks, usize>,
    orders: Vec<Order>,
    /// Requests in the order of their coming, as `METHOD TARGET`.
    log: Vec<String>,
}

struct Order {
    asks: Asks,
    fault: RequestFault,
    /// Requests of this kind that pass unharmed before.
    after: usize,
    times: usize,
}

impl Proxy {
    /// A proxy to this port, which ends with the test's process.
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let own = listener.local_addr().expect("a bound port").port();
        let shared: Arc<Mutex<ProxyState>> = Arc::default();
        let state = shared.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let state = state.clone();
                thread::spawn(move || {
                    // Either end may hang up at any time: that ends this connection and nothing else.
                    let _ = serve(near, port, &state);
                });
            }
        });
        Self { port: own, shared }
    }

    /// The next requests of this kind are spoiled, so many of them.
    pub fn spoils(&self, times: usize, asks: Asks, fault: RequestFault) {
        self.spoils_after(0, times, asks, fault);
    }

    /// As [`Self::spoils`], once so many of them passed.
    pub fn spoils_after(&self, after: usize, times: usize, asks: Asks, fault: RequestFault) {
        lock(&self.shared).orders.push(Order { asks, fault, after, times });
    }

    /// From here on nothing is spoiled.
    pub fn heals(&self) {
        lock(&self.shared).orders.clear();
    }

    /// Whether everything ordered has happened.
    pub fn all_spoiled(&self) -> bool {
        lock(&self.shared).orders.iter().all(|order| order.times == 0)
    }

    /// Requests by kind since the last call of [`Self::forget`].
    pub fn counts(&self) -> BTreeMap<Asks, usize> {
        lock(&self.shared).counts.clone()
    }

    /// Requests of one kind since then.
    pub fn count(&self, asks: Asks) -> usize {
        self.counts().get(&asks).copied().unwrap_or(0)
    }

    /// Every request since then, in the order of their coming, as `METHOD TARGET`.
    pub fn log(&self) -> Vec<String> {
        lock(&self.shared).log.clone()
    }

    /// Begins to count and log again.
    pub fn forget(&self) {
        let mut state = lock(&self.shared);
        state.counts.clear();
        state.log.clear();
    }
}

impl ProxyState {
    /// Counts a request, and says what is to become of it.
    fn meet(&mut self, head: &Head) -> Option<RequestFault> {
        let asks = head.asks();
        *self.counts.entry(asks).or_default() += 1;
        self.log.push(format!("{} {}", head.method(), head.target()));
        let order = self.orders.iter_mut().find(|order| order.asks == asks && order.times > 0)?;
        if order.after > 0 {
            order.after -= 1;
            return None;
        }
        order.times -= 1;
        Some(order.fault)
    }
}

/// One connection, request after request, until an end hangs up.
fn serve(near: TcpStream, port: u16, state: &Mutex<ProxyState>) -> io::Result<()> {
    let mut near = HttpEnd::new(near)?;
    let mut far = HttpEnd::new(TcpStream::connect(("127.0.0.1", port))?)?;
    while let Some(request) = near.head()? {
        let fault = lock(state).meet(&request);
        if !exchange(&mut near, &mut far, &request, fault)? {
            break;
        }
    }
    near.stream.shutdown(Shutdown::Both)
}

/// One request and its answer; false when the connection was spoiled with it.
fn exchange(near: &mut HttpEnd, far: &mut HttpEnd, request: &Head, fault: Option<RequestFault>) -> io::Result<bool> {
    if request.expects_continue() {
        near.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let sent = request.request_body();
    match fault {
        Some(RequestFault::Refused(status, code)) => {
            near.skip(sent)?;
            near.stream.write_all(refusal(status, code).as_bytes())?;
            return Ok(true);
        }
        Some(RequestFault::Reset) => return reset(near),
        Some(RequestFault::Silence) => {
            near.skip(Body::UntilEnd)?;
            return Ok(false);
        }
        Some(RequestFault::Damaged) => {
            far.stream.write_all(request.without_expect().as_bytes())?;
            near.pass(sent, far, |piece| piece[0] ^= 0x10)?;
        }
        Some(RequestFault::Slow(rate)) => {
            far.stream.write_all(request.without_expect().as_bytes())?;
            near.pass(sent, far, |piece| thread::sleep(Duration::from_secs_f64(piece.len() as f64 / rate as f64)))?;
        }
        Some(RequestFault::CutAnswer | RequestFault::LostAnswer | RequestFault::Answered(..)) | None => {
            far.stream.write_all(request.without_expect().as_bytes())?;
            near.pass(sent, far, |_| {})?;
        }
    }
    answer(near, far, request, fault)
}

fn answer(near: &mut HttpEnd, far: &mut HttpEnd, request: &Head, fault: Option<RequestFault>) -> io::Result<bool> {
    let Some(answer) = far.head()? else { return Ok(false) };
    let body = answer.answer_body(request);
    match fault {
        Some(RequestFault::LostAnswer) => {
            far.skip(body)?;
            reset(near)
        }
        Some(RequestFault::CutAnswer) => {
            let text = far.text(body)?;
            near.stream.write_all(answer.with_length(text.len()).as_bytes())?;
            near.stream.write_all(&text.as_bytes()[..text.len() / 2])?;
            Ok(false)
        }
        Some(RequestFault::Answered(status, change)) => {
            let text = change(far.text(body)?);
            near.stream.write_all(answer.with_status(status).with_length(text.len()).as_bytes())?;
            near.stream.write_all(text.as_bytes())?;
            Ok(true)
        }
        Some(
            RequestFault::Refused(..)
            | RequestFault::Reset
            | RequestFault::Silence
            | RequestFault::Damaged
            | RequestFault::Slow(_),
        )
        | None => {
            near.stream.write_all(answer.text().as_bytes())?;
            far.pass(body, near, |_| {})?;
            Ok(!matches!(body, Body::UntilEnd))
        }
    }
}

fn reset(near: &HttpEnd) -> io::Result<bool> {
    // Linux answers this with a reset at once.
    rustix::net::connect_unspec(&near.stream)?;
    Ok(false)
}

/// What S3 servers say when they refuse.
fn refusal(status: u16, code: &str) -> String {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>The lab says {code}.</Message>\
         <RequestId>lab</RequestId></Error>"
    );
    let length = body.len();
    format!("HTTP/1.1 {status} Refused\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().expect("no thread of the proxy panics with it")
}
