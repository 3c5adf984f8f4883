//! It survives: faults restart what depends on them, and nothing scored is lost or learned twice by it.

use crate::support::node::{Running, config, distinct, held, likes_even, saved, sets, start};
use rco_node::node::{Exit, Node, Options};
use rco_node::run::events::Event;
use rco_node::types::{ActorKind, Label};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Learner steps in the log.
fn steps(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Learned { .. })).count()
}

/// Waits for a restart after the `before` that there were: until a fault is noticed, steps that were under way may still
/// end.
async fn restarted(running: &Running, before: u64, after: &str) {
    let is_later = |event: &Event| matches!(event, Event::Restarted { restarts, .. } if *restarts > before);
    running.log.until(after, |events| events.iter().any(is_later)).await;
}

/// Waits for `more` learner steps on top of those there are.
async fn go_on(running: &Running, more: usize, after: &str) {
    let there = steps(&running.log.events.lock().unwrap());
    running.log.until(after, |events| steps(events) >= there + more).await;
}

async fn run(more: &str) -> (tempfile::TempDir, Running) {
    let folder = tempfile::tempdir().unwrap();
    // Nothing grows too old here: what was accepted is learned or held.
    let more = format!(
        "replay.uses_max=1\nreplay.age_versions_max=1000000\nreplay.groups_max=100000\nlearner.groups_per_step=1\n{more}"
    );
    let running = start(config(folder.path(), &more), false, None, Arc::new(likes_even)).await;
    go_on(&running, 3, "the first steps").await;
    (folder, running)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_any_actor_but_the_device_loses_no_scored_group_and_learns_none_twice() {
    let (folder, running) = run("").await;
    for &actor in ActorKind::ALL.iter().skip(1) {
        for _ in 0..2 {
            let before = running.node.progress().restarts;
            assert!(running.node.kill(actor).await, "{actor:?} is up");
            restarted(&running, before, actor.value()).await;
            go_on(&running, 2, actor.value()).await;
        }
    }
    running.node.stop();
    let (progress, log) = running.done().await;
    assert!(progress.restarts >= 14, "{}", progress.restarts);
    let (accepted, learned) = (log.accepted(), log.learned());
    assert_eq!(distinct(&accepted).len(), accepted.len(), "no episode is accepted twice");
    assert!(learned.values().all(|times| *times == 1), "{learned:?}");
    let waiting = distinct(&accepted).into_iter().filter(|episode| !learned.contains_key(episode)).collect();
    assert_eq!(held(&saved(folder.path())), waiting, "what was not learned is held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_device_thread_goes_back_to_the_newest_checkpoint_and_on() {
    let (folder, running) = run("learner.publish_every_steps=3").await;
    for _ in 0..3 {
        go_on(&running, 4, "a publication").await;
        let before = running.node.progress().restarts;
        assert!(running.node.fault().await);
        restarted(&running, before, "a restart").await;
        go_on(&running, 2, "life after the fault").await;
    }
    running.node.stop();
    let (_, log) = running.done().await;
    let accepted = log.accepted();
    assert_eq!(distinct(&accepted).len(), accepted.len());
    // Along the history that counts (steps before a rewind undone by it) no group is learned twice.
    let mut history: Vec<(u64, Vec<_>)> = Vec::new();
    for event in log.events.lock().unwrap().iter() {
        if let Event::Learned { report, episodes, .. } = event {
            history.retain(|(step, _)| *step < report.step);
            history.push((report.step, episodes.clone()));
        }
    }
    assert!(history.iter().map(|(step, _)| *step).eq(1..=history.len() as u64), "steps follow each other");
    let learned: Vec<_> = history.into_iter().flat_map(|(_, episodes)| episodes).collect();
    assert_eq!(distinct(&learned).len(), learned.len(), "no group is learned twice");
    let waiting = distinct(&accepted).difference(&distinct(&learned)).copied().collect();
    assert_eq!(held(&saved(folder.path())), waiting, "what was learned after the checkpoint is to be learned again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_faults_than_the_budget_end_the_node_with_a_code_of_its_own() {
    for (device, exit) in [(false, Exit::Restarts), (true, Exit::Device)] {
        let (_folder, running) = run("supervisor.restarts_max=2").await;
        for round in 0..3 {
            let before = running.node.progress().restarts;
            let hit = if device { running.node.fault().await } else { running.node.kill(ActorKind::Critic).await };
            assert!(hit, "round {round}");
            if round < 2 {
                restarted(&running, before, "the restart").await;
                go_on(&running, 1, "life after the fault").await;
            }
        }
        let ended = tokio::time::timeout(Duration::from_secs(30), running.node.wait()).await;
        assert_eq!(ended.unwrap(), exit);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_gives_up_while_its_device_is_alive_saves_what_it_has() {
    // Nothing is published, so that the only checkpoint is the last one.
    let (folder, running) = run("supervisor.restarts_max=0\nlearner.publish_every_steps=1000000").await;
    assert!(
        !folder.path().join("run/checkpoints").exists()
            || rco_node::checkpoint::list(&folder.path().join("run/checkpoints")).unwrap().is_empty()
    );
    assert!(running.node.kill(ActorKind::Critic).await);
    let ended = tokio::time::timeout(Duration::from_secs(60), running.node.wait()).await;
    assert_eq!(ended.expect("the node ends"), Exit::Restarts);
    let told = steps(&running.log.events.lock().unwrap()) as u64;
    let step = saved(folder.path()).step;
    // The device may have taken a step that the learner actor was stopped before it told.
    assert!(told >= 3 && (told..=told + 1).contains(&step), "saved step {step}, told {told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_thread_that_stands_still_is_told_and_restarted_if_it_ends() {
    let (_folder, running) = run("device.stall_seconds=4").await;
    let before = running.node.progress().restarts;
    assert!(running.node.stall(Duration::from_secs(6)).await);
    let stalled =
        |events: &[Event]| events.iter().any(|event| matches!(event, Event::DeviceStalled { since: Some(_) }));
    running.log.until("the stall", stalled).await;
    let since = running.node.progress().device_stalled.expect("the progress says so too");
    assert!(since.elapsed() >= Duration::from_secs(2), "half of what is allowed: {:?}", since.elapsed());
    restarted(&running, before, "a restart").await;
    assert_eq!(running.node.progress().device_stalled, None);
    go_on(&running, 2, "life after the stall").await;
    // One that goes on in time is told, and nothing is restarted.
    let before = running.node.progress().restarts;
    assert!(running.node.stall(Duration::from_secs(3)).await);
    let goes_on = |events: &[Event]| events.iter().any(|event| matches!(event, Event::DeviceStalled { since: None }));
    running.log.until("the end of the stall", goes_on).await;
    go_on(&running, 2, "life after the second stall").await;
    assert_eq!(running.node.progress().restarts, before);
    running.node.stop();
    running.done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_thread_that_never_goes_on_ends_the_node_with_its_code() {
    let (folder, running) = run("device.stall_seconds=4").await;
    assert!(running.node.stall(Duration::from_secs(3600)).await);
    let ended = tokio::time::timeout(Duration::from_secs(60), running.node.wait()).await;
    assert_eq!(ended.expect("the node ends"), Exit::Device);
    // What was published before is whole.
    assert!(saved(folder.path()).state["shelf"]["counters"]["episodes"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_run_directory_with_checkpoints_is_gone_on_from_or_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        |resume| Options { resume, learner_steps: Some(2), judge: Some(Arc::new(likes_even)), ..Options::default() };
    let refused = Node::start(config(folder.path(), ""), options(true)).await;
    assert!(refused.is_err_and(|error| error.exit() == Exit::Usage && error.to_string().contains("resume")));
    let node = Node::start(config(folder.path(), ""), options(false)).await.unwrap();
    let locked = Node::start(config(folder.path(), ""), options(false)).await;
    assert!(locked.is_err_and(|error| error.to_string().contains("in use")));
    assert_eq!(node.wait().await, Exit::Done);
    drop(node);
    let occupied = Node::start(config(folder.path(), ""), options(false)).await;
    assert!(occupied.is_err_and(|error| error.exit() == Exit::Usage && error.to_string().contains("--resume")));
}

#[test]
fn a_sigterm_ends_the_process_within_ten_seconds_with_a_whole_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    config(folder.path(), "");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rco-node"));
    command.args(["start"]).env("RCO_LOG", "info,rco_node=debug").stderr(Stdio::piped()).stdout(Stdio::null());
    for set in sets(folder.path(), &folder.path().join("prompts.jsonl"), "judge.kind='verifier'") {
        command.args(["--set", &set]);
    }
    let mut child = command.spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = Vec::new();
    let mut asked = None;
    for line in stderr.lines().map(Result::unwrap) {
        if asked.is_none() && line.contains("episode ended") {
            // Twice, as `timeout` does: an echo is no second wish.
            for _ in 0..2 {
                let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
                assert!(sent.success());
            }
            asked = Some(Instant::now());
        }
        said.push(line);
    }
    let status = child.wait().unwrap();
    let asked = asked.unwrap_or_else(|| panic!("no episode ended: {said:#?}"));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(status.code(), Some(0), "{said:#?}");
    let counters = &saved(folder.path()).state["shelf"]["counters"];
    assert!(counters["episodes"].as_u64().unwrap() > 0, "{counters}");
}
