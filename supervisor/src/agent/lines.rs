//! Lines from another process: bounded in length, whatever it sends.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// One piece of a peer's output.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A line, without its end.
    Line(Vec<u8>),
    /// A line longer than allowed, dropped.
    TooLong,
}

/// The next line of at most `longest` bytes; none at the end. A longer one is read to its end and dropped, in no more
/// memory than a line may take. What stands after the last line end counts as a line.
///
/// # Errors
/// What reading says.
pub(crate) async fn next(from: &mut (impl AsyncBufRead + Unpin), longest: usize) -> io::Result<Option<Piece>> {
    let mut line = Vec::new();
    let mut too_long = false;
    loop {
        let available = from.fill_buf().await?;
        if available.is_empty() {
            let is_end = line.is_empty() && !too_long;
            return Ok((!is_end).then(|| piece(line, too_long)));
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = &available[..end.unwrap_or(available.len())];
        if line.len() + part.len() > longest {
            too_long = true;
            line.clear();
        } else if !too_long {
            line.extend_from_slice(part);
        }
        let used = part.len() + usize::from(end.is_some());
        from.consume(used);
        if end.is_some() {
            return Ok(Some(piece(line, too_long)));
        }
    }
}

fn piece(line: Vec<u8>, too_long: bool) -> Piece {
    if too_long { Piece::TooLong } else { Piece::Line(line) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::BufReader;

    #[test]
    fn lines_are_told_apart_and_long_ones_are_dropped_alone() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            // The reader's buffer is smaller than the lines, so every line comes in parts.
            let mut from = BufReader::with_capacity(3, &b"ab\n\n0123456789\n01234567\nlast"[..]);
            let mut pieces = Vec::new();
            while let Some(piece) = next(&mut from, 8).await.expect("a slice can be read") {
                pieces.push(piece);
            }
            let line = |text: &str| Piece::Line(text.as_bytes().to_vec());
            assert_eq!(pieces, [line("ab"), line(""), Piece::TooLong, line("01234567"), line("last")]);
        });
    }
}
