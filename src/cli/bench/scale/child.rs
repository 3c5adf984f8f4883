//! Measures one point in a process of its own, so that each has its own peak memory, engine and threads.

use super::workload::Workload;
use serde::Deserialize;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a bench prints, as far as it is read here.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Measurement {
    pub(super) tokens_per_second: f64,
    /// Of an episode, learning included; and the part that the engine works.
    pub(super) seconds_per_episode: Option<f64>,
    pub(super) writing_seconds_per_episode: Option<f64>,
    pub(super) threads: usize,
    pub(super) peak_gflops_per_second: f64,
    pub(super) gflops_per_second: f64,
    pub(super) gigabytes_per_second: f64,
    pub(super) peak_memory_bytes: Option<u64>,
}

/// Runs the bench of `workload` on `model`, with the config in the file `config`, `runs` times.
///
/// # Errors
/// Says why there is no measurement.
pub(super) fn measure(
    workload: &Workload,
    model: &str,
    threads: Option<usize>,
    config: &Path,
    runs: usize,
) -> Result<Measurement, String> {
    let program = std::env::current_exe().map_err(|error| format!("the program's own file: {error}"))?;
    let mut command = Command::new(program);
    command.arg("--config").arg(config).arg("bench").args(workload.arguments());
    command.args(["--model", model, "--json", "--runs", &runs.to_string()]);
    if let Some(threads) = threads {
        command.env("RAYON_NUM_THREADS", threads.to_string());
    }
    command.env("RCO_LOG", "warn").stdin(Stdio::null());
    read(&command.output().map_err(|error| format!("expected to start, got: {error}"))?)
}

/// The measurement that a bench printed, or why there is none.
fn read(output: &Output) -> Result<Measurement, String> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let error = said.lines().rev().find_map(|line| line.strip_prefix("error: "));
        let last = || said.lines().rev().find(|line| !line.trim().is_empty());
        return Err(match error.or_else(last) {
            Some(line) => format!("{line} ({})", output.status),
            None => output.status.to_string(),
        });
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("expected the figures of a bench, got: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn output(status: i32, stdout: &str, stderr: &str) -> Output {
        Output { status: ExitStatus::from_raw(status), stdout: stdout.into(), stderr: stderr.into() }
    }

    #[test]
    fn a_point_that_failed_says_why() {
        let why = |status, stderr| read(&output(status, "", stderr)).unwrap_err();
        assert_eq!(why(2 << 8, "warn: x\nerror: no room\n\n"), "no room (exit status: 2)");
        assert_eq!(why(101 << 8, "thread panicked\nat a line\n"), "at a line (exit status: 101)");
        assert!(why(9, "").contains("signal: 9"), "{}", why(9, ""));
        assert!(read(&output(0, "words", "")).unwrap_err().contains("expected the figures"));
    }

    #[test]
    fn the_figures_of_a_bench_are_read() {
        let line = r#"{"bench": "decode", "tokens_per_second": 5.5, "threads": 2, "peak_gflops_per_second": 100.0,
            "gflops_per_second": 10.0, "gigabytes_per_second": 2.0, "peak_memory_bytes": null}"#;
        let read = read(&output(0, line, "")).unwrap();
        assert_eq!((read.tokens_per_second, read.threads, read.seconds_per_episode), (5.5, 2, None));
    }
}
