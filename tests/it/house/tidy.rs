//! The house rules as tests: who imports whom, how large files and functions may grow, where `unsafe` is, and what no
//! file may say. DESIGN: ground floor, middle, top; imports point down, and no circle of files is allowed anywhere.

mod sources;

use sources::{House, Source, circles, read_all};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The room, what it may import from this crate, and which libraries it must not name. Imports point down this list.
pub const ROOMS: &[(&str, &[&str], &[&str])] = &[
    ("types", &[], &["candle", "tokio", "ractor"]),
    ("disk", &[], &["candle", "tokio", "ractor"]),
    ("kernels", &[], &["candle", "tokio", "ractor"]),
    ("telemetry", &["types"], &["candle", "ractor"]),
    ("tracking", &["types", "disk"], &["candle", "tokio", "ractor"]),
    ("dashboards", &["types", "telemetry"], &["candle", "tokio", "ractor"]),
    ("formats", &["types", "disk", "kernels"], &["tokio", "ractor"]),
    ("transformer", &["types", "disk", "kernels", "formats"], &["tokio", "ractor"]),
    ("prompts", &["types", "disk"], &["tokio", "ractor", "candle"]),
    ("groups", &["types", "disk", "formats"], &["tokio", "ractor", "candle"]),
    ("records", &["types", "disk", "telemetry"], &["tokio", "ractor", "candle"]),
    ("replay", &["types"], &["tokio", "ractor", "candle"]),
    ("verify", &["types"], &["tokio", "ractor", "candle"]),
    ("eval", &["types"], &["tokio", "ractor", "candle"]),
    ("report", &["types", "tracking", "eval"], &["candle", "tokio", "ractor"]),
    ("roles", &["types"], &["tokio", "ractor", "candle"]),
    ("remote", &["types", "telemetry"], &["ractor", "candle"]),
    ("engine", &["types", "kernels", "formats", "transformer"], &["tokio", "ractor"]),
    ("learner", &["types", "kernels", "formats", "transformer"], &["tokio", "ractor"]),
    ("checkpoint", &["types", "disk", "formats", "transformer"], &["tokio", "ractor"]),
    ("export", &["types", "disk", "formats", "transformer"], &["tokio", "ractor"]),
    ("device", &["types", "formats", "transformer", "engine", "learner"], &["ractor"]),
    (
        "run",
        &[
            "types",
            "disk",
            "telemetry",
            "tracking",
            "prompts",
            "groups",
            "records",
            "replay",
            "eval",
            "learner",
            "checkpoint",
        ],
        &["ractor", "candle"],
    ),
    (
        "episode",
        &[
            "types",
            "telemetry",
            "formats",
            "transformer",
            "verify",
            "eval",
            "roles",
            "remote",
            "engine",
            "device",
            "run",
        ],
        &["ractor", "candle"],
    ),
    (
        "actors",
        &[
            "types",
            "telemetry",
            "prompts",
            "groups",
            "records",
            "replay",
            "roles",
            "learner",
            "checkpoint",
            "device",
            "run",
            "episode",
        ],
        &["candle"],
    ),
    (
        "http",
        &[
            "types",
            "disk",
            "telemetry",
            "records",
            "formats",
            "transformer",
            "engine",
            "device",
            "run",
            "episode",
            "actors",
        ],
        &["ractor", "candle"],
    ),
    (
        "config",
        &[
            "types",
            "telemetry",
            "tracking",
            "transformer",
            "prompts",
            "records",
            "replay",
            "eval",
            "roles",
            "remote",
            "engine",
            "learner",
            "checkpoint",
            "run",
            "episode",
            "actors",
            "http",
        ],
        &["tokio", "ractor", "candle"],
    ),
];

/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 400;
/// Lines of a function, from `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Where `unsafe` is allowed: a measured kernel, the launch of one, or the device that it is launched on needs it there.
const UNSAFE: &[&str] = &["kernels", "transformer/dense/cuda.rs", "transformer/device/gpu.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    read_all(root())
}

/// Code without comments: prose may name anything.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn rooms_import_only_what_the_house_allows() {
    let rules: BTreeMap<_, _> = ROOMS.iter().map(|&(room, may, never)| (room, (may, never))).collect();
    let (mut broken, mut checked) = (BTreeSet::new(), BTreeSet::new());
    for source in sources() {
        let Some((may, never)) = rules.get(source.room()) else { continue };
        checked.insert(source.room().to_owned());
        let paths: Vec<_> = source.imports.iter().map(|import| &import.path).chain(&source.paths).collect();
        for path in &paths {
            let ups = path.iter().take_while(|name| *name == "super").count();
            let other = match path[0].as_str() {
                "crate" => path.get(1),
                _ if ups > 0 && ups == source.module.len() => path.get(ups),
                _ => None,
            };
            match other {
                Some(other) if other != source.room() && !may.contains(&other.as_str()) => {
                    broken.insert(format!("{} imports {other}", source.file));
                }
                None if path.as_slice() == ["crate"] => {
                    broken.insert(format!("{} imports the crate's root", source.file));
                }
                _ => {}
            }
        }
        let is = |name: &str, library: &str| name == library || name.starts_with(&format!("{library}_"));
        let names = |library: &&&str| paths.iter().any(|path| is(&path[0], library));
        broken.extend(never.iter().filter(names).map(|library| format!("{} names {library}", source.file)));
    }
    assert_eq!(checked.len(), ROOMS.len(), "every room was looked at: {checked:?}");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_room_has_a_rule() {
    let free = ["lib", "node", "cli"];
    for source in sources() {
        let room = source.room();
        assert!(free.contains(&room) || ROOMS.iter().any(|(name, ..)| *name == room), "{room} is in no row of ROOMS");
    }
}

#[test]
fn files_import_each_other_in_no_circle() {
    let sources = sources();
    let house = House::new(&sources);
    let edges: BTreeMap<_, _> =
        sources.iter().map(|source| (source.file.as_str(), house.dependencies(source))).collect();
    assert!(edges.values().map(BTreeSet::len).sum::<usize>() > 800, "imports were read");
    let circles = circles(&edges);
    let told: Vec<String> = circles.iter().map(|circle| told(circle, &edges)).collect();
    assert!(circles.is_empty(), "{} circles:\n{}", circles.len(), told.join("\n"));
}

/// A circle and the imports that tie it.
fn told(circle: &[&str], edges: &BTreeMap<&str, BTreeSet<&str>>) -> String {
    let within = |file: &&str| {
        let others: Vec<_> = edges[file].iter().filter(|other| circle.contains(other)).copied().collect();
        format!("  {file} -> {}", others.join(", "))
    };
    format!("{} files\n{}", circle.len(), circle.iter().map(within).collect::<Vec<_>>().join("\n"))
}

#[test]
fn a_circle_of_files_is_found_through_doors_and_macros() {
    let file = |name: &str, text: &str| Source::parse(name.to_owned(), text.to_owned());
    let circle_of = |sources: &[Source]| {
        let house = House::new(sources);
        let edges = sources.iter().map(|source| (source.file.as_str(), house.dependencies(source))).collect();
        circles(&edges).len()
    };
    let door = "mod one; mod two; pub use one::One; pub(crate) use two::Two;";
    let (one, two) =
        ("use super::Two; pub struct One(Two);", "pub struct Two; #[cfg(test)] mod tests { use super::super::One; }");
    // A door is none of the circle; tests are not code.
    assert_eq!(circle_of(&[file("a.rs", door), file("a/one.rs", one), file("a/two.rs", two)]), 0);
    let back = "use crate::a::{self, One}; pub struct Two(One);";
    assert_eq!(circle_of(&[file("a.rs", door), file("a/one.rs", one), file("a/two.rs", back)]), 1);
    let within = "pub struct Two; fn f() { println!(\"{}\", crate::a::one::COUNT) }";
    assert_eq!(circle_of(&[file("a.rs", door), file("a/one.rs", one), file("a/two.rs", within)]), 1);
    let used = "mod one; pub use one::One; pub struct Base; fn f(_: One) {}";
    assert_eq!(circle_of(&[file("a.rs", used), file("a/one.rs", "use super::Base; pub struct One(Base);")]), 1);
}

#[test]
fn files_and_functions_stay_small_and_say_what_they_are() {
    let (mut broken, mut functions) = (vec![], 0);
    for source in sources() {
        let (file, lines) = (&source.file, source.code.lines().count());
        if lines > FILE_LINES_MAX {
            broken.push(format!("{file}: {lines} lines without its tests, at most {FILE_LINES_MAX}"));
        }
        if !source.text.starts_with("//! ") {
            broken.push(format!("{file}: expected to begin with //!"));
        }
        functions += source.functions.len();
        let long = source.functions.iter().filter(|(_, lines)| *lines > FUNCTION_LINES_MAX);
        broken.extend(
            long.map(|(name, lines)| format!("{file}: fn {name}: {lines} lines, at most {FUNCTION_LINES_MAX}")),
        );
    }
    assert!(functions > 1500, "functions were read: {functions}");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn unsafe_stays_where_a_kernel_needs_it() {
    let sources = sources();
    let lib = sources.iter().find(|source| source.file == "lib.rs").expect("the crate has a root");
    assert!(lib.code.contains("#![deny(unsafe_code)]"), "the root denies unsafe code");
    let has = |source: &&Source| source.names.contains("unsafe") || source.names.contains("unsafe_code");
    let place = |source: &Source| {
        if UNSAFE.contains(&source.file.as_str()) { source.file.clone() } else { source.room().to_owned() }
    };
    let found: BTreeSet<String> = sources.iter().filter(has).map(place).filter(|place| place != "lib").collect();
    assert_eq!(found, UNSAFE.iter().map(ToString::to_string).collect(), "places with unsafe code");
}

#[test]
fn what_is_compiled_for_wide_registers_is_compiled_there() {
    // A body that is called instead of inlined has the registers of any processor, and a call for each fused
    // multiply-add.
    let (mut bodies, mut called) = (0, vec![]);
    for Source { file: name, code: text, .. } in sources() {
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
    for Source { file: name, code: text, .. } in sources() {
        for word in &words {
            assert!(!text.contains(word.as_str()), "{name} says {word}");
        }
    }
}

#[test]
fn every_metric_is_moved_somewhere() {
    let sources = sources();
    let table = &sources.iter().find(|source| source.file == "telemetry/metrics.rs").unwrap().code;
    let handles: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split_once(" = \"rco_")?.0.rsplit_once(": ").map(|(_, handle)| handle))
        .collect();
    assert!(handles.len() > 30, "the table was read: {handles:?}");
    let elsewhere: Vec<_> = sources.iter().filter(|source| !source.file.starts_with("telemetry/metrics")).collect();
    let idle: Vec<_> =
        handles.iter().filter(|handle| !elsewhere.iter().any(|source| source.code.contains(**handle))).collect();
    assert!(idle.is_empty(), "exported, and nothing moves them: {idle:?}");
}
