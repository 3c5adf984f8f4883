//! The device actor: owns the device thread and fails when the thread ends or stands still, so that its dependants are
//! restarted.
//!
//! Others hold the [`Device`] handle itself and ask it directly. Whoever waits for an answer of the thread waits no longer
//! than until this actor fails.

use super::failure::Failure;
use super::task::{Task, TaskResult};
use crate::device::Device;
use crate::run::events::{Event, EventBus};
use crate::telemetry::metrics;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How long the device thread may stand still.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// The longest time of one engine step, micro-batch or command, in seconds.
    pub stall_seconds: u64,
}

impl DeviceConfig {
    /// What is wrong with it.
    pub fn complaints(&self) -> Vec<String> {
        match self.stall_seconds {
            0 => vec!["device.stall_seconds: expected at least 1, got 0".to_owned()],
            _ => Vec::new(),
        }
    }

    /// The longest time of one engine step, micro-batch or command.
    pub fn stall(&self) -> Duration {
        Duration::from_secs(self.stall_seconds)
    }
}

/// The device actor's messages.
pub enum DeviceMsg {
    /// The thread has ended or stands still.
    Finish(TaskResult),
}

/// What the actor starts from.
pub struct DeviceSetup {
    /// The thread.
    pub device: Device,
    /// A thread that stands still for this long has failed.
    pub stall: Duration,
    /// Where events go.
    pub events: EventBus,
}

/// The actor.
pub struct DeviceActor;

/// Owns the thread: dropping it asks the thread to end.
pub struct DeviceState {
    device: Device,
    task: Task,
}

impl Drop for DeviceState {
    fn drop(&mut self) {
        self.device.stop();
    }
}

impl Actor for DeviceActor {
    type Msg = DeviceMsg;
    type State = DeviceState;
    type Arguments = DeviceSetup;

    async fn pre_start(
        &self,
        myself: ActorRef<DeviceMsg>,
        setup: DeviceSetup,
    ) -> Result<DeviceState, ActorProcessingErr> {
        let device = setup.device.clone();
        let task = Task::start(myself, DeviceMsg::Finish, async move {
            Err(tokio::select! {
                text = setup.device.ended() => {
                    Failure::DeviceEnded(text.unwrap_or_else(|| "without being asked to".to_owned()))
                }
                seconds = setup.stalled() => Failure::DeviceStalled { seconds },
            })
        });
        Ok(DeviceState { device, task })
    }

    async fn handle(
        &self,
        _: ActorRef<DeviceMsg>,
        message: DeviceMsg,
        state: &mut DeviceState,
    ) -> Result<(), ActorProcessingErr> {
        let DeviceMsg::Finish(result) = message;
        Ok(state.task.finish(result)?)
    }
}

/// The longest time between two looks at the heartbeat.
const LOOK: Duration = Duration::from_secs(1);

impl DeviceSetup {
    /// Watches the heartbeat. Tells when the thread has stood still for half of what is allowed, and when it goes on.
    /// Resolves once it has stood still for too long, with the seconds.
    async fn stalled(&self) -> u64 {
        let mut looks = tokio::time::interval(LOOK.min(self.stall / 8));
        let mut is_told = false;
        loop {
            looks.tick().await;
            let busy = self.device.busy().unwrap_or_default();
            metrics::DEVICE_BUSY_SECONDS.set(busy.as_secs_f64());
            let is_still = busy >= self.stall / 2;
            if is_still != is_told {
                is_told = is_still;
                let since = Instant::now().checked_sub(busy).filter(|_| is_still);
                self.events.emit(Event::DeviceStalled { since });
            }
            if busy >= self.stall {
                return busy.as_secs();
            }
        }
    }
}
