//! The head of the page: what the run is, and its main figures.

use super::contents::Contents;
use super::curves::points;
use super::format::{duration, plain, share, time};
use crate::eval::plot::escaped;
use crate::tracking::{Line, last};

/// A figure with its name and what it is compared with.
struct Tile {
    name: &'static str,
    value: String,
    beside: String,
}

/// The head of the page.
pub(super) fn html(contents: &Contents) -> String {
    let shown = tiles(contents);
    let tile = |tile: &Tile| {
        let (value, beside) = (escaped(&tile.value), escaped(&tile.beside));
        format!(
            "<div class=\"tile\"><span>{}</span><strong>{value}</strong><span class=\"beside\">{beside}</span></div>\n",
            tile.name
        )
    };
    format!(
        "<header>\n<p class=\"kind\">rco-node run report</p>\n<h1>{}</h1>\n<p class=\"lead\">{}</p>\n</header>\n\
         <div class=\"tiles\">\n{}</div>\n{}",
        escaped(&contents.name),
        escaped(&sentence(contents)),
        shown.iter().map(tile).collect::<String>(),
        notes(&contents.notes)
    )
}

/// What the run is, in a sentence or two.
fn sentence(contents: &Contents) -> String {
    let Some(process) = contents.processes.last() else {
        return format!("Made {}.", time(contents.made));
    };
    let state = if contents.is_running { "running" } else { "not running" };
    let resumed = match contents.processes.len() {
        1 => String::new(),
        count => format!(", resumed {} time{}", count - 1, if count == 2 { "" } else { "s" }),
    };
    format!(
        "{}, rco-node {} on {}{resumed}; {state} when this was made, {}.",
        process.model.split("?sha256=").next().unwrap_or_default(),
        process.command,
        process.device,
        time(contents.made)
    )
}

fn tiles(contents: &Contents) -> Vec<Tile> {
    let lines = &contents.lines;
    let step = lines.last().map_or(0, |line| line.step);
    let mut tiles = vec![Tile { name: "learner steps", value: step.to_string(), beside: spent(lines) }];
    if let Some((first, last)) = ends(&points(lines, "cu/overall/mean")) {
        tiles.push(Tile { name: "critique utility", value: share(last), beside: compared(first, last) });
    }
    let evaluated = points(lines, "eval/cu");
    if let [(_, first), .., (_, last)] = evaluated[..] {
        tiles.push(Tile { name: "held-out utility", value: share(last), beside: compared(first, last) });
    }
    let held_out = points(lines, "held_out/utility");
    if let [(_, first), .., (_, last)] = held_out[..] {
        let beside = compared(first, last);
        tiles.push(Tile { name: "utility on held-out groups", value: share(last), beside });
    }
    if let Some(version) = last(lines, "critic/version") {
        let published = points(lines, "critic/published").len();
        tiles.push(Tile {
            name: "critic in service",
            value: format!("v{version}"),
            beside: format!("{published} publications"),
        });
    }
    let episodes = last(lines, "total/episodes").unwrap_or(0.0);
    if episodes > 0.0 {
        let flat = last(lines, "total/groups_zero_variance").unwrap_or(0.0) / episodes;
        let beside = format!("{:.0} % of zero variance", 100.0 * flat);
        tiles.push(Tile { name: "episodes", value: plain(episodes), beside });
    }
    let speed = points(lines, "tokens/per_second");
    if let Some((_, now)) = speed.last().filter(|(_, now)| *now > 0.0) {
        let mean = speed.iter().map(|(_, speed)| speed).sum::<f64>() / speed.len() as f64;
        tiles.push(Tile {
            name: "tokens per second",
            value: plain(*now),
            beside: format!("{} on average", plain(mean)),
        });
    }
    tiles
}

/// The time between the lines, without the gaps between two processes: what is longer than an hour is a gap.
fn spent(lines: &[Line]) -> String {
    const GAP_SECONDS: f64 = 3600.0;
    let spans = lines.windows(2).map(|pair| pair[1].time - pair[0].time);
    format!("in {}", duration(spans.filter(|span| (0.0..GAP_SECONDS).contains(span)).sum()))
}

/// The means of the first and of the last tenth of the points; none of fewer than two.
fn ends(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let count = (points.len() / 10).max(1);
    let mean = |part: &[(f64, f64)]| part.iter().map(|(_, value)| value).sum::<f64>() / part.len() as f64;
    (points.len() > 1).then(|| (mean(&points[..count]), mean(&points[points.len() - count..])))
}

fn compared(first: f64, last: f64) -> String {
    format!("{:+.1} from {}", 100.0 * (last - first), share(first))
}

fn notes(notes: &[String]) -> String {
    if notes.is_empty() {
        return String::new();
    }
    let item = |note: &String| format!("<li>{}</li>\n", escaped(note));
    format!("<ul class=\"notes\">\n{}</ul>\n", notes.iter().map(item).collect::<String>())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_are_means_and_gaps_between_processes_do_not_count() {
        let points: Vec<(f64, f64)> = (0..20).map(|x| (f64::from(x), f64::from(x))).collect();
        assert_eq!(ends(&points), Some((0.5, 18.5)));
        assert_eq!(ends(&points[..1]), None);
        let at = |time: f64| Line { step: 1, time, ..Line::default() };
        assert_eq!(spent(&[at(0.0), at(100.0), at(90_000.0), at(90_020.0)]), "in 2 min 00 s");
        assert_eq!(compared(0.5, 0.625), "+12.5 from 50.0");
    }
}
