//! The judge: compares refinements with the response they refine.
//!
//! Verdicts come from one of three sources: the task's verifier, a model that sees each pair in both orders ([`model`]),
//! or a custom function. Preferences between critiques always come from a model, also when a verifier gives the verdicts.
//! A judge that fails never counts as a win or a loss: its verdict is `Invalid`, with the reason.

use crate::episode::sampling::{SampleError, SamplingClient};
use crate::run::events::Event;
use crate::types::{Invalid, Verdict};
use crate::verify::Checker;
use model::ModelJudge;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub mod model;
mod request;

pub use request::{JudgeRequest, Pair, PreferenceRequest};

/// A custom judge.
pub type Compare = dyn Fn(Pair<'_>) -> Verdict + Send + Sync;

/// Where verdicts come from.
#[derive(Clone)]
pub enum JudgeSource {
    /// The verifier that the prompt names.
    Verifier(Arc<Checker>),
    /// A model that sees each pair in both orders.
    Model(Arc<ModelJudge>),
    /// A custom function.
    Custom(Arc<Compare>),
}

/// The judges of a run.
#[derive(Clone)]
pub struct Judges {
    /// Gives verdicts on refinements.
    pub verdicts: JudgeSource,
    /// Compares critiques with each other; none if they are not compared.
    pub preferences: Option<Arc<ModelJudge>>,
}

/// Verdicts on the refinements of `request`, in their order: two per refinement from a model (one per order), else one.
pub(crate) async fn verdicts(
    source: &JudgeSource,
    sampler: &SamplingClient,
    request: JudgeRequest,
    seed: u64,
) -> Result<Vec<Verdict>, SampleError> {
    let verdicts: Vec<_> = match source {
        JudgeSource::Verifier(checker) => by_checker(checker.clone(), request).await?,
        JudgeSource::Custom(compare) => request
            .refinements
            .iter()
            .map(|refinement| {
                let (prompt, response) = (&*request.context.prompt, &request.context.response);
                guarded(|| compare(Pair { prompt, response, critique: &request.critique, refinement }))
            })
            .collect(),
        JudgeSource::Model(judge) => judge.compare(sampler, &request, seed).await?,
    };
    for verdict in &verdicts {
        sampler.events.emit(Event::Judged(*verdict));
    }
    Ok(verdicts)
}

/// Runs `compare`. If it panics, the verdict is invalid: the failure is the judge's, not the refinement's.
fn guarded(compare: impl FnOnce() -> Verdict) -> Verdict {
    catch_unwind(AssertUnwindSafe(compare)).unwrap_or(Verdict::Invalid(Invalid::Checker))
}

/// Verdicts of the verifier, computed on a blocking thread: running code takes seconds.
async fn by_checker(checker: Arc<Checker>, request: JudgeRequest) -> Result<Vec<Verdict>, SampleError> {
    let check = move || {
        let texts: Vec<&str> = request.refinements.iter().map(|refinement| refinement.text.as_str()).collect();
        let compare = || checker.compare(&request.context.prompt, &request.context.response.text, &texts);
        let failed = || vec![Verdict::Invalid(Invalid::Checker); texts.len()];
        catch_unwind(AssertUnwindSafe(compare)).unwrap_or_else(|_| failed())
    };
    tokio::task::spawn_blocking(check).await.map_err(|error| SampleError::Broken(error.to_string()))
}
