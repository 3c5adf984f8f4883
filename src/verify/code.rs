//! Code: runs a Python function against tests, in a sandbox.
//!
//! `extract` finds the program in the text. A program that does not define the function continues the prompt's preamble:
//! HumanEval's tasks (Chen et al., arXiv 2107.03374) have this form. A failure says why.
//!
//! The judge, a process of its own, has the tests, calls the program over a pipe and compares its own objects; the program's
//! process gets arguments and gives results as plain data (`plain.py`). What the program does there is a claim about one
//! result, never a verdict. Only lines with the run's nonce count.

use super::sandbox::{self, Parties, ProcessEnd, Sandbox};
use crate::types::thoughts::without_thoughts;
use serde::Deserialize;
use std::fmt;
use std::hash::BuildHasher;
use std::time::Duration;

mod extract;
mod scan;
mod task;

pub(super) use task::CodeTask;

const PLAIN: &str = include_str!("code/plain.py");

/// Who judges a program, and who runs it.
pub(super) const PARTIES: Parties =
    Parties { judge: &[PLAIN, include_str!("code/judge.py")], candidate: &[PLAIN, include_str!("code/candidate.py")] };

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

/// A line that the judge writes.
#[derive(Deserialize)]
struct JudgeLine {
    nonce: String,
    #[serde(default)]
    said: Option<String>,
    #[serde(default)]
    detail: String,
}

/// Runs the tests on the program in `text`; `None` if they pass. The seed of Python's hashes follows from `turn`.
///
/// # Errors
/// If the sandbox failed before the program started, or the tests are none.
pub(super) fn run_tests(
    sandbox: &Sandbox,
    task: CodeTask<'_>,
    text: &str,
    guard: bool,
    turn: usize,
) -> Result<Option<ProgramFailure>, sandbox::Error> {
    let program = program_of(task, text);
    let nonce = nonce(&program);
    let input = serde_json::json!({
        "nonce": nonce, "program": program, "test": task.test, "preamble": task.preamble,
        "entry_point": task.entry_point, "guard": guard,
    });
    let ran = sandbox.run(input.to_string().as_bytes(), turn)?;
    let line = |line: &String| serde_json::from_str(line).ok().filter(|line: &JudgeLine| line.nonce == nonce);
    let Some(verdict) = ran.lines.iter().filter_map(line).next_back() else {
        return Err(sandbox::Error::Broken(format!("{:?} before the program began {}", ran.judge, ran.trouble)));
    };
    let wrong = |detail| Some(ProgramFailure::Wrong(detail));
    Ok(match verdict.said.as_deref() {
        Some("right") => None,
        Some("syntax") => Some(ProgramFailure::Syntax(verdict.detail)),
        Some("wrong") => wrong(verdict.detail),
        Some("memory") => Some(ProgramFailure::Memory),
        Some("forbidden") => Some(ProgramFailure::Forbidden(verdict.detail)),
        Some("exception") => Some(ProgramFailure::Exception(verdict.detail)),
        Some("unfit") => return Err(sandbox::Error::Broken(verdict.detail)),
        // At the deadline the program's process may be the first to be killed.
        Some("ended") if ran.deadline => Some(ProgramFailure::Timeout),
        Some("ended") => Some(ended(ran.candidate, sandbox, ran.took)),
        Some(other) => return Err(sandbox::Error::Broken(format!("the judge said {other:?}"))),
        None if ran.deadline => Some(ProgramFailure::Timeout),
        // The judge began, and what it compares comes from the program.
        None => match ran.judge {
            ProcessEnd::Code(OVER_CPU | KILLED) | ProcessEnd::Killed => Some(ProgramFailure::Timeout),
            ProcessEnd::Code(code) => wrong(format!("its result ended the judge with code {code}")),
        },
    })
}

/// The program in `text`.
pub(super) fn program_of(task: CodeTask<'_>, text: &str) -> String {
    extract::program(task, without_thoughts(text))
}

/// A secret that marks the judge's own lines: keys of the system's randomness, which the program would have to guess.
#[expect(clippy::disallowed_types, reason = "a secret is to differ from run to run, and orders nothing")]
fn nonce(program: &str) -> String {
    format!("{:016x}", std::hash::RandomState::new().hash_one(program))
}

/// Why a program's process ended before it answered.
fn ended(end: ProcessEnd, sandbox: &Sandbox, took: Duration) -> ProgramFailure {
    let spent = took.as_secs() >= sandbox.limits().cpu_seconds;
    match end {
        ProcessEnd::Code(OVER_CPU) => ProgramFailure::Timeout,
        ProcessEnd::Code(KILLED) if spent => ProgramFailure::Timeout,
        ProcessEnd::Code(KILLED) => ProgramFailure::Memory,
        ProcessEnd::Code(code) => ProgramFailure::Exception(format!("it ended with code {code} before its tests did")),
        ProcessEnd::Killed => ProgramFailure::Exception("it closed its pipe before its tests ended".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stderr)]
mod tests;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stdout)]
mod attacks;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod others;
