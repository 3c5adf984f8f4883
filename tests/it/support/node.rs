//! What the tests of the whole loop share: a node on the tiny model, and its events.

use crate::support::models::golden;
use rco_node::actors::control::Control;
use rco_node::checkpoint::{Snapshot, newest};
use rco_node::config::Config;
use rco_node::episode::judge::{Compare, Pair};
use rco_node::node::{Exit, Node, Options};
use rco_node::replay::Pushed;
use rco_node::run::critics::Critics;
use rco_node::run::{events::Event, events::EventBus, events::Progress};
use rco_node::types::{EpisodeId, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// The config of a small, fast node on the tiny model, with `more` on top.
pub fn config(run: &Path, more: &str) -> Config {
    let prompts = run.join("prompts.jsonl");
    std::fs::create_dir_all(run).unwrap();
    let lines: String = (0..5)
        .map(|n| format!("{{\"id\": \"p{n}\", \"task\": \"echo\", \"prompt\": \"say {n}\", \"answer\": \"{n}\"}}\n"))
        .collect();
    std::fs::write(&prompts, lines).unwrap();
    Config::resolve(None, &sets(run, &prompts, more)).unwrap()
}

/// The same config as `--set` arguments.
pub fn sets(run: &Path, prompts: &Path, more: &str) -> Vec<String> {
    let base = format!(
        "node.run_directory='{}'\nmodel.source='{}'\nprompts.file='{}'\nnode.drain_seconds=2\n\
         rollout.rollouts_max=3\nrollout.critiques=4\nrollout.refinements=1\nrollout.ask_deadline_seconds=20\n\
         engine.context_tokens_max=256\nengine.kv_cache_mib=16\n\
         generator.prompt='{{{{ prompt }}}}'\ncritic.prompt='{{{{ prompt }}}}{{{{ response }}}}'\n\
         refiner.prompt='{{{{ critique }}}}'\n\
         generator.sampling.max_tokens=4\ncritic.sampling.max_tokens=6\nrefiner.sampling.max_tokens=4\n\
         learner.groups_per_step=2\nlearner.publish_every_steps=2\nlearner.warmup_steps=1\nlearner.device_share=0.9\n\
         learner.lora.rank=4\nlearner.lora.alpha=8.0\ntelemetry.address=''\nsupervisor.backoff_milliseconds=1\n\
         supervisor.backoff_max_milliseconds=10\nsupervisor.restarts_max=100\n",
        run.join("run").display(),
        golden("tiny_llama").display(),
        prompts.display(),
    );
    base.lines().chain(more.lines()).map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// A judge with a taste: critiques of many even bytes help.
pub fn likes_even(pair: Pair<'_>) -> Verdict {
    let even = pair.critique.ids.iter().filter(|id| *id % 2 == 0).count();
    match (2 * even).cmp(&pair.critique.ids.len()) {
        std::cmp::Ordering::Greater => Verdict::Win,
        std::cmp::Ordering::Equal => Verdict::Tie,
        std::cmp::Ordering::Less => Verdict::Loss,
    }
}

/// What a node told, and how far it is.
#[derive(Default)]
pub struct Log {
    /// In the order of telling.
    pub events: Mutex<Vec<Event>>,
    count: watch::Sender<usize>,
}

impl Log {
    /// Waits until `done` says so of all events so far.
    pub async fn until(&self, what: &str, done: impl Fn(&[Event]) -> bool) {
        let mut count = self.count.subscribe();
        let reached = async {
            while !done(&self.events.lock().unwrap()) {
                count.changed().await.unwrap();
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(90), reached).await;
        assert!(
            reached.is_ok(),
            "waiting for {what}: {:?}",
            self.events.lock().unwrap().iter().rev().take(20).collect::<Vec<_>>()
        );
    }

    /// Episodes whose groups were accepted, each as often as it was.
    pub fn accepted(&self) -> Vec<EpisodeId> {
        let events = self.events.lock().unwrap();
        let accepted = |event: &Event| match event {
            Event::EpisodeEnded { episode, pushed: Some(Pushed::Kept), .. } => Some(*episode),
            _ => None,
        };
        events.iter().filter_map(accepted).collect()
    }

    /// Episodes in the order in which they began.
    pub fn began(&self) -> Vec<EpisodeId> {
        let events = self.events.lock().unwrap();
        let began = |event: &Event| match event {
            Event::EpisodeStarted { episode, .. } => Some(*episode),
            _ => None,
        };
        events.iter().filter_map(began).collect()
    }

    /// How often each episode's group was learned; by batch, so that a batch told twice counts once.
    pub fn learned(&self) -> BTreeMap<EpisodeId, usize> {
        let events = self.events.lock().unwrap();
        let mut batches = BTreeMap::new();
        for event in events.iter() {
            if let Event::Learned { batch, episodes, .. } = event {
                batches.insert(*batch, episodes.clone());
            }
        }
        let mut times = BTreeMap::new();
        for episode in batches.into_values().flatten() {
            *times.entry(episode).or_insert(0) += 1;
        }
        times
    }

    /// How many events are such.
    pub fn count(&self, such: impl Fn(&Event) -> bool) -> usize {
        self.events.lock().unwrap().iter().filter(|event| such(event)).count()
    }
}

/// A node and its log.
pub struct Running {
    pub node: Node,
    pub log: Arc<Log>,
}

/// Starts a node with the rigged judge `compare`.
pub async fn start(config: Config, resume: bool, steps: Option<u64>, compare: Arc<Compare>) -> Running {
    judged(config, resume, steps, Some(compare)).await
}

/// Starts a node with the rigged judge `judge`, or with the config's.
pub async fn judged(config: Config, resume: bool, steps: Option<u64>, judge: Option<Arc<Compare>>) -> Running {
    let log = Arc::new(Log::default());
    let heard = log.clone();
    let events = EventBus::new(Some(Arc::new(move |event: &Event| {
        heard.events.lock().unwrap().push(event.clone());
        heard.count.send_modify(|count| *count += 1);
    })));
    let options = Options { resume, learner_steps: steps, judge, events: Some(events), ..Options::default() };
    Running { node: Node::start(config, options).await.unwrap(), log }
}

impl Running {
    /// Waits for its end, which must be a good one.
    pub async fn done(self) -> (Progress, Arc<Log>) {
        let ended = tokio::time::timeout(Duration::from_secs(90), self.node.wait()).await;
        assert_eq!(ended.expect("the node ends"), Exit::Done);
        (self.node.progress(), self.log)
    }
}

/// Waits until `done` holds for the registry, whose scores are written when something changes.
pub async fn until(control: &Control, what: &str, done: impl Fn(&Critics) -> bool) {
    for _ in 0..600 {
        if done(&control.critics()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("waited in vain for {what}: {:?}", control.critics());
}

/// Every number once.
pub fn distinct(ids: &[EpisodeId]) -> BTreeSet<EpisodeId> {
    ids.iter().copied().collect()
}

/// The newest whole checkpoint of the run in `run`.
pub fn saved(run: &Path) -> Snapshot {
    let spec = rco_node::formats::open(&golden("tiny_llama")).unwrap().spec;
    newest(&run.join("run/checkpoints"), &spec).unwrap().expect("a whole checkpoint")
}

/// The episodes whose groups `snapshot` holds to be learned.
pub fn held(snapshot: &Snapshot) -> BTreeSet<EpisodeId> {
    let held = snapshot.state["shelf"]["replay"]["held"].as_array().unwrap();
    held.iter().map(|entry| EpisodeId(entry["group"]["episode"].as_u64().unwrap())).collect()
}

/// The episodes that `snapshot` says were started and have not ended.
pub fn open_episodes(snapshot: &Snapshot) -> BTreeSet<EpisodeId> {
    serde_json::from_value(snapshot.state["shelf"]["ledger"]["open"].clone()).unwrap()
}
