//! Signals: whatever the node is in the middle of, it drains, writes its checkpoint and ends with 0.

use super::refusals::{KilledAtTheEnd, assert_ended, changed_model, program, set_template, source, within};
use crate::support::node::{distinct, open_episodes, saved};
use crate::support::server::{Act, Rigged};
use rco_node::node::Exit;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The longest drain: `node.drain_seconds` is 2, and the machine may be busy.
const ENDS: Duration = Duration::from_secs(15);

/// Starts a node that publishes nothing, signals it once `is_time`, and checks that it ends in order with a whole checkpoint.
fn ends_in_order(folder: &Path, more: &str, signal: &str, is_time: impl FnMut() -> bool) {
    let more = format!("learner.publish_every_steps=1000000\n{more}");
    let log = folder.join("log");
    let stderr = fs::File::create(&log).unwrap();
    let node = program(folder, &more, &["start"]).stderr(stderr).spawn().unwrap();
    let mut node = KilledAtTheEnd(node);
    within(Duration::from_secs(60), "the moment of the signal", is_time);
    let list = || rco_node::checkpoint::list(&folder.join("run/checkpoints")).unwrap();
    assert!(list().is_empty(), "the checkpoint is that of the end");
    let sent = Command::new("kill").args([signal, &node.0.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let (asked, mut ended) = (Instant::now(), None);
    within(Duration::from_secs(60), "the end", || {
        ended = node.0.try_wait().unwrap();
        ended.is_some()
    });
    let said = fs::read_to_string(&log).unwrap();
    assert_eq!(ended.unwrap().code(), Some(0), "{said}");
    assert!(asked.elapsed() < ENDS, "{:?}: {said}", asked.elapsed());
    assert_eq!(list().len(), 1, "{said}");
    assert!(saved(folder).state["shelf"].is_object());
}

/// Whether the run in `folder` has scored a group.
fn has_scored(folder: &Path) -> bool {
    fs::metadata(folder.join("run/groups.jsonl")).is_ok_and(|file| file.len() > 0)
}

/// The status of an answer of the listener to `GET path`; none if it cannot be reached.
fn status(address: SocketAddr, path: &str) -> Option<String> {
    let mut client = TcpStream::connect(address).ok()?;
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1).map(str::to_owned)
}

#[test]
fn a_device_that_stands_still_shows_in_the_health_and_then_ends_the_process_with_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let more = format!("{CHECKED}\ntelemetry.address='127.0.0.1:0'\ndevice.stall_seconds=6");
    let mut node = program(folder.path(), &more, &["start"]);
    // A driver that never answers.
    node.env("RCO_FAULT_STALL_SECONDS", "86400").stderr(fs::File::create(&log).unwrap());
    let mut node = KilledAtTheEnd(node.spawn().unwrap());
    let mut address = None;
    within(Duration::from_secs(60), "the listener", || {
        let presence = fs::read(folder.path().join("run/node.json")).unwrap_or_default();
        let presence: serde_json::Value = serde_json::from_slice(&presence).unwrap_or_default();
        address = presence["address"].as_str().map(|address| address.parse().unwrap());
        address.is_some()
    });
    let (mut seen, mut ended) = (vec![], None);
    within(Duration::from_secs(60), "the end", || {
        seen.extend(status(address.unwrap(), "/healthz"));
        seen.dedup();
        ended = node.0.try_wait().unwrap();
        ended.is_some()
    });
    let said = fs::read_to_string(&log).unwrap();
    assert_eq!(ended.unwrap().code(), Some(Exit::Device as i32), "{said}");
    assert_eq!(seen, ["200", "503"], "healthy, then not: {said}");
    assert!(said.contains("did not start or end within 6 s"), "the log says why: {said}");
}

/// The prompts' own verifier, which is done at once.
const CHECKED: &str = "judge.kind='verifier'";

#[test]
fn a_terminal_that_closes_ends_the_node_with_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    ends_in_order(folder.path(), CHECKED, "-HUP", || has_scored(folder.path()));
}

#[test]
fn a_sigterm_while_templates_take_their_time_ends_the_node_with_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    // Two thirds of the work that a template may do.
    let slow = "{% for a in range(240) %}{% for b in range(240) %}{% endfor %}{% endfor %}";
    let model = changed_model(folder.path(), |model| set_template(model, |plain| Some(format!("{slow}{plain}"))));
    let more = format!("{CHECKED}\n{}", source(&model));
    ends_in_order(folder.path(), &more, "-TERM", || has_scored(folder.path()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sigterm_while_a_judge_hangs_ends_the_node_with_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let server = Rigged::start(|_, _| Act::Hang).await;
    let more = format!("judge.kind='remote'\nremote.judge.base_url='{}'\nremote.judge.model='m'", server.base_url);
    let path = folder.path().to_owned();
    let ends = move || ends_in_order(&path, &more, "-TERM", || !server.asked().is_empty());
    tokio::task::spawn_blocking(ends).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sigterm_while_a_verifier_hangs_ends_the_node_with_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let verifier = serde_json::json!({
        "kind": "code", "entry_point": "f", "test": "def check(candidate):\n    while True:\n        pass",
    });
    let line = serde_json::json!({"id": "f", "task": "code", "prompt": "write f", "verifier": verifier});
    let prompts = folder.path().join("code.jsonl");
    fs::write(&prompts, format!("{line}\n")).unwrap();
    // Random weights write no program that could be checked.
    let server = Rigged::start(|_, _| Act::Say("def f():\n    return 1\n".to_owned())).await;
    let more = format!(
        "{CHECKED}\nprompts.file='{}'\nremote.generator.base_url='{}'\nremote.generator.model='m'\ngenerator.kind='remote'",
        prompts.display(),
        server.base_url
    );
    let path = folder.path().to_owned();
    let ends = move || {
        let mut answered = None;
        let is_time = || {
            // Critiques and refinements have a few tokens, and then the checks begin.
            answered = answered.or_else(|| (!server.asked().is_empty()).then(Instant::now));
            answered.is_some_and(|answered| answered.elapsed() > Duration::from_secs(5))
        };
        ends_in_order(&path, &more, "-TERM", is_time);
        assert!(!has_scored(&path), "no check has ended");
        assert!(!open_episodes(&saved(&path)).is_empty(), "a resumed run goes on with the episodes");
    };
    tokio::task::spawn_blocking(ends).await.unwrap();
}

#[test]
fn steps_that_are_none_or_were_taken_before_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let none = program(folder.path(), "", &["start", "--learner-steps", "0"]).output().unwrap();
    assert_ended(&none, Exit::Usage, &["--learner-steps", "0"]);
    super::refusals::take_one_step(folder.path(), "");
    let again = program(folder.path(), "", &super::refusals::GO_ON).output().unwrap();
    assert_ended(
        &again,
        Exit::Done,
        &["has taken 1 learner steps already", "give more than 1", "export", "resolved-config.toml"],
    );
}

/// Waits until the log in `file` has `words`.
fn logged(file: &Path, words: &str) {
    within(Duration::from_secs(60), words, || fs::read_to_string(file).unwrap().contains(words));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_ctrl_c_ends_the_process_at_once_and_the_run_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    // It prefers the greater text, in whatever order it is asked, and answers nobody once it is told so.
    let hangs = Arc::new(AtomicBool::new(false));
    let told = hangs.clone();
    let server = Rigged::start(move |_, asked| {
        let texts: Vec<&str> = asked.last().split("|||").collect();
        match texts[0].cmp(texts[1]) {
            _ if told.load(Ordering::Relaxed) => Act::Hang,
            std::cmp::Ordering::Greater => Act::Say("A".to_owned()),
            std::cmp::Ordering::Less => Act::Say("B".to_owned()),
            std::cmp::Ordering::Equal => Act::Say("tie".to_owned()),
        }
    })
    .await;
    let more = format!(
        "judge.kind='remote'\nremote.judge.base_url='{}'\nremote.judge.model='m'\nnode.drain_seconds=600\n\
         judge.prompt='{{{{ first }}}}|||{{{{ second }}}}|||{{{{ prompt }}}}'\nlearner.publish_every_steps=1",
        server.base_url
    );
    let path = folder.path().to_owned();
    let ends = move || {
        let log = path.join("log");
        let node =
            program(&path, &more, &["start"]).env("RCO_LOG", "info").stderr(fs::File::create(&log).unwrap()).spawn();
        let mut node = KilledAtTheEnd(node.unwrap());
        let interrupt = || {
            let sent = Command::new("kill").args(["-INT", &node.0.id().to_string()]).status().unwrap();
            assert!(sent.success());
        };
        let list = || rco_node::checkpoint::list(&path.join("run/checkpoints")).unwrap();
        within(Duration::from_secs(60), "a checkpoint", || !list().is_empty());
        hangs.store(true, Ordering::Relaxed);
        interrupt();
        logged(&log, "a second Ctrl-C ends the process at once");
        // The judge holds up the drain, for as long as that may take.
        std::thread::sleep(Duration::from_secs(1));
        let asked = Instant::now();
        interrupt();
        let mut ended = node.0.try_wait().unwrap();
        assert!(ended.is_none(), "one Ctrl-C waits for what is under way: {ended:?}");
        within(Duration::from_secs(10), "the end", || {
            ended = node.0.try_wait().unwrap();
            ended.is_some()
        });
        let said = fs::read_to_string(&log).unwrap();
        assert_eq!(ended.unwrap().code(), Some(130), "{said}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert!(said.contains("ended at once; start --resume runs again what was under way"), "{said}");

        // What it promised.
        hangs.store(false, Ordering::Relaxed);
        let before = saved(&path);
        let steps = (before.step + 20).to_string();
        let resumed = ["start", "--resume", "--learner-steps", &steps];
        let mut again = program(&path, &more, &resumed);
        let again = again.env("RCO_LOG", "info").stderr(fs::File::create(&log).unwrap()).spawn();
        let mut again = KilledAtTheEnd(again.unwrap());
        within(Duration::from_secs(60), "the end of the resumed run", || {
            ended = again.0.try_wait().unwrap();
            ended.is_some()
        });
        let said = fs::read_to_string(&log).unwrap();
        assert_eq!(ended.unwrap().code(), Some(0), "{said}");
        assert!(saved(&path).step >= before.step + 20, "{said}");
        let groups = rco_node::groups::read(&path.join("run")).unwrap();
        let episodes: Vec<_> = groups.groups.iter().map(|recorded| recorded.group.episode).collect();
        assert_eq!(distinct(&episodes).len(), episodes.len(), "no episode is scored twice");
    };
    tokio::task::spawn_blocking(ends).await.unwrap();
}
