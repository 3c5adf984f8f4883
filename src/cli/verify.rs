//! `rco-node verify`: the score of texts by their prompts' verifiers, with what was read and why. Needs no model.

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::output::{print_line, print_note};
use crate::cli::terminal_text::{self, visible};
use crate::config::Config;
use crate::node;
use crate::prompts;
use crate::types::Prompt;
use crate::types::verifier::Verifier;
use crate::verify::{self, Explanation};
use anyhow::{Context, anyhow};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The longest part of what was read that a line shows, in characters.
const SHOWN_CHARS_MAX: usize = 100;

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    /// Prompts with answers or verifiers: a file, or a bundled one [default: prompts.file].
    #[arg(long, value_name = "FILE")]
    prompts: Option<String>,
    /// Texts, one JSON object a line: {"id": the prompt's, "text"}; with an "answer" or "verifier" of its own it needs no prompt, and
    /// "want" is the score that is expected.
    #[arg(long, value_name = "FILE")]
    texts: PathBuf,
    /// Prints JSON, one line for each text.
    #[arg(long)]
    json: bool,
}

/// A line of the texts.
#[derive(Deserialize)]
struct TextLine {
    #[serde(default)]
    id: String,
    text: String,
    #[serde(default)]
    want: Option<f32>,
    #[serde(default)]
    answer: Value,
    #[serde(default)]
    verifier: Option<Verifier>,
    /// A whole prompt; the text of one says nothing about its check.
    #[serde(default)]
    prompt: Value,
}

impl TextLine {
    /// The prompt that the line itself holds.
    fn own_prompt(&self) -> Option<Result<Prompt, serde_json::Error>> {
        if self.prompt.is_object() {
            return Some(serde_json::from_value(self.prompt.clone()));
        }
        let answer = match &self.answer {
            Value::String(answer) => Some(answer.clone()),
            Value::Number(answer) => Some(answer.to_string()),
            _ => None,
        };
        let (has_answer, verifier) = (answer.is_some(), self.verifier.clone());
        let own = || Prompt {
            id: self.id.clone(),
            task: String::new(),
            text: String::new(),
            turns: Vec::new(),
            answer,
            verifier,
        };
        (has_answer || self.verifier.is_some()).then(|| Ok(own()))
    }
}

/// A line of the output.
#[derive(Serialize)]
struct Scored<'a> {
    id: &'a str,
    /// None if there is no score.
    score: Option<f32>,
    expected: Option<&'a str>,
    extracted: Option<&'a str>,
    why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    want: Option<f32>,
}

/// What came of all texts.
#[derive(Default)]
struct Tally {
    scored: usize,
    sum: f32,
    wanted: usize,
    differ: usize,
}

/// Runs the command.
///
/// # Errors
/// If a file cannot be read, a text names no prompt, a prompt cannot be checked or a score is not the one expected.
pub(super) fn run(config: &Config, arguments: &VerifyArguments) -> Result<Exit, CommandError> {
    let texts = read_texts(&arguments.texts).or_exit(Exit::Usage)?;
    let file = arguments.prompts.as_deref().unwrap_or(&config.prompts.file);
    let named = with_prompts(texts, &arguments.texts, file, config).or_exit(Exit::Usage)?;
    let checker = node::checker(config, named.iter().map(|(prompt, _)| prompt))?;
    let mut tally = Tally::default();
    for (prompt, line) in &named {
        let explanation = checker.explain(prompt, &line.text);
        tally.count(&explanation, line.want);
        if arguments.json {
            print_json(line, &explanation);
        } else {
            print_row(line, &explanation);
        }
    }
    print_note(&tally.told(named.len()));
    Ok(if tally.differ > 0 { Exit::Failed } else { Exit::Done })
}

/// Each text with its prompt: its own, or the one of `file` with its id.
fn with_prompts(
    texts: Vec<TextLine>,
    path: &Path,
    file: &str,
    config: &Config,
) -> anyhow::Result<Vec<(Prompt, TextLine)>> {
    let owned: Vec<_> = texts.into_iter().map(|line| (line.own_prompt(), line)).collect();
    let is_owner = |(own, _): &(Option<_>, TextLine)| own.is_some();
    let prompts = if owned.iter().all(is_owner) { Vec::new() } else { config.prompts.load("--prompts", file)? };
    let by_id: HashMap<&str, &Prompt> = prompts.iter().map(|prompt| (prompt.id.as_str(), prompt)).collect();
    let paired = owned.into_iter().enumerate().map(|(index, (own, mut line))| {
        let place = || format!("{}: text {}", path.display(), index + 1);
        let unknown = || format!("{}: expected the id of a prompt of {file}, got {:?}", place(), line.id);
        let prompt = match own {
            Some(own) => own.with_context(|| format!("{}: expected a prompt in \"prompt\"", place()))?,
            None => by_id.get(line.id.as_str()).copied().with_context(unknown)?.clone(),
        };
        if let Some(complaint) = verify::complaint(&prompt) {
            return Err(anyhow!("{}: its prompt cannot be checked: {complaint}", place()));
        }
        if line.id.is_empty() {
            line.id = format!("{}", index + 1);
        }
        Ok((prompt, line))
    });
    paired.collect()
}

fn read_texts(path: &Path) -> anyhow::Result<Vec<TextLine>> {
    let text = prompts::read(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let texts: Vec<TextLine> = lines
        .map(|(index, line)| {
            let expected = || format!("{}, line {}: expected {{\"id\", \"text\"}}", path.display(), index + 1);
            serde_json::from_str(line).with_context(expected)
        })
        .collect::<anyhow::Result<_>>()?;
    if texts.is_empty() { Err(anyhow!("{}: expected at least one text, got none", path.display())) } else { Ok(texts) }
}

impl Tally {
    fn count(&mut self, explanation: &Explanation, want: Option<f32>) {
        self.scored += usize::from(explanation.score().is_some());
        self.sum += explanation.score().unwrap_or_default();
        self.wanted += usize::from(want.is_some());
        self.differ += usize::from(want.is_some_and(|want| explanation.score() != Some(want)));
    }

    fn told(&self, texts: usize) -> String {
        let mean =
            if self.scored == 0 { String::new() } else { format!(", mean score {:.4}", self.sum / self.scored as f32) };
        let unscored = texts - self.scored;
        let wanted = match self.wanted {
            0 => String::new(),
            wanted => format!(", {} of {wanted} as expected", wanted - self.differ),
        };
        format!("{texts} texts{mean}, {unscored} without a score{wanted}")
    }
}

fn print_json(line: &TextLine, explanation: &Explanation) {
    let Explanation { expected, extracted, .. } = explanation;
    let [expected, extracted] = [expected.as_deref(), extracted.as_deref()];
    let scored = Scored {
        id: &line.id,
        score: explanation.score(),
        expected,
        extracted,
        why: explanation.to_string(),
        want: line.want,
    };
    let line = serde_json::to_string(&scored).expect("strings and finite numbers are always JSON");
    print_line(&terminal_text::json(&line));
}

fn print_row(line: &TextLine, explanation: &Explanation) {
    let score = explanation.score().map_or("-".to_owned(), |score| format!("{score:.2}"));
    let differs = line.want.filter(|want| explanation.score() != Some(*want));
    let note = differs.map_or(String::new(), |want| format!("  (expected a score of {want})"));
    let shown = |text: &str| visible(&text.replace(['\n', '\t'], " "));
    let why: String = shown(&explanation.to_string()).chars().take(SHOWN_CHARS_MAX).collect();
    let id = shown(&line.id);
    print_line(&format!("{score:>5}  {id}: {why}{note}"));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_line_that_is_no_text_is_named() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{{\"id\": \"a\", \"text\": \"7\"}}\n\n{{\"id\": \"b\"}}").unwrap();
        let error = read_texts(file.path()).err().unwrap().to_string();
        assert!(error.ends_with("line 3: expected {\"id\", \"text\"}"), "{error}");
    }
}
