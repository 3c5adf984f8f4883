use super::*;
use crate::learner::objective::Diagnostics;
use crate::replay::Retired;
use crate::run::state::{Counters, DropReason};
use crate::tracking::{TrackingConfig, read};
use crate::types::{CriticVersion, EpisodeId, Invalid, Pushed, Role, Verdict};
use std::path::Path;

fn figures(run: &Path, step: u64) -> Figures {
    let config = TrackingConfig { figures_mib: 1, tensorboard: String::new() };
    Figures::new(FigureWriter::open(run, &config, Some(step)).unwrap().unwrap(), step)
}

fn learned(batch: u64, step: u64, loss: f32) -> Event {
    let report: Report = serde_json::from_value(serde_json::json!({
        "step": step, "loss": loss, "gradient_norm": 1.5, "tokens": 90, "learning_rate": 1e-3, "sampler_difference": null,
    }))
    .unwrap();
    let report = Report { off_policy: Diagnostics { log_ratio_mean: 0.25, ..Diagnostics::default() }, ..report };
    Event::Learned { batch, episodes: vec![], ages_versions: vec![0, 3], report, seconds: 2.5 }
}

fn scored(task: &str, utility: f32) -> Event {
    Event::CritiqueScored { task: task.into(), version: CriticVersion(1), utility }
}

fn ended(pushed: Option<Pushed>, dropped: Option<DropReason>) -> Event {
    Event::EpisodeEnded { episode: EpisodeId(1), pushed, dropped, in_flight: 0, counters: Counters::default() }
}

fn standing() -> Standing {
    let memory = vec![MemoryRow { owner: "weights", planned_bytes: 0, bytes: 77 }];
    let counters = Counters { episodes: 7, groups: 6, zero_variance: 2, dropped: 1, ..Counters::default() };
    Standing { version: 4, counters, in_flight: 3, held: 9, tokens_per_second: 120.5, restarts: 1, memory }
}

fn lines(figures: &Figures, run: &Path) -> Vec<Line> {
    assert!(figures.flush(Duration::from_secs(20)));
    read(run).unwrap().lines
}

#[test]
fn the_line_of_a_step_has_what_happened_since_the_line_before() {
    let folder = tempfile::tempdir().unwrap();
    let figures = figures(folder.path(), 0);
    let invalid = Verdict::Invalid(Invalid::Unreadable);
    let events = [
        scored("math/algebra", 1.0),
        scored("math/algebra", 0.5),
        scored("echo", 0.0),
        Event::Judged(Verdict::Win),
        Event::Judged(Verdict::Tie),
        Event::Judged(invalid),
        Event::Sampled { role: Role::Critic, tokens: vec![4, 8], version: None, seconds: 3.0 },
        ended(Some(Pushed::Kept), None),
        ended(Some(Pushed::ZeroVariance), None),
        ended(None, Some(DropReason::Deadline)),
        Event::GroupsRetired(Retired { aged: 2, used: 1, displaced: 0 }),
        learned(1, 1, 0.5),
        scored("echo", 1.0),
        learned(2, 2, 0.25),
    ];
    events.iter().for_each(|event| figures.note(event, standing));
    let lines = lines(&figures, folder.path());
    assert_eq!(lines.len(), 2);
    for (name, expected) in [
        ("learner/loss", 0.5),
        ("learner/log_ratio_mean", 0.25),
        ("learner/age_mean_versions", 1.5),
        ("learner/age_max_versions", 3.0),
        ("learner/seconds", 2.5),
        ("cu/mean/math_algebra", 0.75),
        ("cu/deviation/math_algebra", 0.25),
        ("cu/critiques/math_algebra", 2.0),
        ("cu/mean/echo", 0.0),
        ("cu/overall/mean", 0.5),
        ("cu/overall/critiques", 3.0),
        ("verdicts/win", 1.0),
        ("verdicts/invalid", 1.0),
        ("verdicts/loss", 0.0),
        ("tokens/mean/critic", 6.0),
        ("tokens/deviation/critic", 2.0),
        ("tokens/written/critic", 12.0),
        ("rollout/seconds/critic", 3.0),
        ("rollout/episodes", 3.0),
        ("rollout/groups_kept", 1.0),
        ("rollout/groups_zero_variance", 1.0),
        ("rollout/episodes_dropped", 1.0),
        ("replay/retired_aged", 2.0),
        ("replay/groups", 9.0),
        ("total/episodes", 7.0),
        ("total/groups", 6.0),
        ("total/groups_zero_variance", 2.0),
        ("total/episodes_dropped", 1.0),
        ("critic/version", 4.0),
        ("tokens/per_second", 120.5),
        ("memory/weights_bytes", 77.0),
    ] {
        assert_eq!(lines[0].get(name), Some(expected), "{name}");
    }
    assert_eq!((lines[1].step, lines[1].get("learner/loss")), (2, Some(0.25)));
    assert_eq!((lines[1].get("cu/mean/echo"), lines[1].get("cu/critiques/echo")), (Some(1.0), Some(1.0)));
    assert_eq!((lines[1].get("cu/mean/math_algebra"), lines[1].get("verdicts/win")), (None, Some(0.0)));
}

#[test]
fn a_step_that_is_told_twice_has_one_line_and_one_that_is_taken_again_the_newer() {
    let folder = tempfile::tempdir().unwrap();
    let figures = figures(folder.path(), 0);
    // The learner restarts from step 1 after step 3, with other batches.
    for event in [learned(1, 1, 0.1), learned(2, 2, 0.2), learned(2, 2, 0.2), learned(3, 3, 0.3), learned(4, 2, 0.4)] {
        figures.note(&event, standing);
    }
    let lines = lines(&figures, folder.path());
    let told: Vec<_> = lines.iter().map(|line| (line.step, line.get("learner/loss").unwrap() as f32)).collect();
    assert_eq!(told, [(1, 0.1), (2, 0.4)]);
}

#[test]
fn evaluations_and_checkpoints_have_lines_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let figures = figures(folder.path(), 0);
    let estimate = Estimate { value: 61.5, low: 50.0, high: 70.0, prompts: 24 };
    let summary = EvalSummary { cu: Some(estimate), accuracy_before: None, accuracy_after: Some(estimate) };
    let version = CriticVersion(2);
    for event in [
        learned(1, 1, 0.1),
        Event::CheckpointSaved { step: 1, seconds: 0.5 },
        Event::Published { version, step: 1 },
        Event::Evaluated { version, step: 1, summary, best: true, seconds: 9.0 },
    ] {
        figures.note(&event, standing);
    }
    let lines = lines(&figures, folder.path());
    assert_eq!(lines.iter().map(|line| line.step).collect::<Vec<_>>(), [1; 4]);
    assert_eq!(lines[1].get("checkpoint/seconds"), Some(0.5));
    assert_eq!(lines[2].get("critic/published"), Some(2.0));
    let eval = ["eval/cu", "eval/cu_low", "eval/cu_high", "eval/prompts", "eval/best"].map(|name| lines[3].get(name));
    assert_eq!(eval, [Some(0.615), Some(0.5), Some(0.7), Some(24.0), Some(1.0)]);
    assert_eq!(lines[3].get("eval/accuracy_before"), None);
}
