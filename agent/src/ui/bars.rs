//! Progress for somebody who watches a terminal: packages, bytes, rate, time left. Nothing is drawn where nobody watches.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use blat_domain::protocol::status::{SyncReport, SyncResult};
use blat_domain::util::units::{show_duration, show_size};
use blat_packing::progress::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// How often the bar is brought up to date.
const REDRAW: Duration = Duration::from_millis(100);

/// A bar that follows the work.
pub(crate) struct Bars {
    bar: ProgressBar,
    progress: Arc<Progress>,
}

impl Bars {
    /// A bar on standard error, hidden where that is no terminal.
    pub(crate) fn new(progress: Arc<Progress>) -> Self {
        let bar = ProgressBar::new(0);
        let template = "{prefix} {bar:30} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left  {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, progress }
    }

    /// Draws until `work` is done.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut redraw = tokio::time::interval(REDRAW);
        loop {
            tokio::select! {
                done = &mut work => {
                    self.bar.finish_and_clear();
                    return done;
                }
                _ = redraw.tick() => self.draw(),
            }
        }
    }

    fn draw(&self) {
        let state = self.progress.snapshot();
        if state.packages + state.packages_done == 0 {
            return;
        }
        self.bar.set_length(state.bytes_done + state.bytes);
        self.bar.set_position(state.bytes_done);
        self.bar.set_prefix(format!("{}/{} packages", state.packages_done, state.packages_done + state.packages));
        self.bar.set_message(state.current.map(|current| current.package.to_string()).unwrap_or_default());
    }
}

/// A sync in one line.
pub(crate) fn summary(report: &SyncReport) -> String {
    let took = Duration::try_from(report.finished.duration_since(report.started)).unwrap_or_default();
    let result = match report.result {
        SyncResult::Ok => "ok",
        SyncResult::Failed => "failed",
    };
    let held = if report.held > 0 { format!(", {} held", report.held) } else { String::new() };
    let aged = match (report.marked, report.deleted) {
        (0, 0) => String::new(),
        (marked, deleted) => format!(", {marked} marked, {deleted} deleted"),
    };
    format!(
        "sync {result}: {} of {} wanted packages are there, {} sent ({}), {} failed{held}{aged}, in {}",
        report.present,
        report.wanted,
        report.sent,
        show_size(report.bytes),
        report.failed,
        show_duration(took)
    )
}
