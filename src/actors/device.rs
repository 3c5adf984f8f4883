//! The device actor: owns the device thread and fails when the thread ends, so that its dependants are restarted.
//!
//! Others hold the [`Device`] handle itself and ask it directly.

use super::failure::Failure;
use super::task::{Task, TaskResult};
use crate::device::Device;
use ractor::{Actor, ActorProcessingErr, ActorRef};

/// The device actor's messages.
pub enum DeviceMsg {
    /// The thread has ended.
    Finish(TaskResult),
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
    type Arguments = Device;

    async fn pre_start(&self, myself: ActorRef<DeviceMsg>, device: Device) -> Result<DeviceState, ActorProcessingErr> {
        let thread = device.clone();
        let task = Task::start(myself, DeviceMsg::Finish, async move {
            let text = thread.ended().await.unwrap_or_else(|| "without being asked to".to_owned());
            Err(Failure::DeviceEnded(text))
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
