//! What a run records of its episodes is what it learned from.

use crate::support::node::{config, judged, likes_even, start};
use crate::support::server::{Act, Rigged};
use rco_node::groups;
use rco_node::records::{EARLIER_FILE, Ending, EpisodeRecord, EpisodeStore, FILE, Filter, Span};
use rco_node::run::events::Event;
use rco_node::types::{EpisodeId, Invalid, Verdict, utility};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const ALL: Span = Span { before: None, limit: usize::MAX, patience: Duration::MAX };

/// The records of the run in `run`, the newest first.
fn records(run: &Path) -> Vec<EpisodeRecord> {
    let (store, skipped) = EpisodeStore::read(run).unwrap();
    assert_eq!(skipped, 0);
    let page = store.page(&Filter::default(), ALL).unwrap();
    page.episodes.iter().map(|episode| store.record(episode.id).unwrap().unwrap()).collect()
}

#[tokio::test]
async fn every_episode_is_recorded_with_what_its_group_holds() {
    let place = tempfile::tempdir().unwrap();
    let (progress, _) = start(config(place.path(), ""), false, Some(4), Arc::new(likes_even)).await.done().await;
    let run = place.path().join("run");
    let records = records(&run);
    assert_eq!(records.len() as u64, progress.counters.episodes);
    let of_end = |end| records.iter().filter(|record| record.end == end).count() as u64;
    assert_eq!(of_end(Ending::ZeroVariance), progress.counters.zero_variance);
    assert_eq!(of_end(Ending::Dropped), progress.counters.dropped);
    let groups = groups::read(&run).unwrap().groups;
    assert!(groups.len() >= 8);
    for recorded in &groups {
        let group = &recorded.group;
        let record = records.iter().find(|record| record.id == group.episode).unwrap();
        assert_eq!((&record.prompt.id, &record.prompt.task), (&group.prompt_id, &group.task));
        assert_eq!(record.prompt.text, format!("say {}", &record.prompt.id[1..]));
        let (ours, theirs) = (&record.critiques, &group.critiques);
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(theirs) {
            let written = &theirs.completion;
            assert_eq!((ours.version, &ours.text, ours.finish), (written.version, &written.text, written.finish));
            assert_eq!((ours.utility, ours.refinements.len()), (Some(theirs.utility), 1));
            assert_eq!(ours.refinements[0].verdicts, theirs.verdicts);
            let near = |(one, other): (&f32, &f32)| (one - other).abs() <= 0.0006;
            assert!(ours.log_probs.iter().zip(&written.log_probs).all(near) && ours.tokens.len() == written.ids.len());
            // Special tokens have names, and the text leaves them out.
            let text: String = ours.tokens.iter().filter(|token| !token.starts_with("<|")).cloned().collect();
            assert!(text.starts_with(&ours.text) || ours.text.contains(char::REPLACEMENT_CHARACTER), "{ours:?}");
        }
    }
}

#[tokio::test]
async fn a_resumed_run_goes_on_and_has_each_episode_once() {
    let place = tempfile::tempdir().unwrap();
    start(config(place.path(), ""), false, Some(2), Arc::new(likes_even)).await.done().await;
    let run = place.path().join("run");
    let before = records(&run).len();
    start(config(place.path(), ""), true, Some(4), Arc::new(likes_even)).await.done().await;
    let after = records(&run);
    let mut ids: Vec<EpisodeId> = after.iter().map(|record| record.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert!(after.len() > before && ids.len() == after.len());
}

#[tokio::test]
async fn a_judge_that_is_asked_in_both_orders_leaves_two_verdicts_or_two_reasons() {
    // It always prefers the text that is shown first; now and then what it says is no choice.
    let server = Rigged::start(|number, _| Act::Say(if number % 7 == 3 { "perhaps" } else { "A" }.to_owned())).await;
    let place = tempfile::tempdir().unwrap();
    let more = format!(
        "judge.kind='remote'\njudge.read='text'\nremote.judge.base_url='{}'\nremote.judge.model='rigged'\n\
         rollout.refinements=2\nrollout.critiques=2",
        server.base_url
    );
    let running = judged(config(place.path(), &more), false, None, None).await;
    running.log.until("three ends", |events| ends(events) >= 3).await;
    running.node.stop();
    running.done().await;
    let records = records(&place.path().join("run"));
    let mut orders: Vec<[Verdict; 2]> = vec![];
    let critiques: Vec<_> = records.iter().flat_map(|record| &record.critiques).collect();
    assert!(critiques.len() >= 6);
    for critique in critiques {
        assert_eq!(critique.refinements.len(), 2);
        assert!(critique.refinements.iter().all(|refinement| refinement.verdicts.len() == 2), "{critique:?}");
        let verdicts: Vec<Verdict> = critique.verdicts().collect();
        assert_eq!(critique.utility, utility(&verdicts), "{critique:?}");
        assert_eq!(critique.utility.is_none(), critique.dropped.is_some(), "{critique:?}");
        orders.extend(verdicts.as_chunks().0.iter().copied());
    }
    // With the response first it is preferred, with the refinement first that: a loss and a win.
    assert!(orders.contains(&[Verdict::Loss, Verdict::Win]), "{orders:?}");
    let invalid = [Verdict::Invalid(Invalid::Unreadable), Verdict::Invalid(Invalid::Unpaired)];
    assert!(orders.contains(&invalid) || orders.contains(&[invalid[1], invalid[0]]), "{orders:?}");
    let expected = |orders: &&[Verdict; 2]| orders.iter().all(|verdict| verdict.preference().is_none());
    assert!(orders.iter().filter(|orders| **orders != [Verdict::Loss, Verdict::Win]).all(|orders| expected(&orders)));
}

fn ends(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::EpisodeEnded { .. })).count()
}

#[tokio::test]
async fn a_run_that_is_told_so_records_nothing() {
    let place = tempfile::tempdir().unwrap();
    start(config(place.path(), "episodes.file_mib=0"), false, Some(1), Arc::new(likes_even)).await.done().await;
    assert!(!place.path().join("run").join(FILE).exists() && !place.path().join("run").join(EARLIER_FILE).exists());
}
