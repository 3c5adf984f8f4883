//! `/v1/critique`: critiques of a response, with refinements and verdicts, by the node's own templates.

use super::admission::Admitted;
use super::handles::Handles;
use super::model::Name;
use super::problem::{ErrorBody, Problem, expect};
use super::reading::Body;
use super::request_id;
use crate::engine::sampler::SamplingConfig;
use crate::episode::critique::{CritiqueRequest, TriedCritique, criticise};
use crate::episode::sampling::SampleError;
use crate::types::{CriticVersion, FinishReason, Invalid, Prompt, Verdict};
use axum::Json;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The route of critiques.
pub(super) fn routes(handles: Handles) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(critique)).with_state(handles)
}

/// A response to be criticised.
#[derive(Debug, Deserialize, ToSchema)]
struct CritiqueFields {
    /// `critic` or `critic@VERSION`; `critic` if absent.
    model: Option<String>,
    /// The prompt.
    prompt: String,
    /// The response to it.
    response: String,
    /// The correct answer, which a verifier needs as judge; no role's prompt holds it.
    answer: Option<String>,
    /// Critiques; 1 if absent.
    n: Option<usize>,
    /// Refinements of each critique, which are judged too; none if absent.
    refine: Option<usize>,
    /// The critic's sampling temperature; the node's if absent.
    temperature: Option<f32>,
    /// The critic's nucleus; the node's if absent.
    top_p: Option<f32>,
    /// Tokens of a critique at most; the node's if absent.
    max_tokens: Option<usize>,
    /// The same request with the same seed gives the same texts by the same weights; drawn at random if absent.
    seed: Option<i64>,
}

/// The critiques of a response.
#[derive(Debug, Serialize, ToSchema)]
struct Critiques {
    /// Names the answer.
    id: String,
    /// `critique.list`.
    object: &'static str,
    /// The weights that wrote the critiques: `critic@VERSION/DIGEST`.
    system_fingerprint: String,
    /// The critic's version.
    critic_version: u64,
    /// The critiques.
    critiques: Vec<CritiqueItem>,
}

/// A critique.
#[derive(Debug, Serialize, ToSchema)]
struct CritiqueItem {
    /// Its text.
    text: String,
    /// Its length.
    tokens: usize,
    /// `stop` or `length`.
    finish_reason: FinishText,
    /// The response's refinements by it.
    refinements: Vec<RefinementItem>,
    /// The verdicts on them: two for each from a model (one for each order), one for each otherwise.
    verdicts: Vec<VerdictItem>,
    /// Critique utility: the mean preference of its valid verdicts, from 0 to 1; null where there is none.
    utility: Option<f32>,
}

/// A refined response.
#[derive(Debug, Serialize, ToSchema)]
struct RefinementItem {
    /// Its text.
    text: String,
    /// Its length.
    tokens: usize,
    /// `stop` or `length`.
    finish_reason: FinishText,
}

/// A verdict on a refinement.
#[derive(Debug, Serialize, ToSchema)]
struct VerdictItem {
    /// `win`, `tie`, `loss` or `invalid`.
    verdict: &'static str,
    /// Why it is invalid.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    reason: Option<Invalid>,
}

/// Why a text ended.
type FinishText = &'static str;

fn reason(finish: FinishReason) -> FinishText {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

fn verdict(verdict: Verdict) -> VerdictItem {
    let (verdict, reason) = match verdict {
        Verdict::Win => ("win", None),
        Verdict::Tie => ("tie", None),
        Verdict::Loss => ("loss", None),
        Verdict::Invalid(reason) => ("invalid", Some(reason)),
    };
    VerdictItem { verdict, reason }
}

fn item(tried: TriedCritique) -> CritiqueItem {
    let utility = tried.utility();
    let refinement = |text: crate::types::Completion| RefinementItem {
        text: text.text,
        tokens: text.ids.len(),
        finish_reason: reason(text.finish),
    };
    CritiqueItem {
        text: tried.critique.text,
        tokens: tried.critique.ids.len(),
        finish_reason: reason(tried.critique.finish),
        refinements: tried.refinements.into_iter().map(refinement).collect(),
        verdicts: tried.verdicts.into_iter().map(verdict).collect(),
        utility,
    }
}

/// The critic version that `model` names; none is the one in service.
fn version(model: Option<&str>) -> Result<Option<CriticVersion>, Problem> {
    match model.map(Name::parse) {
        None => Ok(None),
        Some(Some(Name::Critic(version))) => Ok(version),
        Some(_) => {
            let got = model.unwrap_or_default();
            Err(Problem::no_model(format!("model: expected \"critic\" or \"critic@VERSION\", got {got:?}")))
        }
    }
}

fn count(name: &str, value: Option<usize>, least: usize) -> Result<usize, Problem> {
    let value = value.unwrap_or(least);
    let problem = || Problem::invalid(name, format!("{name}: expected at least {least}, got {value}"));
    if value >= least { Ok(value) } else { Err(problem()) }
}

/// Criticises a response.
#[utoipa::path(post, path = "/v1/critique", tag = "critique", request_body = CritiqueFields, responses(
    (status = 200, body = Critiques), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)
))]
async fn critique(State(handles): State<Handles>, admitted: Admitted, body: Body) -> Result<Response, Problem> {
    let mut fields = body.fields(&[])?;
    let asked: CritiqueFields = fields.read()?;
    fields.end()?;
    let (n, refine) = (count("n", asked.n, 1)?, count("refine", asked.refine, 0)?);
    let texts = n.saturating_add(n.saturating_mul(refine));
    let texts_max = handles.admission.texts_max;
    if texts > texts_max {
        let expected = format!("at most {texts_max} critiques and refinements together (http.texts_max)");
        return Err(Problem::invalid("n", format!("n: expected {expected}, got {texts}")));
    }
    let version = version(asked.model.as_deref())?;
    let open = handles.api.now()?;
    if let Some(version) = version {
        admitted.deadline().within(open.hold(version)).await??;
    }
    let (id, task) = (String::new(), String::new());
    let prompt = Prompt { id, task, text: asked.prompt, turns: Vec::new(), answer: asked.answer, verifier: None };
    let seed = asked.seed.map_or_else(request_id::random, |seed| seed as u64);
    let mut sampling = open.served.models.critic.sampling.clone();
    sampling.temperature = asked.temperature.unwrap_or(sampling.temperature);
    sampling.top_p = asked.top_p.unwrap_or(sampling.top_p);
    sampling.max_tokens = count("max_tokens", Some(asked.max_tokens.unwrap_or(sampling.max_tokens)), 1)?;
    let SamplingConfig { temperature, top_p, .. } = sampling;
    expect("temperature", temperature >= 0.0 && temperature.is_finite(), "at least 0", temperature)?;
    expect("top_p", top_p > 0.0 && top_p <= 1.0, "above 0 and at most 1", top_p)?;
    let response = asked.response;
    let request = CritiqueRequest { prompt, response, critiques: n, refinements: refine, version, sampling, seed };
    let tried = admitted.deadline().within(criticise(&open.served.models, &open.device, request)).await?;
    let tried = tried.map_err(problem)?;
    let wrote = tried.first().map_or(CriticVersion::BASE, |tried| tried.critique.version);
    let answer = Critiques {
        id: format!("critique-{:016x}", request_id::random()),
        object: "critique.list",
        system_fingerprint: open.fingerprint(Some(wrote)),
        critic_version: wrote.0,
        critiques: tried.into_iter().map(item).collect(),
    };
    let mut response = Json(answer).into_response();
    response.headers_mut().insert("x-critic-version", HeaderValue::from(wrote.0));
    Ok(response)
}

fn problem(error: SampleError) -> Problem {
    match error {
        SampleError::TooLong => Problem::too_long("prompt", "prompt and response leave no room in the context"),
        SampleError::Deadline => Problem::unavailable("a role did not answer within rollout.ask_deadline_seconds"),
        SampleError::Gone => Problem::unavailable("the device was stopped or is being restarted"),
        SampleError::Refused(why) => Problem::invalid("prompt", format!("prompt: {why}")),
        SampleError::Remote(why) => Problem::unavailable(format!("remote server: {why}")),
        SampleError::Broken(why) => Problem::internal(why),
    }
}
