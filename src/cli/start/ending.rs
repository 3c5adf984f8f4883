//! The last lines of a run: where its adapter is, and what to type next.

use crate::checkpoint::{self, CheckpointEntry};
use crate::node::RESOLVED_CONFIG;
use std::path::Path;

/// What to know of the run in the directory `run` once it has ended.
pub(super) fn last_lines(run: &Path) -> Vec<String> {
    let newest = checkpoint::list(&run.join("checkpoints")).unwrap_or_default();
    match newest.into_iter().find(|entry| entry.manifest().is_file()) {
        Some(newest) => lines(run, &newest),
        None => vec![format!("{} has no whole checkpoint yet", run.display())],
    }
}

fn lines(run: &Path, newest: &CheckpointEntry) -> Vec<String> {
    let adapter = newest.path.join("adapter");
    let critic = if adapter.is_dir() { &adapter } else { &newest.path };
    // The config that this process ran with, whatever it was made from.
    let (config, run) = (quoted(&run.join(RESOLVED_CONFIG)), quoted(run));
    vec![
        format!("critic after {} learner steps: {}", newest.step, critic.display()),
        "next:".to_owned(),
        format!("  rco-node start --config {config} --resume"),
        format!("  rco-node eval --config {config} --critic base --critic trained={run}"),
        format!("  rco-node export --config {config} --to peft --run {run} adapter"),
    ]
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@".contains(c);
    if path.chars().all(is_plain) { path } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_a_checkpoint_says_so() {
        let run = tempfile::tempdir().unwrap();
        assert!(last_lines(run.path())[0].ends_with("has no whole checkpoint yet"));
    }

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        assert_eq!(quoted(Path::new("runs/a-1")), "runs/a-1");
        assert_eq!(quoted(Path::new("my run's")), "'my run'\\''s'");
    }
}
