//! `rco-node check --data`: checks a prompt file before a run uses it.
//!
//! Reports counts, token lengths, repeated prompts, prompts that are also held out, and every line that cannot be used.
//! It trains nothing and judges nothing.

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::model::fetch_model;
use crate::cli::output::print_line;
use crate::config::Config;
use crate::formats::{self, OpenedModel};
use crate::node::too_long::Ruler;
use crate::prompts::{self, Rows, TooLong, lint::lint};
use crate::roles::judge::JudgeKind;
use crate::types::{Prompt, verifier::Verifier};
use crate::verify;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// The result, one JSON object with `--json`.
#[derive(Debug, Serialize)]
struct DataReport {
    file: String,
    /// Lines that can be used.
    prompts: usize,
    tasks: BTreeMap<String, usize>,
    verifiers: BTreeMap<&'static str, usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Lengths>,
    /// Lines that repeat the prompt of an earlier line.
    repeated: Overlap,
    /// Lines whose prompt is in the held-out set.
    held_out: Overlap,
    #[serde(rename = "faults")]
    errors: Vec<LineError>,
}

/// Lengths of the prompts in tokens, by nearest rank.
#[derive(Debug, Serialize)]
struct Lengths {
    min: usize,
    median: usize,
    p95: usize,
    max: usize,
    /// Lines whose prompt leaves no room in the context for an answer of `generator.sampling.max_tokens`.
    too_long: Vec<usize>,
    /// What happens to those (`prompts.too_long`).
    too_long_are: TooLong,
}

/// Lines equal to other prompts: exactly, or after normalisation (case, white space and punctuation ignored).
#[derive(Debug, Default, Serialize)]
struct Overlap {
    exact: Vec<usize>,
    normalised: Vec<usize>,
}

#[derive(Debug, Serialize)]
struct LineError {
    line: usize,
    #[serde(rename = "fault")]
    error: String,
}

/// What `check --data` was asked.
pub(super) struct DataCheck<'a> {
    pub(super) config: &'a Config,
    /// The prompt file.
    pub(super) file: &'a Path,
    /// Prompts that must not be in it; `None` is every held-out file that comes with the node.
    pub(super) held_out: Option<&'a str>,
    /// Counts no tokens, so that no model is needed.
    pub(super) offline: bool,
    /// Prints one JSON object.
    pub(super) json: bool,
}

/// Checks the file. A line that cannot be used is a usage error.
pub(super) fn run(check: &DataCheck<'_>) -> Result<Exit, CommandError> {
    let DataCheck { config, file, .. } = check;
    let name = file.display().to_string();
    let rows = config.prompts.rows("--data", &name).or_exit(Exit::Usage)?;
    let held_out = held_out(config, check.held_out).or_exit(Exit::Usage)?;
    let opened = if check.offline { None } else { Some(open(config)?) };
    let report = report(config, name, rows, &held_out, opened.as_ref())?;
    match check.json {
        true => print_line(&serde_json::to_string(&report)?),
        false => report.print(),
    }
    if report.prompts == 0 {
        return Err(anyhow::anyhow!("{}: expected at least one prompt, got none", report.file)).or_exit(Exit::Usage);
    }
    match report.unused() {
        None => Ok(Exit::Done),
        Some(why) => Err(anyhow::anyhow!(why)).or_exit(Exit::Usage),
    }
}

fn open(config: &Config) -> Result<OpenedModel, CommandError> {
    let path = fetch_model(config)?;
    formats::open(&path).or_exit(Exit::Model)
}

/// The prompts of `file`, or of every bundled held-out file.
fn held_out(config: &Config, file: Option<&str>) -> Result<Vec<Prompt>, prompts::Error> {
    match file {
        Some(file) => config.prompts.load("--held-out", file),
        None => Ok(prompts::held_out().map(|name| prompts::load(&name)).collect::<Result<Vec<_>, _>>()?.concat()),
    }
}

fn report(
    config: &Config,
    file: String,
    rows: Rows,
    held_out: &[Prompt],
    opened: Option<&OpenedModel>,
) -> Result<DataReport, CommandError> {
    let by_verifier = config.judge.role.kind == JudgeKind::Verifier;
    let mut lint = lint(rows, config.prompts.columns_of(&file));
    lint.prompts.retain(|(line, prompt)| {
        let checked = by_verifier || prompt.verifier.is_some();
        let complaint = verify::complaint(prompt).filter(|_| checked);
        let fit = complaint.is_none();
        lint.errors.extend(complaint.map(|error| (*line, error)));
        fit
    });
    lint.errors.sort();
    let count = |names: &mut dyn Iterator<Item = String>| {
        names.fold(BTreeMap::new(), |mut counts, name| {
            *counts.entry(name).or_insert(0) += 1;
            counts
        })
    };
    let mut verifiers = BTreeMap::new();
    lint.prompts.iter().for_each(|(_, prompt)| *verifiers.entry(verifier(prompt)).or_insert(0) += 1);
    Ok(DataReport {
        file,
        prompts: lint.prompts.len(),
        tasks: count(&mut lint.prompts.iter().map(|(_, prompt)| prompt.task.clone())),
        verifiers,
        tokens: opened.map(|opened| lengths(config, &lint.prompts, opened)).transpose()?.flatten(),
        repeated: overlap(&lint.prompts, &[], true),
        held_out: overlap(&lint.prompts, held_out, false),
        errors: lint.errors.into_iter().map(|(line, error)| LineError { line, error }).collect(),
    })
}

/// The verifier of a prompt, as prompt files name it.
fn verifier(prompt: &Prompt) -> &'static str {
    match (&prompt.verifier, &prompt.answer) {
        (Some(Verifier::Number {}), _) | (None, Some(_)) => "number",
        (Some(Verifier::Exact { .. }), _) => "exact",
        (Some(Verifier::Text { .. }), _) => "text",
        (Some(Verifier::Choice { .. }), _) => "choice",
        (Some(Verifier::Ifeval { .. }), _) => "ifeval",
        (Some(Verifier::Code { .. }), _) => "code",
        (Some(Verifier::Command { .. }), _) => "command",
        (Some(Verifier::Http { .. }), _) => "http",
        (None, None) => "none",
    }
}

fn lengths(
    config: &Config,
    prompts: &[(usize, Prompt)],
    opened: &OpenedModel,
) -> Result<Option<Lengths>, CommandError> {
    let ruler = Ruler::new(config, &opened.template, &opened.tokenizer).or_exit(Exit::Usage)?;
    let mut lengths = Vec::with_capacity(prompts.len());
    let mut too_long = vec![];
    for (line, prompt) in prompts {
        lengths.push(opened.tokenizer.encode_text(&prompt.text)?.len());
        too_long.extend((!ruler.fits(prompt)?).then_some(*line));
    }
    lengths.sort_unstable();
    let rank = |percent: usize| lengths[(lengths.len() * percent).div_ceil(100).max(1) - 1];
    Ok((!lengths.is_empty()).then(|| Lengths {
        min: rank(0),
        median: rank(50),
        p95: rank(95),
        max: rank(100),
        too_long,
        too_long_are: config.prompts.too_long,
    }))
}

/// Lines of `prompts` that occur among `others` or, with `earlier`, among the lines before them.
fn overlap(prompts: &[(usize, Prompt)], others: &[Prompt], earlier: bool) -> Overlap {
    let mut exact: HashSet<&str> = others.iter().map(|other| other.text.as_str()).collect();
    let mut normalised: HashSet<String> = others.iter().map(|other| plain(&other.text)).collect();
    let mut overlap = Overlap::default();
    for (line, prompt) in prompts {
        let plain = plain(&prompt.text);
        if exact.contains(prompt.text.as_str()) {
            overlap.exact.push(*line);
        } else if normalised.contains(&plain) {
            overlap.normalised.push(*line);
        }
        if earlier {
            exact.insert(&prompt.text);
            normalised.insert(plain);
        }
    }
    overlap
}

/// Lower-case letters, digits and arithmetic operators: `1 + 1` equals `1+1` and differs from `1 - 1`.
fn plain(text: &str) -> String {
    text.to_lowercase().chars().filter(|c| c.is_alphanumeric() || "+-*/=<>%^".contains(*c)).collect()
}

impl DataReport {
    /// What to say of the lines that a run would not use; none if it would use every one.
    fn unused(&self) -> Option<String> {
        let long = self.tokens.iter().filter(|tokens| tokens.too_long_are != TooLong::TruncateLeft);
        let long: Vec<usize> = long.flat_map(|tokens| tokens.too_long.iter().copied()).collect();
        let unused = self.errors.len() + long.len();
        if unused == 0 {
            return None;
        }
        let first = match (self.errors.first(), long.first()) {
            (Some(LineError { line, error }), _) => format!("line {line}: {error}"),
            (None, line) => format!("line {}: it leaves no room for an answer", line.copied().unwrap_or_default()),
        };
        let (file, all) = (&self.file, self.prompts + self.errors.len());
        Some(format!("{file}: {unused} of {all} lines would not be used, the first: {first}"))
    }

    fn print(&self) {
        let list = |counts: Vec<(&str, usize)>| {
            counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        print_line(&format!("{}: {} prompts, {} unusable lines", self.file, self.prompts, self.errors.len()));
        print_line(&format!(
            "tasks: {}",
            list(self.tasks.iter().map(|(name, count)| (name.as_str(), *count)).collect())
        ));
        print_line(&format!(
            "verifiers: {}",
            list(self.verifiers.iter().map(|(name, count)| (*name, *count)).collect())
        ));
        if let Some(Lengths { min, median, p95, max, too_long, too_long_are }) = &self.tokens {
            let what = match too_long_are {
                TooLong::Drop => "too long and left out",
                TooLong::Refuse => "too long: the run would not start",
                TooLong::TruncateLeft => "too long and cut",
            };
            print_line(&format!(
                "tokens: min {min}, median {median}, p95 {p95}, max {max}{}",
                lines(&format!(", {} {what}", too_long.len()), too_long)
            ));
        }
        for (what, Overlap { exact, normalised }) in [("repeated", &self.repeated), ("held out", &self.held_out)] {
            let counts = format!("{what}: {} exact, {} after normalisation", exact.len(), normalised.len());
            print_line(&format!("{counts}{}", lines("", &[exact.as_slice(), normalised].concat())));
        }
        for LineError { line, error } in &self.errors {
            print_line(&format!("line {line}: {error}"));
        }
    }
}

/// The first ten of `lines` as text; empty if there are none.
fn lines(what: &str, lines: &[usize]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = lines.iter().take(10).map(ToString::to_string).collect();
    let more = if lines.len() > shown.len() { ", ..." } else { "" };
    format!("{what} (lines {}{more})", shown.join(", "))
}
