//! The card of an adapter that is exported from a run: what a reader needs to use and to judge it.

use super::refusals::{assert_ended, program};
use crate::support::models::golden;
use crate::support::node::{config, likes_even, start};
use rco_node::formats::source::Source;
use rco_node::node::Exit;
use rco_node::run::events::Event;
use rco_node::tracking;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// The card of the adapter that `arguments` export from the run in `folder`.
fn card(folder: &Path, name: &str, arguments: &[&str]) -> String {
    let (run, out) = (folder.join("run"), folder.join(name));
    let export = ["export", "--to", "peft", "--run", run.to_str().unwrap(), out.to_str().unwrap()];
    assert_ended(&program(folder, "", &[&export, arguments].concat()).output().unwrap(), Exit::Done, &[]);
    fs::read_to_string(out.join("README.md")).unwrap()
}

/// The cells of the rows of the table below `heading`.
fn table(card: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, below) = card.split_once(heading).unwrap_or_else(|| panic!("no {heading} in {card}"));
    let rows = below.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    // Below the head and its rule.
    rows.skip(2).map(cells).collect()
}

fn value<'a>(rows: &'a [Vec<String>], name: &str) -> &'a str {
    &rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("no {name} in {rows:?}"))[1]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_card_of_a_run_says_what_it_came_from_and_what_it_was_worth() {
    let folder = tempfile::tempdir().unwrap();
    let held = folder.path().join("held.jsonl");
    let line =
        |n: u32| format!("{{\"id\": \"h{n}\", \"task\": \"echo\", \"prompt\": \"say {n}\", \"answer\": \"{n}\"}}\n");
    fs::write(&held, (0..3).map(line).collect::<String>()).unwrap();
    let evaluated = format!(
        "eval.file='{}'\neval.every_steps=2\neval.prompts=3\nlearner.beta=0.25\nnode.seed=11\ncheckpoint.keep=10",
        held.display()
    );
    let (_, log) = start(config(folder.path(), &evaluated), false, Some(4), Arc::new(likes_even)).await.done().await;

    let named = ["--base-name", "owner/base", "--licence", "Apache-2.0"];
    let text = card(folder.path(), "named", &named);
    assert!(
        text.starts_with("---\nbase_model: \"owner/base\"\nlibrary_name: peft\nlicense: \"Apache-2.0\"\n"),
        "{text}"
    );
    let facts = table(&text, "# Critic for owner/base");
    let model = golden("tiny_llama");
    let digest = Source::parse(model.to_str().unwrap()).unwrap().digest(&model).unwrap();
    for (name, expected) in [
        ("base model", "owner/base"),
        ("sha256 of the base", &digest),
        ("learner steps", "4"),
        ("licence", "Apache-2.0"),
        ("data", &format!("prompts.file = {}", folder.path().join("prompts.jsonl").display())),
    ] {
        assert_eq!(value(&facts, name), expected, "{text}");
    }
    let data = facts.iter().filter(|row| row[0] == "data").map(|row| row[1].as_str()).collect::<Vec<_>>();
    let count = |what: &str| data.iter().find_map(|data| data.strip_suffix(what)?.trim().parse::<u64>().ok());
    let (episodes, groups) = (count("episodes").unwrap(), count("scored groups of critiques").unwrap());
    assert!(episodes >= groups && groups >= 2, "{data:?}");
    let settings = table(&text, "## Training");
    for (key, expected) in [
        ("`learner.beta`", "`0.25`"),
        ("`node.seed`", "`11`"),
        ("`learner.lora.rank`", "`4`"),
        ("`rollout.critiques`", "`4`"),
        ("`critic.prompt`", "`{{ prompt }}{{ response }}`"),
    ] {
        assert_eq!(value(&settings, key), expected, "{text}");
    }
    assert!(settings.iter().all(|row| row[0] != "`learner.start_from`"), "what is empty says nothing: {text}");

    // The figures of its evaluations are those that the run told, with their intervals.
    let rows = table(&text, "## Evaluation");
    let told: Vec<_> = log.events.lock().unwrap().iter().filter_map(figures).collect();
    assert_eq!(rows.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), ["0", "2", "4"], "{text}");
    let expected: Vec<Vec<String>> =
        told.iter().map(|(step, cells)| [&[step.to_string(), "3".to_owned()][..], cells].concat()).collect();
    assert_eq!(rows, expected, "{text}");
    assert!(rows.iter().all(|row| row[2].contains(" [") && row[3].contains(" [")), "{text}");

    // An earlier critic has none of what came after it.
    let earlier = card(folder.path(), "earlier", &["--step", "2"]);
    assert_eq!(table(&earlier, "## Evaluation"), rows[..2], "{earlier}");
    assert_eq!(value(&table(&earlier, "# Critic"), "learner steps"), "2");
    assert!(value(&table(&earlier, "# Critic"), "licence").starts_with("not stated"), "{earlier}");
    assert!(tracking::read(&folder.path().join("run")).unwrap().lines.iter().any(|line| line.step == 4));
}

/// Step and cells of an evaluation that the run told.
fn figures(event: &Event) -> Option<(u64, Vec<String>)> {
    let Event::Evaluated { step, summary, .. } = event else { return None };
    let cells = [summary.cu?, summary.accuracy_after?].map(|figure| {
        // On disk they are shares.
        let [value, low, high] = [figure.value, figure.low, figure.high].map(|figure| 100.0 * (figure / 100.0));
        format!("{value:.1} [{low:.1}, {high:.1}]")
    });
    Some((*step, cells.to_vec()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_card_of_a_run_that_was_not_evaluated_has_no_table_of_figures() {
    let folder = tempfile::tempdir().unwrap();
    start(config(folder.path(), ""), false, Some(1), Arc::new(likes_even)).await.done().await;
    let text = card(folder.path(), "plain", &[]);
    assert!(!text.contains("## Evaluation") && text.contains("## Training"), "{text}");
}
