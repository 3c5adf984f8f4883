//! Evaluations on held-out prompts: those of the run itself, and those of the run's critic beside others.

use super::chart::{Chart, Look, Series};
use super::contents::{Contents, NamedFigures};
use super::format::{Unit, share};
use super::table::{self, Cell};
use crate::eval::bootstrap::Estimate;
use crate::eval::plot::escaped;
use crate::tracking::Line;

/// The part of the page; empty if nothing was evaluated.
pub(super) fn html(contents: &Contents) -> String {
    let during: Vec<&Line> = contents.lines.iter().filter(|line| line.get("eval/seconds").is_some()).collect();
    if during.is_empty() && contents.evaluations.is_empty() {
        return String::new();
    }
    let mut out = "<section>\n<h2>Held-out evaluation</h2>\n<div class=\"grid\">\n".to_owned();
    if during.len() > 1 {
        out += &chart(&during).html();
    }
    if !during.is_empty() {
        out += "<div class=\"card\"><h3>While the critic learned</h3>\n";
        out += &during_table(&during, contents.best_step);
        let prompts = during[0].get("eval/prompts").unwrap_or_default();
        let before = during[0].get("eval/accuracy_before").map_or(String::new(), |accuracy| {
            format!(" Without critiques the responses have an accuracy of {}.", share(accuracy))
        });
        out += &format!(
            "<p class=\"note\">The critic in service on {prompts} held-out prompts; times 100, with 95 % intervals by prompt.{before}\
             </p></div>\n"
        );
    }
    out += "</div>\n";
    contents.evaluations.iter().for_each(|evaluation| out += &beside(evaluation));
    out + "</section>\n"
}

/// Utility and accuracy against steps, with their intervals.
fn chart(during: &[&Line]) -> Chart {
    let mut chart =
        Chart::new("Utility and accuracy", "On held-out prompts, times 100, with 95 % intervals by prompt.");
    chart.unit = Unit::Hundredths;
    for (colour, figure, name) in [
        (0, "cu", "critique utility"),
        (2, "accuracy_after", "accuracy of the refinements"),
        (5, "accuracy_before", "accuracy of the responses"),
    ] {
        let of = |line: &&Line| {
            let [value, low, high] = ["", "_low", "_high"].map(|bound| line.get(&format!("eval/{figure}{bound}")));
            Some(((line.step as f64, value?), (low?, high?)))
        };
        let (points, bounds): (Vec<_>, Vec<_>) = during.iter().filter_map(of).unzip();
        let line = Series::line(name, colour, points);
        // The responses are the same each time: a line says enough.
        let look = if figure == "accuracy_before" { Look::Dashed } else { Look::Dots };
        let bounds = if look == Look::Dots { bounds } else { Vec::new() };
        chart.series.push(Series { look, bounds, ..line });
    }
    chart.series.retain(|series| !series.points.is_empty());
    chart
}

fn during_table(during: &[&Line], best: Option<u64>) -> String {
    let figure = |line: &Line, name: &str| {
        let [value, low, high] = ["", "_low", "_high"].map(|bound| line.get(&format!("eval/{name}{bound}")));
        Cell::number(value.map(|value| match (low, high) {
            (Some(low), Some(high)) => format!("{} [{}, {}]", share(value), share(low), share(high)),
            _ => share(value),
        }))
    };
    let row = |line: &&Line| {
        let star = if best == Some(line.step) { " (best)" } else { "" };
        let version = line.get("eval/critic_version").map_or(String::new(), |version| format!("v{version}"));
        vec![
            Cell::Number(format!("{}{star}", line.step)),
            Cell::Text(version),
            figure(line, "cu"),
            figure(line, "accuracy_after"),
        ]
    };
    let heads = ["#step", "critic", "#utility", "#accuracy after"];
    table::html(&heads, &during.iter().map(row).collect::<Vec<_>>())
}

/// The table of one evaluation of several critics.
fn beside(evaluation: &NamedFigures) -> String {
    let NamedFigures { name, figures } = evaluation;
    let cell = |estimate: Option<Estimate>, signed: bool| {
        let written = |Estimate { value, low, high, .. }: Estimate| match signed {
            true => format!("{value:+.1} [{low:+.1}, {high:+.1}]"),
            false => format!("{value:.1} [{low:.1}, {high:.1}]"),
        };
        Cell::number(estimate.map(written))
    };
    let first = figures.critics.first().map_or("the first", |critic| critic.critic.as_str());
    let over = format!("#over {first}");
    let heads = ["critic", "#utility", &over, "#accuracy after", "#wrong to right", "#right to wrong"];
    let rows: Vec<Vec<Cell>> = figures
        .critics
        .iter()
        .map(|critic| {
            vec![
                Cell::Text(critic.critic.clone()),
                cell(critic.cu, false),
                cell(critic.cu_over_first, true),
                cell(critic.accuracy, false),
                cell(critic.wrong_to_right, false),
                cell(critic.right_to_wrong, false),
            ]
        })
        .collect();
    let before = figures.response.accuracy.map_or(String::new(), |accuracy| {
        format!(" The responses have an accuracy of {:.1} [{:.1}, {:.1}].", accuracy.value, accuracy.low, accuracy.high)
    });
    format!(
        "<div class=\"card wide\"><h3>{}</h3>\n{}<p class=\"note\">{} prompts; times 100, with 95 % intervals by prompt.{before}</p>\
         </div>\n",
        escaped(name),
        table::html(&heads, &rows),
        figures.prompts
    )
}
