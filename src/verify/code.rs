//! Code: runs a Python function against tests, in a sandbox.
//!
//! The program is the text's fenced block that defines the function, else its first block, else all of it. A program that
//! does not define the function continues the prompt's preamble. HumanEval's tasks (Chen et al., arXiv 2107.03374) have this
//! form. A failure says why. A program that deceives the harness from within could pass, but it cannot do harm.

use super::sandbox::{self, RunEnd, Sandbox};
use regex::Regex;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

const HARNESS: &str = include_str!("sandbox/harness.py");

/// Exit codes of a process ended by a signal: 128 plus its number.
const KILLED: i32 = 128 + 9;
const OVER_CPU: i32 = 128 + 24;

/// Why a program failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramFailure {
    /// It is not valid Python.
    Syntax(String),
    /// A test failed, or the function is missing.
    Wrong(String),
    /// It raised another exception than a failed test, or ended the process.
    Exception(String),
    /// It ran out of time.
    Timeout,
    /// It ran out of memory.
    Memory,
    /// It did something forbidden: wrote outside its folder, started a process, or used the network.
    Forbidden(String),
}

impl fmt::Display for ProgramFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(why) => write!(f, "syntax error: {why}"),
            Self::Wrong(why) if why.is_empty() => write!(f, "wrong"),
            Self::Wrong(why) => write!(f, "wrong: {why}"),
            Self::Exception(why) => write!(f, "exception: {why}"),
            Self::Timeout => write!(f, "timeout"),
            Self::Memory => write!(f, "memory"),
            Self::Forbidden(what) => write!(f, "forbidden: {what}"),
        }
    }
}

/// A function to test.
#[derive(Clone, Copy, Debug)]
pub(super) struct CodeTask<'a> {
    pub entry_point: &'a str,
    pub test: &'a str,
    pub preamble: &'a str,
}

/// A line that the harness writes.
#[derive(Deserialize)]
struct HarnessLine {
    nonce: String,
    #[serde(default)]
    said: Option<String>,
    #[serde(default)]
    detail: String,
}

/// Runs the tests on the program in `text`; `None` if they pass.
///
/// # Errors
/// If the sandbox failed before the program started.
pub(super) fn run_tests(
    sandbox: &Sandbox,
    task: CodeTask<'_>,
    text: &str,
    guard: bool,
) -> Result<Option<ProgramFailure>, sandbox::Error> {
    let program = program(task, text);
    let nonce = nonce(&program);
    let input = serde_json::json!({
        "nonce": nonce, "program": program, "test": task.test, "entry_point": task.entry_point, "guard": guard,
    });
    let ran = sandbox.run(HARNESS, input.to_string().as_bytes())?;
    let lines: Vec<HarnessLine> = String::from_utf8_lossy(&ran.output)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &HarnessLine| line.nonce == nonce)
        .collect();
    let Some(verdict) = lines.into_iter().next_back() else {
        return Err(sandbox::Error::Broken(format!("{:?} before the program began", ran.end)));
    };
    let spent = ran.took.as_secs() >= sandbox.limits().cpu_seconds;
    Ok(match (verdict.said.as_deref(), ran.end) {
        (Some("right"), _) => None,
        (Some("syntax"), _) => Some(ProgramFailure::Syntax(verdict.detail)),
        (Some("wrong"), _) => Some(ProgramFailure::Wrong(verdict.detail)),
        (Some("memory"), _) => Some(ProgramFailure::Memory),
        (Some("forbidden"), _) => Some(ProgramFailure::Forbidden(verdict.detail)),
        (Some(_), _) => Some(ProgramFailure::Exception(verdict.detail)),
        (None, RunEnd::Deadline | RunEnd::Code(OVER_CPU)) => Some(ProgramFailure::Timeout),
        (None, RunEnd::Code(KILLED)) => Some(if spent { ProgramFailure::Timeout } else { ProgramFailure::Memory }),
        (None, RunEnd::Code(code)) => {
            Some(ProgramFailure::Exception(format!("it ended with code {code} before its tests did")))
        }
    })
}

/// The secret that marks the harness's own lines; a program would have to guess it.
fn nonce(program: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    const_hex::encode(Sha256::digest(format!("{now:?}{:?}{program}", std::thread::current().id())))
}

/// The complete program of `text`.
fn program(task: CodeTask<'_>, text: &str) -> String {
    static FENCE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?s)```[ \t]*(?:[Pp]ython3?|py)?[ \t]*\n(.*?)(?:\n[ \t]*```|\z)")
            .expect("a constant: a test compiles it")
    });
    let head = format!("def {}", task.entry_point);
    let defines =
        |code: &str| code.match_indices(&head).any(|(at, _)| code[at + head.len()..].trim_start().starts_with('('));
    let blocks: Vec<&str> = FENCE.captures_iter(text).filter_map(|block| Some(block.get(1)?.as_str())).collect();
    let code = blocks.iter().find(|block| defines(block)).or(blocks.first()).copied().unwrap_or(text);
    if defines(code) {
        // Imports and helpers of the preamble stay.
        let before = task.preamble.find(&head).map_or("", |at| &task.preamble[..at]);
        return format!("{before}{code}\n");
    }
    let first = code.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if first.starts_with([' ', '\t']) {
        return format!("{}{code}\n", task.preamble);
    }
    let indented: Vec<String> = code.lines().map(|line| format!("    {line}")).collect();
    format!("{}{}\n", task.preamble, indented.join("\n"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stderr)]
mod tests;
