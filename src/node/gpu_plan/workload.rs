//! The work that a plan is for, from the config.

use crate::config::Config;
use crate::formats::adapter::LoraConfig;
use crate::roles::judge::{JudgeKind, VerdictMethod};
use crate::transformer::gpu_costs::passes::Attention;
use crate::transformer::score::ActivationPolicy;
use serde::Serialize;

/// Share of the context that texts leave which prompts take, templates included. The config does not say how long prompts
/// are: half of what there is room for.
const PROMPT_SHARE: f64 = 0.5;

/// Sizes of an episode, of the engine and of the learner.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Workload {
    /// N.
    pub(crate) critiques: usize,
    /// M.
    pub(crate) refinements: usize,
    /// Critiques of a group that are learned from.
    pub(crate) learned_critiques: usize,
    /// Episodes in flight.
    pub(crate) episodes: usize,
    /// Tokens of a prompt, templates included.
    pub(crate) prompt_tokens: usize,
    /// Tokens of a response.
    pub(crate) response_tokens: usize,
    /// Tokens of a critique.
    pub(crate) critique_tokens: usize,
    /// Tokens of a refinement.
    pub(crate) refinement_tokens: usize,
    /// Texts that a judge writes for one refinement; none where no local model judges.
    pub(crate) judge_texts: usize,
    /// Tokens of each; 0 where log-probabilities are read.
    pub(crate) judge_tokens: usize,
    /// Sequences that decode at once.
    pub(crate) sequences: usize,
    /// Longest context.
    pub(crate) context_tokens: usize,
    /// Tokens of one engine step.
    pub(crate) step_tokens: usize,
    /// Adapters on the device for serving.
    pub(crate) served_adapters: usize,
    /// Tokens of one micro-batch of the learner.
    pub(crate) micro_batch_tokens: usize,
    /// Whether the learner keeps only each layer's input.
    pub(crate) checkpoint_layers: bool,
    /// Groups of a learner step.
    pub(crate) groups_per_step: usize,
    /// The adapter.
    pub(crate) lora: LoraConfig,
    /// How the decode pass attends.
    #[serde(skip)]
    pub(crate) attention: Attention,
}

impl Workload {
    /// The work of a node with `config`, all texts as long as their limits.
    pub(crate) fn new(config: &Config) -> Self {
        let (engine, learner) = (&config.engine, &config.learner);
        let [response, critique, refinement] =
            [&config.generator.sampling, &config.critic.sampling, &config.refiner.sampling].map(|s| s.max_tokens);
        let room = engine.context_tokens_max.saturating_sub(response + critique + refinement);
        let critiques = config.rollout.critiques;
        let judged = &config.judge.role;
        // Both orders.
        let judge_texts = if judged.kind == JudgeKind::Model { 2 * judged.votes } else { 0 };
        Self {
            critiques,
            refinements: config.rollout.refinements,
            learned_critiques: if learner.critiques_max == 0 {
                critiques
            } else {
                critiques.min(learner.critiques_max)
            },
            episodes: config.rollout.rollouts_max,
            prompt_tokens: ((PROMPT_SHARE * room as f64) as usize).max(1),
            response_tokens: response,
            critique_tokens: critique,
            refinement_tokens: refinement,
            judge_texts,
            judge_tokens: if judged.read == VerdictMethod::Text { config.judge.sampling.max_tokens } else { 0 },
            sequences: engine.sequences_max,
            context_tokens: engine.context_tokens_max,
            step_tokens: engine.step_tokens_max,
            served_adapters: 1 + engine.versions_max,
            micro_batch_tokens: learner.micro_batch_tokens,
            checkpoint_layers: learner.checkpoint_layers,
            groups_per_step: learner.groups_per_step,
            lora: learner.lora.clone(),
            attention: Attention::BUILT,
        }
    }

    /// Which activations the learner keeps.
    pub(crate) fn policy(&self) -> ActivationPolicy {
        ActivationPolicy::of(self.checkpoint_layers)
    }

    /// Tokens of the learner's prefix: prompt and response.
    pub(crate) fn prefix_tokens(&self) -> usize {
        self.prompt_tokens + self.response_tokens
    }

    /// Sequences of an episode by role, with the tokens before each and those that it writes.
    pub(crate) fn texts(&self) -> [(usize, usize, usize); 4] {
        let refinements = self.critiques * self.refinements;
        let prefix = self.prefix_tokens();
        [
            (1, self.prompt_tokens, self.response_tokens),
            (self.critiques, prefix, self.critique_tokens),
            (refinements, prefix + self.critique_tokens, self.refinement_tokens),
            (self.judge_texts * refinements, prefix + self.refinement_tokens, self.judge_tokens),
        ]
    }

    /// Tokens that an episode writes.
    pub(crate) fn written_tokens(&self) -> usize {
        self.texts().iter().map(|(count, _, tokens)| count * tokens).sum()
    }

    /// Mean tokens in the cache behind a token that is written.
    pub(crate) fn mean_context(&self) -> usize {
        let tokens = self.texts().map(|(count, before, tokens)| count * tokens * (before + tokens.div_ceil(2)));
        tokens.iter().sum::<usize>() / self.written_tokens().max(1)
    }

    /// Sequences that decode at once on average: an episode writes its texts one role after another, those of one role
    /// side by side.
    pub(crate) fn decoding(&self) -> usize {
        let one_behind_another: usize = self.texts().iter().filter(|text| text.0 > 0).map(|text| text.2).sum();
        let of_episode = self.written_tokens() as f64 / one_behind_another.max(1) as f64;
        ((self.episodes as f64 * of_episode) as usize).clamp(1, self.sequences)
    }
}
