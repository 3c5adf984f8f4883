//! Critiques of a response, with refinements and verdicts, over HTTP and as a command.

use super::server::{Server, problem, program};
use serde_json::{Value, json};

fn asked(more: Value) -> Value {
    let mut body = json!({"prompt": "say 3", "response": "4", "n": 2, "refine": 1, "seed": 5, "answer": "3"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_response_is_criticised_refined_and_judged() {
    let server = Server::serve("").await;
    let response = server.post("/v1/critique", &asked(json!({}))).send().await.unwrap();
    assert_eq!(response.headers()["x-critic-version"], "0");
    let body: Value = response.json().await.unwrap();
    assert!(body["system_fingerprint"].as_str().unwrap().starts_with("critic@0"), "{body}");
    let critiques = body["critiques"].as_array().unwrap();
    assert_eq!(critiques.len(), 2);
    for critique in critiques {
        assert!(critique["text"].is_string() && critique["tokens"].as_u64() > Some(0), "{critique}");
        assert_eq!(critique["refinements"].as_array().unwrap().len(), 1);
        let verdicts = critique["verdicts"].as_array().unwrap();
        assert!(!verdicts.is_empty(), "{critique}");
        let valid = verdicts.iter().any(|verdict| verdict["verdict"] != "invalid");
        assert_eq!(critique["utility"].is_null(), !valid, "a utility over no valid verdict is absent: {critique}");
    }
    let again = server.ask("/v1/critique", asked(json!({}))).await;
    assert_eq!(again["critiques"], body["critiques"], "a seed gives the same critiques");
    let alone = server.ask("/v1/critique", asked(json!({"refine": 0, "model": "critic@0"}))).await;
    let texts = |body: &Value| -> Vec<Value> {
        body["critiques"].as_array().unwrap().iter().map(|critique| critique["text"].clone()).collect()
    };
    assert_eq!(texts(&alone), texts(&body));
    assert_eq!(alone["critiques"][0]["verdicts"], json!([]));
}

#[tokio::test]
async fn a_critique_that_cannot_be_had_is_refused_with_its_field() {
    let server = Server::serve("http.texts_max=8").await;
    for (more, status, param) in [
        (json!({"n": 0}), 400, "n"),
        (json!({"n": 5, "refine": 1}), 400, "n"),
        (json!({"model": "generator"}), 404, "model"),
        (json!({"model": "critic@9"}), 404, "model"),
        (json!({"temperature": -1}), 400, "temperature"),
        (json!({"top_p": 0}), 400, "top_p"),
        (json!({"max_tokens": 0}), 400, "max_tokens"),
        (json!({"top_k": 1}), 400, "top_k"),
        (json!({"response": "x".repeat(300)}), 400, "prompt"),
    ] {
        let (found, error) = problem(server.post("/v1/critique", &asked(more.clone())).send().await.unwrap()).await;
        assert_eq!((found, error["param"].as_str()), (status, Some(param)), "{more}: {error}");
    }
}

#[tokio::test]
async fn the_command_writes_what_the_server_writes() {
    let server = Server::serve("").await;
    let body = server.ask("/v1/critique", asked(json!({}))).await;
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "critique",
        "--prompt",
        "say 3",
        "--response",
        "4",
        "-n",
        "2",
        "--refine",
        "1",
        "--seed",
        "5",
        "--answer",
        "3",
        "--json",
    ];
    let output = program(folder.path(), "", &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for (line, critique) in lines.iter().zip(body["critiques"].as_array().unwrap()) {
        assert_eq!((&line["critique"], &line["utility"]), (&critique["text"], &critique["utility"]));
        assert_eq!(line["refinements"][0], critique["refinements"][0]["text"]);
    }
}
