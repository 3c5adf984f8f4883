//! One look at a node: what its listener says of it, as numbers and short texts.

use serde_json::Value;
use std::collections::BTreeMap;

/// Utilities of the critiques of a task: their sum and their number, since the node began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct UtilitySum {
    pub(super) sum: f64,
    pub(super) count: f64,
}

/// What an actor is at.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ActorLine {
    pub(super) name: String,
    pub(super) in_flight: u64,
    /// Its oldest job: what, for whom, for how many seconds.
    pub(super) oldest: Option<(String, String, f64)>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Happened {
    pub(super) id: u64,
    /// In milliseconds since 1970.
    pub(super) time: u64,
    pub(super) text: String,
}

/// What a node was like at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// What the run waits for.
    pub(super) waits_for: String,
    pub(super) rollout_paused: bool,
    pub(super) learner_paused: bool,
    pub(super) serving: u64,
    pub(super) pinned: Option<u64>,
    /// The critic that is tried, and the share of the episodes that it has.
    pub(super) on_trial: Option<(u64, f64)>,
    pub(super) step: u64,
    pub(super) loss: Option<f64>,
    pub(super) steps_per_minute: f64,
    pub(super) episodes_per_minute: f64,
    pub(super) episodes: u64,
    pub(super) dropped: u64,
    pub(super) groups: u64,
    pub(super) zero_variance: u64,
    pub(super) held: u64,
    pub(super) age_mean: Option<f64>,
    pub(super) utility_mean: Option<f64>,
    pub(super) tokens_per_second: f64,
    pub(super) running: u64,
    pub(super) waiting: u64,
    /// The share of the KV blocks that sequences hold.
    pub(super) kv_usage: f64,
    /// Resident memory and the planned one, in bytes.
    pub(super) memory: (f64, f64),
    pub(super) restarts: u64,
    pub(super) actors: Vec<ActorLine>,
    /// The actor whose job has taken longest.
    pub(super) slowest: Option<String>,
    /// Tokens that were written, by role.
    pub(super) tokens: BTreeMap<String, f64>,
    /// By task.
    pub(super) utilities: BTreeMap<String, UtilitySum>,
    /// What has happened since the look before.
    pub(super) happened: Vec<Happened>,
}

impl Look {
    /// Reads what `/admin/status`, `/metrics` and `/events` answered. What a node does not say is zero or none.
    pub(super) fn read(status: &Value, metrics: &str, events: &Value) -> Self {
        let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_f64);
        let count = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64);
        let is = |pointer: &str| status.pointer(pointer).and_then(Value::as_bool) == Some(true);
        let all = |key: &str| {
            let rows = status["memory"].as_array().into_iter().flatten();
            rows.filter_map(|row| row[key].as_f64()).sum::<f64>()
        };
        Self {
            waits_for: text(&status["waits_for"]),
            rollout_paused: is("/paused/rollout"),
            learner_paused: is("/paused/learner"),
            serving: count("/versions/serving").unwrap_or(0),
            pinned: count("/versions/pinned"),
            on_trial: count("/versions/on_trial").zip(number("/versions/trial_share")),
            step: count("/step").unwrap_or(0),
            loss: number("/loss"),
            steps_per_minute: number("/rates/steps_per_minute").unwrap_or(0.0),
            episodes_per_minute: number("/rates/episodes_per_minute").unwrap_or(0.0),
            episodes: count("/episodes").unwrap_or(0),
            dropped: count("/dropped").unwrap_or(0),
            groups: count("/groups").unwrap_or(0),
            zero_variance: count("/zero_variance").unwrap_or(0),
            held: count("/queues/groups_held").unwrap_or(0),
            age_mean: number("/staleness/mean"),
            utility_mean: number("/utility_mean"),
            tokens_per_second: number("/rates/tokens_per_second").unwrap_or(0.0),
            running: count("/queues/sequences_running").unwrap_or(0),
            waiting: count("/queues/sequences_waiting").unwrap_or(0),
            kv_usage: number("/queues/kv_usage").unwrap_or(0.0),
            memory: (all("bytes"), all("planned_bytes")),
            restarts: count("/restarts").unwrap_or(0),
            actors: status["actors"].as_array().into_iter().flatten().map(actor).collect(),
            slowest: status.pointer("/oldest/actor").and_then(Value::as_str).map(str::to_owned),
            tokens: tokens(metrics),
            utilities: utilities(metrics),
            happened: events.as_array().into_iter().flatten().filter_map(happened).collect(),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn actor(row: &Value) -> ActorLine {
    let job = &row["oldest"];
    let oldest = job["seconds"].as_f64().map(|seconds| (text(&job["what"]), text(&job["subject"]), seconds));
    ActorLine { name: text(&row["actor"]), in_flight: row["in_flight"].as_u64().unwrap_or(0), oldest }
}

fn happened(event: &Value) -> Option<Happened> {
    Some(Happened { id: event["id"].as_u64()?, time: event["time"].as_u64()?, text: text(&event["text"]) })
}

/// Tokens written, by role.
fn tokens(metrics: &str) -> BTreeMap<String, f64> {
    let mut tokens = BTreeMap::new();
    for (labels, value) in samples(metrics, "rco_roles_tokens_total") {
        if let Some(role) = label(labels, "role") {
            *tokens.entry(role).or_default() += value;
        }
    }
    tokens
}

/// Utilities by task, of all critics.
fn utilities(metrics: &str) -> BTreeMap<String, UtilitySum> {
    let mut utilities: BTreeMap<String, UtilitySum> = BTreeMap::new();
    for (labels, value) in samples(metrics, "rco_rollout_critique_utility_ratio_sum") {
        if let Some(task) = label(labels, "task") {
            utilities.entry(task).or_default().sum += value;
        }
    }
    for (labels, value) in samples(metrics, "rco_rollout_critique_utility_ratio_count") {
        if let Some(task) = label(labels, "task") {
            utilities.entry(task).or_default().count += value;
        }
    }
    utilities.retain(|_, sum| sum.count > 0.0);
    utilities
}

/// The labels and values of the series `name` in Prometheus' text format.
fn samples<'a>(metrics: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    metrics.lines().filter_map(move |line| {
        let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
        Some((labels, value.parse().ok()?))
    })
}

/// The value of `key` in the labels of a series, unescaped.
fn label(labels: &str, key: &str) -> Option<String> {
    let start = labels.match_indices(key).find_map(|(at, _)| {
        let is_first = at == 0 || labels[..at].ends_with(',');
        (is_first && labels[at + key.len()..].starts_with("=\"")).then_some(at + key.len() + 2)
    })?;
    let (mut value, mut chars) = (String::new(), labels[start..].chars());
    loop {
        match chars.next()? {
            '"' => return Some(value),
            '\\' => match chars.next()? {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn utilities_and_tokens_are_added_up_over_versions() {
        let metrics = "# TYPE rco_roles_tokens_total counter\n\
             rco_roles_tokens_total{role=\"critic\",version=\"serving\"} 5\n\
             rco_roles_tokens_total{role=\"critic\",version=\"other\"} 2\n\
             rco_rollout_critique_utility_ratio_sum{task=\"a\\\"b\",version=\"serving\"} 1.5\n\
             rco_rollout_critique_utility_ratio_sum{task=\"a\\\"b\",version=\"other\"} 0.5\n\
             rco_rollout_critique_utility_ratio_count{task=\"a\\\"b\",version=\"serving\"} 4\n\
             rco_rollout_critique_utility_ratio_count{task=\"none\",version=\"serving\"} 0\n";
        let look = Look::read(&Value::Null, metrics, &Value::Null);
        assert_eq!(look.tokens, BTreeMap::from([("critic".to_owned(), 7.0)]));
        let expected = UtilitySum { sum: 2.0, count: 4.0 };
        assert_eq!(look.utilities, BTreeMap::from([("a\"b".to_owned(), expected)]));
    }

    #[test]
    fn a_status_is_read_whole_and_an_empty_one_is_no_error() {
        let status = json!({
            "waits_for": "nothing", "paused": { "rollout": true, "learner": false }, "step": 7, "loss": 0.25,
            "versions": { "serving": 3, "pinned": null, "on_trial": 4, "trial_share": 0.1 },
            "memory": [{ "owner": "weights", "bytes": 10, "planned_bytes": 30 }, { "owner": "other", "bytes": 5 }],
            "actors": [{ "actor": "critic", "in_flight": 2,
                         "oldest": { "what": "writes", "subject": "p1", "seconds": 1.5 } }],
            "oldest": { "actor": "critic" },
        });
        let events = json!([{ "id": 9, "time": 1000, "text": "a swap" }]);
        let look = Look::read(&status, "", &events);
        assert_eq!((look.step, look.loss, look.serving, look.on_trial), (7, Some(0.25), 3, Some((4, 0.1))));
        assert_eq!((look.rollout_paused, look.learner_paused, look.memory), (true, false, (15.0, 30.0)));
        let oldest = Some(("writes".to_owned(), "p1".to_owned(), 1.5));
        assert_eq!(look.actors, [ActorLine { name: "critic".to_owned(), in_flight: 2, oldest }]);
        assert_eq!(look.happened, [Happened { id: 9, time: 1000, text: "a swap".to_owned() }]);
        assert_eq!(Look::read(&Value::Null, "", &Value::Null).step, 0);
    }
}
