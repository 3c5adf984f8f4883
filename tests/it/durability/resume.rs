//! Resume: a run that is stopped and gone on with is the run that was not stopped.

use crate::support::node::{config, distinct, held, likes_even, open_episodes, saved, start};
use rco_node::checkpoint::Snapshot;
use rco_node::node::{Exit, Node, Options};
use rco_node::run::events::Event;
use std::collections::BTreeSet;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_synchronous_mode_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit() {
    equals_an_uninterrupted_run("").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_does_with_a_value_network_z_scores_and_references_that_change() {
    let saved = equals_an_uninterrupted_run(
        "\nlearner.baseline=\"value\"\nlearner.utility_zscore=true\nlearner.reference_reset_steps=3\n\
         learner.beta_schedule=\"cosine\"\nlearner.beta_steps=8\nlearner.beta_final=0.05\nlearner.truncation=\"topr\"",
    )
    .await;
    for part in ["value.out.bias", "reference.layers.0.q_proj.lora_A", "reference_log_probs.", "reference_hidden."] {
        assert!(saved.optimizer.iter().any(|tensor| tensor.name.starts_with(part)), "{part} was saved");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_does_where_every_weight_is_trained() {
    let saved =
        equals_an_uninterrupted_run("\nmodel.device=\"cpu\"\nlearner.mode=\"full\"\nlearner.learning_rate=1e-3").await;
    assert!(saved.critic.full().is_some() && saved.served.is_some_and(|served| served != saved.critic));
    for moment in ["model.embed_tokens.weight.m", "model.layers.1.post_attention_layernorm.weight.v"] {
        assert!(saved.optimizer.iter().any(|tensor| tensor.name == moment), "{moment} was saved");
    }
}

/// What is saved by a run that was stopped and gone on with, which is what a run saves that was not.
async fn equals_an_uninterrupted_run(options: &str) -> Snapshot {
    // Three publications in eight steps, and the stop after five lies between two of them.
    let more = &format!("learner.synchronous=true\nlearner.publish_every_steps=3\nlearner.learning_rate=1e-2{options}");
    let judge = Arc::new(likes_even);
    let whole = tempfile::tempdir().unwrap();
    start(config(whole.path(), more), false, Some(10), judge.clone()).await.done().await;
    let parts = tempfile::tempdir().unwrap();
    start(config(parts.path(), more), false, Some(5), judge.clone()).await.done().await;
    assert_eq!(saved(parts.path()).step, 5);
    start(config(parts.path(), more), true, Some(10), judge).await.done().await;
    let (whole, parts) = (saved(whole.path()), saved(parts.path()));
    assert_eq!((whole.step, parts.step), (10, 10));
    assert_eq!(whole.version, parts.version);
    assert!(whole.critic == parts.critic, "the learner's weights are the same");
    assert!(whole.served == parts.served, "the critic in service is the same");
    assert!(whole.optimizer == parts.optimizer, "the optimizer's moments are the same");
    for part in ["report", "utilities"] {
        assert_eq!(whole.state[part], parts.state[part]);
    }
    for part in ["ledger", "counters"] {
        assert_eq!(whole.state["shelf"][part], parts.state["shelf"][part]);
    }
    whole
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_the_middle_of_anything_is_gone_on_from_without_loss() {
    let folder = tempfile::tempdir().unwrap();
    let more = "replay.uses_max=1\nreplay.age_versions_max=1000000\nreplay.groups_max=64\nlearner.groups_per_step=1\n\
                learner.publish_every_steps=2\nnode.drain_seconds=0";
    let mut open = BTreeSet::new();
    let mut run_again = 0;
    let (mut accepted, mut learned) = (Vec::new(), Vec::new());
    let (mut step, mut part) = (0, 0);
    // Now and then a stop finds nothing under way: four in a row were seen to.
    while part < 4 || run_again == 0 {
        part += 1;
        assert!(part <= 40, "a stop without patience leaves something under way");
        let running = start(config(folder.path(), more), part > 1, None, Arc::new(likes_even)).await;
        running
            .log
            .until("some steps", |events| {
                events.iter().any(|event| matches!(event, Event::Learned { report, .. } if report.step >= step + 3))
            })
            .await;
        running.node.stop();
        let (progress, log) = running.done().await;
        accepted.extend(log.accepted());
        learned.extend(log.learned().into_keys());
        let first: BTreeSet<_> = log.began().into_iter().take(open.len()).collect();
        assert_eq!(first, open, "what the stop put back is run again before anything new");
        run_again += open.len();
        let snapshot = saved(folder.path());
        open = open_episodes(&snapshot);
        assert!(snapshot.step >= step + 3 && snapshot.step >= progress.step, "part {part}");
        assert_eq!(snapshot.version, progress.version, "the last checkpoint publishes nothing");
        step = snapshot.step;
    }
    assert_eq!(distinct(&accepted).len(), accepted.len(), "no episode is accepted twice");
    assert_eq!(distinct(&learned).len(), learned.len(), "no group is learned twice");
    let waiting = distinct(&accepted).difference(&distinct(&learned)).copied().collect();
    assert_eq!(held(&saved(folder.path())), waiting, "what was accepted and not learned is held, over all parts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_has_its_steps_already_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    start(config(folder.path(), ""), false, Some(2), Arc::new(likes_even)).await.done().await;
    let running = start(config(folder.path(), ""), true, Some(2), Arc::new(likes_even)).await;
    assert_eq!(running.node.wait().await, Exit::Done);
    assert_eq!(running.log.learned().len(), 0);
    assert_eq!(saved(folder.path()).step, 2);
}

#[tokio::test]
async fn a_directory_that_holds_groups_alone_is_neither_resumed_nor_started_in() {
    let folder = tempfile::tempdir().unwrap();
    let config = || config(folder.path(), "");
    std::fs::create_dir_all(folder.path().join("run")).unwrap();
    let groups = folder.path().join("run/groups.jsonl");
    std::fs::write(&groups, "{\"of\": \"an older run\"}\n").unwrap();
    for (resume, says) in [(false, "holds a run"), (true, "no whole checkpoint and no journal")] {
        let options = Options { resume, judge: Some(Arc::new(likes_even)), ..Options::default() };
        let refused = Node::start(config(), options).await.err().expect("a refusal");
        assert_eq!(refused.exit(), Exit::Usage);
        assert!(refused.to_string().contains(says), "{refused}");
    }
    assert_eq!(std::fs::read_to_string(groups).unwrap(), "{\"of\": \"an older run\"}\n", "untouched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_resumed_as_what_it_was_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let with = |more: &str| config(folder.path(), more);
    start(with(""), false, Some(2), Arc::new(likes_even)).await.done().await;
    let options =
        || Options { resume: true, learner_steps: Some(3), judge: Some(Arc::new(likes_even)), ..Options::default() };
    for (more, key) in [
        ("node.seed=8", "node.seed"),
        ("learner.lora.rank=8", "learner.lora.rank"),
        ("learner.lora.alpha=4.0", "learner.lora.alpha"),
        ("learner.mode='full'", "learner.mode"),
        ("prompts.shuffle=false", "prompts.shuffle"),
        ("learner.synchronous=true", "learner.synchronous"),
    ] {
        let refused = Node::start(with(more), options()).await.err().expect(key);
        assert_eq!(refused.exit(), Exit::Usage, "{refused}");
        let said = refused.to_string();
        assert!(said.contains(&format!("{key}: expected")) && said.contains("run.json"), "{said}");
    }
    // Another file of prompts under the same name.
    let config = with("");
    std::fs::write(&config.prompts.file, "{\"id\": \"x\", \"task\": \"echo\", \"prompt\": \"y\", \"answer\": \"1\"}\n")
        .unwrap();
    let refused = Node::start(config, options()).await.err().expect("other prompts");
    assert!(refused.to_string().contains("prompts.file: expected"), "{refused}");
    // N, M and the learning rate hold for what comes.
    let more = "rollout.critiques=3\nrollout.refinements=2\nlearner.learning_rate=1e-3";
    start(with(more), true, Some(4), Arc::new(likes_even)).await.done().await;
}
