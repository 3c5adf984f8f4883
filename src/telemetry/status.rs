//! The status: rows below the log on a terminal, otherwise a periodic log line.
//!
//! Shows the [`Status`] it is given and computes nothing.

use super::live_block::{Part, Row};
use super::logs;
use super::terminal::LogTerminal;
use std::time::{Duration, Instant};

/// The node's current state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Episodes finished.
    pub episodes: u64,
    /// Groups to learn from.
    pub groups_kept: u64,
    /// Groups of zero variance.
    pub zero_variance: u64,
    /// Episodes without a group.
    pub dropped: u64,
    /// Their reasons, such as `2 refused`; empty if there are none.
    pub drop_reasons: String,
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
    /// What makes most of the work useless, if something does.
    pub warning: Option<String>,
}

impl Status {
    /// The share of groups with zero variance; none before the first group.
    fn zero_variance_share(&self) -> Option<f64> {
        let groups = self.groups_kept + self.zero_variance;
        (groups > 0).then(|| self.zero_variance as f64 / groups as f64)
    }

    /// The groups and the dropped episodes, in words.
    pub fn groups(&self) -> String {
        let Self { groups_kept, zero_variance, dropped, drop_reasons, .. } = self;
        let share = self.zero_variance_share().map(|share| format!(" ({:.0} %)", 100.0 * share)).unwrap_or_default();
        let reasons = if drop_reasons.is_empty() { String::new() } else { format!(" ({drop_reasons})") };
        format!(
            "groups kept: {groups_kept}, of zero variance: {zero_variance}{share}; episodes dropped: {dropped}{reasons}"
        )
    }

    /// The rows of the live block, after `elapsed`.
    fn rows(&self, elapsed: Duration) -> Vec<Row> {
        let part = |importance, text: String| -> Part { (importance, text) };
        let or_dash = |value: Option<f32>, digits| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
        let seconds = elapsed.as_secs();
        let clock = format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        let learner = vec![
            part(0, format!("step {}", self.step)),
            part(1, format!("CU {}", or_dash(self.utility_mean, 3))),
            part(4, format!("loss {}", or_dash(self.loss, 4))),
            part(2, format!("critic v{}", self.version)),
            part(3, format!("{:.0} tokens/s", self.tokens_per_second)),
            part(5, clock),
        ];
        let share = self.zero_variance_share().map(|share| format!(" ({:.0} %)", 100.0 * share)).unwrap_or_default();
        let mut rollout = vec![
            part(3, format!("episodes {}", self.episodes)),
            part(0, format!("groups kept {}", self.groups_kept)),
            part(1, format!("zero variance {}{share}", self.zero_variance)),
        ];
        if self.dropped > 0 {
            rollout.push(part(2, format!("dropped {}", self.dropped)));
        }
        if !self.drop_reasons.is_empty() {
            rollout.push(part(4, format!("({})", self.drop_reasons)));
        }
        let waits = self.waiting_for.iter().map(|what| part(0, format!("waiting for {what}"))).collect();
        let warns = self.warning.iter().map(|warning| part(0, format!("warning: {warning}"))).collect();
        let rows = [(1, learner), (2, rollout), (3, waits), (0, warns)];
        rows.into_iter().map(|(importance, parts)| Row { importance, parts }).collect()
    }
}

/// Shows a [`Status`]. Dropping it removes the rows.
pub struct StatusLine {
    is_live: bool,
    began: Option<Instant>,
    every: Duration,
    next: Option<Instant>,
}

impl StatusLine {
    /// A status below the log on `live`. If that is not a terminal, logs a line at most once per `every`.
    pub fn new(live: &LogTerminal, every: Duration) -> Self {
        Self { is_live: live.is_terminal(), began: None, every, next: None }
    }

    /// Shows `progress` at time `now`. Call it about once a second.
    pub fn show(&mut self, progress: &Status, now: Instant) {
        let began = *self.began.get_or_insert(now);
        if self.is_live {
            logs::show(progress.rows(now.duration_since(began)));
        } else if self.next.is_none_or(|next| now >= next) {
            self.next = Some(now + self.every);
            log(progress);
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        if self.is_live {
            logs::show(Vec::new());
        }
    }
}

/// `progress` as a log line.
fn log(progress: &Status) {
    let Status { episodes, groups_kept, zero_variance, dropped, drop_reasons, .. } = progress;
    let Status { utility_mean, step, loss, version, tokens_per_second, waiting_for, warning, .. } = progress;
    // Three decimals are enough for reading; the metrics have full precision.
    let short = |value: f32| (f64::from(value) * 1e3).round() / 1e3;
    tracing::info!(
        episodes,
        groups_kept,
        zero_variance,
        dropped,
        drop_reasons = Some(drop_reasons.as_str()).filter(|reasons| !reasons.is_empty()),
        utility_mean = utility_mean.map(short),
        step,
        loss = loss.map(short),
        critic_version = version,
        tokens_per_second = f64::from(tokens_per_second.round()),
        waiting_for,
        warning,
        "progress"
    );
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use indicatif::ProgressDrawTarget;
    use std::io;
    use std::sync::{Arc, Mutex};

    fn progress() -> Status {
        Status {
            episodes: 13,
            groups_kept: 3,
            zero_variance: 9,
            dropped: 1,
            drop_reasons: "1 too long".to_owned(),
            utility_mean: Some(0.53125),
            step: 3,
            loss: Some(0.01234),
            version: 2,
            tokens_per_second: 187.4,
            waiting_for: None,
            warning: None,
        }
    }

    #[test]
    fn the_rows_say_everything_and_leave_out_what_is_not_known() {
        let shown = |status: &Status| -> Vec<String> {
            let rows = status.rows(Duration::from_secs(3725)).into_iter().filter(|row| !row.parts.is_empty());
            rows.map(|row| row.parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("  ")).collect()
        };
        let working = [
            "step 3  CU 0.531  loss 0.0123  critic v2  187 tokens/s  1:02:05",
            "episodes 13  groups kept 3  zero variance 9 (75 %)  dropped 1  (1 too long)",
        ];
        assert_eq!(shown(&progress()), working);
        let (waiting_for, warning) = (Some("the model's weights".to_owned()), Some("no group for 20 s".to_owned()));
        let start = shown(&Status { waiting_for, warning, ..Status::default() });
        assert!(start[0].contains("CU -") && start[0].contains("loss -"), "{start:?}");
        assert_eq!(
            start[1..],
            [
                "episodes 0  groups kept 0  zero variance 0",
                "waiting for the model's weights",
                "warning: no group for 20 s"
            ]
        );
    }

    #[test]
    fn the_end_of_a_run_is_told_in_words() {
        let told = "groups kept: 3, of zero variance: 9 (75 %); episodes dropped: 1 (1 too long)";
        assert_eq!(progress().groups(), told);
        assert_eq!(Status::default().groups(), "groups kept: 0, of zero variance: 0; episodes dropped: 0");
    }

    #[test]
    fn off_a_terminal_there_is_one_log_line_in_each_interval() {
        let lines: Arc<Mutex<Vec<u8>>> = Arc::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || Shared(writer.clone())).finish();
        let live = LogTerminal::on(ProgressDrawTarget::hidden(), false);
        let start = Instant::now();
        tracing::subscriber::with_default(subscriber, || {
            let mut status = StatusLine::new(&live, Duration::from_secs(10));
            for second in 0..25 {
                status.show(&progress(), start + Duration::from_secs(second));
            }
        });
        let lines = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
        assert_eq!(lines.lines().count(), 3, "{lines}");
        for part in ["groups_kept=3", "zero_variance=9", "drop_reasons=\"1 too long\"", "critic_version=2"] {
            assert!(lines.contains(part), "{part}: {lines}");
        }
    }

    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
