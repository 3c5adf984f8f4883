//! A background task of an actor: watched, drained on request, and dropped with the actor.

use super::ask::Reply;
use super::failure::Failure;
pub(super) use super::failure::panic_text;
use ractor::{ActorRef, Message};
use std::future::Future;
use tokio::task::JoinSet;

/// How a background task ended.
pub type TaskResult = Result<(), Failure>;

/// One background task of an actor, and who waits for its end.
pub struct Task {
    /// Dropped with the actor's state, and the task with it.
    _task: JoinSet<()>,
    has_ended: bool,
    waiting: Vec<Reply<()>>,
}

impl Task {
    /// Runs `task`. Its result comes back to `myself` as the message that `message` makes of it.
    pub fn start<M: Message>(
        myself: ActorRef<M>,
        message: fn(TaskResult) -> M,
        task: impl Future<Output = TaskResult> + Send + 'static,
    ) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut inner = JoinSet::new();
            inner.spawn(task);
            let result = match inner.join_next().await {
                Some(Ok(result)) => result,
                Some(Err(error)) => Err(Failure::panicked(error)),
                None => Ok(()),
            };
            // If the actor is gone, nobody needs the result.
            let _ = myself.send_message(message(result));
        });
        Self { _task: tasks, has_ended: false, waiting: Vec::new() }
    }

    /// The task has ended: answers those who wait.
    ///
    /// # Errors
    /// Those of the task, which are the actor's.
    pub fn finish(&mut self, result: TaskResult) -> Result<(), Failure> {
        result?;
        self.has_ended = true;
        for reply in self.waiting.drain(..) {
            let _ = reply.send(());
        }
        Ok(())
    }

    /// Answers `reply` once the task has ended.
    pub fn notify(&mut self, reply: Reply<()>) {
        if self.has_ended {
            let _ = reply.send(());
        } else {
            self.waiting.push(reply);
        }
    }
}
