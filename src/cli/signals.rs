//! Ctrl-C, SIGTERM, and SIGHUP of a terminal that closes: the first one asks to stop. A second Ctrl-C or SIGTERM ends the
//! process at once.

use crate::telemetry::logs;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Signals this soon after the first one count as the same request: `timeout` signals a process and then its group,
/// and a terminal's Ctrl-C also reaches a parent that forwards it. Nobody presses a key twice within this time.
const ECHO: Duration = Duration::from_millis(100);
/// How long the end of the process waits for the reader of its log.
const LOG_PATIENCE: Duration = Duration::from_millis(200);
/// By convention, the exit code of a process that an interrupt ended.
const INTERRUPTED: i32 = 130;

/// Requests a stop on the first signal and ends the process on the second. Needs a tokio runtime.
///
/// # Errors
/// If the signals cannot be watched.
#[expect(clippy::disallowed_methods, reason = "a second signal asks to end at once")]
pub(super) fn watch(stop: CancellationToken) -> std::io::Result<()> {
    let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Under `nohup` a terminal that closes is not to stop the process.
    let hang_up = signal(if is_hang_up_ignored() { SignalKind::terminate() } else { SignalKind::hangup() })?;
    tokio::spawn(async move {
        let mut signals = [interrupt, terminate, hang_up];
        any_of(&mut signals).await;
        stop.cancel();
        tracing::info!("stopping: the work under way ends and is saved; a second Ctrl-C ends the process at once");
        let first = Instant::now();
        // A terminal that closes after a Ctrl-C is nobody's second wish.
        let [interrupt, terminate, _hang_up] = &mut signals;
        while first.elapsed() < ECHO {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        tracing::warn!("ended at once; start --resume runs again what was under way");
        logs::flush(LOG_PATIENCE);
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

/// Whether the process was started with SIGHUP ignored.
fn is_hang_up_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Signal 1 is the lowest bit.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

async fn any_of([one, two, three]: &mut [Signal; 3]) {
    tokio::select! {
        _ = one.recv() => {}
        _ = two.recv() => {}
        _ = three.recv() => {}
    }
}
