//! The actor of a writing role: generator, critic or refiner.
//!
//! It samples what it is asked for on the device and answers, several requests at once. It does not know what an episode
//! is. Invariants: a request whose asker left is cancelled on the device; requests under way are dropped with the actor.

use super::ask::Reply;
use super::failure::Failure;
use crate::episode::role::{PromptBuilder, RoleOutput, complete};
use crate::episode::sampling::{PolicyRef, SampleError, SamplingClient};
use crate::types::CriticVersion;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::marker::PhantomData;
use tokio::task::JoinSet;

/// A writing role's messages.
pub enum RoleMsg<P: PromptBuilder> {
    /// Write `n` texts; text `i` depends on `seed` and `i` alone.
    Write {
        /// What the role is given.
        input: P::Input,
        /// How many.
        n: usize,
        /// The seed.
        seed: u64,
        /// The resident critic that writes them; the role's own policy if none is named.
        version: Option<CriticVersion>,
        /// Receives the answer.
        reply: Reply<Result<RoleOutput, SampleError>>,
    },
}

/// The actor.
pub struct RoleActor<P>(PhantomData<P>);

impl<P> Default for RoleActor<P> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// The role and its requests under way.
pub struct RoleState<P> {
    builder: P,
    sampler: SamplingClient,
    requests: JoinSet<()>,
}

impl<P: PromptBuilder> Actor for RoleActor<P> {
    type Msg = RoleMsg<P>;
    type State = RoleState<P>;
    type Arguments = (P, SamplingClient);

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        (builder, sampler): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(RoleState { builder, sampler, requests: JoinSet::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        reap(&mut state.requests)?;
        let RoleMsg::Write { input, n, seed, version, mut reply } = message;
        let (builder, mut sampler) = (state.builder.clone(), state.sampler.clone());
        if let Some(version) = version {
            sampler.policy = PolicyRef::Resident(version);
        }
        let job = state.sampler.events.jobs(P::ROLE.into()).begin(P::WORK, P::prompt(&input).id.as_str());
        state.requests.spawn(async move {
            let _job = job;
            tokio::select! {
                output = complete(&builder, &sampler, &input, n, seed) => drop(reply.send(output)),
                () = reply.closed() => {}
            }
        });
        Ok(())
    }
}

/// Removes the requests that have ended.
///
/// # Errors
/// If one panicked.
pub(crate) fn reap(requests: &mut JoinSet<()>) -> Result<(), Failure> {
    while let Some(ended) = requests.try_join_next() {
        ended.map_err(Failure::panicked)?;
    }
    Ok(())
}
