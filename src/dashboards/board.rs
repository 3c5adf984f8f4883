//! A dashboard as a value: rows of panels, each with its queries, unit and thresholds. Knows no JSON.
//!
//! Panels flow from left to right in rows of 24 columns, as Grafana's grid has them, so no two can overlap. Plots share the
//! lines of their row, so that none is left half empty.

use super::query::Expr;

/// Columns of Grafana's grid.
pub(super) const COLUMNS: u8 = 24;
/// Plots beside each other at most.
const PLOTS_MAX: u8 = 4;

/// A dashboard.
#[derive(Clone, Debug)]
pub(super) struct Board {
    /// Its name in links and its file, without the prefix.
    pub(super) name: &'static str,
    /// Its title.
    pub(super) title: &'static str,
    /// What it answers.
    pub(super) description: &'static str,
    /// Whether it can be narrowed to some tasks and critic slots.
    pub(super) by_task: bool,
    /// Its rows.
    pub(super) rows: Vec<Row>,
}

/// A titled row of panels; it may take several lines of the grid.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Its title.
    pub(super) title: &'static str,
    /// Its panels, from left to right.
    pub(super) panels: Vec<Panel>,
}

/// A row. Its plots share its lines.
pub(super) fn row(title: &'static str, panels: impl IntoIterator<Item = Panel>) -> Row {
    let mut panels: Vec<_> = panels.into_iter().collect();
    let plots = panels.iter_mut().filter(|panel| panel.shape.is_plot()).collect::<Vec<_>>();
    let widths = widths(u8::try_from(plots.len()).expect("a row is written by hand and has few panels"));
    plots.into_iter().zip(widths).for_each(|(plot, width)| plot.width = width);
    Row { title, panels }
}

/// The widths of `plots` plots: full lines, as equal as they can be, the earlier with more of them.
fn widths(plots: u8) -> impl Iterator<Item = u8> {
    let lines = plots.div_ceil(PLOTS_MAX);
    (0..lines).flat_map(move |line| {
        let beside = plots / lines + u8::from(line < plots % lines);
        std::iter::repeat_n(COLUMNS / beside, beside.into())
    })
}

/// How a panel shows its queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One large number for each series.
    Stat,
    /// Lines over time.
    Lines,
    /// Areas over time, one on the other.
    Stack,
    /// A histogram over time.
    Heat,
    /// The labels of each series.
    Table,
}

impl Shape {
    /// Whether it shows values over time.
    fn is_plot(self) -> bool {
        matches!(self, Self::Lines | Self::Stack | Self::Heat)
    }
}

/// What a panel's values are, as Grafana calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A plain number; thousands are abbreviated.
    Number,
    /// A number of which every digit counts, such as a version.
    Exact,
    /// A share from 0 to 1.
    Share,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Events per second.
    PerSecond,
    /// 0 or 1.
    YesNo,
    /// Seconds since 1970.
    Since,
}

impl Unit {
    /// Grafana's id of the unit.
    pub(super) fn id(self) -> &'static str {
        match self {
            Self::Number => "short",
            Self::Exact => "none",
            Self::Share => "percentunit",
            Self::Seconds => "s",
            Self::Bytes => "bytes",
            Self::PerSecond => "suffix:/s",
            Self::YesNo => "bool_yes_no",
            Self::Since => "dateTimeFromNow",
        }
    }

    /// The ends of an axis of such values.
    pub(super) fn range(self) -> (Option<f64>, Option<f64>) {
        (Some(0.0), (self == Self::Share).then_some(1.0))
    }
}

/// From where on a value has a colour. The first has no lower end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Threshold {
    /// From here.
    pub(super) from: Option<f64>,
    /// Grafana's name of the colour.
    pub(super) colour: &'static str,
}

/// One query of a panel.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The query.
    pub(super) expr: Expr,
    /// The name of its series; labels in double braces.
    pub(super) legend: &'static str,
    /// The unit of its own axis, on the right; none, if it has the panel's.
    pub(super) right: Option<Unit>,
}

/// A panel.
#[derive(Clone, Debug)]
pub(super) struct Panel {
    /// Its title.
    pub(super) title: &'static str,
    /// What it shows, and what to make of it.
    pub(super) description: &'static str,
    /// How.
    pub(super) shape: Shape,
    /// What its values are.
    pub(super) unit: Unit,
    /// Columns of the grid.
    pub(super) width: u8,
    /// Lines of the grid.
    pub(super) height: u8,
    /// Its queries.
    pub(super) targets: Vec<Target>,
    /// Colours by value.
    pub(super) thresholds: Vec<Threshold>,
    /// The least and the greatest value of its axis.
    pub(super) range: (Option<f64>, Option<f64>),
    /// Series with a colour of their own: a regular expression of their legends, and Grafana's name of the colour.
    pub(super) colours: &'static [(&'static str, &'static str)],
    /// Of a table: the labels that it shows, from left to right, each with the title of its column.
    pub(super) columns: &'static [(&'static str, &'static str)],
}

impl Panel {
    fn new(
        title: &'static str,
        description: &'static str,
        shape: Shape,
        unit: Unit,
        (width, height): (u8, u8),
    ) -> Self {
        let (targets, thresholds) = (Vec::new(), Vec::new());
        let range = unit.range();
        Self { title, description, shape, unit, width, height, targets, thresholds, range, colours: &[], columns: &[] }
    }

    /// One number, three columns wide.
    pub(super) fn stat(title: &'static str, description: &'static str, unit: Unit) -> Self {
        Self::new(title, description, Shape::Stat, unit, (3, 4))
    }

    /// Lines over time.
    pub(super) fn lines(title: &'static str, description: &'static str, unit: Unit) -> Self {
        Self::new(title, description, Shape::Lines, unit, (8, 8))
    }

    /// Areas over time.
    pub(super) fn stack(title: &'static str, description: &'static str, unit: Unit) -> Self {
        Self::new(title, description, Shape::Stack, unit, (8, 8))
    }

    /// A histogram over time.
    pub(super) fn heat(title: &'static str, description: &'static str, unit: Unit) -> Self {
        Self::new(title, description, Shape::Heat, unit, (8, 8))
    }

    /// A table of labels, of the whole width; each label has the title of its column beside it.
    pub(super) fn table(
        title: &'static str,
        description: &'static str,
        columns: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self { columns, ..Self::new(title, description, Shape::Table, Unit::Number, (COLUMNS, 4)) }
    }

    /// Whether the series of a query differ in another label than the node's.
    pub(super) fn is_split(&self) -> bool {
        self.targets.iter().any(|target| target.legend.replace("{{instance}}", "").contains("{{"))
    }

    /// With one more query.
    pub(super) fn query(mut self, expr: Expr, legend: &'static str) -> Self {
        self.targets.push(Target { expr, legend, right: None });
        self
    }

    /// With one more query, whose values have an axis of their own on the right.
    pub(super) fn query_right(mut self, expr: Expr, legend: &'static str, unit: Unit) -> Self {
        self.targets.push(Target { expr, legend, right: Some(unit) });
        self
    }

    /// With colours for the series whose legends match.
    pub(super) fn colours(self, colours: &'static [(&'static str, &'static str)]) -> Self {
        Self { colours, ..self }
    }

    /// Its axis has no ends of its own: the values may be below 0.
    pub(super) fn free(self) -> Self {
        Self { range: (None, None), ..self }
    }

    /// Its axis goes from `least` to `greatest`.
    pub(super) fn within(self, least: f64, greatest: f64) -> Self {
        Self { range: (Some(least), Some(greatest)), ..self }
    }

    /// Green below `warn`, then orange, then red from `bad` on.
    pub(super) fn bad_above(self, warn: f64, bad: f64) -> Self {
        self.coloured([("green", None), ("orange", Some(warn)), ("red", Some(bad))])
    }

    /// Red below `bad`, then orange, then green from `good` on.
    pub(super) fn bad_below(self, bad: f64, good: f64) -> Self {
        self.coloured([("red", None), ("orange", Some(bad)), ("green", Some(good))])
    }

    fn coloured(self, colours: [(&'static str, Option<f64>); 3]) -> Self {
        Self { thresholds: colours.map(|(colour, from)| Threshold { from, colour }).to_vec(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_row_are_full_and_as_equal_as_they_can_be() {
        let of = |plots| widths(plots).collect::<Vec<_>>();
        assert_eq!(of(3), [8; 3]);
        assert_eq!(of(4), [6; 4]);
        assert_eq!(of(5), [8, 8, 8, 12, 12]);
        assert_eq!(of(6), [8; 6]);
        assert_eq!(of(7), [6, 6, 6, 6, 8, 8, 8]);
        assert_eq!(of(9), [8; 9]);
        assert_eq!(of(0), [0; 0]);
    }
}
