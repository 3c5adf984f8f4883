//! The online evaluation: a small evaluation of the served critic between two learner steps.
//!
//! Every evaluation uses the same prompts and seeds, so results differ by the critic alone. It runs on the node's own
//! device and shares its request queue. A sequence's result does not depend on the other sequences in its batch, so
//! training gives the same result with and without online evaluation.

use super::eval_runner::{Candidate, CritiqueSource, EvalRunner};
use crate::device::Device;
use crate::episode::models::Models;
use crate::episode::sampling::{PolicyRef, SampleError};
use crate::eval::bootstrap::Resampling;
use crate::eval::figures::{FigureOptions, Figures};
use crate::eval::summary::EvalSummary;
use crate::eval::{CriticRecord, EvalConfig, Record};
use crate::run::events::EventBus;
use crate::types::{CriticVersion, Prompt};
use crate::verify::Checker;
use std::sync::Arc;

/// What all online evaluations of a process share.
pub struct OnlineEval {
    /// Held-out prompts.
    pub prompts: Vec<Arc<Prompt>>,
    /// Scores the texts of prompts that have a verifier.
    pub checker: Arc<Checker>,
    /// The interval, N and M.
    pub config: EvalConfig,
    /// All random draws follow from it.
    pub seed: u64,
}

impl OnlineEval {
    /// Whether an evaluation is due after `step`, where `before` is the step of the publication before this one, if any.
    /// One is due before the first step, and one at the first publication at or after each multiple of `eval.every_steps`.
    pub fn is_due(&self, before: Option<u64>, step: u64) -> bool {
        let every = self.config.every_steps.max(1);
        before.map_or(step == 0, |before| before / every < step / every)
    }

    /// Evaluates the critic that `device` serves. A prompt without a response is left out.
    ///
    /// # Errors
    /// If the device is gone or something is broken.
    pub async fn evaluate(&self, models: Arc<Models>, device: Device) -> Result<EvalSummary, SampleError> {
        Ok(self.summary(&self.records(models, device, vec![PolicyRef::Serving]).await?))
    }

    /// How much more the resident critic `version` earns than the one that `device` serves: a difference of utilities, in
    /// `[-1, 1]`, for each prompt that has both. Both criticise the same responses.
    ///
    /// # Errors
    /// As [`OnlineEval::evaluate`].
    pub async fn differences(
        &self,
        models: Arc<Models>,
        device: Device,
        version: CriticVersion,
    ) -> Result<Vec<f64>, SampleError> {
        let policies = vec![PolicyRef::Serving, PolicyRef::Resident(version)];
        let records = self.records(models, device, policies).await?;
        let utility = |critic: &CriticRecord| {
            let earned: Vec<f64> =
                critic.attempts.iter().filter_map(|attempt| attempt.utility()).map(f64::from).collect();
            (!earned.is_empty()).then(|| earned.iter().sum::<f64>() / earned.len() as f64)
        };
        let difference = |record: &Record| match &record.critics[..] {
            [serving, candidate] => Some(utility(candidate)? - utility(serving)?),
            _ => None,
        };
        Ok(records.iter().filter_map(difference).collect())
    }

    /// The prompts' records by these policies, in the order of the prompts.
    async fn records(
        &self,
        models: Arc<Models>,
        device: Device,
        policies: Vec<PolicyRef>,
    ) -> Result<Vec<Record>, SampleError> {
        let candidate = |(index, policy): (usize, PolicyRef)| Candidate {
            name: format!("critic {index}"),
            source: CritiqueSource::Critic(policy),
        };
        let runner = Arc::new(EvalRunner {
            models,
            device,
            checker: self.checker.clone(),
            candidates: policies.into_iter().enumerate().map(candidate).collect(),
            config: self.config.clone(),
            rounds: 1,
            seed: self.seed,
            events: EventBus::silent(),
        });
        let mut running = runner.run_all((0..).zip(self.prompts.iter().cloned()));
        let mut records: Vec<(u64, Record)> = Vec::with_capacity(self.prompts.len());
        while let Some(ended) = running.join_next().await {
            match ended.map_err(|error| SampleError::Broken(error.to_string()))? {
                (index, Ok(record)) => records.push((index, record)),
                (_, Err(error @ (SampleError::Gone | SampleError::Broken(_)))) => return Err(error),
                (_, Err(_)) => {}
            }
        }
        records.sort_by_key(|(index, _)| *index);
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }

    fn summary(&self, records: &[Record]) -> EvalSummary {
        let how = Resampling { seed: self.seed, ..Resampling::default() };
        let options = FigureOptions { critiques: self.config.critiques, rounds: 1, in_both_orders: false, how };
        let figures = Figures::of(records, options);
        let served = figures.critics.first();
        EvalSummary {
            cu: served.and_then(|served| served.cu),
            accuracy_before: figures.response.accuracy,
            accuracy_after: served.and_then(|served| served.accuracy),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_evaluation_is_due_before_the_first_step_and_once_after_each_multiple() {
        let config = toml::from_str::<toml::Table>(crate::config::Config::embedded_text()).unwrap();
        let config: EvalConfig = config["eval"].clone().try_into().unwrap();
        let served = OnlineEval {
            prompts: Vec::new(),
            checker: Arc::new(Checker::open([], false).unwrap()),
            config: EvalConfig { every_steps: 10, ..config },
            seed: 0,
        };
        // Published every four steps, from the start and after a resume at 12.
        let published = [0, 4, 8, 12, 16, 20, 24];
        let due: Vec<u64> =
            published.windows(2).filter(|pair| served.is_due(Some(pair[0]), pair[1])).map(|p| p[1]).collect();
        assert_eq!(due, [12, 20]);
        assert!(served.is_due(None, 0) && !served.is_due(None, 12));
    }
}
