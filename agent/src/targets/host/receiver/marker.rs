//! Finding the place where a receiver begins to speak.

use blat_domain::protocol::frames::MARKER;
use blat_domain::protocol::reply::MOST_NOISE;
use blat_domain::util::text::printable;
use tokio::io::AsyncBufRead;

use super::broke;
use crate::model::error::TargetError;
use crate::transport::bounded::read_line;

/// Past whatever a login shell prints, to the line after which a receiver speaks in frames.
pub(super) async fn skip_noise(input: &mut (impl AsyncBufRead + Unpin)) -> Result<(), TargetError> {
    let (mut noise, mut line) = (0, Vec::new());
    loop {
        read_line(input, MOST_NOISE - noise, &mut line).await.map_err(|error| broke(&error.to_string()))?;
        noise += line.len();
        // A banner that ends without a line end sticks to the marker.
        if line.strip_suffix(b"\n").is_some_and(|line| line.ends_with(MARKER.as_bytes())) {
            return Ok(());
        }
        if line.is_empty() {
            return Err(broke("it ended without a greeting"));
        }
        if noise > MOST_NOISE {
            let shown = printable(&String::from_utf8_lossy(&line[..line.len().min(200)]));
            return Err(TargetError::Refused(format!(
                "blat-receiver does not begin with {MARKER:?}; the target said {shown:?}: check that its login shell prints nothing endless"
            )));
        }
    }
}
