//! The judge actor: verdicts on refinements and preferences between critiques, several requests at once.
//!
//! How a judge reaches a verdict is `episode::judge`'s.

use super::ask::Reply;
use super::role::reap;
use crate::episode::judge::{JudgeRequest, Judges, PreferenceRequest, verdicts};
use crate::episode::sampling::{SampleError, SamplingClient};
use crate::types::{ActorKind, Preference, Verdict};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::JoinSet;

/// The judge actor's messages.
pub enum JudgeMsg {
    /// Compare each refinement with the response. A judge that is asked in both orders gives two verdicts per
    /// refinement.
    Compare {
        /// The response and its refinements.
        request: JudgeRequest,
        /// The seed of what it writes.
        seed: u64,
        /// Receives the answer.
        reply: Reply<Result<Vec<Verdict>, SampleError>>,
    },
    /// Compare the critiques with each other: the pairs of which both orders prefer the same critique, by the critiques'
    /// indices. Without a model that compares them, none.
    Prefer {
        /// The critiques.
        request: PreferenceRequest,
        /// The seed of what it writes.
        seed: u64,
        /// Receives the answer.
        reply: Reply<Result<Vec<Preference>, SampleError>>,
    },
}

/// The actor.
pub struct JudgeActor;

/// The judges and the requests under way.
pub struct JudgeState {
    judges: Judges,
    sampler: SamplingClient,
    requests: JoinSet<()>,
}

impl Actor for JudgeActor {
    type Msg = JudgeMsg;
    type State = JudgeState;
    type Arguments = (Judges, SamplingClient);

    async fn pre_start(
        &self,
        _: ActorRef<JudgeMsg>,
        (judges, sampler): Self::Arguments,
    ) -> Result<JudgeState, ActorProcessingErr> {
        Ok(JudgeState { judges, sampler, requests: JoinSet::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<JudgeMsg>,
        message: JudgeMsg,
        state: &mut JudgeState,
    ) -> Result<(), ActorProcessingErr> {
        reap(&mut state.requests)?;
        let (judges, sampler) = (state.judges.clone(), state.sampler.clone());
        let jobs = sampler.events.jobs(ActorKind::Judge).clone();
        match message {
            JudgeMsg::Compare { request, seed, reply } => {
                let job = jobs.begin("judges refinements", request.context.prompt.id.as_str());
                let verdicts = async move {
                    let _job = job;
                    verdicts(&judges.verdicts, &sampler, request, seed).await
                };
                state.requests.spawn(answer(verdicts, reply));
            }
            JudgeMsg::Prefer { request, seed, reply } => {
                let job = jobs.begin("compares critiques", request.context.prompt.id.as_str());
                let preferences = async move {
                    let _job = job;
                    match &judges.preferences {
                        Some(judge) => judge.prefer(&sampler, &request, seed).await,
                        None => Ok(Vec::new()),
                    }
                };
                state.requests.spawn(answer(preferences, reply));
            }
        }
        Ok(())
    }
}

/// Sends the answer, unless the asker leaves first.
async fn answer<T>(answer: impl Future<Output = T>, mut reply: Reply<T>) {
    tokio::select! {
        answer = answer => drop(reply.send(answer)),
        () = reply.closed() => {}
    }
}
