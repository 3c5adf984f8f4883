//! A process that is killed at any moment, again and again: nothing scored is lost, and nothing is learned twice.
//!
//! The node runs in a process of its own, which is this test program with other arguments. It notes every learner step in
//! a file. `scripts/kill-test N` kills N times.

use crate::support::node::{config, distinct, held, likes_even, open_episodes, saved, start};
use rco_node::groups;
use rco_node::node::Exit;
use rco_node::run::events::Event;
use rco_node::run::journal;
use rco_node::types::EpisodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the child is told by its environment.
const FOLDER: &str = "RCO_KILLED_FOLDER";
const OPTIONS: &str = "RCO_KILLED_OPTIONS";
const STEPS: &str = "RCO_KILLED_STEPS";
/// How often a run is killed; `scripts/kill-test` sets it.
const KILLS: &str = "RCO_KILLS";

/// A line for each learner step: its number, then its episodes.
const STEPS_FILE: &str = "steps.txt";

/// The node in a process of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the other tests of this file run it in a process that they kill"]
async fn node_to_be_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let (folder, options) = (Path::new(&folder), std::env::var(OPTIONS).unwrap());
    let steps: u64 = std::env::var(STEPS).unwrap().parse().unwrap();
    let resume = has_begun(folder);
    let running = start(config(folder, &options), resume, Some(steps), Arc::new(likes_even)).await;
    let (mut noted, mut file) = (0, File::options().create(true).append(true).open(folder.join(STEPS_FILE)).unwrap());
    loop {
        let events: Vec<Event> = running.log.events.lock().unwrap()[noted..].to_vec();
        noted += events.len();
        for event in events {
            if let Event::Learned { report, episodes, .. } = event {
                let episodes: Vec<String> = episodes.iter().map(|episode| episode.0.to_string()).collect();
                file.write_all(format!("{} {}\n", report.step, episodes.join(" ")).as_bytes()).unwrap();
            }
        }
        tokio::select! {
            exit = running.node.wait() => {
                assert_eq!(exit, Exit::Done);
                if noted == running.log.events.lock().unwrap().len() {
                    return;
                }
            }
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
}

/// Whether a run in `folder` can be gone on with.
fn has_begun(folder: &Path) -> bool {
    let run = folder.join("run");
    let checkpoints = rco_node::checkpoint::list(&run.join("checkpoints")).is_ok_and(|listed| !listed.is_empty());
    checkpoints || journal::has_records(&run).unwrap()
}

fn spawn(folder: &Path, options: &str, steps: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "durability::killed::node_to_be_killed", "--ignored", "--nocapture"]);
    command.env(FOLDER, folder).env(OPTIONS, options).env(STEPS, steps.to_string());
    let errors = File::options().create(true).append(true).open(folder.join("stderr.txt")).unwrap();
    command.stdout(Stdio::null()).stderr(errors).spawn().unwrap()
}

/// Kills a node `kills` times at random moments. Returns how many had ended by themselves before.
fn kill_again_and_again(folder: &Path, options: &str, steps: u64, kills: usize) -> usize {
    let mut ended = 0;
    // The moments differ from run to run: what is asserted holds for all of them.
    let mut noise = Instant::now();
    for kill in 0..kills {
        let mut child = spawn(folder, options, steps);
        let nanoseconds = u64::from(noise.elapsed().subsec_nanos()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        // Up to 0.4 s: from before the journal is opened to the middle of some step. Now and then longer.
        let longest = if kill % 8 == 7 { 2_000_000 } else { 400_000 };
        std::thread::sleep(Duration::from_micros(nanoseconds % longest));
        noise = Instant::now() - Duration::from_nanos(nanoseconds);
        if child.try_wait().unwrap().is_some() {
            ended += 1;
        }
        // The process may have ended meanwhile.
        let _ = child.kill();
        child.wait().unwrap();
        if std::env::var(KILLS).is_ok() && kill % 50 == 49 {
            eprintln!("{} kills", kill + 1);
        }
    }
    ended
}

/// Lets the node reach its steps.
fn finish(folder: &Path, options: &str, steps: u64) {
    let status = spawn(folder, options, steps).wait().unwrap();
    let errors = || std::fs::read_to_string(folder.join("stderr.txt")).unwrap();
    assert!(status.success(), "{}", errors());
}

/// The steps along the history that counts: those after a checkpoint that was gone back to are undone.
fn history(folder: &Path) -> BTreeMap<u64, Vec<EpisodeId>> {
    let text = std::fs::read_to_string(folder.join(STEPS_FILE)).unwrap();
    let mut history = BTreeMap::new();
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().unwrap());
        let step = numbers.next().unwrap();
        history.split_off(&step);
        history.insert(step, numbers.map(EpisodeId).collect());
    }
    history
}

/// How often a run is killed in the tests, or as often as the environment says.
fn kills() -> usize {
    std::env::var(KILLS).map_or(30, |kills| kills.parse().expect("RCO_KILLS is a number"))
}

#[test]
fn a_run_that_is_killed_at_any_moment_loses_nothing_and_learns_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let options = "replay.uses_max=1\nreplay.age_versions_max=1000000\nreplay.groups_max=1000000\nlearner.groups_per_step=1\n                   learner.publish_every_steps=3\nnode.drain_seconds=0";
    let never = 1_000_000;
    let kills = kills();
    kill_again_and_again(folder.path(), options, never, kills);
    let steps = history(folder.path()).last_key_value().map_or(0, |(step, _)| *step) + 5;
    finish(folder.path(), options, steps);

    let snapshot = saved(folder.path());
    let (history, ledger) = (history(folder.path()), &snapshot.state["shelf"]["ledger"]);
    eprintln!("{kills} kills, {} steps, next episode {}", snapshot.step, ledger["next"]);
    assert!(snapshot.step >= steps);
    assert!(history.keys().copied().eq(1..=snapshot.step), "steps follow each other: {:?}", history.keys());

    // Every episode from the first to the newest ended once or is open; each that ended is counted once.
    let (next, open) = (ledger["next"].as_u64().unwrap(), open_episodes(&snapshot));
    let counters = &snapshot.state["shelf"]["counters"];
    let [episodes, groups, flat, dropped] =
        ["episodes", "groups", "flat", "dropped"].map(|name| counters[name].as_u64().unwrap());
    assert!(open.iter().all(|episode| episode.0 < next));
    assert_eq!(episodes + open.len() as u64, next, "each episode ended once or is open");
    assert_eq!(groups + dropped, episodes);

    // The file of groups has each accepted group once.
    let recorded = groups::read(&folder.path().join("run")).unwrap();
    assert_eq!((recorded.replaced, recorded.torn), (0, 0), "no group is there twice");
    assert_eq!(recorded.groups.len() as u64, groups);
    let of_zero_variance = |utilities: Vec<f32>| utilities.iter().all(|utility| *utility == utilities[0]);
    let to_learn: BTreeSet<EpisodeId> = recorded
        .groups
        .iter()
        .filter(|recorded| !of_zero_variance(recorded.group.critiques.iter().map(|c| c.utility).collect()))
        .map(|recorded| recorded.group.episode)
        .collect();
    assert_eq!(to_learn.len() as u64, groups - flat);
    assert!(to_learn.is_disjoint(&open));

    // Each was learned once, or is held to be learned.
    let learned: Vec<EpisodeId> = history.into_values().flatten().collect();
    assert_eq!(distinct(&learned).len(), learned.len(), "no group is learned twice");
    assert_eq!(counters["retired"]["used"], learned.len(), "each use is counted once");
    let (learned, held) = (distinct(&learned), held(&snapshot));
    assert!(learned.is_disjoint(&held), "what was learned is not held");
    assert_eq!(learned.union(&held).copied().collect::<BTreeSet<_>>(), to_learn, "nothing that was scored is lost");
}

#[test]
fn in_the_synchronous_mode_a_killed_run_ends_with_the_weights_of_one_that_was_not() {
    let options = "learner.synchronous=true\nlearner.publish_every_steps=3\nlearner.learning_rate=1e-2";
    let [whole, killed] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let steps = 30;
    finish(whole.path(), options, steps);
    let ended = kill_again_and_again(killed.path(), options, steps, kills().div_ceil(3));
    assert!(ended < kills().div_ceil(3), "some were killed before they were done");
    finish(killed.path(), options, steps);
    let (whole, killed) = (saved(whole.path()), saved(killed.path()));
    assert_eq!((whole.step, killed.step), (steps, steps));
    assert_eq!(whole.version, killed.version);
    assert!(whole.critic == killed.critic, "the learner's weights are the same");
    assert!(whole.served == killed.served, "the critic in service is the same");
    assert!(whole.optimizer == killed.optimizer, "the optimizer's moments are the same");
    for part in ["ledger", "counters"] {
        assert_eq!(whole.state["shelf"][part], killed.state["shelf"][part]);
    }
}
