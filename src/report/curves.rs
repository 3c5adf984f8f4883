//! The curves of a run, from its figures.

use super::chart::{Chart, Look, Series};
use super::format::Unit;
use super::smooth::{POINTS_MIN, half_width, smoothed, thinned};
use crate::tracking::Line;
use std::collections::BTreeSet;

/// Bytes of a mebibyte.
const MIB: f64 = 1_048_576.0;
/// Bins of a stacked chart, at most.
const BINS_MAX: usize = 60;

/// The points of one figure: step and value.
pub(super) fn points(lines: &[Line], name: &str) -> Vec<(f64, f64)> {
    lines.iter().filter_map(|line| Some((line.step as f64, line.get(name)?))).collect()
}

/// The names of all figures that begin with `prefix`, without it.
pub(super) fn names<'a>(lines: &'a [Line], prefix: &str) -> Vec<&'a str> {
    let names = lines.iter().flat_map(|line| line.figures.keys());
    let names: BTreeSet<&str> = names.filter_map(|name| name.strip_prefix(prefix)).collect();
    names.into_iter().collect()
}

/// How a figure's steps are shown: as they are where they are few, else as their moving mean, with `spread` in a band of one
/// standard deviation, and without it before the steps themselves.
fn course(name: &str, colour: usize, points: Vec<(f64, f64)>, spread: Option<(f64, f64)>) -> Vec<Series> {
    if points.len() < POINTS_MIN {
        return vec![Series::line(name, colour, points)];
    }
    let smooth = smoothed(&points);
    let mut mean = Series::line(name, colour, smooth.iter().map(|point| (point.x, point.mean)).collect());
    let Some((low, high)) = spread else {
        let raw = Series { look: Look::Faint, ..Series::line("", colour, thinned(&points)) };
        return vec![raw, mean];
    };
    let within = |value: f64| value.clamp(low, high);
    mean.bounds = smooth.iter().map(|p| (within(p.mean - p.deviation), within(p.mean + p.deviation))).collect();
    vec![mean]
}

/// What is said of a smoothed curve of `count` steps.
fn window(count: usize) -> String {
    match count < POINTS_MIN {
        true => "Single steps.".to_owned(),
        false => format!("Moving mean over {} steps.", 2 * half_width(count) + 1),
    }
}

/// A chart of some figures, each with its name in the legend.
fn figures(title: &str, note: &str, lines: &[Line], shown: &[(&str, &str)]) -> Chart {
    let found: Vec<_> = shown.iter().map(|(figure, name)| (*name, points(lines, figure))).collect();
    let count = found.iter().map(|(_, points)| points.len()).max().unwrap_or_default();
    let mut chart = Chart::new(title, format!("{note} {}", window(count)));
    for (colour, (name, points)) in found.into_iter().enumerate().filter(|(_, (_, points))| !points.is_empty()) {
        chart.series.extend(course(name, colour, points, None));
    }
    chart
}

/// What the critic earned by task.
pub(super) fn utility(lines: &[Line]) -> Chart {
    let tasks = names(lines, "cu/mean/");
    let mut all: Vec<(String, &str)> = tasks.iter().map(|task| (format!("cu/mean/{task}"), *task)).collect();
    if all.len() > 1 {
        all.insert(0, ("cu/overall/mean".to_owned(), "all tasks"));
    }
    let count = points(lines, "cu/overall/mean").len();
    let note = "Mean score of the refinements of each critique, times 100; at 50, the dotted line, they are as good as the response.";
    let band = if count < POINTS_MIN { "" } else { " Band: one standard deviation of single steps." };
    let mut chart = Chart::new("Critique utility by task", format!("{note} {}{band}", window(count)));
    (chart.unit, chart.is_wide, chart.mark) = (Unit::Hundredths, true, Some((0.5, "as good as the response")));
    for (colour, (figure, name)) in all.iter().enumerate() {
        chart.series.extend(course(name, colour, points(lines, figure), Some((0.0, 1.0))));
    }
    if all.len() > 1 {
        // The band of all tasks is within those of each.
        chart.series[0].bounds.clear();
    }
    chart
}

/// How the learner does.
pub(super) fn learning(lines: &[Line]) -> Vec<Chart> {
    let loss = figures(
        "Loss",
        "Mean loss of a step's groups.",
        lines,
        &[("learner/loss", "loss"), ("learner/value_loss", "value network")],
    );
    let mut norm = figures("Gradient norm", "Before clipping.", lines, &[("learner/gradient_norm", "gradient norm")]);
    norm.may_be_log = true;
    let ratio = figures(
        "Log-ratio to the reference and to the writer",
        "Mean over a step's critiques, in nats for a whole critique: log pi/ref, an estimate of how far the critic has moved, and \
         log pi/mu, how far it is from the critic that wrote them.",
        lines,
        &[("learner/log_ratio_mean", "log pi/ref"), ("learner/behaviour_mean", "log pi/mu")],
    );
    let mut moments = figures(
        "Second moments of the log-ratios",
        "In these no signs cancel.",
        lines,
        &[("learner/log_ratio_second_moment", "log pi/ref"), ("learner/behaviour_second_moment", "log pi/mu")],
    );
    moments.may_be_log = true;
    let ages = figures(
        "Age of the critiques learned from",
        "In publications between writing and learning.",
        lines,
        &[("learner/age_mean_versions", "mean"), ("learner/age_max_versions", "oldest")],
    );
    let mut samples = figures(
        "Effective samples",
        "Kish's effective sample size of the weights pi/mu, as a share of the critiques.",
        lines,
        &[("learner/effective_sample_ratio", "share")],
    );
    samples.unit = Unit::Percent;
    let pairs = figures(
        "Preferences",
        "Share of the pairs that critic and judge order alike.",
        lines,
        &[("learner/preference_accuracy", "accuracy")],
    );
    let seconds = figures("Time of a learner step", "In seconds.", lines, &[("learner/seconds", "seconds")]);
    vec![loss, norm, ratio, moments, ages, samples, pairs, held_out(lines), seconds]
}

/// What the critic does on groups that it does not learn from.
fn held_out(lines: &[Line]) -> Chart {
    let mut chart = Chart::new("Held-out groups", "Utility that the critic would earn on groups held out, times 100.");
    chart.unit = Unit::Hundredths;
    let line = Series::line("held-out utility", 2, points(lines, "held_out/utility"));
    chart.series = vec![Series { look: Look::Dots, ..line }];
    chart
}

/// What rollout did.
pub(super) fn rollout(lines: &[Line]) -> Vec<Chart> {
    let verdicts = stacked(
        "Verdicts",
        "Shares of the judge's verdicts on refinements.",
        lines,
        &[
            ("verdicts/win", "win", 2),
            ("verdicts/tie", "tie", 5),
            ("verdicts/loss", "loss", 3),
            ("verdicts/invalid", "invalid", 7),
        ],
    );
    let groups = stacked(
        "What became of the episodes",
        "A group of zero variance teaches nothing and is only counted.",
        lines,
        &[
            ("rollout/groups_kept", "kept", 0),
            ("rollout/groups_zero_variance", "zero variance", 5),
            ("rollout/episodes_dropped", "dropped", 3),
        ],
    );
    let roles = ["generator", "critic", "refiner", "judge"];
    let shown: Vec<(String, &str)> = roles.iter().map(|role| (format!("tokens/mean/{role}"), *role)).collect();
    let shown: Vec<(&str, &str)> = shown.iter().map(|(figure, role)| (figure.as_str(), *role)).collect();
    let lengths = figures("Length of the texts", "Mean tokens of a text, by role.", lines, &shown);
    let speed = figures("Speed", "Tokens written in a second.", lines, &[("tokens/per_second", "tokens/s")]);
    vec![verdicts, lengths, groups, speed, memory(lines)]
}

fn memory(lines: &[Line]) -> Chart {
    let mut chart = Chart::new("Memory by owner", "Resident memory of the process.");
    (chart.unit, chart.is_stacked) = (Unit::Mebibytes, true);
    let of_steps: Vec<&Line> = lines.iter().filter(|line| line.get("learner/loss").is_some()).collect();
    for (colour, name) in names(lines, "memory/").into_iter().enumerate() {
        let figure = format!("memory/{name}");
        let points = of_steps.iter().map(|line| (line.step as f64, line.get(&figure).unwrap_or_default() / MIB));
        let points: Vec<_> = points.collect();
        let owner = name.trim_end_matches("_bytes").replace('_', " ");
        chart.series.push(Series::line(&owner, colour, thinned(&points)));
    }
    chart
}

/// A stacked chart of counts as shares: name of the figure, name in the legend, colour.
fn stacked(title: &str, note: &str, lines: &[Line], parts: &[(&str, &str, usize)]) -> Chart {
    let counts = |line: &Line| parts.iter().map(|(figure, ..)| line.get(figure)).collect::<Option<Vec<f64>>>();
    let rows: Vec<(f64, Vec<f64>)> = lines.iter().filter_map(|line| Some((line.step as f64, counts(line)?))).collect();
    let each = rows.len().div_ceil(BINS_MAX).max(1);
    let note = if each > 1 { format!("{note} Over {each} steps each.") } else { note.to_owned() };
    let mut chart = Chart::new(title, note);
    (chart.unit, chart.is_stacked, chart.range) = (Unit::Percent, true, Some((0.0, 1.0, 0.25)));
    for (part, (_, name, colour)) in parts.iter().enumerate() {
        let share = |bin: &[(f64, Vec<f64>)]| {
            let sum = |of: fn(&[f64], usize) -> f64| bin.iter().map(|(_, counts)| of(counts, part)).sum::<f64>();
            let whole = sum(|counts, _| counts.iter().sum());
            let middle = bin.iter().map(|(step, _)| step).sum::<f64>() / bin.len() as f64;
            (whole > 0.0).then(|| (middle, sum(|counts, part| counts[part]) / whole))
        };
        let points: Vec<(f64, f64)> = rows.chunks(each).filter_map(share).collect();
        chart.series.push(Series::line(name, *colour, points));
    }
    chart.series.retain(|series| series.points.iter().any(|(_, share)| *share > 0.0));
    chart
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn lines(count: u64) -> Vec<Line> {
        let figures = |step: u64| {
            let mut line = Line { step, time: step as f64, ..Line::default() };
            line.add("cu/mean/echo", 0.25 + 0.5 * step as f64 / count as f64);
            line.add("cu/overall/mean", 0.5);
            line.add("verdicts/win", step as f64);
            line.add("verdicts/tie", 1.0);
            line.add("verdicts/loss", 0.0);
            line.add("verdicts/invalid", 0.0);
            line
        };
        (1..=count).map(figures).collect()
    }

    #[test]
    fn few_steps_are_shown_as_they_are_and_many_by_their_mean_and_spread() {
        let few = utility(&lines(5));
        assert_eq!((few.series.len(), few.series[0].points.len()), (1, 5));
        assert!(few.series[0].bounds.is_empty() && few.note.contains("Single steps"), "{few:?}");
        let many = utility(&lines(200));
        assert_eq!((many.series.len(), many.series[0].points.len(), many.series[0].bounds.len()), (1, 200, 200));
        assert!(many.series[0].bounds.iter().all(|(low, high)| (0.0..=1.0).contains(low) && low <= high));
    }

    #[test]
    fn shares_are_summed_over_steps_and_add_up() {
        let chart = &rollout(&lines(120))[0];
        let names: Vec<&str> = chart.series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["win", "tie"], "what never came is left out");
        // Steps 1 and 2: 3 wins, 2 ties.
        assert_eq!(chart.series[0].points[0], (1.5, 0.6));
        let sums = chart.series[0].points.iter().zip(&chart.series[1].points).map(|(win, tie)| win.1 + tie.1);
        assert!(sums.into_iter().all(|sum| (sum - 1.0).abs() < 1e-9));
    }
}
