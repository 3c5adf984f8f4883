//! A chart as inline SVG with its title, legend and note. Colours are classes of the page's style, so that they follow its theme.

use super::axis::Axis;
use super::format::Unit;
use crate::eval::plot::escaped;
use std::fmt::Write as _;

/// How the points of a series are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A line.
    Line,
    /// A thin, pale line: single steps behind their mean.
    Faint,
    /// A dashed line.
    Dashed,
    /// A line with a dot and, where it is known, an interval at each point.
    Dots,
}

/// A series of a chart.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// Its name in the legend; empty for none.
    pub(super) name: String,
    /// Which of the page's colours it has.
    pub(super) colour: usize,
    pub(super) look: Look,
    /// In the order of x.
    pub(super) points: Vec<(f64, f64)>,
    /// Lower and upper bounds, for each point; empty if there are none.
    pub(super) bounds: Vec<(f64, f64)>,
}

impl Series {
    /// A line.
    pub(super) fn line(name: &str, colour: usize, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.to_owned(), colour, look: Look::Line, points, bounds: Vec::new() }
    }
}

/// A chart.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    /// What is shown and how it is read, in a sentence.
    pub(super) note: String,
    pub(super) unit: Unit,
    /// The range of the vertical axis, if it does not follow from the values: low, high and distance of ticks.
    pub(super) range: Option<(f64, f64, f64)>,
    /// Whether the vertical axis may be logarithmic.
    pub(super) may_be_log: bool,
    /// A horizontal line, and what it stands for.
    pub(super) mark: Option<(f64, &'static str)>,
    /// Whether the series are areas on top of each other; they then have the same x.
    pub(super) is_stacked: bool,
    /// Whether it takes the whole width of the page.
    pub(super) is_wide: bool,
    pub(super) series: Vec<Series>,
}

/// Margins of the plot within the picture.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 16.0;
const ABOVE: f64 = 10.0;
const BELOW: f64 = 34.0;
/// The page has this many colours.
pub(super) const COLOURS: usize = 8;

/// The plot's place in the picture, and its axes.
struct Plot {
    x: Axis,
    y: Axis,
    width: f64,
    height: f64,
}

impl Plot {
    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let right = self.width - RIGHT - LEFT;
        let down = self.height - BELOW - ABOVE;
        (LEFT + right * self.x.place(x), ABOVE + down * (1.0 - self.y.place(y)))
    }

    /// The points as a path of lines.
    fn path(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let mut path = String::new();
        for point in points {
            let (x, y) = self.at(point);
            let _ = write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { "M" } else { "L" });
        }
        path
    }
}

impl Chart {
    /// A chart of numbers with a title and a note; empty.
    pub(super) fn new(title: &str, note: impl Into<String>) -> Self {
        Self {
            title: title.to_owned(),
            note: note.into(),
            unit: Unit::Plain,
            range: None,
            may_be_log: false,
            mark: None,
            is_stacked: false,
            is_wide: false,
            series: Vec::new(),
        }
    }

    /// Whether there is anything to see.
    pub(super) fn is_empty(&self) -> bool {
        self.series.iter().all(|series| series.points.is_empty())
    }

    /// The chart as a figure of the page.
    pub(super) fn html(&self) -> String {
        let stacked;
        let chart = if self.is_stacked {
            stacked = self.stacked();
            &stacked
        } else {
            self
        };
        let mut out = String::new();
        let class = if self.is_wide { "card wide" } else { "card" };
        let _ = writeln!(out, "<figure class=\"{class}\">\n<figcaption><h3>{}</h3>", escaped(&self.title));
        let named: Vec<&Series> = self.series.iter().filter(|series| !series.name.is_empty()).collect();
        if named.len() > 1 || named.iter().any(|series| series.look == Look::Dashed) {
            let key = |series: &&Series| {
                let dashed = if series.look == Look::Dashed { " dashed" } else { "" };
                format!("<span class=\"key c{}{dashed}\">{}</span>", series.colour % COLOURS, escaped(&series.name))
            };
            let _ = writeln!(out, "<p class=\"legend\">{}</p>", named.iter().map(key).collect::<String>());
        }
        out.push_str("</figcaption>\n");
        out.push_str(&chart.svg());
        let _ = writeln!(out, "<p class=\"note\">{}</p>\n</figure>", escaped(&self.note));
        out
    }

    /// The same with each series on top of the one before.
    fn stacked(&self) -> Self {
        let mut chart = self.clone();
        let mut below: Vec<f64> = vec![0.0; self.series.first().map_or(0, |series| series.points.len())];
        for series in &mut chart.series {
            series.bounds.clear();
            for ((_, y), base) in series.points.iter_mut().zip(&mut below) {
                series.bounds.push((*base, *base + *y));
                *base += *y;
                *y = *base;
            }
        }
        chart
    }

    fn svg(&self) -> String {
        let (width, height) = if self.is_wide { (1100.0, 320.0) } else { (540.0, 250.0) };
        let points = || self.series.iter().flat_map(|series| &series.points);
        let bounds = || self.series.iter().flat_map(|series| &series.bounds);
        let values = points().map(|(_, y)| *y).chain(bounds().flat_map(|(low, high)| [*low, *high]));
        let values = values.chain(self.mark.map(|(value, _)| value));
        let y = match self.range {
            Some((low, high, step)) => Axis::linear(low, high, step),
            None => Axis::of(values, 4, self.may_be_log),
        };
        let plot = Plot { x: steps(points().map(|(x, _)| *x), self.is_wide), y, width, height };
        let mut out = format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">\n",
            escaped(&format!("{}: {}", self.title, self.note))
        );
        self.draw_axes(&plot, &mut out);
        if let Some((value, what)) = self.mark {
            let (_, y) = plot.at((0.0, value));
            let _ = writeln!(
                out,
                "<path class=\"mark\" d=\"M{LEFT} {y:.1}H{:.1}\"><title>{what}</title></path>",
                width - RIGHT
            );
        }
        // Areas first, so that no line is under another's.
        self.series.iter().for_each(|series| self.draw_area(series, &plot, &mut out));
        self.series.iter().for_each(|series| draw_line(series, &plot, self.unit, &mut out));
        out.push_str("</svg>\n");
        out
    }

    fn draw_axes(&self, plot: &Plot, out: &mut String) {
        for tick in &plot.y.ticks {
            let (_, y) = plot.at((0.0, *tick));
            let _ = writeln!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{:.1}\"/><text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                plot.width - RIGHT,
                LEFT - 7.0,
                y + 4.0,
                self.unit.write(*tick)
            );
        }
        let bottom = plot.height - BELOW;
        for tick in &plot.x.ticks {
            let (x, _) = plot.at((*tick, 0.0));
            let _ = writeln!(
                out,
                "<path class=\"axis\" d=\"M{x:.1} {bottom}v4\"/><text class=\"tick middle\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                bottom + 17.0,
                Unit::Plain.write(*tick)
            );
        }
        let _ = writeln!(
            out,
            "<path class=\"axis\" d=\"M{LEFT} {bottom}H{:.1}\"/><text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">learner step{}</text>",
            plot.width - RIGHT,
            plot.width - RIGHT,
            plot.height - 3.0,
            if plot.y.is_log() { ", logarithmic" } else { "" }
        );
    }

    /// The area between a series' bounds; the intervals of single points are lines.
    fn draw_area(&self, series: &Series, plot: &Plot, out: &mut String) {
        if series.bounds.is_empty() || series.look == Look::Dots {
            return;
        }
        let xs = || series.points.iter().map(|(x, _)| *x);
        let upper = xs().zip(&series.bounds).map(|(x, (_, high))| (x, *high));
        let lower = xs().zip(&series.bounds).map(|(x, (low, _))| (x, *low));
        let there = plot.path(upper);
        let back = plot.path(lower.collect::<Vec<_>>().into_iter().rev()).replacen('M', "L", 1);
        let kind = if self.is_stacked { "area" } else { "band" };
        let name = escaped(&series.name);
        let _ = writeln!(
            out,
            "<path class=\"{kind} c{}\" d=\"{there}{back}Z\"><title>{name}</title></path>",
            series.colour % COLOURS
        );
    }
}

fn draw_line(series: &Series, plot: &Plot, unit: Unit, out: &mut String) {
    let (colour, name) = (series.colour % COLOURS, escaped(&series.name));
    let class = match series.look {
        Look::Line | Look::Dots => "line",
        Look::Faint => "line faint",
        Look::Dashed => "line dashed",
    };
    if series.points.len() > 1 {
        let path = plot.path(series.points.iter().copied());
        let _ = writeln!(out, "<path class=\"{class} c{colour}\" d=\"{path}\"><title>{name}</title></path>");
    }
    if series.look != Look::Dots && series.points.len() != 1 {
        return;
    }
    for (place, point) in series.points.iter().enumerate() {
        let (x, y) = plot.at(*point);
        let mut said = format!("{name}, step {}: {}", point.0, unit.write(point.1));
        if let Some((low, high)) = series.bounds.get(place) {
            let ((_, bottom), (_, top)) = (plot.at((point.0, *low)), plot.at((point.0, *high)));
            let _ = write!(said, " [{}, {}]", unit.write(*low), unit.write(*high));
            let _ = writeln!(
                out,
                "<path class=\"whisker c{colour}\" d=\"M{x:.1} {bottom:.1}V{top:.1}M{:.1} {bottom:.1}h6M{:.1} {top:.1}h6\"/>",
                x - 3.0,
                x - 3.0
            );
        }
        let _ = writeln!(
            out,
            "<circle class=\"dot c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>{said}</title></circle>"
        );
    }
}

/// The axis of learner steps: from the first to the last, with ticks at whole numbers.
fn steps(values: impl Iterator<Item = f64>, is_wide: bool) -> Axis {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values {
        (low, high) = (low.min(value), high.max(value));
    }
    if low >= high {
        return Axis::linear((low - 1.0).max(0.0), high + 1.0, 1.0);
    }
    let wanted = if is_wide { 10.0 } else { 6.0 };
    let mut step = Axis::of([low, high].into_iter(), wanted as usize, false);
    let distance = match step.ticks.as_slice() {
        [first, second, ..] => (second - first).max(1.0).round(),
        _ => 1.0,
    };
    step = Axis::linear(low, high, distance);
    step
}
