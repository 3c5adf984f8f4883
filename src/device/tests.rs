//! Promises of the device to those who stream, over the tiny model.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::engine::sampler::SamplingConfig;
use crate::engine::{EngineConfig, Request};
use crate::kernels::{KvPrecision, Precision};
use crate::transformer::load::load;
use crate::types::EngineLoad;
use std::path::Path;
use std::sync::Mutex;

/// Engine steps so far, and installations.
#[derive(Clone, Default)]
struct Seen {
    steps: Arc<Mutex<Vec<EngineLoad>>>,
    installed: Arc<Mutex<Vec<Duration>>>,
}

impl Seen {
    fn steps(&self) -> usize {
        self.steps.lock().unwrap().len()
    }

    fn observer(&self) -> Observer {
        let Self { steps, installed } = self.clone();
        Box::new(move |event| match event {
            Event::Engine { load, .. } => steps.lock().unwrap().push(load),
            Event::Installed { duration } => installed.lock().unwrap().push(duration),
            Event::Learner { .. } | Event::Command { .. } => {}
        })
    }
}

async fn device() -> (Device, Seen) {
    let loaded = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny_llama")).unwrap();
    let seen = Seen::default();
    let engine = EngineConfig {
        step_tokens_max: 64,
        sequences_max: 8,
        context_tokens_max: 1000,
        kv_cache_mib: 4,
        versions_max: 2,
        weights: Precision::F32,
        kv: KvPrecision::Auto,
    };
    let setup = Setup {
        model: loaded.transformer,
        tokenizer: loaded.tokenizer,
        engine,
        judge: None,
        learner: None,
        version: CriticVersion::BASE,
        served: None,
        observer: seen.observer(),
    };
    (Device::start(setup).await.unwrap(), seen)
}

/// Waits until the thread has reported what it did before.
async fn reported(device: &Device) {
    device.set_share(0.5).await.unwrap();
}

fn request(max_tokens: usize) -> Request {
    let sampling = SamplingConfig { temperature: 1.0, ..SamplingConfig::greedy(max_tokens) };
    Request::new((0..40).collect(), 1, sampling, Vec::new(), 1)
}

/// The text, ids and end of a stream's only continuation.
async fn join(mut stream: CompletionStream) -> (String, Vec<u32>, Option<crate::types::FinishReason>) {
    let (mut text, mut ids, mut end) = (String::new(), vec![], None);
    assert!(matches!(stream.next().await, Some(Ok(StreamEvent::Started { .. }))));
    while let Some(event) = stream.next().await {
        let StreamEvent::Tokens { text: grown, tokens, finish, .. } = event.unwrap() else { panic!("it starts twice") };
        text.push_str(&grown);
        ids.extend(tokens.into_iter().map(|token| token.id));
        end = finish;
    }
    (text, ids, end)
}

#[tokio::test]
async fn a_stream_joined_is_what_is_written_without_one() {
    let (device, _) = device().await;
    for seed in 0..8 {
        let mut asked = request(60);
        (asked.seed, asked.sampling.stop) = (seed, vec!["e".into(), "xyz".into()]);
        let whole = device.write(asked.clone()).await.unwrap().remove(0);
        let streamed = join(device.stream(asked).await.unwrap()).await;
        assert_eq!(streamed, (whole.text, whole.ids, Some(whole.finish)));
    }
}

#[tokio::test]
async fn a_stream_that_is_dropped_frees_its_blocks_within_a_step() {
    let (device, seen) = device().await;
    let mut stream = device.stream(request(900)).await.unwrap();
    for _ in 0..3 {
        stream.next().await.unwrap().unwrap();
    }
    drop(stream);
    let before = seen.steps();
    device.write(Request { prompt: vec![7; 5], ..request(1) }).await.unwrap();
    reported(&device).await;
    // At most one step was under way, and one wrote the other request.
    assert!(seen.steps() <= before + 2, "{} steps after the stream was dropped", seen.steps() - before);
    let last = *seen.steps.lock().unwrap().last().unwrap();
    assert_eq!((last.running, last.waiting, last.kv_usage, last.versions_bytes), (0, 0, 0.0, 0));
    assert!(last.kv_bytes > 0, "its blocks were used");
}

#[tokio::test]
async fn a_request_for_no_token_is_answered_by_an_idle_device() {
    let (device, _) = device().await;
    assert_eq!(device.write(request(0)).await.unwrap()[0].ids, Vec::<u32>::new());
    let end = Some(crate::types::FinishReason::Length);
    assert_eq!(join(device.stream(request(0)).await.unwrap()).await, (String::new(), vec![], end));
}

#[tokio::test]
async fn installations_are_timed_and_versions_in_memory_counted() {
    let (device, seen) = device().await;
    let adapter = crate::formats::adapter::Adapter::load(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny_lora"),
        device.model.spec(),
    );
    let critic = CriticWeights::from(adapter.unwrap());
    device.install(CriticVersion(1), Some(critic.clone()), MadeBy::Learner).await.unwrap();
    device.load(CriticVersion(2), Some(critic)).await.unwrap();
    device.write(request(1)).await.unwrap();
    reported(&device).await;
    assert_eq!(seen.installed.lock().unwrap().len(), 2);
    assert_eq!(seen.steps.lock().unwrap().last().unwrap().versions_alive, 2);
    device.unload(CriticVersion(2)).await.unwrap();
    device.write(request(1)).await.unwrap();
    reported(&device).await;
    assert_eq!(seen.steps.lock().unwrap().last().unwrap().versions_alive, 1);
}
