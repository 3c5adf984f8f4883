//! `rco-node status`: what a running node does.

use crate::cli::exit::{CommandError, Exit};
use crate::cli::node_client::{NodeArguments, NodeClient};
use crate::cli::output::print_line;
use crate::config::Config;
use clap::Args;
use serde_json::{Value, json};
use std::time::Duration;

/// The pause between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    /// Looks again every two seconds, until Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArguments,
}

/// Runs the command.
///
/// # Errors
/// If no node answers.
pub(super) fn run(config: &Config, arguments: &StatusArguments) -> Result<Exit, CommandError> {
    let client = NodeClient::find(config, &arguments.node)?;
    loop {
        let status = client.get("/admin/status")?;
        match arguments.json {
            true => print_line(&status.to_string()),
            false => lines(&status).iter().for_each(|line| print_line(line)),
        }
        if !arguments.watch {
            return Ok(Exit::Done);
        }
        std::thread::sleep(LOOK);
        if !arguments.json {
            print_line("");
        }
    }
}

/// The status for people.
fn lines(status: &Value) -> Vec<String> {
    let number = |pointer: &str, digits: usize| match status.pointer(pointer).and_then(Value::as_f64) {
        Some(value) => format!("{value:.digits$}"),
        None => "-".to_owned(),
    };
    let paused = |part: &str| if status["paused"][part] == json!(true) { "paused" } else { "running" };
    let mut lines = vec![
        format!("waits for       {}", status["waits_for"].as_str().unwrap_or("-")),
        format!("critic          {}", critics(&status["versions"])),
        format!(
            "learner         step {}, loss {}, {} steps/min, {}",
            status["step"],
            number("/loss", 4),
            number("/rates/steps_per_minute", 1),
            paused("learner")
        ),
        format!(
            "rollout         {} episodes in flight, {} episodes/min, {}",
            status["queues"]["episodes_in_flight"],
            number("/rates/episodes_per_minute", 1),
            paused("rollout")
        ),
        format!("episodes        {} ended, {} dropped{}", status["episodes"], status["dropped"], reasons(status)),
        format!(
            "groups          {} scored, {} of zero variance, {} held; learned at age {} on average, {} at most",
            status["groups"],
            status["zero_variance"],
            status["queues"]["groups_held"],
            number("/staleness/mean", 1),
            number("/staleness/max", 0)
        ),
        format!("utility         {}", number("/utility_mean", 3)),
        format!(
            "engine          {} tokens/s, {} sequences running, {} waiting, {} % of the KV cache; {} commands queued",
            number("/rates/tokens_per_second", 0),
            status["queues"]["sequences_running"],
            status["queues"]["sequences_waiting"],
            status["queues"]["kv_usage"]
                .as_f64()
                .map_or_else(|| "-".to_owned(), |share| format!("{:.0}", 100.0 * share)),
            status["queues"]["device_commands"]
        ),
        format!("restarts        {}", status["restarts"]),
        format!("memory          {}", memory(&status["memory"])),
        String::new(),
    ];
    let warnings = status["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for (place, warning) in (1..).zip(warnings) {
        lines.insert(place, format!("warning         {warning}"));
    }
    let oldest = status["oldest"]["actor"].as_str();
    let rows = status["actors"].as_array().into_iter().flatten();
    lines.extend(rows.map(|row| actor(row, oldest)));
    lines
}

/// Why episodes were dropped.
fn reasons(status: &Value) -> String {
    let reasons = status["drop_reasons"].as_str().filter(|reasons| !reasons.is_empty());
    reasons.map(|reasons| format!(" ({reasons})")).unwrap_or_default()
}

/// The versions that are in service, pinned or on trial.
fn critics(versions: &Value) -> String {
    let mut text = format!("v{}", versions["serving"]);
    if let Some(version) = versions["pinned"].as_u64() {
        text += &format!(", pinned v{version}");
    }
    if let (Some(version), Some(share)) = (versions["on_trial"].as_u64(), versions["trial_share"].as_f64()) {
        text += &format!(", v{version} on trial with {:.0} % of the episodes", 100.0 * share);
    }
    text + &format!("; {} in memory", versions["in_memory"])
}

/// MiB held by each owner and, if there is a plan, planned.
fn memory(rows: &Value) -> String {
    let mib = |bytes: &Value| bytes.as_f64().unwrap_or(0.0) / f64::from(1 << 20);
    let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    let all = |key: &str| rows.iter().map(|row| mib(&row[key])).sum::<f64>();
    let parts: Vec<String> = rows
        .iter()
        .map(|row| {
            format!(
                "{} {:.0}/{:.0}",
                row["owner"].as_str().unwrap_or("-"),
                mib(&row["bytes"]),
                mib(&row["planned_bytes"])
            )
        })
        .collect();
    format!("{:.0} of {:.0} MiB planned: {}", all("bytes"), all("planned_bytes"), parts.join(", "))
}

/// An actor: how much it is at, and what it has been at for longest.
fn actor(row: &Value, oldest: Option<&str>) -> String {
    let name = row["actor"].as_str().unwrap_or("-");
    let job = &row["oldest"];
    if job.is_null() {
        return format!("{name:<15} idle");
    }
    let (what, subject) = (job["what"].as_str().unwrap_or("-"), job["subject"].as_str().unwrap_or_default());
    let subject = if subject.is_empty() { String::new() } else { format!(" ({subject})") };
    let mark = if oldest == Some(name) { ", longest of all" } else { "" };
    let seconds = job["seconds"].as_f64().unwrap_or(0.0);
    format!("{name:<15} {} in flight; {what}{subject} for {seconds:.1} s{mark}", row["in_flight"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_actor_is_a_line_and_the_longest_job_is_marked() {
        let job = |what: &str, seconds: f64| json!({ "what": what, "subject": "p1", "seconds": seconds });
        let status = json!({
            "waits_for": "nothing", "step": 3, "loss": 0.5, "paused": { "rollout": true, "learner": false },
            "versions": { "serving": 2, "pinned": null, "on_trial": 4, "trial_share": 0.1, "in_memory": 3 },
            "queues": { "episodes_in_flight": 2, "kv_usage": 0.25 },
            "memory": [{ "owner": "weights", "bytes": 3 << 20, "planned_bytes": 2 << 20 }],
            "actors": [
                { "actor": "critic", "in_flight": 2, "oldest": job("writes critiques", 1.5) },
                { "actor": "judge", "in_flight": 1, "oldest": job("judges refinements", 9.0) },
                { "actor": "swap", "in_flight": 0, "oldest": null },
            ],
            "oldest": { "actor": "judge" },
        });
        let text = lines(&status).join("\n");
        for expected in [
            "critic          v2, v4 on trial with 10 % of the episodes; 3 in memory",
            "rollout         2 episodes in flight, - episodes/min, paused",
            "25 % of the KV cache",
            "memory          3 of 2 MiB planned: weights 3/2",
            "critic          2 in flight; writes critiques (p1) for 1.5 s",
            "judge           1 in flight; judges refinements (p1) for 9.0 s, longest of all",
            "swap            idle",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
