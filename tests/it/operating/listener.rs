//! The listener of a running node, from the command line: who may ask what, and what the commands do.

use crate::support::models::golden;
use crate::support::node::sets;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A node in a process of its own, with its listener.
struct Served {
    folder: Option<tempfile::TempDir>,
    child: Child,
    address: SocketAddr,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(folder: &Path, command: &[&str]) -> Command {
    let prompts = folder.join("prompts.jsonl");
    let more = "telemetry.address='127.0.0.1:0'\njudge.kind='verifier'\nlearner.publish_every_steps=1000000\n\
                swap.canary_texts=0\nswap.canary_kl_max=100.0\nswap.rollback_groups=0";
    let mut program = Command::new(env!("CARGO_BIN_EXE_rco-node"));
    program.args(command);
    for set in sets(folder, &prompts, more) {
        program.args(["--set", &set]);
    }
    program
}

impl Served {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lines: String = (0..5)
            .map(|n| {
                format!("{{\"id\": \"p{n}\", \"task\": \"echo\", \"prompt\": \"say {n}\", \"answer\": \"{n}\"}}\n")
            })
            .collect();
        fs::write(folder.path().join("prompts.jsonl"), lines).unwrap();
        Self::start_in(folder, &["start"])
    }

    fn start_in(folder: tempfile::TempDir, command: &[&str]) -> Self {
        let log = fs::File::create(folder.path().join("log.txt")).unwrap();
        let mut program = program(folder.path(), command);
        let child = program.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let presence = folder.path().join("run/node.json");
        // A killed process leaves the file.
        let is_new = |pid: u32| {
            let bytes = fs::read(&presence).unwrap_or_default();
            serde_json::from_slice(&bytes)
                .is_ok_and(|found: serde_json::Value| found["pid"].as_u64() == Some(pid.into()))
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_new(child.id()) {
            let log = || fs::read_to_string(folder.path().join("log.txt")).unwrap();
            assert!(Instant::now() < deadline, "the node starts: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        let presence: serde_json::Value = serde_json::from_slice(&fs::read(presence).unwrap()).unwrap();
        let address = presence["address"].as_str().unwrap().parse().unwrap();
        Self { folder: Some(folder), child, address }
    }

    fn folder(&self) -> &Path {
        self.folder.as_ref().unwrap().path()
    }

    fn run(&self) -> PathBuf {
        self.folder().join("run")
    }

    /// Kills the process and resumes the run in another one.
    fn killed_and_resumed(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Self::start_in(self.folder.take().unwrap(), &["start", "--resume"])
    }

    fn token(&self) -> String {
        fs::read_to_string(self.run().join("http-token")).unwrap()
    }

    /// Status and body of a request with these header lines.
    fn ask(&self, line: &str, headers: &[&str], body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let host = if headers.iter().any(|header| header.starts_with("Host:")) { "" } else { "Host: localhost\r\n" };
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = body.len();
        let head =
            format!("{line} HTTP/1.1\r\n{host}{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// A command of the program against this node.
    fn command(&self, command: &[&str]) -> Output {
        program(self.folder(), command).output().unwrap()
    }

    fn says(&self, command: &[&str]) -> String {
        let output = self.command(command);
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{command:?}: {out}{err}");
        out
    }
}

#[test]
fn a_change_needs_the_token_and_a_read_needs_the_right_host() {
    let node = Served::start();
    let bearer = format!("Authorization: Bearer {}", node.token());
    let json = "Content-Type: application/json";
    let pause = |headers: &[&str]| node.ask("POST /admin/pause", headers, r#"{"what": "all"}"#);
    let is_paused = || node.ask("GET /admin/status", &[], "").1.contains("\"rollout\":true");
    for (headers, status) in [
        (vec![json], 401),
        (vec![json, "Authorization: Bearer wrong-token-wrong-token"], 403),
        (vec![json, "Authorization: Basic abc"], 401),
        (vec![json, bearer.as_str(), "Host: evil.example"], 403),
    ] {
        let (got, body) = pause(&headers);
        assert_eq!(got, status, "{headers:?}: {body}");
        assert!(body.starts_with("{\"error\":{\"message\":"), "{body}");
        assert!(!body.contains(&node.token()) && !is_paused(), "nothing happened: {body}");
    }
    assert_eq!(pause(&[json, &bearer]).0, 200);
    assert!(is_paused());
    assert_eq!(node.ask("GET /metrics", &["Host: evil.example"], "").0, 403);
    assert_eq!(node.ask("GET /metrics", &["Host: 127.0.0.1:1"], "").0, 200);
    assert_eq!(node.ask("GET /metrics", &["Host: [::1]:9464"], "").0, 200);
    let (status, body) = node.ask("POST /admin/swap", &[json, &bearer], r#"{"folder": "x"}"#);
    assert!(status == 400 && body.contains("folder"), "{status}: {body}");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(node.run().join("http-token")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // The token stands in no log.
    let log = fs::read_to_string(node.folder().join("log.txt")).unwrap();
    assert!(!log.contains(&node.token()));
}

#[test]
fn the_commands_swap_pin_pause_and_drain_a_running_node() {
    let node = Served::start();
    let lora = golden("tiny_lora").display().to_string();
    assert!(node.says(&["status"]).contains("critic          v0"));
    assert!(node.says(&["swap", &lora]).starts_with("critic v1: serving"));
    assert!(node.says(&["critics"]).contains("serving"));
    let listed: serde_json::Value = serde_json::from_str(&node.says(&["critics", "--json"])).unwrap();
    assert_eq!((listed["serving"].as_u64(), listed["critics"].as_array().map(Vec::len)), (Some(1), Some(2)));
    assert!(node.says(&["critics", "show", "1"]).contains(&lora));
    assert!(node.says(&["rollback"]).starts_with("critic v0: serving"));
    assert!(node.says(&["pin", "1"]).starts_with("critic v1: serving"));
    assert!(node.says(&["status"]).contains("pinned v1"));
    node.says(&["unpin"]);
    assert_eq!(node.says(&["pause", "rollout"]).trim(), "rollout paused, learner running");
    assert_eq!(node.says(&["resume"]).trim(), "rollout running, learner running");
    assert_eq!(node.says(&["configure", "learner.beta=0.25", "rollout.rollouts_max=2"]).lines().count(), 2);
    let refused = node.command(&["configure", "learner.beta=-1"]);
    assert!(String::from_utf8(refused.stderr).unwrap().contains("above 0"));
    node.says(&["checkpoint"]);
    let newest = rco_node::checkpoint::list(&node.run().join("checkpoints")).unwrap().remove(0);
    let config: toml::Table = fs::read_to_string(newest.path.join("config.toml")).unwrap().parse().unwrap();
    assert_eq!(config["learner"]["beta"].as_float(), Some(0.25));
    assert_eq!(config["rollout"]["rollouts_max"].as_integer(), Some(2));
    // vLLM's own route.
    let bearer = format!("Authorization: Bearer {}", node.token());
    let body = format!(r#"{{"lora_name": "mine", "lora_path": "{lora}"}}"#);
    let headers = ["Content-Type: application/json", &bearer];
    let (status, text) = node.ask("POST /v1/load_lora_adapter", &headers, &body);
    assert_eq!((status, text.contains("critic@2")), (200, true), "{text}");
    let (_, events) = node.ask("GET /events?after=0", &[], "");
    let events: Vec<serde_json::Value> = serde_json::from_str(&events).unwrap();
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["kind"].as_str()).collect();
    for kind in ["swap", "rollback", "control", "checkpoint"] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
    let refused = node.command(&["swap", "/nowhere/at/all"]);
    assert_eq!(refused.status.code(), Some(2));
    node.says(&["drain"]);
    let mut node = node;
    let ended = node.child.wait().unwrap();
    assert_eq!(ended.code(), Some(0));
    assert!(!node.run().join("node.json").exists());
    let gone = node.command(&["status"]);
    let text = String::from_utf8(gone.stderr).unwrap();
    assert!(gone.status.code() == Some(2) && text.contains("running node"), "{text}");
    // The registry is there without a node too.
    assert!(node.says(&["critics"]).contains("serving"));
}

#[test]
fn a_node_killed_in_the_middle_of_a_swap_resumes_with_one_critic_in_service_and_a_registry_that_says_which() {
    let mut node = Served::start();
    let lora = golden("tiny_lora").display().to_string();
    for _ in 0..2 {
        node.says(&["swap", "--no-canary", &lora]);
    }
    for round in 0..6u64 {
        let (address, bearer) = (node.address, format!("Authorization: Bearer {}", node.token()));
        let swapping = std::thread::spawn(move || {
            for swap in 0.. {
                let body = format!(r#"{{"version": {}, "canary": false}}"#, 1 + swap % 2);
                let Ok(mut stream) = TcpStream::connect(address) else { return swap };
                let head = format!(
                    "POST /admin/swap HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\nContent-Type: application/json\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let mut answer = String::new();
                let asked = stream.write_all(head.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
                if asked.is_err() || !answer.starts_with("HTTP/1.1 200") {
                    return swap;
                }
            }
            unreachable!("the node is killed")
        });
        std::thread::sleep(Duration::from_millis(300 + 37 * round));
        node = node.killed_and_resumed();
        assert!(swapping.join().unwrap() > 0, "it was swapping");
        let listed: serde_json::Value = serde_json::from_str(&node.says(&["critics", "--json"])).unwrap();
        let critics = listed["critics"].as_array().unwrap();
        let serving: Vec<_> = critics.iter().filter(|critic| critic["state"] == "serving").collect();
        assert_eq!(serving.len(), 1, "{listed}");
        assert_eq!(serving[0]["version"], listed["serving"]);
        let status: serde_json::Value = serde_json::from_str(&node.says(&["status", "--json"])).unwrap();
        assert_eq!(status["versions"]["serving"], listed["serving"]);
        assert!([1, 2].contains(&listed["serving"].as_u64().unwrap()));
        assert_eq!(critics.len(), 3, "no number was taken twice, and none lost");
    }
}
