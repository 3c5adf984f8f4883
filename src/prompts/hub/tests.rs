#![allow(clippy::unwrap_used)]

use super::*;
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};

const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub of one data set on loopback.
fn hub(files: &[(&'static str, &'static str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let files: HashMap<_, _> = files.iter().copied().collect();
    // Detached: it ends with the process, and waits in `accept` meanwhile.
    std::thread::spawn(move || listener.incoming().for_each(|stream| answer(&stream.unwrap(), &files)));
    endpoint
}

/// One request a connection: the list of files, or a range of one of them.
fn answer(mut stream: &TcpStream, files: &HashMap<&str, &str>) {
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty());
    let Some(request) = lines.next() else { return };
    let path = request.split(' ').nth(1).unwrap().to_owned();
    let range = lines.filter_map(|line| Some(line.to_lowercase().strip_prefix("range: bytes=")?.to_owned())).last();
    let mut headers = "connection: close\r\n".to_owned();
    let (status, body) = if path == "/api/datasets/owner/name/revision/v1.0" {
        let siblings: Vec<_> = files.keys().map(|file| serde_json::json!({"rfilename": file})).collect();
        ("200 OK", serde_json::json!({"sha": SHA, "siblings": siblings}).to_string())
    } else if let Some(file) = path.strip_prefix(&format!("/datasets/owner/name/resolve/{SHA}/"))
        && let Some(content) = files.get(file)
    {
        let (start, end) = range.as_deref().unwrap().split_once('-').unwrap();
        let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap_or(content.len() - 1));
        headers +=
            &format!("x-repo-commit: {SHA}\r\netag: \"{}-tag\"\r\naccept-ranges: bytes\r\n", file.replace('/', "-"));
        headers += &format!("content-range: bytes {start}-{end}/{}\r\n", content.len());
        ("206 Partial Content", content[start..=end].to_owned())
    } else {
        ("404 Not Found", String::new())
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}").unwrap();
}

fn set(given: &str) -> DataSet {
    DataSet::parse(given).unwrap()
}

#[test]
fn a_data_set_is_named_by_owner_name_revision_and_split() {
    let plain = set("openai/gsm8k");
    assert_eq!((plain.revision.as_str(), plain.split.as_str(), plain.subset.as_deref()), ("main", "train", None));
    let whole = set("openai/gsm8k@refs/pr/1#main/test");
    assert_eq!((whole.name.as_str(), whole.revision.as_str()), ("openai/gsm8k", "refs/pr/1"));
    assert_eq!((whole.split.as_str(), whole.subset.as_deref()), ("test", Some("main")));
    for wrong in ["gsm8k", "a/b/c", "../b", "a/b@..", "a/b#../x", "a/b#", "a/b@", "a b/c"] {
        assert!(DataSet::parse(wrong).unwrap_err().contains("expected hf:owner/name"), "{wrong}");
    }
}

#[test]
fn the_files_of_a_split_are_found_by_their_names() {
    let there = |files: &[&str]| files.iter().map(|file| (*file).to_owned()).collect::<BTreeSet<_>>();
    let hub = there(&[
        "README.md",
        "data/test-00000-of-00001.parquet",
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/training.parquet",
    ]);
    let train = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"];
    assert_eq!(set("a/b").files(&hub).unwrap(), train);
    let subsets = there(&["main/train-0.parquet", "socratic/train-0.parquet", "train.jsonl"]);
    assert_eq!(set("a/b#main/train").files(&subsets).unwrap(), ["main/train-0.parquet"]);
    let error = set("a/b").files(&subsets).unwrap_err();
    assert!(error.contains("#SUBSET/train: there are main, socratic"), "{error}");
    let folder = there(&["train/0.jsonl.gz", "test/0.jsonl.gz"]);
    assert_eq!(set("a/b#test").files(&folder).unwrap(), ["test/0.jsonl.gz"]);
    let error = set("a/b#dev").files(&folder).unwrap_err();
    assert!(error.contains("the split \"dev\", got test/0.jsonl.gz, train/0.jsonl.gz"), "{error}");
    assert!(set("a/b").files(&there(&["b.py"])).unwrap_err().contains("no file of rows"));
}

#[test]
fn a_data_set_is_fetched_and_served_from_the_cache_when_the_hub_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().to_owned());
    let fetch = |endpoint: &str| {
        let api = ApiBuilder::from_cache(cache.clone()).with_endpoint(endpoint.to_owned());
        set("owner/name@v1.0").fetch_from(api, &cache)
    };
    let files = [("train.jsonl", "{\"prompt\": \"p\"}\n"), ("test.jsonl", "{\"prompt\": \"held out\"}\n")];
    let fetched = fetch(&hub(&files)).unwrap();
    assert_eq!(fetched.len(), 1);
    assert_eq!(std::fs::read_to_string(&fetched[0]).unwrap(), files[0].1);
    // A port that was free a moment ago: nobody answers.
    let gone = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    assert_eq!(fetch(&gone).unwrap(), fetched);
    let empty = Cache::new(folder.path().join("empty"));
    let api = ApiBuilder::from_cache(empty.clone()).with_endpoint(gone);
    assert!(set("owner/name@v1.0").fetch_from(api, &empty).unwrap_err().contains("the cache has no copy"));
}
