//! Evaluation: as its user meets it, and as the small exam of the critic in service while a node trains.

use crate::support::models::golden;
use crate::support::node::{config, likes_even, saved, sets, start};
use rco_node::checkpoint;
use rco_node::run::events::Event;
use rco_node::types::CriticVersion;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

/// Five prompts whose answers are numbers, in `folder`.
fn prompts(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("held.jsonl");
    let line = |n: u32| {
        let task = if n.is_multiple_of(2) { "even" } else { "odd" };
        format!("{{\"id\": \"p{n}\", \"task\": \"{task}\", \"prompt\": \"say {n}\", \"answer\": \"{n}\"}}\n")
    };
    std::fs::write(&path, (0..5).map(line).collect::<String>()).unwrap();
    path
}

/// `rco-node eval` on the tiny model with `arguments`.
fn eval(folder: &Path, arguments: &[&str]) -> Output {
    let data = prompts(folder);
    let mut command = Command::new(env!("CARGO_BIN_EXE_rco-node"));
    command.args(["eval", "--data", data.to_str().unwrap()]).args(arguments).env("RCO_LOG", "warn");
    for set in sets(folder, &data, "") {
        command.args(["--set", &set]);
    }
    command.output().unwrap()
}

/// Its one line of JSON.
fn figures(folder: &Path, arguments: &[&str]) -> Value {
    let output = eval(folder, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1);
    let mut figures: Value = serde_json::from_str(&text).unwrap();
    assert!(figures.as_object_mut().unwrap().remove("seconds").is_some());
    figures
}

fn refused(output: &Output, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    parts.iter().for_each(|part| assert!(said.contains(part), "expected {part:?} in: {said}"));
}

#[test]
fn critics_stand_side_by_side_on_the_same_responses() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = golden("tiny_lora");
    let plot = folder.path().join("plot.svg");
    let out = folder.path().join("kept");
    let [lora, again] = ["lora", "again"].map(|name| format!("{name}={}", adapter.display()));
    let critics = ["base", "twin=base", &lora, &again, "oracle"];
    let mut arguments: Vec<&str> = critics.iter().flat_map(|critic| ["--critic", *critic]).collect();
    arguments.extend(["--plot", plot.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let told = figures(folder.path(), &arguments);
    assert_eq!((told["prompts"].as_u64(), told["dropped"].as_u64()), (Some(5), Some(0)));
    let names: Vec<_> = told["critics"].as_array().unwrap().iter().map(|critic| critic["critic"].clone()).collect();
    assert_eq!(names, ["base", "twin", "lora", "again", "oracle"]);
    let [base, twin, lora, again, oracle] = [0, 1, 2, 3, 4].map(|place| &told["critics"][place]);
    // Whoever has the same weights fares the same: nothing but the critic tells two columns apart.
    for part in ["value", "low", "high"] {
        assert_eq!(twin["cu_over_first"][part].as_f64(), Some(0.0), "{twin}");
    }
    let of_both = |critic: &Value| [critic["cu"].clone(), critic["critique_tokens"].clone(), critic["rqs"].clone()];
    assert_eq!(of_both(lora), of_both(again));
    let kept = std::fs::read_to_string(out.join("records.jsonl")).unwrap();
    let mut otherwise = 0;
    for record in kept.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let [base, twin, lora, again] = [0, 1, 2, 3].map(|place| &record["critics"][place]["attempts"]);
        assert_eq!((base, lora), (twin, again));
        otherwise += usize::from(base != lora);
    }
    assert_eq!(otherwise, 5, "an adapter writes otherwise");
    assert_eq!(oracle["critique_tokens"]["value"].as_f64(), Some("The correct answer is 0.".len() as f64));
    assert_eq!(base["cu_by_task"].as_object().unwrap().keys().collect::<Vec<_>>(), ["even", "odd"]);
    assert_eq!(base["missing"].as_u64(), Some(0));
    let drawn = std::fs::read_to_string(plot).unwrap();
    assert!(drawn.starts_with("<svg ") && drawn.contains("oracle"), "{drawn}");
}

#[test]
fn an_evaluation_goes_on_where_it_was_killed_and_comes_to_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let whole = figures(folder.path(), &["--rounds", "2"]);
    let out = folder.path().join("kept");
    let kept = ["--rounds", "2", "--out", out.to_str().unwrap()];
    assert_eq!(figures(folder.path(), &kept), whole);
    let records = out.join("records.jsonl");
    let text = std::fs::read_to_string(&records).unwrap();
    assert_eq!(text.lines().count(), 5);
    // As a kill leaves it: two prompts whole, the third torn.
    let end = text.match_indices('\n').nth(1).unwrap().0 + 40;
    std::fs::write(&records, &text[..end]).unwrap();
    assert_eq!(figures(folder.path(), &kept), whole);
    let mut lines: Vec<_> = std::fs::read_to_string(&records).unwrap().lines().map(str::to_owned).collect();
    let mut before: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    before.sort();
    assert_eq!(lines, before);
    // Fewer prompts are read from what is there; another seed or critic is another evaluation.
    assert_eq!(figures(folder.path(), &[&kept[..], &["--limit", "2"]].concat())["prompts"].as_u64(), Some(2));
    refused(&eval(folder.path(), &[&kept[..], &["--seed", "1"]].concat()), &["seed: 0 there, 1 asked"]);
    refused(&eval(folder.path(), &[&kept[..], &["--critic", "base"]].concat()), &["critics"]);
    let rounds = whole["critics"][0]["rounds"].as_array().unwrap();
    assert_eq!(rounds.iter().map(|round| round["round"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(rounds[0]["cu"], whole["critics"][0]["cu"]);
}

#[test]
fn a_model_that_judges_is_asked_in_both_orders_and_scores_stay_the_verifiers() {
    let folder = tempfile::tempdir().unwrap();
    let judge = ["judge.kind='model'", "judge.read='logprob'", "judge.prompt='{{ prompt }}|{{ first }}|{{ second }}'"];
    let judged: Vec<&str> = judge.iter().flat_map(|set| ["--set", *set]).collect();
    let told = figures(folder.path(), &[&["--critic", "empty", "--m", "2"], &judged[..]].concat());
    let empty = &told["critics"][0];
    let agreement = empty["order_agreement"]["value"].as_f64().unwrap();
    assert!((0.0..=100.0).contains(&agreement) && empty["cu"]["value"].is_f64(), "{empty}");
    assert!(told["response"]["accuracy"]["value"].is_f64() && empty["rqs"]["value"].is_f64(), "{told}");
    let verified = figures(folder.path(), &["--critic", "empty", "--m", "2"]);
    assert_eq!(verified["critics"][0]["rqs"], empty["rqs"]);
    assert!(verified["critics"][0]["order_agreement"].is_null());
}

#[test]
fn what_an_evaluation_cannot_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    refused(&eval(folder.path(), &["--critic", "base", "--critic", "base"]), &["base", "twice"]);
    refused(&eval(folder.path(), &["--critic", "no/where"]), &["no/where", "base, empty, self, oracle"]);
    refused(&eval(folder.path(), &["--critic", "orcale"]), &["\"orcale\"", "did you mean oracle?"]);
    refused(&eval(folder.path(), &["--critic", "run@soon"]), &["run@soon", "best"]);
    refused(&eval(folder.path(), &["--n", "0"]), &["at least 1"]);
    let output = Command::new(env!("CARGO_BIN_EXE_rco-node"))
        .args(["eval", "--set", "prompts.file='mine.jsonl'", "--critic", "base"])
        .output();
    refused(&output.unwrap(), &["mine.jsonl", "--data"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exams_leave_training_as_it_is_bit_for_bit_and_the_best_critic_is_kept() {
    let judge = Arc::new(likes_even);
    let more = "learner.synchronous=true\nlearner.publish_every_steps=2\nlearner.learning_rate=1e-2\ncheckpoint.keep=0";
    let plain = tempfile::tempdir().unwrap();
    start(config(plain.path(), more), false, Some(12), judge.clone()).await.done().await;

    let folder = tempfile::tempdir().unwrap();
    let held = prompts(folder.path());
    let exams = format!(
        "{more}\neval.file='{}'\neval.every_steps=2\neval.prompts=4\neval.refinements=2\ncheckpoint.keep_best='cu'",
        held.display()
    );
    let (_, log) = start(config(folder.path(), &exams), false, Some(12), judge).await.done().await;
    let (without, with) = (saved(plain.path()), saved(folder.path()));
    assert!(without.critic == with.critic && without.optimizer == with.optimizer, "training went its way");
    assert_eq!(without.state["shelf"]["counters"], with.state["shelf"]["counters"]);

    let events = log.events.lock().unwrap();
    let exams: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Evaluated { version, step, summary, best, .. } => {
                Some((*step, *version, summary.cu.unwrap().value, *best))
            }
            _ => None,
        })
        .collect();
    assert_eq!(exams.iter().map(|exam| exam.0).collect::<Vec<_>>(), [0, 2, 4, 6, 8, 10, 12]);
    assert_eq!((exams[0].1, exams[6].1), (CriticVersion::BASE, CriticVersion(6)));
    // The first of the highest, among those that have a checkpoint.
    let highest = exams[1..].iter().fold(&exams[1], |best, exam| if exam.2 > best.2 { exam } else { best });
    let root = folder.path().join("run/checkpoints");
    let best = checkpoint::best(&root).unwrap().unwrap();
    assert_eq!((best.step, best.cu), (highest.0, highest.2));
    assert_eq!(exams.iter().rev().find(|exam| exam.3).unwrap().0, best.step);
    let mut steps: Vec<_> = checkpoint::list(&root).unwrap().into_iter().map(|listed| listed.step).collect();
    steps.sort_unstable();
    steps.dedup();
    let mut expected = vec![best.step, 12];
    expected.dedup();
    assert_eq!(steps, expected, "the best is not pruned, and nothing else is kept");
    drop(events);

    let run = folder.path().join("run");
    let named = format!("best={}@best", run.display());
    let told = figures(folder.path(), &["--critic", "base", "--critic", &named, "--limit", "2"]);
    assert_eq!(told["critics"][1]["critic"], "best");
}
