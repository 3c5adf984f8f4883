//! It learns: through the real actors and the real device thread, under a judge with a simple taste.

use crate::support::node::{config, likes_even, start};
use rco_node::run::events::Event;
use rco_node::types::CriticVersion;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Mean utility of the last 20 groups.
fn recent(events: &[Event]) -> Option<f32> {
    let scored: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::CritiqueScored { utility, .. } => Some(*utility),
            _ => None,
        })
        .rev()
        .take(80)
        .collect();
    (scored.len() == 80).then(|| scored.iter().sum::<f32>() / 80.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn critique_utility_rises_to_nine_tenths_within_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let more = "learner.learning_rate=1e-2\nlearner.beta=0.05\nlearner.groups_per_step=4\nreplay.age_versions_max=4";
    let started = Instant::now();
    let running = start(config(folder.path(), more), false, None, Arc::new(likes_even)).await;
    running.log.until("the first 20 groups", |events| recent(events).is_some()).await;
    let first = recent(&running.log.events.lock().unwrap()).unwrap();
    assert!(first < 0.75, "there is something to learn: {first}");
    running.log.until("a mean utility of 0.9", |events| recent(events).is_some_and(|mean| mean >= 0.9)).await;
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    running.node.stop();
    let (progress, log) = running.done().await;
    assert!(progress.version > CriticVersion::BASE);
    let ages = |event: &Event| matches!(event, Event::Learned { ages_versions, .. } if ages_versions.iter().any(|age| *age > 4));
    assert_eq!(log.count(ages), 0, "nothing older than the limit is learned from");
}
