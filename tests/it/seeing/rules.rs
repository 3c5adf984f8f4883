//! Rules and alerts, as promtool reads them: they are valid, and each alert fires when it should and not when it should not.

use super::alert_cases::{Case, Series, cases};
use crate::support::programs::find;
use rco_node::dashboards::{Alert, MadeFile, Pace, Target, alerts, files};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Writes every file for `target` below `folder`.
pub fn write(folder: &Path, target: &Target) {
    for MadeFile { path, text } in files(target) {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// Runs promtool; false if it is not installed.
pub fn promtool(arguments: &[&str], folder: &Path) -> bool {
    let Some(program) = find("promtool") else { return false };
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "promtool {arguments:?}\n{out}\n{err}");
    true
}

#[test]
fn promtool_accepts_config_and_rules() {
    let folder = tempfile::tempdir().unwrap();
    for pace in [Pace::NORMAL, Pace::faster(30)] {
        write(folder.path(), &Target { pace, ..Target::new("127.0.0.1:9464") });
        promtool(&["check", "config", "prometheus/prometheus.yml"], folder.path());
        promtool(&["check", "rules", "prometheus/rules.yml", "prometheus/alerts.yml"], folder.path());
    }
}

#[test]
fn every_alert_fires_on_what_it_is_for_and_on_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::new("127.0.0.1:9464");
    write(folder.path(), &target);
    let (alerts, cases) = (alerts(Pace::NORMAL), cases());
    let tested: BTreeSet<&str> = cases.iter().map(|case| case.alert).collect();
    assert_eq!(tested, alerts.iter().map(|alert| alert.name).collect());
    let tests: Vec<Value> = cases.iter().map(|case| test(case, &alerts)).collect();
    let tests = json!({
        "rule_files": ["prometheus/rules.yml", "prometheus/alerts.yml"],
        "evaluation_interval": "1m",
        "tests": tests,
    });
    // YAML reads JSON.
    std::fs::write(folder.path().join("alerts.test.yml"), tests.to_string()).unwrap();
    promtool(&["test", "rules", "alerts.test.yml"], folder.path());
}

/// One test: at ten minutes all is well; at the case's minute its alert fires for one instance, and no other alert for any.
fn test(case: &Case, alerts: &[Alert]) -> Value {
    let input = |instance: &str, series: &[Series]| -> Vec<Value> {
        let of = |series: &Series| {
            let labels = if series.labels.is_empty() { String::new() } else { format!(",{}", series.labels) };
            json!({ "series": format!("{}{{instance=\"{instance}\"{labels}}}", series.name), "values": series.values.trim() })
        };
        series.iter().map(of).collect()
    };
    let mut checks = Vec::new();
    for alert in alerts {
        checks.push(json!({ "eval_time": "10m", "alertname": alert.name, "exp_alerts": [] }));
        let fires = if alert.name == case.alert { vec![expected(case, alert)] } else { vec![] };
        checks.push(json!({ "eval_time": format!("{}m", case.minute), "alertname": alert.name, "exp_alerts": fires }));
    }
    let input = [input("bad", &case.bad), input("good", &case.good)].concat();
    json!({
        "interval": "1m",
        "input_series": input,
        "alert_rule_test": checks,
    })
}

/// The alert of `case` as it fires.
fn expected(case: &Case, alert: &Alert) -> Value {
    let mut labels = json!({ "instance": "bad", "severity": alert.severity.word() });
    let mut summary = alert.summary.replace("{{ $labels.instance }}", "bad");
    for (label, value) in &case.labels {
        labels[*label] = json!(value);
        summary = summary.replace(&format!("{{{{ $labels.{label} }}}}"), value);
    }
    assert!(!summary.contains("{{"), "{summary}");
    let runbook = format!("docs/runbook.md#{}", alert.name.to_lowercase());
    json!({ "exp_labels": labels, "exp_annotations": { "summary": summary, "runbook_url": runbook } })
}
