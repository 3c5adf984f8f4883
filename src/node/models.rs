//! The models, roles and servers that a config names. Knows no run and no actor.

use super::error::Error;
use crate::config::Config;
use crate::engine::EngineConfig;
use crate::episode::judge::model::ModelJudge;
use crate::episode::judge::{Compare, JudgeSource, Judges};
use crate::episode::models::{Models, Remotes, RoleConfig};
use crate::formats::source::Source;
use crate::kernels::{PassPrecisions, peak};
use crate::learner::Mode;
use crate::remote::{Client, RemoteConfig, ask_verifier};
use crate::roles::judge::JudgeKind;
use crate::roles::{critic::Critic, generator::Generator, judge::Judge, refiner::Refiner};
use crate::run::events::{Activity, Event, EventBus};
use crate::telemetry::metrics;
use crate::transformer;
use crate::transformer::load::Loaded;
use crate::types::Prompt;
use crate::verify::{Checker, sandbox};
use candle_core::DeviceLocation;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The models and roles of `config`, and the path of the base model; `compare` replaces the judge if it is given. If
/// `score` is true, the model can score too. Blocks on files, downloads and weights.
///
/// # Errors
/// If one cannot be made, or the verifier cannot check `prompts` here.
pub(crate) fn models(
    config: &Config,
    prompts: &[Prompt],
    compare: Option<&Arc<Compare>>,
    events: &EventBus,
    score: bool,
) -> Result<(Models, PathBuf), Error> {
    let reasoning = config.roles.reasoning;
    let generator = Arc::new(Generator::new(&config.generator.role)?);
    let critic = Arc::new(Critic::new(&config.critic.role)?.with_reasoning(reasoning));
    let refiner = Arc::new(Refiner::new(&config.refiner.role)?.with_reasoning(reasoning));
    let judge = Judge::new(&config.judge.role)?.with_reasoning(reasoning);
    let checks = compare.is_none() && config.judge.role.kind == JudgeKind::Verifier;
    let checker = checks.then(|| checker(config, prompts)).transpose()?.map(Arc::new);
    let remotes = remotes(config)?;

    let device = config.model.device.open()?;
    check_device(config, device.location())?;
    let path = fetch("model.source", &config.model.source)?;
    events.emit(Event::ActivityChanged(Activity::Loading));
    let passes = precisions(config, score);
    if let Some(base) = passes.score.filter(|_| device.is_cpu()) {
        let matmul = passes.matmul.supported().name();
        tracing::info!(%base, matmul, "the learner's pass");
    }
    let model = crate::transformer::load::load_on(&path, &device, passes)?;
    // Every role needs a chat template: a base model is refused here, not by its first episode.
    model.template.present()?;
    let judge_model = judge_model(config, &device)?;
    let role = &config.judge.role;
    let Loaded { template, tokenizer, .. } = judge_model.as_ref().map_or(&model, |(model, _)| model);
    let asked = match role.kind {
        JudgeKind::Remote => Some(ModelJudge::remote(judge)),
        _ => role.uses_local_model().then(|| ModelJudge::new(judge, template, tokenizer)).transpose()?,
    };
    let asked = asked.map(Arc::new);
    let preferences = asked.clone().filter(|_| role.critique_preferences);
    let verdicts = match (compare, checker, asked) {
        (Some(compare), ..) => JudgeSource::Custom(compare.clone()),
        (None, Some(checker), _) => JudgeSource::Verifier(checker),
        (None, None, asked) => JudgeSource::Model(asked.expect("a judge that is not a verifier is a model")),
    };
    let models = Models {
        model,
        engine: config.engine.clone(),
        generator: RoleConfig { role: generator, sampling: config.generator.sampling.clone() },
        critic: RoleConfig { role: critic, sampling: config.critic.sampling.clone() },
        refiner: RoleConfig { role: refiner, sampling: config.refiner.sampling.clone() },
        judges: Judges { verdicts, preferences },
        judging: config.judge.sampling.clone(),
        remotes,
        judge_model,
        deadline: Duration::from_secs(config.rollout.ask_deadline_seconds),
        events: events.clone(),
    };
    Ok((models, path))
}

/// Measures what the operations of the engine are compared with. For whoever exports metrics: it takes some ten milliseconds of
/// all cores.
pub(crate) fn note_peak(models: &Models) {
    if models.model.transformer.device().is_cpu() {
        metrics::OPERATIONS_PEAK.set(peak::flops_per_second());
    }
}

/// Clients of the servers in `config`, with their keys.
pub(super) fn remotes(config: &Config) -> Result<Remotes, Error> {
    let client = |section, config: Option<&RemoteConfig>| -> Result<_, Error> {
        let client = config.map(Client::new).transpose().map_err(|error| Error::Remote { section, error })?;
        Ok(client.map(Arc::new))
    };
    Ok(Remotes {
        generator: client("remote.generator", config.remote_generator())?,
        judge: client("remote.judge", config.remote_judge())?,
    })
}

/// A checker of answers to `prompts`, with whatever their verifiers need.
///
/// # Errors
/// If code or the user's programs must be run and cannot be, or not in isolation while `judge.allow_unsandboxed` is false.
pub(crate) fn checker<'a>(
    config: &Config,
    prompts: impl IntoIterator<Item = &'a Prompt>,
) -> Result<Checker, sandbox::Error> {
    Ok(Checker::open(prompts, config.judge.role.allow_unsandboxed)?.with_servers(ask_verifier))
}

/// The path of the model that `key` names, fetched.
fn fetch(key: &'static str, source: &str) -> Result<PathBuf, Error> {
    Source::parse(source).and_then(|source| source.fetch()).map_err(|error| Error::Source { key, error })
}

/// The judge's own model, if it has one, and the limits of its engine: those of the node's, except for the cache.
fn judge_model(config: &Config, device: &candle_core::Device) -> Result<Option<(Loaded, EngineConfig)>, Error> {
    let Some(source) = config.judge_model() else { return Ok(None) };
    let path = fetch("judge.model", source)?;
    let engine = config.judge_engine();
    let model = crate::transformer::load::load_on(&path, device, PassPrecisions::decode_only(engine.weights))?;
    model.template.present()?;
    Ok(Some((model, engine)))
}

/// How the passes over the base model read its weights; without `score` it only writes.
pub(crate) fn precisions(config: &Config, score: bool) -> PassPrecisions {
    let (decode, learner) = (config.engine.weights, &config.learner);
    let score = score.then(|| learner.base_precision());
    PassPrecisions { decode, score, matmul: learner.matmul() }
}

/// [`precisions`] of a process whose passes are all the learner's.
pub(crate) fn learning_precisions(config: &Config) -> PassPrecisions {
    PassPrecisions { decode: config.learner.base_precision(), ..precisions(config, true) }
}

/// Whether the critic that `config` describes can be trained and served on `device`.
///
/// # Errors
/// If the device is not the CPU and all weights are to be trained, or the KV cache is to be of another precision than there.
pub fn check_device(config: &Config, device: DeviceLocation) -> Result<(), Error> {
    if device != DeviceLocation::Cpu {
        transformer::device::check_kv(config.engine.kv, device)?;
    }
    if config.learner.mode == Mode::Full && device != DeviceLocation::Cpu {
        return Err(transformer::Error::CpuOnly { device: transformer::device::name_of(device) }.into());
    }
    Ok(())
}
