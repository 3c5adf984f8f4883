//! The live block in a real terminal, tmux: where the log scrolls, and what a narrow one shows.

use super::refusals::{program, within};
use super::start::judged;
use crate::support::programs::find;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The parts of the learner's row, the most important first.
const PARTS: [&str; 6] =
    [r"step \d+", r"CU (?:-|\d\.\d{3})", r"critic v\d+", r"\d+ tokens/s", r"loss (?:-|-?\d+\.\d{4})", r"\d+:\d\d:\d\d"];
/// How long the program may take to draw.
const DRAWS: Duration = Duration::from_secs(60);

/// A terminal with one program in it, which ends with this value.
struct Terminal {
    tmux: PathBuf,
    socket: PathBuf,
    /// The file with the number of the program's process.
    process: PathBuf,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

impl Terminal {
    /// Starts the shell script `script`, which tells its program's process, on a screen of `columns` and 16 rows.
    fn start(tmux: PathBuf, folder: &Path, columns: usize, script: &Path) -> Self {
        let terminal = Self { tmux, socket: folder.join("tmux"), process: folder.join(PROCESS) };
        let size = ["-x", &columns.to_string(), "-y", "16"];
        let new = [&["new-session", "-d", "-s", "shown"], &size[..], &["sh", script.to_str().unwrap()]].concat();
        terminal.tmux(&new).unwrap();
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.tmux);
        let output = command.args(["-f", "/dev/null", "-S"]).arg(&self.socket).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Its rows, with those that have scrolled away, and without empty ones at the end.
    fn rows(&self) -> Vec<String> {
        let text = self.tmux(&["capture-pane", "-p", "-S", "-", "-t", "shown"]).unwrap();
        text.trim_end().lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Its lines: rows that wrap are one.
    fn lines(&self) -> Vec<String> {
        let text = self.tmux(&["capture-pane", "-J", "-p", "-S", "-", "-t", "shown"]).unwrap();
        text.trim_end().lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Resizes the terminal while the program stands still: tmux tells a new size late, and what is drawn before that is drawn
    /// for the old one.
    fn resize(&self, columns: usize) {
        let tty = self.tmux(&["display-message", "-p", "-t", "shown", "#{pane_tty}"]).unwrap();
        self.signal("STOP");
        self.tmux(&["resize-window", "-t", "shown", "-x", &columns.to_string()]).unwrap();
        within(DRAWS, "a terminal of the new size", || {
            let size = Command::new("stty").args(["-F", tty.trim(), "size"]).output().unwrap();
            String::from_utf8_lossy(&size.stdout).split_whitespace().nth(1) == Some(&columns.to_string())
        });
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let process = fs::read_to_string(&self.process).unwrap();
        assert!(Command::new("kill").args([&format!("-{name}"), process.trim()]).status().unwrap().success());
    }
}

/// Which of the parts a row has; none if it is not the learner's row or has anything else in it.
fn parts(row: &str) -> Option<Vec<usize>> {
    let known: Vec<_> = PARTS.iter().map(|part| regex::Regex::new(&format!("^{part}$")).unwrap()).collect();
    let found = row.split("  ").map(|part| known.iter().position(|known| known.is_match(part)));
    let mut found: Vec<usize> = found.collect::<Option<_>>()?;
    found.sort_unstable();
    (found.first() == Some(&0)).then_some(found)
}

/// Lines of the log.
fn logged(lines: &[String]) -> Vec<&String> {
    lines.iter().filter(|line| line.contains(" INFO ")).collect()
}

/// Whether a block for so many columns is drawn; a moment after a change it is not, or not to the end.
fn is_drawn(lines: &[String], columns: usize) -> bool {
    let first = lines.iter().rposition(|line| line.starts_with("step "));
    let block = first.map_or(&[][..], |first| &lines[first..]);
    block.iter().all(|row| row.chars().count() < columns) && block.iter().any(|row| row.contains("groups kept "))
}

/// The log is above the block, which is there once and whole; the parts of its first row.
fn assert_whole(lines: &[String], columns: usize) -> Vec<usize> {
    let shown = lines.join("\n");
    let firsts: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].starts_with("step ")).collect();
    assert_eq!(firsts.len(), 1, "the block is there once: {shown}");
    let block = &lines[firsts[0]..];
    assert!(block.len() <= 4 && logged(block).is_empty(), "the log is above the block: {shown}");
    assert!(block[1].contains("groups kept "), "{shown}");
    assert!(block.iter().all(|row| row.chars().count() < columns), "no row wraps at {columns}: {shown}");
    // Nothing above is a piece of a block.
    for line in &lines[..firsts[0]] {
        assert!(line.contains(" INFO ") || line.contains(" WARN "), "{line:?} in {shown}");
    }
    parts(&block[0]).unwrap_or_else(|| panic!("torn: {:?} in {shown}", block[0]))
}

/// The file in which the node's script notes its process.
const PROCESS: &str = "process";

/// A shell script in `folder` that runs a node which logs each publication, and says its exit code.
fn script(folder: &Path) -> PathBuf {
    let more = format!("{}\nlearner.publish_every_steps=2\ncheckpoint.keep=1", judged(folder));
    let node = program(folder, &more, &["start"]);
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let words = std::iter::once(node.get_program()).chain(node.get_args()).map(|word| quoted(word.to_str().unwrap()));
    let command = words.collect::<Vec<_>>().join(" ");
    let write = |name: &str, lines: &[String]| {
        fs::write(folder.join(name), lines.join("\n")).unwrap();
        folder.join(name)
    };
    let process = quoted(folder.join(PROCESS).to_str().unwrap());
    let node = write("node", &[format!("echo $$ > {process}"), format!("exec {command}")]);
    let run = format!("sh {}", quoted(node.to_str().unwrap()));
    let lines = ["trap : INT", "export RCO_LOG=info NO_COLOR=1", &run, "echo ended with $?", "exec sleep 120"];
    write("script", &lines.map(str::to_owned))
}

#[test]
fn the_log_scrolls_above_the_live_block_and_a_narrow_terminal_keeps_what_matters() {
    let Some(tmux) = find("tmux") else { return };
    let folder = tempfile::tempdir().unwrap();
    let terminal = Terminal::start(tmux, folder.path(), 120, &script(folder.path()));
    let shows = |what: &str, is_so: &dyn Fn(&[String]) -> bool| {
        let mut lines = Vec::new();
        within(DRAWS, &format!("{what} in {:?}", terminal.rows()), || {
            lines = terminal.lines();
            is_so(&lines)
        });
        lines
    };
    let has_learned = |lines: &[String]| {
        is_drawn(lines, 102) && lines.iter().any(|line| parts(line).is_some_and(|parts| parts.len() == PARTS.len()))
    };
    let mut lines = shows("the whole block", &|lines| has_learned(lines) && logged(lines).len() > 3);
    assert_eq!(assert_whole(&lines, 102), [0, 1, 2, 3, 4, 5]);
    let mut kept = PARTS.len();
    for columns in [60, 44, 30, 20] {
        terminal.resize(columns);
        // As narrow, the log goes on.
        let before = logged(&lines).len();
        lines = shows("more of the log", &|lines| logged(lines).len() > before + 3 && is_drawn(lines, columns));
        let left = assert_whole(&lines, columns);
        assert!(
            left.len() <= kept && left.iter().copied().eq(0..left.len()),
            "at {columns} {left:?} of {kept} are left"
        );
        kept = left.len();
    }
    assert!(kept <= 2, "20 columns are few: {kept}");
    // Wider again, all is there.
    terminal.resize(120);
    let lines = shows("the whole block again", &has_learned);
    assert_eq!(assert_whole(&lines, 102), [0, 1, 2, 3, 4, 5]);

    terminal.tmux(&["send-keys", "-t", "shown", "C-c"]).unwrap();
    let lines = shows("the end", &|lines| lines.last().is_some_and(|line| line.starts_with("ended with")));
    let shown = lines.join("\n");
    assert_eq!(lines.last().unwrap(), "ended with 0", "{shown}");
    assert!(!lines.iter().any(|line| parts(line).is_some()), "the block is gone: {shown}");
    assert!(lines.iter().any(|line| line == "next:"), "{shown}");
}
