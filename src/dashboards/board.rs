//! A dashboard as a value: rows of panels, each with its queries, unit and thresholds. Knows no JSON.
//!
//! Panels flow from left to right in rows of 24 columns, as Grafana's grid has them, so no two can overlap.

use super::query::Expr;

/// Columns of Grafana's grid.
pub(super) const COLUMNS: u8 = 24;

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

/// A row.
pub(super) fn row(title: &'static str, panels: impl IntoIterator<Item = Panel>) -> Row {
    Row { title, panels: panels.into_iter().collect() }
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

/// What a panel's values are, as Grafana calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A plain number.
    Number,
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
            Self::Share => "percentunit",
            Self::Seconds => "s",
            Self::Bytes => "bytes",
            Self::PerSecond => "cps",
            Self::YesNo => "bool_yes_no",
            Self::Since => "dateTimeFromNow",
        }
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
}

impl Panel {
    fn new(
        title: &'static str,
        description: &'static str,
        shape: Shape,
        unit: Unit,
        (width, height): (u8, u8),
    ) -> Self {
        let range = match unit {
            Unit::Share => (Some(0.0), Some(1.0)),
            Unit::Number => (None, None),
            _ => (Some(0.0), None),
        };
        Self { title, description, shape, unit, width, height, targets: Vec::new(), thresholds: Vec::new(), range }
    }

    /// One number, three columns wide.
    pub(super) fn stat(title: &'static str, description: &'static str, unit: Unit) -> Self {
        Self::new(title, description, Shape::Stat, unit, (3, 4))
    }

    /// Lines over time, a third of the width.
    pub(super) fn lines(title: &'static str, description: &'static str, unit: Unit) -> Self {
        Self::new(title, description, Shape::Lines, unit, (8, 8))
    }

    /// Areas over time, a third of the width.
    pub(super) fn stack(title: &'static str, description: &'static str, unit: Unit) -> Self {
        Self::new(title, description, Shape::Stack, unit, (8, 8))
    }

    /// A histogram over time, a third of the width.
    pub(super) fn heat(title: &'static str, description: &'static str, unit: Unit) -> Self {
        Self::new(title, description, Shape::Heat, unit, (8, 8))
    }

    /// A table of labels, of the whole width.
    pub(super) fn table(title: &'static str, description: &'static str) -> Self {
        Self::new(title, description, Shape::Table, Unit::Number, (COLUMNS, 4))
    }

    /// With one more query.
    pub(super) fn query(mut self, expr: Expr, legend: &'static str) -> Self {
        self.targets.push(Target { expr, legend });
        self
    }

    /// Of another width.
    pub(super) fn wide(self, width: u8) -> Self {
        Self { width, ..self }
    }

    /// Its axis has no ends of its own.
    pub(super) fn free(self) -> Self {
        Self { range: (None, None), ..self }
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
