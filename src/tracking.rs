//! A run's figures on disk, for whoever plots them: `metrics.jsonl` in the run directory, and TensorBoard's event files.
//!
//! A line is one JSON object of numbers, in the shape that the loggers of wandb and mlflow take. Files are written by a thread
//! of their own, and a failed write never ends the run. Knows names and numbers; no event, no actor, no learner.
//!
//! Invariants: steps never fall along the file; a figure has one value at a step; the file has an upper bound.

mod config;
mod crc32c;
mod environment;
mod event;
mod line;
mod stream;
mod tensorboard;
mod writer;

pub use config::TrackingConfig;
pub use environment::{Environment, FILE as ENVIRONMENT_FILE};
pub use line::{Error, FILE, Line, Lines, last, read};
pub use writer::FigureWriter;
