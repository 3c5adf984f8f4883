//! The files of a monitoring stack: Prometheus, Alertmanager, Grafana's provisioning, and a compose file.

use super::alerts::{Alert, alerts};
use super::pace::Pace;
use super::query::JOB;
use super::rules::recordings;
use super::target::Target;
use super::yaml;
use serde_json::{Value, json};

/// Where the services listen.
const PROMETHEUS: &str = "127.0.0.1:9090";
const ALERTMANAGER: &str = "127.0.0.1:9093";
const GRAFANA_ADDRESS: &str = "127.0.0.1";
/// The variable by which Grafana finds the dashboards.
pub(super) const DASHBOARDS_VARIABLE: &str = "RCO_DASHBOARDS";
/// Where the compose file mounts things.
const MOUNT: &str = "/etc/rco-node";

/// The comment at the top of each file.
const MADE: &str = "Made by `rco-node dashboards` or `rco-node monitor`; do not edit.";

/// Every file, by its path.
pub(super) fn files(target: &Target) -> Vec<(&'static str, String)> {
    let made = |value: &Value| yaml::document(MADE, value);
    vec![
        ("prometheus/prometheus.yml", made(&scrape(target))),
        ("prometheus/rules.yml", made(&rules(target.pace))),
        ("prometheus/alerts.yml", made(&alert_rules(target))),
        ("alertmanager/alertmanager.yml", made(&alertmanager())),
        ("provisioning/datasources/prometheus.yml", made(&datasource(target.pace))),
        ("provisioning/dashboards/rco-node.yml", made(&provider())),
        ("compose.yaml", made(&compose(target))),
    ]
}

/// Prometheus' own config.
fn scrape(target: &Target) -> Value {
    let interval = target.pace.scrape();
    let mut job = json!({
        "job_name": JOB,
        "metrics_path": "/metrics",
        "scheme": target.scheme.word(),
        "static_configs": [{ "targets": [target.address] }],
    });
    if let Some(file) = &target.token_file {
        job["authorization"] = json!({ "type": "Bearer", "credentials_file": file });
    }
    json!({
        "global": { "scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval },
        "rule_files": ["rules.yml", "alerts.yml"],
        "alerting": { "alertmanagers": [{ "static_configs": [{ "targets": [ALERTMANAGER] }] }] },
        "scrape_configs": [job],
    })
}

fn rules(pace: Pace) -> Value {
    let rule = |rule: super::rules::Recording| json!({ "record": rule.name, "expr": rule.expr.to_string() });
    let rules: Vec<Value> = recordings(pace).into_iter().map(rule).collect();
    json!({ "groups": [{ "name": "rco-node.rules", "rules": rules }] })
}

fn alert_rules(target: &Target) -> Value {
    let rule = |Alert { name, expr, wait, severity, summary }: Alert| {
        json!({
            "alert": name,
            "expr": expr,
            "for": wait,
            "labels": { "severity": severity.word() },
            "annotations": { "summary": summary, "runbook_url": target.runbook_url(name) },
        })
    };
    let rules: Vec<Value> = alerts(target.pace).into_iter().map(rule).collect();
    json!({ "groups": [{ "name": "rco-node.alerts", "rules": rules }] })
}

/// Alerts are shown on Alertmanager's page; a receiver of one's own is added here.
fn alertmanager() -> Value {
    json!({
        "route": { "receiver": "operators", "group_by": ["alertname", "instance"] },
        "receivers": [{ "name": "operators" }],
        "inhibit_rules": [{
            "source_matchers": ["alertname = \"RcoNodeDown\""],
            "target_matchers": ["severity =~ \"warning|info\""],
            "equal": ["instance"],
        }],
    })
}

fn datasource(pace: Pace) -> Value {
    json!({
        "apiVersion": 1,
        "datasources": [{
            "name": "Prometheus",
            "type": "prometheus",
            "access": "proxy",
            "url": format!("http://{PROMETHEUS}"),
            "isDefault": true,
            "jsonData": { "timeInterval": pace.scrape() },
        }],
    })
}

fn provider() -> Value {
    json!({
        "apiVersion": 1,
        "providers": [{
            "name": JOB,
            "type": "file",
            "allowUiUpdates": true,
            "options": { "path": format!("${DASHBOARDS_VARIABLE}") },
        }],
    })
}

/// The services share the host's network: a node listens on loopback.
fn compose(target: &Target) -> Value {
    let mut mounts = vec![format!("./prometheus:{MOUNT}/prometheus:ro")];
    if let Some(file) = &target.token_file {
        mounts.push(format!("{0}:{0}:ro", file.display()));
    }
    json!({
        "services": {
            "prometheus": {
                "image": "prom/prometheus:v2.53.2",
                "network_mode": "host",
                "command": [format!("--config.file={MOUNT}/prometheus/prometheus.yml"), format!("--web.listen-address={PROMETHEUS}")],
                "volumes": mounts,
            },
            "alertmanager": {
                "image": "prom/alertmanager:v0.27.0",
                "network_mode": "host",
                "command": [
                    format!("--config.file={MOUNT}/alertmanager/alertmanager.yml"),
                    format!("--web.listen-address={ALERTMANAGER}"),
                    "--cluster.listen-address=",
                ],
                "volumes": [format!("./alertmanager:{MOUNT}/alertmanager:ro")],
            },
            "grafana": {
                "image": "grafana/grafana:11.2.2",
                "network_mode": "host",
                "environment": {
                    "GF_SERVER_HTTP_ADDR": GRAFANA_ADDRESS,
                    "GF_PATHS_PROVISIONING": format!("{MOUNT}/provisioning"),
                    DASHBOARDS_VARIABLE: format!("{MOUNT}/grafana"),
                },
                "volumes": [
                    format!("./provisioning:{MOUNT}/provisioning:ro"),
                    format!("./grafana:{MOUNT}/grafana:ro"),
                ],
            },
        },
    })
}

/// The commands that run the stack of the files in `folder` without containers.
pub(super) fn commands(folder: &str) -> [String; 3] {
    [
        format!(
            "prometheus --config.file={folder}/prometheus/prometheus.yml --storage.tsdb.path={folder}/prometheus-data \
             --web.listen-address={PROMETHEUS}"
        ),
        format!(
            "alertmanager --config.file={folder}/alertmanager/alertmanager.yml --storage.path={folder}/alertmanager-data \
             --web.listen-address={ALERTMANAGER} --cluster.listen-address="
        ),
        format!(
            "{DASHBOARDS_VARIABLE}={folder}/grafana GF_PATHS_PROVISIONING={folder}/provisioning \
             GF_PATHS_DATA={folder}/grafana-data GF_SERVER_HTTP_ADDR={GRAFANA_ADDRESS} \
             grafana server --homepath /usr/share/grafana"
        ),
    ]
}
