//! The result as an SVG picture: a panel a series, both axes logarithmic, with the fit and the machine's limits as lines.
//!
//! No fonts, no scripts; each point has its numbers as a title.

use super::result::{MeasuredSeries, Point, Scale};
use super::table::number;
use crate::eval::plot;
use std::fmt::Write;

const WIDTH: f64 = 350.0;
const HEIGHT: f64 = 280.0;
const COLUMNS: usize = 3;
/// Margins of a panel: the numbers of its axes, and its title.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const ABOVE: f64 = 50.0;
const BELOW: f64 = 44.0;
/// The title above all panels, and the legend below them.
const HEAD: f64 = 34.0;
const FOOT: f64 = 58.0;
/// The least distance between two numbers of the x axis.
const NUMBER_WIDTH: f64 = 36.0;

const MEASURED: &str = "stroke=\"#2f6fa8\" stroke-width=\"2\"";
const FIT: &str = "stroke=\"#777\" stroke-dasharray=\"2 3\"";
const ARITHMETIC: &str = "stroke=\"#c8572b\" stroke-width=\"1.5\" stroke-dasharray=\"7 3\"";
const MEMORY: &str = "stroke=\"#5b8c3a\" stroke-width=\"1.5\" stroke-dasharray=\"7 2 2 2\"";

/// The result as SVG.
pub(super) fn svg(scale: &Scale) -> String {
    // One point is no curve; but alone it is drawn.
    let with = |points: usize| scale.series.iter().filter(move |series| series.points.len() >= points);
    let panels: Vec<&MeasuredSeries> = if with(2).next().is_some() { with(2) } else { with(1) }.collect();
    let columns = panels.len().clamp(1, COLUMNS);
    let width = WIDTH * columns as f64;
    let height = HEAD + HEIGHT * panels.len().div_ceil(columns) as f64 + FOOT;
    let threads = scale.limits.last().map_or_else(String::new, |limits| format!(", {} threads", limits.threads));
    // Without the folder before the name and the checksum behind it.
    let model = scale.model.split('?').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let title = format!("{model}, {}, {}{threads}", scale.weights, scale.kernels);
    let mut out = plot::head(width, height, 11, &title);
    for (place, series) in panels.iter().enumerate() {
        let (column, row) = (place % columns, place / columns);
        let (x, y) = (WIDTH * column as f64, HEAD + HEIGHT * row as f64);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "<g transform=\"translate({x} {y})\">");
        Panel::of(series).draw(&mut out);
        out.push_str("</g>\n");
    }
    legend(&mut out, height - FOOT, columns);
    out.push_str("</svg>\n");
    out
}

/// What each line stands for, two a row.
fn legend(out: &mut String, top: f64, columns: usize) {
    let lines = [
        (MEASURED, "measured"),
        (FIT, "fitted power law"),
        (ARITHMETIC, "all arithmetic at the f32 peak"),
        (MEMORY, "all reading at the memory's bandwidth"),
    ];
    let a_row = if columns < COLUMNS { 1 } else { 2 };
    let (mut x, mut y) = (LEFT, top + 16.0 / a_row as f64);
    for (place, (style, what)) in lines.iter().enumerate() {
        if place > 0 && (columns == 1 || place.is_multiple_of(2 * a_row)) {
            (x, y) = (LEFT, y + 13.0);
        }
        let _ = writeln!(
            out,
            "<path d=\"M{x:.1} {y:.1}h30\" {style} fill=\"none\"/><text x=\"{:.1}\" y=\"{:.1}\">{what}</text>",
            x + 36.0,
            y + 4.0
        );
        x += 60.0 + 6.2 * what.chars().count() as f64;
    }
}

/// A panel: a series and the ranges of its axes, in natural logarithms.
struct Panel<'a> {
    series: &'a MeasuredSeries,
    x: (f64, f64),
    y: (f64, f64),
}

impl<'a> Panel<'a> {
    fn of(series: &'a MeasuredSeries) -> Self {
        let values = |point: &Point| {
            [Some(point.value), point.arithmetic_limit, point.memory_limit].into_iter().flatten().collect::<Vec<_>>()
        };
        Self {
            series,
            x: range(series.points.iter().map(|point| point.size)),
            y: range(series.points.iter().flat_map(values)),
        }
    }

    /// Where a size is.
    fn across(&self, size: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (size.ln() - self.x.0) / (self.x.1 - self.x.0)
    }

    /// Where a value is.
    fn down(&self, value: f64) -> f64 {
        HEIGHT - BELOW - (HEIGHT - BELOW - ABOVE) * (value.ln() - self.y.0) / (self.y.1 - self.y.0)
    }

    fn draw(&self, out: &mut String) {
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        let of_points = match (self.series.exponent, self.series.deviation) {
            (Some(exponent), Some(deviation)) if self.series.points.len() > 2 => {
                format!("exponent {exponent:.2}, every point within {:.0} %", 100.0 * deviation)
            }
            (Some(exponent), _) => format!("exponent {exponent:.2}, of two points"),
            _ => "one point, no exponent".to_owned(),
        };
        let _ = writeln!(
            out,
            "<text x=\"{middle:.1}\" y=\"22\" text-anchor=\"middle\" font-size=\"12\">{}</text>\
             <text x=\"{middle:.1}\" y=\"38\" text-anchor=\"middle\" fill=\"#555\">{of_points}</text>",
            self.series.series.title()
        );
        self.draw_axes(out);
        let of = |value: fn(&Point) -> Option<f64>| {
            self.series.points.iter().filter_map(|point| Some((point.size, value(point)?))).collect::<Vec<_>>()
        };
        self.line(out, &of(|point| point.arithmetic_limit), ARITHMETIC);
        self.line(out, &of(|point| point.memory_limit), MEMORY);
        if let Some(law) = self.series.law() {
            self.line(out, &of(|point| Some(point.size)).iter().map(|&(x, _)| (x, law.at(x))).collect::<Vec<_>>(), FIT);
        }
        self.line(out, &of(|point| Some(point.value)), MEASURED);
        for point in &self.series.points {
            let (x, y) = (self.across(point.size), self.down(point.value));
            let _ = writeln!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\" fill=\"#2f6fa8\"><title>{}: {} {} ({} {})</title></circle>",
                plot::escaped(&point.model),
                number(point.value),
                self.series.unit,
                point.size,
                self.series.size
            );
        }
    }

    /// A line through `points`; a short one where there is only one.
    fn line(&self, out: &mut String, points: &[(f64, f64)], style: &str) {
        let at = |&(x, y): &(f64, f64)| (self.across(x), self.down(y).clamp(ABOVE, HEIGHT - BELOW));
        let path = match points {
            [] => return,
            [one] => {
                let (x, y) = at(one);
                format!("M{:.1} {y:.1}h40", x - 20.0)
            }
            _ => {
                let parts = points.iter().map(at).map(|(x, y)| format!("{x:.1} {y:.1}"));
                format!("M{}", parts.collect::<Vec<_>>().join("L"))
            }
        };
        let _ = writeln!(out, "<path d=\"{path}\" {style} fill=\"none\"/>");
    }

    fn draw_axes(&self, out: &mut String) {
        let (right, bottom, middle) = (WIDTH - RIGHT, HEIGHT - BELOW, (ABOVE + HEIGHT - BELOW) / 2.0);
        for value in ticks(self.y) {
            let y = self.down(value);
            let _ = writeln!(
                out,
                "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                short(value)
            );
        }
        let mut last = f64::NEG_INFINITY;
        for point in &self.series.points {
            let x = self.across(point.size);
            let _ = writeln!(out, "<path d=\"M{x:.1} {bottom}v4\" stroke=\"#555\"/>");
            if x - last >= NUMBER_WIDTH {
                let label = short(point.size);
                let _ = writeln!(
                    out,
                    "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                    bottom + 16.0
                );
                last = x;
            }
        }
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {ABOVE}V{bottom}H{right}\" stroke=\"#555\" fill=\"none\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(14 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + right) / 2.0,
            bottom + 34.0,
            self.series.size,
            self.series.unit
        );
    }
}

/// The range of the logarithms of `numbers`, with some room at both ends.
fn range(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = numbers
        .filter(|number| *number > 0.0 && number.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), number| (low.min(number.ln()), high.max(number.ln())));
    if low > high {
        return (0.0, 1.0);
    }
    let room = (0.06 * (high - low)).max(0.1);
    (low - room, high + room)
}

/// 1, 2 and 5 of each power of ten in a range of logarithms; of a wide range, only the powers.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let decades = (high - low) / std::f64::consts::LN_10;
    let factors: &[f64] = if decades > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let powers = (low / std::f64::consts::LN_10).floor() as i32..=(high / std::f64::consts::LN_10).ceil() as i32;
    powers
        .flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)))
        .filter(|value| (low..=high).contains(&value.ln()))
        .collect()
}

/// A number of an axis, with k, M or G for thousands and their powers.
fn short(value: f64) -> String {
    let (divisor, letter) = match value {
        _ if value >= 1e9 => (1e9, "G"),
        _ if value >= 1e6 => (1e6, "M"),
        _ if value >= 1e4 => (1e3, "k"),
        _ => (1.0, ""),
    };
    let digits = format!("{:.3}", value / divisor);
    let kept = if value / divisor >= 100.0 { format!("{:.0}", value / divisor) } else { digits };
    let kept = if kept.contains('.') { kept.trim_end_matches('0').trim_end_matches('.').to_owned() } else { kept };
    format!("{kept}{letter}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::scale::result::Limits;
    use crate::cli::bench::scale::series::Series;

    fn series(points: &[(f64, f64)]) -> MeasuredSeries {
        let mut series = MeasuredSeries::new(Series::Sequences);
        let point = |&(size, value): &(f64, f64)| Point {
            size,
            value,
            arithmetic_limit: Some(20.0 * value),
            memory_limit: Some(3.0 * value),
            peak_memory_bytes: None,
            model: "a<b>".to_owned(),
            threads: 2,
            gflops_per_second: 1.0,
            gigabytes_per_second: 1.0,
            engine_seconds: None,
        };
        series.points = points.iter().map(point).collect();
        series.fitted()
    }

    #[test]
    fn equal_factors_are_equal_distances_and_all_lines_are_inside() {
        let series = series(&[(1.0, 10.0), (10.0, 40.0), (100.0, 90.0)]);
        let panel = Panel::of(&series);
        let [one, ten, hundred] = [1.0, 10.0, 100.0].map(|size| panel.across(size));
        assert!((ten - one - (hundred - ten)).abs() < 1e-9 && one > LEFT && hundred < WIDTH - RIGHT);
        assert!(panel.down(10.0) < HEIGHT - BELOW && panel.down(20.0 * 90.0) > ABOVE);
    }

    #[test]
    fn a_picture_has_a_panel_for_each_series_with_points_and_names_every_line() {
        let limits = Limits { threads: 2, peak_gflops_per_second: 1.0, memory_gigabytes_per_second: 1.0 };
        let scale = Scale {
            bench: "scale",
            model: "hf:x/y?sha256=5".to_owned(),
            kernels: "avx2",
            weights: "int8",
            limits: vec![limits],
            series: vec![series(&[(1.0, 10.0), (4.0, 20.0)]), series(&[(2.0, 1.0)]), series(&[])],
        };
        let drawn = svg(&scale);
        let alone = svg(&Scale { series: vec![series(&[(2.0, 1.0)])], ..scale });
        assert_eq!([&drawn, &alone].map(|drawn| drawn.matches("<g transform").count()), [1, 1]);
        assert!(alone.contains("no exponent"), "{alone}");
        for part in ["y, int8, avx2, 2 threads", "measured", "f32 peak", "bandwidth", "exponent 0.50"] {
            assert!(drawn.contains(part), "{part}: {drawn}");
        }
        assert!(drawn.contains("a&lt;b&gt;") && !drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
    }

    #[test]
    fn axes_have_round_numbers() {
        assert_eq!(ticks((9f64.ln(), 110f64.ln())), [10.0, 20.0, 50.0, 100.0]);
        assert_eq!(ticks((0.9f64.ln(), 1100f64.ln())), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(
            [0.05, 2.0, 960.0, 8160.0, 50_000.0, 134.5e6, 1.7e9].map(short),
            ["0.05", "2", "960", "8160", "50k", "134M", "1.7G"]
        );
    }
}
