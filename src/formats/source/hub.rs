//! A model of the Hugging Face hub, as a snapshot folder in the hub's own cache.
//!
//! All files come from one commit. If the hub cannot be reached, the last snapshot is used if it is whole. `HF_HOME` and
//! `HF_ENDPOINT` mean the same as in the hub's own tools.

use crate::disk;
use crate::formats::error::{Error, Result};
use crate::formats::json;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

const INDEX: &str = "model.safetensors.index.json";
/// The longest index.
const INDEX_BYTES_MAX: u64 = 16 << 20;
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
const OPTIONAL: [&str; 3] = ["tokenizer_config.json", "generation_config.json", "chat_template.jinja"];

/// Attempts to lock a file that another process is fetching. Each takes about five seconds, so this is an hour.
const LOCK_TRIES_MAX: usize = 720;

/// The snapshot folder of `model` (`owner/name`); fetched if it is not cached yet.
pub(super) fn fetch(model: &str) -> Result<PathBuf> {
    fetch_from(model, ApiBuilder::from_env(), &Cache::from_env())
}

/// As [`fetch`], with the given `api` and its `cache`.
fn fetch_from(model: &str, api: ApiBuilder, cache: &Cache) -> Result<PathBuf> {
    let failed = |why: String| Error::Fetch { what: format!("hf:{model}"), why };
    let api = api.with_progress(false).build().map_err(|error| failed(error.to_string()))?;
    let info = match api.model(model.to_owned()).info() {
        Ok(info) => info,
        Err(error) => {
            let path = cached(model, cache).ok_or_else(|| failed(error.to_string()))?;
            tracing::warn!(model, %error, "cannot reach the hub, using the last snapshot");
            return Ok(path);
        }
    };
    let there: BTreeSet<&str> = info.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
    let commit = Commit { model, sha: &info.sha, api: &api };
    for file in NEEDED {
        if !there.contains(file) {
            return Err(failed(format!("the model has no {file}")));
        }
        commit.get(file)?;
    }
    for file in OPTIONAL.into_iter().filter(|file| there.contains(file)) {
        commit.get(file)?;
    }
    if there.contains(INDEX) {
        for shard in shards(&commit.get(INDEX)?).map_err(failed)? {
            commit.get(&shard)?;
        }
    } else if there.contains("model.safetensors") {
        commit.get("model.safetensors")?;
    } else {
        return Err(failed(format!("the model has neither model.safetensors nor {INDEX}")));
    }
    // Last, so that the snapshot this names is always whole.
    let repository = cache.model(model.to_owned());
    repository.create_ref(&info.sha).map_err(|error| failed(error.to_string()))?;
    Ok(repository.pointer_path(&info.sha))
}

/// One commit of a model.
struct Commit<'a> {
    model: &'a str,
    sha: &'a str,
    api: &'a Api,
}

impl Commit<'_> {
    /// The path of `file`; downloaded if it is not cached.
    fn get(&self, file: &str) -> Result<PathBuf> {
        let repo = Repo::with_revision(self.model.to_owned(), RepoType::Model, self.sha.to_owned());
        let repository = self.api.repo(repo);
        for _ in 0..LOCK_TRIES_MAX {
            match repository.get(file) {
                Ok(path) => {
                    let bytes = std::fs::metadata(&path).map_err(Error::io(&path))?.len();
                    tracing::info!(model = self.model, file, bytes, "fetched a file of the hub");
                    return Ok(path);
                }
                // Another process is fetching it: wait for the file or for the lock.
                Err(ApiError::LockAcquisition(_)) => {}
                Err(error) => return Err(self.failed(format!("{file}: {error}"))),
            }
        }
        Err(self.failed(format!("{file}: another process has been fetching it for an hour")))
    }

    fn failed(&self, why: String) -> Error {
        Error::Fetch { what: format!("hf:{}", self.model), why }
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// The files that an index names.
fn shards(index: &Path) -> Result<BTreeSet<String>, String> {
    let text = disk::read(index, INDEX_BYTES_MAX).map_err(|error| error.to_string())?;
    let index: Index = json::parse(&text).map_err(|why| format!("{INDEX}: {why}"))?;
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    match files.iter().find(|file| Path::new(file).file_name() != Some(file.as_ref())) {
        Some(file) => Err(format!("{INDEX}: expected names of files, got {file:?}")),
        None => Ok(files),
    }
}

/// The last snapshot, if it has every file that is needed.
fn cached(model: &str, cache: &Cache) -> Option<PathBuf> {
    let repository = cache.model(model.to_owned());
    let folder = repository.get("config.json")?.parent()?.to_owned();
    if !NEEDED.iter().all(|file| folder.join(file).exists()) {
        return None;
    }
    let index = folder.join(INDEX);
    let weights = if index.exists() { shards(&index).ok()? } else { BTreeSet::from(["model.safetensors".to_owned()]) };
    weights.iter().all(|file| folder.join(file).exists()).then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A hub of one model on loopback: its files, and how often one of them was sent.
    struct Hub {
        endpoint: String,
        sent: Arc<AtomicUsize>,
    }

    impl Hub {
        fn new(files: &[(&'static str, &'static str)]) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            let sent = Arc::new(AtomicUsize::new(0));
            let (files, counter): (HashMap<_, _>, _) = (files.iter().copied().collect(), Arc::clone(&sent));
            // Detached: it ends with the process, and waits in `accept` meanwhile.
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    answer(stream.unwrap(), &files, &counter);
                }
            });
            Self { endpoint, sent }
        }

        fn fetch(&self, cache: &Path) -> Result<PathBuf> {
            let cache = Cache::new(cache.to_owned());
            let api = ApiBuilder::from_cache(cache.clone()).with_endpoint(self.endpoint.clone());
            fetch_from("owner/name", api, &cache)
        }
    }

    /// One request a connection: the list of files, or a range of one of them.
    fn answer(stream: TcpStream, files: &HashMap<&str, &str>, sent: &AtomicUsize) {
        let mut lines = BufReader::new(&stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty());
        let Some(request) = lines.next() else { return };
        let path = request.split(' ').nth(1).unwrap().to_owned();
        let range = lines.filter_map(|line| Some(line.to_lowercase().strip_prefix("range: bytes=")?.to_owned())).last();
        let mut headers = "connection: close\r\n".to_owned();
        let (status, body) = if path == "/api/models/owner/name/revision/main" {
            let siblings: Vec<_> = files.keys().map(|file| serde_json::json!({"rfilename": file})).collect();
            ("200 OK", serde_json::json!({"sha": SHA, "siblings": siblings}).to_string())
        } else if let Some(file) = path.strip_prefix(&format!("/owner/name/resolve/{SHA}/"))
            && let Some(content) = files.get(file)
        {
            let (start, end) = range.as_deref().unwrap().split_once('-').unwrap();
            let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap_or(content.len() - 1));
            sent.fetch_add(usize::from(end + 1 == content.len()), Ordering::SeqCst);
            headers += &format!("x-repo-commit: {SHA}\r\netag: \"{file}-tag\"\r\naccept-ranges: bytes\r\n");
            headers += &format!("content-range: bytes {start}-{end}/{}\r\n", content.len());
            ("206 Partial Content", content[start..=end].to_owned())
        } else {
            ("404 Not Found", String::new())
        };
        let length = body.len();
        write!(&stream, "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}").unwrap();
    }

    const SINGLE: [(&str, &str); 5] = [
        ("config.json", "{\"c\": 1}"),
        ("tokenizer.json", "{\"t\": 1}"),
        ("chat_template.jinja", "{{ messages }}"),
        ("model.safetensors", "weights"),
        ("README.md", "not asked for"),
    ];

    #[test]
    fn a_model_is_fetched_once_and_served_from_the_cache_when_the_hub_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let hub = Hub::new(&SINGLE);
        let path = hub.fetch(folder.path()).unwrap();
        for (file, content) in &SINGLE[..4] {
            assert_eq!(std::fs::read_to_string(path.join(file)).unwrap(), *content);
        }
        assert!(!path.join("README.md").exists());
        assert_eq!(hub.fetch(folder.path()).unwrap(), path);
        assert_eq!(hub.sent.load(Ordering::SeqCst), 4);

        // A port that was free a moment ago: nobody answers.
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let gone = Hub { endpoint: format!("http://{gone}"), sent: Arc::default() };
        assert_eq!(gone.fetch(folder.path()).unwrap(), path);
        std::fs::remove_file(path.join("model.safetensors")).unwrap();
        let error = gone.fetch(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("fetching hf:owner/name: "), "{error}");
    }

    #[test]
    fn every_shard_of_an_index_is_fetched() {
        let folder = tempfile::tempdir().unwrap();
        let index = r#"{"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors", "c": "x-1.safetensors"}}"#;
        let files = [
            ("config.json", "{\"c\": 2}"),
            ("tokenizer.json", "{\"t\": 2}"),
            (INDEX, index),
            ("x-1.safetensors", "one"),
            ("x-2.safetensors", "two"),
        ];
        let path = Hub::new(&files).fetch(folder.path()).unwrap();
        assert_eq!(std::fs::read_to_string(path.join("x-1.safetensors")).unwrap(), "one");
        assert_eq!(std::fs::read_to_string(path.join("x-2.safetensors")).unwrap(), "two");
    }

    #[test]
    fn a_model_without_weights_or_tokenizer_is_refused_by_name() {
        for (left_out, word) in [("tokenizer.json", "no tokenizer.json"), ("model.safetensors", "neither")] {
            let folder = tempfile::tempdir().unwrap();
            let files: Vec<_> = SINGLE.into_iter().filter(|(file, _)| *file != left_out).collect();
            let error = Hub::new(&files).fetch(folder.path()).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn an_index_that_points_out_of_its_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join(INDEX);
        std::fs::write(&index, r#"{"weight_map": {"a": "../x.safetensors"}}"#).unwrap();
        assert!(shards(&index).unwrap_err().contains("../x.safetensors"));
    }
}
