//! `rco-node verify` as its user meets it: what a text is read as, and why it has its score.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

fn verify(folder: &Path, texts: &[Value], prompts: &[Value], more: &[&str]) -> Output {
    let lines = |values: &[Value]| values.iter().map(|value| format!("{value}\n")).collect::<String>();
    std::fs::write(folder.join("texts.jsonl"), lines(texts)).unwrap();
    std::fs::write(folder.join("prompts.jsonl"), lines(prompts)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rco-node"));
    command.arg("verify").args(["--texts", "texts.jsonl", "--prompts", "prompts.jsonl"]).args(more);
    command.current_dir(folder).output().unwrap()
}

fn read(output: &Output) -> Vec<Value> {
    assert!(output.stderr.len() < 10_000);
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn texts_get_scores_with_what_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = [
        json!({"id": "sum", "task": "math", "prompt": "3 + 4?", "answer": "7"}),
        json!({"id": "pick", "task": "qa", "prompt": "Which?", "answer": "B", "verifier": {"kind": "choice", "options": ["red", "blue"]}}),
    ];
    let texts = [
        json!({"id": "sum", "text": "<think>8?</think>So it is \\boxed{7}."}),
        json!({"id": "sum", "text": "It is 8."}),
        json!({"id": "pick", "text": "(A) does not fit, so it is blue."}),
        json!({"id": "own", "answer": "1/2", "text": "50%", "want": 1}),
    ];
    let output = verify(folder.path(), &texts, &prompts, &["--json"]);
    assert!(output.status.success(), "{output:?}");
    let scored = read(&output);
    let part = |key: &str| scored.iter().map(|line| line[key].clone()).collect::<Vec<_>>();
    assert_eq!(part("score"), [1.0, 0.0, 1.0, 1.0].map(|score| json!(score)));
    assert_eq!(part("extracted"), ["7", "8", "B (blue)", "50%"].map(|text| json!(text)));
    assert_eq!(scored[1]["why"], "expected 7, got 8");
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("4 texts, mean score 0.7500, 0 without a score, 1 of 1 as expected")
    );
    let output = verify(folder.path(), &texts[..3], &prompts, &[]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains(" 0.00  sum: expected 7, got 8\n"), "{shown}");
}

#[test]
fn a_score_that_is_not_the_one_expected_fails_and_what_cannot_be_checked_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = verify(folder.path(), &[json!({"answer": "7", "text": "8", "want": 1})], &[], &[]);
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    assert!(String::from_utf8_lossy(&wrong.stdout).contains("(expected a score of 1)"), "{wrong:?}");
    for (text, why) in [
        (
            json!({"answer": "none of these", "text": "8"}),
            "text 1: its prompt cannot be checked: expected a number or an expression",
        ),
        (json!({"id": "nobody", "text": "8"}), "text 1: expected the id of a prompt of prompts.jsonl, got \"nobody\""),
        (json!({"id": "x"}), "line 1: expected {\"id\", \"text\"}"),
    ] {
        let prompts = [json!({"id": "p", "task": "t", "prompt": "?", "answer": "7"})];
        let refused = verify(folder.path(), &[text], &prompts, &[]);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(why), "{why}: {refused:?}");
    }
}

#[test]
fn a_program_and_a_server_of_the_users_give_scores() {
    let folder = tempfile::tempdir().unwrap();
    let program = "import json, sys\nfor line in sys.stdin:\n    asked = json.loads(line)\n    \
                   print(json.dumps({'score': float(asked['answer'] in asked['text'])}), flush=True)\n";
    std::fs::write(folder.path().join("score.py"), program).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/score", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let asked: Value = serde_json::from_slice(&body).unwrap();
            let reply = json!({"score": if asked["text"] == "half" { 0.5 } else { 7.0 }}).to_string();
            let head =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{reply}", reply.len());
            stream.get_mut().write_all(head.as_bytes()).unwrap();
        }
    });
    let command = json!({"kind": "command", "argv": ["python3", "score.py"]});
    let server = json!({"kind": "http", "url": url});
    let texts = [
        json!({"answer": "moon", "verifier": command, "text": "the moon"}),
        json!({"answer": "moon", "verifier": command, "text": "the sun"}),
        json!({"verifier": server, "text": "half"}),
        json!({"verifier": server, "text": "odd"}),
    ];
    let output = verify(folder.path(), &texts, &[], &["--json", "--set", "judge.allow_unsandboxed=true"]);
    assert!(output.status.success(), "{output:?}");
    let scores: Vec<Value> = read(&output).iter().map(|line| line["score"].clone()).collect();
    assert_eq!(scores, [json!(1.0), json!(0.0), json!(0.5), Value::Null]);
}
