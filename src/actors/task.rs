//! A shell's long task: watched, drained on request, dead with the shell.

use super::ask::Reply;
use super::failure::Failure;
pub(super) use super::failure::panic_text;
use ractor::{ActorRef, Message};
use std::future::Future;
use tokio::task::JoinSet;

/// How a long task ended.
pub type Ended = Result<(), Failure>;

/// One long task in the background of an actor, and those who wait for its end.
pub struct Task {
    /// Dropped with the actor's state, and the task with it.
    _task: JoinSet<()>,
    ended: bool,
    waiting: Vec<Reply<()>>,
}

impl Task {
    /// Runs `task`; its end comes back to `myself` as the message that `tell` makes of it.
    pub fn start<M: Message>(
        myself: ActorRef<M>,
        tell: fn(Ended) -> M,
        task: impl Future<Output = Ended> + Send + 'static,
    ) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut inner = JoinSet::new();
            inner.spawn(task);
            let ended = match inner.join_next().await {
                Some(Ok(ended)) => ended,
                Some(Err(error)) => Err(Failure::panicked(error)),
                None => Ok(()),
            };
            // If the actor is gone, so is whoever cared.
            let _ = myself.send_message(tell(ended));
        });
        Self { _task: tasks, ended: false, waiting: Vec::new() }
    }

    /// The task has ended: answers those who wait. Its failure is the actor's.
    pub fn end(&mut self, ended: Ended) -> Result<(), Failure> {
        ended?;
        self.ended = true;
        for reply in self.waiting.drain(..) {
            let _ = reply.send(());
        }
        Ok(())
    }

    /// Answers `reply` once the task has ended.
    pub fn tell_end(&mut self, reply: Reply<()>) {
        if self.ended {
            let _ = reply.send(());
        } else {
            self.waiting.push(reply);
        }
    }
}
