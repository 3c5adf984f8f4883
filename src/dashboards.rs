//! Dashboards, recording rules and alerts: one typed description, from which Grafana's and Prometheus' files are made.
//!
//! [`files`] makes them all. A query names a metric by its handle, so a metric that is renamed leaves no dead panel. Knows
//! no node: what is monitored is a [`Target`].

mod alerts;
mod board;
mod engine;
mod grafana;
mod judges;
mod operations;
mod overview;
mod pace;
mod query;
mod rules;
mod stack;
mod target;
mod training;
mod yaml;

pub use alerts::{Alert, Severity, alerts};
pub use pace::Pace;
pub use target::{RUNBOOK, Scheme, Target};

use std::path::{Path, PathBuf};

/// A file that is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeFile {
    /// Its path below the folder of all of them.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// Every file for the monitoring of `target`.
pub fn files(target: &Target) -> Vec<MadeFile> {
    let boards = [overview::board(), training::board(), engine::board(), operations::board(), judges::board()];
    let made = |board: &board::Board| MadeFile {
        path: Path::new("grafana").join(grafana::file_name(board)),
        text: format!("{:#}\n", grafana::json(board)),
    };
    let stack = stack::files(target).into_iter().map(|(path, text)| MadeFile { path: path.into(), text });
    boards.iter().map(made).chain(stack).collect()
}

/// The commands that run Prometheus, Alertmanager and Grafana on the files in `folder`, without containers.
pub fn commands(folder: &Path) -> [String; 3] {
    stack::commands(&folder.display().to_string())
}
