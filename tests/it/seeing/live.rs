//! A real Prometheus beside a real node under load: every panel has data, every rule yields, no alert fires until an actor
//! is killed, and scrapes are quick.
//!
//! The node runs in a process of its own, which is this test program with other arguments: metrics belong to a process.

use super::files::{boards, queries, recordings};
use super::rules::{promtool, write};
use crate::support::node::{config, likes_even};
use crate::support::programs::find;
use rco_node::actors::swap::{Checks, Offer};
use rco_node::dashboards::{Pace, Target};
use rco_node::episode::judge::Pair;
use rco_node::http::{Access, Api, NodeRoutes};
use rco_node::node::{Exit, Node, Options};
use rco_node::run::events::EventBus;
use rco_node::telemetry::{LogFormat, Telemetry, TelemetryConfig};
use rco_node::types::{ActorKind, CriticVersion, Label, Verdict};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What the child is told by its environment.
const FOLDER: &str = "RCO_SEEN_FOLDER";
/// More of its config.
const MORE: &str = "RCO_SEEN_CONFIG";
/// Where it says its address.
const ADDRESS: &str = "address.txt";
/// How much faster than in service all goes: a window of half an hour is one of a minute.
const SPEED: u32 = 30;
/// Grafana's window: four scrapes or more.
const RATE_INTERVAL: &str = "20s";
/// How long the healthy node is watched: longer than the longest window and wait of its alerts together.
const WATCHED: Duration = Duration::from_secs(125);
/// How long an alert may take after its condition.
pub(super) const FIRES_WITHIN: Duration = Duration::from_secs(60);

/// Panels that are rightly empty on this node, and why.
const EMPTY: &[(&str, &str)] = &[
    ("Order agreement", "no model judges"),
    ("Position bias", "no model judges"),
    ("DPCO: preferences", "the objective is RCO"),
    ("Baseline", "only some baselines scale utilities"),
    ("Loss", "there is no value network"),
    ("Time of a try", "no remote server is asked"),
    ("In flight", "no remote server is asked"),
    ("Held-out", "the critic is not evaluated"),
    ("Held-out accuracy", "the critic is not evaluated"),
    ("Evaluated, best and saved step", "the critic is not evaluated"),
    ("Evaluation time", "the critic is not evaluated"),
    ("Critique utility", "the critic is not evaluated"),
    ("Time of a swap", "nobody offers a critic"),
    ("Requests for texts", "nobody asks for texts"),
];
/// Recording rules that rightly yield nothing on it.
const NOT_YIELDED: &[&str] = &["instance:rco_judge_position_bias:ratio30m"];

/// The version of a planted critic: every critique of it makes things worse.
static PLANTED: AtomicU64 = AtomicU64::new(u64::MAX);
/// Whether the judge answers nobody.
static STALLED: AtomicBool = AtomicBool::new(false);

/// A judge that a fault can stop, and that hates a planted critic.
fn judge(pair: Pair<'_>) -> Verdict {
    while STALLED.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
    }
    match pair.critique.version == CriticVersion(PLANTED.load(Ordering::Relaxed)) {
        true => Verdict::Loss,
        false => likes_even(pair),
    }
}

/// Does what a line of the input says.
async fn fault(node: &Node, line: &str) {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("kill", name) => {
            let actor = ActorKind::ALL.iter().find(|actor| actor.value() == name).unwrap();
            assert!(node.kill(*actor).await);
        }
        ("plant", path) => {
            let checks = Checks { canary: false, share: 0.0 };
            let planted = node.control().swap(Offer::Folder(path.into()), checks, "eve").await.unwrap();
            PLANTED.store(planted.version.0, Ordering::Relaxed);
        }
        ("judge", state) => STALLED.store(state == "stalls", Ordering::Relaxed),
        _ => panic!("no such fault: {line}"),
    }
}

/// The node in a process of its own; its input names faults.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the other tests of this file run it in a process of its own"]
async fn node_to_be_seen() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = Path::new(&folder);
    let telemetry = Telemetry::install().unwrap();
    // A critic that has learned what this judge likes makes flat groups, and their alert is right: this one learns too slowly.
    // The int8 weights of so small a model differ from the learner's by more than an alert allows.
    let more = format!(
        "engine.weights='f32'\nlearner.learning_rate=1e-8\ncheckpoint.keep=2\n{}",
        std::env::var(MORE).unwrap()
    );
    let (config, events) = (config(folder, &more), EventBus::new(None));
    let options = Options { judge: Some(Arc::new(judge)), events: Some(events.clone()), ..Options::default() };
    let address = TelemetryConfig { address: "127.0.0.1:0".to_owned(), log_format: LogFormat::Text };
    let access = Access::open(&config.http, "127.0.0.1:1".parse().unwrap(), &folder.join("run"));
    let node = Node::start(config.clone(), options).await.unwrap();
    telemetry.ready();
    let api = Api::new(telemetry.clone());
    let routes = NodeRoutes { access: access.unwrap(), config: config.http, node: None, api };
    let stop = CancellationToken::new();
    let serving = telemetry.serve(&address, Some(routes), stop.clone().cancelled_owned()).await.unwrap();
    std::fs::write(folder.join("new"), serving.address().unwrap().to_string()).unwrap();
    std::fs::rename(folder.join("new"), folder.join(ADDRESS)).unwrap();
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        std::io::stdin().lock().lines().map_while(Result::ok).try_for_each(|line| said.send(line))
    });
    let mut looks = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            line = heard.recv() => {
                let Some(line) = line else { break };
                fault(&node, &line).await;
            }
            _ = looks.tick() => events.publish(),
        }
    }
    stop.cancel();
    serving.stopped().await;
    node.stop();
    assert_eq!(node.wait().await, Exit::Done);
}

/// A process that ends with its guard.
pub(super) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn node(folder: &Path, more: &str) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "seeing::live::node_to_be_seen", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(MORE, more);
    let log = std::fs::File::create(folder.join("node.txt")).unwrap();
    Process(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

/// Waits for what `look` finds.
pub(super) async fn until<T>(what: &str, patience: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// A Prometheus.
pub(super) struct Prometheus {
    url: String,
    client: reqwest::Client,
    _process: Process,
}

impl Prometheus {
    /// Runs `program` on the config in `folder`.
    async fn start(program: &Path, folder: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = std::fs::File::create(folder.join("prometheus.txt")).unwrap();
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}/prometheus/prometheus.yml", folder.display()));
        command.arg(format!("--storage.tsdb.path={}/data", folder.display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = Process(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let prometheus = Self { url: format!("http://127.0.0.1:{port}"), client, _process: process };
        let ready = async || {
            let asked = prometheus.client.get(format!("{}/-/ready", prometheus.url)).send().await.ok()?;
            asked.status().is_success().then_some(())
        };
        until("Prometheus", Duration::from_secs(60), ready).await;
        prometheus
    }

    async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let asked = self.client.get(format!("{}/api/v1/{path}", self.url)).query(parameters).send().await.unwrap();
        let answer: Value = asked.json().await.unwrap();
        assert_eq!(answer["status"], "success", "{parameters:?}: {answer}");
        answer["data"].clone()
    }

    /// What the query yields now.
    async fn query(&self, expr: &str) -> Vec<Value> {
        let found = self.get("query", &[("query", expr)]).await["result"].as_array().unwrap().clone();
        // A quantile over nothing is NaN.
        found.into_iter().filter(|series| series["value"][1] != "NaN").collect()
    }

    /// The first value that the query yields.
    pub(super) async fn number(&self, expr: &str) -> Option<f64> {
        self.query(expr).await.first()?["value"][1].as_str()?.parse().ok()
    }

    /// The alerts that fire.
    pub(super) async fn firing(&self) -> Vec<Value> {
        let alerts = self.get("alerts", &[]).await["alerts"].as_array().unwrap().clone();
        alerts.into_iter().filter(|alert| alert["state"] == "firing").collect()
    }
}

/// A panel's query with its variables filled in.
fn filled(expr: &str) -> String {
    let filled = expr.replace("$__rate_interval", RATE_INTERVAL);
    ["$instance", "$task", "$version"].into_iter().fold(filled, |expr, variable| expr.replace(variable, ".*"))
}

/// A node in `folder` with `more` of the config, a Prometheus that scrapes it, and its address.
pub(super) async fn seen(program: &Path, folder: &Path, more: &str) -> (Process, Prometheus, String) {
    let child = node(folder, more);
    let address = || std::fs::read_to_string(folder.join(ADDRESS)).ok();
    let address = until("the node", Duration::from_secs(90), async || address()).await;
    write(folder, &Target { pace: Pace::faster(SPEED), ..Target::new(address.clone()) });
    (child, Prometheus::start(program, folder).await, address)
}

/// Tells the node of a fault.
pub(super) fn plant(child: &mut Process, line: &str) {
    child.0.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Ends the node, which must have gone well.
pub(super) fn end(mut child: Process, folder: &Path) {
    drop(child.0.stdin.take());
    assert!(child.0.wait().unwrap().success(), "{}", std::fs::read_to_string(folder.join("node.txt")).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_sees_all_of_a_node_under_load() {
    let Some(program) = find("prometheus") else { return };
    let folder = tempfile::tempdir().unwrap();
    let more = "learner.publish_every_steps=16\nswap.rollback_groups=0";
    let (mut child, prometheus, address) = seen(&program, folder.path(), more).await;
    let scrapes = async || prometheus.number("sum(count_over_time(up[5m]))").await.filter(|count| *count > 60.0);
    until("scrapes", Duration::from_secs(90), scrapes).await;

    panels_have_data(&prometheus).await;
    rules_yield(&prometheus).await;
    metrics_are_clean(&prometheus.client, &address, folder.path()).await;

    let healthy = Instant::now();
    while healthy.elapsed() < WATCHED {
        // Which half waits for the other depends on the machine: no fault, but a hint.
        let firing = prometheus.firing().await.into_iter().filter(|alert| alert["labels"]["severity"] != "info");
        assert_eq!(firing.collect::<Vec<_>>(), Vec::<Value>::new(), "an alert on a healthy node");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let scrape = prometheus.number("quantile_over_time(0.5, scrape_duration_seconds{job=\"rco-node\"}[2m])").await;
    let scrape = scrape.unwrap() * 1000.0;
    eprintln!("a scrape takes {scrape:.1} ms (median)");
    assert!(scrape < 20.0, "{scrape} ms");

    plant(&mut child, "kill judge");
    let restarted = async || {
        let firing = prometheus.firing().await;
        firing.into_iter().find(|alert| alert["labels"]["alertname"] == "RcoRestarts")
    };
    let alert = until("the alert of a restart", FIRES_WITHIN, restarted).await;
    assert_eq!((&alert["labels"]["actor"], &alert["labels"]["severity"]), (&"judge".into(), &"warning".into()));
    end(child, folder.path());
}

/// Every query of every panel returns data, with the labels that its legend names.
async fn panels_have_data(prometheus: &Prometheus) {
    let legend = regex::Regex::new(r"\{\{([a-z]+)\}\}").unwrap();
    let (mut excused, mut seen) = (BTreeSet::new(), 0);
    for board in boards() {
        for (title, expr, legends) in queries(&board) {
            let query = filled(&expr);
            let series = async || Some(prometheus.query(&query).await).filter(|found| !found.is_empty());
            let found = match EMPTY.iter().find(|(panel, _)| *panel == title) {
                Some((panel, _)) => match series().await {
                    Some(found) => found,
                    None => {
                        excused.insert(*panel);
                        continue;
                    }
                },
                None => {
                    until(&format!("{title} of {}: {query}", board["title"]), Duration::from_secs(60), series).await
                }
            };
            for label in legend.captures_iter(&legends).map(|label| label[1].to_owned()).filter(|label| label != "le") {
                assert!(
                    found.iter().all(|series| series["metric"][&label].is_string()),
                    "{title}: no {label}: {query}"
                );
            }
            seen += 1;
        }
        for annotation in board["annotations"]["list"].as_array().unwrap() {
            prometheus.query(&filled(annotation["expr"].as_str().unwrap())).await;
        }
    }
    let all: BTreeSet<&str> = EMPTY.iter().map(|(panel, _)| *panel).collect();
    assert_eq!(excused, all, "panels that have data, and are excused");
    assert!(seen > 120, "only {seen} queries were asked");
}

/// Every recording rule yields.
async fn rules_yield(prometheus: &Prometheus) {
    for (name, _) in recordings() {
        let yields = async || Some(prometheus.query(&name).await).filter(|found| !found.is_empty());
        if NOT_YIELDED.contains(&name.as_str()) {
            assert!(yields().await.is_none(), "{name} yields, and is excused");
        } else {
            until(&name, Duration::from_secs(60), yields).await;
        }
    }
}

/// promtool's lints of the names and types.
async fn metrics_are_clean(client: &reqwest::Client, address: &str, folder: &Path) {
    let text = client.get(format!("http://{address}/metrics")).send().await.unwrap().text().await.unwrap();
    let file = folder.join("metrics.txt");
    std::fs::write(&file, text).unwrap();
    let Some(program) = find("promtool") else { return };
    let input = std::fs::File::open(file).unwrap();
    let output = Command::new(program).args(["check", "metrics"]).stdin(input).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{said}");
    promtool(&["check", "config", "prometheus/prometheus.yml"], folder);
}
