//! Critiques on request: of a given response, with refinements by each and their verdicts, by the node's own templates.
//!
//! The steps are an episode's, without a group at the end: nothing is learned from what users ask.

use super::judge::{JudgeRequest, JudgeSource, verdicts};
use super::models::Models;
use super::role::{self, ResponseContext};
use super::sampling::{PolicyRef, SampleError, SamplingClient};
use super::seed::seed;
use super::text_work::RENDERING;
use crate::device::Device;
use crate::engine::sampler::SamplingConfig;
use crate::run::events::EventBus;
use crate::types::{Completion, CriticVersion, EpisodeId, FinishReason, Origin, Prompt, Role, Verdict, utility};
use futures_util::future::try_join_all;
use std::sync::Arc;

/// What is asked.
#[derive(Clone, Debug)]
pub struct CritiqueRequest {
    /// The prompt, with its answer if a verifier is to judge.
    pub prompt: Prompt,
    /// The response to it.
    pub response: String,
    /// N: critiques.
    pub critiques: usize,
    /// M: refinements of each; 0 for critiques alone.
    pub refinements: usize,
    /// The critic; none is the one in service.
    pub version: Option<CriticVersion>,
    /// The critic's sampling parameters.
    pub sampling: SamplingConfig,
    /// All random draws follow from it.
    pub seed: u64,
}

/// A critique, with what it was worth if it was tried.
#[derive(Clone, Debug)]
pub struct TriedCritique {
    /// The critique.
    pub critique: Completion,
    /// The response's refinements by it.
    pub refinements: Vec<Completion>,
    /// The verdicts on them: two for each from a model, one for each otherwise.
    pub verdicts: Vec<Verdict>,
}

impl TriedCritique {
    /// Critique utility (CU); none where no verdict is valid.
    pub fn utility(&self) -> Option<f32> {
        utility(&self.verdicts)
    }
}

/// Criticises a response, and refines it by each critique.
///
/// # Errors
/// If a text is refused, does not fit, or misses the deadline of a role, or the device fails.
pub async fn criticise(
    models: &Arc<Models>,
    device: &Device,
    request: CritiqueRequest,
) -> Result<Vec<TriedCritique>, SampleError> {
    let events = EventBus::silent();
    let sampler =
        |role| SamplingClient { events: events.clone(), origin: Origin::Http, ..models.sampler(role, device) };
    let seed = |role, index| seed(request.seed, EpisodeId(0), role, index);
    let policy = request.version.map_or(PolicyRef::Serving, PolicyRef::Resident);
    let critic = SamplingClient { policy, sampling: request.sampling, ..sampler(Role::Critic) };
    let (generator, refiner, judge) = (sampler(Role::Generator), sampler(Role::Refiner), sampler(Role::Judge));

    let prompt = Arc::new(request.prompt);
    let is_judged = can_judge(&models.judges.verdicts, &prompt);
    if request.refinements > 0 && !is_judged {
        tracing::warn!("the refinements are not judged: the prompt has no answer that the verifier could check");
    }
    let rendered = role::PromptBuilder::render(&models.generator.role, &generator, &prompt).await?;
    let response = given(&generator, request.response).await?;
    let context = Arc::new(ResponseContext { prompt, rendered, response });
    let n = request.critiques;
    let critiques = role::complete(&models.critic.role, &critic, &context, n, seed(Role::Critic, 0)).await?;
    if let Some(version) = request.version
        && critiques.completions.iter().any(|critique| critique.version != version)
    {
        return Err(SampleError::Refused(format!("critic {version}: expected one that is in memory")));
    }

    let tries = critiques.completions.into_iter().enumerate().map(|(index, critique)| {
        let (context, refiner, judge) = (context.clone(), &refiner, &judge);
        let seeds = [Role::Refiner, Role::Judge].map(|role| seed(role, index as u64));
        let m = request.refinements;
        async move {
            let critique = Arc::new(critique);
            let (mut refinements, mut judged) = (Vec::new(), Vec::new());
            if m > 0 {
                let input = (context.clone(), critique.clone());
                refinements = role::complete(&models.refiner.role, refiner, &input, m, seeds[0]).await?.completions;
            }
            if m > 0 && is_judged {
                let request = JudgeRequest { context, critique: critique.clone(), refinements: refinements.clone() };
                judged = verdicts(&models.judges.verdicts, judge, request, seeds[1]).await?;
            }
            let critique = Arc::unwrap_or_clone(critique);
            Ok(TriedCritique { critique, refinements, verdicts: judged })
        }
    });
    try_join_all(tries).await
}

/// Whether `source` can say anything about answers to `prompt`.
fn can_judge(source: &JudgeSource, prompt: &Prompt) -> bool {
    !matches!(source, JudgeSource::Verifier(_)) || prompt.answer.is_some() || prompt.verifier.is_some()
}

/// The response that was given, as if the generator had written it.
async fn given(generator: &SamplingClient, text: String) -> Result<Completion, SampleError> {
    let tokenizer = generator.tokenizer.clone();
    let encode = move || {
        let ids = tokenizer.encode_text(&text)?;
        let (log_probs, version, finish) = (Vec::new(), CriticVersion::BASE, FinishReason::Stop);
        Ok::<_, crate::formats::Error>(Completion { text, ids, log_probs, version, finish })
    };
    Ok(RENDERING.run(encode).await.map_err(SampleError::Refused)??)
}
