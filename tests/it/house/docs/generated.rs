//! The generated parts of the documentation: the pages of the configuration and of the metrics, the dashboards, and the
//! import table of the architecture page.

use super::{read, root};
use crate::house::tidy::ROOMS;
use rco_node::config::Config;
use rco_node::dashboards::{MadeFile, Target};
use std::path::Path;

/// One table of the config, with what its comments say.
#[derive(Default)]
struct Section {
    name: String,
    doc: String,
    /// Key and explanation.
    keys: Vec<(String, String)>,
}

/// The tables of a commented config. Comments above a line belong to it; a blank line ends them.
fn sections(text: &str) -> Vec<Section> {
    let (mut found, mut comment) = (Vec::<Section>::new(), Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(said) = line.strip_prefix('#') {
            comment.push(said.trim());
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            found.push(Section { name: name.to_owned(), doc: comment.join(" "), keys: vec![] });
            comment.clear();
        } else if let Some((key, value)) = line.split_once(" = ") {
            found.last_mut().expect("a key stands in a table").keys.push((key.to_owned(), comment.join(" ")));
            comment.clear();
            if value.starts_with("\"\"\"") && (value.len() < 6 || !value.ends_with("\"\"\"")) {
                assert!(lines.any(|line| line.ends_with("\"\"\"")), "{key}: the text does not end");
            }
        } else {
            assert!(line.is_empty(), "neither comment, table nor key: {line}");
            comment.clear();
        }
    }
    found
}

/// What `path`, such as `learner.lora`, names in `table`.
pub fn lookup<'a>(table: &'a toml::Table, path: &str) -> Option<&'a toml::Value> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let value = table.get(first)?;
    rest.map_or(Some(value), |rest| lookup(value.as_table()?, rest))
}

/// Longer texts stand below their table.
const INLINE_CHARS_MAX: usize = 60;

fn kind(value: &toml::Value) -> &'static str {
    match value {
        toml::Value::String(_) => "string",
        toml::Value::Integer(_) => "integer",
        toml::Value::Float(_) => "number",
        toml::Value::Boolean(_) => "true or false",
        toml::Value::Array(_) => "list of strings",
        toml::Value::Table(_) => "table",
        other => panic!("no such value is in a config: {other}"),
    }
}

/// `docs/configuration.md` as the embedded config has it.
fn configuration() -> String {
    let table: toml::Table = Config::embedded_text().parse().unwrap();
    let mut page = "# Configuration\n\n\
        Every key there is, with its default. A test generates this page from\n\
        [`configs/quickstart.toml`](../configs/quickstart.toml); `UPDATE_DOCS=1 cargo test --test it docs::` writes it.\n\n\
        A config file (`--config FILE`) needs only the keys that differ. `--set section.key=value` overrides one key, on\n\
        top of the file. Unknown keys and wrong values are errors, and all of them are reported at once. `rco-node check`\n\
        prints the resolved config.\n"
        .to_owned();
    for section in sections(Config::embedded_text()) {
        page +=
            &format!("\n## `[{}]`\n\n{}\n\n| key | type | default | |\n|---|---|---|---|\n", section.name, section.doc);
        let mut below = String::new();
        for (key, doc) in &section.keys {
            let value = lookup(&table, &format!("{}.{key}", section.name)).unwrap();
            let mut shown = format!("`{value}`");
            if let Some(text) = value.as_str().filter(|text| text.len() > INLINE_CHARS_MAX || text.contains('\n')) {
                shown = "below".to_owned();
                below +=
                    &format!("\nDefault of `{}.{key}`:\n\n```text\n{}\n```\n", section.name, text.trim_matches('\n'));
            }
            page += &format!("| `{key}` | {} | {shown} | {} |\n", kind(value), doc.replace('|', "\\|"));
        }
        page += &below;
    }
    page
}

/// Tables and keys of `text` that no sentence explains.
fn unexplained(text: &str) -> Vec<String> {
    let named = |section: &Section| {
        let keys = section.keys.iter().map(|(key, doc)| (format!("{}.{key}", section.name), doc.clone()));
        [(section.name.clone(), section.doc.clone())].into_iter().chain(keys).collect::<Vec<_>>()
    };
    let all = sections(text).iter().flat_map(named).collect::<Vec<_>>();
    all.into_iter().filter(|(_, doc)| !doc.ends_with('.')).map(|(name, _)| name).collect()
}

#[test]
fn every_key_of_the_default_is_explained() {
    assert_eq!(unexplained("# A table.\n[a]\n# A key.\nb = 1\nc = 2\n# Far away.\n\n[d]\n"), ["a.c", "d"]);
    assert_eq!(unexplained(Config::embedded_text()), [""; 0]);
}

/// Holds the file `name` to `expected`; writes it instead where `UPDATE_DOCS` is set.
fn assert_generated(name: &str, expected: &str) {
    let path = root().join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let is = read(&path);
    let differs = is.lines().zip(expected.lines()).find(|(is, expected)| is != expected);
    assert!(is == expected, "{name} is not up to date, run with UPDATE_DOCS=1: {differs:?}");
}

#[test]
fn the_metrics_page_is_what_the_table_says() {
    assert_generated("docs/metrics.md", &super::metrics::page());
}

#[test]
fn the_dashboards_are_what_the_program_writes() {
    let files = rco_node::dashboards::files(&Target::new(Config::resolve(None, &[]).unwrap().telemetry.address));
    for MadeFile { path, text } in &files {
        let path = Path::new("dashboards").join(path);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(root().join(&path).parent().unwrap()).unwrap();
        }
        assert_generated(path.to_str().unwrap(), text);
    }
    assert!(files.len() > 10, "{files:?}");
}

#[test]
fn the_configuration_page_is_what_the_default_says() {
    assert_generated("docs/configuration.md", &configuration());
}

#[test]
fn the_import_table_is_the_one_that_the_tests_hold() {
    let page = read(&root().join("docs/architecture.md"));
    let [begin, end] = ["<!-- imports: generated -->\n", "<!-- end of imports -->"];
    let (before, rest) = page.split_once(begin).expect("the table begins with its marker");
    let (_, after) = rest.split_once(end).expect("the table ends with its marker");
    let mut table = "\n| room | may import | must not name |\n|---|---|---|\n".to_owned();
    for (room, may, never) in ROOMS {
        table += &format!("| `{room}` | {} | {} |\n", may.join(", "), never.join(", "));
    }
    assert_generated("docs/architecture.md", &format!("{before}{begin}{table}\n{end}{after}"));
}
