//! Requests between actors: each has a deadline and an answer. Knows no message type.

use ractor::ActorRef;
use std::time::Duration;
use tokio::sync::oneshot;

/// Where an answer goes. `is_closed` and `closed` tell that the asker left.
pub type Reply<T> = oneshot::Sender<T>;

/// Why an [`ask()`] was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// Not in time.
    #[error("no answer before the deadline")]
    Deadline,
    /// The actor is gone, or dropped the request.
    #[error("the actor is gone")]
    Gone,
}

/// Sends `message` to `actor` and waits for the answer, at most until `deadline`.
///
/// # Errors
/// If no answer came in time, or the actor is gone.
pub async fn ask<M, T>(
    actor: &ActorRef<M>,
    deadline: Duration,
    message: impl FnOnce(Reply<T>) -> M,
) -> Result<T, Unanswered>
where
    M: ractor::Message,
{
    let (reply, answer) = oneshot::channel();
    actor.send_message(message(reply)).map_err(|_| Unanswered::Gone)?;
    match tokio::time::timeout(deadline, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(Unanswered::Gone),
        Err(_) => Err(Unanswered::Deadline),
    }
}

/// As [`ask()`], again after each deadline: for answers that may take any time, such as those that wait for the learner or
/// for the disk. None if the actor is gone.
pub async fn ask_patiently<M, T>(actor: &ActorRef<M>, deadline: Duration, message: impl Fn(Reply<T>) -> M) -> Option<T>
where
    M: ractor::Message,
{
    loop {
        match ask(actor, deadline, &message).await {
            Ok(answer) => return Some(answer),
            Err(Unanswered::Deadline) => {}
            Err(Unanswered::Gone) => return None,
        }
    }
}
