//! Dashboards as Grafana's JSON (schema 39, which Grafana 10.4 and later read). Knows no metric but those of variables and
//! annotations.
//!
//! The data source is a variable: no id of one is written down, so that a file works in any Grafana.

use super::board::{Board, COLUMNS, Panel, Row, Shape};
use super::query::{Scope, label_values};
use crate::telemetry::metrics;
use serde_json::{Value, json};

/// The schema of the JSON.
const SCHEMA: u32 = 39;
/// Every dashboard has it; links between them are made by it.
const TAG: &str = "rco-node";
/// The metric's window of annotations: one scrape interval or more.
const ANNOTATION_WINDOW: &str = "1m";

/// The file of `board`, below the folder of dashboards.
pub(super) fn file_name(board: &Board) -> String {
    format!("{}.json", board.name)
}

/// `board` as JSON.
pub(super) fn json(board: &Board) -> Value {
    json!({
        "uid": format!("rco-{}", board.name),
        "title": format!("rco-node / {}", board.title),
        "description": board.description,
        "tags": [TAG],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "30s",
        "timezone": "browser",
        "time": { "from": "now-3h", "to": "now" },
        "timepicker": {},
        "fiscalYearStartMonth": 0,
        "links": [{
            "type": "dashboards",
            "title": "rco-node",
            "tags": [TAG],
            "asDropdown": false,
            "icon": "external link",
            "includeVars": true,
            "keepTime": true,
            "targetBlank": false,
            "tooltip": "",
            "url": "",
        }],
        "templating": { "list": variables(board) },
        "annotations": { "list": annotations() },
        "panels": panels(&board.rows),
    })
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn variables(board: &Board) -> Vec<Value> {
    let datasource = json!({
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "regex": "",
        "hide": 0,
        "includeAll": false,
        "multi": false,
        "refresh": 1,
    });
    let utility = &metrics::UTILITY_HISTOGRAM;
    let mut variables = vec![datasource, variable("instance", "Node", &label_values(&metrics::NODE_UP, "instance"))];
    if board.by_task {
        // A histogram's series end in `_count`.
        let of = |label| label_values(utility, label).replacen(',', "_count,", 1);
        variables.push(variable("task", "Task", &of("task")));
        variables.push(variable("version", "Critic", &of("version")));
    }
    variables
}

/// A variable of several values, all of them at first.
fn variable(name: &str, label: &str, query: &str) -> Value {
    json!({
        "name": name,
        "label": label,
        "type": "query",
        "datasource": source(),
        "definition": query,
        "query": { "query": query, "refId": "StandardVariableQuery", "qryType": 1 },
        "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
        "allValue": ".*",
        "includeAll": true,
        "multi": true,
        "hide": 0,
        "refresh": 2,
        "regex": "",
        "sort": 1,
    })
}

fn annotations() -> Vec<Value> {
    let scope = Scope::panel().over(ANNOTATION_WINDOW);
    let of = |outcome| scope.only("outcome", outcome).increase(&metrics::SWAPS).sum(&["instance"]).is(">", 0.0);
    let restarts = scope.increase(&metrics::RESTARTS).sum(&["instance", "actor"]).is(">", 0.0);
    let each = [
        ("Publications", "the learner's critic went into service", "blue", of("published")),
        ("Swaps", "another critic went into service", "purple", of("swapped")),
        ("Rollbacks", "the critic in service was taken back", "orange", of("rolled_back")),
        ("Restarts", "an actor was restarted: {{actor}}", "red", restarts),
    ];
    let annotation = |(name, text, colour, expr): (&str, &str, &str, _)| {
        json!({
            "name": name,
            "datasource": source(),
            "enable": true,
            "hide": false,
            "iconColor": colour,
            "expr": format!("{expr}"),
            "step": ANNOTATION_WINDOW,
            "titleFormat": text,
            "textFormat": "{{instance}}",
            "useValueForTime": false,
        })
    };
    each.map(annotation).to_vec()
}

/// All rows and panels, each at its place in the grid.
fn panels(rows: &[Row]) -> Vec<Value> {
    let (mut found, mut top) = (Vec::new(), 0);
    for row in rows {
        found.push(json!({
            "id": found.len() + 1,
            "type": "row",
            "title": row.title,
            "collapsed": false,
            "gridPos": { "x": 0, "y": top, "w": COLUMNS, "h": 1 },
            "panels": [],
        }));
        top += 1;
        let (mut left, mut height) = (0, 0);
        for shown in &row.panels {
            if left + shown.width > COLUMNS {
                (left, top, height) = (0, top + u32::from(height), 0);
            }
            let place = json!({ "x": left, "y": top, "w": shown.width, "h": shown.height });
            found.push(panel(shown, found.len() + 1, place));
            left += shown.width;
            height = height.max(shown.height);
        }
        top += u32::from(height);
    }
    found
}

fn panel(panel: &Panel, id: usize, place: Value) -> Value {
    json!({
        "id": id,
        "type": kind(panel.shape),
        "title": panel.title,
        "description": panel.description,
        "datasource": source(),
        "gridPos": place,
        "targets": targets(panel),
        "fieldConfig": { "defaults": defaults(panel), "overrides": [] },
        "options": options(panel.shape),
    })
}

fn kind(shape: Shape) -> &'static str {
    match shape {
        Shape::Stat => "stat",
        Shape::Lines | Shape::Stack => "timeseries",
        Shape::Heat => "heatmap",
        Shape::Table => "table",
    }
}

fn targets(panel: &Panel) -> Vec<Value> {
    let is_instant = matches!(panel.shape, Shape::Stat | Shape::Table);
    let format = match panel.shape {
        Shape::Heat => "heatmap",
        Shape::Table => "table",
        _ => "time_series",
    };
    let target = |(name, target): (char, &super::board::Target)| {
        json!({
            "refId": name.to_string(),
            "datasource": source(),
            "editorMode": "code",
            "expr": target.expr.to_string(),
            "legendFormat": target.legend,
            "format": format,
            "instant": is_instant,
            "range": !is_instant,
        })
    };
    ('A'..='Z').zip(&panel.targets).map(target).collect()
}

fn defaults(panel: &Panel) -> Value {
    let mut steps: Vec<Value> =
        panel.thresholds.iter().map(|step| json!({ "color": step.colour, "value": step.from })).collect();
    if steps.is_empty() {
        steps.push(json!({ "color": if panel.shape == Shape::Stat { "blue" } else { "green" }, "value": null }));
    }
    let mut defaults = json!({
        "unit": panel.unit.id(),
        "thresholds": { "mode": "absolute", "steps": steps },
        "color": { "mode": if panel.shape == Shape::Stat { "thresholds" } else { "palette-classic" } },
        "noValue": "-",
        "mappings": [],
    });
    if let Some(min) = panel.range.0 {
        defaults["min"] = json!(min);
    }
    if let Some(max) = panel.range.1.filter(|_| panel.shape != Shape::Stack) {
        defaults["max"] = json!(max);
    }
    if matches!(panel.shape, Shape::Lines | Shape::Stack) {
        let is_stack = panel.shape == Shape::Stack;
        defaults["custom"] = json!({
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": if is_stack { 40 } else { 8 },
            "showPoints": "never",
            "spanNulls": false,
            "stacking": { "mode": if is_stack { "normal" } else { "none" }, "group": "A" },
            "thresholdsStyle": { "mode": if panel.thresholds.is_empty() { "off" } else { "dashed" } },
        });
    }
    defaults
}

fn options(shape: Shape) -> Value {
    match shape {
        Shape::Stat => json!({
            "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "auto",
        }),
        Shape::Lines | Shape::Stack => json!({
            "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true },
            "tooltip": { "mode": "multi", "sort": "desc" },
        }),
        Shape::Heat => json!({
            "calculate": false,
            "cellGap": 1,
            "color": { "mode": "scheme", "scheme": "Oranges", "steps": 64 },
            "legend": { "show": true },
            "yAxis": { "axisPlacement": "left" },
        }),
        Shape::Table => json!({ "showHeader": true, "cellHeight": "sm" }),
    }
}
