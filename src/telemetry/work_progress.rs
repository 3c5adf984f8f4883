//! Progress of a known amount of work: a live bar on a terminal, otherwise a periodic log line.

use super::terminal::LogTerminal;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Shows how much is done. Dropping it removes the bar.
pub struct WorkProgress {
    bar: Option<ProgressBar>,
    what: &'static str,
    done: u64,
    of: u64,
    every: Duration,
    next: Instant,
}

impl WorkProgress {
    /// Starts at 0 of `of` items called `what`. If `live` is not a terminal, logs a line at most once per `every`.
    pub fn new(live: &LogTerminal, every: Duration, of: u64, what: &'static str) -> Self {
        let bar = live.is_terminal().then(|| {
            let template = "{elapsed_precise} {bar:30} {pos}/{len} {msg}, {eta} left";
            let style = ProgressStyle::with_template(template).expect("the template is a constant that a test draws");
            let bar = live.lines().add(ProgressBar::new(of).with_style(style).with_message(what));
            bar.enable_steady_tick(Duration::from_secs(1));
            bar
        });
        Self { bar, what, done: 0, of, every, next: Instant::now() + every }
    }

    /// Counts one more item, at time `now`.
    pub fn advance(&mut self, now: Instant) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.inc(1);
        } else if now >= self.next || self.done == self.of {
            self.next = now + self.every;
            tracing::info!(done = self.done, of = self.of, what = self.what, "progress");
        }
    }
}

impl Drop for WorkProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::ProgressDrawTarget;

    #[test]
    fn what_is_done_is_counted_with_a_terminal_and_without() {
        for terminal in [true, false] {
            let live = LogTerminal::on(ProgressDrawTarget::hidden(), terminal);
            let mut work_progress = WorkProgress::new(&live, Duration::from_secs(10), 3, "prompts");
            (0..3).for_each(|_| work_progress.advance(Instant::now()));
            assert_eq!(
                (work_progress.done, work_progress.bar.as_ref().map(ProgressBar::position)),
                (3, terminal.then_some(3))
            );
        }
    }
}
