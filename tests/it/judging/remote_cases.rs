//! Answers of servers from public bug reports, each with the verdict that a judge there gave.

use crate::support::server::{Act, Asked, Rigged};
use rco_node::remote::{ChatRequest, Client};
use rco_node::roles::judge::Judge;
use rco_node::types::{ChatRole, Choice, Turn};
use serde_json::{Value, json};

/// The bytes of the answer that `case` describes.
fn answer(case: &Value) -> Vec<u8> {
    let mut message = json!({"role": "assistant", "content": case["text"]});
    if case["message"].is_object() {
        message = case["message"].clone();
    }
    let finish = case["finish"].as_str().unwrap_or("stop");
    let mut choice = json!({"index": 0, "message": message, "finish_reason": finish});
    merge(&mut choice, &case["choice"]);
    let mut body = json!({"id": "x", "choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}});
    merge(&mut body, &case["top"]);
    if case["usage"].is_object() {
        body["usage"] = case["usage"].clone();
    }
    let text = case["body"].as_str().map_or_else(|| body.to_string(), str::to_owned);
    let text =
        format!("{}{}{text}", if case["bom"] == true { "\u{feff}" } else { "" }, case["before"].as_str().unwrap_or(""));
    let status = case["status"].as_u64().unwrap_or(200);
    let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n");
    if case["chunked"] == true {
        let (one, two) = text.split_at(text.len() / 2);
        let chunks = [one, two, ""].map(|part| format!("{:x}\r\n{part}\r\n", part.len()));
        return format!("{head}transfer-encoding: chunked\r\n\r\n{}", chunks.concat()).into_bytes();
    }
    if case["gzip"] == true {
        // The head of a compressed stream, which nobody asked for.
        let body = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
        return [format!("{head}content-encoding: gzip\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(), &body]
            .concat();
    }
    format!("{head}content-length: {}\r\n\r\n{text}", text.len()).into_bytes()
}

fn merge(into: &mut Value, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

fn act(case: &Value, number: usize, asked: &Asked) -> Act {
    if let Some(status) = case["first_status"].as_u64().filter(|_| number == 0) {
        return Act::Status(status as u16, None);
    }
    let refused = case["refuse_param"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(field) = refused.into_iter().find(|field| !asked.body[field].is_null()) {
        let body =
            json!({"error": {"message": format!("Unsupported value: '{field}' is not supported with this model.")}})
                .to_string();
        return Act::Raw(
            format!("HTTP/1.1 400 X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes(),
        );
    }
    Act::Raw(answer(case))
}

#[tokio::test]
async fn answers_of_public_reports_are_read_as_their_judges_meant_them() {
    let cases: Vec<Value> = include_str!("../../golden/remote_cases.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(cases.len(), 29);
    for case in cases {
        let script = case.clone();
        let server = Rigged::start(move |number, asked| act(&script, number, asked)).await;
        let client = Client::new(&super::remote::patient(&server)).unwrap();
        let turns = vec![Turn::new(ChatRole::User, "which?")];
        let asked = client.chat(&ChatRequest { turns, max_tokens: 4, ..ChatRequest::default() }).await;
        let said = asked.as_ref().ok().and_then(|answer| Judge::read(&answer.text, answer.finish));
        let got = match said {
            Some(Choice::A) => "A",
            Some(Choice::B) => "B",
            Some(Choice::Tie) => "tie",
            None => "none",
        };
        assert_eq!(case["want"], got, "{}: {asked:?}", case["id"]);
    }
}

#[tokio::test]
async fn a_server_that_fails_is_passed_over_for_one_that_answers() {
    let down = Rigged::start(|_, _| Act::Status(503, None)).await;
    let up = Rigged::start(|_, _| Act::Say("B".into())).await;
    let mut config = super::remote::patient(&down);
    config.more_base_urls = vec![up.base_url.clone()];
    let client = Client::new(&config).unwrap();
    for seed in 0..8 {
        let turns = vec![Turn::new(ChatRole::User, "which?")];
        let answer = client.chat(&ChatRequest { turns, seed, ..ChatRequest::default() }).await.unwrap();
        assert_eq!(answer.text, "B");
    }
    assert!(down.asked().len() <= 1, "it rests after its failure: {}", down.asked().len());
}
