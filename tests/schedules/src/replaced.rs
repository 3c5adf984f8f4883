//! Stand-ins for what the explorer does not replace itself.

use std::cell::Cell;
use std::convert::Infallible;
use std::time::Duration;

pub(crate) mod channel;

/// Threads of the pool.
const THREADS: usize = 3;

/// As many as the explored pool has.
pub(crate) fn threads() -> usize {
    THREADS
}

/// A cell that is set once. Its value stays, since the pool it holds is leaked anyway.
pub(crate) struct OnceLock<T: 'static>(shuttle::sync::Mutex<Option<&'static T>>);

impl<T> OnceLock<T> {
    pub(crate) fn new() -> Self {
        Self(shuttle::sync::Mutex::new(None))
    }

    pub(crate) fn get_or_init(&self, make: impl FnOnce() -> T) -> &'static T {
        let mut held = self.0.lock().expect("making a pool does not panic");
        held.get_or_insert_with(|| Box::leak(Box::new(make())))
    }
}

/// Starts the pool's threads. A run ends with its test, while they sleep, as a process ends with its main function.
pub(crate) struct Builder;

impl Builder {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn name(self, _: String) -> Self {
        self
    }

    pub(crate) fn spawn(self, body: impl FnOnce() + Send + 'static) -> Result<(), Infallible> {
        drop(shuttle::future::spawn(async { body() }));
        Ok(())
    }
}

/// A clock that moves a millisecond at each look, so that a run depends on its schedule alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instant(u64);

impl Instant {
    pub(crate) fn now() -> Self {
        thread_local!(static LOOKS: Cell<u64> = const { Cell::new(0) });
        LOOKS.set(LOOKS.get() + 1);
        Self(LOOKS.get())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_millis(Self::now().0 - self.0)
    }
}
