//! What is refused, and how that is told.

use super::server::{Server, events, problem};
use serde_json::{Value, json};
use std::time::Duration;

fn chat(more: Value) -> Value {
    merged(json!({"model": "generator", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}), more)
}

fn completion(more: Value) -> Value {
    merged(json!({"model": "generator", "prompt": "hi", "max_tokens": 2}), more)
}

fn merged(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_field_that_is_not_supported_is_refused_by_name_and_never_ignored() {
    let server = Server::serve("http.texts_max=8").await;
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    for (body, param) in [
        (chat(json!({"frequency_penalty": 0.5})), "frequency_penalty"),
        (chat(json!({"tools": tools})), "tools"),
        (chat(json!({"response_format": {"type": "json_object"}})), "response_format"),
        (chat(json!({"unheard_of": 1})), "unheard_of"),
        (chat(json!({"stream": true, "stream_options": {"unheard_of": 1}})), "stream_options.unheard_of"),
        (chat(json!({"messages": [{"role": "user", "content": "hi", "name": "me"}]})), "messages.0.name"),
    ] {
        let (status, error) = problem(server.post("/v1/chat/completions", &body).send().await.unwrap()).await;
        assert_eq!((status, error["param"].as_str()), (400, Some(param)), "{body}: {error}");
        assert_eq!(error["code"], "unsupported_parameter");
        assert!(error["message"].as_str().unwrap().contains(param), "{error}");
    }
    let neutral = json!({
        "frequency_penalty": 0, "presence_penalty": 0.0, "user": "me", "store": false, "metadata": {"a": "b"}, "tools": [],
        "response_format": {"type": "text"}, "stop": null, "unheard_of": null, "logit_bias": null, "seed": null,
    });
    server.ask("/v1/chat/completions", chat(neutral)).await;
}

#[tokio::test]
async fn a_value_that_cannot_be_used_is_refused_with_its_field() {
    let server = Server::serve("http.texts_max=8").await;
    for (body, param) in [
        (chat(json!({"temperature": -1})), "temperature"),
        (chat(json!({"temperature": "hot"})), "temperature"),
        (chat(json!({"top_p": 0})), "top_p"),
        (chat(json!({"n": 0})), "n"),
        (chat(json!({"n": 9})), "n"),
        (chat(json!({"stop": ""})), "stop"),
        (chat(json!({"stop": 3})), "stop"),
        (chat(json!({"logit_bias": {"nine": 1}})), "logit_bias"),
        (chat(json!({"logit_bias": {"70000": 1}})), "logit_bias"),
        (chat(json!({"logit_bias": {"65": 101}})), "logit_bias"),
        (chat(json!({"stop_token_ids": [70000]})), "stop_token_ids"),
        (chat(json!({"top_logprobs": 2})), "top_logprobs"),
        (chat(json!({"logprobs": true, "top_logprobs": 21})), "top_logprobs"),
        (chat(json!({"max_tokens": 0})), "max_tokens"),
        (chat(json!({"messages": []})), "messages"),
        (chat(json!({"messages": [{"role": "tool", "content": "x"}]})), "messages.0.role"),
        (chat(json!({"stream_options": {"include_usage": true}})), "stream_options"),
    ] {
        let (status, error) = problem(server.post("/v1/chat/completions", &body).send().await.unwrap()).await;
        assert_eq!((status, error["param"].as_str()), (400, Some(param)), "{body}: {error}");
    }
    for (body, param) in [
        (completion(json!({"prompt": ""})), "prompt"),
        (completion(json!({"prompt": []})), "prompt"),
        (completion(json!({"prompt": {"a": 1}})), "prompt"),
        (completion(json!({"prompt": [70000]})), "prompt"),
        (completion(json!({"logprobs": 21})), "logprobs"),
        (completion(json!({"prompt": vec!["a"; 9]})), "n"),
        (completion(json!({"best_of": 2})), "best_of"),
    ] {
        let (status, error) = problem(server.post("/v1/completions", &body).send().await.unwrap()).await;
        assert_eq!((status, error["param"].as_str()), (400, Some(param)), "{body}: {error}");
    }
    let long = completion(json!({"prompt": "x".repeat(300)}));
    let (status, error) = problem(server.post("/v1/completions", &long).send().await.unwrap()).await;
    assert_eq!((status, error["code"].as_str()), (400, Some("context_length_exceeded")), "{error}");
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let server = Server::serve("http.body_mib_max=1").await;
    for model in ["gpt-4o", "critic@77", "critic@x", "judge@1"] {
        let body = chat(json!({"model": model}));
        let (status, error) = problem(server.post("/v1/chat/completions", &body).send().await.unwrap()).await;
        assert_eq!((status, error["code"].as_str()), (404, Some("model_not_found")), "{model}: {error}");
    }
    let (status, error) = problem(server.get("/v1/nothing").send().await.unwrap()).await;
    assert_eq!((status, error["code"].as_str()), (404, Some("unknown_url")));
    let (status, error) = problem(server.get("/v1/completions").send().await.unwrap()).await;
    assert_eq!((status, error["code"].as_str()), (405, Some("method_not_allowed")));
    let huge = completion(json!({"prompt": "x".repeat(2 << 20)}));
    let (status, error) = problem(server.post("/v1/completions", &huge).send().await.unwrap()).await;
    assert_eq!((status, error["code"].as_str()), (413, Some("request_too_large")));
    let broken = server.client.post(format!("{}/v1/completions", server.url)).body("{").send().await.unwrap();
    assert_eq!(problem(broken).await.0, 400);
}

/// A context in which a text takes minutes.
const LONG: &str = "engine.context_tokens_max=100000\nengine.kv_cache_mib=256\n";

fn endless() -> Value {
    completion(json!({"max_tokens": 90000, "ignore_eos": true, "stream": true}))
}

#[tokio::test]
async fn one_request_too_many_is_told_when_to_come_back() {
    let server = Server::serve(&format!("{LONG}http.requests_max=1")).await;
    // Once its head is here it holds the one place.
    let held = server.post("/v1/completions", &endless()).send().await.unwrap();
    assert_eq!(held.status(), 200);
    let busy = server.post("/v1/completions", &completion(json!({}))).send().await.unwrap();
    assert_eq!(busy.headers()["retry-after"], "1");
    let (status, error) = problem(busy).await;
    assert_eq!((status, error["code"].as_str()), (429, Some("rate_limit_exceeded")));
    assert_eq!(server.get("/healthz").send().await.unwrap().status(), 200, "health is always answered");
    drop(held);
    let mut free = 429;
    for _ in 0..500 {
        free = server.post("/v1/completions", &completion(json!({}))).send().await.unwrap().status().as_u16();
        if free == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(free, 200, "a client that leaves makes room");
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_blocks() {
    let server = Server::serve(LONG).await;
    for streamed in [true, false] {
        let body = merged(endless(), json!({"stream": streamed}));
        let leaving = server.post("/v1/completions", &body).timeout(Duration::from_millis(300)).send();
        if let Ok(response) = leaving.await {
            assert!(response.text().await.is_err(), "the text does not end in time");
        }
        // The gauges are moved by steps, so a short text moves them once the long one is gone.
        let mut left = (1.0, 1.0);
        for _ in 0..100 {
            server.ask("/v1/completions", completion(json!({"max_tokens": 1}))).await;
            left = (
                server.metric("rco_engine_sequences_running").await,
                server.metric("rco_engine_kv_cache_usage_ratio").await,
            );
            if left == (0.0, 0.0) {
                break;
            }
        }
        assert_eq!(left, (0.0, 0.0), "sequences and blocks are left, streamed: {streamed}");
    }
}

#[tokio::test]
async fn an_answer_that_takes_too_long_ends_with_an_error() {
    let server = Server::serve(&format!("{LONG}http.request_deadline_seconds=1")).await;
    let body = server.post("/v1/completions", &endless()).send().await.unwrap().text().await.unwrap();
    assert!(
        body.contains("\"code\":\"deadline\"") && !body.contains("[DONE]"),
        "{}",
        &body[body.len().saturating_sub(300)..]
    );
    let whole = merged(endless(), json!({"stream": false}));
    let (status, error) = problem(server.post("/v1/completions", &whole).send().await.unwrap()).await;
    assert_eq!((status, error["code"].as_str()), (504, Some("deadline")));
    let short = completion(json!({"stream": true}));
    events(&server.post("/v1/completions", &short).send().await.unwrap().text().await.unwrap());
}
