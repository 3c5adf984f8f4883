//! Work that waits for the disk, within a deadline.
//!
//! A disk that fails says so; one that hangs, such as a network share whose server is gone, says nothing. A thread that waits
//! for it cannot be ended: it is left behind, and whoever asked goes on.

use super::failure::Failure;
use std::time::Duration;

/// How long reading or writing a checkpoint, the journal or the registry may take. All weights of a billion parameters with
/// their moments are 12 GB, which a slow disk writes in two minutes.
pub(super) const DISK_DEADLINE: Duration = Duration::from_secs(300);

/// What `work` returns, which is done on a thread that may block; `what` names it.
///
/// # Errors
/// If it panics, or takes longer than [`DISK_DEADLINE`].
pub(super) async fn on_disk<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    match tokio::time::timeout(DISK_DEADLINE, tokio::task::spawn_blocking(work)).await {
        Ok(done) => done.map_err(Failure::panicked),
        Err(_) => Err(Failure::DiskStuck { what, seconds: DISK_DEADLINE.as_secs() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::exit::Exit;
    use std::sync::mpsc;

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_given_up_with_the_exit_code_of_checkpoints() {
        assert_eq!(on_disk("reading", || 7).await.unwrap(), 7);
        let (end, wait) = mpsc::channel::<()>();
        let hangs = tokio::spawn(on_disk("reading", move || _ = wait.recv()));
        // The task must have begun to wait before the clock moves.
        tokio::task::yield_now().await;
        tokio::time::advance(DISK_DEADLINE / 2).await;
        assert!(!hangs.is_finished(), "a slow disk is waited for");
        tokio::time::advance(DISK_DEADLINE).await;
        let failure = hangs.await.unwrap().unwrap_err();
        assert_eq!(failure.to_string(), "reading took longer than 300 s: the disk does not answer");
        assert_eq!(failure.exit(), Exit::Checkpoint);
        assert!(failure.is_of_disk() && failure.is_lasting());
        drop(end);
    }
}
