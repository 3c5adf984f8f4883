//! A real server of the OpenAI kind, llama.cpp's: `tests/servers/llama_cpp.py` starts one on the quickstart's SmolLM2 and
//! says how to run these by hand. What it answers is held against the engine's own texts and log-probabilities.

use crate::support::models::{quickstart, smollm2};
use crate::support::node::{config, judged};
use rco_node::engine::sampler::SamplingConfig;
use rco_node::engine::{Engine, Policy, Request};
use rco_node::remote::{ChatRequest, Client, RemoteConfig};
use rco_node::run::events::Event;
use rco_node::transformer::decode::Decoder;
use rco_node::types::Completion;
use rco_node::types::{ChatRole, Invalid, Turn, Verdict};

const PROMPTS: [&str; 8] = [
    "What is the capital of France?",
    "Calculate 35 + 64. Answer with just the number.",
    "Name three colours of the rainbow.",
    "Write one sentence about the sea.",
    "Which answer is better? Answer A: 99. Answer B: 98. Task: 35 + 64. Reply with one word: A, B or tie.",
    "What do bees make?",
    "Translate 'good morning' into French.",
    "Who wrote Hamlet?",
];

/// The server that the environment names.
fn server() -> RemoteConfig {
    let base_url = std::env::var("RCO_SERVER").expect("RCO_SERVER: expected the base URL of a running server");
    let key = std::env::var("RCO_SERVER_KEY").is_ok();
    let remotes: rco_node::remote::RemotesConfig = quickstart("remote");
    let api_key_env = if key { "RCO_SERVER_KEY" } else { "" }.to_owned();
    RemoteConfig { base_url, model: "smollm2".into(), api_key_env, ..remotes.judge }
}

fn chat(prompt: &str, max_tokens: usize, wants_log_probs: bool) -> ChatRequest {
    ChatRequest {
        turns: vec![Turn::new(ChatRole::User, prompt)],
        max_tokens,
        wants_log_probs,
        ..ChatRequest::default()
    }
}

/// The ids of the conversation that `prompt` opens.
fn ids(prompt: &str) -> Vec<u32> {
    let text = smollm2().template.render(&[Turn::new(ChatRole::User, prompt)], true).unwrap();
    smollm2().tokenizer.encode(&text).unwrap()
}

/// What the engine makes of the same conversation: its greedy text, or the log-probabilities of `candidates`.
fn here(prompt: &str, max_tokens: usize, candidates: Option<Vec<u32>>) -> Completion {
    let model = smollm2();
    let decoder = Decoder::new(model.transformer.clone(), 64).unwrap();
    let mut engine = Engine::new(decoder, model.tokenizer.clone(), quickstart("engine"));
    let ids = ids(prompt);
    match candidates {
        Some(candidates) => engine.score_candidates(Policy::Base, ids, candidates).unwrap(),
        None => {
            let (sampling, stop_ids) = (SamplingConfig::greedy(max_tokens), model.tokenizer.stop_ids().to_vec());
            engine.submit(Request::new(ids, 1, sampling, stop_ids, 0)).unwrap()
        }
    };
    while !engine.is_idle() {
        engine.step().unwrap();
    }
    engine.take_finished().remove(0).1.remove(0)
}

#[tokio::test]
#[ignore = "needs a server: see tests/servers/llama_cpp.py"]
async fn a_real_server_reads_what_the_engine_reads_and_writes_much_the_same() {
    let client = Client::new(&server()).unwrap();
    let mut same = 0;
    for prompt in PROMPTS {
        let answer = client.chat(&chat(prompt, 12, false)).await.unwrap();
        let own = here(prompt, 12, None);
        same += usize::from(answer.text.trim() == own.text.trim());
        eprintln!(
            "{:?}\n  there {:?} ({:?}, {:?})\n  here  {:?}",
            prompt, answer.text, answer.finish, answer.usage, own.text
        );
        assert_eq!(answer.usage.prompt_tokens, ids(prompt).len() as u64, "the same template, the same tokens");
        assert!(answer.usage.completion_tokens > 0);
    }
    eprintln!("{same} of {} texts are the same", PROMPTS.len());
    // Its kernels round activations; where two tokens are nearly as likely, it may take the other one, and a text goes
    // its own way from there.
    assert!(same >= 2, "{same}");
}

#[tokio::test]
#[ignore = "needs a server: see tests/servers/llama_cpp.py"]
async fn a_real_servers_first_tokens_weigh_what_the_engine_gives_them() {
    let client = Client::new(&server()).unwrap();
    let (mut compared, mut farthest) = (0, 0.0f64);
    for prompt in PROMPTS {
        let answer = client.chat(&chat(prompt, 1, true)).await.unwrap();
        assert!(answer.first_tokens.len() >= 10, "{:?}", answer.first_tokens);
        let likely: Vec<_> = answer.first_tokens.iter().filter(|(_, log_prob)| *log_prob > 0.05f64.ln()).collect();
        // A text that is one token by itself is that token here too.
        let known = likely.into_iter().filter_map(|(token, log_prob)| {
            let ids = smollm2().tokenizer.encode(token).unwrap();
            (ids.len() == 1).then_some((ids[0], *log_prob))
        });
        let (candidates, there): (Vec<u32>, Vec<f64>) = known.unzip();
        if candidates.is_empty() {
            continue;
        }
        let own = here(prompt, 1, Some(candidates)).log_probs;
        for (own, there) in own.iter().zip(&there) {
            compared += 1;
            farthest = farthest.max((f64::from(*own) - there).abs());
        }
        eprintln!("{prompt:?}: there {there:.3?}, here {own:.3?}");
    }
    eprintln!("{compared} tokens, at most {farthest:.4} nats apart");
    assert!(compared >= PROMPTS.len() && farthest < 0.5, "{compared} tokens, {farthest} nats");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: see tests/servers/llama_cpp.py"]
async fn a_node_lives_on_a_real_server_as_judge_and_generator() {
    let (folder, server) = (tempfile::tempdir().unwrap(), server());
    let section = |name: &str| {
        format!(
            "remote.{name}.base_url='{}'\nremote.{name}.model='smollm2'\nremote.{name}.api_key_env='{}'\n\
             remote.{name}.concurrency_max=4\n",
            server.base_url, server.api_key_env
        )
    };
    for read in ["text", "logprob", "balanced"] {
        let more = format!(
            "judge.kind='remote'\njudge.read='{read}'\ngenerator.kind='remote'\nrollout.ask_deadline_seconds=120\n{}{}\
             judge.critique_preferences=true\nrollout.critiques=2\nrollout.rollouts_max=2\n\
             refiner.prompt='{{{{ critique }}}} Give the improved answer.'",
            section("judge"),
            section("generator"),
        );
        let running = judged(config(&folder.path().join(read), &more), false, None, None).await;
        let ended =
            |events: &[Event]| events.iter().filter(|event| matches!(event, Event::EpisodeEnded { .. })).count();
        running.log.until("episodes", |events| ended(events) >= 3).await;
        running.node.stop();
        let (progress, log) = running.done().await;
        assert_eq!(progress.restarts, 0);
        let events = log.events.lock().unwrap();
        let verdicts = events.iter().filter_map(|event| match event {
            Event::Judged(verdict) => Some(*verdict),
            _ => None,
        });
        let verdicts: Vec<_> = verdicts.collect();
        let count = |wanted: Verdict| verdicts.iter().filter(|verdict| **verdict == wanted).count();
        eprintln!(
            "judge.read = {read}: {} verdicts, {} won, {} tied, {} lost, {} unreadable, {} unpaired, {} remote",
            verdicts.len(),
            count(Verdict::Win),
            count(Verdict::Tie),
            count(Verdict::Loss),
            count(Verdict::Invalid(Invalid::Unreadable)),
            count(Verdict::Invalid(Invalid::Unpaired)),
            count(Verdict::Invalid(Invalid::Remote)),
        );
        assert!(!verdicts.is_empty() && count(Verdict::Invalid(Invalid::Remote)) == 0, "{verdicts:?}");
    }
}
