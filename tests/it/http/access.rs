//! Who may ask for what.

use super::server::{Server, problem, program};
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn on_loopback_another_host_is_refused_and_nobody_needs_a_token_to_read() {
    let server = Server::serve("http.hosts=['node.example']").await;
    for (host, status) in [("localhost", 200), ("127.0.0.1:1", 200), ("node.example", 200), ("evil.example", 403)] {
        let response = server.get("/v1/models").header("host", host).send().await.unwrap();
        assert_eq!(response.status(), status, "{host}");
        assert!(response.headers()["x-request-id"].to_str().unwrap().starts_with("req-"));
    }
    let response = server.get("/metrics").header("host", "evil.example").send().await.unwrap();
    let (status, error) = problem(response).await;
    assert_eq!((status, error["code"].as_str()), (403, Some("wrong_host")), "{error}");
    let mode = std::fs::metadata(server.folder.path().join("run/http-token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let response = server.get("/v1/models").header("x-request-id", "mine").send().await.unwrap();
    assert_eq!(response.headers()["x-request-id"], "mine");
    // A page of another origin could not read the answer, but it could let the node work.
    let own = server.url.clone();
    for (origin, status) in [(own.as_str(), 200), ("http://a", 403), ("null", 403)] {
        let body = serde_json::json!({"model": "generator", "prompt": "x", "max_tokens": 1});
        let response = server.post("/v1/completions", &body).header("origin", origin).send().await.unwrap();
        assert_eq!(response.status(), status, "{origin}");
        assert!(
            !response.headers().contains_key("access-control-allow-origin"),
            "no page may read unless it is told so"
        );
    }
}

#[tokio::test]
async fn pages_of_a_configured_origin_may_ask_and_others_not() {
    let server = Server::serve("http.cors_origins=['http://localhost:3000']").await;
    for (origin, may) in [("http://localhost:3000", true), ("http://localhost:3001", false)] {
        let response = server.get("/v1/models").header("origin", origin).send().await.unwrap();
        assert_eq!(response.headers().contains_key("access-control-allow-origin"), may, "{origin}");
        assert_eq!(response.status() == 200, may, "{origin}");
    }
    // What a browser asks before it sends a token.
    let preflight = server
        .client
        .request(reqwest::Method::OPTIONS, format!("{}/v1/chat/completions", server.url))
        .header("origin", "http://localhost:3000")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type");
    let response = preflight.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let allowed = response.headers()["access-control-allow-headers"].to_str().unwrap().to_lowercase();
    assert!(allowed.contains("authorization") && allowed.contains("content-type"), "{allowed}");
}

#[tokio::test]
async fn beyond_loopback_everything_but_health_needs_the_token() {
    const TOKEN: &str = "a-token-of-the-operator";
    let more = "telemetry.address='0.0.0.0:0'\nhttp.insecure_without_tls=true\nhttp.token_env='TEST_TOKEN'";
    let server = Server::start(more, &["serve"], &[("TEST_TOKEN", TOKEN)]).await;
    assert_eq!(server.get("/healthz").send().await.unwrap().status(), 200);
    for path in ["/v1/models", "/metrics", "/openapi.json", "/nowhere"] {
        let (status, error) = problem(server.get(path).send().await.unwrap()).await;
        assert_eq!((status, error["code"].as_str()), (401, Some("missing_token")), "{path}");
        let (status, error) = problem(server.get(path).bearer_auth("wrong").send().await.unwrap()).await;
        assert_eq!((status, error["code"].as_str()), (403, Some("wrong_token")), "{path}");
    }
    assert_eq!(server.get("/v1/models").bearer_auth(TOKEN).send().await.unwrap().status(), 200);
    assert!(!server.log().contains(TOKEN), "the token is never logged");
    assert!(!server.folder.path().join("run/http-token").exists(), "the variable's token needs no file");
}

#[test]
fn beyond_loopback_is_never_served_by_accident() {
    let folder = tempfile::tempdir().unwrap();
    let output = program(folder.path(), "telemetry.address='0.0.0.0:0'", &["serve"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("http.insecure_without_tls = true"), "{said}");
}
