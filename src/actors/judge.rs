//! The judge: compares refinements with the response they refine.
//!
//! Three sources of verdicts: the task's own checker, the model asked in both orders, or a function
//! that the node was handed. No verdict is invented: a judge that fails answers `Invalid` with its reason.

use super::news::Event;
use super::role::{Opening, reap};
use super::scribe::{Scribe, Trouble};
use super::{Reply, rollout};
use crate::episode::{Invalid, Prompt, Verdict, Written};
use crate::roles::{judge::Judge, reading::Read};
use crate::verify::Checker;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::task::JoinSet;

/// One refinement and what it came from.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// What was asked.
    pub prompt: &'a Prompt,
    /// What was answered.
    pub response: &'a Written,
    /// What was criticised.
    pub critique: &'a Written,
    /// What came of it.
    pub refinement: &'a Written,
}

/// A judge handed to the node.
pub type Compare = dyn Fn(Pair<'_>) -> Verdict + Send + Sync;

/// Where verdicts come from.
#[derive(Clone)]
pub enum JudgeSource {
    /// The checker of the prompt's task, by what the prompt carries.
    Verifier(Arc<Checker>),
    /// The model, asked in both orders.
    Model(Arc<Judge>),
    /// A function.
    Custom(Arc<Compare>),
}

/// All refinements of one critique.
#[derive(Clone, Debug)]
pub struct Case {
    /// Prompt and response.
    pub opening: Arc<Opening>,
    /// The critique.
    pub critique: Arc<Written>,
    /// Its refinements.
    pub refinements: Vec<Written>,
}

/// What the judge can be told.
pub enum JudgeMsg {
    /// Compare each refinement with the response. A judge that is asked in both orders gives two
    /// verdicts a refinement.
    Compare {
        /// What.
        case: Case,
        /// The seed of what it writes.
        seed: u64,
        /// Where to.
        reply: Reply<Result<Vec<Verdict>, Trouble>>,
    },
}

/// The judge's shell.
pub struct JudgeActor;

/// What it asks and what it has under way.
pub struct JudgeState {
    source: JudgeSource,
    scribe: Scribe,
    under_way: JoinSet<()>,
}

impl Actor for JudgeActor {
    type Msg = JudgeMsg;
    type State = JudgeState;
    type Arguments = (JudgeSource, Scribe);

    async fn pre_start(
        &self,
        _: ActorRef<JudgeMsg>,
        (source, scribe): Self::Arguments,
    ) -> Result<JudgeState, ActorProcessingErr> {
        Ok(JudgeState { source, scribe, under_way: JoinSet::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<JudgeMsg>,
        message: JudgeMsg,
        state: &mut JudgeState,
    ) -> Result<(), ActorProcessingErr> {
        reap(&mut state.under_way)?;
        let JudgeMsg::Compare { case, seed, mut reply } = message;
        let (source, scribe) = (state.source.clone(), state.scribe.clone());
        state.under_way.spawn(async move {
            tokio::select! {
                verdicts = verdicts(&source, &scribe, case, seed) => drop(reply.send(verdicts)),
                () = reply.closed() => {}
            }
        });
        Ok(())
    }
}

async fn verdicts(source: &JudgeSource, scribe: &Scribe, case: Case, seed: u64) -> Result<Vec<Verdict>, Trouble> {
    let verdicts: Vec<_> = match source {
        JudgeSource::Verifier(checker) => by_checker(checker.clone(), case).await?,
        JudgeSource::Custom(compare) => case
            .refinements
            .iter()
            .map(|refinement| {
                let (prompt, response) = (&*case.opening.prompt, &case.opening.response);
                guarded(|| compare(Pair { prompt, response, critique: &case.critique, refinement }))
            })
            .collect(),
        JudgeSource::Model(judge) => by_model(judge, scribe, &case, seed).await?,
    };
    for verdict in &verdicts {
        scribe.news.tell(Event::Judged(*verdict));
    }
    Ok(verdicts)
}

/// A checker that panics has no verdict: that is the checker's failure, not the refinement's.
fn guarded(compare: impl FnOnce() -> Verdict) -> Verdict {
    catch_unwind(AssertUnwindSafe(compare)).unwrap_or(Verdict::Invalid(Invalid::Checker))
}

/// Checks on a thread of its own: code takes seconds, and others wait on this one.
async fn by_checker(checker: Arc<Checker>, case: Case) -> Result<Vec<Verdict>, Trouble> {
    let check = move || {
        let texts: Vec<&str> = case.refinements.iter().map(|refinement| refinement.text.as_str()).collect();
        let compare = || checker.compare(&case.opening.prompt, &case.opening.response.text, &texts);
        let failed = || vec![Verdict::Invalid(Invalid::Checker); texts.len()];
        catch_unwind(AssertUnwindSafe(compare)).unwrap_or_else(|_| failed())
    };
    tokio::task::spawn_blocking(check).await.map_err(|error| Trouble::Broken(error.to_string()))
}

/// Asks the model for every refinement in both orders, all at once, and keeps their order.
async fn by_model(judge: &Judge, scribe: &Scribe, case: &Case, seed: u64) -> Result<Vec<Verdict>, Trouble> {
    let mut questions = JoinSet::new();
    let mut reads: Vec<_> = case.refinements.iter().map(|_| [Ok(None), Ok(None)]).collect();
    for (index, refinement) in case.refinements.iter().enumerate() {
        let sides = [&case.opening.response.text, &refinement.text];
        for (order, (first, second)) in [(sides[0], sides[1]), (sides[1], sides[0])].into_iter().enumerate() {
            let composed = scribe.compose(judge.conversation(&case.opening.prompt, first, second))?;
            let scribe = scribe.clone();
            let seed = rollout::mix(seed, 2 * index as u64 + order as u64);
            questions.spawn(async move { (index, order, read(&scribe, composed.ids, seed).await) });
        }
    }
    while let Some(answered) = questions.join_next().await {
        let (index, order, read) = answered.map_err(|error| Trouble::Broken(error.to_string()))?;
        reads[index][order] = read;
    }
    let mut verdicts = Vec::with_capacity(2 * reads.len());
    for [forward, backward] in reads {
        match (forward, backward) {
            (Ok(forward), Ok(backward)) => verdicts.extend(Judge::verdicts(forward, backward)),
            (Err(Trouble::Deadline | Trouble::TooLong), _) | (_, Err(Trouble::Deadline | Trouble::TooLong)) => {
                verdicts.extend([Verdict::Invalid(Invalid::Deadline); 2]);
            }
            (Err(trouble), _) | (_, Err(trouble)) => return Err(trouble),
        }
    }
    Ok(verdicts)
}

async fn read(scribe: &Scribe, ids: Vec<u32>, seed: u64) -> Result<Option<Read>, Trouble> {
    let written = scribe.write(ids, 1, seed).await?;
    Ok(written.first().and_then(|written| Judge::read(&written.text)))
}
