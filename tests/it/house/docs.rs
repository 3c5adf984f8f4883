//! Promises of the documentation: what README and docs name exists, the README's commands work in the order written,
//! and generated parts are up to date: `docs/configuration.md`, `docs/metrics.md`, `dashboards/`, and the import table of
//! `docs/architecture.md`.
//!
//! `UPDATE_DOCS=1 cargo test --test it docs::` writes the generated parts.

use generated::lookup;
use rco_node::config::Config;
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

mod generated;
mod metrics;

/// The README fits a few screens.
const README_LINES_MAX: usize = 150;

/// Lines of the README's `sh` blocks that are not run here.
const NOT_RUN: &[&str] = &["cargo test", "cargo install --path ."];

/// How the README's long commands are shortened here: text and replacement, applied in this order. Every entry must
/// apply.
const SHORTENED: &[(&str, &str)] = &[
    ("cargo run --release -- start", "rco-node start --learner-steps 1"),
    ("--learner-steps 120", "--learner-steps 2"),
    (
        "rco-node start",
        concat!(
            "rco-node start --set rollout.rollouts_max=2 --set rollout.critiques=8 --set learner.groups_per_step=1",
            " --set replay.uses_max=1 --set telemetry.address="
        ),
    ),
    ("--n 4", "--n 1 --limit 2"),
    ("--steps 50", "--steps 1 --set learner.groups_per_step=1"),
];

/// What the README's commands leave behind, in the folder that they run in.
const RESULTS: &[&str] = &[
    "runs/quickstart/groups.jsonl",
    "eval/records.jsonl",
    "eval.svg",
    "adapter/adapter_model.safetensors",
    "critic.gguf",
    "merged/config.json",
    "runs/offline/checkpoints",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// README and everything in docs: path relative to the root, and text.
fn documents() -> Vec<(PathBuf, String)> {
    let folder = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = folder.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect();
    paths.sort();
    paths.insert(0, root().join("README.md"));
    paths.into_iter().map(|path| (path.strip_prefix(root()).unwrap().to_owned(), read(&path))).collect()
}

/// The fenced blocks of `text` in the language `language`, or in any; and the text without fenced blocks.
fn fenced(text: &str, language: Option<&str>) -> (Vec<String>, String) {
    let (mut blocks, mut outside, mut inside) = (vec![], String::new(), None::<(bool, String)>);
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut inside) {
            (Some(name), None) => inside = Some((language.is_none_or(|wanted| wanted == name), String::new())),
            (Some(_), Some(_)) => blocks.extend(inside.take().filter(|(wanted, _)| *wanted).map(|(_, block)| block)),
            (None, Some((_, block))) => *block += &format!("{line}\n"),
            (None, None) => outside += &format!("{line}\n"),
        }
    }
    assert!(inside.is_none(), "a fenced block does not end");
    (blocks, outside)
}

/// Every piece of code in `text`: inline code and lines of fenced blocks, continued lines joined.
fn code(text: &str) -> Vec<String> {
    let (blocks, outside) = fenced(text, None);
    let inline = Regex::new("`([^`\n]+)`").unwrap();
    let spans = inline.captures_iter(&outside).map(|found| found[1].to_owned());
    let lines = blocks.iter().flat_map(|block| commands(block)).collect::<Vec<_>>();
    spans.chain(lines).collect()
}

/// The lines of a block, continued ones joined, without comments.
fn commands(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", " ");
    let lines =
        joined.lines().map(|line| line.split(" #").next().unwrap().split_whitespace().collect::<Vec<_>>().join(" "));
    lines.filter(|line| !line.is_empty()).collect()
}

/// Fails with everything in `wrong`; `seen` shows that something was looked at.
fn assert_right(wrong: &[String], seen: usize, seen_min: usize) {
    assert!(seen >= seen_min, "only {seen} were found to check");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_readme_is_short() {
    let lines = read(&root().join("README.md")).lines().count();
    assert!(lines <= README_LINES_MAX, "README.md has {lines} lines, at most {README_LINES_MAX}");
}

#[test]
fn every_key_that_is_named_exists() {
    let table: toml::Table = Config::embedded_text().parse().unwrap();
    let names = table.keys().cloned().collect::<Vec<_>>().join("|");
    let key = Regex::new(&format!(r"(?:^|[^\w./-])((?:{names})(?:\.[a-z_0-9]+)+)")).unwrap();
    let file = Regex::new(r"\.(rs|md|toml|jsonl?|svg|gguf|safetensors)$").unwrap();
    let (mut wrong, mut seen) = (vec![], 0);
    for (path, text) in documents() {
        for piece in code(&text) {
            for found in key.captures_iter(&piece).filter(|found| !file.is_match(&found[1])) {
                seen += 1;
                if lookup(&table, &found[1]).is_none() {
                    wrong.push(format!("{}: no key {}", path.display(), &found[1]));
                }
            }
        }
    }
    assert_right(&wrong, seen, 40);
}

#[test]
fn every_metric_that_is_named_exists() {
    let described = read(&root().join("src/telemetry/metrics.rs"));
    let exported = Regex::new(r#""(rco_[a-z0-9_]+)""#).unwrap();
    let exported: BTreeSet<_> = exported.captures_iter(&described).map(|found| found[1].to_owned()).collect();
    let named = Regex::new(r"\brco_[a-z0-9_]+\*?").unwrap();
    let (mut wrong, mut seen) = (vec![], 0);
    for (path, text) in documents() {
        for found in named.find_iter(&text).map(|found| found.as_str()).filter(|name| *name != "rco_node") {
            seen += 1;
            let series = ["_bucket", "_sum", "_count"].iter().find_map(|ending| found.strip_suffix(ending));
            let exists = match found.strip_suffix('*') {
                Some(prefix) => exported.iter().any(|name| name.starts_with(prefix)),
                None => exported.contains(found) || series.is_some_and(|name| exported.contains(name)),
            };
            if !exists {
                wrong.push(format!("{}: no metric {found}", path.display()));
            }
        }
    }
    assert_right(&wrong, seen, 8);
}

fn program(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rco-node"))
        .args(arguments)
        .current_dir(folder)
        .env("RCO_LOG", "warn")
        .output()
        .unwrap()
}

/// The flags of every command, by its name (`start`, `bench decode`), as its `--help` lists them.
fn flags() -> BTreeMap<String, BTreeSet<String>> {
    let subcommand = Regex::new(r"(?m)^  ([a-z]+)  +\S").unwrap();
    let flag = Regex::new(r"(?:^|[\s,])(--?[a-z][a-z-]*)").unwrap();
    let mut open = vec![String::new()];
    let mut found = BTreeMap::new();
    while let Some(name) = open.pop() {
        let arguments: Vec<_> = name.split_whitespace().chain(["--help"]).collect();
        let output = program(&arguments, root());
        assert!(output.status.success(), "{name} --help");
        let help = String::from_utf8(output.stdout).unwrap();
        if let Some((_, list)) = help.split_once("\nCommands:\n") {
            let list = list.split("\n\n").next().unwrap();
            let names = subcommand.captures_iter(list).map(|found| found[1].to_owned()).filter(|name| name != "help");
            open.extend(names.map(|sub| format!("{name} {sub}").trim().to_owned()));
        }
        found.insert(name, flag.captures_iter(&help).map(|found| found[1].to_owned()).collect());
    }
    found
}

#[test]
fn every_command_and_flag_that_is_named_exists() {
    let known = flags();
    let all: BTreeSet<_> = known.values().flatten().collect();
    let flag = Regex::new(r"(?:^|[\s\[])(--?[a-z][a-z-]*)").unwrap();
    let (mut wrong, mut seen) = (vec![], 0);
    for (path, text) in documents() {
        for piece in code(&text) {
            let stripped = piece.strip_prefix("rco-node ").or_else(|| piece.strip_prefix("cargo run --release -- "));
            let words = stripped.unwrap_or(&piece).split_whitespace().collect::<Vec<_>>();
            let two = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
            let command =
                [two.as_str(), words.first().unwrap_or(&"")].into_iter().find(|name| known.contains_key(*name));
            let may = match command {
                Some(name) if !name.is_empty() => known[name].iter().collect(),
                _ if stripped.is_some() => {
                    wrong.push(format!("{}: no command {piece}", path.display()));
                    continue;
                }
                // A flag by itself may be any command's.
                _ if piece.starts_with("--") => all.clone(),
                _ => continue,
            };
            for found in flag.captures_iter(&words.join(" ")).map(|found| found[1].to_owned()) {
                seen += 1;
                if !may.contains(&found) {
                    wrong.push(format!("{}: no {found} in `{piece}`", path.display()));
                }
            }
        }
    }
    assert_right(&wrong, seen, 60);
}

/// Whether `path`, whose last part may hold a `*`, is there.
fn is_there(path: &Path) -> bool {
    let name = path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
    let Some((before, after)) = name.split_once('*') else { return path.exists() };
    let matches = |name: String| name.starts_with(before) && name.ends_with(after);
    let mut entries = std::fs::read_dir(path.parent().unwrap()).into_iter().flatten();
    entries.any(|entry| matches(entry.unwrap().file_name().to_string_lossy().into_owned()))
}

/// What GitHub makes of the headings of a page.
fn anchors(text: &str) -> BTreeSet<String> {
    let (_, outside) = fenced(text, None);
    let heading = |line: &str| line.starts_with('#').then(|| line.trim_start_matches('#').trim().to_lowercase());
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let anchor = |title: String| title.chars().filter(kept).collect::<String>().replace(' ', "-");
    outside.lines().filter_map(heading).map(anchor).collect()
}

#[test]
fn every_file_and_link_that_is_named_exists() {
    let file = Regex::new(
        r"(?:^|[^\w./-])((?:src|docs|configs|dashboards|tests|benches|scripts|data|examples|\.ci)/[\w.*/-]*)",
    )
    .unwrap();
    let link = Regex::new(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)").unwrap();
    let (mut wrong, mut seen) = (vec![], 0);
    for (path, text) in documents() {
        let here = root().join(&path);
        for piece in code(&text) {
            for found in file.captures_iter(&piece).map(|found| found[1].to_owned()) {
                seen += 1;
                if !is_there(&root().join(found.trim_end_matches(['.', '/']))) {
                    wrong.push(format!("{}: no file {found}", path.display()));
                }
            }
        }
        for found in link.captures_iter(&text).filter(|found| !found[1].contains("://")) {
            seen += 1;
            let target = if found[1].is_empty() { here.clone() } else { here.parent().unwrap().join(&found[1]) };
            let anchor = found.get(2).map_or("", |anchor| anchor.as_str());
            if !target.exists() || !anchor.is_empty() && !anchors(&read(&target)).contains(anchor) {
                wrong.push(format!("{}: no page {}#{anchor}", path.display(), &found[1]));
            }
        }
    }
    assert_right(&wrong, seen, 50);
}

#[test]
fn the_readmes_commands_work_in_the_order_written() {
    let folder = tempfile::tempdir().unwrap();
    let (blocks, _) = fenced(&read(&root().join("README.md")), Some("sh"));
    let mut unused: BTreeSet<_> = SHORTENED.iter().map(|(text, _)| *text).collect();
    let mut ran = 0;
    for command in blocks.iter().flat_map(|block| commands(block)) {
        if NOT_RUN.contains(&command.as_str()) {
            continue;
        }
        let mut shortened = command.clone();
        for (text, replacement) in SHORTENED {
            if shortened.contains(text) {
                unused.remove(text);
                shortened = shortened.replacen(text, replacement, 1);
            }
        }
        let words: Vec<_> = shortened.split_whitespace().collect();
        assert_eq!(words[0], "rco-node", "not a command of this program, and not in NOT_RUN: {command}");
        let started = std::time::Instant::now();
        let output = program(&words[1..], folder.path());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{command}\nran as: {shortened}\n{said}");
        eprintln!("{:5.1} s: {shortened}", started.elapsed().as_secs_f64());
        ran += 1;
    }
    assert!(ran >= 5 && unused.is_empty(), "{ran} commands ran; shortened nothing: {unused:?}");
    for result in RESULTS {
        assert!(folder.path().join(result).exists(), "no command wrote {result}");
    }
}
