//! A server that speaks HTTP as an S3 server does and says what a test has it say: there is no server of that kind that lies by itself.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// The answer to a listing of objects or of uploads that names nothing.
pub const NOTHING: &str = "<List><IsTruncated>false</IsTruncated></List>";

/// A server on 127.0.0.1, which ends with the test's process; gives its port. `says` answers requests, `METHOD TARGET`, as it likes and says
/// whether it has; what it has not answered is answered as by an empty bucket that takes everything.
pub fn start(says: impl Fn(&str, &mut TcpStream) -> io::Result<bool> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound port").port();
    let says = Arc::new(says);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let says = says.clone();
            // Whoever asks may hang up: that ends this question and nothing else.
            thread::spawn(move || serve(stream, &*says));
        }
    });
    port
}

/// A whole answer of this text.
///
/// # Errors
/// The other end hung up.
pub fn answer(stream: &mut TcpStream, status: &str, text: &str) -> io::Result<bool> {
    let length = text.len();
    let date = "Date: Thu, 26 Nov 2026 12:00:00 GMT";
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{date}\r\nETag: \"e\"\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(text.as_bytes())?;
    Ok(true)
}

/// An answer that says that it has 90 bytes and has no end.
///
/// # Errors
/// The other end hung up, as it must in the end.
pub fn endless(stream: &mut TcpStream) -> io::Result<bool> {
    let head = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nLast-Modified: Thu, 26 Nov 2026 12:00:00 GMT\r\nContent-Length: 90\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes())?;
    let chunk = format!("10000\r\n{}\r\n", "# x\n".repeat(0x4000));
    loop {
        stream.write_all(chunk.as_bytes())?;
    }
}

fn serve(mut stream: TcpStream, says: &dyn Fn(&str, &mut TcpStream) -> io::Result<bool>) -> io::Result<()> {
    let mut from = BufReader::new(stream.try_clone()?);
    let (mut request, mut length) = (String::new(), 0);
    from.read_line(&mut request)?;
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.trim_end().split_once(": ")
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.parse().unwrap_or(0);
        }
    }
    io::copy(&mut from.take(length), &mut io::sink())?;
    let request = request.trim_end().trim_end_matches(" HTTP/1.1");
    if says(request, &mut stream)? {
        return Ok(());
    }
    let method = request.split(' ').next().unwrap_or_default();
    let is_listing = request.contains("list-type=2") || request.contains("?uploads");
    match method {
        "GET" if is_listing => answer(&mut stream, "200 OK", NOTHING),
        "GET" | "HEAD" => answer(&mut stream, "404 Not Found", ""),
        _ => answer(&mut stream, "200 OK", ""),
    }?;
    Ok(())
}
