//! The judge: compares refinements with the response they refine.
//!
//! Three sources of verdicts: the task's own checker, a model asked in both orders ([`model`]), or a function
//! that the node was handed. Preferences between critiques have but one, a model, which may sit beside a checker.
//! No verdict is invented: a judge that fails answers `Invalid` with its reason.

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

/// A judge handed to the node.
pub type Compare = dyn Fn(Pair<'_>) -> Verdict + Send + Sync;

/// Where verdicts come from.
#[derive(Clone)]
pub enum JudgeSource {
    /// The checker of the prompt's task, by what the prompt carries.
    Verifier(Arc<Checker>),
    /// A model, asked in both orders.
    Model(Arc<ModelJudge>),
    /// A function.
    Custom(Arc<Compare>),
}

/// Who judges what.
#[derive(Clone)]
pub struct Judges {
    /// Of refinements.
    pub verdicts: JudgeSource,
    /// Of critiques beside each other, where they are compared.
    pub preferences: Option<Arc<ModelJudge>>,
}

/// Verdicts on the refinements of `request`; two each, by order, from a model.
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

/// A checker that panics has no verdict: that is the checker's failure, not the refinement's.
fn guarded(compare: impl FnOnce() -> Verdict) -> Verdict {
    catch_unwind(AssertUnwindSafe(compare)).unwrap_or(Verdict::Invalid(Invalid::Checker))
}

/// Checks on a thread of its own: code takes seconds, and others wait on this one.
async fn by_checker(checker: Arc<Checker>, request: JudgeRequest) -> Result<Vec<Verdict>, SampleError> {
    let check = move || {
        let texts: Vec<&str> = request.refinements.iter().map(|refinement| refinement.text.as_str()).collect();
        let compare = || checker.compare(&request.context.prompt, &request.context.response.text, &texts);
        let failed = || vec![Verdict::Invalid(Invalid::Checker); texts.len()];
        catch_unwind(AssertUnwindSafe(compare)).unwrap_or_else(|_| failed())
    };
    tokio::task::spawn_blocking(check).await.map_err(|error| SampleError::Broken(error.to_string()))
}
