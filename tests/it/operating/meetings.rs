//! Where two features meet: a trial and a rollback, a pin and a publication, a swap and what served before it.

use crate::support::models::golden;
use crate::support::node::{Running, config, likes_even, start, until};
use rco_node::actors::control::ControlError;
use rco_node::actors::swap::{Checks, Offer, SwapError};
use rco_node::run::critics::{CriticState, Critics, Origin};
use rco_node::types::CriticVersion;
use std::path::Path;
use std::sync::Arc;

const UNCHECKED: Checks = Checks { canary: false, share: 0.0 };
/// A trial that does not end by itself.
const TRIAL: Checks = Checks { canary: false, share: 0.5 };

async fn node(folder: &Path, more: &str) -> Running {
    let calm = "swap.canary_texts=0\nswap.canary_kl_max=100.0\nswap.rollback_groups=0\nswap.canary_groups=1000000";
    start(config(folder, &format!("{calm}\n{more}")), false, None, Arc::new(likes_even)).await
}

fn adapter() -> Offer {
    Offer::Folder(golden("tiny_lora"))
}

fn version(number: u64) -> Offer {
    Offer::Version(CriticVersion(number))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_ends_when_something_else_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let running = node(folder.path(), "learner.publish_every_steps=1000000").await;
    let control = running.node.control();
    for _ in 0..2 {
        control.swap(adapter(), UNCHECKED, "ada").await.unwrap();
    }
    // The critic in service is no candidate.
    let served = control.swap(version(2), TRIAL, "ada").await.unwrap();
    assert_eq!((served.state, control.on_trial()), (CriticState::Serving, None));
    // A rollback to another, a rollback to the candidate, and a pin of it.
    let state = |number: u64| control.critics().entry(CriticVersion(number)).unwrap().state;
    let tried = control.swap(adapter(), TRIAL, "ada").await.unwrap();
    assert_eq!((tried.state, control.on_trial()), (CriticState::Canary, Some((CriticVersion(3), 0.5))));
    control.rollback(Some(CriticVersion(1)), "bob").await.unwrap();
    assert_eq!((control.on_trial(), state(3), state(1)), (None, CriticState::Rejected, CriticState::Serving));
    control.swap(version(2), TRIAL, "ada").await.unwrap();
    control.rollback(Some(CriticVersion(2)), "bob").await.unwrap();
    assert_eq!((control.on_trial(), state(2)), (None, CriticState::Serving));
    control.swap(adapter(), TRIAL, "ada").await.unwrap();
    control.pin(Some(CriticVersion(4)), "bob").await.unwrap();
    assert_eq!((control.on_trial(), state(4)), (None, CriticState::Serving));
    // What is pinned is in service until it is unpinned.
    let refused = control.swap(adapter(), UNCHECKED, "ada").await.unwrap_err();
    assert!(matches!(refused, ControlError::Swap(SwapError::Pinned(CriticVersion(4)))), "{refused:?}");
    control.pin(None, "bob").await.unwrap();
    let swapped = control.swap(adapter(), UNCHECKED, "ada").await.unwrap();
    assert_eq!(swapped.state, CriticState::Serving);
    running.node.stop();
    running.done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_goes_back_to_what_served_before() {
    let folder = tempfile::tempdir().unwrap();
    let running = node(folder.path(), "learner.publish_every_steps=1000000\nswap.versions_kept=1").await;
    let control = running.node.control();
    for _ in 0..3 {
        control.swap(adapter(), UNCHECKED, "ada").await.unwrap();
    }
    // v2 was registered while v1 served, but what served before it now is v3.
    control.swap(version(2), UNCHECKED, "ada").await.unwrap();
    assert_eq!(control.rollback(None, "ada").await.unwrap().version, CriticVersion(3));
    running.node.stop();
    running.done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_waited_never_replaces_a_newer_one() {
    let folder = tempfile::tempdir().unwrap();
    let running = node(folder.path(), "learner.publish_every_steps=1\nswap.versions_kept=64").await;
    let control = running.node.control();
    let newest = |critics: &Critics| critics.entries().last().unwrap().version.0;
    let published = async |more: u64| {
        let there = newest(&control.critics());
        until(&control, "publications", |critics| newest(critics) >= there + more).await;
    };
    published(2).await;
    control.pin(Some(CriticVersion(1)), "ada").await.unwrap();
    published(2).await;
    // It goes back, which unpins; what waited is forgotten.
    control.rollback(Some(CriticVersion(2)), "ada").await.unwrap();
    published(2).await;
    let mut before = control.critics().serving();
    for _ in 0..20 {
        let refused = control.swap(Offer::Folder("/nowhere".into()), UNCHECKED, "ada").await;
        assert!(refused.is_err());
        let serving = control.critics().serving();
        assert!(serving >= before, "{before:?}, then {serving:?}");
        before = serving;
    }
    let critics = control.critics();
    let served = critics.entry(critics.serving()).unwrap();
    assert_eq!(served.state, CriticState::Serving);
    let waits = critics.entries().filter(|entry| entry.state == CriticState::Candidate);
    assert!(waits.filter(|entry| matches!(entry.origin, Origin::Learner { .. })).count() <= 1);
    running.node.stop();
    running.done().await;
}
