//! Roles that write: how each renders its conversation, and what it returns.

use super::sampling::{RenderedPrompt, SampleError, SamplingClient};
use crate::roles::{critic::Critic, generator::Generator, refiner::Refiner};
use crate::telemetry::metrics::Role;
use crate::types::{Completion, Prompt};
use std::sync::Arc;

/// A prompt and the generator's response to it.
#[derive(Clone, Debug)]
pub struct ResponseContext {
    /// The prompt.
    pub prompt: Arc<Prompt>,
    /// The generator's rendered conversation.
    pub rendered: RenderedPrompt,
    /// The response.
    pub response: Completion,
}

/// A role that writes. Roles differ in their prompts.
pub trait PromptBuilder: Clone + Send + Sync + 'static {
    /// What the conversation is built from.
    type Input: Send + Sync + 'static;
    /// The role.
    const ROLE: Role;
    /// What it writes, in a few words.
    const WORK: &'static str;
    /// The prompt whose episode it is.
    fn prompt(input: &Self::Input) -> &Prompt;
    /// The conversation for `input`, ready to be continued.
    ///
    /// # Errors
    /// If the chat template or the tokenizer refuses it, or does not end before the deadline.
    fn render(
        &self,
        sampler: &SamplingClient,
        input: &Self::Input,
    ) -> impl Future<Output = Result<RenderedPrompt, SampleError>> + Send;
}

impl PromptBuilder for Arc<Generator> {
    type Input = Arc<Prompt>;
    const ROLE: Role = Role::Generator;
    const WORK: &'static str = "writes a response";
    fn prompt(prompt: &Arc<Prompt>) -> &Prompt {
        prompt
    }
    async fn render(&self, sampler: &SamplingClient, prompt: &Arc<Prompt>) -> Result<RenderedPrompt, SampleError> {
        sampler.render(self.conversation(prompt)).await
    }
}

impl PromptBuilder for Arc<Critic> {
    type Input = Arc<ResponseContext>;
    const ROLE: Role = Role::Critic;
    const WORK: &'static str = "writes critiques";
    fn prompt(context: &Arc<ResponseContext>) -> &Prompt {
        &context.prompt
    }
    async fn render(
        &self,
        sampler: &SamplingClient,
        context: &Arc<ResponseContext>,
    ) -> Result<RenderedPrompt, SampleError> {
        sampler.render(self.conversation(&context.prompt, &context.response.text)).await
    }
}

impl PromptBuilder for Arc<Refiner> {
    type Input = (Arc<ResponseContext>, Arc<Completion>);
    const ROLE: Role = Role::Refiner;
    const WORK: &'static str = "writes refinements";
    fn prompt((context, _): &Self::Input) -> &Prompt {
        &context.prompt
    }
    async fn render(
        &self,
        sampler: &SamplingClient,
        (context, critique): &Self::Input,
    ) -> Result<RenderedPrompt, SampleError> {
        let turns = self.conversation(&context.rendered.turns, &context.response.text, &critique.text);
        if !self.sees_all(&context.response.text) {
            // What was sampled is not what is shown: the cache has the part that both share.
            return sampler.render(turns).await;
        }
        sampler.continue_after(&context.rendered, &context.response, turns).await
    }
}

/// A rendered conversation and its completions.
#[derive(Clone, Debug)]
pub struct RoleOutput {
    /// The conversation.
    pub rendered: RenderedPrompt,
    /// Its completions.
    pub completions: Vec<Completion>,
}

/// Samples `n` completions for `input`.
pub(crate) async fn complete<P: PromptBuilder>(
    builder: &P,
    sampler: &SamplingClient,
    input: &P::Input,
    n: usize,
    seed: u64,
) -> Result<RoleOutput, SampleError> {
    let rendered = builder.render(sampler, input).await?;
    let completions = sampler.write(&rendered, n, seed).await?;
    Ok(RoleOutput { rendered, completions })
}
