//! `start` as its user meets it: the weights that a run begins with, and the checkpoints that it writes by time.

use super::refusals::{KilledAtTheEnd, assert_ended, program, source, take_one_step, within};
use crate::support::models::{farthest, golden};
use crate::support::node::saved;
use rco_node::checkpoint;
use rco_node::formats::adapter::Adapter;
use rco_node::node::Exit;
use rco_node::types::CriticVersion;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A verifier with a taste: it scores a text by its digest, so that critiques differ in what they are worth.
const TASTE: &str = "import json, sys, zlib\nfor line in sys.stdin:\n    \
                     print(json.dumps({'score': zlib.crc32(json.loads(line)['text'].encode()) % 3 / 2}), flush=True)";

/// Prompts in `folder` whose verifier tells texts of random weights apart, as a setting.
pub(super) fn judged(folder: &Path) -> String {
    fs::create_dir_all(folder).unwrap();
    let file = folder.join("judged.jsonl");
    let verifier = serde_json::json!({"kind": "command", "argv": ["python3", "-c", TASTE]});
    let line = |n: u32| serde_json::json!({"id": format!("p{n}"), "task": "taste", "prompt": format!("say {n}"), "verifier": verifier});
    fs::write(&file, (0..5).map(|n| format!("{}\n", line(n))).collect::<String>()).unwrap();
    format!("prompts.file='{}'", file.display())
}

/// Starts a node, signals it once `is_time`, and waits for its end, which must be a good one. What it said.
fn run_until(folder: &Path, more: &str, what: &str, is_time: impl FnMut() -> bool) -> String {
    let log = folder.join("log");
    fs::create_dir_all(folder).unwrap();
    let node = program(folder, more, &["start"]).env("RCO_LOG", "info").stderr(fs::File::create(&log).unwrap()).spawn();
    let mut node = KilledAtTheEnd(node.unwrap());
    within(Duration::from_secs(60), what, is_time);
    assert!(Command::new("kill").args(["-TERM", &node.0.id().to_string()]).status().unwrap().success());
    let mut ended = None;
    within(Duration::from_secs(30), "the end", || {
        ended = node.0.try_wait().unwrap();
        ended.is_some()
    });
    let said = fs::read_to_string(&log).unwrap();
    assert_eq!(ended.unwrap().code(), Some(0), "{said}");
    said
}

/// The log-probs of some ids under `critic`, by the program.
fn log_probs(folder: &Path, critic: Option<&str>) -> Vec<f32> {
    let ids = folder.join("ids.jsonl");
    fs::write(&ids, "{\"prompt_ids\": [72, 105, 33], \"completion_ids\": [65, 98, 32, 99, 46, 101, 10, 120]}\n")
        .unwrap();
    let mut arguments = vec!["score", ids.to_str().unwrap()];
    arguments.extend(critic.iter().flat_map(|critic| ["--adapter", critic]));
    let output = program(folder, "", &arguments).output().unwrap();
    assert_ended(&output, Exit::Done, &[]);
    let scored: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    serde_json::from_value(scored["log_probs"].clone()).unwrap()
}

#[test]
fn a_run_begins_with_exactly_the_adapter_that_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let trained = folder.path().join("trained");
    take_one_step(&trained, "learner.learning_rate=1e-2");
    let (run, exported) = (trained.join("run"), folder.path().join("exported"));
    let export = ["export", "--to", "peft", "--run", run.to_str().unwrap(), exported.to_str().unwrap()];
    assert_ended(&program(&trained, "", &export).output().unwrap(), Exit::Done, &[]);

    let spec = rco_node::formats::open(&golden("tiny_llama")).unwrap().spec;
    let fresh = log_probs(folder.path(), None);
    // One that this program exported, one that PEFT saved, and that one at another scale.
    for (name, adapter, alpha) in
        [("ours", exported, 8.0), ("peft", golden("tiny_lora"), 8.0), ("scaled", golden("tiny_lora"), 16.0)]
    {
        let place = folder.path().join(name);
        let more = format!("learner.start_from='{}'\nlearner.lora.alpha={alpha:.1}", adapter.display());
        let first = place.join("run/checkpoints/step-00000000/manifest.json");
        run_until(&place, &format!("{more}\nlearner.publish_every_steps=1000000"), "critic 1", || first.is_file());
        let (begun, given) = (saved(&place), Adapter::load(&adapter, &spec).unwrap());
        assert_eq!((begun.step, begun.version), (0, CriticVersion(1)), "{name}: in service before the first step");
        assert!(begun.served.as_ref() == Some(&begun.critic), "{name}");
        let own = begun.critic.adapter().unwrap();
        let scale = given.config.scale() / own.config.scale();
        assert_eq!(own.factors.keys().collect::<Vec<_>>(), given.factors.keys().collect::<Vec<_>>(), "{name}");
        for (own, given) in own.factors.values().zip(given.factors.values()) {
            let scaled: Vec<f32> = given.b.iter().map(|b| b * scale).collect();
            assert!(own.a == given.a && own.b == scaled, "{name}");
        }
        let at_start = log_probs(&place, Some(&format!("{}@0", place.join("run").display())));
        let expected = log_probs(&place, Some(adapter.to_str().unwrap()));
        assert!(farthest(&at_start, &expected) < 1e-6, "{name}: {at_start:?} {expected:?}");
        assert!(farthest(&at_start, &fresh) > 1e-5, "{name}: the adapter does nothing: {at_start:?}");
    }
}

#[test]
fn an_adapter_that_a_run_cannot_begin_with_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere");
    let [lora, qwen] = ["tiny_lora", "tiny_qwen2_lora"].map(golden);
    for (what, adapter, more, words) in [
        ("rank", &lora, "learner.lora.rank=8", &["learner.start_from: expected an adapter of rank 8", "rank 4"][..]),
        (
            "targets",
            &lora,
            "learner.lora.targets=['q_proj']",
            &["learner.start_from: expected an adapter of", "q_proj"],
        ),
        ("base", &qwen, "", &["learner.start_from", "tiny_qwen2_lora", "expected"]),
        ("none", &nowhere, "", &["learner.start_from", "nowhere"]),
        (
            "mode",
            &lora,
            "learner.mode='full'",
            &["learner.start_from: expected weights for learner.mode full, got an adapter"],
        ),
    ] {
        let more = format!("learner.start_from='{}'\n{more}", adapter.display());
        let output = program(folder.path(), &more, &["start"]).env("RCO_LOG", "error").output().unwrap();
        assert_ended(&output, Exit::Usage, words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.trim_end().lines().count(), 1, "{what}: {said}");
        assert!(!folder.path().join("run/checkpoints").exists(), "{what}: nothing was written");
    }
    // The directory is as free as it was.
    take_one_step(folder.path(), "");
}

#[test]
fn checkpoints_are_written_by_time_where_publications_are_rare() {
    let folder = tempfile::tempdir().unwrap();
    let more = format!(
        "{}\nlearner.publish_every_steps=1000000\ncheckpoint.every_seconds=1\ncheckpoint.keep=1000",
        judged(folder.path())
    );
    let root = folder.path().join("run/checkpoints");
    let steps = || -> BTreeSet<u64> { checkpoint::list(&root).unwrap().iter().map(|listed| listed.step).collect() };
    let (began, mut there) = (Instant::now(), 0);
    run_until(folder.path(), &more, "three checkpoints", || {
        there = steps().len();
        there >= 3
    });
    assert!(there as u64 <= began.elapsed().as_secs() + 1, "{there} after {:?}: not one a step", began.elapsed());
    let last = saved(folder.path());
    assert!(last.step > 3 && !steps().contains(&0), "{:?}: one is written once there are steps to lose", steps());
    assert_eq!(last.version, CriticVersion::BASE, "a checkpoint by time publishes nothing");
}

#[test]
fn score_gives_no_numbers_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let model = super::refusals::changed_model(folder.path(), |model| {
        // All ones are a NaN, whatever the type of the weights.
        super::refusals::fill(model, "layers.1.mlp.down_proj.weight", 0xff);
    });
    let ids = folder.path().join("ids.jsonl");
    fs::write(&ids, "{\"prompt_ids\": [72, 105], \"completion_ids\": [33, 10]}\n").unwrap();
    for pass in ["decode", "score"] {
        for weights in ["f32", "int8"] {
            let more = format!("{}\nengine.weights='{weights}'", source(&model));
            let arguments = ["score", "--pass", pass, ids.to_str().unwrap()];
            let output = program(folder.path(), &more, &arguments).output().unwrap();
            assert_ended(&output, Exit::Model, &["expected finite", "NaN"]);
            assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{pass}, {weights}");
        }
    }
}
