//! The files of an evaluation, from which it can be resumed: a manifest of its specification, and a line for each finished
//! prompt.
//!
//! Invariants: a folder holds the records of one evaluation; any other is refused, with the differences. Lines are
//! appended one at a time: a killed process leaves at most a torn last line, which is cut off.

use super::spec::EvalSpec;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::disk;
use crate::disk::json_lines::{self, Appender};
use crate::eval::Record;
use anyhow::Context;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The longest manifest.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

const MANIFEST: &str = "manifest.json";
const RECORDS: &str = "records.jsonl";

/// A folder of records.
pub(super) struct Store {
    path: PathBuf,
    file: Appender,
    _lock: File,
}

impl Store {
    /// Opens `folder` to start or resume an evaluation. Also returns the records it holds, by the prompts' indices.
    ///
    /// # Errors
    /// If the folder holds an evaluation with another manifest, cannot be used, or is locked by another process.
    pub(super) fn open(
        folder: &Path,
        manifest: &Map<String, Value>,
        spec: &EvalSpec,
    ) -> Result<(Self, BTreeMap<u64, Record>), CommandError> {
        let lock = crate::node::lock(folder).or_exit(Exit::Usage)?;
        agree(&folder.join(MANIFEST), manifest).or_exit(Exit::Usage)?;
        let path = folder.join(RECORDS);
        let (file, records) = open_records(&path).with_context(|| path.display().to_string()).or_exit(Exit::Usage)?;
        let indices: BTreeMap<&str, u64> =
            (0..).zip(&spec.prompts).map(|(index, prompt)| (prompt.id.as_str(), index)).collect();
        let found =
            records.into_iter().filter_map(|record| Some((*indices.get(record.id.as_str())?, record))).collect();
        Ok((Self { path, file, _lock: lock }, found))
    }

    /// Appends a record.
    ///
    /// # Errors
    /// If writing fails.
    pub(super) fn add(&mut self, record: &Record) -> Result<(), CommandError> {
        let line = json_lines::to_line(record);
        self.file.append(&line).with_context(|| self.path.display().to_string()).or_exit(Exit::Failed)
    }
}

/// Checks that the manifest at `path` equals `manifest`; writes it if there is none.
fn agree(path: &Path, manifest: &Map<String, Value>) -> anyhow::Result<()> {
    let named = || path.display().to_string();
    let text = match disk::read_text(path, MANIFEST_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = serde_json::to_string_pretty(manifest)? + "\n";
            return disk::replace(path, text.as_bytes()).with_context(named);
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

/// Opens the file at `path` for appending, and reads its records. A torn last line is cut off.
fn open_records(path: &Path) -> anyhow::Result<(Appender, Vec<Record>)> {
    let appender = Appender::open(path)?;
    Ok((appender, json_lines::read(path)?.values))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::eval::ScoredText;
    use std::fs;

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
        let (mut file, records) = open_records(&path).unwrap();
        assert_eq!(records, [record("a")]);
        file.append(&json_lines::to_line(&record("c"))).unwrap();
        assert_eq!(open_records(&path).unwrap().1, [record("a"), record("c")]);
        fs::write(&path, "{}\n").unwrap();
        assert!(open_records(&path).unwrap_err().to_string().contains("line 1"));
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
