//! Prompts: a JSONL file as an endless, seeded, resumable stream.
//!
//! Which prompt an episode gets is a pure function of the file, the seed and the episode's number, so the stream has no
//! state to save. What a run must save is the [`Ledger`]: which episodes have started and not finished. This file does not
//! know what an episode is.
//!
//! Invariants: each pass over the file yields every prompt once; a started episode stays in the ledger until it ends, over
//! any number of restarts.

use crate::disk;
use crate::types::brief::brief;
use crate::types::{EpisodeId, Prompt, splitmix::mix64};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

pub mod lint;

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

/// The expected form of a line, for error messages.
const EXPECTED: &str = r#"{"id", "task", "prompt", "answer"?, "verifier"?}"#;

/// The longest file.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// The longest line.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Rounds of the shuffle in [`shuffled`]. 6 log2(n) suffice, so this covers 2^16 prompts and mixes well far beyond.
const SHUFFLE_ROUNDS: usize = 96;

/// Where prompts come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptsConfig {
    /// A JSONL file, or `bundled:` and the name of a bundled one.
    pub file: String,
    /// Shuffles each pass over the file, seeded by the node's seed.
    pub shuffle: bool,
}

impl PromptsConfig {
    /// Complaints about its values, all at once. Whether the file can be read is only known when it is opened.
    pub fn complaints(&self) -> Vec<String> {
        match self.file.strip_prefix("bundled:") {
            _ if self.file.trim().is_empty() => {
                vec![format!("prompts.file: expected a JSONL file, got {:?}", self.file)]
            }
            Some(name) if bundled(name).is_none() => vec![unknown_bundle(name).to_string()],
            _ => Vec::new(),
        }
    }
}

/// Why prompts could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file among those that come with the node.
    #[error("prompts.file: expected one of {known}, got \"bundled:{name}\"")]
    UnknownBundle {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The file cannot be read.
    #[error("prompts.file: expected a readable JSONL file, got {file:?}: {source}")]
    Unreadable {
        /// The file.
        file: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A line is not a prompt.
    #[error("{file}, line {line}: {}", brief(.fault))]
    Line {
        /// The file.
        file: String,
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

fn unknown_bundle(name: &str) -> Error {
    let known = BUNDLED.map(|(known, _)| format!("\"bundled:{known}\"")).join(", ");
    Error::UnknownBundle { name: name.to_owned(), known }
}

/// The names of the files that come with the node to be held out.
pub fn held_out() -> impl Iterator<Item = String> {
    let is_held_out = |name: &&str| name.ends_with("-heldout") || *name == "humaneval";
    BUNDLED.into_iter().map(|(name, _)| name).filter(is_held_out).map(|name| format!("bundled:{name}"))
}

/// The prompts of `file`: a path, or `bundled:` and the name of one that comes with the node.
pub fn load(file: &str) -> Result<Vec<Prompt>, Error> {
    match file.strip_prefix("bundled:") {
        Some(name) => parse(file, bundled(name).ok_or_else(|| unknown_bundle(name))?),
        None => {
            let text = read(Path::new(file)).map_err(|source| Error::Unreadable { file: file.to_owned(), source })?;
            parse(file, &text)
        }
    }
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
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let prompt = prompt(line).map_err(|fault| Error::Line { file: file.to_owned(), line: number, fault })?;
        lines.push((number, prompt));
    }
    validated(file, lines)
}

/// The prompt of a line, or what was expected.
fn prompt(line: &str) -> Result<Prompt, String> {
    if line.len() > LINE_BYTES_MAX {
        return Err(format!("expected at most {LINE_BYTES_MAX} bytes, got {}", line.len()));
    }
    serde_json::from_str(line).map_err(|error| format!("expected {EXPECTED}, got {error}"))
}

/// Checks the rules of a whole file: not empty, no empty fields, no id twice.
fn validated(file: &str, lines: Vec<(usize, Prompt)>) -> Result<Vec<Prompt>, Error> {
    if lines.is_empty() {
        return Err(Error::Empty { file: file.to_owned() });
    }
    let mut first_lines: HashMap<&str, usize> = HashMap::new();
    for (number, prompt) in &lines {
        let taken = first_lines.insert(&prompt.id, *number).map(|first| id_taken(&prompt.id, first));
        let Some(fault) = taken.or_else(|| empty_field(prompt)) else { continue };
        return Err(Error::Line { file: file.to_owned(), line: *number, fault });
    }
    Ok(lines.into_iter().map(|(_, prompt)| prompt).collect())
}

fn id_taken(id: &str, first: usize) -> String {
    format!("expected an id of its own, got {id:?}, the id of line {first}")
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
        Ok(Self { prompts: load(&config.file)?, shuffle: config.shuffle, seed })
    }

    /// A stream of given prompts, which must follow the same rules as a file's. In errors, line n is the nth prompt.
    #[cfg(test)]
    fn from_prompts(prompts: Vec<Prompt>, shuffle: bool, seed: u64) -> Result<Self, Error> {
        Ok(Self { prompts: validated("prompts", (1..).zip(prompts).collect())?, shuffle, seed })
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

/// Which episodes have started and not finished: those that a resumed run must run again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// The first episode that has never started.
    pub next: u64,
    /// Started and not finished.
    pub open: BTreeSet<EpisodeId>,
    /// Those of `open` that are not running; they run before any new one.
    #[serde(default)]
    pub waiting: BTreeSet<EpisodeId>,
}

impl Ledger {
    /// Starts the next episode: the first one waiting to run again, else a new one.
    pub fn begin(&mut self) -> EpisodeId {
        if let Some(episode) = self.waiting.pop_first() {
            return episode;
        }
        let episode = EpisodeId(self.next);
        self.next += 1;
        self.open.insert(episode);
        episode
    }

    /// Starts `episode` again as [`Ledger::begin`] did: one that was waiting, or the next.
    pub fn start(&mut self, episode: EpisodeId) {
        self.waiting.remove(&episode);
        self.next = self.next.max(episode.0 + 1);
        self.open.insert(episode);
    }

    /// Marks `episode` as finished, successfully or not; it does not run again. False if it was not open.
    pub fn end(&mut self, episode: EpisodeId) -> bool {
        self.waiting.remove(&episode);
        self.open.remove(&episode)
    }

    /// Marks all open episodes to run again, in order, after whatever ran them has ended.
    pub fn reopen(&mut self) {
        self.waiting.clone_from(&self.open);
    }

    /// How many open episodes are running.
    pub fn under_way(&self) -> usize {
        self.open.len() - self.waiting.len()
    }
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
            answer: None,
            verifier: None,
        };
        (0..count).map(prompt).collect()
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
        let number = fault(r#"{"id": "b", "task": "t", "prompt": "p", "answer": 1}"#);
        assert!(number.contains("expected a string"), "{number}");
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
        let config = PromptsConfig { file: "nowhere/tasks.jsonl".into(), shuffle: false };
        let error = PromptStream::open(&config, 0).unwrap_err().to_string();
        assert!(error.contains("prompts.file") && error.contains("nowhere/tasks.jsonl"), "{error}");
    }

    #[test]
    fn an_unknown_bundle_is_refused_with_the_known_ones() {
        let config = PromptsConfig { file: "bundled:arithmetics".into(), shuffle: false };
        let complaint = config.complaints().join("\n");
        assert!(
            complaint.contains("bundled:arithmetic-train") && complaint.contains("bundled:arithmetics"),
            "{complaint}"
        );
        assert_eq!(PromptStream::open(&config, 0).unwrap_err().to_string(), complaint);
        assert_eq!(PromptsConfig { file: " ".into(), shuffle: true }.complaints().len(), 1);
        assert!(PromptsConfig { file: "bundled:arithmetic-heldout".into(), shuffle: true }.complaints().is_empty());
    }

    #[test]
    fn a_file_on_disk_is_read_in_order_without_shuffle() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tasks.jsonl");
        let text: String = prompts(3).iter().map(|p| serde_json::to_string(p).unwrap() + "\r\n").collect();
        std::fs::write(&path, text).unwrap();
        let config = PromptsConfig { file: path.to_str().unwrap().into(), shuffle: false };
        let stream = PromptStream::open(&config, 9).unwrap();
        assert_eq!(ids(&stream, 0..7), ["p0", "p1", "p2", "p0", "p1", "p2", "p0"]);
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

        /// Steps: 0 begins, 1 ends one of those under way, 2 restarts from what was saved.
        #[test]
        fn the_ledger_never_forgets_an_episode(steps in proptest::collection::vec((0u8..3, any::<prop::sample::Index>()), 0..80)) {
            let mut ledger = Ledger::default();
            let (mut running, mut ended) = (Vec::new(), BTreeSet::new());
            for (step, which) in steps {
                match step {
                    0 => {
                        let episode = ledger.begin();
                        prop_assert!(!ended.contains(&episode) && !running.contains(&episode));
                        running.push(episode);
                    }
                    1 if !running.is_empty() => {
                        let episode = running.swap_remove(which.index(running.len()));
                        prop_assert!(ledger.end(episode));
                        prop_assert!(!ledger.end(episode));
                        ended.insert(episode);
                    }
                    2 => {
                        ledger = serde_json::from_str(&serde_json::to_string(&ledger).unwrap()).unwrap();
                        ledger.reopen();
                        running.clear();
                    }
                    _ => {}
                }
                prop_assert_eq!(ledger.under_way(), running.len());
                prop_assert_eq!(ledger.open.len() + ended.len(), ledger.next as usize);
            }
            ledger.reopen();
            let again: Vec<_> = (0..ledger.open.len()).map(|_| ledger.begin()).collect();
            prop_assert!(again.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!((0..ledger.next).map(EpisodeId).all(|e| ended.contains(&e) != again.contains(&e)));
        }
    }
}
