//! What an evaluation keeps, so that it can go on: a manifest of what was asked, and a line for each finished prompt.
//!
//! Invariants: a folder holds the records of one evaluation, and another one is refused with what differs; each line
//! is written whole before the next prompt is, so that a killed process leaves a torn last line at most, which is cut.

use super::EvalSpec;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::eval::Record;
use anyhow::Context;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

const MANIFEST: &str = "manifest.json";
const RECORDS: &str = "records.jsonl";

/// A folder of records.
pub(super) struct Store {
    path: PathBuf,
    file: File,
    _lock: File,
}

impl Store {
    /// Goes on with the evaluation in `folder`, or begins it; and what it holds already, by the prompts' places.
    ///
    /// # Errors
    /// Where the folder holds another evaluation than `manifest` says, cannot be used, or somebody else does.
    pub(super) fn open(
        folder: &Path,
        manifest: &Map<String, Value>,
        asked: &EvalSpec,
    ) -> Result<(Self, BTreeMap<u64, Record>), CommandError> {
        let lock = crate::node::lock(folder).or_exit(Exit::Usage)?;
        agree(&folder.join(MANIFEST), manifest).or_exit(Exit::Usage)?;
        let path = folder.join(RECORDS);
        let (file, records) = whole_lines(&path).with_context(|| path.display().to_string()).or_exit(Exit::Usage)?;
        let places: BTreeMap<&str, u64> =
            (0..).zip(&asked.prompts).map(|(place, prompt)| (prompt.id.as_str(), place)).collect();
        let found = records.into_iter().filter_map(|record| Some((*places.get(record.id.as_str())?, record))).collect();
        Ok((Self { path, file, _lock: lock }, found))
    }

    /// Keeps a record.
    ///
    /// # Errors
    /// Where the disk fails.
    pub(super) fn add(&mut self, record: &Record) -> Result<(), CommandError> {
        let mut line = serde_json::to_string(record).expect("strings and finite numbers serialize");
        line.push('\n');
        self.file.write_all(line.as_bytes()).with_context(|| self.path.display().to_string()).or_exit(Exit::Failed)
    }
}

/// Whether the manifest at `path` says the same as `manifest`; where there is none yet, it is written.
fn agree(path: &Path, manifest: &Map<String, Value>) -> anyhow::Result<()> {
    let named = || path.display().to_string();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = serde_json::to_string_pretty(manifest)? + "\n";
            let aside = path.with_extension("json.new");
            fs::write(&aside, text).and_then(|()| fs::rename(&aside, path)).with_context(named)?;
            return Ok(());
        }
        Err(error) => return Err(error).with_context(named),
    };
    let kept: Map<String, Value> = serde_json::from_str(&text).with_context(named)?;
    let differs = |(key, value): (&String, &Value)| {
        let kept = kept.get(key).unwrap_or(&Value::Null);
        (kept != value).then(|| format!("{key}: {kept} there, {value} asked"))
    };
    let others: Vec<String> = manifest.iter().filter_map(differs).collect();
    let why = "holds another evaluation; name another --out, or ask for the same";
    anyhow::ensure!(others.is_empty(), "{} {why}: {}", named(), others.join("; "));
    Ok(())
}

/// The file at `path`, open behind its last whole line, and its records.
fn whole_lines(path: &Path) -> anyhow::Result<(File, Vec<Record>)> {
    let mut file = File::options().create(true).append(true).read(true).open(path)?;
    let text = fs::read(path)?;
    let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    if whole < text.len() {
        tracing::warn!(path = %path.display(), "cut off a torn last line");
        file.set_len(whole as u64)?;
    }
    file.flush()?;
    let lines = text[..whole].split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    let record = |(index, line)| serde_json::from_slice(line).with_context(|| format!("line {}", index + 1));
    Ok((file, lines.map(record).collect::<anyhow::Result<_>>()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::eval::ScoredText;

    fn record(id: &str) -> Record {
        let response = ScoredText { text: "7\n".into(), tokens: 2, score: Some(1.0) };
        Record { id: id.into(), task: "t".into(), response, critics: Vec::new() }
    }

    #[test]
    fn a_torn_last_line_is_cut_and_what_was_whole_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(RECORDS);
        let lines = format!("{}\n{{\"id\": \"b\", \"ta", serde_json::to_string(&record("a")).unwrap());
        fs::write(&path, lines).unwrap();
        let (mut file, records) = whole_lines(&path).unwrap();
        assert_eq!(records, [record("a")]);
        writeln!(file, "{}", serde_json::to_string(&record("c")).unwrap()).unwrap();
        assert_eq!(whole_lines(&path).unwrap().1, [record("a"), record("c")]);
        fs::write(&path, "{}\n").unwrap();
        assert!(whole_lines(&path).unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn an_evaluation_of_another_kind_is_refused_with_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(MANIFEST);
        let manifest = |seed: u64| -> Map<String, Value> {
            [("seed".to_owned(), seed.into()), ("data".to_owned(), "mine".into())].into_iter().collect()
        };
        agree(&path, &manifest(1)).unwrap();
        agree(&path, &manifest(1)).unwrap();
        let refused = agree(&path, &manifest(2)).unwrap_err().to_string();
        assert!(refused.contains("seed: 1 there, 2 asked") && !refused.contains("data"), "{refused}");
    }
}
