//! Ctrl-C and SIGTERM: the first one asks to stop, the second one ends the process at once.

use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Signals this soon after the first one count as the same request: `timeout` signals a process and then its group,
/// and a terminal's Ctrl-C also reaches a parent that forwards it.
const ECHO: Duration = Duration::from_secs(1);
/// By convention, the exit code of a process that an interrupt ended.
const INTERRUPTED: i32 = 130;

/// Requests a stop on the first signal and ends the process on the second. Needs a tokio runtime.
///
/// # Errors
/// If the signals cannot be watched.
#[expect(clippy::disallowed_methods, reason = "a second signal asks to end at once")]
pub(super) fn watch(stop: CancellationToken) -> std::io::Result<()> {
    let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::spawn(async move {
        let mut signals = [interrupt, terminate];
        any_of(&mut signals).await;
        tracing::info!("stopping; a second signal ends the process at once");
        stop.cancel();
        let first = Instant::now();
        while first.elapsed() < ECHO {
            any_of(&mut signals).await;
        }
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

async fn any_of([one, other]: &mut [Signal; 2]) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
