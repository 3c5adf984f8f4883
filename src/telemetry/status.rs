//! One status line: live on a terminal, otherwise a periodic log line.
//!
//! Shows the [`Status`] it is given and computes nothing.

use super::terminal::LogTerminal;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt;
use std::time::{Duration, Instant};

/// The node's current state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Episodes finished.
    pub episodes: u64,
    /// Groups scored.
    pub groups: u64,
    /// Moving mean of critique utility, in `[0, 1]`; `None` before the first.
    pub utility_mean: Option<f32>,
    /// Learner steps taken.
    pub step: u64,
    /// Loss of the last step; `None` before the first.
    pub loss: Option<f32>,
    /// Version of the critic in service.
    pub version: u64,
    /// Recent sampling rate, in tokens per second.
    pub tokens_per_second: f32,
    /// What the node waits for, such as `the model's weights`; `None` while it works.
    pub waiting_for: Option<String>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "episodes {}  groups {}  CU ", self.episodes, self.groups)?;
        match self.utility_mean {
            Some(mean) => write!(f, "{mean:.3}")?,
            None => f.write_str("-")?,
        }
        write!(f, "  step {}  loss ", self.step)?;
        match self.loss {
            Some(loss) => write!(f, "{loss:.4}")?,
            None => f.write_str("-")?,
        }
        write!(f, "  critic v{}  {:.0} tokens/s", self.version, self.tokens_per_second)?;
        match &self.waiting_for {
            Some(what) => write!(f, "  waiting for {what}"),
            None => Ok(()),
        }
    }
}

/// Shows a [`Status`]. Dropping it removes the live line.
pub struct StatusLine {
    bar: Option<ProgressBar>,
    every: Duration,
    next: Option<Instant>,
}

impl StatusLine {
    /// A status line on `live`. If that is not a terminal, logs a line at most once per `every`.
    pub fn new(live: &LogTerminal, every: Duration) -> Self {
        let bar = live.is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {wide_msg}")
                .expect("the template is a constant that the tests draw");
            live.lines().add(ProgressBar::new_spinner().with_style(style))
        });
        Self { bar, every, next: None }
    }

    /// Shows `progress` at time `now`. Call it about once a second.
    pub fn show(&mut self, progress: &Status, now: Instant) {
        if let Some(bar) = &self.bar {
            bar.set_message(progress.to_string());
            bar.tick();
        } else if self.next.is_none_or(|next| now >= next) {
            self.next = Some(now + self.every);
            log(progress);
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `progress` as a log line.
fn log(progress: &Status) {
    let Status { episodes, groups, utility_mean, step, loss, version, tokens_per_second, waiting_for } = progress;
    // Three decimals are enough for reading; the metrics have full precision.
    let short = |value: f32| (f64::from(value) * 1e3).round() / 1e3;
    tracing::info!(
        episodes,
        groups,
        utility_mean = utility_mean.map(short),
        step,
        loss = loss.map(short),
        critic_version = version,
        tokens_per_second = f64::from(tokens_per_second.round()),
        waiting_for,
        "progress"
    );
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use indicatif::{ProgressDrawTarget, TermLike};
    use std::io;
    use std::sync::{Arc, Mutex};

    /// A one-line terminal that records what it showed.
    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<Vec<String>>>);

    impl Screen {
        fn note(&self, what: &str) -> io::Result<()> {
            self.0.lock().unwrap().push(what.to_owned());
            Ok(())
        }
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            160
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.note(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.note(text)
        }
        fn clear_line(&self) -> io::Result<()> {
            self.note("<clear>")
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn progress() -> Status {
        Status {
            episodes: 12,
            groups: 9,
            utility_mean: Some(0.53125),
            step: 3,
            loss: Some(0.01234),
            version: 2,
            tokens_per_second: 187.4,
            waiting_for: None,
        }
    }

    #[test]
    fn the_line_says_everything_and_leaves_out_what_is_not_known() {
        let line = progress().to_string();
        assert_eq!(line, "episodes 12  groups 9  CU 0.531  step 3  loss 0.0123  critic v2  187 tokens/s");
        let start = Status { waiting_for: Some("the model's weights".to_owned()), ..Status::default() };
        let line = start.to_string();
        assert!(line.contains("CU -") && line.contains("loss -"), "{line}");
        assert!(line.ends_with("waiting for the model's weights"), "{line}");
    }

    #[test]
    fn a_log_line_takes_the_live_line_down_and_the_end_clears_it() {
        let screen = Screen::default();
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 255);
        let live = LogTerminal::on(target, true);
        let mut status = StatusLine::new(&live, Duration::from_secs(10));
        status.show(&progress(), Instant::now());
        let shown = screen.take().concat();
        assert!(shown.contains("episodes 12") && shown.contains("critic v2"), "{shown}");
        live.lines().suspend(|| screen.note("a log line").unwrap());
        let shown = screen.take();
        let place = |what: &str| shown.iter().position(|s| s.contains(what)).unwrap();
        assert!(place("<clear>") < place("a log line"), "{shown:?}");
        assert!(shown[place("a log line")..].concat().contains("episodes 12"), "drawn again: {shown:?}");
        drop(status);
        let shown = screen.take();
        assert!(shown.iter().any(|s| s == "<clear>") && !shown.concat().contains("episodes"), "{shown:?}");
    }

    #[test]
    fn off_a_terminal_there_is_one_log_line_in_each_interval() {
        let (subscriber, lines) = counting();
        let live = LogTerminal::on(ProgressDrawTarget::hidden(), false);
        let start = Instant::now();
        tracing::subscriber::with_default(subscriber, || {
            let mut status = StatusLine::new(&live, Duration::from_secs(10));
            for second in 0..25 {
                status.show(&progress(), start + Duration::from_secs(second));
            }
        });
        let lines = lines.take();
        assert_eq!(lines.len(), 1, "one buffer");
        assert_eq!(lines[0].lines().count(), 3, "{lines:?}");
        assert!(lines[0].contains("episodes=12") && lines[0].contains("critic_version=2"), "{lines:?}");
    }

    /// A subscriber whose lines are collected in the first element of the screen.
    fn counting() -> (impl tracing::Subscriber + Send + Sync, Screen) {
        let screen = Screen::default();
        screen.note("").unwrap();
        let writer = screen.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || ScreenWriter(writer.clone())).finish();
        (subscriber, screen)
    }

    struct ScreenWriter(Screen);

    impl io::Write for ScreenWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.0.lock().unwrap()[0].push_str(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
