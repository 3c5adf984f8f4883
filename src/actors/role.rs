//! A role that writes: generator, critic or refiner, each an actor of this one shell.
//!
//! The shell turns what it is asked into a conversation, has it continued on the device and answers;
//! several questions are under way at once. It does not know what an episode is.
//!
//! Invariants: a question whose asker left is taken back from the device; what is under way dies with
//! the actor.

use super::scribe::{Composed, Scribe, Trouble};
use super::work::panic_text;
use super::{Failure, Reply};
use crate::episode::{Prompt, Written};
use crate::model;
use crate::roles::{critic::Critic, generator::Generator, refiner::Refiner};
use crate::telemetry::metrics::Role;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::marker::PhantomData;
use std::sync::Arc;
use tokio::task::JoinSet;

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
    fn compose(&self, scribe: &Scribe, brief: &Self::Brief) -> model::Result<Composed>;
}

impl Part for Arc<Generator> {
    type Brief = Arc<Prompt>;
    const ROLE: Role = Role::Generator;
    fn compose(&self, scribe: &Scribe, prompt: &Arc<Prompt>) -> model::Result<Composed> {
        scribe.compose(self.conversation(prompt))
    }
}

impl Part for Arc<Critic> {
    type Brief = Arc<Opening>;
    const ROLE: Role = Role::Critic;
    fn compose(&self, scribe: &Scribe, opening: &Arc<Opening>) -> model::Result<Composed> {
        scribe.compose(self.conversation(&opening.prompt, &opening.response.text))
    }
}

impl Part for Arc<Refiner> {
    type Brief = (Arc<Opening>, Arc<Written>);
    const ROLE: Role = Role::Refiner;
    fn compose(&self, scribe: &Scribe, (opening, critique): &Self::Brief) -> model::Result<Composed> {
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

/// What a writing role can be told.
pub enum RoleMsg<P: Part> {
    /// Write `n` texts; text `i` is drawn by `seed` and `i` alone.
    Write {
        /// What about.
        brief: P::Brief,
        /// How many.
        n: usize,
        /// The seed.
        seed: u64,
        /// Where to.
        reply: Reply<Result<Answer, Trouble>>,
    },
}

/// The shell of a writing role.
pub struct RoleActor<P>(PhantomData<P>);

impl<P> Default for RoleActor<P> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// What it is and what it has under way.
pub struct RoleState<P> {
    part: P,
    scribe: Scribe,
    under_way: JoinSet<()>,
}

impl<P: Part> Actor for RoleActor<P> {
    type Msg = RoleMsg<P>;
    type State = RoleState<P>;
    type Arguments = (P, Scribe);

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        (part, scribe): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(RoleState { part, scribe, under_way: JoinSet::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        reap(&mut state.under_way)?;
        let RoleMsg::Write { brief, n, seed, mut reply } = message;
        let (part, scribe) = (state.part.clone(), state.scribe.clone());
        state.under_way.spawn(async move {
            tokio::select! {
                answer = answer(&part, &scribe, &brief, n, seed) => drop(reply.send(answer)),
                () = reply.closed() => {}
            }
        });
        Ok(())
    }
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

/// Lets go of what has ended; a panic in it is the actor's.
pub(crate) fn reap(under_way: &mut JoinSet<()>) -> Result<(), Failure> {
    while let Some(ended) = under_way.try_join_next() {
        ended.map_err(|error| Failure::Panicked(panic_text(error)))?;
    }
    Ok(())
}
