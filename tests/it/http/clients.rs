//! Clients that others wrote, unmodified and from PyPI, against a node. Where they cannot be installed, the tests say so.

use super::server::{Server, program};
use crate::support::models::tiny;
use crate::support::programs::python;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// A context that holds the clients' prompts, and the weights as `score` has them.
const CONFIG: &str = "engine.context_tokens_max=1024\nengine.weights='f32'";

/// Runs `script` against `server`, with `input`; none if its packages cannot be installed.
async fn client(server: &Server, script: &str, packages: &[&str], base: &str, input: String) -> Option<String> {
    let python = match python(script, packages) {
        Ok(python) => python,
        Err(why) => {
            eprintln!("skipped: {script} cannot be installed here: {why}");
            return None;
        }
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/http/clients").join(format!("{script}.py"));
    let mut command = Command::new(python);
    command.arg(path).arg(format!("{}{base}", server.url)).env("NO_PROXY", "*").env("no_proxy", "*");
    command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True").env("OPENAI_API_KEY", "unused");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ask = move || {
        let mut process = command.spawn().unwrap();
        process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        process.wait_with_output().unwrap()
    };
    let output = tokio::task::spawn_blocking(ask).await.unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{script}: {err}\n{out}\n{}", server.log());
    Some(out)
}

#[tokio::test]
async fn the_official_openai_client_reads_every_answer_and_every_refusal() {
    let server = Server::serve(CONFIG).await;
    if let Some(out) = client(&server, "openai_client", &["openai==3.57.0"], "/v1", String::new()).await {
        eprintln!("{out}");
    }
}

#[tokio::test]
async fn litellm_reads_every_answer_and_every_refusal() {
    let server = Server::serve(CONFIG).await;
    if let Some(out) = client(&server, "litellm_client", &["litellm==1.110.2"], "/v1", String::new()).await {
        eprintln!("{out}");
    }
}

#[tokio::test]
async fn lm_eval_gets_the_log_likelihoods_that_score_computes() {
    let server = Server::serve(CONFIG).await;
    let pairs = [["The capital of France is", " Paris"], ["2 + 2 =", " 4"], ["añ🎉", " b c d"]];
    let packages = ["lm-eval[api]==0.4.13"];
    let Some(out) = client(&server, "lm_eval_client", &packages, "", json!(pairs).to_string()).await else { return };
    let found: Vec<f64> = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    for ([context, continuation], found) in pairs.iter().zip(found) {
        let expected = scored(&server, context, continuation);
        assert!((found - expected).abs() < 1e-3, "{context:?} {continuation:?}: {found} {expected}");
    }
}

/// The log-likelihood of `continuation` after `context`, by `rco-node score`.
fn scored(server: &Server, context: &str, continuation: &str) -> f64 {
    let ids = |text: &str| tiny().tokenizer.encode(text).unwrap();
    let mut command = program(server.folder.path(), "", &["score"]);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let line = json!({"prompt_ids": ids(context), "completion_ids": ids(continuation)});
    process.stdin.take().unwrap().write_all(line.to_string().as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["sum"].as_f64().unwrap()
}
