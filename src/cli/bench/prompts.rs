//! The prompts of the benches: real prompts as token ids, cut or extended to a given length.

use super::harness::Common;
use crate::config::Config;
use crate::formats::conversation;
use crate::formats::template::ChatTemplate;
use crate::prompts;
use crate::roles::generator::Generator;
use crate::transformer::load::Loaded;
use crate::types::Prompt;
use anyhow::Context;
use serde::Deserialize;

/// A file of prompts as one JSON object.
#[derive(Deserialize)]
struct PromptList {
    prompts: Vec<String>,
}

/// A line of a file of prompts; other keys are ignored.
#[derive(Deserialize)]
struct Line {
    prompt: String,
}

/// The prompts of `--prompts`, or those of the config.
pub(super) fn load(config: &Config, common: &Common) -> anyhow::Result<Vec<Prompt>> {
    let Some(path) = &common.prompts else { return Ok(config.prompts.load("prompts.file", &config.prompts.file)?) };
    let name = path.display().to_string();
    let text = prompts::read(path).with_context(|| name.clone())?;
    let texts = match serde_json::from_str::<PromptList>(&text) {
        Ok(list) => list.prompts,
        Err(_) => lines(&name, &text)?,
    };
    anyhow::ensure!(!texts.is_empty(), "{name}: expected at least one prompt, got none");
    let prompt = |(number, text)| Prompt {
        id: format!("{number}"),
        task: "bench".to_owned(),
        text,
        turns: Vec::new(),
        answer: None,
        verifier: None,
    };
    Ok((1..).zip(texts).map(prompt).collect())
}

fn lines(name: &str, text: &str) -> anyhow::Result<Vec<String>> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let line: Line = serde_json::from_str(line).with_context(|| {
                format!("{name}, line {number}: expected {{\"prompt\"}} a line, or one object of {{\"prompts\"}}")
            })?;
            Ok(line.prompt)
        })
        .collect()
}

/// The chat template.
pub(super) fn template(model: &Loaded, common: &Common) -> ChatTemplate {
    if common.chatml { ChatTemplate::chatml() } else { model.template.clone() }
}

/// Token ids of `count` generator conversations, cycling through the prompts. If `context` is given, each has that many
/// tokens: it is cut, or extended with the prompts that follow.
pub(super) fn ids(
    config: &Config,
    common: &Common,
    model: &Loaded,
    count: usize,
    context: Option<usize>,
) -> anyhow::Result<Vec<Vec<u32>>> {
    let generator = Generator::new(&config.generator.role)?;
    let template = template(model, common);
    let prompts = load(config, common)?;
    let encoded =
        prompts.iter().map(|prompt| conversation::ids(&template, &model.tokenizer, &generator.conversation(prompt)));
    let encoded: Vec<Vec<u32>> = encoded.collect::<crate::formats::Result<_>>()?;
    let from = |first: usize| encoded.iter().cycle().skip(first % encoded.len());
    let one = |index: usize| match context {
        None => from(index).next().cloned().unwrap_or_default(),
        Some(tokens) => from(index).flatten().copied().take(tokens).collect(),
    };
    Ok((0..count).map(one).collect())
}
