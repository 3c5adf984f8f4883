//! Episodes over HTTP, and the files of the page.

use crate::http::server::{Server, problem};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const MORE: &str = "judge.kind='verifier'\nswap.rollback_groups=0";

/// A node that has ended `count` episodes at least.
async fn node(more: &str, count: usize) -> Server {
    let server = Server::start(more, &["start"], &[]).await;
    let started = Instant::now();
    while listed(&server, "limit=1").await["kept"].as_u64().unwrap() < count as u64 {
        assert!(started.elapsed() < Duration::from_secs(60), "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server
}

async fn listed(server: &Server, query: &str) -> Value {
    let response = server.get(&format!("/episodes?{query}")).send().await.unwrap();
    assert_eq!(response.status(), 200, "{query}");
    response.json().await.unwrap()
}

#[tokio::test]
async fn episodes_are_listed_filtered_paged_and_shown() {
    let server = node(MORE, 12).await;
    let pause = server.post("/admin/pause", &json!({"what": "all"}));
    let token = std::fs::read_to_string(server.folder.path().join("run/http-token")).unwrap();
    assert_eq!(pause.bearer_auth(token).send().await.unwrap().status(), 200);
    let all = listed(&server, "limit=1000").await;
    let episodes = all["episodes"].as_array().unwrap().clone();
    assert!(episodes.len() >= 12);
    assert!(episodes.windows(2).all(|pair| pair[0]["time"].as_u64() >= pair[1]["time"].as_u64()), "the newest first");
    let newest = &episodes[0];
    assert_eq!((&newest["task"], newest["critiques"].as_array().unwrap().len()), (&json!("echo"), 4));

    // Pages make up the list; episodes that end meanwhile come before them.
    let first = listed(&server, "limit=5").await;
    let second = listed(&server, &format!("limit=5&before={}", first["next"])).await;
    let ids = |page: &Value| -> Vec<u64> {
        page["episodes"].as_array().unwrap().iter().map(|episode| episode["id"].as_u64().unwrap()).collect()
    };
    let (first, second) = (ids(&first), ids(&second));
    assert!(first.len() == 5 && second.len() == 5 && first.iter().all(|id| !second.contains(id)));

    let whole: Value = server.get(&format!("/episodes/{}", second[0])).send().await.unwrap().json().await.unwrap();
    assert_eq!(whole["id"], second[0]);
    let prompt = whole["prompt"]["text"].as_str().unwrap();
    assert!(whole["critiques"][3]["refinements"][0]["text"].is_string() && whole["response"].is_string(), "{whole}");
    assert_eq!(
        whole["critiques"][0]["tokens"].as_array().map(Vec::len),
        whole["critiques"][0]["log_probs"].as_array().map(Vec::len)
    );
    for (query, such) in [
        (format!("text={}", prompt.to_uppercase().replace(' ', "%20")), true),
        (format!("prompt={}", whole["prompt"]["id"].as_str().unwrap()), true),
        ("task=echo&cu_min=0&cu_max=1".to_owned(), true),
        ("task=nothing".to_owned(), false),
        ("version=999".to_owned(), false),
        ("text=nobody%20wrote%20this".to_owned(), false),
        ("text=%1b%5b31m".to_owned(), false),
    ] {
        let found = ids(&listed(&server, &format!("limit=1000&{query}")).await);
        assert_eq!(found.contains(&second[0]), such, "{query}: {found:?}");
    }
    for (query, param, part) in [
        ("cu_min=2", "cu_min", "from 0 to 1, got 2.0"),
        ("cu_max=NaN", "cu_max", "from 0 to 1"),
        ("limit=0", "limit", "from 1 to 1000, got 0"),
        ("limit=1001", "limit", "got 1001"),
        (&format!("text={}", "x".repeat(2000)), "text", "got 2000"),
    ] {
        let (status, error) = problem(server.get(&format!("/episodes?{query}")).send().await.unwrap()).await;
        assert_eq!((status, error["param"].as_str()), (400, Some(param)), "{error}");
        assert!(error["message"].as_str().unwrap().contains(part), "{error}");
    }
    let (status, error) = problem(server.get("/episodes?colour=red").send().await.unwrap()).await;
    assert!(status == 400 && error["message"].as_str().unwrap().contains("colour"), "{error}");
    let (status, error) = problem(server.get("/episodes/999999").send().await.unwrap()).await;
    assert_eq!((status, error["code"].as_str()), (404, Some("unknown_episode")), "{error}");
    let series: Value = server.get("/admin/series").send().await.unwrap().json().await.unwrap();
    assert!(series[0]["time"].as_u64() > Some(1_600_000_000_000) && series[0]["groups_held"].is_u64(), "{series}");
    let document: Value = server.get("/openapi.json").send().await.unwrap().json().await.unwrap();
    for path in ["/", "/episodes", "/episodes/{id}", "/admin/series"] {
        assert!(document["paths"][path]["get"].is_object(), "{path}");
    }
    let parameters = document["paths"]["/episodes"]["get"]["parameters"].as_array().unwrap();
    assert!(parameters.iter().any(|one| one["name"] == "cu_min" && one["in"] == "query"), "{parameters:?}");
    assert!(server.metric("rco_http_requests_total{route=\"episodes\",code=\"2xx\"}").await > 8.0);
    assert!(server.metric("rco_rollout_records_total{result=\"written\"}").await >= 12.0);
    assert_eq!(server.metric("rco_rollout_records_total{result=\"failed\"}").await, 0.0);
}

#[tokio::test]
async fn the_page_runs_nothing_but_its_own_script() {
    let server = Server::start(MORE, &["start"], &[]).await;
    for (path, kind) in [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")] {
        let response = server.get(path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert!(header("content-type").starts_with(kind), "{path}");
        assert_eq!(
            (header("x-content-type-options"), header("referrer-policy")),
            ("nosniff".into(), "no-referrer".into())
        );
        let policy = header("content-security-policy");
        for part in ["default-src 'none'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(!response.text().await.unwrap().is_empty());
    }
    let response = server.get("/").header("host", "evil.example").send().await.unwrap();
    assert_eq!(problem(response).await.0, 403, "a name that was bound to this address");
}

#[tokio::test]
async fn beyond_loopback_the_page_opens_and_what_it_shows_needs_the_token() {
    let more =
        format!("{MORE}\ntelemetry.address='0.0.0.0:0'\nhttp.insecure_without_tls=true\nhttp.token_env='TEST_TOKEN'");
    let server = Server::start(&more, &["start"], &[("TEST_TOKEN", "a-token-of-the-operator")]).await;
    for path in ["/", "/page.css", "/page.js"] {
        assert_eq!(server.get(path).send().await.unwrap().status(), 200, "{path}");
    }
    for path in ["/episodes", "/episodes/0", "/admin/series", "/admin/status", "/events"] {
        assert_eq!(problem(server.get(path).send().await.unwrap()).await.0, 401, "{path}");
    }
    let with = server.get("/episodes").bearer_auth("a-token-of-the-operator").send().await.unwrap();
    assert_eq!(with.status(), 200);
}

#[tokio::test]
async fn a_run_that_keeps_no_records_says_so() {
    let server = Server::start(&format!("{MORE}\nepisodes.file_mib=0"), &["start"], &[]).await;
    let (status, error) = problem(server.get("/episodes").send().await.unwrap()).await;
    assert_eq!((status, error["code"].as_str()), (404, Some("no_episodes")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("episodes.file_mib"), "{error}");
}
