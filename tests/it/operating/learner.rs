//! Swaps and the learner: what it goes on from, its publications, critics of all weights, the watched folder.

use crate::support::models::golden;
use crate::support::node::{Running, config, likes_even, saved, start, until};
use rco_node::actors::control::Part;
use rco_node::actors::swap::{Checks, Offer};
use rco_node::checkpoint::read_offer;
use rco_node::device::CriticWeights;
use rco_node::run::critics::{CriticState, Critics, Origin};
use rco_node::run::events::{Event, SwapKind};
use rco_node::types::{CriticVersion, ModelId, SwapReason};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const UNCHECKED: Checks = Checks { canary: false, share: 0.0 };
const CALM: &str = "swap.canary_texts=0\nswap.canary_kl_max=100.0\nswap.rollback_groups=0\n";

async fn node(folder: &Path, resume: bool, more: &str) -> Running {
    start(config(folder, &format!("{CALM}{more}")), resume, None, Arc::new(likes_even)).await
}

fn offered() -> CriticWeights {
    let spec = rco_node::formats::open(&golden("tiny_llama")).unwrap().spec;
    let base = ModelId { name: golden("tiny_llama").display().to_string(), sha256: String::new() };
    read_offer(&golden("tiny_lora"), &spec, &base).unwrap()
}

fn factors(critic: &CriticWeights) -> Vec<f32> {
    critic.adapter().unwrap().factors.values().flat_map(|factors| [&factors.a[..], &factors.b[..]].concat()).collect()
}

/// Swaps the golden adapter in while the learner is paused: the learner's factors before it, its factors and moments after it.
async fn swapped(running: &Running) -> [Vec<f32>; 3] {
    let control = running.node.control();
    running.log.until("a step", |events| events.iter().any(|event| matches!(event, Event::Learned { .. }))).await;
    control.set_paused(Part::Learner, true, "ada");
    // The step under way ends.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = control.device().unwrap().snapshot().await.unwrap();
    control.swap(Offer::Folder(golden("tiny_lora")), UNCHECKED, "ada").await.unwrap();
    let state = control.device().unwrap().snapshot().await.unwrap();
    let moments = state.optimizer.iter().filter(|(name, _)| name.starts_with("layers."));
    let moments = moments.flat_map(|(_, moment)| moment.data.clone()).collect();
    [factors(&before.critic), factors(&state.critic), moments]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_follows_goes_on_from_what_was_swapped_in_also_after_a_resume() {
    let folder = tempfile::tempdir().unwrap();
    let more = "learner.publish_every_steps=1000000\nswap.learner=\"follow\"";
    let running = node(folder.path(), false, more).await;
    let [_, followed, moments] = swapped(&running).await;
    assert_eq!(followed, factors(&offered()));
    assert!(!moments.is_empty() && moments.iter().all(|moment| *moment == 0.0), "Adam's moments begin again");
    // A process that dies now goes on from there.
    let on_disk = saved(folder.path());
    assert_eq!((factors(&on_disk.critic), on_disk.version), (followed, CriticVersion(1)));
    running.node.control().set_paused(Part::Learner, false, "ada");
    let steps = running.node.progress().step;
    running.log.until("another step", |_| running.node.progress().step > steps).await;
    let state = running.node.control().device().unwrap().snapshot().await.unwrap();
    assert_ne!(factors(&state.critic), factors(&offered()), "it learns from there");
    running.node.stop();
    running.done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_keeps_goes_on_from_its_own_weights() {
    let folder = tempfile::tempdir().unwrap();
    let running = node(folder.path(), false, "learner.publish_every_steps=1000000\nswap.learner=\"keep\"").await;
    let [before, kept, moments] = swapped(&running).await;
    assert_eq!(kept, before, "what serves shares nothing with what is trained");
    assert_ne!(kept, factors(&offered()));
    assert!(moments.iter().any(|moment| *moment != 0.0));
    running.node.stop();
    running.done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_pass_what_operators_offers_pass_if_the_config_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    // Every publication is far from the base.
    let more = "learner.publish_every_steps=1\nswap.canary_publications=true\nswap.canary_kl_max=1e-12\n\
                learner.learning_rate=1e-2";
    let running = node(folder.path(), false, more).await;
    let control = running.node.control();
    let is_rejected = |critics: &Critics| critics.entries().any(|entry| entry.state == CriticState::Rejected);
    until(&control, "a rejection", is_rejected).await;
    assert_eq!(control.critics().serving(), CriticVersion::BASE);
    running.node.stop();
    let (_, log) = running.done().await;
    let by_canary = |event: &Event| matches!(event, Event::CriticRejected { reason: SwapReason::Canary, .. });
    assert!(log.count(by_canary) > 0);

    let folder = tempfile::tempdir().unwrap();
    let more = "learner.publish_every_steps=1\nswap.canary_publications=true\nswap.canary_share=0.5\n\
                swap.canary_groups=2\nswap.canary_confidence=0.999";
    let running = node(folder.path(), false, more).await;
    let control = running.node.control();
    until(&control, "a publication in service", |critics| critics.serving() > CriticVersion::BASE).await;
    let critics = control.critics();
    let entry = critics.entry(critics.serving()).unwrap();
    assert!(matches!(entry.origin, Origin::Learner { .. }), "{entry:?}");
    let states: Vec<_> = entry.changes.iter().map(|change| change.state).collect();
    assert!(states.contains(&CriticState::Canary), "it was tried on a share of the episodes: {states:?}");
    running.node.stop();
    running.done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn critics_of_all_weights_swap_too() {
    let folder = tempfile::tempdir().unwrap();
    // Only the CPU trains all weights.
    let more = "model.device=\"cpu\"\nlearner.mode=\"full\"\nlearner.publish_every_steps=1\nengine.weights=\"f32\"\nswap.versions_kept=64";
    let running = node(folder.path(), false, more).await;
    let control = running.node.control();
    until(&control, "two publications", |critics| critics.serving() >= CriticVersion(2)).await;
    control.pin(Some(CriticVersion(1)), "ada").await.unwrap();
    assert_eq!(control.critics().serving(), CriticVersion(1));
    // The same weights, from a folder: another version with the same digest.
    let path = folder.path().join("run/critics/v00000001");
    control.pin(None, "ada").await.unwrap();
    control.set_paused(Part::Learner, true, "ada");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let offered = control.swap(Offer::Folder(path), UNCHECKED, "ada").await.unwrap();
    let critics = control.critics();
    let digest = |version| critics.entry(version).unwrap().digest.clone();
    assert_eq!((critics.serving(), digest(offered.version)), (offered.version, digest(CriticVersion(1))));
    let weights = |version| control.weights(version).unwrap().unwrap();
    let (one, two) = (weights(CriticVersion(1)), weights(offered.version));
    assert!(one.full().is_some() && one.full() == two.full());
    // An adapter is no critic of all weights, but it swaps as well.
    let adapter = control.swap(Offer::Folder(golden("tiny_lora")), UNCHECKED, "ada").await.unwrap();
    assert_eq!(control.critics().serving(), adapter.version);
    control.set_paused(Part::Learner, false, "ada");
    let there = running.log.count(|event| matches!(event, Event::EpisodeEnded { .. }));
    let more = |events: &[Event]| events.iter().filter(|e| matches!(e, Event::EpisodeEnded { .. })).count() > there + 4;
    running.log.until("episodes", more).await;
    running.node.stop();
    let (progress, _) = running.done().await;
    assert_eq!(progress.restarts, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_appears_whole_in_the_watched_folder_is_put_into_service_and_the_rest_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let watched = folder.path().join("watched");
    fs::create_dir_all(watched.join("there_before")).unwrap();
    let copy = |name: &str, files: &[&str]| {
        fs::create_dir_all(watched.join(name)).unwrap();
        files
            .iter()
            .for_each(|file| _ = fs::copy(golden("tiny_lora").join(file), watched.join(name).join(file)).unwrap());
    };
    let (config_file, weights) = ("adapter_config.json", "adapter_model.safetensors");
    copy("there_before", &[config_file, weights]);
    let more = format!("learner.publish_every_steps=1000000\nswap.watch='{}'", watched.display());
    let running = node(folder.path(), false, &more).await;
    let control = running.node.control();
    tokio::time::sleep(Duration::from_secs(3)).await;
    fs::write(watched.join("a_file"), "x").unwrap();
    copy("no_weights", &[config_file]);
    copy("growing", &[config_file]);
    let whole = fs::read(golden("tiny_lora").join(weights)).unwrap();
    // As a slow copy: it grows for longer than the watch looks.
    for part in 1..=5 {
        fs::write(watched.join("growing").join(weights), &whole[..whole.len() * part / 5]).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    until(&control, "the swap", |critics| critics.serving() == CriticVersion(1)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    running.node.stop();
    let (_, log) = running.done().await;
    let by_watch =
        |event: &Event| matches!(event, Event::CriticEntered { kind: SwapKind::Swap, reason: SwapReason::Watch, .. });
    assert_eq!(log.count(by_watch), 1);
    let refused = log.count(|event| matches!(event, Event::CriticRefused { .. }));
    assert_eq!(
        (control.critics().entries().count(), refused),
        (2, 0),
        "nothing else was offered: {:?}",
        control.critics()
    );
}
