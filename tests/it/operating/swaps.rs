//! Swaps: what is put into service, what is refused, and how it comes back.

use crate::support::models::golden;
use crate::support::node::{Running, config, likes_even, start, until};
use rco_node::actors::control::{ControlError, Part};
use rco_node::actors::swap::{Checks, Offer, SwapError};
use rco_node::episode::judge::Pair;
use rco_node::run::critics::{CriticState, Critics};
use rco_node::run::events::{Event, SwapKind};
use rco_node::types::{CriticVersion, Verdict};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// No canary of texts: a random model does not end them. The learner never publishes.
const QUIET: &str = "learner.publish_every_steps=1000000\nswap.canary_texts=0\nswap.canary_kl_max=100.0\n";
const PLAIN: Checks = Checks { canary: true, share: 0.0 };

fn offer(path: impl Into<PathBuf>) -> Offer {
    Offer::Folder(path.into())
}

fn adapter() -> Offer {
    offer(golden("tiny_lora"))
}

/// Every critique of the planted critic makes things worse; any other is judged by its taste.
fn hates_the_first(pair: Pair<'_>) -> Verdict {
    if pair.critique.version == CriticVersion(1) { Verdict::Loss } else { likes_even(pair) }
}

async fn node(folder: &Path, more: &str) -> Running {
    start(config(folder, &format!("{QUIET}{more}")), false, None, Arc::new(hates_the_first)).await
}

async fn scored(running: &Running, groups: usize) {
    let ended = |event: &&Event| matches!(event, Event::EpisodeEnded { .. });
    let there = running.log.events.lock().unwrap().iter().filter(ended).count();
    running.log.until("more episodes", |events| events.iter().filter(ended).count() >= there + groups).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_critic_goes_into_service_and_back_and_the_registry_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let running = node(folder.path(), "swap.rollback_groups=0").await;
    let control = running.node.control();
    let swapped = control.swap(adapter(), PLAIN, "ada").await.unwrap();
    assert_eq!((swapped.version, swapped.state), (CriticVersion(1), CriticState::Serving));
    scored(&running, 12).await;
    let back = control.rollback(None, "ada").await.unwrap();
    assert_eq!(back.version, CriticVersion::BASE);
    let critics = control.critics();
    let entry = critics.entry(CriticVersion(1)).unwrap();
    assert_eq!((critics.serving(), entry.state), (CriticVersion::BASE, CriticState::RolledBack));
    assert!(entry.scores.groups > 0 && entry.scores.mean() == Some(0.0), "{:?}", entry.scores);
    assert!(entry.changes.iter().all(|change| change.by == "ada"), "{:?}", entry.changes);
    // The same critic again is another version, and a version may return.
    let again = control.swap(adapter(), PLAIN, "bob").await.unwrap();
    assert_eq!(again.version, CriticVersion(2));
    let old = control.swap(Offer::Version(CriticVersion(1)), PLAIN, "bob").await.unwrap();
    assert_eq!((old.version, control.critics().serving()), (CriticVersion(1), CriticVersion(1)));
    running.node.stop();
    let (progress, log) = running.done().await;
    assert_eq!(progress.version, CriticVersion(1));
    let kinds = |kind| log.count(|event| matches!(event, Event::CriticEntered { kind: k, .. } if *k == kind));
    assert_eq!((kinds(SwapKind::Swap), kinds(SwapKind::Rollback)), (3, 1));
    assert_eq!(Critics::read(&folder.path().join("run")).unwrap(), *control.critics());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_swapped_in_serves_on_after_a_fault_and_after_a_resume() {
    let folder = tempfile::tempdir().unwrap();
    let running = node(folder.path(), "swap.rollback_groups=0").await;
    running.node.control().swap(adapter(), PLAIN, "ada").await.unwrap();
    assert!(running.node.fault().await, "the device thread panics");
    running.log.until("a restart", |events| events.iter().any(|e| matches!(e, Event::Restarted { .. }))).await;
    scored(&running, 6).await;
    running.node.stop();
    let (progress, _) = running.done().await;
    assert_eq!(progress.version, CriticVersion(1));
    let more = format!("{QUIET}swap.rollback_groups=0");
    let resumed = start(config(folder.path(), &more), true, None, Arc::new(hates_the_first)).await;
    assert_eq!(resumed.node.progress().version, CriticVersion(1));
    scored(&resumed, 6).await;
    // Another adapter's number is a new one, also in another process.
    let next = resumed.node.control().swap(adapter(), PLAIN, "ada").await.unwrap();
    assert_eq!(next.version, CriticVersion(2));
    let critics = resumed.node.control().critics();
    assert!(critics.entry(CriticVersion(1)).unwrap().scores.groups > 0);
    resumed.node.stop();
    resumed.done().await;
}

/// A copy of the tiny adapter with `change` done to it.
fn spoilt(folder: &Path, name: &str, change: impl Fn(&Path)) -> PathBuf {
    let copy = folder.join(name);
    fs::create_dir(&copy).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(golden("tiny_lora").join(file), copy.join(file)).unwrap();
    }
    change(&copy);
    copy
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_used_is_refused_with_the_reason_and_the_critic_in_service_serves_on() {
    let folder = tempfile::tempdir().unwrap();
    let running = node(folder.path(), "").await;
    let control = running.node.control();
    let at = folder.path();
    let weights = "adapter_model.safetensors";
    let flip = |path: &Path, value: [u8; 4]| {
        let mut bytes = fs::read(path.join(weights)).unwrap();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&value);
        fs::write(path.join(weights), bytes).unwrap();
    };
    let cases = [
        (at.join("nowhere"), "nowhere"),
        (spoilt(at, "short", |p| fs::write(p.join(weights), b"short").unwrap()), weights),
        (spoilt(at, "nan", |p| flip(p, f32::NAN.to_le_bytes())), "NaN"),
        (spoilt(at, "rank", |p| edit(&p.join("adapter_config.json"), "\"r\": 4", "\"r\": 8")), "lora_A"),
        (
            spoilt(at, "base", |p| edit(&p.join("adapter_config.json"), "\"tiny_llama\"", "\"org/Other-7B\"")),
            "org/Other-7B",
        ),
        (
            spoilt(at, "dora", |p| edit(&p.join("adapter_config.json"), "\"use_dora\": false", "\"use_dora\": true")),
            "use_dora",
        ),
        (
            spoilt(at, "link", |p| {
                fs::remove_file(p.join(weights)).unwrap();
                std::os::unix::fs::symlink(golden("tiny_lora").join(weights), p.join(weights)).unwrap();
            }),
            "symbolic link",
        ),
        (
            spoilt(at, "outside", |p| {
                let sha = "0".repeat(64);
                let files =
                    format!("{{\"format\":1,\"files\":{{\"../nan/{weights}\":{{\"bytes\":1,\"sha256\":\"{sha}\"}}}}}}");
                fs::write(p.join("manifest.json"), files).unwrap();
            }),
            "within this folder",
        ),
    ];
    for (path, expected) in cases {
        let refused = control.swap(offer(path.clone()), PLAIN, "eve").await.unwrap_err();
        assert!(matches!(refused, ControlError::Swap(SwapError::Refused(_))), "{}: {refused:?}", path.display());
        let text = refused.to_string();
        assert!(text.contains(expected) && !text.contains('\n'), "{}: {text}", path.display());
        assert_eq!(control.critics().serving(), CriticVersion::BASE);
    }
    let unknown = control.rollback(Some(CriticVersion(77)), "eve").await.unwrap_err().to_string();
    assert!(unknown.contains("v77"), "{unknown}");
    assert!(control.rollback(None, "eve").await.is_err(), "the base has no parent");
    assert_eq!(control.critics().entries().count(), 1, "nothing was registered");
    scored(&running, 3).await;
    running.node.stop();
    running.done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_critic_far_from_the_one_in_service_does_not_pass_the_canary() {
    let folder = tempfile::tempdir().unwrap();
    let running = node(folder.path(), "swap.canary_kl_max=0.000001").await;
    let control = running.node.control();
    let rejected = control.swap(adapter(), PLAIN, "ada").await.unwrap_err();
    assert!(matches!(rejected, ControlError::Swap(SwapError::Rejected { .. })), "{rejected:?}");
    let critics = control.critics();
    assert_eq!(critics.entry(CriticVersion(1)).unwrap().state, CriticState::Rejected);
    assert_eq!(critics.serving(), CriticVersion::BASE);
    // The operator may know better.
    let forced = control.swap(adapter(), Checks { canary: false, share: 0.0 }, "ada").await.unwrap();
    assert_eq!((forced.version, forced.state), (CriticVersion(2), CriticState::Serving));
    running.node.stop();
    running.done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_critic_that_earns_less_on_held_out_prompts_does_not_pass_the_canary() {
    let folder = tempfile::tempdir().unwrap();
    let held_out = folder.path().join("held_out.jsonl");
    let line =
        |n: usize| format!("{{\"id\": \"h{n}\", \"task\": \"echo\", \"prompt\": \"tell {n}\", \"answer\": \"{n}\"}}\n");
    fs::write(&held_out, (0..8).map(line).collect::<String>()).unwrap();
    let more = format!("swap.canary_prompts=8\neval.file='{}'", held_out.display());
    let running = node(folder.path(), &more).await;
    let control = running.node.control();
    let rejected = control.swap(adapter(), PLAIN, "ada").await.unwrap_err().to_string();
    assert!(rejected.contains("held-out prompts"), "{rejected}");
    assert_eq!(control.critics().serving(), CriticVersion::BASE);
    running.node.stop();
    running.done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worse_critic_never_leaves_its_trial_and_writes_a_share_of_the_episodes_only() {
    let folder = tempfile::tempdir().unwrap();
    let running = node(folder.path(), "swap.canary_groups=8").await;
    let control = running.node.control();
    let tried = control.swap(adapter(), Checks { canary: true, share: 0.5 }, "ada").await.unwrap();
    assert_eq!(tried.state, CriticState::Canary);
    let busy = control.swap(adapter(), PLAIN, "bob").await.unwrap_err();
    assert!(matches!(busy, ControlError::Swap(SwapError::Busy(CriticVersion(1)))), "{busy:?}");
    let state = |critics: &Critics| critics.entry(CriticVersion(1)).unwrap().state;
    until(&control, "the end of the trial", |critics| state(critics) != CriticState::Canary).await;
    let critics = control.critics();
    assert_eq!((state(&critics), critics.serving()), (CriticState::Rejected, CriticVersion::BASE));
    let entry = critics.entry(CriticVersion(1)).unwrap();
    assert!(entry.scores.groups >= 8, "{:?}", entry.scores);
    assert!(entry.changes.last().unwrap().why.contains("pairs of groups"), "{:?}", entry.changes);
    assert!(!entry.changes.iter().any(|change| change.state == CriticState::Serving));
    assert!(critics.entry(CriticVersion::BASE).unwrap().scores.groups >= 8);
    running.node.stop();
    running.done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_critic_in_service_that_earns_less_is_taken_back_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let running = node(folder.path(), "swap.rollback_groups=8").await;
    let control = running.node.control();
    scored(&running, 12).await;
    control.swap(adapter(), Checks { canary: false, share: 0.0 }, "ada").await.unwrap();
    until(&control, "a rollback", |critics| critics.serving() == CriticVersion::BASE).await;
    let critics = control.critics();
    let entry = critics.entry(CriticVersion(1)).unwrap();
    assert_eq!(entry.state, CriticState::RolledBack);
    let last = entry.changes.last().unwrap();
    assert!(last.by == "rollback" && last.why.contains("below"), "{last:?}");
    // Its groups until then: the window, and what was under way.
    assert!((8..24).contains(&entry.scores.groups), "{:?}", entry.scores);
    running.node.stop();
    running.done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_critic_stays_while_the_learner_publishes_and_the_newest_serves_when_it_is_unpinned() {
    let folder = tempfile::tempdir().unwrap();
    let more = "swap.rollback_groups=0\nlearner.publish_every_steps=1\nswap.canary_kl_max=100.0";
    let running = start(config(folder.path(), more), false, None, Arc::new(likes_even)).await;
    let control = running.node.control();
    let published = |critics: &Critics, more: u64| critics.entries().last().unwrap().version.0 >= more;
    until(&control, "a publication", |critics| critics.serving() > CriticVersion::BASE).await;
    let pinned = control.pin(Some(CriticVersion::BASE), "ada").await.unwrap();
    assert_eq!(pinned.version, CriticVersion::BASE);
    let there = control.critics().entries().last().unwrap().version.0;
    until(&control, "three more publications", |critics| published(critics, there + 3)).await;
    assert_eq!(
        (control.critics().serving(), control.critics().pinned()),
        (CriticVersion::BASE, Some(CriticVersion::BASE))
    );
    let unpinned = control.pin(None, "ada").await.unwrap();
    assert!(unpinned.version.0 >= there + 2, "{unpinned:?}");
    until(&control, "the next publication", |critics| critics.serving() > unpinned.version).await;
    running.node.stop();
    running.done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_swaps_under_load_leave_no_weights_behind_and_make_no_group_old() {
    let folder = tempfile::tempdir().unwrap();
    let running = node(folder.path(), "swap.rollback_groups=0\nreplay.age_versions_max=0").await;
    let control = running.node.control();
    let unchecked = Checks { canary: false, share: 0.0 };
    for _ in 0..2 {
        control.swap(adapter(), unchecked, "ada").await.unwrap();
    }
    for swap in 0..1000 {
        let version = CriticVersion(1 + swap % 2);
        let swapped = control.swap(Offer::Version(version), unchecked, "ada").await.unwrap();
        assert_eq!(swapped.version, version);
    }
    scored(&running, 6).await;
    let alive = running.node.progress().engine.versions_alive;
    assert!((1..=2).contains(&alive), "{alive} versions are in memory after 1,000 swaps of two");
    running.node.stop();
    let (progress, log) = running.done().await;
    assert_eq!(log.count(|event| matches!(event, Event::CriticEntered { .. })), 1002);
    assert_eq!((progress.counters.retired.aged, progress.restarts), (0, 0));
    assert_eq!(control.critics().entries().count(), 3, "a version that returns is no new one");
    let changes = control.critics().entry(CriticVersion(1)).unwrap().changes.len();
    assert!(changes <= 64, "{changes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_paused_stands_still_and_what_is_resumed_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(config(folder.path(), ""), false, None, Arc::new(likes_even)).await;
    let control = running.node.control();
    let ended = || running.node.progress().counters.episodes;
    let steps = || running.node.progress().step;
    scored(&running, 6).await;
    control.set_paused(Part::Rollout, true, "ada");
    control.set_paused(Part::Learner, true, "ada");
    // What is under way ends.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = (ended(), steps());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((ended(), steps()), before);
    control.checkpoint().await.unwrap();
    control.set_paused(Part::Learner, false, "ada");
    control.set_paused(Part::Rollout, false, "ada");
    scored(&running, 6).await;
    running.log.until("a step", |_| steps() > before.1).await;
    control.drain("ada");
    let (_, log) = running.done().await;
    assert_eq!(log.count(|event| matches!(event, Event::Controlled { .. })), 5);
    let accepted = log.accepted();
    assert_eq!(crate::support::node::distinct(&accepted).len(), accepted.len());
}
