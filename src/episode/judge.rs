//! The judge: compares refinements with the response they refine.
//!
//! Verdicts come from one of three sources: the task's verifier, a model that sees each pair in both orders ([`model`]),
//! or a custom function. Preferences between critiques always come from a model, also when a verifier gives the verdicts.
//! A judge that fails never counts as a win or a loss: its verdict is `Invalid`, with the reason.

use crate::episode::sampling::{SampleError, SamplingClient};
use crate::episode::text_work::CHECKING;
use crate::run::events::Event;
use crate::telemetry::metrics::{self, ProgramEnd};
use crate::types::verifier::Verifier;
use crate::types::{Invalid, Prompt, Verdict};
use crate::verify::code::ProgramFailure;
use crate::verify::{CheckError, CheckResult, Checker};
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
        JudgeSource::Verifier(checker) => {
            let checker = checker.clone();
            checked(sampler, request, move |request| by_checker(&checker, request)).await
        }
        JudgeSource::Custom(compare) => {
            let compare = compare.clone();
            checked(sampler, request, move |request| by_function(&*compare, request)).await
        }
        JudgeSource::Model(judge) => judge.compare(sampler, &request, seed).await?,
    };
    for verdict in &verdicts {
        sampler.events.emit(Event::Judged(*verdict));
    }
    Ok(verdicts)
}

/// Verdicts of `check`, which may run code for seconds, on a blocking thread. If it panics or misses the deadline, all
/// are invalid: the failure is the judge's, not the refinements'.
async fn checked(
    sampler: &SamplingClient,
    request: JudgeRequest,
    check: impl FnOnce(&JudgeRequest) -> Vec<Verdict> + Send + 'static,
) -> Vec<Verdict> {
    let refinements = request.refinements.len();
    let why = match tokio::time::timeout(sampler.deadline, CHECKING.run(move || check(&request))).await {
        Ok(Ok(verdicts)) => return verdicts,
        Ok(Err(_panic)) => Invalid::Checker,
        Err(_) => {
            sampler.events.emit(Event::DeadlineMissed(sampler.role));
            Invalid::Deadline
        }
    };
    vec![Verdict::Invalid(why); refinements]
}

/// Verdicts of a custom judge. A panic costs its own verdict only.
fn by_function(compare: &Compare, request: &JudgeRequest) -> Vec<Verdict> {
    let (prompt, response) = (&*request.context.prompt, &request.context.response);
    let verdict = |refinement| {
        let pair = Pair { prompt, response, critique: &request.critique, refinement };
        catch_unwind(AssertUnwindSafe(|| compare(pair))).unwrap_or(Verdict::Invalid(Invalid::Checker))
    };
    request.refinements.iter().map(verdict).collect()
}

/// Verdicts of the verifier.
fn by_checker(checker: &Checker, request: &JudgeRequest) -> Vec<Verdict> {
    let texts: Vec<&str> = request.refinements.iter().map(|refinement| refinement.text.as_str()).collect();
    compare_and_count(checker, &request.context.prompt, &request.context.response.text, &texts)
}

/// Verdicts on `refinements`; programs that are run for them are counted.
fn compare_and_count(checker: &Checker, prompt: &Prompt, response: &str, refinements: &[&str]) -> Vec<Verdict> {
    let runs_code = matches!(prompt.verifier, Some(Verifier::Code { .. }));
    checker.compare(prompt, response, refinements, |checked| {
        if runs_code {
            metrics::PROGRAMS.add(program_end(checked), 1);
        }
    })
}

/// How the check of a program ended.
fn program_end(checked: &Result<CheckResult, CheckError>) -> ProgramEnd {
    match checked {
        Ok(CheckResult { failure: None, .. }) => ProgramEnd::Right,
        Ok(CheckResult { failure: Some(failure), .. }) => match failure {
            ProgramFailure::Wrong(_) => ProgramEnd::Wrong,
            ProgramFailure::Syntax(_) => ProgramEnd::Syntax,
            ProgramFailure::Exception(_) => ProgramEnd::Exception,
            ProgramFailure::Timeout => ProgramEnd::Timeout,
            ProgramFailure::Memory => ProgramEnd::Memory,
            ProgramFailure::Forbidden(_) => ProgramEnd::Forbidden,
        },
        Err(CheckError::Sandbox(_)) => ProgramEnd::Sandbox,
        Err(_) => ProgramEnd::Invalid,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_program_that_is_checked_is_counted_by_how_it_ended() {
        let prompt: Prompt = serde_json::from_str(
            r#"{"id": "p", "task": "t", "prompt": "Write f.", "verifier": {"kind": "code", "entry_point": "f",
                "test": "def check(candidate):\n    assert candidate(1) == 2", "preamble": ""}}"#,
        )
        .unwrap();
        let checker = Checker::open([&prompt], false).unwrap();
        let function = |body: &str| format!("def f(x):\n    {body}\n");
        let texts = ["return x + 1", "return x", "import os; os.fork()", "return (", "while True: pass"].map(function);
        let [right, rest @ ..] = &texts;
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        ::metrics::with_local_recorder(&recorder, || compare_and_count(&checker, &prompt, right, &rest));
        let text = recorder.handle().render();
        for end in ["right", "wrong", "forbidden", "syntax", "timeout"] {
            assert!(text.contains(&format!("rco_judge_programs_total{{end=\"{end}\"}} 1\n")), "{end}: {text}");
        }
    }
}
