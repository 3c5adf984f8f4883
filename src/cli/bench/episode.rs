//! `rco-node bench episode`: whole episodes, with a learner step on each group.
//!
//! Episode ([`run_episode`]), prompts and learning are those of a node; actors, checkpoints and time sharing are left out.
//! Every text is as long as its limit, so that all runs do the same work.

use super::figures::{BenchResult, Figures, median};
use super::harness::{Bench, Common, Run};
use super::participants::{EngineParticipants, InFlight, JudgeChoice};
use super::prompts;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::parse::at_least_one;
use crate::engine::Engine;
use crate::engine::StepCost;
use crate::episode::trace::EpisodeTrace;
use crate::episode::tree::{EpisodeError, EpisodeSpec, run_episode};
use crate::learner::Learner;
use crate::node::memory_plan::MemoryPlan;
use crate::run::events::EventBus;
use crate::transformer::decode::Decoder;
use crate::types::{CriticVersion, CritiqueGroup, EpisodeId};
use clap::Args;
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinSet;

/// The arguments of `bench episode`.
#[derive(Debug, Args)]
pub(super) struct EpisodeArguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// N: critiques of a response [default: the config's].
    #[arg(long, value_parser = at_least_one)]
    n: Option<usize>,
    /// M: refinements of a critique [default: the config's].
    #[arg(long, value_parser = at_least_one)]
    m: Option<usize>,
    /// Tokens of every text; a judge's verdict is as long as the config says.
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    max_tokens: usize,
    /// Episodes of a run.
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    episodes: usize,
    /// Sequences that decode at once [default: the config's].
    #[arg(long, value_parser = at_least_one)]
    sequences: Option<usize>,
    /// Who compares: the model in both orders, or a rule by which the longer text wins.
    #[arg(long, value_enum, default_value_t = JudgeChoice::Rule)]
    judge: JudgeChoice,
    /// Only write the episodes, without learning.
    #[arg(long)]
    no_learn: bool,
}

/// The workload, as it appears in the result.
#[derive(Serialize)]
struct Workload {
    n: usize,
    m: usize,
    max_tokens: usize,
    episodes: usize,
    judge: JudgeChoice,
    learns: bool,
}

/// The main figures.
#[derive(Clone, Copy, Serialize)]
struct Summary {
    /// Generated tokens over the total time, learning included.
    tokens_per_second: f64,
    seconds_per_episode: f64,
    writing_seconds_per_episode: f64,
    learning_seconds_per_episode: f64,
    learned_tokens: usize,
    /// Prompt tokens of all requests, each counted once per completion: the work if nothing were shared.
    asked_prompt_tokens: u64,
}

/// Runs the bench.
pub(super) fn run(bench: &Bench, arguments: &EpisodeArguments) -> Result<Exit, CommandError> {
    let common = &arguments.common;
    let bench = &bench.with_episode_sizes(arguments);
    let workload = Workload {
        n: bench.config.rollout.critiques,
        m: bench.config.rollout.refinements,
        max_tokens: arguments.max_tokens,
        episodes: arguments.episodes,
        judge: arguments.judge,
        learns: !arguments.no_learn,
    };
    let cost = StepCost::new(&bench.model.transformer, bench.config.engine.kv, Some(&bench.config.learner.lora));
    let (spec, weights) = (bench.model.transformer.spec(), bench.model.transformer.bytes());
    let plan = match arguments.no_learn {
        true => bench.plan(&bench.config.engine),
        false => MemoryPlan::of_both(spec, weights, &bench.config, &bench.model.transformer.device()),
    };
    let mut runs = Vec::with_capacity(common.runs);
    for run in 1..=common.runs {
        tracing::info!(run, runs = common.runs, episodes = workload.episodes, "begins");
        runs.push(one(bench, arguments)?);
    }
    let rates: Vec<f64> = runs.iter().map(|(summary, _)| summary.tokens_per_second).collect();
    let middle = median(&rates);
    let (summary, run) = &runs[middle];
    let writing = summary.writing_seconds_per_episode * workload.episodes as f64;
    let figures = Figures::new(bench, run, writing, &cost, &plan);
    let (summary, model) = (*summary, bench.config.model.source.clone());
    let head = head(&workload, &summary);
    BenchResult { bench: "episode", model, workload, summary, runs: rates, figures }.print(common.json, head);
    Ok(Exit::Done)
}

fn head(workload: &Workload, summary: &Summary) -> Vec<(&'static str, String)> {
    let Summary { tokens_per_second, seconds_per_episode, .. } = summary;
    vec![
        ("episode", format!("{seconds_per_episode:.2} s, {tokens_per_second:.1} tokens/s")),
        ("writing", format!("{:.2} s an episode", summary.writing_seconds_per_episode)),
        (
            "learning",
            format!("{:.2} s an episode, {} tokens", summary.learning_seconds_per_episode, summary.learned_tokens),
        ),
        (
            "workload",
            format!(
                "{} episodes of N = {}, M = {}, {} tokens a text; {} prompt tokens unshared",
                workload.episodes, workload.n, workload.m, workload.max_tokens, summary.asked_prompt_tokens
            ),
        ),
    ]
}

impl Bench {
    /// The bench with the sizes of `arguments` in its config.
    fn with_episode_sizes(&self, arguments: &EpisodeArguments) -> Self {
        let mut config = self.config.clone();
        config.rollout.critiques = arguments.n.unwrap_or(config.rollout.critiques);
        config.rollout.refinements = arguments.m.unwrap_or(config.rollout.refinements);
        let engine = &mut config.engine;
        engine.sequences_max = arguments.sequences.unwrap_or(engine.sequences_max);
        engine.step_tokens_max = engine.step_tokens_max.max(engine.sequences_max);
        for sampling in [&mut config.generator.sampling, &mut config.critic.sampling, &mut config.refiner.sampling] {
            sampling.max_tokens = arguments.max_tokens;
            sampling.stop.clear();
        }
        Self { config, model: self.model.clone(), machine: self.machine }
    }
}

/// The learner of a run and the version of the critic that it published.
struct Learning<'a> {
    bench: &'a Bench,
    learner: Learner,
    version: CriticVersion,
    seconds: f64,
    tokens: usize,
}

impl<'a> Learning<'a> {
    /// A fresh learner whose critic is served.
    fn start(bench: &'a Bench, seed: u64, engine: &mut Engine<Decoder>) -> Result<Self, CommandError> {
        let (model, config) = (bench.model.transformer.clone(), &bench.config);
        let learner = Learner::new(model, config.learner.clone(), config.critic.sampling.temperature, seed)?;
        let learning = Self { bench, learner, version: CriticVersion(1), seconds: 0.0, tokens: 0 };
        learning.publish(engine)?;
        Ok(learning)
    }

    fn publish(&self, engine: &mut Engine<Decoder>) -> Result<(), CommandError> {
        let packed = self.bench.model.transformer.pack(&self.learner.critic())?;
        engine.install(self.version, Some(Arc::new(packed)));
        Ok(())
    }

    /// One learner step on `group`, and a publication if one is due.
    fn learn(&mut self, group: CritiqueGroup, engine: &mut Engine<Decoder>) -> Result<(), CommandError> {
        let started = Instant::now();
        let batch = self.learner.step() + 1;
        self.tokens += self.learner.step_on(batch, vec![Arc::new(group)])?.tokens;
        if self.learner.step().is_multiple_of(self.bench.config.learner.publish_every_steps) {
            self.version.0 += 1;
            self.publish(engine)?;
        }
        self.seconds += started.elapsed().as_secs_f64();
        Ok(())
    }
}

/// One run: all episodes on a fresh engine and a fresh learner.
fn one(bench: &Bench, arguments: &EpisodeArguments) -> Result<(Summary, Run), CommandError> {
    let (config, seed) = (&bench.config, arguments.common.seed);
    let prompts = prompts::load(config, &arguments.common).or_exit(Exit::Usage)?;
    let participants = EngineParticipants::new(bench, &arguments.common, arguments.judge).or_exit(Exit::Usage)?;
    let mut engine = bench.engine(&config.engine)?;
    let mut learning = Learning::start(bench, seed, &mut engine)?;
    let specs = prompts.into_iter().cycle().take(arguments.episodes).enumerate().map(|(index, prompt)| EpisodeSpec {
        episode: EpisodeId(index as u64),
        prompt: Arc::new(prompt),
        critiques: config.rollout.critiques,
        refinements: config.rollout.refinements,
        critique_preferences: false,
        seed,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let started = Instant::now();
    let learner = (!arguments.no_learn).then_some(&mut learning);
    let distinct = runtime.block_on(write(Arc::new(participants), specs.collect(), &mut engine, learner))?;
    let seconds = started.elapsed().as_secs_f64();
    let (counters, episodes) = (engine.counters(), arguments.episodes as f64);
    let summary = Summary {
        tokens_per_second: counters.sampled_tokens as f64 / seconds,
        seconds_per_episode: seconds / episodes,
        writing_seconds_per_episode: (seconds - learning.seconds) / episodes,
        learning_seconds_per_episode: learning.seconds / episodes,
        learned_tokens: learning.tokens,
        asked_prompt_tokens: counters.prompt_tokens,
    };
    Ok((summary, Run { seconds, counters, distinct }))
}

/// Runs all episodes on `engine`, one step at a time, and learns from each group before the next engine step. Returns the
/// least number of tokens that had to be computed.
async fn write(
    participants: Arc<EngineParticipants>,
    specs: Vec<EpisodeSpec>,
    engine: &mut Engine<Decoder>,
    mut learning: Option<&mut Learning<'_>>,
) -> Result<u64, CommandError> {
    let mut episodes = JoinSet::new();
    for spec in specs {
        episodes.spawn(run_episode(participants.clone(), spec, EventBus::silent(), EpisodeTrace::none()));
    }
    let mut in_flight = InFlight::default();
    participants.settle().await;
    while !episodes.is_empty() {
        in_flight.submit(engine, &participants).or_exit(Exit::Usage)?;
        if !engine.is_idle() {
            engine.step()?;
            in_flight.deliver(engine)?;
        }
        // Episodes process their completions, so that a finished group is learned before the next engine step.
        participants.settle().await;
        while let Some(ended) = episodes.try_join_next() {
            let group = ended.map_err(anyhow::Error::from)?.map_err(|error| match error {
                EpisodeError::Failed(error) => error,
                EpisodeError::Dropped(reason) => anyhow::anyhow!("an episode was dropped: {reason:?}"),
            });
            let group = group.or_exit(Exit::Usage)?;
            if let Some(learning) = &mut learning {
                learning.learn(group, engine)?;
            }
        }
    }
    Ok(in_flight.distinct_tokens())
}
