//! Groups outlive their run, and an adapter is learned from them without one.

use crate::support::models::golden;
use crate::support::node::{config, held, likes_even, saved, sets, start};
use rco_node::groups::{self, Groups};
use rco_node::replay::Pushed;
use rco_node::run::events::Event;
use rco_node::types::EpisodeId;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

fn episodes(groups: &Groups) -> BTreeSet<EpisodeId> {
    groups.groups.iter().map(|recorded| recorded.group.episode).collect()
}

/// Some groups of a short run on the tiny model, in `place`.
async fn record(place: &Path) {
    start(config(place, "learner.learning_rate=1e-2"), false, Some(3), Arc::new(likes_even)).await.done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_keeps_every_group_that_it_scored_over_all_its_resumptions() {
    let place = tempfile::tempdir().unwrap();
    let mut scored = BTreeSet::new();
    for (resume, steps) in [(false, 3), (true, 6)] {
        let running = start(config(place.path(), ""), resume, Some(steps), Arc::new(likes_even)).await;
        let (_, log) = running.done().await;
        for event in log.events.lock().unwrap().iter() {
            if let Event::EpisodeEnded { episode, pushed: Some(Pushed::Kept | Pushed::ZeroVariance), .. } = event {
                scored.insert(*episode);
            }
        }
    }
    let found = groups::read(&place.path().join("run")).unwrap();
    assert_eq!(episodes(&found), scored);
    assert_eq!((found.torn, found.replaced), (0, 0));
    // What the checkpoint holds to be learned is there, value by value.
    let snapshot = saved(place.path());
    for episode in held(&snapshot) {
        let entries = snapshot.state["shelf"]["replay"]["held"].as_array().unwrap();
        let entry = entries.iter().find(|entry| entry["group"]["episode"] == episode.0).unwrap();
        let recorded = found.groups.iter().find(|recorded| recorded.group.episode == episode).unwrap();
        assert_eq!(serde_json::to_value(&recorded.group).unwrap(), entry["group"]);
    }
    assert!(found.groups.iter().all(|recorded| recorded.model.name == golden("tiny_llama").display().to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_told_so_keeps_none() {
    let place = tempfile::tempdir().unwrap();
    start(config(place.path(), "checkpoint.groups_mib=0"), false, Some(1), Arc::new(likes_even)).await.done().await;
    let error = groups::read(&place.path().join("run")).unwrap_err().to_string();
    assert!(error.contains("holds no groups.jsonl"), "{error}");
}

/// The program with the tiny node's config.
fn program(place: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rco-node"));
    let sets = sets(place, &place.join("prompts.jsonl"), "learner.learning_rate=1e-2");
    // What a test sets comes last, and wins.
    let [name, rest @ ..] = arguments else { panic!("expected a subcommand") };
    command.arg(name).args(sets.iter().flat_map(|set| ["--set", set])).args(rest);
    command.current_dir(place).env("RCO_LOG", "warn").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code, standard output and standard error.
fn run(place: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = program(place, arguments).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code(), out, err)
}

/// What the checkpoint of `step` in `out` holds of the learner, byte by byte.
fn weights(place: &Path, out: &str, step: u64) -> [Vec<u8>; 2] {
    let folder = place.join(out).join(format!("checkpoints/step-{step:08}"));
    ["adapter/adapter_model.safetensors", "optimizer.safetensors"].map(|name| std::fs::read(folder.join(name)).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_groups_config_and_seed_give_the_same_adapter_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    record(place).await;
    for file in ["groups.jsonl", "groups.safetensors"] {
        let (code, out, err) = run(place, &["groups", "--from", "run", "--to", file]);
        assert_eq!((code, out), (Some(0), format!("{file}\n")), "{err}");
    }
    let learn = |from: &str, out: &str, steps: &str, more: &[&str]| {
        let arguments = ["learn", "--from", from, "--out", out, "--steps", steps];
        let (code, _, err) = run(place, &[&arguments, more].concat());
        assert_eq!(code, Some(0), "{err}");
    };
    learn("run", "a", "6", &[]);
    learn("groups.jsonl", "b", "6", &[]);
    learn("groups.safetensors", "c", "6", &[]);
    let expected = weights(place, "a", 6);
    assert!(weights(place, "b", 6) == expected && weights(place, "c", 6) == expected);
    assert!(weights(place, "a", 4) != expected, "the last two steps changed nothing");
    learn("run", "d", "6", &["--set", "node.seed=99"]);
    assert!(weights(place, "d", 6) != expected, "the seed changed nothing");

    // In two goes, the first of which ends between two publications.
    learn("run", "e", "3", &[]);
    learn("run", "e", "6", &["--resume"]);
    assert!(weights(place, "e", 6) == expected, "a course in two goes is another one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_is_a_line_and_what_is_held_out_is_told_with_each_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    record(place).await;
    let arguments = ["learn", "--from", "run", "--out", "a", "--steps", "4", "--hold-out", "0.3", "--json"];
    let (code, out, err) = run(place, &arguments);
    assert_eq!(code, Some(0), "{err}");
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (held_out, steps): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.get("held_out_loss").is_some());
    let numbers =
        |lines: &[&serde_json::Value]| lines.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!((numbers(&steps), numbers(&held_out)), (vec![1, 2, 3, 4], vec![0, 2, 4]));
    assert!(steps.iter().all(|line| line["loss"].as_f64().unwrap() > 0.0 && line["epochs"].as_f64().unwrap() > 0.0));
    let losses: BTreeSet<String> = held_out.iter().map(|line| line["held_out_loss"].to_string()).collect();
    assert_eq!(losses.len(), 3, "learning does not show in {losses:?}");
    let utilities: Vec<f64> = held_out.iter().map(|line| line["held_out_utility"].as_f64().unwrap()).collect();
    assert!(utilities.iter().all(|utility| (0.0..=1.0).contains(utility)), "{utilities:?}");
    assert!(utilities[0] != utilities[1] && utilities[1] != utilities[2], "learning does not show in {utilities:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_on_from_an_adapter_that_was_learned_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    record(place).await;
    std::fs::rename(place.join("run"), place.join("recorded")).unwrap();
    for steps in ["1", "3"] {
        let resume: &[&str] = if steps == "1" { &[] } else { &["--resume"] };
        let learn = ["learn", "--from", "recorded", "--out", "run", "--steps", steps];
        let (code, _, err) = run(place, &[&learn, resume].concat());
        assert_eq!(code, Some(0), "{err}");
        let before = saved(place);
        let expected: u64 = steps.parse().unwrap();
        assert_eq!(before.step, expected);
        assert!(before.served.as_ref() == Some(&before.critic), "what was learned is in service");
    }
    let learned = saved(place);
    let running = start(config(place, ""), true, Some(5), Arc::new(likes_even)).await;
    let (_, log) = running.done().await;
    assert_eq!(log.count(|event| matches!(event, Event::Learned { .. })), 2);
    let after = saved(place);
    assert!(after.step == 5 && after.version > learned.version && after.critic != learned.critic);
}

/// Waits for the child's next line.
fn line(child: &mut Child, lines: &mut impl Iterator<Item = std::io::Result<String>>) -> String {
    match lines.next() {
        Some(line) => line.unwrap(),
        None => panic!("ended: {:?}", child.wait()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_ends_after_the_step_with_a_whole_checkpoint_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    record(place).await;
    let learn = ["learn", "--from", "run", "--out", "a", "--steps", "1000000", "--json"];
    let mut child = program(place, &learn).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    line(&mut child, &mut lines);
    let signalled = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    let last = lines.map(Result::unwrap).last();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let last: serde_json::Value = serde_json::from_str(&last.unwrap_or_else(|| r#"{"step": 1}"#.into())).unwrap();
    let newest = rco_node::checkpoint::list(&place.join("a/checkpoints")).unwrap().remove(0);
    assert_eq!(newest.step, last["step"].as_u64().unwrap());
    newest.verify().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_belong_together_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    record(place).await;
    let other = format!("model.source={}", golden("tiny_llama_tied").display());
    assert_eq!(run(place, &["learn", "--from", "run", "--out", "a", "--steps", "1"]).0, Some(0));
    std::fs::write(place.join("torn.jsonl"), "{\"model\": {\"na").unwrap();
    for (arguments, code, says) in [
        (&["learn", "--from", "run", "--out", "b", "--steps", "1", "--set", &other][..], 2, "tiny_llama_tied (sha256 "),
        (&["learn", "--from", "run", "--out", "a", "--steps", "2"], 2, "go on with --resume"),
        (&["learn", "--from", "run", "--out", "c", "--steps", "2", "--resume"], 2, "no whole checkpoint"),
        (&["learn", "--from", "run", "--out", "a", "--steps", "2", "--resume", "--set", "node.seed=8"], 2, "node.seed"),
        (&["learn", "--from", "run", "--out", "run", "--steps", "9", "--resume"], 2, "learn.json"),
        (&["learn", "--from", "torn.jsonl", "--out", "d", "--steps", "1"], 2, "skipped 1 torn"),
        (&["learn", "--from", "run", "--out", "d", "--steps", "1", "--hold-out", "1"], 2, "--hold-out"),
        (&["learn", "--from", "run", "--out", "d", "--steps", "0"], 2, "--steps"),
        (&["groups", "--from", "nowhere.jsonl", "--to", "x.jsonl"], 2, "nowhere.jsonl"),
        (&["groups", "--from", "run", "--to", "x.csv"], 2, ".jsonl or .safetensors"),
    ] {
        let (got, out, err) = run(place, arguments);
        assert!(
            got == Some(code) && err.contains(says) && !err.contains("panicked"),
            "{arguments:?}: {got:?} {out}{err}"
        );
    }
}
