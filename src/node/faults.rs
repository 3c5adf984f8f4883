//! Fault injection, for tests of what happens after a fault.

use super::Node;
use crate::actors::ask::ask;
use crate::actors::supervisor::{DeviceFault, SupervisorMsg};
use crate::types::ActorKind;
use std::time::Duration;

/// How long the supervisor may take; it may be in the middle of a restart.
const DEADLINE: Duration = Duration::from_secs(60);

impl Node {
    /// Kills an actor; false if it was not up.
    pub async fn kill(&self, actor_kind: ActorKind) -> bool {
        ask(&self.supervisor, DEADLINE, |reply| SupervisorMsg::Kill { actor_kind, reply }).await.unwrap_or(false)
    }

    /// Makes the device thread panic; false if there was none.
    pub async fn fault(&self) -> bool {
        self.hit(DeviceFault::Panic).await
    }

    /// Makes the device thread stand still for `duration`; false if there was none.
    pub async fn stall(&self, duration: Duration) -> bool {
        self.hit(DeviceFault::Stall(duration)).await
    }

    async fn hit(&self, fault: DeviceFault) -> bool {
        ask(&self.supervisor, DEADLINE, |reply| SupervisorMsg::Fault { fault, reply }).await.unwrap_or(false)
    }
}
