//! An unbounded channel with crossbeam's promises: messages that are left when the receiver is dropped are dropped then,
//! and sending fails from then on.

use shuttle::sync::{Arc, Condvar, Mutex};
use std::collections::VecDeque;

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    messages: VecDeque<T>,
    senders: usize,
    is_received: bool,
}

impl<T> Shared<T> {
    fn with<R>(&self, act: impl FnOnce(&mut State<T>) -> R) -> R {
        act(&mut self.state.lock().expect("no thread panics while it holds the lock"))
    }
}

pub(crate) struct Sender<T>(Arc<Shared<T>>);
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    let state = State { messages: VecDeque::new(), senders: 1, is_received: true };
    let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
    (Sender(shared.clone()), Receiver(shared))
}

/// A channel for one message, which never fills.
pub(crate) fn bounded<T>(_: usize) -> (Sender<T>, Receiver<T>) {
    unbounded()
}

impl<T> Sender<T> {
    pub(crate) fn send(&self, message: T) -> Result<(), T> {
        self.0.with(|state| {
            if !state.is_received {
                return Err(message);
            }
            state.messages.push_back(message);
            Ok(())
        })?;
        self.0.changed.notify_one();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.with(|state| state.senders += 1);
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.with(|state| state.senders -= 1);
        self.0.changed.notify_one();
    }
}

/// No message: none yet, or no sender is left.
#[derive(Debug)]
pub(crate) struct Empty;

impl<T> Receiver<T> {
    pub(crate) fn recv(&self) -> Result<T, Empty> {
        let mut state = self.0.state.lock().expect("no thread panics while it holds the lock");
        loop {
            match state.messages.pop_front() {
                Some(message) => return Ok(message),
                None if state.senders == 0 => return Err(Empty),
                None => state = self.0.changed.wait(state).expect("no thread panics while it holds the lock"),
            }
        }
    }

    pub(crate) fn try_recv(&self) -> Result<T, Empty> {
        self.0.with(|state| state.messages.pop_front()).ok_or(Empty)
    }

    pub(crate) fn try_iter(&self) -> impl Iterator<Item = T> {
        std::iter::from_fn(|| self.try_recv().ok())
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let left = self.0.with(|state| {
            state.is_received = false;
            std::mem::take(&mut state.messages)
        });
        drop(left);
    }
}
