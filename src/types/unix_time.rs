//! Times of the system's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time since 1970; zero by a clock that is set before.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
