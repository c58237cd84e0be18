//! Entries of a tar stream in GNU's format, with what the `tar` crate's builder would bend: names and link targets are written byte for byte,
//! times keep their fraction.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use crate::walker::Stat;

/// The longest name that fits into a header; a longer one goes before it in an entry of its own.
const HEADER_NAME: usize = 100;

/// A stream of entries.
pub(crate) struct Tarball<W: Write> {
    out: tar::Builder<W>,
}

/// The entry of a directory as [`Tarball::directory`] writes it, for [`Tarball::entries`] to put into a stream later.
pub(crate) fn directory(path: &[u8], stat: &Stat, widen: u32) -> io::Result<Vec<u8>> {
    let mut alone = Tarball::new(Vec::new());
    alone.directory(path, stat, widen)?;
    Ok(alone.out.get_ref().clone())
}

impl<W: Write> Tarball<W> {
    /// A stream that goes to `out`.
    pub(crate) fn new(out: W) -> Self {
        Self { out: tar::Builder::new(out) }
    }

    /// Writes the end mark, and gives back where the stream went.
    pub(crate) fn finish(self) -> io::Result<W> {
        self.out.into_inner()
    }

    /// Entries that were made before.
    pub(crate) fn entries(&mut self, mut entries: impl Read) -> io::Result<()> {
        io::copy(&mut entries, self.out.get_mut()).map(drop)
    }

    /// A regular file whose bytes `reader` gives: exactly as many as `stat` says.
    pub(crate) fn file(
        &mut self,
        path: &[u8],
        stat: &Stat,
        reader: &mut impl Read,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        self.header(EntryType::Regular, path, None, stat, 0)?;
        let out = self.out.get_mut();
        loop {
            let read = reader.read(buffer)?;
            if read == 0 {
                break;
            }
            out.write_all(&buffer[..read])?;
        }
        // Contents fill whole blocks of 512 bytes.
        let over = (stat.size % 512) as usize;
        if over > 0 { out.write_all(&[0; 512][over..]) } else { Ok(()) }
    }

    /// A directory, with the bits of `widen` added to its mode.
    pub(crate) fn directory(&mut self, path: &[u8], stat: &Stat, widen: u32) -> io::Result<()> {
        self.header(EntryType::Directory, path, None, stat, widen)
    }

    /// A symbolic link to `target`.
    pub(crate) fn link(&mut self, path: &[u8], target: &[u8], stat: &Stat) -> io::Result<()> {
        self.header(EntryType::Symlink, path, Some(target), stat, 0)
    }

    /// Another name of a file that is in the stream already, as `of`.
    pub(crate) fn hard_link(&mut self, path: &[u8], of: &[u8], stat: &Stat) -> io::Result<()> {
        self.header(EntryType::Link, path, Some(of), stat, 0)
    }

    /// A regular file of our own making: exactly so many bytes.
    pub(crate) fn text(&mut self, path: &str, bytes: u64, text: impl Read) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(bytes);
        self.long_name(b'L', path.as_bytes())?;
        put_name(&mut header.as_gnu_mut().ok_or_else(not_gnu)?.name, path.as_bytes());
        header.set_cksum();
        self.out.append(&header, text)
    }

    /// The header of one entry, with what does not fit into it before it: long names, and times that are not whole seconds after 1970.
    fn header(&mut self, kind: EntryType, path: &[u8], link: Option<&[u8]>, stat: &Stat, widen: u32) -> io::Result<()> {
        let (seconds, nanoseconds) = stat.modified;
        if nanoseconds != 0 || seconds < 0 {
            self.extension("mtime", &pax_time(seconds, nanoseconds))?;
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(stat.permissions() | widen);
        header.set_mtime(u64::try_from(seconds).unwrap_or(0));
        header.set_size(if kind == EntryType::Regular { stat.size } else { 0 });
        self.long_name(b'L', path)?;
        put_name(&mut header.as_gnu_mut().ok_or_else(not_gnu)?.name, path);
        if let Some(link) = link {
            self.long_name(b'K', link)?;
            put_name(&mut header.as_gnu_mut().ok_or_else(not_gnu)?.linkname, link);
        }
        header.set_cksum();
        self.out.get_mut().write_all(header.as_bytes())
    }

    /// What a pax header says of the next entry. It has a name, since busybox's tar takes a header without one for the end of the archive.
    fn extension(&mut self, key: &str, value: &str) -> io::Result<()> {
        let record = pax_record(key, value);
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_size(record.len() as u64);
        put_name(&mut header.as_ustar_mut().ok_or_else(not_gnu)?.name, b"././@PaxHeader");
        header.set_cksum();
        self.out.append(&header, record.as_bytes())
    }

    /// GNU tar's way with a name that is too long for the next header.
    fn long_name(&mut self, kind: u8, name: &[u8]) -> io::Result<()> {
        if name.len() <= HEADER_NAME {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(kind));
        header.set_mode(0o644);
        header.set_size(name.len() as u64 + 1);
        put_name(&mut header.as_gnu_mut().ok_or_else(not_gnu)?.name, b"././@LongLink");
        header.set_cksum();
        self.out.append(&header, name.chain(&[0u8][..]))
    }
}

fn not_gnu() -> io::Error {
    io::Error::other("a GNU header is not a GNU header")
}

fn put_name(field: &mut [u8; HEADER_NAME], name: &[u8]) {
    let fits = name.len().min(HEADER_NAME);
    field[..fits].copy_from_slice(&name[..fits]);
}

/// `LENGTH KEY=VALUE` and a line end, where the length counts all of it, its own digits too (pax(1), "pax Extended Header").
fn pax_record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while length.to_string().len() + rest.len() != length {
        length = length.to_string().len() + rest.len();
    }
    format!("{length}{rest}")
}

/// Seconds with a fraction, as a pax header writes them; before 1970 both count backwards.
fn pax_time(seconds: i64, nanoseconds: u32) -> String {
    if seconds < 0 && nanoseconds > 0 {
        let (whole, rest) = (seconds + 1, 1_000_000_000 - nanoseconds);
        return format!("-{}.{rest:09}", whole.unsigned_abs());
    }
    format!("{seconds}.{nanoseconds:09}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_pax_record_counts_its_own_digits() {
        assert_eq!(pax_record("mtime", "1.5"), "13 mtime=1.5\n");
        for value in 0..200 {
            let record = pax_record("k", &"v".repeat(value));
            let length = record.split_once(' ').and_then(|(length, _)| length.parse().ok());
            assert_eq!(length, Some(record.len()), "{record}");
        }
    }

    #[test]
    fn times_before_1970_count_backwards_with_their_fraction() {
        assert_eq!(pax_time(5, 250_000_000), "5.250000000");
        assert_eq!(pax_time(-2, 0), "-2.000000000");
        // -2 s + 0.75 s is -1.25 s.
        assert_eq!(pax_time(-2, 750_000_000), "-1.250000000");
    }
}
