//! `bandwidth`: a size a second, or a list of windows by the time of day.

use std::num::NonZeroU64;

use blat_domain::flow::bandwidth::{Bandwidth, BandwidthError, Day, Rate, RateWindow, TimeOfDay};

use crate::document::Value;
use crate::keys::{Found, Keys, Wrong};
use crate::values;

/// More windows than anybody needs: they are looked through whenever something is sent.
const MOST_WINDOWS: usize = 100;
/// What a window looks like.
const WINDOW: &str = "{from: \"08:00\", to: \"18:00\", days: [mon, tue], rate: 2m}; without days: every day";

/// The limit that a target's file or the defaults set; none where they set none.
pub(crate) fn read(keys: &mut Keys<'_>) -> Bandwidth {
    let Some(found) = keys.find("bandwidth") else { return Bandwidth::Always(None) };
    let Found { document, node } = found;
    // What is not valid is complained about; what is returned is not used then.
    match &node.value {
        Value::List(items) if items.len() > MOST_WINDOWS => {
            keys.complain_about(found, format!("more than {MOST_WINDOWS} windows"), None);
            Bandwidth::Always(None)
        }
        Value::List(items) => {
            let windows = items.iter().filter_map(|item| window(keys, Found { document, node: item }));
            Bandwidth::Windows(windows.collect())
        }
        Value::Map(_) => {
            keys.complain_about(found, "this is a mapping".into(), Some("a size a second, or a list of windows"));
            Bandwidth::Always(None)
        }
        Value::Text(_) | Value::Empty => Bandwidth::Always(keys.scalar(found, rate).flatten()),
    }
}

fn window(keys: &mut Keys<'_>, found: Found<'_>) -> Option<RateWindow> {
    let Value::Map(_) = found.node.value else {
        let complaint = found.document.complain(found.node.place, "this is no window".into(), Some(WINDOW.into()));
        keys.complaints.push(complaint);
        return None;
    };
    let mut inner = Keys::new();
    inner.add(found);
    let wrong = |error: BandwidthError| Wrong::from(error);
    let time = |text: &str| text.parse::<TimeOfDay>().map_err(wrong);
    let from = inner.find("from").and_then(|found| inner.scalar(found, time));
    let to = inner.find("to").and_then(|found| inner.scalar(found, time));
    let rate = inner.find("rate").and_then(|found| inner.scalar(found, rate));
    let days = match inner.find("days") {
        Some(found) => inner.scalars(found, |text| text.parse::<Day>().map_err(wrong)),
        None => Day::all(),
    };
    for key in ["from", "to", "rate"].into_iter().filter(|key| !inner.has(key)).collect::<Vec<_>>() {
        inner.complain_about(found, format!("{key} is missing in this window"), Some(WINDOW));
    }
    inner.refuse_unknown(&[], |_| None);
    let is_well = inner.complaints.is_empty();
    keys.complaints.append(&mut inner.complaints);
    match RateWindow::new(from?, to?, days, rate?) {
        Ok(window) => Some(window),
        // A day that is none was complained about already.
        Err(_) if !is_well => None,
        Err(error) => {
            keys.complaints.push(found.document.complain(found.node.place, error.to_string(), None));
            None
        }
    }
}

/// 0 is no limit, also in a window.
fn rate(text: &str) -> Result<Rate, Wrong> {
    values::size(text).map(NonZeroU64::new)
}
