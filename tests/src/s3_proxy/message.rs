//! As much of HTTP as a proxy between two well-behaved ends must know.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::TcpStream;

use super::Asks;

/// How the end of a body is known.
#[derive(Debug, Clone, Copy)]
pub(super) enum Body {
    Length(u64),
    Chunked,
    UntilEnd,
}

/// The first lines of a request or an answer.
pub(super) struct Head {
    lines: Vec<String>,
}

impl Head {
    pub(super) fn text(&self) -> String {
        self.lines.join("\r\n") + "\r\n\r\n"
    }

    fn field(&self, name: &str) -> Option<&str> {
        let fields = self.lines.iter().skip(1).filter_map(|line| line.split_once(':'));
        fields.map(|(key, value)| (key, value.trim())).find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    fn without(&self, names: &[&str]) -> Vec<String> {
        let drop =
            |line: &str| line.split_once(':').is_some_and(|(k, _)| names.iter().any(|n| k.eq_ignore_ascii_case(n)));
        self.lines.iter().filter(|line| !drop(line)).cloned().collect()
    }

    /// The proxy answered that field itself.
    pub(super) fn without_expect(&self) -> String {
        self.without(&["Expect"]).join("\r\n") + "\r\n\r\n"
    }

    /// With a body of this length instead of its own.
    pub(super) fn with_length(&self, length: usize) -> String {
        let mut lines = self.without(&["Content-Length", "Transfer-Encoding"]);
        lines.push(format!("Content-Length: {length}"));
        lines.join("\r\n") + "\r\n\r\n"
    }

    /// An answer with another status.
    pub(super) fn with_status(&self, status: u16) -> Self {
        let mut lines = self.lines.clone();
        lines[0] = format!("HTTP/1.1 {status} Lab");
        Self { lines }
    }

    pub(super) fn expects_continue(&self) -> bool {
        self.field("Expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    }

    fn body(&self, otherwise: Body) -> Body {
        if self.field("Transfer-Encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Body::Chunked;
        }
        self.field("Content-Length").map_or(otherwise, |length| Body::Length(length.parse().expect("a length")))
    }

    pub(super) fn request_body(&self) -> Body {
        self.body(Body::Length(0))
    }

    pub(super) fn answer_body(&self, request: &Self) -> Body {
        let status = self.lines[0].split(' ').nth(1).unwrap_or_default();
        if request.method() == "HEAD" || matches!(status, "204" | "304") {
            return Body::Length(0);
        }
        self.body(Body::UntilEnd)
    }

    pub(super) fn method(&self) -> &str {
        self.lines[0].split(' ').next().unwrap_or_default()
    }

    pub(super) fn target(&self) -> &str {
        self.lines[0].split(' ').nth(1).unwrap_or_default()
    }

    /// What a request to a bucket by its path asks.
    pub(super) fn asks(&self) -> Asks {
        let (path, query) = self.target().split_once('?').unwrap_or((self.target(), ""));
        let has = |name: &str| query.split('&').any(|part| part.split('=').next() == Some(name));
        let of_object = path.trim_matches('/').contains('/');
        match (self.method(), of_object) {
            ("GET", false) if has("uploads") => Asks::ListUploads,
            ("GET", false) if has("list-type") => Asks::List,
            ("GET" | "PUT", true) if path.ends_with("/.blat/visit") => Asks::Visit,
            ("GET", true) => Asks::Get,
            ("HEAD", true) => Asks::Head,
            ("PUT", true) if has("partNumber") => Asks::Part,
            ("PUT", true) => Asks::Put,
            ("POST", true) if has("uploads") => Asks::Begin,
            ("POST", true) if has("uploadId") => Asks::Complete,
            ("DELETE", true) if has("uploadId") => Asks::Abort,
            ("DELETE", true) => Asks::Delete,
            ("POST", false) if has("delete") => Asks::DeleteMany,
            _ => Asks::Other,
        }
    }
}

/// One end of a connection.
pub(super) struct HttpEnd {
    pub(super) stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl HttpEnd {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let reader = BufReader::with_capacity(64 << 10, stream.try_clone()?);
        Ok(Self { stream, reader })
    }

    /// The next request or answer; none when the other end is done. Provisional answers are left out.
    pub(super) fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if self.reader.read_line(&mut line)? == 0 {
                    return Ok(None);
                }
                match line.trim_end() {
                    "" if lines.is_empty() => {}
                    "" => break,
                    line => lines.push(line.to_owned()),
                }
            }
            if !lines[0].starts_with("HTTP/1.1 100") {
                return Ok(Some(Head { lines }));
            }
        }
    }

    /// Hands a body on as it comes, its framing included; `touch` sees each piece on its way.
    pub(super) fn pass(&mut self, body: Body, to: &mut HttpEnd, touch: impl FnMut(&mut [u8])) -> io::Result<()> {
        self.copy(body, &mut to.stream, true, touch)
    }

    /// Reads a body and forgets it.
    pub(super) fn skip(&mut self, body: Body) -> io::Result<()> {
        self.copy(body, &mut io::sink(), false, |_| {})
    }

    /// A small body, whole.
    pub(super) fn text(&mut self, body: Body) -> io::Result<String> {
        let mut bytes = Vec::new();
        self.copy(body, &mut bytes, false, |_| {})?;
        String::from_utf8(bytes).map_err(io::Error::other)
    }

    fn copy(
        &mut self,
        body: Body,
        to: &mut impl io::Write,
        framed: bool,
        mut touch: impl FnMut(&mut [u8]),
    ) -> io::Result<()> {
        let length = match body {
            Body::Length(length) => length,
            Body::UntilEnd => u64::MAX,
            Body::Chunked => return self.copy_chunks(to, framed, &mut touch),
        };
        let copied = self.copy_bytes(length, to, &mut touch)?;
        if copied == length || length == u64::MAX { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn copy_chunks(
        &mut self,
        to: &mut impl io::Write,
        framed: bool,
        touch: &mut impl FnMut(&mut [u8]),
    ) -> io::Result<()> {
        loop {
            let line = self.frame(to, framed)?;
            let digits = line.trim_end().split(';').next().unwrap_or_default();
            let length = u64::from_str_radix(digits, 16).map_err(io::Error::other)?;
            self.copy_bytes(length, to, touch)?;
            // The end of the chunk's own line, or after the last chunk the empty line.
            self.frame(to, framed)?;
            if length == 0 {
                return Ok(());
            }
        }
    }

    fn frame(&mut self, to: &mut impl io::Write, framed: bool) -> io::Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        if framed {
            to.write_all(line.as_bytes())?;
        }
        Ok(line)
    }

    fn copy_bytes(
        &mut self,
        length: u64,
        to: &mut impl io::Write,
        touch: &mut impl FnMut(&mut [u8]),
    ) -> io::Result<u64> {
        let mut buffer = [0; 16 << 10];
        let mut copied = 0;
        while copied < length {
            let most = buffer.len().min(usize::try_from(length - copied).unwrap_or(usize::MAX));
            let count = self.reader.read(&mut buffer[..most])?;
            if count == 0 {
                break;
            }
            touch(&mut buffer[..count]);
            to.write_all(&buffer[..count])?;
            copied += count as u64;
        }
        Ok(copied)
    }
}
