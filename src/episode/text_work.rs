//! Work that other people's code does on texts: templates, tokenizers, verifiers, custom judges. It may take long, never end
//! or panic, so it runs on blocking threads, and a panic ends the text that it was about.
//!
//! Invariant: each kind of work has a bounded number of threads, so work that never ends takes none from checkpoints.

use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::sync::Semaphore;

/// The threads of one kind of work, over all nodes of the process.
pub(crate) struct TextWork {
    permits: Semaphore,
}

/// Rendering and encoding: milliseconds of one core each.
pub(crate) static RENDERING: TextWork = TextWork { permits: Semaphore::const_new(64) };
/// Verifiers and custom judges, which may wait for programs.
pub(crate) static CHECKING: TextWork = TextWork { permits: Semaphore::const_new(128) };

impl TextWork {
    /// Runs `work` once a thread is free. Dropping the future leaves the work running, with its thread.
    ///
    /// # Errors
    /// What it panicked with.
    pub(crate) async fn run<T: Send + 'static>(
        &'static self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let permit = self.permits.acquire().await.map_err(|error| error.to_string())?;
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panic_text(&*panic))
        });
        // The runtime drops a task that has not begun when it shuts down.
        task.await.map_err(|error| error.to_string())?
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.as_deref().unwrap_or("without a text"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[tokio::test]
    async fn a_panic_is_an_error_of_its_own_work() {
        static WORK: TextWork = TextWork { permits: Semaphore::const_new(1) };
        let why = WORK.run(|| -> u8 { panic!("no such {}", "token") }).await.unwrap_err();
        assert_eq!(why, "panicked: no such token");
        assert_eq!(WORK.run(|| 7).await, Ok(7), "its thread is free again");
    }

    #[tokio::test]
    async fn work_that_never_ends_keeps_its_thread_and_no_other() {
        static WORK: TextWork = TextWork { permits: Semaphore::const_new(2) };
        let (end, ended) = mpsc::channel::<()>();
        let hung = WORK.run(move || ended.recv().is_ok());
        assert!(tokio::time::timeout(Duration::from_millis(50), hung).await.is_err());
        assert_eq!(WORK.run(|| 7).await, Ok(7));
        assert_eq!(WORK.permits.available_permits(), 1, "the one that was given up still holds its thread");
        // Lets the thread end with the test.
        end.send(()).unwrap();
    }
}
