//! The checkpoints of a run, written one at a time. Every method blocks.
//!
//! A write continues after the actor that asked for it is killed, so the next one waits for it: hence the turns. A write that
//! hangs is waited for within a deadline, so that no more threads and snapshots wait behind it.

use super::state::RunState;
use crate::checkpoint::{self, Best, CheckpointConfig, KeepBest, ModelSpec, NamedTensor, Snapshot};
use crate::learner;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk failed, or what is on it is not whole.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] checkpoint::Error),
    /// The state in a checkpoint is not what this program writes.
    #[error("checkpoint state: {0}")]
    State(#[from] serde_json::Error),
    /// Another read or write has not ended.
    #[error("checkpoint: an earlier read or write has not ended within {} s: the disk does not answer", TURN_DEADLINE.as_secs())]
    Busy,
}

impl Error {
    /// Whether the disk failed: what is to be written may be written later.
    pub fn is_of_disk(&self) -> bool {
        matches!(self, Self::Checkpoint(checkpoint::Error::Io { .. }) | Self::Busy)
    }
}

/// How long an earlier read or write is waited for; less than what whoever asks waits.
const TURN_DEADLINE: Duration = Duration::from_secs(240);

/// One read or write at a time.
#[derive(Default)]
struct Turns {
    is_taken: Mutex<bool>,
    ended: Condvar,
}

/// A read or write under way.
struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for the one under way, at most until `deadline`.
    fn take(&self, deadline: Duration) -> Result<Turn<'_>, Error> {
        let is_taken = self.is_taken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.ended.wait_timeout_while(is_taken, deadline, |is_taken| *is_taken);
        let (mut is_taken, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(Error::Busy);
        }
        *is_taken = true;
        Ok(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.is_taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.ended.notify_one();
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
    config_text: Mutex<String>,
    turns: Turns,
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
        Self { root, spec, base_model, config, config_text: Mutex::new(config_text), turns: Turns::default() }
    }

    /// Changes one key of the config that is saved with each checkpoint from now on.
    pub fn set_config(&self, section: &str, key: &str, value: toml::Value) {
        let mut text = self.config_text();
        let Ok(mut config) = text.parse::<toml::Table>() else { return };
        if let Some(toml::Value::Table(section)) = config.get_mut(section) {
            section.insert(key.to_owned(), value);
        }
        *text = config.to_string();
    }

    /// Whole whatever panicked: it is replaced in one step.
    fn config_text(&self) -> MutexGuard<'_, String> {
        self.config_text.lock().unwrap_or_else(PoisonError::into_inner)
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
            config: self.config_text().clone(),
        };
        let _turn = self.turns.take(TURN_DEADLINE)?;
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
        let _turn = self.turns.take(TURN_DEADLINE)?;
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
        let _turn = self.turns.take(TURN_DEADLINE)?;
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_write_waits_for_the_one_before_it_and_not_for_one_that_hangs() {
        let turns = Turns::default();
        let first = turns.take(Duration::ZERO).unwrap();
        let hangs = turns.take(Duration::from_millis(20)).err().unwrap();
        assert!(hangs.is_of_disk(), "it is tried again: {hangs}");
        std::thread::scope(|scope| {
            let next = scope.spawn(|| turns.take(TURN_DEADLINE).map(drop));
            drop(first);
            next.join().unwrap().unwrap();
        });
        // It was given back.
        turns.take(Duration::ZERO).map(drop).unwrap();
    }
}
