//! Trains a critic for a reward of your own: a node whose judge is a Rust function.
//!
//! `cargo run --release --example custom_judge -- STEPS` trains for so many learner steps and leaves the critic in
//! `runs/custom-judge`. This judge prefers the shorter text, so the critic learns to make the generator brief.
#![allow(clippy::print_stdout)]

use rco_node::config::Config;
use rco_node::episode::judge::Pair;
use rco_node::node::{Exit, Node, Options};
use rco_node::types::Verdict;
use std::cmp::Ordering;
use std::sync::Arc;

/// A refinement wins if it is shorter than the response that it refines. An empty one loses.
fn prefers_shorter(pair: Pair<'_>) -> Verdict {
    let [response, refinement] = [pair.response, pair.refinement].map(|completion| completion.text.trim().len());
    match refinement.cmp(&response) {
        _ if refinement == 0 => Verdict::Loss,
        Ordering::Less => Verdict::Win,
        Ordering::Equal => Verdict::Tie,
        Ordering::Greater => Verdict::Loss,
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let steps = std::env::args().nth(1).unwrap_or_else(|| "20".to_owned()).parse()?;
    let config = Config::resolve(None, &["node.run_directory=runs/custom-judge".to_owned()])?;
    let options = Options { learner_steps: Some(steps), judge: Some(Arc::new(prefers_shorter)), ..Options::default() };
    let node = Node::start(config, options).await?;
    let exit = node.wait().await;
    anyhow::ensure!(exit == Exit::Done, "the node ended with {exit:?}");
    println!("{:?}", node.progress());
    Ok(())
}
