//! The page in headless Chromium, of a node that was resumed with ten thousand episodes and as one file. What is done there is in
//! `page.py`: found through the filter, opened by the keyboard, seen as text, in both colours and at a phone's width.

use super::command::record;
use crate::http::server::Server;
use crate::support::programs;
use rco_node::records::FILE;
use serde_json::json;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MORE: &str = "judge.kind='verifier'\nswap.rollback_groups=0\nlearner.publish_every_steps=1000000";
const EPISODES: u64 = 10_000;
/// Numbers of episodes that the run itself does not reach.
const FIRST: u64 = 1_000_000;

/// The records that the page has to show, as JSON lines.
fn lines() -> String {
    let critique = |id: u64, n: u64| {
        let (text, cu) = (format!("critique {n} says marker {} of episode {id}", id % 97), (id * (n + 3)) % 9);
        let verdicts = if id.is_multiple_of(49) { json!([{"invalid": "deadline"}]) } else { json!(["win"]) };
        let utility = (!id.is_multiple_of(49)).then_some(cu as f64 / 8.0);
        ((id + n) % 6, text, utility, verdicts)
    };
    let of_episode = |id: u64| {
        let critiques: Vec<_> = (0..4).map(|n| critique(id, n)).collect();
        let critiques: Vec<_> = critiques
            .iter()
            .map(|(version, text, cu, verdicts)| (*version, text.as_str(), *cu, verdicts.clone()))
            .collect();
        let prompt = format!("What is {id} and {}? {}", id + 1, "It is a question with some words in it. ".repeat(4));
        record(FIRST + id, &format!("task-{}", id % 8), &prompt, &critiques)
    };
    let hostile = "a needle in the haystack <script>window.hit = 1</script> <img src=x onerror=\"window.hit = 2\"> \
                   \u{202e}turned\u{202c} \u{1b}[2J </textarea><!-- &amp; {{ }} ${1}";
    let mut last = record(
        FIRST + EPISODES,
        hostile,
        hostile,
        &[(1, hostile, Some(0.75), json!(["win", "tie"])), (2, "other", Some(0.0), json!(["loss", "loss"]))],
    );
    last["critiques"][0]["tokens"] = json!(["a", " needle", " in", "<|im_end|>"]);
    last["critiques"][0]["log_probs"] = json!([-0.01, -9.5, -0.7, -0.2]);
    let records = (0..EPISODES).map(of_episode).chain([last]);
    records.map(|record| format!("{record}\n")).collect()
}

/// The browser, and a Python that can drive it; none where they are missing.
fn driver() -> Option<(PathBuf, PathBuf)> {
    let browser = programs::find("chromium")?;
    match programs::python("page", &["websockets==15.0.1"]) {
        Ok(python) => Some((browser, python)),
        Err(why) => {
            assert!(std::env::var("RCO_TEST_PROGRAMS").as_deref() != Ok("required"), "{why}");
            eprintln!("skipped: {why}");
            None
        }
    }
}

/// Looks at `url`, whose page has to show the records in `path`.
fn look((browser, python): &(PathBuf, PathBuf), kind: &str, url: &str, path: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/viewing/page.py");
    // Nothing is written beside the sources.
    let mut command = Command::new(python);
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(script).arg(browser).args([kind, url]).arg(path);
    let output = command.output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    eprint!("{out}");
    assert!(output.status.success(), "{err}");
}

#[tokio::test]
async fn a_node_with_ten_thousand_episodes_is_looked_at() {
    let Some(driver) = driver() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut killed = Server::start_in(folder, MORE, &["start"], &[]).await;
    while killed.metric("rco_rollout_records_total{result=\"written\"}").await < 5.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let folder = std::mem::replace(&mut killed.folder, tempfile::tempdir().unwrap());
    drop(killed);
    let records = folder.path().join("records");
    fs::write(&records, lines()).unwrap();
    let mut file = fs::File::options().append(true).open(folder.path().join("run").join(FILE)).unwrap();
    file.write_all(&fs::read(&records).unwrap()).unwrap();
    let server = Server::start_in(folder, MORE, &["start", "--resume"], &[]).await;
    // What is measured is the page, not how it shares the machine with a run.
    let token = fs::read_to_string(server.folder.path().join("run/http-token")).unwrap();
    let paused = server.post("/admin/pause", &json!({"what": "all"})).bearer_auth(token).send().await.unwrap();
    assert_eq!(paused.status(), 200);
    look(&driver, "live", &server.url, &records);
}

#[test]
fn a_file_with_ten_thousand_episodes_is_looked_at() {
    let Some(driver) = driver() else { return };
    let folder = tempfile::tempdir().unwrap();
    let records = folder.path().join(FILE);
    fs::write(&records, lines()).unwrap();
    let page = folder.path().join("page.html");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rco-node"));
    command.arg("episodes").arg("--run").arg(folder.path()).args(["--limit", "100000", "--html"]).arg(&page);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    look(&driver, "file", &format!("file://{}", page.display()), &records);
}
