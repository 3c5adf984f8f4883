//! The page.

use super::chart::Chart;
use super::contents::{Contents, CriticRow, Setting};
use super::format::{share, time};
use super::table::{self, Cell};
use super::{critiques, curves, evaluation, summary};
use crate::eval::plot::escaped;
use crate::tracking::Environment;

/// The page of a run, as one file of HTML.
pub fn html(contents: &Contents) -> String {
    let lines = &contents.lines;
    let mut learning = vec![curves::utility(lines)];
    learning.extend(curves::learning(lines));
    let parts = [
        summary::html(contents),
        charts("Learning", &learning),
        evaluation::html(contents),
        charts("Rollout", &curves::rollout(lines)),
        critiques::html(contents),
        critics(&contents.critics),
        config(contents),
        processes(&contents.processes),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{} - rco-node</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
        escaped(&contents.name),
        include_str!("style.css"),
        parts.concat()
    )
}

/// A part of the page with the charts that have something to show.
fn charts(title: &str, charts: &[Chart]) -> String {
    let shown: String = charts.iter().filter(|chart| !chart.is_empty()).map(Chart::html).collect();
    match shown.is_empty() {
        true => String::new(),
        false => format!("<section>\n<h2>{title}</h2>\n<div class=\"grid\">\n{shown}</div>\n</section>\n"),
    }
}

fn critics(critics: &[CriticRow]) -> String {
    if critics.is_empty() {
        return String::new();
    }
    let row = |critic: &CriticRow| {
        let utility = critic.utility.map(|(mean, half)| match half {
            Some(half) => format!("{} \u{b1} {}", share(mean), share(half)),
            None => share(mean),
        });
        vec![
            Cell::Text(critic.version.clone()),
            Cell::Text(critic.state.clone()),
            Cell::Text(critic.origin.clone()),
            Cell::Number(critic.groups.to_string()),
            Cell::number(utility),
            Cell::number(critic.eval_utility.map(share)),
            Cell::Text(if critic.changed > 0 { time(critic.changed as f64) } else { String::new() }),
            Cell::Text(critic.why.clone()),
        ]
    };
    let heads = ["critic", "state", "origin", "#groups", "#utility", "#held-out utility", "since", "why"];
    let rows: Vec<Vec<Cell>> = critics.iter().map(row).collect();
    let table = table::html(&heads, &rows);
    let note = "<p class=\"note\">Utility of the groups that each critic wrote for, times 100, with half of its 95 % interval.</p>";
    // A long run has hundreds.
    let shown = match critics.len() {
        0..=24 => table,
        count => format!("<details><summary>{count} critics</summary>\n{table}</details>\n"),
    };
    format!("<section>\n<h2>Critics</h2>\n<div class=\"card wide\">{shown}{note}</div>\n</section>\n")
}

fn config(contents: &Contents) -> String {
    if contents.config.is_empty() {
        return String::new();
    }
    let row = |setting: &Setting| {
        vec![Cell::Code(setting.key.clone()), Cell::Code(setting.value.clone()), Cell::Code(setting.quickstart.clone())]
    };
    let rows: Vec<Vec<Cell>> = contents.settings.iter().map(row).collect();
    let differences = match rows.is_empty() {
        true => "<p>Every setting is the quickstart's.</p>\n".to_owned(),
        false => table::html(&["setting", "here", "quickstart"], &rows),
    };
    format!(
        "<section>\n<h2>Config</h2>\n<div class=\"card wide\"><h3>What differs from the quickstart</h3>\n{differences}\
         <details><summary>the whole resolved config</summary><pre>{}</pre></details></div>\n</section>\n",
        escaped(&contents.config)
    )
}

fn processes(processes: &[Environment]) -> String {
    if processes.is_empty() {
        return String::new();
    }
    let row = |process: &Environment| {
        let memory = process.memory_bytes.map(|bytes| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)));
        let begun = match process.resumed_from {
            Some(step) => format!("{}, resumed from step {step}", process.command),
            None => process.command.clone(),
        };
        vec![
            Cell::Text(time(process.time)),
            Cell::Text(begun),
            Cell::Text(process.version.clone()),
            Cell::Text(process.device.clone()),
            Cell::Text(process.processor.clone().unwrap_or_default()),
            Cell::Number(process.threads.to_string()),
            Cell::number(memory),
            Cell::Text(process.system.clone()),
            Cell::Code(process.model_sha256.get(..12).unwrap_or_default().to_owned()),
        ]
    };
    let heads =
        ["began", "command", "rco-node", "device", "processor", "#threads", "#memory", "system", "model's sha256"];
    let rows: Vec<Vec<Cell>> = processes.iter().map(row).collect();
    format!(
        "<section>\n<h2>Environment</h2>\n<div class=\"card wide\">{}</div>\n</section>\n",
        table::html(&heads, &rows)
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
