//! `docs/metrics.md`, from the table of metrics.

use rco_node::telemetry::metrics::{LabelSpec, MetricKind, MetricSpec, TABLE};

/// Titles of the rooms, in the order of the page.
const ROOMS: &[(&str, &str)] = &[
    ("node", "The node"),
    ("rollout", "Rollout"),
    ("roles", "Roles"),
    ("judge", "Judge"),
    ("remote", "Remote servers"),
    ("engine", "Engine"),
    ("device", "Device thread"),
    ("learner", "Learner"),
    ("replay", "Replay"),
    ("eval", "Evaluation"),
    ("checkpoint", "Checkpoints"),
    ("http", "Listener"),
];

fn room(row: &MetricSpec) -> &str {
    row.name.split('_').nth(1).unwrap()
}

fn kind(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    }
}

fn labels(row: &MetricSpec) -> String {
    let one = |LabelSpec { key, values }: LabelSpec| match (key, values.as_slice()) {
        ("task", []) => "`task`: the first 16 tasks of the prompt file, others as `other`".to_owned(),
        (key, []) => format!("`{key}`"),
        (key, values) => {
            let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
            format!("`{key}`: {}", values.join(", "))
        }
    };
    (row.labels)().into_iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The page.
pub fn page() -> String {
    let mut page = "# Metrics\n\n\
        Every metric that a node exports at `/metrics`, in Prometheus' text format. A test generates this page from the table\n\
        in `src/telemetry/metrics.rs`; `UPDATE_DOCS=1 cargo test --test it docs::` writes it.\n\n\
        Counters and histograms are exported from the start, at 0. A gauge is exported once it has a value. Labels have the\n\
        values listed here and no others, so the number of series is bounded: those of tasks by 17, all others by the tables\n\
        below. Prometheus adds `instance` and `job`. [`dashboards/`](../dashboards) shows the metrics;\n\
        [the runbook](runbook.md) says what to do about alerts on them.\n"
        .to_owned();
    for (name, title) in ROOMS {
        page += &format!("\n## {title}\n\n| metric | type | labels | |\n|---|---|---|---|\n");
        for row in TABLE.iter().filter(|row| room(row) == *name) {
            page += &format!("| `{}` | {} | {} | {} |\n", row.name, kind(row.kind), labels(row), row.help);
        }
    }
    page += "\n## Buckets\n\nHistograms have classic buckets, which every Prometheus reads.\n\n\
             | histograms | upper bounds | chosen for |\n|---|---|---|\n";
    let mut seen: Vec<&str> = Vec::new();
    for row in TABLE.iter().filter(|row| !row.buckets.bounds.is_empty()) {
        if seen.contains(&row.buckets.why) {
            continue;
        }
        seen.push(row.buckets.why);
        let alike = TABLE.iter().filter(|other| other.buckets.why == row.buckets.why);
        let names: Vec<_> = alike.map(|other| format!("`{}`", other.name)).collect();
        let bounds: Vec<_> = row.buckets.bounds.iter().map(f64::to_string).collect();
        page += &format!("| {} | {} | {} |\n", names.join(", "), bounds.join(", "), row.buckets.why);
    }
    page
}

#[test]
fn every_metric_stands_on_the_page() {
    let page = page();
    let missing: Vec<_> = TABLE.iter().filter(|row| !page.contains(&format!("| `{}` |", row.name))).collect();
    assert!(missing.is_empty(), "no title for the room of {missing:?}");
}
