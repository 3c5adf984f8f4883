//! Where and when a run's processes ran, a line for each.

use super::line::Line;
use crate::disk::json_lines::{self, Appender};
use crate::types::ModelId;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// The file in a run directory.
pub const FILE: &str = "environment.jsonl";

/// The longest file: a run that is resumed more often keeps what it has.
const BYTES_MAX: u64 = 1 << 22;

/// One process of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// When it began, in seconds since 1970.
    pub time: f64,
    /// `start` or `learn`.
    pub command: String,
    /// The step it went on from; none at the beginning of a run.
    pub resumed_from: Option<u64>,
    /// The program's version.
    pub version: String,
    /// Operating system, its release, and the processor's architecture.
    pub system: String,
    /// The processor's name, if the system says.
    pub processor: Option<String>,
    /// Threads that compute.
    pub threads: usize,
    /// Memory of the machine in bytes, if the system says.
    pub memory_bytes: Option<u64>,
    /// The device that the model runs on.
    pub device: String,
    /// The model's source.
    pub model: String,
    /// The sha256 of the model's files.
    pub model_sha256: String,
}

impl Environment {
    /// This process of `command`, as far as the system tells, on the model `model`.
    pub fn of_process(command: &str, model: &ModelId) -> Self {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let names = [std::env::consts::OS, release.trim(), std::env::consts::ARCH];
        Self {
            time: Line::now(0).time,
            command: command.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            system: names.iter().filter(|name| !name.is_empty()).copied().collect::<Vec<_>>().join(" "),
            processor: field("/proc/cpuinfo", "model name"),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: field("/proc/meminfo", "MemTotal").and_then(|total| kib(&total)),
            model: model.name.clone(),
            model_sha256: model.sha256.clone(),
            ..Self::default()
        }
    }

    /// Appends it to the file of the run directory `run`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn append(&self, run: &Path) -> io::Result<()> {
        let path = run.join(FILE);
        let mut file = Appender::open(&path)?;
        if file.bytes() >= BYTES_MAX {
            return Ok(());
        }
        file.append(&json_lines::to_line(self))
    }

    /// The processes of the run in the directory `run`, in order; none if it has no such file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(run: &Path) -> io::Result<Vec<Self>> {
        let path = run.join(FILE);
        if !path.exists() {
            return Ok(Vec::new());
        }
        match json_lines::read(&path) {
            Ok(lines) => Ok(lines.values),
            Err(json_lines::Error::Io(error)) => Err(error),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
        }
    }
}

/// The first value of `key` in a file of `key: value` lines.
fn field(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find_map(|(name, value)| (name.trim() == key).then(|| value.trim().to_owned()))
}

/// Bytes of a value such as `16 kB`.
fn kib(value: &str) -> Option<u64> {
    value.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_process_of_a_run_has_a_line() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Environment::read(folder.path()).unwrap(), []);
        let model = ModelId { name: "m".into(), sha256: "0".into() };
        let first = Environment::of_process("start", &model);
        let second = Environment { resumed_from: Some(4), ..first.clone() };
        first.append(folder.path()).unwrap();
        second.append(folder.path()).unwrap();
        assert_eq!(Environment::read(folder.path()).unwrap(), [first.clone(), second]);
        assert!(first.threads > 0 && first.time > 1.7e9 && !first.system.is_empty(), "{first:?}");
        assert_eq!(kib("16 kB"), Some(16 << 10));
    }
}
