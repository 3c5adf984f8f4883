//! Checkpoints and publications. A publication has one order: registry, checkpoint, swap actor.
//!
//! Invariants: a critic is on disk before it is in service; every checkpoint of a node is written here.

use super::ask::{Reply, ask, ask_patiently};
use super::failure::{Failure, dependency_lost};
use super::on_disk::on_disk;
use super::replay::ReplayMsg;
use super::swap::SwapMsg;
use crate::device::{self, CriticWeights, Device};
use crate::learner;
use crate::run::checkpoints::CheckpointStore;
use crate::run::events::{Event, EventBus};
use crate::run::state::RunState;
use crate::types::CriticVersion;
use ractor::ActorRef;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Pauses between attempts while the disk fails.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Publishes critics.
#[derive(Clone)]
pub struct Publisher {
    /// Holds the learner's weights and serves them.
    pub device: Device,
    /// Has the run state.
    pub replay: ActorRef<ReplayMsg>,
    /// Puts publications into service.
    pub swap: ActorRef<SwapMsg>,
    /// Where checkpoints go.
    pub checkpoints: Arc<CheckpointStore>,
    /// How long replay may take for an answer.
    pub deadline: Duration,
    /// Where events go.
    pub events: EventBus,
}

impl Publisher {
    /// Writes the learner's weights to disk, then offers them for service. A disk that fails is waited for, until the run is
    /// asked to `stop`: then nothing is published. Returns the version.
    pub(super) async fn publish(&self, stop: &CancellationToken) -> Result<Option<CriticVersion>, Failure> {
        let mut pause = RETRY;
        let (version, critic, step) = loop {
            match self.write().await {
                Ok(written) => break written,
                Err(failure) if failure.is_of_disk() => {
                    tracing::error!(error = %failure, "the checkpoint was not written: the learner waits for the disk");
                }
                Err(failure) => return Err(failure),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (2 * pause).min(RETRY_MAX),
                () = stop.cancelled() => return Ok(None),
            }
        };
        let message = |reply| SwapMsg::Publish { version, critic: critic.clone(), step, reply };
        match ask_patiently(&self.swap, self.deadline, message).await {
            Some(_) => Ok(Some(version)),
            None => Err(dependency_lost("the swap actor", self.deadline).await),
        }
    }

    /// Registers the learner's critic and writes the checkpoint of its publication.
    async fn write(&self) -> Result<(CriticVersion, CriticWeights, u64), Failure> {
        let started = Instant::now();
        let state = match self.device.snapshot().await {
            Err(device::Error::Gone) => return Err(dependency_lost("the device", self.deadline).await),
            state => state?,
        };
        let (step, critic) = (state.step, state.critic.clone());
        let message = |reply| SwapMsg::Register { critic: critic.clone(), step, reply };
        let version = match ask_patiently(&self.swap, self.deadline, message).await {
            Some(registered) => registered?,
            None => return Err(dependency_lost("the swap actor", self.deadline).await),
        };
        // The run state as it will be once the critic is published. Whether it then serves is in the registry.
        let mut run_state = self.run_state().await?;
        run_state.published(version, step);
        run_state.enters_service(version, Some(critic.clone()));
        write_checkpoint(self.checkpoints.clone(), &self.events, started, state, run_state).await?;
        Ok((version, critic, step))
    }

    /// The run state, once the journal has all of it: waits as long as the disk takes.
    async fn run_state(&self) -> Result<RunState, Failure> {
        match ask_patiently(&self.replay, self.deadline, |reply| ReplayMsg::Snapshot { reply }).await {
            Some(run_state) => Ok(run_state),
            None => Err(dependency_lost("replay", self.deadline).await),
        }
    }

    /// Asks replay something that it answers at once.
    pub(super) async fn ask_replay<T>(&self, message: impl FnOnce(Reply<T>) -> ReplayMsg) -> Result<T, Failure> {
        match ask(&self.replay, self.deadline, message).await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(dependency_lost("replay", self.deadline).await),
        }
    }
}

/// Writes a checkpoint of `learner` and `run_state`, within the deadline of the disk. Its time counts from `started`.
pub(super) async fn write_checkpoint(
    checkpoints: Arc<CheckpointStore>,
    events: &EventBus,
    started: Instant,
    learner: learner::State,
    run_state: RunState,
) -> Result<(), Failure> {
    let step = learner.step;
    let written = on_disk("writing a checkpoint", move || checkpoints.save(learner, run_state))
        .await
        .and_then(|saved| Ok(saved?));
    match &written {
        Ok(()) => events.emit(Event::CheckpointSaved { step, seconds: started.elapsed().as_secs_f64() }),
        Err(_) => events.emit(Event::CheckpointFailed),
    }
    written
}
