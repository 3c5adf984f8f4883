//! Writes a text with the engine, without a node: model, tokenizer, chat template, one request.
//!
//! `cargo run --release --example generate -- SOURCE "PROMPT"`, where `SOURCE` is what `model.source` takes: a folder, a
//! .gguf file, `hf:owner/name` or `pip:...`.
#![allow(clippy::print_stdout)]

use rco_node::config::Config;
use rco_node::engine::{Engine, Request, sampler::SamplingConfig};
use rco_node::formats::source::Source;
use rco_node::transformer::{decode::Decoder, load::load};
use rco_node::types::{ChatRole, Turn};

/// Blocks of 32 tokens in the KV cache: room for one context of 1,024 tokens.
const KV_BLOCKS: usize = 32;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, prompt] = &arguments[..] else { anyhow::bail!("usage: generate SOURCE PROMPT") };
    let model = load(&Source::parse(source)?.fetch()?)?;

    let turns = [Turn::new(ChatRole::User, prompt.as_str())];
    let text = model.template.render(&turns, true)?;
    let sampling = SamplingConfig { temperature: 0.7, ..SamplingConfig::greedy(128) };
    let stop_ids = model.tokenizer.stop_ids().to_vec();
    // By the base; `Engine::install` puts a critic beside it, and `Policy::Serving` asks for that.
    let request = Request::new(model.tokenizer.encode(&text)?, 1, sampling, stop_ids, 0);

    let decoder = Decoder::new(model.transformer.clone(), KV_BLOCKS)?;
    let limits = Config::resolve(None, &[])?.engine;
    let mut engine = Engine::new(decoder, model.tokenizer.clone(), limits);
    engine.submit(request)?;
    while !engine.is_idle() {
        engine.step()?;
    }
    for (_, completions) in engine.take_finished() {
        for completion in completions {
            println!("{}", completion.text);
        }
    }
    Ok(())
}
