//! Dashboards as Grafana's JSON (schema 39, which Grafana 10.4 and later read). Knows no metric but those of variables and
//! annotations.
//!
//! The data source is a variable: no id of one is written down, so that a file works in any Grafana.

use super::board::{Board, COLUMNS, Panel, Row, Shape, Target, Unit};
use super::query::{Scope, label_values};
use crate::telemetry::metrics;
use serde_json::{Map, Value, json};

/// The line of what stays at 0 on a stack.
const ZERO_COLOUR: &str = "rgba(128, 128, 128, 0.5)";
/// The schema of the JSON.
const SCHEMA: u32 = 39;
/// Every dashboard has it; links between them are made by it.
const TAG: &str = "rco-node";
/// Columns that Grafana makes of a query beside its labels, and labels that say nothing.
const TABLE_EXTRAS: [&str; 4] = ["Time", "__name__", "job", "Value"];
/// The time between two looks for annotations.
const ANNOTATION_STEP: &str = "1m";
/// What each look sees: more than a step by a scrape interval and more, or what happens between the last scrape of one step
/// and the first of the next is never seen.
const ANNOTATION_WINDOW: &str = "90s";

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
            "step": ANNOTATION_STEP,
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
    let mut json = json!({
        "id": id,
        "type": kind(panel.shape),
        "title": panel.title,
        "description": panel.description,
        "datasource": source(),
        "gridPos": place,
        "targets": targets(panel),
        "fieldConfig": { "defaults": defaults(panel), "overrides": overrides(panel) },
        "options": options(panel.shape),
    });
    if panel.shape == Shape::Table {
        json["transformations"] = json!([columns(panel.columns)]);
    }
    json
}

/// What makes of a query's labels the columns of a table.
fn columns(columns: &[(&str, &str)]) -> Value {
    let of = |each: &dyn Fn(usize) -> Value| -> Map<String, Value> {
        columns.iter().enumerate().map(|(n, (label, _))| ((*label).to_owned(), each(n))).collect()
    };
    let hidden: Map<_, _> = TABLE_EXTRAS.iter().map(|name| ((*name).to_owned(), json!(true))).collect();
    json!({
        "id": "organize",
        "options": {
            "excludeByName": hidden,
            "indexByName": of(&|n| json!(n)),
            "renameByName": of(&|n| json!(columns[n].1)),
        },
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

/// The queries of `panel`, each with the letter that it is referred to by.
fn lettered(panel: &Panel) -> impl Iterator<Item = (char, &Target)> {
    ('A'..='Z').zip(&panel.targets)
}

/// Queries with an axis of their own, series with a colour of their own, and series that need no name in the legend.
fn overrides(panel: &Panel) -> Vec<Value> {
    let mut found: Vec<Value> =
        lettered(panel).filter_map(|(name, target)| target.right.map(|unit| right(name, unit))).collect();
    found.extend(panel.colours.iter().map(|(pattern, colour)| {
        json!({
            "matcher": { "id": "byRegexp", "options": format!("/^({pattern})$/") },
            "properties": [{ "id": "color", "value": { "mode": "fixed", "fixedColor": colour } }],
        })
    }));
    // Every value of a label has its series from the start. The names of those that stay at 0 would be in the way, and on a
    // stack their lines would colour the edge of what is below.
    if panel.is_split() && matches!(panel.shape, Shape::Lines | Shape::Stack) {
        let hidden = json!({ "legend": true, "tooltip": true, "viz": false });
        let mut properties = vec![json!({ "id": "custom.hideFrom", "value": hidden })];
        if panel.shape == Shape::Stack {
            properties.push(json!({ "id": "color", "value": { "mode": "fixed", "fixedColor": ZERO_COLOUR } }));
        }
        found.push(json!({
            "matcher": { "id": "byValue", "options": { "reducer": "allIsZero", "op": "gte", "value": 0 } },
            "properties": properties,
        }));
    }
    found
}

/// The query `name` has an axis on the right, in `unit`.
fn right(name: char, unit: Unit) -> Value {
    let (least, greatest) = unit.range();
    let ends = [("min", least), ("max", greatest)];
    let ends = ends.iter().filter_map(|(id, end)| end.map(|end| json!({ "id": id, "value": end })));
    let shown =
        [json!({ "id": "unit", "value": unit.id() }), json!({ "id": "custom.axisPlacement", "value": "right" })];
    json!({
        "matcher": { "id": "byFrameRefID", "options": name.to_string() },
        "properties": shown.into_iter().chain(ends).collect::<Vec<_>>(),
    })
}

fn targets(panel: &Panel) -> Vec<Value> {
    let is_instant = matches!(panel.shape, Shape::Stat | Shape::Table);
    let format = match panel.shape {
        Shape::Heat => "heatmap",
        Shape::Table => "table",
        _ => "time_series",
    };
    let target = |(name, target): (char, &Target)| {
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
    lettered(panel).map(target).collect()
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
        // Areas below many lines would mix.
        let opacity = if panel.is_split() { 0 } else { 8 };
        defaults["custom"] = json!({
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": if is_stack { 40 } else { opacity },
            "showPoints": "never",
            "spanNulls": false,
            "stacking": { "mode": if is_stack { "normal" } else { "none" }, "group": "A" },
            "thresholdsStyle": { "mode": if panel.thresholds.is_empty() { "off" } else { "dashed" } },
        });
    }
    if panel.shape == Shape::Table {
        defaults["custom"] = json!({ "align": "auto", "cellOptions": { "type": "auto" }, "minWidth": 80 });
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
