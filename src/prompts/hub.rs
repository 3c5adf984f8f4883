//! Data sets of the Hugging Face hub: `hf:owner/name@revision#split`.
//!
//! Files are fetched once, into the hub's own cache, all from one commit. If the hub cannot be reached, what the cache has of that
//! revision is used. `HF_HOME` and `HF_ENDPOINT` mean the same as in the hub's own tools. Nothing that is fetched is executed: a data
//! set that is only a script is refused.

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The revision and the split where none is named.
const REVISION: &str = "main";
const SPLIT: &str = "train";
/// What a file of rows ends with, the preferred form first.
const FORMS: [&str; 9] =
    [".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".csv", ".csv.gz", ".tsv"];
/// Files of one split.
const FILES_MAX: usize = 4096;
/// Attempts to lock a file that another process is fetching, of about five seconds each.
const LOCK_TRIES_MAX: usize = 720;

/// A split of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DataSet {
    /// `owner/name`.
    name: String,
    revision: String,
    /// Its subset, if one is named: `subset/split`.
    subset: Option<String>,
    split: String,
}

impl DataSet {
    /// Parses what stands after `hf:`.
    ///
    /// # Errors
    /// What was expected.
    pub(super) fn parse(given: &str) -> Result<Self, String> {
        let expected = "hf:owner/name, with @revision and #split or #subset/split after it where needed";
        let wrong = || format!("expected {expected}, got \"hf:{given}\"");
        let (rest, split) = given.split_once('#').unwrap_or((given, SPLIT));
        let (name, revision) = rest.split_once('@').unwrap_or((rest, REVISION));
        let (owner, short) = name.split_once('/').ok_or_else(wrong)?;
        let (subset, split) = match split.split_once('/') {
            Some((subset, split)) => (Some(subset), split),
            None => (None, split),
        };
        let names = [owner, short, split].into_iter().chain(subset);
        let is_right = names.clone().all(is_name) && revision.split('/').all(is_name);
        is_right
            .then(|| Self {
                name: name.to_owned(),
                revision: revision.to_owned(),
                subset: subset.map(str::to_owned),
                split: split.to_owned(),
            })
            .ok_or_else(wrong)
    }

    /// The files of the split, in the order of their names; fetched if they are not cached yet.
    ///
    /// # Errors
    /// If the hub has no such split, or does not answer and the cache has none.
    pub(super) fn fetch(&self) -> Result<Vec<PathBuf>, String> {
        self.fetch_from(ApiBuilder::from_env(), &Cache::from_env())
    }

    fn fetch_from(&self, api: ApiBuilder, cache: &Cache) -> Result<Vec<PathBuf>, String> {
        let at = |revision: &str| Repo::with_revision(self.name.clone(), RepoType::Dataset, revision.to_owned());
        let api = api.with_progress(false).build().map_err(|error| error.to_string())?;
        let info = match api.repo(at(&self.revision)).info() {
            Ok(info) => info,
            Err(error) => {
                let files = self.cached(cache).map_err(|why| format!("{error}; and {why}"))?;
                tracing::warn!(data_set = self.name, %error, "cannot reach the hub, using what is cached");
                return Ok(files);
            }
        };
        let there = info.siblings.iter().map(|sibling| sibling.rfilename.clone()).collect();
        let commit = api.repo(at(&info.sha));
        let files = self.files(&there)?.into_iter().map(|file| get(&commit, file)).collect::<Result<Vec<_>, _>>()?;
        // Last, so that the snapshot that this names is always whole.
        cache.repo(at(&self.revision)).create_ref(&info.sha).map_err(|error| error.to_string())?;
        Ok(files)
    }

    /// The files of the split in the cache.
    fn cached(&self, cache: &Cache) -> Result<Vec<PathBuf>, String> {
        let repo = Repo::with_revision(self.name.clone(), RepoType::Dataset, self.revision.clone());
        let folder = cache.path().join(repo.folder_name());
        let none = || "the cache has no copy".to_owned();
        let commit = std::fs::read_to_string(folder.join("refs").join(&self.revision)).map_err(|_| none())?;
        let snapshot = folder.join("snapshots").join(commit.trim());
        let mut there = BTreeSet::new();
        list(&snapshot, "", &mut there);
        Ok(self.files(&there)?.into_iter().map(|file| snapshot.join(file)).collect())
    }

    /// The files of the split among those that are there.
    fn files<'a>(&self, there: &'a BTreeSet<String>) -> Result<Vec<&'a str>, String> {
        for form in FORMS {
            let found: Vec<&str> =
                there.iter().map(String::as_str).filter(|file| self.is_of_split(file, form)).collect();
            let folders: BTreeSet<&str> =
                found.iter().map(|file| file.rsplit_once('/').map_or("", |(f, _)| f)).collect();
            match (found.len(), folders.len()) {
                (0, _) => continue,
                (_, 2..) if self.subset.is_none() && !self.is_folder(&folders) => {
                    let subsets = folders.into_iter().collect::<Vec<_>>().join(", ");
                    let split = &self.split;
                    return Err(format!("expected a subset, as in #SUBSET/{split}: there are {subsets}"));
                }
                (FILES_MAX.., _) => return Err(format!("expected at most {FILES_MAX} files, got {}", found.len())),
                _ => return Ok(found),
            }
        }
        let data: Vec<&str> =
            there.iter().map(String::as_str).filter(|file| FORMS.iter().any(|form| file.ends_with(form))).collect();
        let shown = if data.is_empty() {
            "no file of rows".to_owned()
        } else {
            data.iter().take(8).copied().collect::<Vec<_>>().join(", ")
        };
        Err(format!("expected files of the split {:?}, got {shown}", self.split))
    }

    /// Whether all `folders` are called like the split.
    fn is_folder(&self, folders: &BTreeSet<&str>) -> bool {
        folders.iter().all(|folder| folder.split('/').any(|part| part == self.split))
    }

    /// Whether `file` has rows of the split, by its name: `data/train-00000-of-00002.parquet`, `main/train.jsonl`, `train/0.parquet`.
    fn is_of_split(&self, file: &str, form: &str) -> bool {
        let Some(stem) = file.strip_suffix(form) else { return false };
        let mut folders: Vec<&str> = stem.split('/').collect();
        let name = folders.pop().unwrap_or_default();
        let after = name.strip_prefix(self.split.as_str());
        let is_named = after.is_some_and(|after| after.is_empty() || after.starts_with(['-', '_', '.']));
        let is_within = folders.contains(&self.split.as_str());
        let is_subset = self.subset.as_deref().is_none_or(|subset| folders.contains(&subset));
        (is_named || is_within) && is_subset
    }
}

/// The path of `file`; downloaded if it is not cached.
fn get(commit: &ApiRepo, file: &str) -> Result<PathBuf, String> {
    for _ in 0..LOCK_TRIES_MAX {
        match commit.get(file) {
            Ok(path) => return Ok(path),
            // Another process is fetching it: wait for the file or for the lock.
            Err(ApiError::LockAcquisition(_)) => {}
            Err(error) => return Err(format!("{file}: {error}")),
        }
    }
    Err(format!("{file}: another process has been fetching it for an hour"))
}

/// Adds the files below `folder`, by their paths from `prefix` on.
fn list(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        match entry.path().is_dir() {
            true => list(&entry.path(), &path, found),
            false => drop(found.insert(path)),
        }
    }
}

/// Letters, digits, `.`, `_` and `-`, with a letter or digit first: never a parent folder.
fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(is_plain) && !text.contains("..")
}

#[cfg(test)]
mod tests;
