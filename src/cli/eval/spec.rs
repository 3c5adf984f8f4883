//! The specification of an evaluation: prompts, critics and sizes, from the config and the command line.

use super::arguments::EvalArguments;
use crate::cli::critic_source::CriticSource;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::config::{Config, RoleSection, closest};
use crate::episode::eval_runner::{Candidate, CritiqueSource};
use crate::episode::sampling::PolicyRef;
use crate::eval::bootstrap::Resampling;
use crate::eval::{EvalConfig, figures};
use crate::formats::source::Source;
use crate::formats::spec::ModelSpec;
use crate::kernels::{KvPrecision, Precision};
use crate::remote::RemoteConfig;
use crate::roles::critic::CriticConfig;
use crate::roles::generator::GeneratorConfig;
use crate::roles::judge::JudgeConfig;
use crate::roles::refiner::RefinerConfig;
use crate::types::{CriticVersion, Prompt};
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;

/// An evaluation as specified by the config and the arguments.
pub(super) struct EvalSpec {
    /// Where the prompts come from.
    pub(super) data: String,
    /// Sha256 of all prompts, including those beyond the limit.
    data_digest: String,
    pub(super) prompts: Vec<Prompt>,
    /// N, M and fixed texts.
    pub(super) config: EvalConfig,
    pub(super) rounds: usize,
    pub(super) seed: u64,
    pub(super) in_both_orders: bool,
    /// Each critic and its name.
    critics: Vec<(String, NamedCritic)>,
}

#[derive(Clone)]
enum NamedCritic {
    Base,
    Empty,
    SelfCritique,
    Oracle,
    Adapter(CriticSource),
}

impl EvalSpec {
    pub(super) fn new(config: &Config, arguments: &EvalArguments) -> Result<Self, CommandError> {
        let data = arguments.data.clone().or_else(|| Some(config.held_out()).filter(|file| !file.is_empty()));
        let why = format!("expected --data or eval.file: {:?} has no held-out twin", config.prompts.file);
        let data = data.ok_or_else(|| anyhow::anyhow!(why)).or_exit(Exit::Usage)?;
        let key = if arguments.data.is_some() { "--data" } else { "eval.file" };
        let mut prompts = config.prompts.load(key, &data).or_exit(Exit::Usage)?;
        let data_digest = digest(&prompts);
        prompts.truncate(arguments.limit.unwrap_or(prompts.len()));
        let sizes = EvalConfig {
            critiques: arguments.n.unwrap_or(config.eval.critiques),
            refinements: arguments.m.unwrap_or(config.eval.refinements),
            ..config.eval.clone()
        };
        Ok(Self {
            critics: critics(&arguments.critics, &prompts)?,
            data,
            data_digest,
            prompts,
            config: sizes,
            rounds: arguments.rounds,
            seed: arguments.seed,
            in_both_orders: config.judge.role.uses_model(),
        })
    }

    /// The critics to look at: those that were trained, the newest first; without one, the first.
    pub(super) fn of_interest(&self) -> Vec<&str> {
        let trained = self.critics.iter().rev().filter(|(_, which)| matches!(which, NamedCritic::Adapter(_)));
        let trained: Vec<&str> = trained.map(|(name, _)| name.as_str()).collect();
        if trained.is_empty() { self.critics.iter().take(1).map(|(name, _)| name.as_str()).collect() } else { trained }
    }

    /// What the figures depend on besides the records.
    pub(super) fn figures(&self) -> figures::FigureOptions {
        figures::FigureOptions {
            critiques: self.config.critiques,
            rounds: self.rounds,
            in_both_orders: self.in_both_orders,
            how: Resampling { seed: self.seed, ..Resampling::default() },
        }
    }

    /// Everything the records depend on; an evaluation is resumed only if its manifest is the same. The number of prompts
    /// is not part of it, so an evaluation can be resumed with more of them.
    ///
    /// # Errors
    /// If the model at `model` or a critic cannot be read.
    pub(super) fn manifest(&self, config: &Config, model: &Path) -> Result<Map<String, Value>, CommandError> {
        let source = Source::parse(&config.model.source).or_exit(Exit::Usage)?;
        let critic = |(name, which): &(String, NamedCritic)| -> Result<Value, CommandError> {
            let of = match which {
                NamedCritic::Base => "base".to_owned(),
                NamedCritic::Empty => "empty".to_owned(),
                NamedCritic::SelfCritique => "self".to_owned(),
                NamedCritic::Oracle => "oracle".to_owned(),
                NamedCritic::Adapter(critic) => critic.digest()?,
            };
            Ok(json!({"name": name, "of": of}))
        };
        let critics = self.critics.iter().map(critic).collect::<Result<Vec<_>, _>>()?;
        let fields = [
            ("format", json!(1)),
            ("data", json!(self.data)),
            ("prompts", json!(self.data_digest)),
            ("model", json!(source.digest(model).or_exit(Exit::Model)?)),
            ("critics", json!(critics)),
            ("critiques", json!(self.config.critiques)),
            ("refinements", json!(self.config.refinements)),
            ("rounds", json!(self.rounds)),
            ("seed", json!(self.seed)),
            ("config", json!(digest(&RecordConfig::of(config)))),
        ];
        Ok(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// The critics to evaluate. Their adapters must fit `spec`.
    pub(super) fn candidates(&self, config: &Config, spec: &ModelSpec) -> Result<Vec<Candidate>, CommandError> {
        let candidate = |(index, (name, which)): (usize, &(String, NamedCritic))| {
            let source = match which {
                NamedCritic::Base => CritiqueSource::Critic(PolicyRef::Base),
                NamedCritic::Empty => CritiqueSource::Empty,
                NamedCritic::SelfCritique => CritiqueSource::SelfCritique,
                NamedCritic::Oracle => CritiqueSource::Oracle,
                // Each adapter has its own version; 0 is the base.
                NamedCritic::Adapter(critic) => {
                    if let Some(other) = critic.trained_on()?.filter(|source| *source != config.model.source) {
                        tracing::warn!(critic = name, trained_on = other, "runs on another model.source here");
                    }
                    CritiqueSource::Critic(PolicyRef::Critic(CriticVersion(1 + index as u64), critic.load(spec)?))
                }
            };
            Ok(Candidate { name: name.clone(), source })
        };
        self.critics.iter().enumerate().map(candidate).collect()
    }
}

/// The parts of the config that the records depend on.
#[derive(Serialize)]
struct RecordConfig<'a> {
    generator: &'a RoleSection<GeneratorConfig>,
    critic: &'a RoleSection<CriticConfig>,
    refiner: &'a RoleSection<RefinerConfig>,
    judge: &'a RoleSection<JudgeConfig>,
    /// URL and model of the servers that generate and judge, if any.
    remote: [Option<[&'a str; 2]>; 2],
    weights: Precision,
    /// None while the weights decide, as in records of before it could be chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    kv: Option<KvPrecision>,
    context_tokens_max: usize,
    texts: [&'a str; 3],
}

impl<'a> RecordConfig<'a> {
    fn of(config: &'a Config) -> Self {
        let server = |remote: &'a RemoteConfig| [remote.base_url.as_str(), remote.model.as_str()];
        let EvalConfig { empty_critique, self_prompt, oracle_critique, .. } = &config.eval;
        Self {
            generator: &config.generator,
            critic: &config.critic,
            refiner: &config.refiner,
            judge: &config.judge,
            remote: [config.remote_generator().map(server), config.remote_judge().map(server)],
            weights: config.engine.weights,
            kv: Some(config.engine.kv).filter(|kv| *kv != KvPrecision::Auto),
            context_tokens_max: config.engine.context_tokens_max,
            texts: [empty_critique, self_prompt, oracle_critique],
        }
    }
}

/// Sha256 of `value` as JSON, in hexadecimal.
fn digest(value: &impl Serialize) -> String {
    let text = serde_json::to_vec(value).expect("configs and prompts are plain data");
    const_hex::encode(Sha256::digest(text))
}

/// The critics that `arguments` name; by default those that need no adapter.
fn critics(arguments: &[String], prompts: &[Prompt]) -> Result<Vec<(String, NamedCritic)>, CommandError> {
    let known = prompts.iter().any(|prompt| prompt.answer.is_some());
    let usual: Vec<String> =
        ["base", "empty", "self"].into_iter().chain(known.then_some("oracle")).map(Into::into).collect();
    let arguments = if arguments.is_empty() { &usual } else { arguments };
    let critics = arguments.iter().map(|argument| critic(argument)).collect::<Result<Vec<_>, _>>()?;
    let mut names = BTreeSet::new();
    if let Some((twice, _)) = critics.iter().find(|(name, _)| !names.insert(name)) {
        let why = format!("--critic {twice}: expected a name of its own, got one twice; write NAME={twice}");
        return Err(anyhow::anyhow!(why)).or_exit(Exit::Usage);
    }
    Ok(critics)
}

fn critic(argument: &str) -> Result<(String, NamedCritic), CommandError> {
    let (name, which) = match argument.split_once('=').filter(|_| !std::path::Path::new(argument).exists()) {
        Some((name, which)) => (name, which),
        None => (argument, argument),
    };
    let found = match which {
        "base" => NamedCritic::Base,
        "empty" => NamedCritic::Empty,
        "self" => NamedCritic::SelfCritique,
        "oracle" => NamedCritic::Oracle,
        folder => match CriticSource::find(folder)? {
            CriticSource::Peft(path) if !path.exists() => return Err(unknown(argument, folder)).or_exit(Exit::Usage),
            found => NamedCritic::Adapter(found),
        },
    };
    Ok((name.to_owned(), found))
}

/// The complaint about a critic that is neither a known name nor a folder.
fn unknown(argument: &str, which: &str) -> anyhow::Error {
    let meant = closest(which, KNOWN).map(|known| format!(", did you mean {known}?")).unwrap_or_default();
    let known = KNOWN.join(", ");
    let expected = "or an adapter's, a checkpoint's or a run's folder, RUN@STEP or RUN@best";
    anyhow::anyhow!("--critic {argument}: expected {known}, {expected}; {which:?} is none of them{meant}")
}

/// The critics that have names of their own.
const KNOWN: [&str; 4] = ["base", "empty", "self", "oracle"];
