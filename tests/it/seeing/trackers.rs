//! A run's figures on disk are what happened, once each, and the programs that plot them read the same numbers.

use crate::support::node::{config, likes_even, sets, start};
use crate::support::programs::python;
use rco_node::run::events::Event;
use rco_node::tracking::{self, FigureWriter, Line, TrackingConfig};
use rco_node::types::Role;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// A figure's values by step, in the order of the file.
type Values = BTreeMap<String, Vec<(u64, f64)>>;

fn values(run: &Path) -> Values {
    let mut values = Values::new();
    for line in tracking::read(run).unwrap().lines {
        for (name, value) in line.figures {
            values.entry(name).or_default().push((line.step, value));
        }
    }
    values
}

/// What a tracker has, as one of the scripts beside this file prints it.
fn stored(figures: &Value) -> Values {
    serde_json::from_value(figures.clone()).unwrap()
}

/// Whether both have the same figures at the same steps; `of` is what the other's numbers can hold.
fn assert_same(ours: &Values, theirs: &Values, of: fn(f64) -> f64) {
    let expected = ours.iter().map(|(name, points)| {
        let points = points.iter().map(|(step, value)| (*step, of(*value)));
        (name.clone(), points.collect::<Vec<_>>())
    });
    let expected: Values = expected.collect();
    assert_eq!(expected.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, points) in &expected {
        assert_eq!(points, &theirs[name], "{name}");
    }
}

/// Runs the script `name` beside this file; none, with a line, where its packages cannot be installed.
pub fn read(name: &str, packages: &[&str], arguments: &[&str]) -> Option<Value> {
    let output = script(&format!("tests/it/seeing/trackers/{name}.py"), name, packages, arguments)?;
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn script(path: &str, environment: &str, packages: &[&str], arguments: &[&str]) -> Option<Output> {
    let python = match python(environment, packages) {
        Ok(python) => python,
        Err(why) => {
            assert!(std::env::var("RCO_TEST_PROGRAMS").as_deref() != Ok("required"), "{why}");
            eprintln!("skipped: {path}: {why}");
            return None;
        }
    };
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).args(arguments);
    // Nothing is sent anywhere, and nothing is asked.
    let quiet = [("WANDB_SILENT", "true"), ("WANDB_ERROR_REPORTING", "false"), ("MLFLOW_DISABLE_TELEMETRY", "true")];
    command.envs(quiet).env("DO_NOT_TRACK", "true").env("HF_HUB_OFFLINE", "1").stdin(Stdio::null());
    let output = command.output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{path} {arguments:?}: {out}{err}");
    Some(output)
}

const TENSORBOARD: &[&str] = &["tensorboard==2.21.0", "setuptools<81"];
const WANDB: &[&str] = &["wandb==0.31.0"];
const MLFLOW: &[&str] = &["mlflow-skinny==3.17.2", "sqlalchemy==2.0.*", "alembic==1.*"];
const DATASETS: &[&str] = &["datasets==5.2.0"];

/// Settings of a run that is evaluated while it learns, and that writes event files below `place`.
fn settings(place: &Path) -> String {
    let held_out = place.join("held-out.jsonl");
    let line =
        |n: u32| format!("{{\"id\": \"h{n}\", \"task\": \"echo\", \"prompt\": \"say {n}\", \"answer\": \"{n}\"}}\n");
    std::fs::write(&held_out, (10..14).map(line).collect::<String>()).unwrap();
    format!(
        "learner.learning_rate=1e-2\neval.file='{}'\neval.every_steps=2\neval.prompts=4\ncheckpoint.keep_best='cu'\n\
         tracking.tensorboard='{}'",
        held_out.display(),
        place.join("tensorboard").display()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_has_its_figures_once_over_all_resumptions_and_tensorboard_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let (place, run) = (folder.path(), folder.path().join("run"));
    let more = settings(place);
    let (mut learned, mut scored, mut sampled) = (BTreeMap::new(), 0, 0);
    for (resume, steps) in [(false, 3), (true, 6)] {
        let running = start(config(place, &more), resume, Some(steps), Arc::new(likes_even)).await;
        let (_, log) = running.done().await;
        for event in log.events.lock().unwrap().iter() {
            match event {
                Event::Learned { report, .. } => drop(learned.insert(report.step, report.clone())),
                Event::CritiqueScored { .. } if learned.len() < 6 => scored += 1,
                Event::Sampled { role: Role::Critic, tokens, .. } => sampled += tokens.iter().sum::<usize>(),
                _ => {}
            }
        }
        if !resume {
            // Steps of a process that died before their checkpoint, and the line that it was writing.
            let mut file = std::fs::File::options().append(true).open(run.join(tracking::FILE)).unwrap();
            writeln!(file, r#"{{"step":4,"time":1.0,"learner/loss":99.0}}"#).unwrap();
            write!(file, r#"{{"step":5,"ti"#).unwrap();
        }
    }
    let ours = values(&run);
    let expected: Vec<(u64, f64)> = learned.values().map(|report| (report.step, f64::from(report.loss))).collect();
    assert_eq!(ours["learner/loss"], expected);
    assert_eq!(expected.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let norms: Vec<f64> = learned.values().map(|report| f64::from(report.gradient_norm)).collect();
    assert_eq!(ours["learner/gradient_norm"].iter().map(|(_, norm)| *norm).collect::<Vec<_>>(), norms);
    let critiques: f64 = ours["cu/critiques/echo"].iter().map(|(_, critiques)| critiques).sum();
    assert!(critiques > 6.0 * 4.0 && critiques <= f64::from(scored), "{critiques} of {scored}");
    let steps = |name: &str| ours[name].iter().map(|(step, _)| *step).collect::<BTreeSet<_>>();
    assert!(steps("eval/cu").is_superset(&[0, 2, 4].into()), "{:?}", ours["eval/cu"]);
    assert!(steps("checkpoint/seconds").is_superset(&[2, 4, 6].into()), "{:?}", ours["checkpoint/seconds"]);
    for name in ["verdicts/win", "memory/weights_bytes", "replay/groups", "critic/version"] {
        assert_eq!(ours[name].len(), 6, "{name}");
    }
    let tokens: f64 = ours["tokens/written/critic"].iter().map(|(_, tokens)| tokens).sum();
    assert!(tokens >= critiques && tokens <= sampled as f64, "{tokens} of {critiques} critiques, {sampled} sampled");
    let lines = tracking::read(&run).unwrap().lines;
    assert!(lines.is_sorted_by_key(|line| line.step));
    for (name, points) in &ours {
        assert!(points.is_sorted_by(|one, other| one.0 < other.0), "{name} twice at a step: {points:?}");
    }
    let folder = place.join("tensorboard");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "the files of earlier processes");
    if let Some(read) = read("tensorboard_reader", TENSORBOARD, &[folder.to_str().unwrap()]) {
        assert_same(&ours, &stored(&read), |value| f64::from(value as f32));
    }
}

#[test]
fn tensorboard_forgets_the_steps_that_are_taken_again() {
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("events");
    let config = TrackingConfig { figures_mib: 1, tensorboard: events.to_str().unwrap().to_owned() };
    let writer = FigureWriter::open(folder.path(), &config, None).unwrap().unwrap();
    let line = |step: u64, loss: f64| {
        let mut line = Line::now(step);
        line.add("learner/loss", loss);
        line.add("a figure of µ", -1e-9 * loss);
        line
    };
    (1..=300).for_each(|step| writer.append(line(step, step as f64)));
    writer.cut(200);
    (201..=205).for_each(|step| writer.append(line(step, 0.5)));
    assert!(writer.flush(Duration::from_secs(20)));
    let ours = values(folder.path());
    assert_eq!((ours["learner/loss"].len(), ours["learner/loss"][204]), (205, (205, 0.5)));
    if let Some(read) = read("tensorboard_reader", TENSORBOARD, &[events.to_str().unwrap()]) {
        assert_same(&ours, &stored(&read), |value| f64::from(value as f32));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wandb_and_mlflow_get_the_figures_and_the_config() {
    let folder = tempfile::tempdir().unwrap();
    let (place, run) = (folder.path(), folder.path().join("run"));
    start(config(place, ""), false, Some(3), Arc::new(likes_even)).await.done().await;
    let (ours, [path, out]) = (values(&run), [run.to_str().unwrap(), place.to_str().unwrap()]);
    if script("scripts/track-wandb", "wandb_reader", WANDB, &[path, "--offline", "--dir", out]).is_some() {
        let read = read("wandb_reader", WANDB, &[out]).unwrap();
        assert_same(&ours, &stored(&read["figures"]), |value| value);
        assert_eq!(read["config"]["learner.groups_per_step"], 2);
    }
    let store = format!("sqlite:///{out}/mlflow.db");
    // The run goes on until its lock is free, which it is.
    let follow = [path, "--tracking-uri", &store, "--follow", "--poll-seconds", "0.1"];
    if script("scripts/track-mlflow", "mlflow_reader", MLFLOW, &follow).is_some() {
        let read = read("mlflow_reader", MLFLOW, &[&store]).unwrap();
        assert_same(&ours, &stored(&read["figures"]), |value| value);
        assert_eq!((&read["config"]["learner.groups_per_step"], &read["status"]), (&"2".into(), &"FINISHED".into()));
    }
}

/// The program with the tiny node's config. Exit code, standard output and standard error.
pub fn program(place: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let [name, rest @ ..] = arguments else { panic!("expected a subcommand") };
    let sets = sets(place, &place.join("prompts.jsonl"), "learner.learning_rate=1e-2");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rco-node"));
    command.arg(name).args(sets.iter().flat_map(|set| ["--set", set])).args(rest);
    let output = command.current_dir(place).env("RCO_LOG", "warn").output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code(), out, err)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rows_for_trl_are_read_by_datasets_from_both_kinds_of_file() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    start(config(place, "learner.learning_rate=1e-2"), false, Some(3), Arc::new(likes_even)).await.done().await;
    let groups = rco_node::groups::read(&place.join("run")).unwrap().groups;
    let mut files = Vec::new();
    for format in ["trl-preference", "trl-unpaired", "trl-prompt-completion"] {
        for conversational in [&[][..], &["--conversational"]] {
            for ending in ["jsonl", "parquet"] {
                let file = format!("{format}-{}.{ending}", conversational.len());
                let arguments = ["groups", "--from", "run", "--to", &file, "--format", format];
                let (code, out, err) = program(place, &[&arguments, conversational].concat());
                assert_eq!((code, out), (Some(0), format!("{file}\n")), "{err}");
                files.push(place.join(file).to_str().unwrap().to_owned());
            }
        }
    }
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let Some(read) = read("datasets_reader", DATASETS, &files) else { return };
    let read = read.as_array().unwrap();
    for pair in read.chunks(2) {
        assert_eq!(pair[0]["rows"], pair[1]["rows"], "one is JSON lines, the other Parquet");
        assert!(!pair[0]["rows"].as_array().unwrap().is_empty());
    }
    let [texts, turns, labelled, completions] =
        [&read[0]["rows"], &read[2]["rows"], &read[4]["rows"], &read[8]["rows"]];
    let tokenizer = rco_node::formats::open(&crate::support::models::golden("tiny_llama")).unwrap().tokenizer;
    for (row, turns) in texts.as_array().unwrap().iter().zip(turns.as_array().unwrap()) {
        let group = groups.iter().find(|recorded| recorded.group.episode.0 == row["episode"]).unwrap();
        let critiques = &group.group.critiques;
        let of = |name: &str| critiques.iter().find(|critique| row[name] == critique.completion.text).unwrap();
        assert_eq!(tokenizer.encode(row["prompt"].as_str().unwrap()).unwrap(), group.group.prefix_ids);
        let (best, worst) = (of("chosen").utility, of("rejected").utility);
        assert!(critiques.iter().all(|critique| (worst..=best).contains(&critique.utility)) && worst < best);
        assert_eq!((&row["score_chosen"], &row["score_rejected"]), (&f64::from(best).into(), &f64::from(worst).into()));
        assert_eq!(turns["chosen"], serde_json::json!([{"role": "assistant", "content": row["chosen"]}]));
        let asked = turns["prompt"].as_array().unwrap();
        assert_eq!((asked.len(), &asked[0]["role"]), (1, &"user".into()));
        assert!(row["prompt"].as_str().unwrap().contains(asked[0]["content"].as_str().unwrap()));
    }
    let labels = labelled.as_array().unwrap();
    assert!(labels.iter().all(|row| row["label"] == (row["score"].as_f64().unwrap() > 0.5)), "{labels:?}");
    assert!(completions.as_array().unwrap().iter().all(|row| row["score"].as_f64().unwrap() > 0.5));
    for (to, more, says) in [
        ("trl-unpaired-0.jsonl", &["--format", "trl-unpaired"][..], "is there already"),
        ("x.csv", &["--format", "trl-unpaired"], ".jsonl or .parquet"),
        ("x.jsonl", &["--conversational"], "--conversational: expected"),
        ("x.jsonl", &["--pairs", "judge", "--format", "trl-preference"], "critiques of different worth"),
    ] {
        let (code, _, err) = program(place, &[&["groups", "--from", "run", "--to", to], more].concat());
        assert!(code == Some(2) && err.contains(says), "{to} {more:?}: {err}");
    }
}
