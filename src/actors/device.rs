//! The device actor: fails when the device thread ends, so that the tree above it is restarted.
//!
//! Others hold the [`Device`] handle itself and ask it directly; the actor only owns the thread's life.

use super::failure::Failure;
use super::task::{Ended, Task};
use crate::device::Device;
use ractor::{Actor, ActorProcessingErr, ActorRef};

/// What the device actor can be told.
pub enum DeviceMsg {
    /// The thread has ended.
    Ended(Ended),
}

/// The shell.
pub struct DeviceActor;

/// The thread's owner: the thread is told to end when this goes.
pub struct DeviceState {
    device: Device,
    watch: Task,
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
        let watch = Task::start(myself, DeviceMsg::Ended, async move {
            let text = thread.ended().await.unwrap_or_else(|| "without being asked to".to_owned());
            Err(Failure::DeviceEnded(text))
        });
        Ok(DeviceState { device, watch })
    }

    async fn handle(
        &self,
        _: ActorRef<DeviceMsg>,
        message: DeviceMsg,
        state: &mut DeviceState,
    ) -> Result<(), ActorProcessingErr> {
        let DeviceMsg::Ended(ended) = message;
        Ok(state.watch.end(ended)?)
    }
}
