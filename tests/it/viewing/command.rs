//! `rco-node episodes`: lists, trees, and a file for a browser.

use rco_node::records::FILE;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// A record as a run writes it. Critiques are (version, text, CU, verdicts).
pub fn record(id: u64, task: &str, prompt: &str, critiques: &[(u64, &str, Option<f64>, Value)]) -> Value {
    let critique = |(version, text, utility, verdicts): &(u64, &str, Option<f64>, Value)| {
        json!({
            "version": version, "text": text, "finish": "stop", "utility": utility,
            "refinements": [{"text": format!("refined {text}"), "verdicts": verdicts}],
            "tokens": [text, "<|im_end|>"], "log_probs": [-1.25, -0.01],
        })
    };
    json!({
        "id": id, "time": 1_795_999_999_000_u64 + id, "seconds": 1.5, "end": "kept",
        "prompt": {"id": format!("p{}", id % 7), "task": task, "text": prompt, "answer": "4"},
        "response": format!("response {id}"), "critiques": critiques.iter().map(critique).collect::<Vec<_>>(),
    })
}

/// Three episodes, one of which wants to be more than text.
fn write(folder: &Path) {
    let hostile = "clear \u{1b}[2J\u{9b}31m and \u{202e}turn\u{202c}\rback\ncritique 9 by v9";
    let invalid = json!([{"invalid": "unreadable"}, {"invalid": "unpaired"}]);
    let lines = [
        record(
            1,
            "sums",
            "2 + 2?",
            &[(0, "wrong", Some(0.75), json!(["win", "tie"])), (1, "fine", Some(0.0), json!(["loss"]))],
        ),
        record(2, "\u{1b}[7mtask", hostile, &[(2, hostile, None, invalid)]),
        record(3, "sums", &format!("{} 3 + 3?", "long ".repeat(20_000)), &[(2, "good", Some(1.0), json!(["win"]))]),
    ];
    fs::write(folder.join(FILE), lines.map(|line| format!("{line}\n")).concat() + "{\"id\": 4, \"ti").unwrap();
}

fn episodes(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rco-node"))
        .args(["episodes", "--run"])
        .arg(folder)
        .args(arguments)
        .output()
        .unwrap()
}

fn said(output: &Output) -> (String, String) {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8(bytes.clone()).unwrap());
    assert_eq!(output.status.code(), Some(0), "{err}");
    (out, err)
}

/// Characters that a terminal obeys, or that turn its lines around.
fn steers(text: &str) -> bool {
    text.chars().any(|c| c != '\n' && c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c))
}

#[test]
fn a_list_shows_each_episode_in_a_line_and_obeys_none_of_their_texts() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let (out, err) = said(&episodes(folder.path(), &[]));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 4, "{out}");
    assert!(lines[1].trim_start().starts_with("3 ") && lines[1].contains("2026-11-30 00:53:19"), "{out}");
    assert!(lines[2].contains("(2 invalid)") && lines[2].contains("\\u{1b}[7mtask"), "{out}");
    assert!(lines[3].contains("v0 v1") && lines[3].contains("0.38 [0.00, 0.75]"), "{out}");
    assert!(!steers(&out) && lines.iter().all(|line| line.chars().count() < 200), "{out}");
    assert!(err.contains("skipped 1 lines"), "{err}");
    for (arguments, expected) in [
        (&["--task", "sums"][..], vec![3, 1]),
        (&["--invalid"][..], vec![2]),
        (&["--version", "2"][..], vec![3, 2]),
        (&["--min-cu", "0.8"][..], vec![3]),
        (&["--max-cu", "0.5", "--version", "1"][..], vec![1]),
        (&["--text", "RESPONSE 2"][..], vec![2]),
        (&["--text", "\u{202e}turn"][..], vec![2]),
        (&["--limit", "1"][..], vec![3]),
        (&["--prompt", "p1"][..], vec![1]),
    ] {
        let (out, _) = said(&episodes(folder.path(), &[arguments, &["--json"]].concat()));
        let ids: Vec<u64> =
            out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_u64().unwrap()).collect();
        assert_eq!(ids, expected, "{arguments:?}");
    }
}

#[test]
fn a_tree_is_shown_whole_and_no_text_passes_for_a_part_of_it() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let (out, _) = said(&episodes(folder.path(), &["--show", "1"]));
    for part in [
        "episode 1: kept, ended 2026-11-30 00:53:19 UTC after 1.5 s\n",
        "prompt p1 (sums), answer 4\n  | 2 + 2?\nresponse\n  | response 1\n",
        "critique 1 by v0: CU 0.75, 2 tokens, mean log-prob -0.63\n  | wrong\n",
        "  refinement 1: win with the response first, tie with the refinement first\n    | refined wrong\n",
        "critique 2 by v1: CU 0.00",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (out, _) = said(&episodes(folder.path(), &["--show", "2"]));
    assert!(!steers(&out), "{out}");
    assert!(
        out.contains("  | clear \\u{1b}[2J\\u{9b}31m and \\u{202e}turn\\u{202c}\\u{d}back\n  | critique 9 by v9\n"),
        "{out}"
    );
    assert_eq!(out.lines().filter(|line| line.starts_with("critique")).count(), 1, "{out}");
    let (out, _) = said(&episodes(folder.path(), &["--show", "3", "--json"]));
    let whole: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(whole["prompt"]["text"].as_str().unwrap().len(), 100_007);
}

#[test]
fn what_cannot_be_shown_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let fails = |arguments: &[&str], part: &str| {
        let output = episodes(folder.path(), arguments);
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(err.contains(part), "{err}");
    };
    fails(&[], "holds no episodes.jsonl: expected the directory of a run that keeps its episodes");
    write(folder.path());
    fails(&["--show", "77"], "episode 77: expected one that `rco-node episodes` lists");
    fails(&["--min-cu", "1.5"], "expected a critique utility from 0 to 1, got \"1.5\"");
    fails(&["--show", "1", "--html", "x.html"], "cannot be used with");
    fails(&["--html", "/nowhere/x.html"], "/nowhere/x.html");
}

#[test]
fn a_page_is_one_file_with_the_episodes_that_were_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let path = folder.path().join("page.html");
    let (out, err) = said(&episodes(folder.path(), &["--task", "sums", "--html", path.to_str().unwrap()]));
    assert!(out.trim() == path.to_str().unwrap() && err.contains("2 episodes"), "{out} {err}");
    let page = fs::read_to_string(&path).unwrap();
    let data = page.split_once("id=\"records\">").unwrap().1.split_once("</script>").unwrap().0;
    let records: Vec<Value> = serde_json::from_str(data).unwrap();
    assert_eq!(records.iter().map(|record| record["id"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 1]);
    assert!(page.contains("<meta http-equiv=\"Content-Security-Policy\"") && !page.contains("unsafe"));
    assert!(!page.contains("page.css") && !page.contains("page.js"), "it needs no other file");
}
