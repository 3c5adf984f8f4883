//! The checkpoints of a run, written one at a time. Every method blocks.
//!
//! A write continues after the actor that asked for it is killed, so the next one waits for it: hence the lock.

use super::state::RunState;
use crate::checkpoint::{self, Best, CheckpointConfig, KeepBest, ModelSpec, NamedTensor, Snapshot};
use crate::learner;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk failed, or what is on it is not whole.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] checkpoint::Error),
    /// The state in a checkpoint is not what this program writes.
    #[error("checkpoint state: {0}")]
    State(#[from] serde_json::Error),
}

impl Error {
    /// Whether the disk failed: what is to be written may be written later.
    pub fn is_of_disk(&self) -> bool {
        matches!(self, Self::Checkpoint(checkpoint::Error::Io { .. }))
    }
}

/// Where and how a run's checkpoints are kept.
pub struct CheckpointStore {
    /// The folder of all checkpoints of the run.
    pub root: PathBuf,
    /// The model that critics must fit.
    pub spec: ModelSpec,
    /// The base model's name, for the adapter's own config.
    pub base_model: String,
    /// How many are kept.
    pub config: CheckpointConfig,
    /// The resolved config, saved with each.
    pub config_text: String,
    writing: Mutex<()>,
}

/// What a run resumes from.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The learner's state.
    pub learner: learner::State,
    /// Groups, episodes and counters.
    pub run_state: RunState,
}

/// The state that a checkpoint holds beside tensors.
#[derive(serde::Serialize, serde::Deserialize)]
struct Saved {
    #[serde(rename = "shelf")]
    run_state: RunState,
    batch: u64,
    report: Option<learner::Report>,
    #[serde(default)]
    utilities: learner::objective::UtilityMoments,
}

impl CheckpointStore {
    /// A store in `root`.
    pub fn new(
        root: PathBuf,
        spec: ModelSpec,
        base_model: String,
        config: CheckpointConfig,
        config_text: String,
    ) -> Self {
        Self { root, spec, base_model, config, config_text, writing: Mutex::new(()) }
    }

    /// Writes a checkpoint of the learner and the run state, the critic in service included.
    ///
    /// # Errors
    /// If it cannot be written; earlier checkpoints are untouched.
    pub fn save(&self, learner: learner::State, mut run_state: RunState) -> Result<(), Error> {
        let (step, version) = (learner.step, run_state.version);
        let served = run_state.served.take();
        let snapshot = Snapshot {
            step,
            version,
            critic: learner.critic,
            served,
            optimizer: learner
                .optimizer
                .into_iter()
                .map(|(name, tensor)| NamedTensor { name, shape: tensor.shape, data: tensor.data })
                .collect(),
            state: serde_json::to_value(Saved {
                run_state,
                batch: learner.batch,
                report: learner.report,
                utilities: learner.utilities,
            })?,
            config: self.config_text.clone(),
        };
        // The lock guards no data, only the order of writes.
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        checkpoint::write(&self.root, &snapshot, &self.spec, &self.base_model, self.config.keep)?;
        Ok(())
    }

    /// Keeps the newest checkpoint of `step` as the best, if there is one, the config asks for it and no other had a higher
    /// `cu` (times 100). Returns whether it is kept.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn keep_if_best(&self, step: u64, cu: f64) -> Result<bool, Error> {
        if self.config.keep_best != KeepBest::Cu {
            return Ok(false);
        }
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_behind = checkpoint::best(&self.root)?.is_some_and(|best| best.cu >= cu);
        let listed = checkpoint::list(&self.root)?.into_iter().find(|listed| listed.step == step);
        let folder = listed.as_ref().and_then(|listed| listed.path.file_name()?.to_str());
        let (Some(folder), false) = (folder, is_behind) else { return Ok(false) };
        checkpoint::set_best(&self.root, &Best { folder: folder.to_owned(), step, cu })?;
        Ok(true)
    }

    /// Loads the newest whole checkpoint, if there is one.
    ///
    /// # Errors
    /// If it cannot be read, or another program wrote it.
    pub fn load_newest(&self) -> Result<Option<Restored>, Error> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(snapshot) = checkpoint::newest(&self.root, &self.spec)? else { return Ok(None) };
        let mut saved: Saved = serde_json::from_value(snapshot.state)?;
        let learner = learner::State {
            step: snapshot.step,
            batch: saved.batch,
            report: saved.report,
            critic: snapshot.critic,
            utilities: saved.utilities,
            optimizer: snapshot
                .optimizer
                .into_iter()
                .map(|tensor| (tensor.name, learner::HostTensor { shape: tensor.shape, data: tensor.data }))
                .collect(),
        };
        saved.run_state.served = snapshot.served;
        Ok(Some(Restored { learner, run_state: saved.run_state }))
    }
}
