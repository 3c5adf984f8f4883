//! Prompts: a file, of whatever form, as an endless, seeded, resumable stream.
//!
//! Which prompt an episode gets is a pure function of the file, the seed and the episode's number, so the stream has no
//! state to save. What a run must save is the [`Ledger`]: which episodes have started and not finished. This room does not
//! know what an episode is.
//!
//! Invariant: each pass over the file yields every prompt once.

use crate::disk;
use crate::types::brief::brief;
use crate::types::{EpisodeId, Prompt, splitmix::mix64};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

mod columns;
pub mod curriculum;
mod hub;
mod ledger;
mod line;
pub mod lint;
mod rows;

pub use columns::Columns;
pub use ledger::Ledger;
pub use rows::Rows;

/// Bundled files, by the name after `bundled:`.
const BUNDLED: [(&str, &str); 13] = [
    ("arithmetic-train", include_str!("../data/arithmetic-train.jsonl")),
    ("arithmetic-heldout", include_str!("../data/arithmetic-heldout.jsonl")),
    ("ifeval-train", include_str!("../data/ifeval-train.jsonl")),
    ("ifeval-heldout", include_str!("../data/ifeval-heldout.jsonl")),
    ("reasoning-train", include_str!("../data/reasoning-train.jsonl")),
    ("reasoning-heldout", include_str!("../data/reasoning-heldout.jsonl")),
    ("qa-train", include_str!("../data/qa-train.jsonl")),
    ("qa-heldout", include_str!("../data/qa-heldout.jsonl")),
    ("summarization-train", include_str!("../data/summarization-train.jsonl")),
    ("summarization-heldout", include_str!("../data/summarization-heldout.jsonl")),
    ("dialog-train", include_str!("../data/dialog-train.jsonl")),
    ("dialog-heldout", include_str!("../data/dialog-heldout.jsonl")),
    ("humaneval", include_str!("../data/humaneval.jsonl")),
];

/// The longest file that is read as a text.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Rounds of the shuffle in [`shuffled`]. 6 log2(n) suffice, so this covers 2^16 prompts and mixes well far beyond.
const SHUFFLE_ROUNDS: usize = 96;

/// Where prompts come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptsConfig {
    /// A file, `bundled:` and the name of a bundled one, or `hf:` and the name of a data set of the hub.
    pub file: String,
    /// Shuffles each pass over the file, seeded by the node's seed.
    pub shuffle: bool,
    /// What happens to prompts that leave no room in the context for an answer.
    pub too_long: TooLong,
    /// Which columns hold what.
    pub columns: Columns,
}

/// What happens to prompts that leave no room in the context for an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// They are left out, and counted.
    #[default]
    Drop,
    /// The run does not start.
    Refuse,
    /// They lose their oldest turns, and then the beginning of their text.
    TruncateLeft,
}

impl PromptsConfig {
    /// Complaints about its values, all at once. Whether the file can be read is only known when it is opened.
    pub fn complaints(&self) -> Vec<String> {
        if self.file.trim().is_empty() {
            let expected = "expected a file of prompts, \"bundled:NAME\" or \"hf:OWNER/NAME\"";
            return vec![format!("prompts.file: {expected}, got {:?}", self.file)];
        }
        complaint("prompts.file", &self.file).into_iter().collect()
    }

    /// The prompts of `file`, a file or a name like that of [`PromptsConfig::file`], with this config's columns. `key` names it in
    /// errors.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn load(&self, key: &str, file: &str) -> Result<Vec<Prompt>, Error> {
        let rows = self.rows(key, file)?;
        let columns = self.columns_of(file);
        check_columns(file, &rows, columns)?;
        from_rows(file, rows, columns)
    }

    /// The columns that hold what in `file`: the bundled ones are of the node's own form.
    pub(crate) fn columns_of(&self, file: &str) -> &Columns {
        if file.starts_with("bundled:") { Columns::OWN } else { &self.columns }
    }

    /// The rows of `file`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn rows(&self, key: &str, file: &str) -> Result<Rows, Error> {
        let hub = |why: String| Error::Hub { key: key.to_owned(), file: file.to_owned(), why };
        let files = match (file.strip_prefix("bundled:"), file.strip_prefix("hf:")) {
            (Some(name), _) => return Ok(rows::lines(bundled(name).ok_or_else(|| unknown_bundle(key, name))?)),
            (_, Some(name)) => hub::DataSet::parse(name).and_then(|set| set.fetch()).map_err(hub)?,
            _ => vec![PathBuf::from(file)],
        };
        let unreadable = |source| Error::Unreadable { key: key.to_owned(), file: file.to_owned(), source };
        let mut all = Rows::default();
        for file in &files {
            all.append(rows::read(file).map_err(unreadable)?);
        }
        Ok(all)
    }
}

/// What is wrong with the name of a file, if that can be known before it is opened.
fn complaint(key: &str, file: &str) -> Option<String> {
    match (file.strip_prefix("bundled:"), file.strip_prefix("hf:")) {
        (Some(name), _) if bundled(name).is_none() => Some(unknown_bundle(key, name).to_string()),
        (_, Some(name)) => hub::DataSet::parse(name).err().map(|why| format!("{key}: {why}")),
        _ => None,
    }
}

/// Why prompts could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file among those that come with the node.
    #[error("{key}: expected one of {known}, got \"bundled:{name}\"")]
    UnknownBundle {
        /// The key or the argument that names it.
        key: String,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The data set cannot be fetched.
    #[error("{key}: {file:?}: {why}")]
    Hub {
        /// The key or the argument that names it.
        key: String,
        /// The data set.
        file: String,
        /// Why not.
        why: String,
    },
    /// The file cannot be read.
    #[error("{key}: expected a readable file of prompts, got {file:?}: {}", brief(&.source.to_string()))]
    Unreadable {
        /// The key or the argument that names it.
        key: String,
        /// The file.
        file: String,
        /// Why not.
        source: std::io::Error,
    },
    /// No row has a column that the config names.
    #[error("prompts.columns.{field}: expected a column of {file}, got {name:?}; it has {}", brief(.there))]
    Column {
        /// The field.
        field: &'static str,
        /// The name of its column.
        name: String,
        /// The file.
        file: String,
        /// The columns that there are.
        there: String,
    },
    /// A line is not a prompt.
    #[error("{file}, {unit} {line}: {}", brief(.fault))]
    Line {
        /// The file.
        file: String,
        /// What `line` counts: lines, or rows.
        unit: &'static str,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        fault: String,
    },
    /// There is not one prompt.
    #[error("{file}: expected at least one prompt, got none")]
    Empty {
        /// The file.
        file: String,
    },
}

fn bundled(name: &str) -> Option<&'static str> {
    BUNDLED.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

fn unknown_bundle(key: &str, name: &str) -> Error {
    let known = BUNDLED.map(|(known, _)| format!("\"bundled:{known}\"")).join(", ");
    Error::UnknownBundle { key: key.to_owned(), name: name.to_owned(), known }
}

/// The names of the files that come with the node to be held out.
pub fn held_out() -> impl Iterator<Item = String> {
    let is_held_out = |name: &&str| name.ends_with("-heldout") || *name == "humaneval";
    BUNDLED.into_iter().map(|(name, _)| name).filter(is_held_out).map(|name| format!("bundled:{name}"))
}

/// The prompts of `file`: a path, or `bundled:` and the name of one that comes with the node.
pub fn load(file: &str) -> Result<Vec<Prompt>, Error> {
    let config = PromptsConfig {
        file: file.to_owned(),
        shuffle: false,
        too_long: TooLong::default(),
        columns: Columns::default(),
    };
    config.load("prompts.file", file)
}

/// The text of a prompt file.
///
/// # Errors
/// If it cannot be read, is no regular file, too long or not UTF-8.
pub fn read(file: &Path) -> std::io::Result<String> {
    disk::read_text(file, FILE_BYTES_MAX)
}

/// The prompts of a JSONL text; `file` names it in errors. Blank lines are passed over.
pub fn parse(file: &str, text: &str) -> Result<Vec<Prompt>, Error> {
    from_rows(file, rows::lines(text), Columns::OWN)
}

/// The prompts of rows.
fn from_rows(file: &str, rows: Rows, columns: &Columns) -> Result<Vec<Prompt>, Error> {
    let (unit, is_strict) = (rows.unit, rows.is_own_form && !columns.are_mapped());
    let mut lines = Vec::with_capacity(rows.rows.len());
    for (number, row) in rows.rows {
        let prompt = row.and_then(|fields| line::prompt(&fields, columns, is_strict, number));
        let fault = |fault| Error::Line { file: file.to_owned(), unit, line: number, fault };
        lines.push((number, prompt.map_err(fault)?));
    }
    validated(file, unit, lines)
}

/// Checks that each column that the config names is there.
fn check_columns(file: &str, rows: &Rows, columns: &Columns) -> Result<(), Error> {
    let fields = || rows.rows.iter().filter_map(|(_, row)| row.as_ref().ok());
    let missing = |(field, _): &(&'static str, &str)| !fields().any(|row| columns.find(field, row).is_some());
    match columns.mapped().find(missing) {
        Some((field, name)) if fields().next().is_some() => {
            let there = fields().next().map(|row| row.keys().map(String::as_str).collect::<Vec<_>>().join(", "));
            let (file, there) = (file.to_owned(), there.unwrap_or_default());
            Err(Error::Column { field, name: name.to_owned(), file, there })
        }
        _ => Ok(()),
    }
}

/// Checks the rules of a whole file: not empty, no empty fields, no id twice.
fn validated(file: &str, unit: &'static str, lines: Vec<(usize, Prompt)>) -> Result<Vec<Prompt>, Error> {
    if lines.is_empty() {
        return Err(Error::Empty { file: file.to_owned() });
    }
    let mut first_lines: HashMap<&str, usize> = HashMap::new();
    for (number, prompt) in &lines {
        let taken = first_lines.insert(&prompt.id, *number).map(|first| id_taken(&prompt.id, unit, first));
        let Some(fault) = taken.or_else(|| empty_field(prompt)) else { continue };
        return Err(Error::Line { file: file.to_owned(), unit, line: *number, fault });
    }
    Ok(lines.into_iter().map(|(_, prompt)| prompt).collect())
}

fn id_taken(id: &str, unit: &str, first: usize) -> String {
    format!("expected an id of its own, got {id:?}, the id of {unit} {first}")
}

/// The complaint about a prompt with an empty required field.
fn empty_field(prompt: &Prompt) -> Option<String> {
    let fields = [("id", &prompt.id), ("task", &prompt.task), ("prompt", &prompt.text)];
    let (key, _) = fields.into_iter().find(|(_, value)| value.trim().is_empty())?;
    Some(format!("expected a text in {key:?}, got an empty one"))
}

/// The prompt of each episode: a pure function of the prompts, the seed and the episode.
#[derive(Clone, Debug)]
pub struct PromptStream {
    prompts: Vec<Prompt>,
    shuffle: bool,
    seed: u64,
}

impl PromptStream {
    /// The stream that `config` describes.
    pub fn open(config: &PromptsConfig, seed: u64) -> Result<Self, Error> {
        Ok(Self { prompts: config.load("prompts.file", &config.file)?, shuffle: config.shuffle, seed })
    }

    /// The stream of `prompts` in the place of its own.
    ///
    /// # Errors
    /// If there are none; `file` names where they were.
    pub fn with(self, prompts: Vec<Prompt>, file: &str) -> Result<Self, Error> {
        if prompts.is_empty() {
            return Err(Error::Empty { file: file.to_owned() });
        }
        Ok(Self { prompts, ..self })
    }

    /// A stream of given prompts, which must follow the same rules as a file's. In errors, line n is the nth prompt.
    #[cfg(test)]
    fn from_prompts(prompts: Vec<Prompt>, shuffle: bool, seed: u64) -> Result<Self, Error> {
        Ok(Self { prompts: validated("prompts", "line", (1..).zip(prompts).collect())?, shuffle, seed })
    }

    /// The prompt of `episode`; each pass over the file has its own order.
    pub fn prompt(&self, episode: EpisodeId) -> &Prompt {
        let length = self.prompts.len() as u64;
        let (pass, place) = (episode.0 / length, episode.0 % length);
        let place = if self.shuffle { shuffled(place, length, self.seed, pass) } else { place };
        &self.prompts[place as usize]
    }

    /// All prompts, in file order.
    pub fn prompts(&self) -> &[Prompt] {
        &self.prompts
    }
}

/// The position of `place` of `length` in the order of `pass`: the swap-or-not shuffle (Hoang, Morris and Rogaway,
/// CRYPTO 2012), which computes one place of a permutation without building the whole.
pub(crate) fn shuffled(place: u64, length: u64, seed: u64, pass: u64) -> u64 {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&pass.to_le_bytes());
    key[16..23].copy_from_slice(b"prompts");
    let mut rng = ChaCha8Rng::from_seed(key);
    (0..SHUFFLE_ROUNDS).fold(place, |place, _| {
        let (pivot, round) = (rng.next_u64() % length, rng.next_u64());
        let partner = (pivot + length - place) % length;
        // Both of a pair make the same decision, so every round is its own inverse.
        if mix64(round ^ place.max(partner)) & 1 == 1 { partner } else { place }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prompts(count: usize) -> Vec<Prompt> {
        let prompt = |n| Prompt {
            id: format!("p{n}"),
            task: "t".into(),
            text: format!("say {n}"),
            turns: Vec::new(),
            answer: None,
            verifier: None,
        };
        (0..count).map(prompt).collect()
    }

    fn of_file(file: &str) -> PromptsConfig {
        PromptsConfig { file: file.to_owned(), shuffle: false, too_long: TooLong::Drop, columns: Columns::default() }
    }

    fn ids(stream: &PromptStream, episodes: std::ops::Range<u64>) -> Vec<String> {
        episodes.map(|episode| stream.prompt(EpisodeId(episode)).id.clone()).collect()
    }

    fn fault(text: &str) -> String {
        parse("tasks.jsonl", text).unwrap_err().to_string()
    }

    const GOOD: &str = r#"{"id": "a", "task": "t", "prompt": "say a", "answer": "1"}"#;

    #[test]
    fn a_broken_line_is_named_by_file_and_number_with_what_is_wrong() {
        let missing = fault(&format!("{GOOD}\n\n{{\"id\": \"b\", \"task\": \"t\"}}\n"));
        assert!(missing.starts_with("tasks.jsonl, line 3: expected") && missing.contains("`prompt`"), "{missing}");
        let unknown = fault(r#"{"id": "b", "task": "t", "prompt": "p", "anwser": "1"}"#);
        assert!(unknown.starts_with("tasks.jsonl, line 1: ") && unknown.contains("`anwser`"), "{unknown}");
        assert!(fault("not json").starts_with("tasks.jsonl, line 1: "));
        let list = fault(r#"{"id": "b", "task": "t", "prompt": "p", "answer": [1]}"#);
        assert!(list.contains("`answer`: expected a text or a number, got [1]"), "{list}");
    }

    #[test]
    fn a_duplicate_id_names_both_lines() {
        let fault = fault(&format!("{GOOD}\n{GOOD}\n"));
        assert_eq!(fault, "tasks.jsonl, line 2: expected an id of its own, got \"a\", the id of line 1");
    }

    #[test]
    fn an_empty_prompt_and_an_empty_file_are_refused() {
        let fault_of_prompt = fault("{\"id\": \"a\", \"task\": \"t\", \"prompt\": \" \\n\"}");
        assert_eq!(fault_of_prompt, "tasks.jsonl, line 1: expected a text in \"prompt\", got an empty one");
        assert_eq!(fault("\n \n"), "tasks.jsonl: expected at least one prompt, got none");
        assert!(PromptStream::from_prompts(Vec::new(), false, 0).is_err());
        assert!(PromptStream::from_prompts([prompts(1), prompts(1)].concat(), false, 0).is_err());
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let config = of_file("nowhere/tasks.jsonl");
        let error = PromptStream::open(&config, 0).unwrap_err().to_string();
        assert!(error.contains("prompts.file") && error.contains("nowhere/tasks.jsonl"), "{error}");
    }

    #[test]
    fn an_unknown_bundle_is_refused_with_the_known_ones() {
        let config = of_file("bundled:arithmetics");
        let complaint = config.complaints().join("\n");
        assert!(
            complaint.contains("bundled:arithmetic-train") && complaint.contains("bundled:arithmetics"),
            "{complaint}"
        );
        assert_eq!(PromptStream::open(&config, 0).unwrap_err().to_string(), complaint);
        assert_eq!(of_file(" ").complaints().len(), 1);
        assert!(of_file("bundled:arithmetic-heldout").complaints().is_empty());
    }

    #[test]
    fn a_file_on_disk_is_read_in_order_without_shuffle() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tasks.jsonl");
        let text: String = prompts(3).iter().map(|p| serde_json::to_string(p).unwrap() + "\r\n").collect();
        std::fs::write(&path, text).unwrap();
        let config = of_file(path.to_str().unwrap());
        let stream = PromptStream::open(&config, 9).unwrap();
        assert_eq!(ids(&stream, 0..7), ["p0", "p1", "p2", "p0", "p1", "p2", "p0"]);
    }

    #[test]
    fn a_table_of_others_is_read_by_its_columns() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tasks.csv");
        std::fs::write(&path, "question,final,level\n1 + 1?,2,easy\n2 + 2?,4,easy\n").unwrap();
        let path = path.to_str().unwrap();
        let mut config = of_file(path);
        let error = config.load("prompts.file", path).unwrap_err().to_string();
        assert!(error.contains("line 2: expected `prompt` or `messages`, got only question, final, level"), "{error}");
        config.columns.prompt = "question".into();
        config.columns.answer = "final".into();
        let prompts = config.load("prompts.file", path).unwrap();
        assert_eq!((prompts[1].text.as_str(), prompts[1].answer.as_deref()), ("2 + 2?", Some("4")));
        config.columns.answer = "finale".into();
        let error = config.load("prompts.file", path).unwrap_err().to_string();
        assert!(
            error.starts_with("prompts.columns.answer: expected a column") && error.contains("question, final, level"),
            "{error}"
        );
        assert!(of_file("hf:nobody").complaints()[0].starts_with("prompts.file: expected hf:owner/name"));
        // Names of columns are texts of others.
        std::fs::write(path, "\"a\nb\",c\n1,2\n").unwrap();
        let error = config.load("prompts.file", path).unwrap_err().to_string();
        assert!(error.ends_with(r"it has a\nb, c"), "{error}");
    }

    #[test]
    fn the_files_of_other_programs_give_the_same_prompts_in_every_form() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tables");
        let load = |name: &str| {
            let path = folder.join(name);
            let path = path.to_str().unwrap();
            let mut config = of_file(path);
            let columns =
                [("prompt", "question"), ("answer", "final"), ("id", "level"), ("task", "kind"), ("messages", "turns")];
            for (field, column) in columns {
                let field = match field {
                    "prompt" => &mut config.columns.prompt,
                    "answer" => &mut config.columns.answer,
                    "id" => &mut config.columns.id,
                    "task" => &mut config.columns.task,
                    _ => &mut config.columns.messages,
                };
                *field = column.to_owned();
            }
            config.load("prompts.file", path).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let plain = load("rows.jsonl.gz");
        assert_eq!(plain[1].text, "Say \"a, b\"\nand \u{e9}.");
        assert_eq!(plain[3].text, "User: a\n\nAssistant: b\n\nUser: c");
        let answers: Vec<_> = plain.iter().map(|prompt| prompt.answer.as_deref()).collect();
        assert_eq!(answers, [Some("2.0"), Some("-0.5"), None, Some("7.0")]);
        for name in [
            "rows.json",
            "rows.csv",
            "rows.tsv",
            "rows.jsonl.zst",
            "rows.snappy.parquet",
            "rows.zstd.parquet",
            "rows.gzip.parquet",
        ] {
            assert_eq!(load(name), plain, "{name}");
        }
    }

    #[test]
    fn passes_and_seeds_have_orders_of_their_own() {
        let stream = |seed| PromptStream::from_prompts(prompts(50), true, seed).unwrap();
        let first = ids(&stream(1), 0..50);
        assert_eq!(first, ids(&stream(1), 0..50));
        assert_ne!(first, ids(&stream(1), 50..100));
        assert_ne!(first, ids(&stream(2), 0..50));
        assert_ne!(first, ids(&PromptStream::from_prompts(prompts(50), false, 1).unwrap(), 0..50));
    }

    #[test]
    fn the_shuffle_reaches_every_order_about_equally_often() {
        let mut counts: HashMap<Vec<u64>, u32> = HashMap::new();
        for pass in 0..6000 {
            *counts.entry((0..3).map(|place| shuffled(place, 3, 7, pass)).collect()).or_default() += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn every_pass_gives_every_prompt_once(count in 1usize..200, seed: u64, pass in 0u64..1_000_000) {
            let stream = PromptStream::from_prompts(prompts(count), true, seed).unwrap();
            let start = pass * count as u64;
            let mut seen = ids(&stream, start..start + count as u64);
            seen.sort();
            seen.dedup();
            prop_assert_eq!(seen.len(), count);
        }
    }
}
