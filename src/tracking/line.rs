//! A line of a run's figures, and the file of them.

use crate::disk::json_lines;
use crate::types::brief::brief;
use crate::types::unix_time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file in a run directory.
pub const FILE: &str = "metrics.jsonl";

/// Figures of one learner step: of the step itself, of what was written since the step before, or of what came after it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Learner steps taken.
    pub step: u64,
    /// When it was written, in seconds since 1970.
    pub time: f64,
    /// Values by name, such as `learner/loss`; all of them finite.
    #[serde(flatten)]
    pub figures: BTreeMap<String, f64>,
}

impl Line {
    /// An empty line of `step`, written now.
    pub fn now(step: u64) -> Self {
        Self { step, time: unix_time::now().as_secs_f64(), figures: BTreeMap::new() }
    }

    /// Adds a figure. A value that is not finite is left out: JSON has no such numbers.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<f64>) {
        let value = value.into();
        if value.is_finite() {
            self.figures.insert(name.into(), value);
        }
    }

    /// Adds a figure if there is a value.
    pub fn add_some(&mut self, name: &str, value: Option<impl Into<f64>>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    /// One figure.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.figures.get(name).copied()
    }
}

/// The lines of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lines {
    /// In the order of the file: steps never fall.
    pub lines: Vec<Line>,
    /// Whether a torn last line was skipped.
    pub is_torn: bool,
}

/// Why figures could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A line is not one of figures.
    #[error("{path}, line {line}: expected an object of step, time and figures: {}", brief(.why))]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
}

/// The newest value of the figure `name`.
pub fn last(lines: &[Line], name: &str) -> Option<f64> {
    lines.iter().rev().find_map(|line| line.get(name))
}

/// Reads the figures of the run in the directory `run`, whether a node runs there or not; none if it has none.
///
/// # Errors
/// If the file cannot be read, or a line other than the last is not one of figures.
pub fn read(run: &Path) -> Result<Lines, Error> {
    let path = run.join(FILE);
    if !path.exists() {
        return Ok(Lines::default());
    }
    match json_lines::read(&path) {
        Ok(lines) => Ok(Lines { lines: lines.values, is_torn: lines.is_torn }),
        Err(json_lines::Error::Io(source)) => Err(Error::Io { path, source }),
        Err(json_lines::Error::Line { line, why }) => Err(Error::Line { path, line, why }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_flat_object_of_finite_numbers() {
        let mut line = Line { step: 7, time: 1.5, ..Line::default() };
        line.add("learner/loss", 0.1_f32);
        line.add("learner/age", f64::NAN);
        line.add_some("learner/baseline", None::<f32>);
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(text, format!(r#"{{"step":7,"time":1.5,"learner/loss":{}}}"#, f64::from(0.1_f32)));
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
        assert!(serde_json::from_str::<Line>(r#"{"step":7,"time":1.5,"a":"b"}"#).is_err());
    }
}
