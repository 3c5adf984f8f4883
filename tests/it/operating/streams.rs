//! Clients stream while the node trains, publishes and is swapped under them: nobody fails, nobody gets a text of two critics,
//! nothing is left behind, and the learner goes on.
//!
//! A short form runs with the tests; `scripts/stream-test` runs the long one.

use crate::http::server::{Server, events};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Answers of each version that are asked for again.
const REPLAYED: usize = 4;
/// How long a swap waits for another, and the end for more versions.
const PATIENCE: Duration = Duration::from_secs(60);
/// The largest share of the learner's steps that streams may cost.
const STEPS_LOST_MAX: f64 = 0.5;

/// A number of the environment, or what the short form takes.
fn setting(name: &str, short: u64) -> u64 {
    std::env::var(name).map_or(short, |value| value.parse().unwrap_or_else(|_| panic!("{name}: expected a number")))
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    number: u64,
    version: u64,
    text: String,
}

/// The body of request `number`; half of them stream.
fn request(number: u64, model: &str) -> Value {
    let prompt = format!("say {}", number % 7);
    json!({"model": model, "prompt": prompt, "max_tokens": 12, "seed": number, "stream": number.is_multiple_of(2)})
}

/// Asks once. Every choice of a stream must be of the version that its head names.
async fn ask(server: &Server, number: u64, model: &str) -> Result<Answer, String> {
    let body = request(number, model);
    let response = server.post("/v1/completions", &body).send().await.map_err(|error| error.to_string())?;
    let status = response.status();
    let version = response.headers().get("x-critic-version").and_then(|version| version.to_str().ok()?.parse().ok());
    let text = response.text().await.map_err(|error| error.to_string())?;
    let (StatusCode::OK, Some(version)) = (status, version) else { return Err(format!("{status}: {text}")) };
    let chunks = match body["stream"] == true {
        true => events(&text),
        false => vec![serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?],
    };
    let stamp = format!("critic@{version}");
    let is_of_version = |chunk: &Value| {
        let stamped = chunk["system_fingerprint"].as_str().unwrap_or_default();
        stamped == stamp || stamped.starts_with(&format!("{stamp}/"))
    };
    if !chunks.iter().all(is_of_version) {
        return Err(format!("expected chunks of {stamp}, got {text}"));
    }
    if !chunks.iter().any(|chunk| chunk["choices"][0]["finish_reason"].is_string()) {
        return Err(format!("it does not end: {text}"));
    }
    let text = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    Ok(Answer { number, version, text })
}

/// What clients share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// The versions that have answered.
    versions: Mutex<BTreeSet<u64>>,
}

/// Asks again and again until they are told to stop; what was answered, and what failed.
async fn client(server: Arc<Server>, first: u64, step: u64, shared: Arc<Shared>) -> (Vec<Answer>, Vec<String>) {
    let (mut answers, mut failures, mut number) = (Vec::new(), Vec::new(), first);
    while !shared.stop.load(Ordering::Relaxed) {
        match ask(&server, number, "critic").await {
            Ok(answer) => {
                shared.versions.lock().unwrap().insert(answer.version);
                answers.push(answer);
            }
            Err(failure) => failures.push(failure),
        }
        number += step;
    }
    (answers, failures)
}

/// Puts versions into service in turn, `swaps` times in `time`; the seconds that each took.
async fn swap(server: &Server, token: &str, versions: &[u64], swaps: u64, time: Duration) -> Vec<f64> {
    let (started, mut seconds) = (Instant::now(), Vec::new());
    for turn in 0..swaps {
        let due = started + time.mul_f64(turn as f64 / swaps as f64);
        tokio::time::sleep_until(due.into()).await;
        let asked = Instant::now();
        let body = json!({"version": versions[turn as usize % versions.len()], "canary": false, "share": 0.0});
        // While a publication is installed, or an offer is tried, another waits.
        loop {
            let response = server.post("/admin/swap", &body).bearer_auth(token).send().await.unwrap();
            match response.status() {
                StatusCode::OK => break,
                StatusCode::CONFLICT if asked.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(5)).await
                }
                status => panic!("{status}: {}", response.text().await.unwrap()),
            }
        }
        seconds.push(asked.elapsed().as_secs_f64());
    }
    tokio::time::sleep_until((started + time).into()).await;
    seconds
}

/// Learner steps so far, and when.
async fn steps(server: &Server) -> (f64, Instant) {
    (server.metric("rco_learner_steps_total").await, Instant::now())
}

/// Learner steps per second since `before`.
async fn steps_per_second(server: &Server, (before, since): (f64, Instant)) -> f64 {
    (steps(server).await.0 - before) / since.elapsed().as_secs_f64()
}

/// The upper end of the bucket that holds `share` of what a histogram counted.
async fn quantile(server: &Server, name: &str, share: f64) -> f64 {
    let text = server.get("/metrics").send().await.unwrap().text().await.unwrap();
    let buckets: Vec<(f64, f64)> = text
        .lines()
        .filter_map(|line| {
            let (bound, count) = line.strip_prefix(&format!("{name}_bucket{{le=\""))?.split_once("\"} ")?;
            Some((bound.parse().unwrap_or(f64::INFINITY), count.parse().ok()?))
        })
        .collect();
    let all = buckets.last().unwrap_or_else(|| panic!("no {name}")).1;
    buckets.iter().find(|(_, count)| *count >= share * all).unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_go_on_while_the_node_trains_publishes_and_is_swapped() {
    let (streams, seconds, swaps) =
        (setting("RCO_STREAMS", 8), setting("RCO_STREAM_SECONDS", 12), setting("RCO_STREAM_SWAPS", 60));
    let time = Duration::from_secs(seconds);
    let more = format!(
        "judge.kind='verifier'\nlearner.learning_rate=1e-3\nlearner.publish_every_steps=2\nswap.versions_kept=100000\n\
         swap.rollback_groups=0\nswap.canary_kl_max=1000.0\nhttp.requests_max={}\nreplay.uses_max=4\n\
         checkpoint.keep=2\n{}",
        2 * streams,
        std::env::var("RCO_STREAM_SETS").unwrap_or_default()
    );
    let server = Arc::new(Server::start(&more, &["start"], &[]).await);
    let token = std::fs::read_to_string(server.folder.path().join("run/http-token")).unwrap();
    // The learner's first two publications.
    let versions = [1, 2];
    let started = Instant::now();
    let serving = async || -> Value { server.get("/admin/status").send().await.unwrap().json().await.unwrap() };
    while serving().await["versions"]["serving"].as_u64() < Some(2) {
        assert!(started.elapsed() < Duration::from_secs(60) + time, "the learner publishes");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let before = steps(&server).await;
    tokio::time::sleep(time / 3).await;
    let alone = steps_per_second(&server, before).await;

    let (shared, before) = (Arc::new(Shared::default()), steps(&server).await);
    let clients = (0..streams).map(|first| tokio::spawn(client(server.clone(), first, streams, shared.clone())));
    let clients: Vec<_> = clients.collect();
    let swapped = swap(&server, &token, &versions, swaps, time).await;
    // On a busy machine the learner publishes seldom.
    let started = Instant::now();
    while shared.versions.lock().unwrap().len() <= 3 && started.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let beside = steps_per_second(&server, before).await;
    shared.stop.store(true, Ordering::Relaxed);
    let (mut answers, mut failures) = (Vec::new(), Vec::new());
    for client in clients {
        let (answered, failed) = client.await.unwrap();
        answers.extend(answered);
        failures.extend(failed);
    }
    let mut by_version: BTreeMap<u64, Vec<Answer>> = BTreeMap::new();
    answers.iter().for_each(|answer| by_version.entry(answer.version).or_default().push(answer.clone()));
    let pause = quantile(&server, "rco_engine_install_seconds", 0.99).await;
    let canary = quantile(&server, "rco_node_publication_canary_seconds", 0.5).await;
    eprintln!(
        "{streams} streams, {seconds} s: {} answers of {} versions, {} failed; {} swaps, the slowest {:.3} s; pauses at most \
         {pause} s (99 %), a publication's canary {canary} s (median); learner steps/s {alone:.2} alone, {beside:.2} beside",
        answers.len(),
        by_version.len(),
        failures.len(),
        swapped.len(),
        swapped.iter().copied().fold(0.0, f64::max)
    );
    assert!(failures.is_empty(), "{} failed, the first: {}", failures.len(), failures[0]);
    assert!(answers.len() as u64 > streams && by_version.len() > 3, "{} answers", answers.len());
    // The short form counts too few steps to compare.
    let least = if seconds < 60 { 0.0 } else { STEPS_LOST_MAX * alone };
    assert!(beside > least, "learner steps/s: {alone} alone, {beside} beside");
    assert_eq!(swapped.len() as u64, swaps);

    // One version alone, with the same seed, writes the same.
    let paused = server.post("/admin/pause", &json!({"what": "all"})).bearer_auth(&token).send().await.unwrap();
    assert_eq!(paused.status(), StatusCode::OK);
    for (version, of_version) in by_version {
        for answer in of_version.into_iter().take(REPLAYED) {
            let replayed = ask(&server, answer.number, &format!("critic@{version}")).await;
            assert_eq!(replayed, Ok(answer), "version {version}");
        }
    }
    // Nothing is left behind.
    let started = Instant::now();
    loop {
        ask(&server, 1, "critic").await.unwrap();
        let held = server.metric("rco_engine_kv_cache_usage_ratio").await;
        if held == 0.0 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "a block leaked: {held} of the cache is held");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(server.metric("rco_engine_versions_alive").await <= 5.0, "in service, and engine.versions_max beside it");
    assert_eq!(server.metric("rco_node_restarts_total{actor=\"device\"}").await, 0.0);
}
