//! The supervisor's section of the config.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How many restarts are allowed, and the pauses before them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupervisorConfig {
    /// More restarts than this within the window end the process.
    pub restarts_max: usize,
    /// The window, in seconds.
    pub window_seconds: u64,
    /// The pause before the first restart of a window; it doubles with each.
    pub backoff_milliseconds: u64,
    /// The longest pause.
    pub backoff_max_milliseconds: u64,
    /// The run ends once every episode was dropped for this long, in seconds; 0 for never.
    pub useless_seconds: u64,
}

impl SupervisorConfig {
    /// How long every episode may be dropped; none for ever.
    pub fn useless_max(&self) -> Option<Duration> {
        (self.useless_seconds > 0).then(|| Duration::from_secs(self.useless_seconds))
    }

    /// What is wrong with it.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.window_seconds == 0 {
            complaints.push("supervisor.window_seconds: expected at least 1, got 0".to_owned());
        }
        if self.backoff_max_milliseconds < self.backoff_milliseconds {
            complaints.push(format!(
                "supervisor.backoff_max_milliseconds: expected at least backoff_milliseconds ({}), got {}",
                self.backoff_milliseconds, self.backoff_max_milliseconds
            ));
        }
        complaints
    }
}
