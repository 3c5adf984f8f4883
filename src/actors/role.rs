//! A role that writes: generator, critic or refiner, each an actor of this one shell.
//!
//! The shell turns what it is asked into a conversation, has it continued on the device and answers;
//! several questions are under way at once. It does not know what an episode is.
//!
//! Invariants: a question whose asker left is taken back from the device; what is under way dies with
//! the actor.

use super::ask::Reply;
use super::failure::Failure;
use crate::episode::role::{Answer, PromptBuilder, answer};
use crate::episode::sampling::{SampleError, SamplingClient};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::marker::PhantomData;
use tokio::task::JoinSet;

/// What a writing role can be told.
pub enum RoleMsg<P: PromptBuilder> {
    /// Write `n` texts; text `i` is drawn by `seed` and `i` alone.
    Write {
        /// What about.
        input: P::Input,
        /// How many.
        n: usize,
        /// The seed.
        seed: u64,
        /// Where to.
        reply: Reply<Result<Answer, SampleError>>,
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
    sampler: SamplingClient,
    under_way: JoinSet<()>,
}

impl<P: PromptBuilder> Actor for RoleActor<P> {
    type Msg = RoleMsg<P>;
    type State = RoleState<P>;
    type Arguments = (P, SamplingClient);

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        (part, sampler): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(RoleState { part, sampler, under_way: JoinSet::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        reap(&mut state.under_way)?;
        let RoleMsg::Write { input, n, seed, mut reply } = message;
        let (part, sampler) = (state.part.clone(), state.sampler.clone());
        state.under_way.spawn(async move {
            tokio::select! {
                answer = answer(&part, &sampler, &input, n, seed) => drop(reply.send(answer)),
                () = reply.closed() => {}
            }
        });
        Ok(())
    }
}

/// Lets go of what has ended; a panic in it is the actor's.
pub(crate) fn reap(under_way: &mut JoinSet<()>) -> Result<(), Failure> {
    while let Some(ended) = under_way.try_join_next() {
        ended.map_err(|error| Failure::panicked(error))?;
    }
    Ok(())
}
