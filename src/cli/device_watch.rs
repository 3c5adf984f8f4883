//! A device of a command that has no supervisor: it is waited for, at its start and at each answer, no longer than
//! `device.stall_seconds` without a heartbeat.

use super::exit::{CommandError, Exit, OrExit};
use crate::device::{Device, Setup};
use std::time::Duration;

/// The longest time between two looks at the heartbeat.
const LOOK: Duration = Duration::from_millis(500);

/// Starts the device thread.
///
/// # Errors
/// If it cannot be started, or takes longer than `stall`.
pub(super) async fn start(setup: Setup, stall: Duration) -> Result<Device, CommandError> {
    let late =
        |_| anyhow::anyhow!("the device thread did not start within {} s (device.stall_seconds)", stall.as_secs());
    tokio::time::timeout(stall, Device::start(setup)).await.map_err(late).or_exit(Exit::Device)?.or_exit(Exit::Device)
}

/// Resolves once the thread has stood still for `stall`. `told` is called at each look, with the time for which it has been at
/// one engine step, micro-batch or command.
pub(super) async fn stalled(device: &Device, stall: Duration, mut told: impl FnMut(Duration)) -> CommandError {
    let mut looks = tokio::time::interval(LOOK.min(stall / 8));
    loop {
        looks.tick().await;
        let busy = device.busy().unwrap_or_default();
        told(busy);
        if busy >= stall {
            let seconds = busy.as_secs();
            let error = anyhow::anyhow!("the device thread has stood still for {seconds} s (device.stall_seconds)");
            return CommandError { exit: Exit::Device, error };
        }
    }
}
