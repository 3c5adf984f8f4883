//! The judge actor: verdicts on refinements and preferences between critiques, several requests at once.

use super::ask::Reply;
use super::role::reap;
use crate::episode::judge::{JudgeRequest, Judges, PreferenceRequest, verdicts};
use crate::episode::sampling::{SampleError, SamplingClient};
use crate::types::{Preference, Verdict};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::JoinSet;

/// What the judge can be told.
pub enum JudgeMsg {
    /// Compare each refinement with the response. A judge that is asked in both orders gives two
    /// verdicts a refinement.
    Compare {
        /// What.
        case: JudgeRequest,
        /// The seed of what it writes.
        seed: u64,
        /// Where to.
        reply: Reply<Result<Vec<Verdict>, SampleError>>,
    },
    /// Compare the critiques with each other: those pairs of which both orders prefer the same one, by the
    /// critiques' places. Where no model compares them, none is preferred.
    Prefer {
        /// Which.
        contest: PreferenceRequest,
        /// The seed of what it writes.
        seed: u64,
        /// Where to.
        reply: Reply<Result<Vec<Preference>, SampleError>>,
    },
}

/// The judge's shell.
pub struct JudgeActor;

/// Whom it asks and what it has under way.
pub struct JudgeState {
    judges: Judges,
    sampler: SamplingClient,
    under_way: JoinSet<()>,
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
        Ok(JudgeState { judges, sampler, under_way: JoinSet::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<JudgeMsg>,
        message: JudgeMsg,
        state: &mut JudgeState,
    ) -> Result<(), ActorProcessingErr> {
        reap(&mut state.under_way)?;
        let (judges, sampler) = (state.judges.clone(), state.sampler.clone());
        match message {
            JudgeMsg::Compare { case, seed, reply } => {
                let verdicts = async move { verdicts(&judges.verdicts, &sampler, case, seed).await };
                state.under_way.spawn(answer(verdicts, reply));
            }
            JudgeMsg::Prefer { contest, seed, reply } => {
                let preferences = async move {
                    match &judges.preferences {
                        Some(judge) => judge.prefer(&sampler, &contest, seed).await,
                        None => Ok(Vec::new()),
                    }
                };
                state.under_way.spawn(answer(preferences, reply));
            }
        }
        Ok(())
    }
}

/// Answers, unless the asker leaves before.
async fn answer<T>(answer: impl Future<Output = T>, mut reply: Reply<T>) {
    tokio::select! {
        answer = answer => drop(reply.send(answer)),
        () = reply.closed() => {}
    }
}
