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
use crate::eval::{EvalConfig, Record};
use crate::run::events::EventBus;
use crate::types::Prompt;
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
        let runner = Arc::new(EvalRunner {
            models,
            device,
            checker: self.checker.clone(),
            candidates: vec![Candidate {
                name: "served".to_owned(),
                source: CritiqueSource::Critic(PolicyRef::Serving),
            }],
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
        let records: Vec<Record> = records.into_iter().map(|(_, record)| record).collect();
        Ok(self.summary(&records))
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
