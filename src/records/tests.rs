//! Records are written, bounded, replaced, found and searched.

use super::*;
use crate::types::{
    Completion, CriticVersion, CritiqueTree, DropReason, EpisodeId, EpisodeTree, FinishReason, Invalid, Prompt,
    Verdict, utility,
};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const ALL: Span = Span { before: None, limit: usize::MAX, patience: Duration::MAX };
const KEPT: (Ending, Option<DropReason>) = (Ending::Kept, None);

fn critique(version: u64, text: &str, verdicts: &[Verdict]) -> CritiqueTree {
    let completion = Completion {
        text: text.to_owned(),
        ids: vec![104, 105],
        log_probs: vec![-0.123_456, f32::NEG_INFINITY],
        version: CriticVersion(version),
        finish: FinishReason::Stop,
    };
    CritiqueTree {
        completion: Arc::new(completion),
        refinements: vec![format!("refined by {text}")],
        verdicts: verdicts.to_vec(),
        utility: utility(verdicts),
        dropped: utility(verdicts).is_none().then_some(DropReason::NoVerdict),
    }
}

fn tree(task: &str, text: &str, critiques: Vec<CritiqueTree>) -> EpisodeTree {
    let prompt = Prompt {
        id: format!("of-{task}"),
        task: task.to_owned(),
        text: text.to_owned(),
        turns: Vec::new(),
        answer: Some("42".to_owned()),
        verifier: None,
    };
    EpisodeTree { prompt: Arc::new(prompt), response: Some("a response".to_owned()), critiques }
}

fn open(folder: &Path, bytes_max: u64) -> EpisodeRecorder {
    let split = |ids: &[u32]| ids.iter().map(|id| char::from_u32(*id).unwrap().to_string()).collect();
    EpisodeRecorder::open(folder, bytes_max, Box::new(split)).unwrap()
}

fn record(recorder: &EpisodeRecorder, id: u64, tree: EpisodeTree) {
    recorder.record(EpisodeId(id), KEPT, Duration::from_secs(2), tree);
}

fn close(recorder: EpisodeRecorder) {
    recorder.close(Duration::from_secs(60));
}

fn ids(store: &EpisodeStore, filter: &Filter) -> Vec<u64> {
    store.page(filter, ALL).unwrap().episodes.iter().map(|episode| episode.id.0).collect()
}

#[test]
fn a_record_holds_the_whole_tree() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = open(folder.path(), 1 << 20);
    let both = critique(3, "hi", &[Verdict::Win, Verdict::Tie]);
    let bad = critique(4, "ho", &[Verdict::Invalid(Invalid::Unreadable), Verdict::Invalid(Invalid::Unpaired)]);
    record(&recorder, 7, tree("sums", "1 + 1?", vec![both, bad]));
    recorder.record(
        EpisodeId(8),
        (Ending::Dropped, Some(DropReason::Deadline)),
        Duration::ZERO,
        tree("sums", "x", vec![]),
    );
    close(recorder);
    let (store, skipped) = EpisodeStore::read(folder.path()).unwrap();
    let whole = store.record(EpisodeId(7)).unwrap().unwrap();
    assert_eq!((skipped, whole.seconds, whole.end, whole.why), (0, 2.0, Ending::Kept, None));
    assert_eq!((whole.prompt.text.as_str(), whole.response.as_deref()), ("1 + 1?", Some("a response")));
    let first = &whole.critiques[0];
    assert_eq!((first.tokens.concat().as_str(), first.log_probs.as_slice()), ("hi", &[-0.123, -9999.0][..]));
    assert_eq!((first.utility, first.version), (Some(0.75), CriticVersion(3)));
    let refined = RefinementRecord { text: "refined by hi".into(), verdicts: vec![Verdict::Win, Verdict::Tie] };
    assert_eq!(first.refinements, [refined]);
    assert_eq!((whole.critiques[1].utility, whole.critiques[1].dropped), (None, Some(DropReason::NoVerdict)));
    let dropped = store.record(EpisodeId(8)).unwrap().unwrap();
    assert_eq!((dropped.end, dropped.why), (Ending::Dropped, Some(DropReason::Deadline)));
    let json: serde_json::Value = serde_json::from_slice(&store.json(EpisodeId(7)).unwrap().unwrap()).unwrap();
    assert_eq!(json["critiques"][1]["refinements"][0]["verdicts"][0]["invalid"], "unreadable");
    assert_eq!(store.json(EpisodeId(9)).unwrap(), None);
}

#[test]
fn the_files_are_bounded_and_what_they_lose_leaves_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = open(folder.path(), 4000);
    for id in 0..40 {
        record(&recorder, id, tree("sums", &"x".repeat(400), vec![]));
    }
    let store = recorder.store().clone();
    close(recorder);
    let size = |name: &str| fs::metadata(folder.path().join(name)).unwrap().len();
    assert!(size(FILE) <= 4000 && size(EARLIER_FILE) <= 4000 && size(EARLIER_FILE) > 3000);
    let listed = ids(&store, &Filter::default());
    assert!(listed.len() < 16 && listed.len() >= 7 && listed[0] == 39, "{listed:?}");
    assert!(listed.windows(2).all(|pair| pair[0] == pair[1] + 1), "{listed:?}");
    for id in &listed {
        assert_eq!(store.record(EpisodeId(*id)).unwrap().unwrap().id, EpisodeId(*id));
    }
    // Who reads the files sees the same as who was there while they were written.
    assert_eq!(ids(&EpisodeStore::read(folder.path()).unwrap().0, &Filter::default()), listed);
    assert_eq!(store.record(EpisodeId(0)).unwrap(), None);
}

#[test]
fn an_episode_that_is_run_again_replaces_its_earlier_record() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = open(folder.path(), 1 << 20);
    record(&recorder, 1, tree("sums", "first", vec![]));
    record(&recorder, 2, tree("sums", "other", vec![]));
    close(recorder);
    let recorder = open(folder.path(), 1 << 20);
    record(&recorder, 1, tree("sums", "second", vec![]));
    let store = recorder.store().clone();
    close(recorder);
    assert_eq!(ids(&store, &Filter::default()), [1, 2]);
    assert_eq!(store.record(EpisodeId(1)).unwrap().unwrap().prompt.text, "second");
    let first = Filter { text: Some(TextPattern::new("first").unwrap()), ..Filter::default() };
    assert_eq!(ids(&store, &first), [0; 0], "the earlier record is not found any more");
}

#[test]
fn a_torn_line_is_cut_off_and_lines_that_are_no_records_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = open(folder.path(), 1 << 20);
    record(&recorder, 1, tree("sums", "x", vec![]));
    close(recorder);
    let path = folder.path().join(FILE);
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{whole}{{\"id\": 5}}\n\n{}", &whole[..whole.len() / 2])).unwrap();
    let (store, skipped) = EpisodeStore::read(folder.path()).unwrap();
    assert_eq!((ids(&store, &Filter::default()), skipped), (vec![1], 2));
    let recorder = open(folder.path(), 1 << 20);
    record(&recorder, 2, tree("sums", "y", vec![]));
    let store = recorder.store().clone();
    close(recorder);
    assert_eq!(ids(&store, &Filter::default()), [2, 1]);
    assert!(fs::read_to_string(&path).unwrap().lines().all(|line| !line.ends_with("\"te")));
}

#[test]
fn a_disk_that_fails_costs_records_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = open(folder.path(), 600);
    record(&recorder, 1, tree("sums", &"x".repeat(500), vec![]));
    // The file cannot become the earlier one: that is a folder with something in it.
    fs::create_dir_all(folder.path().join(EARLIER_FILE).join("a")).unwrap();
    for id in 2..9 {
        record(&recorder, id, tree("sums", &"y".repeat(500), vec![]));
    }
    let store = recorder.store().clone();
    close(recorder);
    assert_eq!(ids(&store, &Filter::default()), [1]);
    let error = EpisodeStore::read(&folder.path().join("nowhere")).unwrap_err().to_string();
    assert!(error.contains("episodes.file_mib"), "{error}");
}

#[test]
fn each_condition_of_a_filter_holds_and_all_hold_together() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = open(folder.path(), 1 << 20);
    let (win, tie, loss) = (Verdict::Win, Verdict::Tie, Verdict::Loss);
    let bad = Verdict::Invalid(Invalid::Deadline);
    record(&recorder, 1, tree("sums", "one", vec![critique(1, "a", &[win]), critique(2, "b", &[loss])]));
    record(&recorder, 2, tree("sums", "two", vec![critique(2, "c", &[win]), critique(2, "d", &[tie])]));
    record(&recorder, 3, tree("code", "three", vec![critique(1, "e", &[bad]), critique(1, "f", &[tie])]));
    record(&recorder, 4, tree("code", "four", vec![critique(3, "g", &[tie, bad])]));
    let store = recorder.store().clone();
    close(recorder);
    let all = Filter::default;
    let (one, two) = (Some(CriticVersion(1)), Some(CriticVersion(2)));
    for (filter, expected) in [
        (all(), vec![4, 3, 2, 1]),
        (Filter { task: Some("sums".into()), ..all() }, vec![2, 1]),
        (Filter { prompt_id: Some("of-code".into()), ..all() }, vec![4, 3]),
        (Filter { version: one, ..all() }, vec![3, 1]),
        (Filter { cu_min: Some(1.0), ..all() }, vec![2, 1]),
        (Filter { cu_max: Some(0.0), ..all() }, vec![1]),
        // One critique has to fulfil both: critic 1 earned no loss, critic 2 a win.
        (Filter { version: one, cu_max: Some(0.0), ..all() }, vec![]),
        (Filter { version: two, cu_min: Some(0.9), ..all() }, vec![2]),
        (Filter { cu_min: Some(0.4), cu_max: Some(0.6), ..all() }, vec![4, 3, 2]),
        (Filter { is_invalid: true, ..all() }, vec![4, 3]),
        (Filter { is_invalid: true, version: one, ..all() }, vec![3]),
        (Filter { task: Some("nothing".into()), ..all() }, vec![]),
    ] {
        assert_eq!(ids(&store, &filter), expected, "{filter:?}");
    }
}

#[test]
fn a_text_is_found_as_it_is_whatever_the_case_and_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = open(folder.path(), 8 << 20);
    let long = "y".repeat(100_000) + " NeedlE";
    record(&recorder, 1, tree("sums", "a\nline \"quoted\" \u{1b}[31m and a \\ [x]*", vec![]));
    record(&recorder, 2, tree("sums", "plain", vec![critique(1, &long, &[Verdict::Win])]));
    record(&recorder, 3, tree("sums", "Straße ÄRGER 日本", vec![critique(1, "</script>", &[Verdict::Tie])]));
    let store = recorder.store().clone();
    close(recorder);
    for (text, expected) in [
        ("needle", vec![2]),
        ("refined by y", vec![2]),
        ("A\nLINE \"QUOTED\"", vec![1]),
        ("\u{1b}[31M", vec![1]),
        ("\\ [X]*", vec![1]),
        ("[x].", vec![]),
        ("ärger 日", vec![3]),
        ("</SCRIPT>", vec![3]),
        ("a response", vec![3, 2, 1]),
        // Words of the format are no texts.
        ("finish", vec![]),
        ("log_probs", vec![]),
        ("of-sums", vec![]),
    ] {
        let filter = Filter { text: Some(TextPattern::new(text).unwrap()), ..Filter::default() };
        assert_eq!(ids(&store, &filter), expected, "{text}");
    }
    assert!(TextPattern::new(&"x".repeat(2000)).unwrap_err().to_string().contains("got 2000"));
}

#[test]
fn pages_make_up_the_list_and_a_search_that_takes_too_long_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = open(folder.path(), 1 << 20);
    (0..25).for_each(|id| record(&recorder, id, tree(["even", "odd"][id as usize % 2], "x", vec![])));
    let store = recorder.store().clone();
    close(recorder);
    let walk = |filter: &Filter, limit, patience| {
        let (mut all, mut sizes, mut before) = (vec![], vec![], None);
        loop {
            let page = store.page(filter, Span { before, limit, patience }).unwrap();
            sizes.push(page.episodes.len());
            all.extend(page.episodes.iter().map(|episode| episode.id.0));
            match page.next {
                Some(next) => before = Some(next),
                None => return (all, sizes),
            }
        }
    };
    let even = Filter { task: Some("even".into()), ..Filter::default() };
    let expected: Vec<u64> = (0..25).rev().filter(|id| id % 2 == 0).collect();
    assert_eq!(walk(&even, 5, Duration::MAX), (expected.clone(), vec![5, 5, 3]));
    assert_eq!(walk(&even, 13, Duration::MAX), (expected.clone(), vec![13]));
    let text = Filter { text: Some(TextPattern::new("X").unwrap()), ..even };
    let (all, sizes) = walk(&text, 5, Duration::ZERO);
    assert_eq!((all, sizes[0]), (expected, 1), "each request looks at one record at least");
    let page = store.page(&Filter::default(), Span { limit: 3, ..ALL }).unwrap();
    assert_eq!((page.total, page.kept, page.next), (Some(25), 25, Some(22)));
}
