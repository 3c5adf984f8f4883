//! The critic that a command-line argument names: the folder of a PEFT adapter, a checkpoint, or a run.
//!
//! `RUN` is its newest whole checkpoint, `RUN@STEP` the one of that step, `RUN@best` the best one.

use crate::checkpoint::{self, CheckpointEntry};
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::disk;
use crate::formats::source;
use crate::formats::spec::ModelSpec;
use crate::transformer::full_weights::CriticWeights;
use anyhow::Context;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where a critic's weights are.
#[derive(Clone, Debug)]
pub(super) enum CriticSource {
    /// A PEFT adapter's folder.
    Peft(PathBuf),
    /// A whole checkpoint.
    Checkpoint(CheckpointEntry),
}

impl CriticSource {
    /// The critic that `argument` names. A folder that is neither a run nor a checkpoint is treated as an adapter.
    ///
    /// # Errors
    /// If it names a checkpoint of a run that does not exist or is not whole.
    pub(super) fn find(argument: &str) -> Result<Self, CommandError> {
        let whole = Path::new(argument);
        // A folder may have an @ in its name.
        if (argument.contains('@') && !whole.exists()) || whole.join("checkpoints").is_dir() {
            return Ok(Self::Checkpoint(checkpoint_of_run(argument, None)?));
        }
        if let Some(listed) = CheckpointEntry::parse(whole.to_owned()).filter(|listed| listed.manifest().is_file()) {
            listed.verify().or_exit(Exit::Checkpoint)?;
            return Ok(Self::Checkpoint(listed));
        }
        Ok(Self::Peft(whole.to_owned()))
    }

    /// As [`CriticSource::find`], of one that `flag` names and that must be there: it is looked for before a model is loaded.
    ///
    /// # Errors
    /// As [`CriticSource::find`]; if there is no such folder.
    pub(super) fn find_existing(flag: &str, argument: &str) -> Result<Self, CommandError> {
        match Self::find(argument)? {
            Self::Peft(folder) if !folder.is_dir() => {
                let expected = "an adapter's, a checkpoint's or a run's folder, RUN@STEP or RUN@best";
                Err(anyhow::anyhow!("{flag}: expected {expected}, got {argument:?}, which is not there"))
                    .or_exit(Exit::Usage)
            }
            found => Ok(found),
        }
    }

    /// Loads its weights.
    ///
    /// # Errors
    /// If it cannot be read or does not fit `spec`.
    pub(super) fn load(&self, spec: &ModelSpec) -> Result<CriticWeights, CommandError> {
        match self {
            Self::Peft(folder) => CriticWeights::load(folder, spec).or_exit(Exit::Usage),
            Self::Checkpoint(listed) => Ok(checkpoint::load(&listed.path, spec).or_exit(Exit::Checkpoint)?.critic),
        }
    }

    /// Its sha256: of the adapter's files, or of the checkpoint's manifest, which contains every file's digest.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn digest(&self) -> Result<String, CommandError> {
        let path = match self {
            Self::Peft(folder) => folder.clone(),
            Self::Checkpoint(listed) => listed.manifest(),
        };
        source::digest(&path).or_exit(Exit::Usage)
    }

    /// The source of its base model, if it is recorded.
    ///
    /// # Errors
    /// If a checkpoint's config cannot be read.
    pub(super) fn trained_on(&self) -> Result<Option<String>, CommandError> {
        match self {
            Self::Peft(_) => Ok(None),
            Self::Checkpoint(listed) => trained_on(listed).map(Some).or_exit(Exit::Checkpoint),
        }
    }
}

/// The checkpoint of a run that `argument` names: for RUN the one of `step` or else the newest whole one; for RUN@STEP
/// and RUN@best that one.
pub(super) fn checkpoint_of_run(argument: &str, step: Option<u64>) -> Result<CheckpointEntry, CommandError> {
    let (run, which) = match argument.rsplit_once('@').filter(|_| !Path::new(argument).exists()) {
        Some((run, which)) => (Path::new(run), Some(which)),
        None => (Path::new(argument), None),
    };
    let root = run.join("checkpoints");
    if !run.is_dir() {
        let why = format!("{argument}: expected RUN, RUN@STEP or RUN@best, got no directory {}", run.display());
        return Err(anyhow::anyhow!(why)).or_exit(Exit::Usage);
    }
    let listed = checkpoint::list(&root).or_exit(Exit::Checkpoint)?;
    let all: Vec<u64> = listed.iter().map(|listed| listed.step).collect();
    if which == Some("best") {
        if let Some(step) = step {
            let why = format!("--step {step}: expected none beside {argument}, which names the best one");
            return Err(anyhow::anyhow!(why)).or_exit(Exit::Usage);
        }
        let best = checkpoint::best(&root).or_exit(Exit::Checkpoint)?;
        let named = best.and_then(|best| listed.into_iter().find(|listed| listed.path == root.join(&best.folder)));
        let why = || format!("{argument}: expected a run with a best checkpoint (checkpoint.keep_best), got none");
        let listed = named.with_context(why).or_exit(Exit::Checkpoint)?;
        listed.verify().or_exit(Exit::Checkpoint)?;
        return Ok(listed);
    }
    let named = which.map(|which| which.parse::<u64>()).transpose().map_err(|_| {
        anyhow::anyhow!("{argument}: expected a learner step or \"best\" after the @; {}", there_are(&all))
    });
    let named = named.or_exit(Exit::Usage)?;
    if let (Some(named), Some(step)) = (named, step.filter(|step| named.is_some_and(|named| named != *step))) {
        let why = format!("--step {step}: expected none beside {argument}, which names step {named}");
        return Err(anyhow::anyhow!(why)).or_exit(Exit::Usage);
    }
    let step = named.or(step);
    let mut broken = None;
    for listed in listed.into_iter().filter(|listed| step.is_none_or(|step| listed.step == step)) {
        match listed.verify() {
            Ok(()) => return Ok(listed),
            Err(error) => broken = Some(error),
        }
    }
    let which = step.map_or("no checkpoint".to_owned(), |step| format!("no checkpoint of step {step}"));
    let why = broken.map_or_else(|| there_are(&all), |error| error.to_string());
    Err(anyhow::anyhow!("{}: expected a whole checkpoint, got {which}: {why}", root.display()))
        .or_exit(Exit::Checkpoint)
}

/// Which steps there are, in ascending order.
fn there_are(all: &[u64]) -> String {
    let steps: BTreeSet<u64> = all.iter().copied().collect();
    let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
    match steps.as_slice() {
        [] => "none is there".to_owned(),
        [step] => format!("there is that of step {step}"),
        steps => format!("there are those of steps {}", steps.join(", ")),
    }
}

/// The base model of the checkpoint's run.
fn trained_on(listed: &CheckpointEntry) -> anyhow::Result<String> {
    let path = listed.path.join(checkpoint::CONFIG);
    let text = disk::read_text(&path, checkpoint::CONFIG_BYTES_MAX).with_context(|| path.display().to_string())?;
    let table: toml::Table = text.parse().with_context(|| path.display().to_string())?;
    let source = table.get("model").and_then(|model| model.get("source")).and_then(toml::Value::as_str);
    source.map(str::to_owned).with_context(|| format!("{}: expected model.source", path.display()))
}
