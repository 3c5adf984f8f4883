//! When to retry, and how often: pure functions.
//!
//! Pauses double with each retry and have jitter, so that requests that failed together are not retried together. A
//! `Retry-After` header is honoured. A budget over all requests limits retries to a share of the load, so that a server
//! that is down does not get a multiple of it.

use std::time::Duration;

/// Retries available at the start.
const RESERVE: f64 = 10.0;

/// Retries still allowed, over all requests.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RetryBudget {
    share: f64,
    left: f64,
}

impl RetryBudget {
    /// A budget of `share` retries per request.
    pub(super) fn new(share: f64) -> Self {
        Self { share, left: RESERVE }
    }

    /// Adds one request's share. The balance is capped, so that a long calm period does not pay for a storm of retries.
    pub(super) fn deposit(&mut self) {
        self.left = (self.left + self.share).min(RESERVE * (1.0 + self.share));
    }

    /// Takes one retry if one is left.
    pub(super) fn withdraw(&mut self) -> bool {
        let enough = self.left >= 1.0;
        self.left -= if enough { 1.0 } else { 0.0 };
        enough
    }
}

/// The pause after `tried` retries. The jitter `unit` in `[0, 1)` varies it between half of the doubled pause and all of it.
pub(super) fn pause(first: Duration, longest: Duration, tried: u32, unit: f64) -> Duration {
    let doubled = first.saturating_mul(1u32.checked_shl(tried).unwrap_or(u32::MAX)).min(longest);
    doubled.mul_f64(0.5 + unit.clamp(0.0, 1.0) / 2.0)
}

/// The pause that a `Retry-After` header asks for: seconds, or a date relative to `now`.
pub(super) fn retry_after(header: &str, now: std::time::SystemTime) -> Option<Duration> {
    let header = header.trim();
    match header.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => Some(httpdate::parse_http_date(header).ok()?.duration_since(now).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn pauses_double_up_to_the_longest_and_jitter_takes_at_most_half() {
        let [first, longest] = [100, 1000].map(Duration::from_millis);
        for (tried, full) in [(0, 100), (1, 200), (3, 800), (4, 1000), (40, 1000)] {
            for unit in [0.0, 0.3, 1.0] {
                let pause = pause(first, longest, tried, unit).as_secs_f64() * 1e3;
                assert!((pause - f64::from(full) * (0.5 + unit / 2.0)).abs() < 1e-6, "{tried} {unit}: {pause}");
            }
        }
    }

    #[test]
    fn retries_stay_a_share_of_the_questions() {
        let mut budget = RetryBudget::new(0.25);
        let mut retries = 0;
        for _ in 0..1000 {
            budget.deposit();
            // Everybody wants three.
            retries += (0..3).filter(|_| budget.withdraw()).count();
        }
        assert!((250..=260).contains(&retries), "{retries}");
        let mut calm = RetryBudget::new(0.25);
        (0..1000).for_each(|_| calm.deposit());
        assert_eq!((0..100).filter(|_| calm.withdraw()).count(), 12, "long calm does not pay for a storm");
        let mut none = RetryBudget::new(0.0);
        (0..100).for_each(|_| none.deposit());
        assert_eq!((0..100).filter(|_| none.withdraw()).count(), 10);
    }

    #[test]
    fn a_server_may_say_when_in_seconds_or_by_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_770);
        let seconds = |header| retry_after(header, now).map(|pause| pause.as_secs_f64());
        assert_eq!(seconds("7"), Some(7.0));
        assert_eq!(seconds(" 0.5 "), Some(0.5));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(7.0));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", SystemTime::now()), Some(Duration::ZERO));
        for bad in ["-1", "soon", "", "nan", "inf"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
