//! What a running node shows over HTTP: its status, events, annotations, metrics and document.

use crate::http::server::Server;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const MORE: &str = "judge.kind='verifier'\nlearner.publish_every_steps=1000000\nswap.canary_texts=0\n\
                    swap.canary_kl_max=100.0\nswap.rollback_groups=0";

async fn node() -> (Server, String) {
    let server = Server::start(MORE, &["start"], &[]).await;
    let token = std::fs::read_to_string(server.folder.path().join("run/http-token")).unwrap();
    (server, token)
}

async fn change(server: &Server, token: &str, path: &str, body: Value) -> (u16, Value) {
    let response = server.post(path, &body).bearer_auth(token).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn the_status_says_what_every_actor_is_at_and_whose_the_memory_is() {
    let (server, _) = node().await;
    let (mut worked, started) = (false, Instant::now());
    let status: Value = loop {
        let status: Value = server.get("/admin/status").send().await.unwrap().json().await.unwrap();
        let actors = status["actors"].as_array().unwrap();
        worked |= actors.iter().any(|row| row["actor"] == "critic" && row["in_flight"].as_u64() > Some(0));
        if worked && status["episodes"].as_u64() > Some(5) && status["memory"][3]["bytes"].as_u64() > Some(0) {
            break status;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "it works and says so: {status}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let names: Vec<_> = status["actors"].as_array().unwrap().iter().map(|row| row["actor"].as_str().unwrap()).collect();
    let expected =
        ["device", "replay", "swap", "generator", "critic", "refiner", "judge", "learner", "rollout", "http"];
    assert_eq!(names, expected);
    let oldest = &status["oldest"];
    assert!(oldest["seconds"].as_f64() >= Some(0.0) && names.contains(&oldest["actor"].as_str().unwrap()), "{oldest}");
    for row in status["memory"].as_array().unwrap() {
        assert!(row["bytes"].as_u64() > Some(0) || row["owner"] == "critics", "{row}");
        assert!(row["planned_bytes"].as_u64() > Some(0), "{row}");
    }
    assert_eq!((&status["versions"]["serving"], &status["paused"]["rollout"]), (&json!(0), &json!(false)));
    assert!(status["queues"]["kv_usage"].as_f64() <= Some(1.0), "{status}");
}

#[tokio::test]
async fn events_are_followed_as_a_stream_and_drawn_as_annotations() {
    let (server, token) = node().await;
    let stream = server.get("/events").header("accept", "text/event-stream").send().await.unwrap();
    assert_eq!(
        (stream.status().as_u16(), &stream.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    let path = crate::support::models::golden("tiny_lora");
    let (status, _) = change(&server, &token, "/admin/swap", json!({"path": path, "by": "ada"})).await;
    assert_eq!(status, 200);
    let (status, body) = change(&server, &token, "/admin/swap", json!({"path": "/nowhere", "by": "eve"})).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("refused")));
    change(&server, &token, "/admin/rollback", json!({"by": "ada"})).await;
    let mut text = String::new();
    let mut stream = stream;
    while !["event: swap\n", "event: refusal\n", "event: rollback\n"].iter().all(|line| text.contains(line)) {
        let chunk = tokio::time::timeout(Duration::from_secs(30), stream.chunk()).await;
        text += std::str::from_utf8(&chunk.unwrap_or_else(|_| panic!("{text}")).unwrap().unwrap()).unwrap();
    }
    let swap = text.split("\n\n").find(|event| event.contains("event: swap\n")).unwrap();
    let data = swap.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!((&data["data"]["by"], &data["data"]["reason"]), (&json!("ada"), &json!("operator")));
    // A client that was cut off goes on after the last event that it has.
    let id = data["id"].as_u64().unwrap();
    let later: Vec<Value> = server.get(&format!("/events?after={id}")).send().await.unwrap().json().await.unwrap();
    assert!(later.iter().all(|event| event["id"].as_u64().unwrap() > id) && later.len() >= 2, "{later:?}");

    let range = json!({"from": "2020-01-01T00:00:00.000Z", "to": "2100-01-01T00:00:00Z"});
    let request = json!({"range": range, "annotation": {"name": "swaps", "query": "swap, rollback"}});
    let drawn = server.ask("/annotations", request).await;
    let titles: Vec<_> = drawn.as_array().unwrap().iter().map(|one| one["title"].as_str().unwrap()).collect();
    assert_eq!(titles, ["swap", "rollback"]);
    assert!(drawn[0]["time"].as_u64().unwrap() > 1_600_000_000_000, "{drawn}");
    let past = json!({"range": {"from": "2020-01-01T00:00:00Z", "to": "2020-01-02T00:00:00Z"}});
    assert_eq!(server.ask("/annotations", past).await, json!([]));
    let wrong = server.post("/annotations", &json!({"range": {"from": "today", "to": "now"}})).send().await.unwrap();
    assert_eq!(wrong.status(), 400);
    assert!(wrong.text().await.unwrap().contains("range.from: expected a time such as"));
}

#[tokio::test]
async fn requests_and_swaps_are_counted_by_route_code_outcome_and_reason() {
    let (server, token) = node().await;
    server.ask("/v1/completions", json!({"model": "generator", "prompt": "say 3", "max_tokens": 2})).await;
    assert_eq!(
        server.post("/v1/completions", &json!({"model": "nobody", "prompt": "say 3"})).send().await.unwrap().status(),
        404
    );
    assert_eq!(server.get("/nowhere").send().await.unwrap().status(), 404);
    assert_eq!(server.post("/admin/pause", &json!({"what": "all"})).send().await.unwrap().status(), 401);
    let path = crate::support::models::golden("tiny_lora");
    change(&server, &token, "/admin/swap", json!({"path": path})).await;
    change(&server, &token, "/admin/swap", json!({"path": "/nowhere"})).await;
    let (_, document) = (0, server.get("/openapi.json").send().await.unwrap().json::<Value>().await.unwrap());
    for (name, value) in [
        ("rco_http_requests_total{route=\"completions\",code=\"2xx\"}", 1.0),
        ("rco_http_requests_total{route=\"completions\",code=\"4xx\"}", 1.0),
        ("rco_http_requests_total{route=\"chat\",code=\"5xx\"}", 0.0),
        ("rco_http_request_seconds_count{route=\"completions\"}", 2.0),
        ("rco_http_requests_in_flight", 0.0),
        ("rco_node_swaps_total{outcome=\"swapped\",reason=\"operator\"}", 1.0),
        ("rco_node_swaps_total{outcome=\"refused\",reason=\"gate\"}", 1.0),
        ("rco_node_swaps_total{outcome=\"rolled_back\",reason=\"utility\"}", 0.0),
    ] {
        assert_eq!(server.metric(name).await, value, "{name}");
    }
    for name in [
        "rco_http_requests_total{route=\"admin\",code=\"4xx\"}",
        "rco_http_requests_total{route=\"other\",code=\"4xx\"}",
    ] {
        assert!(server.metric(name).await >= 1.0, "{name}");
    }
    // vLLM's names: only what was loaded under a name is taken back by it.
    let load = json!({"lora_name": "mine", "lora_path": path});
    let loaded = server.post("/v1/load_lora_adapter", &load).bearer_auth(&token).send().await.unwrap();
    assert_eq!(loaded.status(), 200);
    let (status, body) = change(&server, &token, "/v1/unload_lora_adapter", json!({"lora_name": "other"})).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("model_not_found")), "{body}");
    change(&server, &token, "/admin/swap", json!({"path": path})).await;
    let (status, body) = change(&server, &token, "/v1/unload_lora_adapter", json!({"lora_name": "mine"})).await;
    assert_eq!((status, &body["error"]["code"]), (409, &json!("not_in_service")), "{body}");
    assert!(server.metric("rco_node_memory_bytes{owner=\"weights\"}").await > 0.0);
    assert!(server.metric("rco_node_jobs_in_flight{actor=\"rollout\"}").await > 0.0);
    for path in [
        "/admin/swap",
        "/admin/status",
        "/admin/critics/{version}",
        "/admin/config",
        "/events",
        "/annotations",
        "/v1/load_lora_adapter",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    assert_eq!(document["paths"]["/admin/swap"]["post"]["security"], json!([{"token": []}]));
    assert!(document["paths"]["/admin/status"]["get"]["security"].is_null());
}
