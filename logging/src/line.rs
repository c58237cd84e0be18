//! How a line of the log looks: `2026-11-21T04:05:06.123Z INFO  message key=value`.
//!
//! One event is one line, whatever it carries: control characters and what nobody sees are escaped, so nothing that a peer sends can forge
//! a line or speak to a terminal.

use std::fmt::{self, Write};

use blat_domain::util::text::escaped;
use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The format of all our logs.
pub(crate) struct LineFormat;

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let level = event.metadata().level().as_str();
        writeln!(line, "{:.3} {level:<5} {}{}", Timestamp::now(), parts.message, parts.fields)
    }
}

/// An event, taken apart: its message goes first, wherever it stood.
#[derive(Default)]
struct Parts {
    message: String,
    fields: String,
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        if field.name() == "message" {
            write!(Escaped(&mut self.message), "{value:?}").unwrap_or_default();
        } else {
            write!(Escaped(&mut self.fields), " {}={value:?}", field.name()).unwrap_or_default();
        }
    }
}

/// Takes text and keeps it on one line.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push_str(&escaped(text));
        Ok(())
    }
}
