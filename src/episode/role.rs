//! What tells one writing role from another, and one answer of a role.

use super::sampling::{Composed, Scribe, Trouble};
use crate::roles::{critic::Critic, generator::Generator, refiner::Refiner};
use crate::telemetry::metrics::Role;
use crate::types::{Prompt, Written};
use std::sync::Arc;

/// A prompt and the generator's response to it.
#[derive(Clone, Debug)]
pub struct Opening {
    /// What was asked.
    pub prompt: Arc<Prompt>,
    /// As the generator was asked it.
    pub composed: Composed,
    /// What it answered.
    pub response: Written,
}

/// What tells one writing role from another: the wording.
pub trait Part: Clone + Send + Sync + 'static {
    /// What it is asked.
    type Brief: Send + Sync + 'static;
    /// Who it is.
    const ROLE: Role;
    /// The conversation that answers `brief`.
    ///
    /// # Errors
    /// Where the chat template or the tokenizer fails.
    fn compose(&self, scribe: &Scribe, brief: &Self::Brief) -> crate::formats::Result<Composed>;
}

impl Part for Arc<Generator> {
    type Brief = Arc<Prompt>;
    const ROLE: Role = Role::Generator;
    fn compose(&self, scribe: &Scribe, prompt: &Arc<Prompt>) -> crate::formats::Result<Composed> {
        scribe.compose(self.conversation(prompt))
    }
}

impl Part for Arc<Critic> {
    type Brief = Arc<Opening>;
    const ROLE: Role = Role::Critic;
    fn compose(&self, scribe: &Scribe, opening: &Arc<Opening>) -> crate::formats::Result<Composed> {
        scribe.compose(self.conversation(&opening.prompt, &opening.response.text))
    }
}

impl Part for Arc<Refiner> {
    type Brief = (Arc<Opening>, Arc<Written>);
    const ROLE: Role = Role::Refiner;
    fn compose(&self, scribe: &Scribe, (opening, critique): &Self::Brief) -> crate::formats::Result<Composed> {
        let turns = self.conversation(&opening.composed.turns, &opening.response.text, &critique.text);
        scribe.go_on(&opening.composed, &opening.response, turns)
    }
}

/// What was asked and what was written.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The conversation that was continued.
    pub composed: Composed,
    /// Its continuations.
    pub written: Vec<Written>,
}

/// Has `brief` answered by `n` texts.
pub(crate) async fn answer<P: Part>(
    part: &P,
    scribe: &Scribe,
    brief: &P::Brief,
    n: usize,
    seed: u64,
) -> Result<Answer, Trouble> {
    let composed = part.compose(scribe, brief)?;
    let written = scribe.write(&composed, n, seed).await?;
    Ok(Answer { composed, written })
}
