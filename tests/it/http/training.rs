//! A node that trains serves texts meanwhile.

use super::server::Server;
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn a_node_serves_while_it_learns_and_says_which_critic_wrote() {
    let more = "learner.learning_rate=1e-2\njudge.kind='verifier'";
    let server = Server::start(more, &["start"], &[]).await;
    let mut versions = Vec::new();
    while versions.last() < Some(&2) {
        let body = json!({"model": "critic", "prompt": "say 3", "max_tokens": 4, "stream": versions.len() % 2 == 0});
        let response = server.post("/v1/completions", &body).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let version: u64 = response.headers()["x-critic-version"].to_str().unwrap().parse().unwrap();
        let text = response.text().await.unwrap();
        assert!(text.contains(&format!("\"system_fingerprint\":\"critic@{version}")), "{text}");
        versions.push(version);
    }
    assert!(versions.is_sorted(), "{versions:?}");
}

#[tokio::test]
async fn every_critic_that_is_kept_can_be_asked_by_its_number() {
    // Two beside the one in service, one of which a publication may be tried in: each that is asked for takes the place of
    // the one before.
    let more = "learner.learning_rate=1e-2\njudge.kind='verifier'\nengine.versions_max=2\nswap.versions_kept=64";
    let server = Server::start(more, &["start"], &[]).await;
    let kept = async || -> Vec<u64> {
        let list: Value = server.get("/v1/models").send().await.unwrap().json().await.unwrap();
        let numbers =
            list["data"].as_array().unwrap().iter().filter_map(|card| card["id"].as_str()?.strip_prefix("critic@"));
        numbers.map(|number| number.parse().unwrap()).collect()
    };
    let mut versions = kept().await;
    while versions.len() < 4 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        versions = kept().await;
    }
    let ask = async |version: u64| -> (u64, Value) {
        let body = json!({"model": format!("critic@{version}"), "prompt": "say 3", "max_tokens": 6, "seed": 1});
        let response = server.post("/v1/completions", &body).send().await.unwrap();
        assert_eq!(response.status(), 200, "critic@{version}: {}", server.log());
        let wrote = response.headers()["x-critic-version"].to_str().unwrap().parse().unwrap();
        (wrote, response.json::<Value>().await.unwrap()["choices"].clone())
    };
    let mut first = Vec::new();
    for &version in &versions {
        let (wrote, text) = ask(version).await;
        assert_eq!(wrote, version);
        first.push(text);
    }
    for (&version, text) in versions.iter().zip(&first) {
        assert_eq!((version, text.clone()), ask(version).await, "the same weights write the same");
    }
    let critique = json!({"model": format!("critic@{}", versions[1]), "prompt": "say 3", "response": "4", "seed": 1});
    let body = server.ask("/v1/critique", critique).await;
    assert_eq!(body["critic_version"], versions[1]);
}
