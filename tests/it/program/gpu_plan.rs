//! `check --plan-gpu`: a plan for a GPU on a machine without one.

use crate::support::models::golden;
use serde_json::Value;
use std::process::{Command, Output};

fn plan(arguments: &[&str]) -> Output {
    let source = format!("model.source={:?}", golden("tiny_llama").to_str().unwrap());
    let sets = ["--set", &source, "--set", "engine.kv_cache_mib=64", "--set", "engine.context_tokens_max=256"];
    let tree = ["--set", "rollout.critiques=4", "--set", "rollout.refinements=2"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_rco-node"));
    command.args(sets).args(tree).arg("check").args(arguments).env("RCO_LOG", "warn").output().unwrap()
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_plan_shows_the_own_model_beside_three_others_and_says_that_nothing_was_measured() {
    let table = printed(&plan(&["--plan-gpu", "a100-40"]));
    assert!(table.starts_with("A model, not a measurement"), "{table}");
    for part in
        ["N = 4, M = 2", "own model", "Qwen2.5-0.5B", "Qwen2.5-7B", "compute capability 8.0", "episodes an hour"]
    {
        assert!(table.contains(part), "expected {part:?} in: {table}");
    }
    let left = table.lines().find(|line| line.starts_with("  left")).unwrap();
    assert_eq!(left.matches("fits").count(), 4, "{left}");
    // Columns end where their heads do.
    let head = table.lines().find(|line| line.contains("Qwen2.5-0.5B")).unwrap();
    let total = table.lines().find(|line| line.starts_with("  total")).unwrap();
    let end = head.find("Qwen2.5-0.5B").unwrap() + "Qwen2.5-0.5B".len();
    assert!(total.as_bytes()[end - 1].is_ascii_digit() && total.as_bytes()[end] == b' ', "{table}");
    assert!(!table.contains("rtx4090"), "{table}");
}

#[test]
fn as_json_it_is_one_object_with_every_card_that_was_asked_for() {
    let all: Value = serde_json::from_str(&printed(&plan(&["--plan-gpu", "all", "--offline", "--json"]))).unwrap();
    assert_eq!(all["measured"], false);
    assert_eq!(all["own_model_left_out"], "offline");
    let names: Vec<&str> = all["cards"].as_array().unwrap().iter().map(|card| card["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a100-40", "h100-80", "rtx4090", "h200-141"]);
    let plan = &all["cards"][2]["models"][2];
    assert_eq!(plan["model"], "Qwen2.5-7B");
    assert_eq!(plan["memory"]["kv_bytes_a_token"], 57_344);
    assert_eq!(plan["speed"]["decode_tokens_per_second"][0][1]["bound"], "memory");
    assert!(plan["speed"]["episodes_per_hour"].as_f64().unwrap() > 1.0);
}

#[test]
fn an_unknown_card_is_refused_with_those_that_are_known() {
    let output = plan(&["--plan-gpu", "tpu"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for card in ["tpu", "a100-40", "h100-80", "rtx4090", "h200-141", "all"] {
        assert!(said.contains(card), "expected {card:?} in: {said}");
    }
    assert_eq!(plan(&["--json"]).status.code(), Some(2), "nothing to print as JSON");
}
