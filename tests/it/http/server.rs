//! `rco-node serve` on the tiny model, and a client that asks it.

use crate::support::node::{config, sets};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A process of the program that serves; it ends with this value.
pub struct Server {
    process: Child,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    pub client: Client,
    log: PathBuf,
    pub folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program with the tiny node's config and `more` on top.
pub fn program(folder: &Path, more: &str, arguments: &[&str]) -> Command {
    // Writes the prompts.
    drop(config(folder, ""));
    let mut command = Command::new(env!("CARGO_BIN_EXE_rco-node"));
    let [name, rest @ ..] = arguments else { panic!("expected a subcommand") };
    let sets = sets(folder, &folder.join("prompts.jsonl"), more);
    command.arg(name).args(sets.iter().flat_map(|set| ["--set", set])).args(rest);
    command.current_dir(folder).env("RCO_LOG", "info").env_remove("RCO_HTTP_TOKEN");
    command
}

impl Server {
    /// `rco-node serve` on the tiny model, with `more` of the config, ready.
    pub async fn serve(more: &str) -> Self {
        Self::start(more, &["serve"], &[]).await
    }

    /// The program with `arguments` and environment, once it is ready.
    pub async fn start(more: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), more, arguments, environment).await
    }

    /// The same, in a folder that may hold a run.
    pub async fn start_in(folder: TempDir, more: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let log = folder.path().join("log");
        let mut command = program(folder.path(), &format!("telemetry.address='127.0.0.1:0'\n{more}"), arguments);
        command.envs(environment.iter().copied()).stderr(fs::File::create(&log).unwrap());
        // No answer that a test waits for takes longer.
        let client = Client::builder().timeout(Duration::from_secs(300)).build().unwrap();
        let process = command.spawn().unwrap();
        let mut server = Self { process, url: String::new(), client, log, folder };
        let address = server.until("its address", |server| {
            let said = fs::read_to_string(&server.log).unwrap();
            let found = said.lines().find_map(|line| line.split_once("address=")?.1.split_whitespace().next());
            found.map(|address| address.replace("0.0.0.0", "127.0.0.1"))
        });
        server.url = format!("http://{}", address.await);
        let started = Instant::now();
        while server.get("/readyz").send().await.unwrap().status() != StatusCode::OK {
            assert!(started.elapsed() < PATIENCE, "waiting for readiness: {}", server.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }

    /// Waits until `found` finds something.
    pub async fn until<T>(&mut self, what: &str, mut found: impl FnMut(&mut Self) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(self.process.try_wait().unwrap().is_none(), "it ended: {}", self.log());
            assert!(started.elapsed() < PATIENCE, "waiting for {what}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url))
    }

    pub fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.url)).json(body)
    }

    /// The answer to a request that must succeed.
    pub async fn ask(&self, path: &str, body: Value) -> Value {
        let response = self.post(path, &body).send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert_eq!(status, StatusCode::OK, "{body}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The events of a stream that must end whole.
    pub async fn stream(&self, path: &str, body: Value) -> Vec<Value> {
        let response = self.post(path, &body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{body}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        events(&response.text().await.unwrap())
    }

    /// A metric's value.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").send().await.unwrap().text().await.unwrap();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name}")).split(' ').nth(1).unwrap().parse().unwrap()
    }
}

const PATIENCE: Duration = Duration::from_secs(90);

/// The events of a stream's body, which ends with `[DONE]`.
pub fn events(body: &str) -> Vec<Value> {
    let mut lines: Vec<&str> = body.split("\n\n").filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.pop(), Some("data: [DONE]"), "{body}");
    lines.iter().map(|line| serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap()).collect()
}

/// Status and error of an answer that must be a problem in OpenAI's shape.
pub async fn problem(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    let error = body["error"].clone();
    let keys: Vec<_> = error.as_object().unwrap_or_else(|| panic!("{body}")).keys().cloned().collect();
    assert_eq!(keys, ["message", "type", "param", "code"], "{body}");
    (status, error)
}
