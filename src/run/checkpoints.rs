//! The run's checkpoints, written one at a time.
//!
//! Blocking; called from threads that may block. A write goes on when the actor that asked for it is
//! killed, so the next one has to wait for it: that is what the lock is for.

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

/// Where and how a run's checkpoints are kept.
pub struct CheckpointStore {
    /// The folder of all checkpoints of the run.
    pub root: PathBuf,
    /// What critics are checked against.
    pub spec: ModelSpec,
    /// The base model's name, for the adapter's own config.
    pub base_model: String,
    /// How many are kept.
    pub config: CheckpointConfig,
    /// The resolved config, saved with each.
    pub config_text: String,
    writing: Mutex<()>,
}

/// What a run goes on from.
#[derive(Clone, Debug)]
pub struct Recalled {
    /// The learner.
    pub learner: learner::State,
    /// Groups, episodes and counters as they were.
    pub run_state: RunState,
}

/// What is saved beside tensors and shelf.
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
    /// An archive in `root`.
    pub fn new(
        root: PathBuf,
        spec: ModelSpec,
        base_model: String,
        config: CheckpointConfig,
        config_text: String,
    ) -> Self {
        Self { root, spec, base_model, config, config_text, writing: Mutex::new(()) }
    }

    /// Writes a whole checkpoint of the learner and the shelf, the critic in service included.
    ///
    /// # Errors
    /// Where it cannot be written; what was there before is still there.
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

    /// Keeps the newest checkpoint of `step` as the best, if there is one, the config wants it and none had a higher
    /// `cu` (times 100); whether it does.
    ///
    /// # Errors
    /// Where the disk fails.
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

    /// The newest whole checkpoint; none where there is none.
    ///
    /// # Errors
    /// Where there is one that cannot be read, or that another program wrote.
    pub fn recall(&self) -> Result<Option<Recalled>, Error> {
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
        Ok(Some(Recalled { learner, run_state: saved.run_state }))
    }
}
