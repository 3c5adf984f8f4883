//! The house rules as a test: who imports whom, how large files may grow, and what no file may say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What each room may import from this crate, and which libraries it must not name.
const ROOMS: &[(&str, &[&str], &[&str])] = &[
    ("types", &[], &["candle", "ractor"]),
    ("telemetry", &["types"], &["candle", "ractor"]),
    // Durable files: every room may import it.
    ("disk", &[], &["candle", "tokio", "ractor"]),
    ("kernels", &[], &["candle", "tokio", "ractor"]),
    ("formats", &["types", "kernels", "transformer"], &["tokio", "ractor"]),
    ("transformer", &["types", "kernels", "formats"], &["tokio", "ractor"]),
    ("groups", &["types"], &["tokio", "ractor", "candle"]),
    ("prompts", &["types"], &["tokio", "ractor", "candle"]),
    ("replay", &["types"], &["tokio", "ractor", "candle"]),
    ("verify", &["types"], &["tokio", "ractor", "candle"]),
    ("eval", &["types"], &["tokio", "ractor", "candle"]),
    ("roles", &["types"], &["tokio", "ractor", "candle"]),
    ("checkpoint", &["types", "transformer", "formats"], &["tokio", "ractor"]),
    ("remote", &["types", "telemetry"], &["ractor", "candle"]),
    ("export", &["types", "transformer", "formats"], &["tokio", "ractor"]),
    ("engine", &["types", "formats", "transformer", "kernels"], &["tokio", "ractor"]),
    ("learner", &["types", "formats", "transformer", "kernels"], &["tokio", "ractor"]),
    ("device", &["engine", "learner", "formats", "transformer", "types"], &["ractor"]),
    (
        "run",
        &["types", "telemetry", "replay", "prompts", "groups", "checkpoint", "learner", "eval"],
        &["ractor", "candle"],
    ),
    (
        "episode",
        &[
            "types",
            "telemetry",
            "roles",
            "verify",
            "eval",
            "remote",
            "device",
            "run",
            "formats",
            "engine",
            "transformer",
        ],
        &["ractor", "candle"],
    ),
    (
        "actors",
        &[
            "types",
            "telemetry",
            "episode",
            "run",
            "device",
            "checkpoint",
            "groups",
            "learner",
            "prompts",
            "replay",
            "roles",
        ],
        &["candle"],
    ),
    ("http", &["types", "telemetry", "episode", "run", "actors"], &["candle"]),
    (
        "config",
        &[
            "telemetry",
            "transformer",
            "prompts",
            "replay",
            "roles",
            "eval",
            "checkpoint",
            "remote",
            "engine",
            "learner",
            "actors",
        ],
        &["tokio", "ractor", "candle"],
    ),
];

/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 400;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A source file without its tests, and its name relative to `src`.
fn sources() -> Vec<(String, String)> {
    let src = root().join("src");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        // At the margin, `#[cfg(test)]` begins the tests, and they end the file.
        let code = text.split("\n#[cfg(test)]").next().unwrap().to_owned();
        (path.strip_prefix(&src).unwrap().to_string_lossy().into_owned(), code)
    };
    let is_test = |(name, _): &(String, String)| name.ends_with("tests.rs") || name.contains("/tests/");
    files(&src, ".rs").into_iter().map(read).filter(|file| !is_test(file)).collect()
}

fn room(name: &str) -> &str {
    name.split('/').next().unwrap().trim_end_matches(".rs")
}

/// Code without comments: prose may name anything.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn rooms_import_only_what_the_house_allows() {
    let rules: BTreeMap<_, _> = ROOMS.iter().map(|&(room, may, never)| (room, (may, never))).collect();
    let mut broken = vec![];
    let mut checked = 0;
    for (name, text) in sources() {
        let own = room(&name);
        let Some((may, never)) = rules.get(own) else { continue };
        checked += 1;
        let code = code(&text);
        for part in code.split("crate::").skip(1) {
            let other: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if other.is_empty() {
                broken.push(format!("{name}: a braced `use crate::{{...}}` hides what it imports"));
            } else if other != own && other != "disk" && !may.contains(&other.as_str()) {
                broken.push(format!("{name} imports {other}"));
            }
        }
        broken.extend(
            never
                .iter()
                .filter(|library| code.contains(&format!("{library}_")) || code.contains(&format!("{library}::")))
                .map(|library| format!("{name} names {library}")),
        );
    }
    assert!(checked >= ROOMS.len(), "every room was looked at");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn files_stay_small_and_say_what_they_are() {
    let mut broken = vec![];
    for (name, text) in sources() {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            broken.push(format!("{name}: {lines} lines without its tests, at most {FILE_LINES_MAX}"));
        }
        if !text.starts_with("//! ") {
            broken.push(format!("{name}: expected to begin with //!"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn unsafe_stays_where_a_measured_kernel_needs_it() {
    let found: Vec<_> = sources()
        .into_iter()
        .filter(|(name, text)| {
            let may = name == "kernels.rs" || name.starts_with("kernels/");
            code(text).contains("unsafe ") && !may
        })
        .map(|(name, _)| name)
        .collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn what_is_compiled_for_wide_registers_is_compiled_there() {
    // A body that is called instead of inlined has the registers of any processor, and a call for each fused
    // multiply-add.
    let (mut bodies, mut called) = (0, vec![]);
    for (name, text) in sources() {
        let code = code(&text);
        for invocation in
            code.split("vectorised!(").skip(1).filter(|invocation| !invocation.trim_start().starts_with('$'))
        {
            let names = invocation.split('(').next().unwrap().split(',').map(str::trim);
            for body in names.skip(1).filter(|body| !body.is_empty()) {
                bodies += 1;
                if !code.contains(&format!("#[inline(always)]\nfn {body}(")) {
                    called.push(format!("{name}: {body}"));
                }
            }
        }
    }
    assert!(bodies > 20, "the loops were found: {bodies}");
    assert!(called.is_empty(), "no #[inline(always)]: {called:?}");
}

#[test]
fn nothing_is_left_for_later() {
    let words = ["TO".to_owned() + "DO", "FIX".to_owned() + "ME", "X".repeat(3), "unimplemented".to_owned() + "!"];
    for (name, text) in sources() {
        for word in &words {
            assert!(!text.contains(word.as_str()), "{name} says {word}");
        }
    }
}

#[test]
fn every_metric_is_moved_somewhere() {
    let sources = sources();
    let table = &sources.iter().find(|(name, _)| name == "telemetry/metrics.rs").unwrap().1;
    let handles: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split_once(" = \"rco_")?.0.rsplit_once(": ").map(|(_, handle)| handle))
        .collect();
    assert!(handles.len() > 30, "the table was read: {handles:?}");
    let elsewhere: Vec<_> = sources.iter().filter(|(name, _)| !name.starts_with("telemetry/metrics")).collect();
    let idle: Vec<_> =
        handles.iter().filter(|handle| !elsewhere.iter().any(|(_, text)| text.contains(**handle))).collect();
    assert!(idle.is_empty(), "exported, and nothing moves them: {idle:?}");
}
