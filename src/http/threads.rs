//! Threads of the listener alone: many clients neither hold up the actors' messages nor take the cores from the engine.

use std::future::Future;
use std::io;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// Threads at most.
const THREADS_MAX: usize = 4;
/// How much nicer than others they are: beside work of the engine or of actors they get about a quarter of a core each.
const NICENESS: i32 = 5;

/// The threads. Dropped, they end without waiting for anyone.
#[derive(Debug)]
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    /// Starts one for each core, up to four.
    ///
    /// # Errors
    /// If the system gives no more threads.
    pub(super) fn start() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(cores.min(THREADS_MAX)).thread_name("http").on_thread_start(be_nice);
        builder.enable_all().build().map(|runtime| Self(Some(runtime)))
    }

    /// Runs `future` on them.
    pub(super) fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.0.as_ref().expect("the runtime is taken by the drop alone").spawn(future)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Lowers the priority of this thread. On Linux a priority is a thread's own.
fn be_nice() {
    #[cfg(target_os = "linux")]
    {
        let thread = Some(rustix::thread::gettid());
        let nicer = |nice| rustix::process::setpriority_process(thread, nice + NICENESS);
        // Where it is refused, the listener is as fast as everyone else.
        let _ = rustix::process::getpriority_process(thread).and_then(nicer);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn only_the_listeners_threads_are_nice() {
        let nice = || rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
        let own = nice();
        let threads = Threads::start().unwrap();
        assert_eq!(threads.spawn(async move { nice() }).await.unwrap(), (own + NICENESS).min(19));
        assert_eq!(nice(), own, "the others are as they were");
    }
}
