//! The fields of a request for texts that chat completions and completions share, and what they ask of the engine.

use crate::engine::sampler::SamplingConfig;
use crate::engine::{Request, TokenReports};
use crate::http::model::Model;
use crate::http::problem::{Problem, expect};
use crate::http::reading::Neutral;
use crate::http::request_id;
use crate::types::Origin;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Stop strings of one request.
const STOPS_MAX: usize = 16;
/// Bytes of a stop string.
const STOP_BYTES_MAX: usize = 1024;
/// Ids with a bias.
const BIASES_MAX: usize = 1024;
/// Likeliest tokens that are reported at each position.
pub(super) const TOP_MAX: usize = 20;

/// Fields that both kinds of requests have.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct SharedFields {
    /// `generator`, `critic`, `critic@VERSION` or `judge`.
    pub(super) model: String,
    /// Texts for each prompt; 1 if absent.
    pub(super) n: Option<usize>,
    /// Whether the answer is a stream of server-sent events.
    pub(super) stream: Option<bool>,
    /// What a stream carries beside texts.
    pub(super) stream_options: Option<StreamOptions>,
    /// Strings that end a text, which is cut before them.
    stop: Option<Stop>,
    /// Ids that end a text, beside the model's own.
    stop_token_ids: Option<Vec<u32>>,
    /// Whether the model's own ends of a text are ignored.
    ignore_eos: Option<bool>,
    /// The same request with the same seed gives the same texts by the same weights; drawn at random if absent.
    seed: Option<i64>,
    /// 0 takes the likeliest token each time; 1 if absent.
    temperature: Option<f32>,
    /// Keeps the smallest set of tokens of at least this mass; 1 if absent.
    top_p: Option<f32>,
    /// Keeps this many of the likeliest tokens; 0 and -1 keep all.
    top_k: Option<i64>,
    /// Drops tokens that are less likely than this share of the likeliest; 0 if absent.
    min_p: Option<f32>,
    /// The longest text, in tokens.
    pub(super) max_tokens: Option<usize>,
    /// Added to the logits of these ids, from -100 to 100.
    logit_bias: Option<BTreeMap<String, f32>>,
    /// Whether the ids of prompt and text are given too.
    return_token_ids: Option<bool>,
}

/// What a stream carries beside texts.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
pub(super) struct StreamOptions {
    /// Whether a last event carries the usage.
    include_usage: Option<bool>,
    /// Whether every event carries the usage so far.
    continuous_usage_stats: Option<bool>,
}

/// Strings that end a text.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum Stop {
    One(String),
    Many(Vec<String>),
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn is_false(value: &Value) -> bool {
    *value == json!(false)
}

fn is_true(value: &Value) -> bool {
    *value == json!(true)
}

fn is_empty_list(value: &Value) -> bool {
    *value == json!([])
}

/// Fields of OpenAI and vLLM that are accepted where they change nothing.
pub(super) const NEUTRAL: &[Neutral] = &[
    ("frequency_penalty", "0", is_zero),
    ("presence_penalty", "0", is_zero),
    ("repetition_penalty", "1", is_one),
    ("length_penalty", "1", is_one),
    ("min_tokens", "0", is_zero),
    ("use_beam_search", "false", is_false),
    ("skip_special_tokens", "true", is_true),
    ("include_stop_str_in_output", "false", is_false),
    ("store", "false", is_false),
    ("tools", "no tools", is_empty_list),
    ("functions", "no functions", is_empty_list),
    ("tool_choice", "\"none\" or \"auto\"", |value| matches!(value.as_str(), Some("none" | "auto"))),
    ("parallel_tool_calls", "true or false", Value::is_boolean),
    ("response_format", "{\"type\": \"text\"}", |value| *value == json!({"type": "text"})),
    ("modalities", "[\"text\"]", |value| *value == json!(["text"])),
    ("service_tier", "\"auto\" or \"default\"", |value| matches!(value.as_str(), Some("auto" | "default"))),
    ("add_generation_prompt", "true", is_true),
    ("continue_final_message", "false", is_false),
    // Labels of the client's own.
    ("user", "a string", Value::is_string),
    ("safety_identifier", "a string", Value::is_string),
    ("prompt_cache_key", "a string", Value::is_string),
    ("metadata", "an object", Value::is_object),
];

fn at_least(name: &str, least: usize, value: Option<usize>) -> Result<Option<usize>, Problem> {
    match value {
        Some(value) if value < least => {
            Err(Problem::invalid(name, format!("{name}: expected at least {least}, got {value}")))
        }
        value => Ok(value),
    }
}

impl SharedFields {
    /// Texts for each prompt.
    pub(super) fn n(&self) -> usize {
        self.n.unwrap_or(1)
    }

    /// Whether the answer is a stream.
    pub(super) fn is_streamed(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Whether a stream ends with the usage.
    pub(super) fn includes_usage(&self) -> bool {
        self.stream_options.is_some_and(|options| options.include_usage.unwrap_or(false))
    }

    /// Whether every event of a stream carries the usage so far.
    pub(super) fn tells_usage_always(&self) -> bool {
        let options = self.stream_options.unwrap_or_default();
        options.include_usage.unwrap_or(false) && options.continuous_usage_stats.unwrap_or(false)
    }

    /// Whether the ids are given too.
    pub(super) fn returns_ids(&self) -> bool {
        self.return_token_ids.unwrap_or(false)
    }

    /// The request for each of `prompts`.
    ///
    /// # Errors
    /// If a field has a value that cannot be used.
    pub(super) fn requests(
        &self,
        model: &Model,
        prompts: Vec<Vec<u32>>,
        max_tokens: usize,
        reports: TokenReports,
        texts_max: usize,
    ) -> Result<Vec<Request>, Problem> {
        let n = at_least("n", 1, self.n)?.unwrap_or(1);
        let texts = prompts.len().saturating_mul(n);
        let expected = format!("at most {texts_max} texts of a request (http.texts_max)");
        expect("n", texts <= texts_max, &expected, texts)?;
        let streams = self.is_streamed() || self.stream_options.is_none();
        expect("stream_options", streams, "none where stream is not true", self.stream_options)?;
        let sampling = self.sampling(max_tokens)?;
        let stop_ids = self.stop_ids(model)?;
        let logit_bias = self.logit_bias(model)?;
        let seed = self.seed.map_or_else(request_id::random, |seed| seed as u64);
        let request = |prompt| Request {
            logit_bias: logit_bias.clone(),
            reports,
            policy: model.policy,
            origin: Origin::Http,
            ..Request::new(prompt, n, sampling.clone(), stop_ids.clone(), seed)
        };
        Ok(prompts.into_iter().map(request).collect())
    }

    fn sampling(&self, max_tokens: usize) -> Result<SamplingConfig, Problem> {
        let stop = match self.stop.clone() {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop],
            Some(Stop::Many(stops)) => stops,
        };
        expect("stop", stop.len() <= STOPS_MAX, &format!("at most {STOPS_MAX} strings"), stop.len())?;
        let right = |stop: &String| (1..=STOP_BYTES_MAX).contains(&stop.len());
        expect("stop", stop.iter().all(right), &format!("strings of 1 to {STOP_BYTES_MAX} bytes"), &stop)?;
        let temperature = self.temperature.unwrap_or(1.0);
        expect("temperature", temperature >= 0.0 && temperature.is_finite(), "at least 0", temperature)?;
        let top_p = self.top_p.unwrap_or(1.0);
        expect("top_p", top_p > 0.0 && top_p <= 1.0, "above 0 and at most 1", top_p)?;
        let min_p = self.min_p.unwrap_or(0.0);
        expect("min_p", (0.0..1.0).contains(&min_p), "at least 0 and below 1", min_p)?;
        let top_k = self.top_k.unwrap_or(0);
        expect("top_k", top_k >= -1, "at least 0, or -1 for all", top_k)?;
        let top_k = usize::try_from(top_k).unwrap_or(0);
        Ok(SamplingConfig { max_tokens, temperature, top_k, top_p, min_p, stop })
    }

    fn stop_ids(&self, model: &Model) -> Result<Vec<u32>, Problem> {
        let len = model.tokenizer.len();
        let more = self.stop_token_ids.clone().unwrap_or_default();
        let known = more.len() <= len && more.iter().all(|id| (*id as usize) < len);
        expect("stop_token_ids", known, &format!("ids below {len}"), &more)?;
        let own = if self.ignore_eos.unwrap_or(false) { &[] } else { model.tokenizer.stop_ids() };
        Ok(own.iter().copied().chain(more).collect())
    }

    fn logit_bias(&self, model: &Model) -> Result<Vec<(u32, f32)>, Problem> {
        let biases = self.logit_bias.iter().flatten();
        let len = model.tokenizer.len();
        let few = self.logit_bias.as_ref().is_none_or(|biases| biases.len() <= BIASES_MAX);
        expect("logit_bias", few, &format!("at most {BIASES_MAX} ids"), biases.clone().count())?;
        let read = |(id, bias): (&String, &f32)| {
            let id = id.parse().ok().filter(|id| (*id as usize) < len);
            let id: u32 = id.ok_or_else(|| {
                Problem::invalid("logit_bias", format!("logit_bias: expected ids below {len}, got {id:?}"))
            })?;
            expect("logit_bias", (-100.0..=100.0).contains(bias), "a bias from -100 to 100", bias)?;
            Ok((id, *bias))
        };
        biases.map(read).collect()
    }
}
