//! `rco-node bench episode`: whole trees as the node grows them, with the learner's step on each group.
//!
//! Prompts, requests and the groups' learning are the node's own; what is left out is what runs beside
//! them: actors, checkpoints, the sharing of time. Texts go on to their limit, so that every run does the
//! same work.

use super::figures::{Figures, Result as Whole, median};
use super::machine::Cost;
use super::tree::{Grown, Judging, Trees};
use super::{Bench, Common, Run, at_least_one, prompts};
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::memory_plan::MemoryPlan;
use crate::learner::Learner;
use crate::types::{CriticVersion, CritiqueGroup};
use clap::Args;
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// What `bench episode` takes.
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
    #[arg(long, value_enum, default_value_t = Judging::Rule)]
    judge: Judging,
    /// Only grow the trees.
    #[arg(long)]
    no_learn: bool,
}

/// What was asked, in the result.
#[derive(Serialize)]
struct Asked {
    n: usize,
    m: usize,
    max_tokens: usize,
    episodes: usize,
    judge: Judging,
    learns: bool,
}

/// What it comes to.
#[derive(Clone, Copy, Serialize)]
struct Headline {
    /// Generated tokens over the whole time, learning included.
    tokens_per_second: f64,
    seconds_per_episode: f64,
    writing_seconds_per_episode: f64,
    learning_seconds_per_episode: f64,
    learned_tokens: usize,
    /// Prompt tokens as they were asked, each times its continuations: what is computed if nothing is shared.
    asked_prompt_tokens: u64,
}

/// Runs the bench.
pub(super) fn run(bed: &Bench, arguments: &EpisodeArguments) -> Result<Exit, CommandError> {
    let common = &arguments.common;
    let bed = &bed.of_episodes(arguments);
    let asked = Asked {
        n: bed.config.rollout.critiques,
        m: bed.config.rollout.refinements,
        max_tokens: arguments.max_tokens,
        episodes: arguments.episodes,
        judge: arguments.judge,
        learns: !arguments.no_learn,
    };
    let cost = Cost::new(&bed.model.transformer, Some(&bed.config.learner.lora));
    let (spec, weights) = (bed.model.transformer.spec(), bed.model.transformer.bytes());
    let plan = match arguments.no_learn {
        true => bed.plan(&bed.config.engine),
        false => MemoryPlan::new(spec, weights, &bed.config, &bed.model.transformer.device()),
    };
    let mut runs = Vec::with_capacity(common.runs);
    for run in 1..=common.runs {
        tracing::info!(run, runs = common.runs, episodes = asked.episodes, "begins");
        runs.push(one(bed, arguments)?);
    }
    let rates: Vec<f64> = runs.iter().map(|(headline, _)| headline.tokens_per_second).collect();
    let middle = median(&rates);
    let (headline, run) = &runs[middle];
    let writing = headline.writing_seconds_per_episode * asked.episodes as f64;
    let figures = Figures::new(bed, run, writing, &cost, &plan);
    let (headline, model) = (*headline, bed.config.model.source.clone());
    let head = head(&asked, &headline);
    Whole { bench: "episode", model, asked, headline, runs: rates, figures }.say(common.json, head);
    Ok(Exit::Done)
}

fn head(asked: &Asked, headline: &Headline) -> Vec<(&'static str, String)> {
    let Headline { tokens_per_second, seconds_per_episode, .. } = headline;
    vec![
        ("episode", format!("{seconds_per_episode:.2} s, {tokens_per_second:.1} tokens/s")),
        ("writing", format!("{:.2} s an episode", headline.writing_seconds_per_episode)),
        (
            "learning",
            format!("{:.2} s an episode, {} tokens", headline.learning_seconds_per_episode, headline.learned_tokens),
        ),
        (
            "asked",
            format!(
                "{} episodes of N = {}, M = {}, {} tokens a text; {} prompt tokens unshared",
                asked.episodes, asked.n, asked.m, asked.max_tokens, headline.asked_prompt_tokens
            ),
        ),
    ]
}

impl Bench {
    /// The bed with an episode's sizes in its config.
    fn of_episodes(&self, arguments: &EpisodeArguments) -> Self {
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

/// One run: all episodes on a fresh engine and a fresh learner.
fn one(bed: &Bench, arguments: &EpisodeArguments) -> Result<(Headline, Run), CommandError> {
    let (config, model) = (&bed.config, &bed.model);
    let prompts = prompts::load(config, &arguments.common).or_exit(Exit::Usage)?;
    let prompts: Vec<_> = prompts.into_iter().cycle().take(arguments.episodes).collect();
    let temperature = config.critic.sampling.temperature;
    let mut learner =
        Learner::new(model.transformer.clone(), config.learner.clone(), temperature, arguments.common.seed)?;
    let mut engine = bed.engine(&config.engine)?;
    let mut version = CriticVersion(1);
    let publish =
        |learner: &Learner| -> Result<_, CommandError> { Ok(Arc::new(model.transformer.pack(&learner.critic())?)) };
    engine.install(version, Some(publish(&learner)?));

    let begun = Instant::now();
    let (mut learning, mut learned_tokens) = (0.0, 0);
    let mut trees = Trees::new(bed, &arguments.common, arguments.judge).or_exit(Exit::Usage)?;
    trees.begin(&mut engine, prompts).or_exit(Exit::Usage)?;
    while !engine.is_idle() {
        engine.step()?;
        let groups = trees.grow(&mut engine).or_exit(Exit::Usage)?;
        let begun = Instant::now();
        for group in groups.into_iter().filter(|_| !arguments.no_learn) {
            learned_tokens += learn(&mut learner, group)?;
            if learner.step().is_multiple_of(config.learner.publish_every_steps) {
                version.0 += 1;
                engine.install(version, Some(publish(&learner)?));
            }
        }
        learning += begun.elapsed().as_secs_f64();
    }
    let seconds = begun.elapsed().as_secs_f64();
    let Grown { distinct } = trees.end();
    let (counters, episodes) = (engine.counters(), arguments.episodes as f64);
    let headline = Headline {
        tokens_per_second: counters.sampled_tokens as f64 / seconds,
        seconds_per_episode: seconds / episodes,
        writing_seconds_per_episode: (seconds - learning) / episodes,
        learning_seconds_per_episode: learning / episodes,
        learned_tokens,
        asked_prompt_tokens: counters.prompt_tokens,
    };
    Ok((headline, Run { seconds, counters, distinct }))
}

/// One learner step on one group; the tokens it learned from.
fn learn(learner: &mut Learner, group: CritiqueGroup) -> Result<usize, CommandError> {
    let batch = learner.step() + 1;
    Ok(learner.step_on(batch, vec![Arc::new(group)])?.tokens)
}
