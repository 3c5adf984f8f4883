//! A disk that becomes read-only while a node runs is waited for. Needs the right to mount, which root has; without it the test
//! says so and does nothing.

use crate::support::mounted::Mounted;
use crate::support::node::{config, likes_even, start};
use rco_node::run::events::Event;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_becomes_read_only_is_waited_for_and_the_run_goes_on_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = folder.path().join("run/checkpoints");
    let mounted = match Mounted::new(&checkpoints) {
        Ok(mounted) => mounted,
        Err(why) => return eprintln!("skipped: nothing can be mounted here: {why}"),
    };
    let running = start(config(folder.path(), ""), false, None, Arc::new(likes_even)).await;
    let saved = |event: &Event| matches!(event, Event::CheckpointSaved { .. });
    let failed = |event: &Event| matches!(event, Event::CheckpointFailed);
    running.log.until("a checkpoint", |events| events.iter().any(saved)).await;
    mounted.set("ro").await;
    running.log.until("a checkpoint that is not written", |events| events.iter().any(failed)).await;
    let before = running.log.count(saved);
    let whole = || rco_node::checkpoint::list(&checkpoints).unwrap().len();
    assert!(whole() > 0, "what was written stays");
    let restarts = running.node.progress().restarts;
    mounted.set("rw").await;
    running.log.until("a checkpoint again", |events| events.iter().filter(|event| saved(event)).count() > before).await;
    assert_eq!(running.node.progress().restarts, restarts, "nothing is restarted for it");
    running.node.stop();
    running.done().await;
    assert!(whole() > 0);
}
