//! Texts: what OpenAI's clients read of them, whole and as streams.

use super::server::{Server, events};
use crate::support::models::tiny;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::Stdio;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn chat(more: Value) -> Value {
    let mut body = json!({
        "model": "critic", "messages": [{"role": "user", "content": "say something"}], "max_tokens": 12, "seed": 7,
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn completion(more: Value) -> Value {
    let mut body = json!({"model": "generator", "prompt": "say something", "max_tokens": 12, "seed": 7});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn the_models_are_the_roles_with_their_weights() {
    let server = Server::serve("").await;
    let list: Value = server.get("/v1/models").send().await.unwrap().json().await.unwrap();
    let named = list["data"].as_array().unwrap().iter().map(|card| {
        (card["id"].as_str().unwrap().to_owned(), card["root"].as_str().unwrap().split('/').next().unwrap().to_owned())
    });
    let expected = [("critic", "critic@0"), ("critic@0", "critic@0"), ("generator", "base")];
    let found: BTreeMap<_, _> = named.filter(|(id, _)| id != "judge").collect();
    assert_eq!(found, expected.map(|(id, root)| (id.to_owned(), root.to_owned())).into());
    let card: Value = server.get("/v1/models/critic@0").send().await.unwrap().json().await.unwrap();
    assert_eq!((card["object"].as_str(), card["max_model_len"].as_u64()), (Some("model"), Some(256)));
    assert_eq!(server.get("/v1/models/critic@5").send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_chat_has_the_shape_that_clients_read_and_names_its_critic() {
    let server = Server::serve("").await;
    let response = server.post(CHAT, &chat(json!({"ignore_eos": true}))).send().await.unwrap();
    assert_eq!(response.headers()["x-critic-version"], "0");
    let body: Value = response.json().await.unwrap();
    assert_eq!((body["object"].as_str(), body["model"].as_str()), (Some("chat.completion"), Some("critic")));
    assert!(body["system_fingerprint"].as_str().unwrap().starts_with("critic@0"), "{body}");
    let choice = &body["choices"][0];
    assert_eq!((choice["index"].as_u64(), choice["finish_reason"].as_str()), (Some(0), Some("length")));
    assert_eq!(choice["message"]["role"], "assistant");
    assert!(choice["message"]["content"].is_string() && choice["logprobs"].is_null(), "{choice}");
    let usage = &body["usage"];
    assert_eq!(usage["completion_tokens"], 12);
    assert_eq!(usage["total_tokens"].as_u64(), Some(usage["prompt_tokens"].as_u64().unwrap() + 12));
    assert!(usage["prompt_tokens_details"]["cached_tokens"].is_u64(), "{usage}");
    let base = server.post(CHAT, &chat(json!({"model": "generator"}))).send().await.unwrap();
    assert!(!base.headers().contains_key("x-critic-version"), "no critic wrote it");
}

/// What the events of a stream say of one text.
#[derive(Default)]
struct Joined {
    text: String,
    ids: Vec<Value>,
    log_probs: Vec<Value>,
    finish: String,
}

/// What the events of a stream say of each text.
fn joined(events: &[Value], text: impl Fn(&Value) -> Option<&str>) -> BTreeMap<u64, Joined> {
    let mut texts: BTreeMap<u64, Joined> = BTreeMap::new();
    for choice in events.iter().flat_map(|event| event["choices"].as_array().unwrap()) {
        let joined = texts.entry(choice["index"].as_u64().unwrap()).or_default();
        joined.text += text(choice).unwrap_or_default();
        joined.ids.extend(choice["token_ids"].as_array().into_iter().flatten().cloned());
        joined.log_probs.extend(choice["logprobs"]["content"].as_array().into_iter().flatten().cloned());
        if let Some(reason) = choice["finish_reason"].as_str() {
            assert!(joined.finish.is_empty(), "it ends once");
            joined.finish = reason.to_owned();
        }
    }
    texts
}

#[tokio::test]
async fn a_streamed_chat_is_the_whole_one_in_pieces() {
    let server = Server::serve("").await;
    let asked = json!({"n": 3, "logprobs": true, "top_logprobs": 2, "return_token_ids": true});
    let whole = server.ask(CHAT, chat(asked.clone())).await;
    let mut streamed = chat(asked);
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({"include_usage": true});
    let events = server.stream(CHAT, streamed).await;
    let found = joined(&events, |choice| choice["delta"]["content"].as_str());
    assert_eq!(found.len(), 3);
    for choice in whole["choices"].as_array().unwrap() {
        let Joined { text, ids, log_probs, finish: ended } = &found[&choice["index"].as_u64().unwrap()];
        assert_eq!(choice["message"]["content"].as_str(), Some(text.as_str()));
        assert_eq!((&choice["token_ids"], &choice["finish_reason"]), (&json!(ids), &json!(ended)));
        assert_eq!(choice["logprobs"]["content"], json!(log_probs));
    }
    let (last, rest) = events.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
    assert!(rest.iter().all(|event| event["usage"].is_null() && event["object"] == "chat.completion.chunk"));
    let first: BTreeSet<_> = rest
        .iter()
        .filter(|event| event["choices"][0]["delta"]["role"] == "assistant")
        .map(|event| event["choices"][0]["index"].as_u64())
        .collect();
    assert_eq!(first.len(), 3, "each text begins with its role");
    assert!(rest.iter().all(|event| event["id"] == rest[0]["id"]), "one answer has one id");
}

#[tokio::test]
async fn log_probabilities_are_those_of_the_tokens_and_the_likeliest_come_first() {
    let server = Server::serve("").await;
    let asked = json!({"temperature": 0, "logprobs": true, "top_logprobs": 3, "return_token_ids": true});
    let body = server.ask(CHAT, chat(asked)).await;
    let choice = &body["choices"][0];
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), choice["token_ids"].as_array().unwrap().len());
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        let numbers: Vec<f64> = top.iter().map(|likely| likely["logprob"].as_f64().unwrap()).collect();
        assert_eq!(numbers.len(), 3, "{token}");
        assert!(numbers.is_sorted_by(|a, b| a >= b), "{numbers:?}");
        assert_eq!(token["logprob"].as_f64(), Some(numbers[0]), "greedy takes the likeliest");
    }
}

#[tokio::test]
async fn a_seed_gives_the_same_texts_and_another_seed_others() {
    let server = Server::serve("").await;
    let texts = async |seed: u64, n: u64| -> Vec<Value> {
        let body = server.ask(COMPLETIONS, completion(json!({"seed": seed, "n": n, "return_token_ids": true}))).await;
        body["choices"].as_array().unwrap().iter().map(|choice| choice["token_ids"].clone()).collect()
    };
    let three = texts(7, 3).await;
    assert_eq!(three, texts(7, 3).await);
    assert_eq!(three[..1], texts(7, 1).await, "a text does not depend on its siblings");
    assert!(three[0] != three[1] && three[1] != three[2], "siblings differ");
    assert_ne!(three, texts(8, 3).await);
}

#[tokio::test]
async fn a_stop_string_cuts_the_text_before_it_whole_and_streamed() {
    let server = Server::serve("").await;
    let asked =
        json!({"max_tokens": 60, "temperature": 0.7, "ignore_eos": true, "logit_bias": {"97": 5, "98": 5, "99": 5}});
    let body = server.ask(COMPLETIONS, completion(asked.clone())).await;
    let text = body["choices"][0]["text"].as_str().unwrap().to_owned();
    let middle: Vec<char> = text.chars().collect();
    let stop: String = middle[middle.len() / 2..].iter().take(2).collect();
    let expected = &text[..text.find(&stop).unwrap()];
    for form in [json!(stop), json!(["\u{1}never", stop])] {
        let mut asked = completion(asked.clone());
        asked["stop"] = form;
        let choice = server.ask(COMPLETIONS, asked.clone()).await["choices"][0].clone();
        assert_eq!((choice["text"].as_str(), choice["finish_reason"].as_str()), (Some(expected), Some("stop")));
        asked["stream"] = json!(true);
        let found = joined(&server.stream(COMPLETIONS, asked).await, |choice| choice["text"].as_str());
        assert_eq!((found[&0].text.as_str(), found[&0].finish.as_str()), (expected, "stop"));
    }
}

#[tokio::test]
async fn a_bias_decides_what_is_written() {
    let server = Server::serve("").await;
    let only = json!({"logit_bias": {"113": 100}, "max_tokens": 5, "temperature": 1.0});
    assert_eq!(server.ask(COMPLETIONS, completion(only)).await["choices"][0]["text"], "qqqqq");
}

#[tokio::test]
async fn prompts_are_texts_or_ids_and_each_has_its_own_texts() {
    let server = Server::serve("").await;
    let ids = |text: &str| tiny().tokenizer.encode_document(text).unwrap();
    let texts = async |prompt: Value| -> Vec<Value> {
        let body = server.ask(COMPLETIONS, completion(json!({"prompt": prompt, "n": 2}))).await;
        let choices = body["choices"].as_array().unwrap().clone();
        assert!(choices.iter().enumerate().all(|(index, choice)| choice["index"] == json!(index)));
        choices.into_iter().map(|choice| choice["text"].clone()).collect()
    };
    let [one, two] = ["one prompt", "another"];
    let (first, second) = (texts(json!(one)).await, texts(json!(two)).await);
    assert_eq!(first, texts(json!(ids(one))).await);
    let both = [first, second].concat();
    assert_eq!(both, texts(json!([one, two])).await);
    assert_eq!(both, texts(json!([ids(one), ids(two)])).await);
}

#[tokio::test]
async fn an_echo_gives_the_prompt_with_the_log_probabilities_that_score_computes() {
    let server = Server::serve("engine.weights='f32'").await;
    let prompt = "Paris is the capital";
    let ids = tiny().tokenizer.encode_document(prompt).unwrap();
    let asked = json!({"prompt": ids, "max_tokens": 1, "logprobs": 1, "echo": true, "temperature": 0});
    let body = server.ask(COMPLETIONS, completion(asked.clone())).await;
    let choice = &body["choices"][0];
    assert!(choice["text"].as_str().unwrap().starts_with(prompt), "{choice}");
    let log_probs = choice["logprobs"]["token_logprobs"].as_array().unwrap();
    assert_eq!(log_probs.len(), ids.len() + 1);
    assert!(log_probs[0].is_null() && choice["logprobs"]["top_logprobs"][0].is_null());
    let found: Vec<f64> = log_probs[1..ids.len()].iter().map(|value| value.as_f64().unwrap()).collect();
    let expected = scored(&server, &ids);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-3, "{found} {expected}");
    }
    for (own, top) in log_probs[1..].iter().zip(&choice["logprobs"]["top_logprobs"].as_array().unwrap()[1..]) {
        let likely = top.as_object().unwrap().values().map(|value| value.as_f64().unwrap());
        assert!(likely.fold(f64::MIN, f64::max) >= own.as_f64().unwrap(), "{top}");
    }
    let mut nothing = completion(asked);
    nothing["max_tokens"] = json!(0);
    let body = server.ask(COMPLETIONS, nothing).await;
    assert_eq!(body["choices"][0]["text"], prompt);
    assert_eq!(body["choices"][0]["logprobs"]["token_logprobs"], json!(log_probs[..ids.len()]));
}

/// Log-probabilities of `ids` after the first, by `rco-node score`.
fn scored(server: &Server, ids: &[u32]) -> Vec<f64> {
    let mut command = super::server::program(server.folder.path(), "", &["score"]);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let line = json!({"prompt_ids": ids[..1], "completion_ids": ids[1..]});
    process.stdin.take().unwrap().write_all(line.to_string().as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let scored: Value = serde_json::from_slice(&output.stdout).unwrap();
    serde_json::from_value(scored["log_probs"].clone()).unwrap()
}

#[tokio::test]
async fn the_offsets_of_a_stream_are_where_its_tokens_begin_in_the_text() {
    let server = Server::serve("").await;
    let asked = json!({
        "prompt": "añ🎉 b", "echo": true, "logprobs": 0, "stream": true, "logit_bias": {"97": 9, "122": 9}, "n": 2,
    });
    let mut texts: BTreeMap<u64, (String, Vec<(String, u64)>)> = BTreeMap::new();
    for event in server.stream(COMPLETIONS, completion(asked)).await {
        let choice = &event["choices"][0];
        let (text, tokens) = texts.entry(choice["index"].as_u64().unwrap()).or_default();
        *text += choice["text"].as_str().unwrap();
        let names = choice["logprobs"]["tokens"].as_array().into_iter().flatten();
        let offsets = choice["logprobs"]["text_offset"].as_array().into_iter().flatten();
        tokens.extend(
            names.zip(offsets).map(|(name, offset)| (name.as_str().unwrap().to_owned(), offset.as_u64().unwrap())),
        );
    }
    assert_eq!(texts.len(), 2);
    for (text, tokens) in texts.values() {
        assert!(text.starts_with("añ🎉 b") && tokens.len() > 12, "{text} {tokens:?}");
        for (token, offset) in tokens.iter().filter(|(token, _)| !token.starts_with("<|")) {
            let begins: String = text.chars().skip(*offset as usize).collect();
            assert!(begins.starts_with(token), "{token:?} at {offset} of {text:?}");
        }
    }
}

#[tokio::test]
async fn a_prompt_that_was_asked_before_is_found_in_the_cache() {
    let server = Server::serve("").await;
    let long = completion(json!({"prompt": "x".repeat(130), "max_tokens": 1}));
    let cached = async || {
        server.ask(COMPLETIONS, long.clone()).await["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64()
    };
    assert_eq!(cached().await, Some(0));
    assert!(cached().await >= Some(96), "whole blocks are found again");
}

#[tokio::test]
async fn the_tokenizer_answers_in_the_shapes_of_vllm() {
    let server = Server::serve("").await;
    let text = "añ🎉 <|im_end|>";
    let body = server.ask("/tokenize", json!({"prompt": text, "return_token_strs": true})).await;
    let ids = tiny().tokenizer.encode_document(text).unwrap();
    assert_eq!(
        (&body["tokens"], &body["count"], &body["max_model_len"]),
        (&json!(ids), &json!(ids.len()), &json!(256))
    );
    assert_eq!(body["token_strs"].as_array().unwrap().last().unwrap(), "<|im_end|>");
    assert_eq!(server.ask("/detokenize", json!({"tokens": ids})).await["prompt"], "añ🎉 ");
    let info: Value = server.get("/tokenizer_info").send().await.unwrap().json().await.unwrap();
    assert!(info["eos_token"].is_string() && info["vocab_size"] == json!(tiny().tokenizer.len()), "{info}");
    let refused = server.post("/detokenize", &json!({"tokens": [70000]})).send().await.unwrap();
    assert_eq!(refused.status(), 400);
}

#[tokio::test]
async fn the_document_lists_every_route_and_every_field() {
    let server = Server::serve("").await;
    let document: Value = server.get("/openapi.json").send().await.unwrap().json().await.unwrap();
    let paths: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    for path in
        ["/metrics", "/healthz", "/readyz", "/health", "/v1/models", CHAT, COMPLETIONS, "/v1/critique", "/tokenize"]
    {
        assert!(paths.contains(path), "{path}: {paths:?}");
    }
    let text = document.to_string();
    for field in ["max_completion_tokens", "logit_bias", "return_token_ids", "include_usage", "top_logprobs", "echo"] {
        assert!(text.contains(&format!("\"{field}\"")), "{field}");
    }
    // Every reference leads somewhere.
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn a_hundred_clients_at_once_are_answered_or_told_to_come_back() {
    let server = Server::serve("http.requests_max=32").await;
    let asking = (0..100).map(|seed| {
        let request = server.post(COMPLETIONS, &completion(json!({"seed": seed, "stream": true})));
        tokio::spawn(async move {
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        })
    });
    let mut answered = 0;
    for asked in asking.collect::<Vec<_>>() {
        let (status, body) = asked.await.unwrap();
        match status {
            200 => answered += usize::from(!events(&body).is_empty()),
            status => assert_eq!(status, 429, "{body}"),
        }
    }
    assert!(answered >= 32, "{answered}");
}
