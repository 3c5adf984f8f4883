//! The dashboards as files: whole, and naming only what is there.

use crate::support::programs::python;
use rco_node::dashboards::{Pace, Target, alerts, files};
use rco_node::telemetry::metrics::{MetricKind, TABLE};
use regex::Regex;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Every dashboard.
pub fn boards() -> Vec<Value> {
    let target = Target::new("127.0.0.1:9464");
    let json = files(&target).into_iter().filter(|file| file.path.starts_with("grafana"));
    json.map(|file| serde_json::from_str(&file.text).unwrap()).collect()
}

/// The panels of `board` that show something.
pub fn panels(board: &Value) -> Vec<&Value> {
    board["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row").collect()
}

/// Every query of `board`, with its panel's title and its legend.
pub fn queries(board: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of_panel = |panel: &Value| {
        let title = text(&panel["title"]);
        let targets = panel["targets"].as_array().unwrap();
        targets.iter().map(|target| (title.clone(), text(&target["expr"]), text(&target["legendFormat"]))).collect()
    };
    panels(board).into_iter().flat_map(|panel| -> Vec<_> { of_panel(panel) }).collect()
}

/// Queries of dashboards, annotations, recording rules and alerts.
fn every_query() -> Vec<String> {
    let mut found = Vec::new();
    for board in boards() {
        found.extend(queries(&board).into_iter().map(|(_, expr, _)| expr));
        let annotations = board["annotations"]["list"].as_array().unwrap();
        found.extend(annotations.iter().map(|annotation| annotation["expr"].as_str().unwrap().to_owned()));
        let variables = board["templating"]["list"].as_array().unwrap();
        found.extend(variables.iter().filter_map(|variable| variable["definition"].as_str()).map(str::to_owned));
    }
    found.extend(alerts(Pace::NORMAL).into_iter().map(|alert| alert.expr));
    found.extend(recordings().into_iter().map(|(_, expr)| expr));
    found
}

/// Names and queries of the recording rules, as the file has them.
pub fn recordings() -> Vec<(String, String)> {
    let file = files(&Target::new("127.0.0.1:9464")).into_iter().find(|file| file.path.ends_with("rules.yml")).unwrap();
    let rule = Regex::new("record: (\"[^\n]*\")\n *expr: (\"[^\n]*\")").unwrap();
    let text = |quoted: &str| serde_json::from_str::<String>(quoted).unwrap();
    rule.captures_iter(&file.text).map(|found| (text(&found[1]), text(&found[2]))).collect()
}

#[test]
fn panels_fit_the_grid_and_do_not_overlap() {
    let mut seen = 0;
    for board in boards() {
        let (mut taken, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for panel in board["panels"].as_array().unwrap() {
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            let (left, top, width, height) = (at("x"), at("y"), at("w"), at("h"));
            let title = format!("{} / {}", board["title"], panel["title"]);
            assert!(width > 0 && height > 0 && left + width <= 24, "{title}: {}", panel["gridPos"]);
            for cell in (left..left + width).flat_map(|x| (top..top + height).map(move |y| (x, y))) {
                assert!(taken.insert(cell), "{title} covers another panel at {cell:?}");
            }
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: an id twice");
            seen += 1;
        }
    }
    assert!(seen > 80, "only {seen} panels");
}

#[test]
fn grafanas_own_models_read_every_dashboard_and_lose_nothing() {
    let python = match python("grafana", &["grafana-foundation-sdk"]) {
        Ok(python) => python,
        Err(why) => {
            assert!(std::env::var("RCO_TEST_PROGRAMS").as_deref() != Ok("required"), "{why}");
            return eprintln!("skipped: Grafana's models cannot be installed here: {why}");
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..).map(|n| folder.path().join(format!("{n}.json"))).take(boards().len()).collect();
    boards().iter().zip(&names).for_each(|(board, name)| std::fs::write(name, board.to_string()).unwrap());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/seeing/round_trip.py");
    let output = Command::new(python).arg(script).args(&names).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().count(), names.len(), "{said}");
}

#[test]
fn every_panel_says_what_it_shows_and_where_its_data_is_from() {
    let sources = Regex::new(r#""uid":"([^"]*)""#).unwrap();
    let used = Regex::new(r"\$\{?([a-z]+)\}?").unwrap();
    let mut uids = BTreeSet::new();
    for board in boards() {
        assert!(uids.insert(board["uid"].as_str().unwrap().to_owned()), "{}: a uid twice", board["uid"]);
        let text = board.to_string();
        for found in sources.captures_iter(&text).map(|found| found[1].to_owned()) {
            assert!(found == "${datasource}" || found.starts_with("rco-"), "a fixed data source: {found}");
        }
        // Variables that a query uses are there.
        let defined: BTreeSet<&str> = board["templating"]["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|variable| variable["name"].as_str().unwrap())
            .collect();
        for found in used.captures_iter(&text).map(|found| found[1].to_owned()) {
            assert!(defined.contains(found.as_str()), "{}: ${found} is not defined", board["title"]);
        }
        for panel in panels(&board) {
            assert!(panel["description"].as_str().unwrap().ends_with('.'), "{}", panel["title"]);
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{}", panel["title"]);
        }
    }
    assert_eq!(uids.len(), 5);
}

#[test]
fn every_metric_and_label_that_a_query_names_is_exported() {
    let name = Regex::new(r"\brco_[a-z0-9_]+").unwrap();
    let recorded: BTreeSet<String> = recordings().into_iter().map(|(name, _)| name).collect();
    assert!(recorded.len() > 8, "{recorded:?}");
    let mut labels: BTreeSet<String> =
        TABLE.iter().flat_map(|row| (row.labels)()).map(|label| label.key.to_owned()).collect();
    labels.extend(["instance", "job", "le"].map(str::to_owned));
    let by = Regex::new(r"\b(?:by|on) \(([^)]*)\)").unwrap();
    let matcher = Regex::new("[{,]([a-z_]+)(?:=|!)").unwrap();
    let mut seen = 0;
    for mut query in every_query() {
        for recorded in &recorded {
            query = query.replace(recorded.as_str(), "recorded");
        }
        for found in name.find_iter(&query).map(|found| found.as_str()) {
            let series = ["_bucket", "_sum", "_count"].iter().find_map(|ending| found.strip_suffix(ending));
            let is_exported = |row: &&rco_node::telemetry::metrics::MetricSpec| match row.kind {
                MetricKind::Histogram => series == Some(row.name),
                _ => row.name == found,
            };
            assert!(TABLE.iter().any(|row| is_exported(&row)), "no series {found}: {query}");
            seen += 1;
        }
        let grouped = by
            .captures_iter(&query)
            .flat_map(|found| found[1].split(',').map(|label| label.trim().to_owned()).collect::<Vec<_>>());
        let matched = matcher.captures_iter(&query).map(|found| found[1].to_owned());
        for label in grouped.chain(matched) {
            assert!(labels.contains(&label), "no label {label}: {query}");
        }
    }
    assert!(seen > 150, "only {seen} names were read");
}

#[test]
fn every_metric_is_on_a_dashboard() {
    let queries = every_query().join("\n");
    let named = |name: &str| Regex::new(&format!(r"\b{name}(_bucket|_sum|_count)?\b")).unwrap().is_match(&queries);
    let missing: Vec<_> = TABLE.iter().map(|row| row.name).filter(|name| !named(name)).collect();
    assert_eq!(missing, [""; 0], "a metric that nobody can see");
}

#[test]
fn every_alert_has_a_section_in_the_runbook() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbook.md")).unwrap();
    let headings: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("## Rco")).collect();
    let named: BTreeSet<&str> =
        alerts(Pace::NORMAL).iter().map(|alert| alert.name.strip_prefix("Rco").unwrap()).collect();
    assert_eq!(headings, named);
    assert!(named.len() > 15, "{named:?}");
}

#[test]
fn monitor_writes_the_stack_of_the_node_and_says_how_to_start_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rco-node"));
        command.args(arguments).args(["--out", "seen"]).current_dir(folder.path()).output().unwrap()
    };
    let output = run(&["monitor", "--node", "http://127.0.0.1:9999", "--runbook", "https://docs.example/runbook"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let start = |name: &str| said.lines().any(|line| line.contains(name) && line.contains("/seen/"));
    assert!(
        ["prometheus ", "alertmanager ", "grafana server", "docker compose"].iter().all(|name| start(name)),
        "{said}"
    );
    let read = |name: &str| std::fs::read_to_string(folder.path().join("seen").join(name)).unwrap();
    assert!(read("prometheus/prometheus.yml").contains("\"127.0.0.1:9999\""));
    assert!(read("prometheus/alerts.yml").contains("\"https://docs.example/runbook#rconodedown\""));
    assert!(read("grafana/overview.json").contains("\"uid\": \"rco-overview\""));
    assert!(read("compose.yaml").contains("grafana"));
    // A node beyond loopback is asked with a token, and there is none.
    let refused = run(&["monitor", "--node", "http://10.0.0.7:9464"]);
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
    let nobody = run(&["monitor", "--run", "nothing"]);
    assert_eq!(nobody.status.code(), Some(2), "{}", String::from_utf8_lossy(&nobody.stderr));
    let written = run(&["dashboards"]);
    assert!(written.status.success() && read("prometheus/prometheus.yml").contains("\"127.0.0.1:9464\""));
}
