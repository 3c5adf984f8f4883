//! The device thread's heartbeat: since when it has been at one engine step, micro-batch or command.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Written by the thread, read by whoever watches it.
#[derive(Debug)]
pub(super) struct Heartbeat {
    origin: Instant,
    /// Microseconds from the origin to the last beat, plus 1; 0 while the thread waits for commands.
    beat: AtomicU64,
}

impl Heartbeat {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), beat: AtomicU64::new(0) }
    }

    /// The thread begins something else.
    pub(super) fn beat(&self) {
        self.beat.store(self.now() + 1, Ordering::Relaxed);
    }

    /// The thread waits for commands.
    pub(super) fn rest(&self) {
        self.beat.store(0, Ordering::Relaxed);
    }

    /// How long the thread has been at what it does; none while it waits.
    pub(super) fn busy(&self) -> Option<Duration> {
        let began = self.beat.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_micros(self.now().saturating_sub(began)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_busy_since_its_last_beat_and_not_while_it_rests() {
        let origin = Instant::now().checked_sub(Duration::from_secs(100)).expect("the machine is up for that long");
        let heart = Heartbeat { origin, beat: AtomicU64::new(0) };
        assert_eq!(heart.busy(), None);
        // It beat 40 s after its origin.
        heart.beat.store(40_000_001, Ordering::Relaxed);
        assert!(heart.busy().is_some_and(|busy| busy >= Duration::from_secs(60)), "{:?}", heart.busy());
        heart.beat();
        assert!(heart.busy().is_some_and(|busy| busy < Duration::from_secs(30)), "{:?}", heart.busy());
        heart.rest();
        assert_eq!(heart.busy(), None);
    }
}
