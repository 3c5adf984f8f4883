//! What an evaluation was asked: prompts, critics and sizes, out of the config and the command line.

use super::EvalArguments;
use crate::actors::exam::{Candidate, Kind};
use crate::actors::scribe::Hand;
use crate::cli::critic::Critic;
use crate::cli::{Exit, Failure, OrExit};
use crate::config::Config;
use crate::episode::{CriticVersion, Prompt};
use crate::eval::bootstrap::Resampling;
use crate::eval::{EvalConfig, figures, held_out_twin};
use crate::model::spec::ModelSpec;
use crate::prompts;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What was asked.
pub(super) struct Asked {
    /// Where the prompts come from.
    pub(super) data: String,
    pub(super) prompts: Vec<Prompt>,
    /// N, M and fixed texts.
    pub(super) config: EvalConfig,
    pub(super) rounds: usize,
    pub(super) seed: u64,
    pub(super) in_both_orders: bool,
    /// Name, and which.
    critics: Vec<(String, Which)>,
}

#[derive(Clone)]
enum Which {
    Base,
    Empty,
    Itself,
    Oracle,
    Adapter(Critic),
}

impl Asked {
    pub(super) fn new(config: &Config, arguments: &EvalArguments) -> Result<Self, Failure> {
        let twin = || held_out_twin(&config.prompts.file);
        let named = Some(config.eval.file.clone()).filter(|file| !file.trim().is_empty());
        let data = arguments.data.clone().or(named).or_else(twin);
        let why = format!("expected --data or eval.file: {:?} has no held-out twin", config.prompts.file);
        let data = data.ok_or_else(|| anyhow::anyhow!(why)).or_exit(Exit::Usage)?;
        let mut prompts = prompts::load(&data).or_exit(Exit::Usage)?;
        prompts.truncate(arguments.limit.unwrap_or(prompts.len()));
        let sizes = EvalConfig {
            critiques: arguments.n.unwrap_or(config.eval.critiques),
            refinements: arguments.m.unwrap_or(config.eval.refinements),
            ..config.eval.clone()
        };
        Ok(Self {
            critics: critics(&arguments.critics, &prompts)?,
            data,
            prompts,
            config: sizes,
            rounds: arguments.rounds,
            seed: arguments.seed,
            in_both_orders: config.judge.role.asks(),
        })
    }

    /// What the figures follow from beside the records.
    pub(super) fn figures(&self) -> figures::Asked {
        figures::Asked {
            critiques: self.config.critiques,
            rounds: self.rounds,
            in_both_orders: self.in_both_orders,
            how: Resampling { seed: self.seed, ..Resampling::default() },
        }
    }

    /// The critics, with adapters that fit `spec`.
    pub(super) fn candidates(&self, spec: &ModelSpec) -> Result<Vec<Candidate>, Failure> {
        let candidate = |(index, (name, which)): (usize, &(String, Which))| {
            let kind = match which {
                Which::Base => Kind::Critic(Hand::Base),
                Which::Empty => Kind::Empty,
                Which::Itself => Kind::Itself,
                Which::Oracle => Kind::Oracle,
                // A version of its own for each, 0 being the base.
                Which::Adapter(critic) => {
                    Kind::Critic(Hand::Critic(CriticVersion(1 + index as u64), Arc::new(critic.load(spec)?)))
                }
            };
            Ok(Candidate { name: name.clone(), kind })
        };
        self.critics.iter().enumerate().map(candidate).collect()
    }
}

/// The critics that `arguments` name, or those that serve everywhere.
fn critics(arguments: &[String], prompts: &[Prompt]) -> Result<Vec<(String, Which)>, Failure> {
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

fn critic(argument: &str) -> Result<(String, Which), Failure> {
    let (name, which) = match argument.split_once('=').filter(|_| !std::path::Path::new(argument).exists()) {
        Some((name, which)) => (name, which),
        None => (argument, argument),
    };
    let found = match which {
        "base" => Which::Base,
        "empty" => Which::Empty,
        "self" => Which::Itself,
        "oracle" => Which::Oracle,
        folder => Which::Adapter(Critic::find(folder)?),
    };
    Ok((name.to_owned(), found))
}
