//! Tests of the registry: what is registered survives the process, wherever it died.

use super::*;
use crate::formats::adapter::{Adapter, Factors, LoraConfig};
use crate::formats::spec::{ModelSpec, Projection};
use std::path::Path;
use std::sync::Arc;

fn spec() -> ModelSpec {
    crate::formats::spec::tests::tiny()
}

fn adapter(seed: u64) -> CriticWeights {
    let (spec, targets) = (spec(), vec![Projection::QProj]);
    let (inputs, outputs) = Projection::QProj.sizes(&spec);
    let fill = |n: usize| (0..n).map(|i| i as f32 + seed as f32).collect();
    let factors = |layer| ((layer, Projection::QProj), Factors { a: fill(2 * inputs), b: fill(2 * outputs) });
    let config = LoraConfig { rank: 2, alpha: 4.0, rslora: false, targets };
    CriticWeights::Adapter(Arc::new(Adapter::new(config, (0..spec.layers).map(factors).collect())))
}

fn open(run: &Path) -> CriticRegistry {
    CriticRegistry::open(run, spec(), "tiny".into(), "base-digest".into()).unwrap()
}

fn add(registry: &mut CriticRegistry, seed: u64) -> CriticVersion {
    let weights = adapter(seed);
    let parent = registry.critics().serving();
    let new = NewCritic { weights: &weights, parent, origin: Origin::Learner { step: seed }, by: "learner".into() };
    registry.add(new).unwrap()
}

#[test]
fn a_registry_reads_as_it_was_written_with_one_version_in_service() {
    let run = tempfile::tempdir().unwrap();
    let mut registry = open(run.path());
    assert_eq!(registry.critics().serving(), CriticVersion::BASE);
    let first = add(&mut registry, 1);
    registry.serve(first, "learner", "published", CriticState::Retired).unwrap();
    let second = add(&mut registry, 2);
    registry.serve(second, "operator", "swapped", CriticState::Retired).unwrap();
    registry.scored(second, [0.25, 0.75].into_iter().collect()).unwrap();
    registry.serve(first, "operator", "worse", CriticState::RolledBack).unwrap();
    registry.pin(Some(first), "operator").unwrap();
    let read = Critics::read(run.path()).unwrap();
    assert_eq!(&read, registry.critics());
    let states: Vec<_> = read.entries().map(|entry| (entry.version.0, entry.state)).collect();
    assert_eq!(states, [(0, CriticState::Retired), (1, CriticState::Serving), (2, CriticState::RolledBack)]);
    assert_eq!(
        (read.serving(), read.pinned(), read.entry(second).unwrap().scores.mean()),
        (first, Some(first), Some(0.5))
    );
    assert_eq!(read.entry(second).unwrap().changes.last().unwrap().why, "worse");
    assert_eq!(registry.weights(second).unwrap(), Some(adapter(2)));
    assert_eq!(registry.weights(CriticVersion::BASE).unwrap(), None);
}

#[test]
fn numbers_are_never_used_for_two_critics_and_a_candidate_of_a_dead_process_is_found_again() {
    let run = tempfile::tempdir().unwrap();
    let mut registry = open(run.path());
    assert_eq!(add(&mut registry, 1), CriticVersion(1));
    assert_eq!(add(&mut registry, 1), CriticVersion(1), "the same candidate, registered again");
    drop(registry);
    let mut registry = open(run.path());
    assert_eq!(add(&mut registry, 1), CriticVersion(1), "in another process too");
    registry.change(CriticVersion(1), CriticState::Rejected, "canary", "it says nothing").unwrap();
    assert_eq!(add(&mut registry, 1), CriticVersion(2), "what was decided stays decided");
    assert_eq!(add(&mut registry, 2), CriticVersion(3));
    // A process died between a version's weights and its record.
    std::fs::rename(run.path().join("critics/v00000003"), run.path().join("critics/v00000004")).unwrap();
    let mut registry = open(run.path());
    assert_eq!(add(&mut registry, 4), CriticVersion(4));
    assert_eq!(registry.weights(CriticVersion(4)).unwrap(), Some(adapter(4)));
}

#[test]
fn a_torn_last_line_is_as_if_it_had_not_been_written() {
    let run = tempfile::tempdir().unwrap();
    let mut registry = open(run.path());
    let first = add(&mut registry, 1);
    let before = registry.critics().clone();
    registry.serve(first, "learner", "published", CriticState::Retired).unwrap();
    drop(registry);
    let path = run.path().join("critics/registry.jsonl");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
    assert_eq!(open(run.path()).critics(), &before);
}

#[test]
fn weights_of_old_versions_make_room_and_those_in_use_stay() {
    let run = tempfile::tempdir().unwrap();
    let mut registry = open(run.path());
    let versions: Vec<_> = (1..=6).map(|seed| add(&mut registry, seed)).collect();
    for version in &versions {
        registry.serve(*version, "learner", "published", CriticState::Retired).unwrap();
    }
    registry.serve(versions[1], "operator", "back", CriticState::Retired).unwrap();
    registry.prune(2, Some(versions[3])).unwrap();
    let kept: Vec<_> = registry.critics().entries().filter(|entry| entry.has_weights).map(|e| e.version.0).collect();
    assert_eq!(kept, [2, 4, 5, 6], "what served before stays");
    assert!(matches!(registry.weights(versions[0]), Err(Error::Forgotten { .. })));
    assert!(matches!(registry.weights(CriticVersion(99)), Err(Error::Unknown { .. })));
    assert!(!run.path().join("critics/v00000001").exists());
    // Damage is found before anything is served.
    let damaged = run.path().join("critics/v00000006/adapter_model.safetensors");
    let mut bytes = std::fs::read(&damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    assert!(matches!(registry.weights(versions[5]), Err(Error::Weights(checkpoint::Error::Corrupt { .. }))));
}
