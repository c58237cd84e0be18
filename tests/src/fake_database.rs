//! A database server that is a stranger: it speaks the protocol up to the first query for rows, and then does its worst.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::database::Kind;

/// What the server does instead of an honest answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malice {
    /// Nothing, from the first byte on.
    Silence,
    /// Projects without end.
    Rows,
    /// A value of a gigabyte.
    Value,
    /// As many columns as the protocol can announce, and more.
    Columns,
    /// An error with a message of a hundred mebibytes.
    Message,
    /// A row, one byte at a time.
    Drip,
    /// Half a row, and then the end.
    HalfRow,
    /// A row of no columns, though two were announced.
    EmptyRow,
    /// Whole answers to nothing, without end.
    Answers,
}

impl Malice {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Silence,
        Self::Rows,
        Self::Value,
        Self::Columns,
        Self::Message,
        Self::Drip,
        Self::HalfRow,
        Self::EmptyRow,
        Self::Answers,
    ];
}

/// Starts such a server, which ends with this process, and gives its port.
pub fn start(kind: Kind, malice: Malice) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                // The other end goes away in the middle of it: that is what it should do.
                let _gone = match kind {
                    Kind::Postgres => postgres(stream, malice),
                    Kind::MariaDb => mysql(stream, malice),
                };
            });
        }
    });
    port
}

/// Waits until the other end goes.
fn hang(mut stream: TcpStream) -> io::Result<()> {
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

/// The same bytes, so many.
fn flood(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let piece = [b'x'; 1 << 16];
    for _ in 0..bytes >> 16 {
        stream.write_all(&piece)?;
    }
    Ok(())
}

fn drip(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte])?;
        thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// A message of PostgreSQL's, with a length that need not be true.
fn message(kind: u8, length: usize, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length + 4).expect("a length");
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

fn whole(kind: u8, body: &[u8]) -> Vec<u8> {
    message(kind, body.len(), body)
}

/// A row of PostgreSQL's.
fn postgres_row(values: &[&str]) -> Vec<u8> {
    let mut body = u16::try_from(values.len()).expect("few").to_be_bytes().to_vec();
    for value in values {
        body.extend(u32::try_from(value.len()).expect("short").to_be_bytes());
        body.extend(value.as_bytes());
    }
    whole(b'D', &body)
}

/// Columns of these names, of the types bigint and text.
fn postgres_columns() -> Vec<u8> {
    let mut body = 2_u16.to_be_bytes().to_vec();
    for (name, oid, size) in [("project_id", 20_u32, 8_i16), ("project_name", 25, -1)] {
        body.extend(name.as_bytes());
        body.extend([0, 0, 0, 0, 0, 0, 0]);
        body.extend(oid.to_be_bytes());
        body.extend(size.to_be_bytes());
        body.extend((-1_i32).to_be_bytes());
        body.extend([0, 0]);
    }
    whole(b'T', &body)
}

fn postgres(mut stream: TcpStream, malice: Malice) -> io::Result<()> {
    if malice == Malice::Silence {
        return hang(stream);
    }
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        stream.read_exact(&mut body)?;
        // Whoever asks for TLS is told that there is none.
        if body[..4] != 80_877_103_u32.to_be_bytes() {
            break;
        }
        stream.write_all(b"N")?;
    }
    stream.write_all(&whole(b'R', &[0, 0, 0, 0]))?;
    stream.write_all(&whole(b'Z', b"I"))?;
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        let mut body = vec![0; u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4];
        stream.read_exact(&mut body)?;
        if head[0] == b'Q' && body.starts_with(b"SELECT project_id") {
            return postgres_malice(stream, malice);
        }
        stream.write_all(&[whole(b'C', b"SET\0"), whole(b'Z', b"T")].concat())?;
    }
}

fn postgres_malice(mut stream: TcpStream, malice: Malice) -> io::Result<()> {
    const GIGABYTE: usize = 1 << 30;
    let announced = postgres_columns();
    match malice {
        Malice::Silence => hang(stream),
        Malice::Rows => {
            stream.write_all(&announced)?;
            for number in 0_u64.. {
                let rows: Vec<u8> = (0..1000)
                    .flat_map(|row| {
                        postgres_row(&[&(number * 1000 + row).to_string(), &format!("a project called {number}.{row}")])
                    })
                    .collect();
                stream.write_all(&rows)?;
            }
            Ok(())
        }
        Malice::Value => {
            stream.write_all(&announced)?;
            stream.write_all(&message(b'D', GIGABYTE, &[0, 2, 0, 0, 0, 1, b'1', 0x3f, 0xff, 0xff, 0xf0]))?;
            flood(&mut stream, GIGABYTE as u64)?;
            hang(stream)
        }
        Malice::Columns => {
            stream.write_all(&message(b'T', 2 * GIGABYTE - 5, &u16::MAX.to_be_bytes()))?;
            flood(&mut stream, 2 * GIGABYTE as u64)?;
            hang(stream)
        }
        Malice::Message => {
            stream.write_all(&message(b'E', 100 << 20, b"SFATAL\0C57000\0M"))?;
            flood(&mut stream, 100 << 20)?;
            hang(stream)
        }
        Malice::Drip => {
            stream.write_all(&announced)?;
            drip(&mut stream, &postgres_row(&["1", &"x".repeat(3600)]))
        }
        Malice::HalfRow => {
            stream.write_all(&announced)?;
            let row = postgres_row(&["1", "a project"]);
            stream.write_all(&row[..row.len() / 2])
        }
        Malice::EmptyRow => {
            stream.write_all(&announced)?;
            stream.write_all(&[postgres_row(&[]), whole(b'C', b"SELECT 1\0"), whole(b'Z', b"T")].concat())?;
            hang(stream)
        }
        Malice::Answers => loop {
            stream.write_all(&whole(b'C', b"SELECT 0\0").repeat(1000))?;
        },
    }
}

/// A packet of MySQL's.
fn packet(sequence: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("short").to_le_bytes();
    [&length[..3], &[sequence], body].concat()
}

/// The beginning of a packet as long as one can be, which another must follow.
const LONGEST: [u8; 4] = [0xff, 0xff, 0xff, 1];

fn text(value: &str) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("short").to_le_bytes();
    [&[0xfc][..], &length, value.as_bytes()].concat()
}

fn mysql_column(name: &str) -> Vec<u8> {
    let words: Vec<u8> = ["def", "", "", "", name, name].iter().flat_map(|word| text(word)).collect();
    // Its collation, length, type (VARCHAR), flags and digits.
    [&words[..], &[0x0c, 0x2d, 0, 80, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0]].concat()
}

fn mysql(mut stream: TcpStream, malice: Malice) -> io::Result<()> {
    if malice == Malice::Silence {
        return hang(stream);
    }
    // Version 10, no TLS, the oldest way to log in that there still is.
    let mut greeting = b"\x0a8.0.36\0\x01\0\0\0abcdefgh\0".to_vec();
    let capabilities: u32 =
        0x0001 | 0x0008 | 0x0200 | 0x2000 | 0x8000 | 0x0001_0000 | 0x0002_0000 | 0x0008_0000 | 0x0100_0000;
    greeting.extend(&capabilities.to_le_bytes()[..2]);
    greeting.extend([0x2d, 2, 0]);
    greeting.extend(&capabilities.to_le_bytes()[2..]);
    greeting.push(21);
    greeting.extend([0; 10]);
    greeting.extend(b"ijklmnopqrst\0mysql_native_password\0");
    stream.write_all(&packet(0, &greeting))?;
    let mut sequence = 2;
    loop {
        let mut head = [0; 4];
        stream.read_exact(&mut head)?;
        let mut body = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
        stream.read_exact(&mut body)?;
        if body.starts_with(b"\x03SELECT project_id") {
            return mysql_malice(stream, malice);
        }
        stream.write_all(&packet(sequence, &[0, 0, 0, 2, 0, 0, 0]))?;
        sequence = 1;
    }
}

fn mysql_malice(mut stream: TcpStream, malice: Malice) -> io::Result<()> {
    let announced =
        [packet(1, &[2]), packet(2, &mysql_column("project_id")), packet(3, &mysql_column("project_name"))].concat();
    let row = |id: &str, name: &str| packet(4, &[text(id), text(name)].concat());
    match malice {
        Malice::Silence => hang(stream),
        Malice::Rows => {
            stream.write_all(&announced)?;
            for number in 0_u64.. {
                let rows: Vec<u8> = (0..1000)
                    .flat_map(|at| row(&(number * 1000 + at).to_string(), &format!("a project called {number}.{at}")))
                    .collect();
                stream.write_all(&rows)?;
            }
            Ok(())
        }
        Malice::Value | Malice::Message => {
            let is_row = malice == Malice::Value;
            if is_row {
                stream.write_all(&announced)?;
            }
            // Each packet is full, so that the value goes on in the next one.
            for _ in 0..if is_row { 64 } else { 7 } {
                stream.write_all(&LONGEST)?;
                let piece = vec![if is_row { b'x' } else { 0xff }; 0xff_ffff];
                stream.write_all(&piece)?;
            }
            hang(stream)
        }
        Malice::Columns => {
            stream.write_all(&packet(1, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]))?;
            loop {
                stream.write_all(&packet(2, &mysql_column("project_id")).repeat(1000))?;
            }
        }
        Malice::Drip => {
            stream.write_all(&announced)?;
            drip(&mut stream, &row("1", &"x".repeat(3600)))
        }
        Malice::HalfRow => {
            stream.write_all(&announced)?;
            let row = row("1", "a project");
            stream.write_all(&row[..row.len() / 2])
        }
        Malice::EmptyRow => {
            stream.write_all(&announced)?;
            stream.write_all(&packet(4, &text("1")))?;
            hang(stream)
        }
        Malice::Answers => loop {
            // Each says that another one follows.
            stream.write_all(&packet(1, &[0, 0, 0, 10, 0, 0, 0]).repeat(1000))?;
        },
    }
}
