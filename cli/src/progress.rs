//! Progress of several targets at once: bars where a person looks on, one line for each end where nobody does.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use blat_domain::package::name::TargetName;
use blat_domain::protocol::status::{Current, Queue, State};
use blat_domain::util::text::printable;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;
use crate::picture;
use crate::style::Style;

/// How often a bar moves by itself, so that a long silence does not look like a hang.
const BEAT: Duration = Duration::from_millis(120);

/// A display of what is awaited.
#[derive(Debug)]
pub(crate) struct Progress {
    bars: Option<MultiProgress>,
    shown: BTreeMap<TargetName, Bar>,
}

/// One target's bar. Its length is the most that was ever left to do: nobody knows it beforehand.
#[derive(Debug)]
struct Bar {
    bar: ProgressBar,
    most: u64,
}

impl Progress {
    /// A display on this terminal, or none that is seen.
    pub(crate) fn new(style: Style) -> Self {
        let bars = style.terminal.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self { bars, shown: BTreeMap::new() }
    }

    /// Where a target stands now.
    pub(crate) fn tell(&mut self, target: &TargetName, state: State, queue: Queue, current: Option<&Current>) {
        let Some(bars) = &self.bars else { return };
        let shown = self.shown.entry(target.clone()).or_insert_with(|| Bar::new(bars, target));
        shown.tell(state, queue, current);
    }

    /// A target needs no bar any more: `line` says how it ended.
    pub(crate) fn end(&mut self, target: &TargetName, line: &str) -> Result<(), Failure> {
        if let Some(shown) = self.shown.remove(target) {
            shown.bar.finish_and_clear();
        }
        let print = || writeln!(io::stdout(), "{line}");
        match &self.bars {
            Some(bars) => bars.suspend(print)?,
            None => print()?,
        }
        Ok(())
    }
}

impl Bar {
    fn new(bars: &MultiProgress, target: &TargetName) -> Self {
        let bar = bars.add(ProgressBar::new_spinner());
        // A template that cannot be read is only a less pretty one.
        let style = ProgressStyle::with_template("{prefix:.bold}  {spinner} [{bar:24}] {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(target.to_string());
        bar.enable_steady_tick(BEAT);
        Self { bar, most: 0 }
    }

    fn tell(&mut self, state: State, queue: Queue, current: Option<&Current>) {
        self.most = self.most.max(queue.bytes);
        self.bar.set_length(self.most.max(1));
        self.bar.set_position(self.most - queue.bytes);
        self.bar.set_message(message(state, queue, current));
    }
}

/// `sending  12 packages · 1.2 GiB  core_devl@2.1.0.cr 45%`
fn message(state: State, queue: Queue, current: Option<&Current>) -> String {
    let mut parts = vec![state.word().to_owned()];
    if queue != Queue::default() {
        parts.push(format!("{} left", picture::queue(queue)));
    }
    parts.extend(current.map(picture::current));
    printable(&parts.join("  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_says_what_is_left_and_what_is_on_its_way() {
        let current = Current { package: "core@1".parse().expect("a package"), done: 1, total: 4 };
        let queue = Queue { tags: 0, packages: 2, bytes: 2048 };
        assert_eq!(message(State::Syncing, queue, Some(&current)), "syncing  2 packages · 2.0 KiB left  core@1 25%");
        assert_eq!(message(State::Idle, Queue::default(), None), "idle");
    }
}
