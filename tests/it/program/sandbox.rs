//! What the program says of the sandbox for code: on this machine, and where nothing can be isolated.

use super::refusals::{assert_ended, program};
use rco_node::node::Exit;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// What `check` has a row for.
const PROTECTIONS: [&str; 10] = [
    "own file system",
    "own processes",
    "no network",
    "own user",
    "process limit of its own",
    "system call filter",
    "no inherited descriptor",
    "memory limit for all processes together",
    "process limit by cgroup",
    "first to die without memory",
];

/// Prompts with a program to check, and the setting that names them.
fn code(folder: &Path) -> String {
    let prompts = folder.join("code.jsonl");
    let test = "def check(candidate):\n    assert candidate() == 1";
    let verifier = serde_json::json!({"kind": "code", "entry_point": "f", "test": test});
    let line = serde_json::json!({"id": "f", "task": "code", "prompt": "write f", "verifier": verifier});
    fs::write(&prompts, format!("{line}\n")).unwrap();
    format!("prompts.file='{}'", prompts.display())
}

/// The row of each protection in the output of `check`: whether it says that it holds.
fn rows(output: &Output) -> Vec<(&'static str, bool)> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# sandbox: ")).collect();
    assert_eq!(lines.len(), PROTECTIONS.len(), "{text}");
    let row = |name: &'static str| {
        let line = lines.iter().find(|line| line.starts_with(&format!("{name} ")));
        let rest = line.unwrap_or_else(|| panic!("no row {name:?} in {text}"))[name.len()..].trim_start();
        let (answer, detail) = rest.split_once(' ').unwrap();
        assert!(!detail.trim().is_empty(), "{rest}");
        assert!(matches!(answer, "yes" | "NO"), "{rest}");
        (name, answer == "yes")
    };
    PROTECTIONS.map(row).into()
}

/// What the log line says under `key`.
fn told<'a>(log: &'a str, key: &str) -> Vec<&'a str> {
    let line = log.lines().find(|line| line.contains("opened the sandbox for code")).unwrap_or_else(|| panic!("{log}"));
    let (_, rest) = line.split_once(&format!("{key}=\"")).unwrap_or_else(|| panic!("no {key} in {line}"));
    rest.split('"').next().unwrap().split(", ").filter(|name| !name.is_empty()).collect()
}

fn assert_log_agrees(output: &Output) {
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    for (key, holds) in [("holds", true), ("missing", false)] {
        let rows: Vec<_> = rows(output).into_iter().filter(|row| row.1 == holds).map(|row| row.0).collect();
        assert_eq!(told(&log, key), rows, "{key}: {log}");
    }
}

#[test]
fn the_log_and_check_say_what_protects_this_machine_and_what_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let more = code(folder.path());
    let output = program(folder.path(), &more, &["check", "--offline"]).env("RCO_LOG", "info").output().unwrap();
    assert_ended(&output, Exit::Done, &[]);
    assert_log_agrees(&output);
    // Without these there is no sandbox at all, so that `check` would have failed.
    for (name, holds) in rows(&output).into_iter().take(4) {
        assert!(holds, "{name}");
    }
}

#[test]
fn where_nothing_can_be_isolated_the_log_and_check_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let more = format!("{}\njudge.allow_unsandboxed=true", code(folder.path()));
    let inner = program(folder.path(), &more, &["check", "--offline"]);
    // In a user namespace that may have no other, and without capabilities, no namespace can be made.
    let none =
        "echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all -- \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", none, "sh"]).arg(inner.get_program());
    let output = command.args(inner.get_args()).env("RCO_LOG", "info").output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_ended(&output, Exit::Done, &["code runs without these protections, as judge.allow_unsandboxed allows"]);
    assert_log_agrees(&output);
    for name in ["own file system", "own processes", "own user"] {
        assert!(rows(&output).contains(&(name, false)), "{name}: {log}");
        assert!(told(&log, "missing").contains(&name), "{name}: {log}");
    }
}
