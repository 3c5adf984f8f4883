//! The restart budget: how many restarts are left within the window, and the pause before the next. Pure.

use super::config::SupervisorConfig;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Counts restarts within the window.
#[derive(Debug)]
pub(super) struct Budget {
    config: SupervisorConfig,
    spent: VecDeque<Instant>,
}

impl Budget {
    pub(super) fn new(config: SupervisorConfig) -> Self {
        Self { config, spent: VecDeque::new() }
    }

    /// Takes one restart at `now`: returns the pause before it, or none if the budget is used up.
    pub(super) fn spend(&mut self, now: Instant) -> Option<Duration> {
        let window = Duration::from_secs(self.config.window_seconds);
        while self.spent.front().is_some_and(|then| now.duration_since(*then) > window) {
            self.spent.pop_front();
        }
        if self.spent.len() >= self.config.restarts_max {
            return None;
        }
        let doublings = u32::try_from(self.spent.len()).unwrap_or(u32::MAX);
        let pause = self.config.backoff_milliseconds.saturating_mul(2u64.saturating_pow(doublings));
        self.spent.push_back(now);
        Some(Duration::from_millis(pause.min(self.config.backoff_max_milliseconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> SupervisorConfig {
        SupervisorConfig {
            restarts_max: 4,
            window_seconds: 60,
            backoff_milliseconds: 100,
            backoff_max_milliseconds: 300,
            useless_seconds: 0,
        }
    }

    #[test]
    fn the_pause_doubles_up_to_its_limit_and_then_the_budget_is_used_up() {
        let (mut budget, now) = (Budget::new(config()), Instant::now());
        let pauses: Vec<_> = (0..5).map(|_| budget.spend(now).map(|pause| pause.as_millis())).collect();
        assert_eq!(pauses, [Some(100), Some(200), Some(300), Some(300), None]);
    }

    #[test]
    fn restarts_older_than_the_window_are_forgotten() {
        let (mut budget, now) = (Budget::new(config()), Instant::now());
        for _ in 0..4 {
            assert!(budget.spend(now).is_some());
        }
        let later = now + Duration::from_secs(61);
        assert_eq!(budget.spend(later), Some(Duration::from_millis(100)));
    }
}
