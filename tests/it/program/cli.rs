//! The program as its user meets it: exit codes, one clear line for each mistake, and results that parse.

use crate::support::models::{farthest, golden};
use serde::Deserialize;
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Runs the program on the tiny model with `arguments` and `input`.
fn run(arguments: &[&str], input: &str) -> Output {
    let source = format!("model.source={:?}", golden("tiny_llama").to_str().unwrap());
    let mut child = Command::new(env!("CARGO_BIN_EXE_rco-node"))
        .args(["--set", &source, "--set", "engine.kv_cache_mib=64", "--set", "engine.context_tokens_max=256"])
        .args(arguments)
        .env("RCO_LOG", "warn")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses its arguments has closed its input before it is written.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The run ends with `code` and says every one of `parts` on stderr.
fn assert_refused(output: &Output, code: i32, parts: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "expected {part:?} in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert!(said.matches("os error").count() <= 1, "said twice: {said}");
}

#[test]
fn what_is_wrong_is_named_with_its_value_and_what_was_expected() {
    assert_refused(&run(&["strat"], ""), 2, &["strat", "start"]);
    let both = run(&["check", "--set", "learner.beta=0", "--set", "engine.kv_cache=1"], "");
    assert_refused(&both, 2, &["learner.beta", "got 0", "engine.kv_cache", "kv_cache_mib"]);
    assert_refused(&run(&["check", "--config", "nowhere.toml"], ""), 2, &["--config", "nowhere.toml"]);
    assert_refused(&run(&["generate", "--prompt", "x", "--max-tokens", "0"], ""), 2, &["--max-tokens", "0"]);
    assert_refused(&run(&["generate", "--prompt", "x", "--temperature=-1"], ""), 2, &["--temperature"]);
    assert_refused(&run(&["learn", "--from", "nope", "--out", "x", "--steps", "1"], ""), 2, &["--from", "nope"]);
    assert_refused(&run(&["check", "--set", "critic.prompt=no variables"], ""), 2, &["critic.prompt", "response"]);
    assert_refused(&run(&["check", "--set", "critic.sampling.top_p=0.9"], ""), 2, &["critic.sampling.top_p"]);
    assert_refused(&run(&["fetch", "--set", "model.source=pip:x"], ""), 2, &["pip:x"]);
    assert_refused(
        &run(&["fetch", "--set", "model.source=no/such/folder"], ""),
        3,
        &["model.source", "no/such/folder"],
    );
    assert_refused(&run(&["score"], "{\"prompt_ids\": [1]}\n"), 2, &["line 1", "completion_ids"]);
    assert_refused(&run(&["score"], "{\"prompt_ids\": [1], \"completion_ids\": [999]}\n"), 2, &["999", "300"]);
    assert_refused(
        &run(&["generate", "--prompt", "x", "--adapter", "no/where"], ""),
        2,
        &["--adapter: expected an adapter's", "\"no/where\", which is not there"],
    );
    assert_refused(&run(&["generate"], ""), 2, &["--prompt"]);
    assert_refused(&run(&["check", "--device", "gpu"], ""), 2, &["model.device", "cuda:", "gpu"]);
    #[cfg(not(feature = "cuda"))]
    for command in [&["check"][..], &["generate", "--prompt", "x"], &["score"], &["start"]] {
        let output = run(&[command, &["--device", "cuda:0"]].concat(), "");
        assert_refused(&output, 2, &["cuda:0", "--features cuda"]);
    }
    assert_refused(&run(&["generate", "--prompt", "x", "--role", "critic"], ""), 2, &["response"]);
    assert_refused(&run(&["generate", "--prompt", "x", "--temperature=-1"], ""), 2, &["temperature", "-1"]);
    assert_refused(&run(&["generate", "--prompt", &"long ".repeat(200)], ""), 2, &["prompt", "tokens"]);
}

#[test]
fn check_prints_a_config_that_resolves_again_and_a_memory_plan() {
    let output = run(&["check"], "");
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table: toml::Table = printed.parse().unwrap();
    assert_eq!(table["engine"]["kv_cache_mib"].as_integer(), Some(64));
    assert!(printed.lines().any(|line| line == "# device: cpu"), "{printed}");
    for part in ["weights", "kv cache", "adapter", "optimizer", "activations", "total"] {
        assert!(printed.lines().any(|line| line.starts_with(&format!("# {part}"))), "{part}: {printed}");
    }
    let tokens = |kv: &str| -> f64 {
        let printed = text(&run(&["check", "--set", kv], "").stdout);
        let line = printed.lines().find_map(|line| line.strip_prefix("# KV cache: ")).unwrap();
        line.strip_suffix(" tokens").unwrap().parse().unwrap()
    };
    let [full, half, codes] = ["f32", "bf16", "int8"].map(|kv| tokens(&format!("engine.kv='{kv}'")));
    assert!((half / full - 2.0).abs() < 0.01 && codes > 1.5 * half, "{full}, {half}, {codes} tokens");
    assert_eq!(tokens("engine.kv='auto'"), half, "the default weights are int8");
    assert_refused(&run(&["check", "--set", "engine.kv_cache_mib=100000000"], ""), 2, &["memory", "available"]);
    assert_refused(
        &run(&["check", "--set", "engine.context_tokens_max=100000"], ""),
        2,
        &["engine.context_tokens_max"],
    );
}

#[derive(Deserialize)]
struct Completion {
    text: String,
    prompt_ids: Vec<u32>,
    token_ids: Vec<u32>,
    log_probs: Vec<f32>,
}

#[derive(Deserialize)]
struct Scored {
    log_probs: Vec<f32>,
}

#[test]
fn what_generate_writes_both_passes_of_score_confirm() {
    let adapter = golden("tiny_lora");
    let adapted = ["--adapter", adapter.to_str().unwrap()];
    for (weights, with) in [("f32", &[][..]), ("f32", &adapted), ("int8", &[]), ("int8", &adapted)] {
        let weights = format!("engine.weights={weights:?}");
        let ask = [
            "--set",
            &weights,
            "generate",
            "--prompt",
            "Say something.",
            "--json",
            "--max-tokens",
            "40",
            "--temperature",
            "1",
            "--seed",
            "5",
        ];
        let output = run(&[&ask[..], with].concat(), "");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let written: Completion = serde_json::from_slice(&output.stdout).unwrap();
        assert!(!written.token_ids.is_empty() && written.token_ids.len() == written.log_probs.len());
        assert!(!written.text.contains("<|im_end|>"));
        let again: Completion = serde_json::from_slice(&run(&[&ask[..], with].concat(), "").stdout).unwrap();
        assert_eq!(again.token_ids, written.token_ids, "the same seed writes the same text");
        let line = serde_json::json!({"prompt_ids": written.prompt_ids, "completion_ids": written.token_ids});
        for pass in ["decode", "score"] {
            let output = run(&[&["--set", &weights, "score", "--pass", pass], with].concat(), &format!("{line}\n"));
            assert!(output.status.success(), "{}", text(&output.stderr));
            let scored: Scored = serde_json::from_slice(&output.stdout).unwrap();
            let off = farthest(&scored.log_probs, &written.log_probs);
            // The score pass has the weights in f32, whatever the decode pass rounds them to.
            let limit = if weights.contains("int8") && pass == "score" { 0.5 } else { 1e-5 };
            assert!(off < limit, "{weights}, {pass}, {with:?}: {off}");
        }
    }
}

#[test]
fn a_prompts_file_is_written_whole_and_a_broken_line_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompts.jsonl");
    std::fs::write(&file, "{\"id\": \"a\", \"prompt\": \"one\"}\n\n{\"prompt\": \"two\"}\n").unwrap();
    let output = run(&["generate", "--prompts", file.to_str().unwrap(), "--max-tokens", "5", "-n", "2"], "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert_eq!(printed.matches("[a]").count(), 2, "{printed}");
    assert_eq!(printed.matches("[2]").count(), 2, "{printed}");
    assert!(text(&output.stderr).contains("tokens/s"));
    std::fs::write(&file, "{\"prompt\": \"one\"}\n{\"promt\": \"two\"}\n").unwrap();
    assert_refused(
        &run(&["generate", "--prompts", file.to_str().unwrap()], ""),
        2,
        &["prompts.jsonl", "line 2", "promt"],
    );
}

#[test]
fn check_reports_a_prompt_file_and_names_every_bad_line() {
    let folder = tempfile::tempdir().unwrap();
    let [file, kept] = ["mine.jsonl", "kept.jsonl"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    let line =
        |id: &str, prompt: &str, more: &str| format!(r#"{{"id": "{id}", "task": "sums", "prompt": "{prompt}"{more}}}"#);
    let good = [
        line("a", "What is 1 + 1?", r#", "answer": "2""#),
        line("b", "what is 1+1", r#", "answer": "2""#),
        line("c", "What is 1 + 1?", r#", "answer": "2""#),
        line(
            "d",
            "Name a city.",
            r#", "verifier": {"kind": "ifeval", "instructions": [{"id": "punctuation:no_comma"}]}"#,
        ),
    ];
    std::fs::write(&file, good.join("\n")).unwrap();
    std::fs::write(&kept, line("k", "Name a city!", "")).unwrap();
    let output = run(&["check", "--data", &file, "--held-out", &kept, "--json"], "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["prompts"], 4);
    assert_eq!(report["verifiers"], serde_json::json!({"ifeval": 1, "number": 3}));
    // The tiny model's tokens are bytes.
    let tokens =
        serde_json::json!({"min": 11, "median": 12, "p95": 14, "max": 14, "too_long": [], "too_long_are": "drop"});
    assert_eq!(report["tokens"], tokens);
    assert_eq!(report["repeated"], serde_json::json!({"exact": [3], "normalised": [2]}));
    assert_eq!(report["held_out"], serde_json::json!({"exact": [], "normalised": [4]}));
    assert_eq!(report["faults"], serde_json::json!([]));

    let bad = [line("e", "no answer", ""), line("a", "again", r#", "answer": "1""#), "{".to_owned()];
    std::fs::write(&file, [&good[..], &bad].concat().join("\n")).unwrap();
    let output = run(&["check", "--offline", "--data", &file], "");
    assert_refused(&output, 2, &["mine.jsonl: 3 of 7 lines would not be used, the first: line 5"]);
    let printed = text(&output.stdout);
    for part in [
        "4 prompts, 3 unusable lines",
        "line 5: expected an \"answer\"",
        "line 6: expected an id",
        "line 7: expected a JSON object on one line, got one that breaks off",
    ] {
        assert!(printed.contains(part), "expected {part:?} in: {printed}");
    }
    assert_refused(&run(&["check", "--data", "nowhere.jsonl"], ""), 2, &["--data", "nowhere.jsonl"]);
    let held_out = run(&["check", "--offline", "--data", &kept, "--held-out", "nowhere.jsonl"], "");
    assert_refused(&held_out, 2, &["--held-out: expected a readable file of prompts", "nowhere.jsonl"]);

    // What a run would leave out counts as unused too; what it would cut does not.
    std::fs::write(&file, format!("{}\n{}", good[0], line("f", &"long ".repeat(400), r#", "answer": 2"#))).unwrap();
    let output = run(&["check", "--data", &file], "");
    assert_refused(&output, 2, &["1 of 2 lines would not be used, the first: line 2: it leaves no room"]);
    let output = run(&["check", "--data", &file, "--set", "prompts.too_long='truncate_left'"], "");
    assert!(output.status.success(), "{}", text(&output.stderr));
}
