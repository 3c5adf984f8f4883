//! What tells one writing role from another, and one answer of a role.

use super::sampling::{RenderedPrompt, SampleError, SamplingClient};
use crate::roles::{critic::Critic, generator::Generator, refiner::Refiner};
use crate::telemetry::metrics::Role;
use crate::types::{Completion, Prompt};
use std::sync::Arc;

/// A prompt and the generator's response to it.
#[derive(Clone, Debug)]
pub struct ResponseContext {
    /// What was asked.
    pub prompt: Arc<Prompt>,
    /// As the generator was asked it.
    pub rendered: RenderedPrompt,
    /// What it answered.
    pub response: Completion,
}

/// What tells one writing role from another: the wording.
pub trait PromptBuilder: Clone + Send + Sync + 'static {
    /// What it is asked.
    type Input: Send + Sync + 'static;
    /// Who it is.
    const ROLE: Role;
    /// The conversation that answers `input`.
    ///
    /// # Errors
    /// Where the chat template or the tokenizer fails.
    fn compose(&self, sampler: &SamplingClient, input: &Self::Input) -> crate::formats::Result<RenderedPrompt>;
}

impl PromptBuilder for Arc<Generator> {
    type Input = Arc<Prompt>;
    const ROLE: Role = Role::Generator;
    fn compose(&self, sampler: &SamplingClient, prompt: &Arc<Prompt>) -> crate::formats::Result<RenderedPrompt> {
        sampler.compose(self.conversation(prompt))
    }
}

impl PromptBuilder for Arc<Critic> {
    type Input = Arc<ResponseContext>;
    const ROLE: Role = Role::Critic;
    fn compose(
        &self,
        sampler: &SamplingClient,
        context: &Arc<ResponseContext>,
    ) -> crate::formats::Result<RenderedPrompt> {
        sampler.compose(self.conversation(&context.prompt, &context.response.text))
    }
}

impl PromptBuilder for Arc<Refiner> {
    type Input = (Arc<ResponseContext>, Arc<Completion>);
    const ROLE: Role = Role::Refiner;
    fn compose(
        &self,
        sampler: &SamplingClient,
        (context, critique): &Self::Input,
    ) -> crate::formats::Result<RenderedPrompt> {
        let turns = self.conversation(&context.rendered.turns, &context.response.text, &critique.text);
        sampler.continue_after(&context.rendered, &context.response, turns)
    }
}

/// What was asked and what was written.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The conversation that was continued.
    pub rendered: RenderedPrompt,
    /// Its continuations.
    pub written: Vec<Completion>,
}

/// Has `input` answered by `n` texts.
pub(crate) async fn answer<P: PromptBuilder>(
    part: &P,
    sampler: &SamplingClient,
    input: &P::Input,
    n: usize,
    seed: u64,
) -> Result<Answer, SampleError> {
    let rendered = part.compose(sampler, input)?;
    let written = sampler.write(&rendered, n, seed).await?;
    Ok(Answer { rendered, written })
}
