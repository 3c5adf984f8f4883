//! The canary: what a critic says to a few fixed prompts, before it may write critiques for the run.
//!
//! It looks at logits (finite, and not far from those of the critic in service) and at texts (not empty, and they end). It
//! runs on the node's own device, in the same batches as everything else.

use super::models::Models;
use super::sampling::RenderedPrompt;
use crate::device::{self, Device};
use crate::engine::sampler::SamplingConfig;
use crate::engine::{self, Policy, Request};
use crate::types::{FinishReason, Prompt};

/// Prompts whose logits are compared where there is time.
const PROMPTS: usize = 8;
/// Tokens that a glance computes: a few milliseconds of work.
const GLANCE_TOKENS: usize = 32;
/// Prompts that the fixed ones are taken from, the shortest first.
const LOOKED_AT: usize = 64;
/// The response that is criticised where a prompt has no known answer.
const RESPONSE: &str = "I do not know.";
/// A critique that has not ended after so many tokens does not end.
const TEXT_TOKENS_MAX: usize = 256;

/// Why a critic did not pass.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// What it computes is no distribution.
    #[error("its logits are not finite")]
    NotFinite,
    /// It is too far from the critic in service.
    #[error("expected a mean KL divergence from the critic in service of at most {max}, got {got:.3} nats")]
    TooFar {
        /// The divergence.
        got: f64,
        /// The limit.
        max: f64,
    },
    /// It writes nothing.
    #[error("{empty} of its {texts} critiques are empty")]
    Empty {
        /// How many of them.
        empty: usize,
        /// How many it wrote.
        texts: usize,
    },
    /// It does not stop.
    #[error("{endless} of its {texts} critiques do not end within {tokens} tokens")]
    Endless {
        /// How many of them.
        endless: usize,
        /// How many it wrote.
        texts: usize,
        /// The limit.
        tokens: usize,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] device::Error),
}

/// Log-probabilities (nats) of the whole vocabulary at the start of a critique, by prompt.
pub type Distributions = Vec<Vec<f32>>;

/// How much a canary looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The logits after the beginning of one prompt: for the learner's publications, every few steps.
    Glance,
    /// The logits of all prompts.
    All,
}

/// The fixed prompts.
pub struct Canary {
    /// Rendered conversations, the shortest first.
    prompts: Vec<Vec<u32>>,
    vocab: u32,
    stop_ids: Vec<u32>,
    tokens_max: usize,
}

impl Canary {
    /// The shortest of the run's first prompts, each with its answer as the response. Those that the template refuses are
    /// left out.
    pub fn new(models: &Models, prompts: &[Prompt]) -> Self {
        let (template, tokenizer) = (&models.model.template, &models.model.tokenizer);
        let render = |prompt: &Prompt| {
            let response = prompt.answer.as_deref().unwrap_or(RESPONSE);
            let turns = models.critic.role.conversation(prompt, response);
            RenderedPrompt::new(template, tokenizer, turns).ok().map(|rendered| rendered.ids)
        };
        let tokens_max = TEXT_TOKENS_MAX.min(models.engine.context_tokens_max / 2).max(1);
        let room = models.engine.context_tokens_max.saturating_sub(tokens_max);
        let mut rendered: Vec<_> = prompts.iter().take(LOOKED_AT).filter_map(render).collect();
        rendered.retain(|ids| !ids.is_empty() && ids.len() <= room);
        rendered.sort_by_key(Vec::len);
        rendered.truncate(PROMPTS);
        Self {
            prompts: rendered,
            vocab: models.model.transformer.spec().vocab as u32,
            stop_ids: tokenizer.stop_ids().to_vec(),
            tokens_max,
        }
    }

    /// What is looked at: whole prompts, or the beginning of the shortest.
    fn prompts(&self, depth: Depth) -> Vec<&[u32]> {
        let (count, tokens) = match depth {
            Depth::Glance => (1, GLANCE_TOKENS),
            Depth::All => (usize::MAX, usize::MAX),
        };
        self.prompts.iter().take(count).map(|ids| &ids[..ids.len().min(tokens)]).collect()
    }

    /// What `policy` says after each prompt, at the start of a critique.
    ///
    /// # Errors
    /// If that is no distribution, or the device fails.
    pub async fn distributions(
        &self,
        device: &Device,
        policy: Policy,
        depth: Depth,
    ) -> Result<Distributions, CanaryError> {
        let mut distributions = Vec::new();
        for prompt in self.prompts(depth) {
            let scored = device.score_candidates(policy, prompt.to_vec(), (0..self.vocab).collect()).await;
            distributions.push(scored.map_err(|error| match error {
                device::Error::Engine(engine::Error::Logits { .. }) => CanaryError::NotFinite,
                other => other.into(),
            })?);
        }
        Ok(distributions)
    }

    /// Checks that a candidate's distributions are near the incumbent's.
    ///
    /// # Errors
    /// If they are not. Returns their mean KL divergence (nats).
    pub fn compare(candidate: &Distributions, incumbent: &Distributions, max: f64) -> Result<f64, CanaryError> {
        let pairs: Vec<f64> = candidate.iter().zip(incumbent).map(|(one, other)| divergence(one, other)).collect();
        let mean = pairs.iter().sum::<f64>() / pairs.len().max(1) as f64;
        if mean.is_nan() {
            return Err(CanaryError::NotFinite);
        }
        if mean > max {
            return Err(CanaryError::TooFar { got: mean, max });
        }
        Ok(mean)
    }

    /// Lets `policy` write a critique of each of `texts` prompts: most must not be empty, and most must end.
    ///
    /// # Errors
    /// If they do not, or the device fails.
    pub async fn texts(&self, device: &Device, policy: Policy, texts: usize) -> Result<(), CanaryError> {
        let (mut empty, mut endless, mut written) = (0, 0, 0);
        for prompt in self.prompts.iter().take(texts) {
            let sampling = SamplingConfig::greedy(self.tokens_max);
            let request = Request::new(prompt.clone(), 1, sampling, self.stop_ids.clone(), 0).with_policy(policy);
            for completion in device.write(request).await? {
                written += 1;
                empty += usize::from(completion.text.trim().is_empty());
                endless += usize::from(completion.finish == FinishReason::Length);
            }
        }
        if 2 * empty > written {
            return Err(CanaryError::Empty { empty, texts: written });
        }
        if 2 * endless > written {
            return Err(CanaryError::Endless { endless, texts: written, tokens: self.tokens_max });
        }
        Ok(())
    }
}

/// KL divergence of `one` from `other`, both log-probabilities in nats.
fn divergence(one: &[f32], other: &[f32]) -> f64 {
    let term = |(p, q): (&f32, &f32)| f64::from(*p).exp() * (f64::from(*p) - f64::from(*q));
    // What has no probability adds nothing.
    one.iter().zip(other).filter(|(p, _)| **p != f32::NEG_INFINITY).map(term).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divergence_is_that_of_the_definition_and_a_far_critic_is_refused() {
        let logs = |shares: [f32; 3]| shares.map(f32::ln).to_vec();
        let (one, other) = (logs([0.5, 0.25, 0.25]), logs([0.25, 0.25, 0.5]));
        let expected = 0.5 * 2f64.ln() + 0.25 * 0.5f64.ln();
        assert!((divergence(&one, &other) - expected).abs() < 1e-6);
        assert!(divergence(&one, &one).abs() < 1e-9);
        assert!((divergence(&logs([1.0, 0.0, 0.0]), &one) - 2f64.ln()).abs() < 1e-6);
        let compare = |max| Canary::compare(&vec![one.clone()], &vec![other.clone()], max);
        assert!(compare(0.2).is_ok());
        assert!(matches!(compare(0.1), Err(CanaryError::TooFar { .. })));
        let bad = vec![vec![f32::NAN; 3]];
        assert!(matches!(Canary::compare(&bad, &bad, 0.1), Err(CanaryError::NotFinite)));
    }
}
