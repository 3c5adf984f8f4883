use super::*;
use crate::types::{
    Completion, CriticVersion, CritiqueGroup, FinishReason, Invalid, ModelId, Preference, ScoredCritique, Verdict,
};
use proptest::prelude::*;
use std::io::Write as _;

fn model() -> ModelId {
    ModelId { name: "pip:a==1#f".into(), sha256: "0f".repeat(32) }
}

/// A group whose floats are spread over everything between the smallest and the largest.
fn group(episode: u64, floats: &[f32]) -> CritiqueGroup {
    let critique = |(index, chunk): (usize, &[f32])| ScoredCritique {
        completion: Completion {
            text: format!("critique {index} \u{2028}\n\"é\""),
            ids: (0..chunk.len() as u32).map(|id| id * 7919).collect(),
            log_probs: chunk.iter().map(|float| -float.abs()).collect(),
            version: CriticVersion(u64::from(index as u32 + 3)),
            finish: if index % 2 == 0 { FinishReason::Stop } else { FinishReason::Length },
        },
        utility: chunk.first().map_or(0.1, |float| (float.abs() / 1e30).min(1.0)),
        verdicts: vec![Verdict::Win, Verdict::Invalid(Invalid::Deadline), Verdict::Tie],
    };
    CritiqueGroup {
        episode: EpisodeId(episode),
        prompt_id: format!("p{episode}"),
        task: "t".into(),
        prefix_ids: vec![1, 2, episode as u32],
        critiques: floats.chunks(3).enumerate().map(critique).collect(),
        preferences: vec![Preference { chosen: 1, rejected: 0 }],
    }
}

fn recorded(episode: u64) -> RecordedGroup {
    RecordedGroup { model: model(), group: group(episode, &[0.1, -3.25e-7, -1.0 / 3.0, 0.7, -0.0, -88.8]) }
}

/// The lines of a run in `folder`, written by a recorder that opens the file anew each time.
fn append(folder: &Path, bytes_max: u64, episodes: std::ops::Range<u64>) {
    let recorder = GroupRecorder::open(folder, model(), bytes_max).unwrap();
    for episode in episodes {
        recorder.append(&recorder.line(&recorded(episode).group)).unwrap();
    }
}

fn episodes(groups: &Groups) -> Vec<u64> {
    groups.groups.iter().map(|recorded| recorded.group.episode.0).collect()
}

proptest! {
    #[test]
    fn every_float_comes_back_to_the_last_bit(floats in prop::collection::vec(-1e30f32..1e30, 2..9), tiny in any::<u32>()) {
        let place = tempfile::tempdir().unwrap();
        let tiny = f32::from_bits(tiny % 0x7f80_0000);
        let all = [floats, vec![tiny, -tiny]].concat();
        let groups = [RecordedGroup { model: model(), group: group(9, &all) }];
        for name in ["a.jsonl", "a.safetensors"] {
            write(&place.path().join(name), &groups).unwrap();
            let back = read(&place.path().join(name)).unwrap().groups;
            let bits = |group: &CritiqueGroup| -> Vec<u32> {
                let critiques = group.critiques.iter();
                critiques.flat_map(|c| c.completion.log_probs.iter().chain([&c.utility])).map(|f| f.to_bits()).collect()
            };
            prop_assert_eq!(bits(&back[0].group), bits(&groups[0].group));
            prop_assert_eq!(&back[..], &groups[..]);
        }
    }
}

#[test]
fn one_format_becomes_the_other_and_back_without_a_change() {
    let place = tempfile::tempdir().unwrap();
    let groups: Vec<_> = (0..5).map(recorded).collect();
    let [first, flat, again] = ["a.jsonl", "b.safetensors", "c.jsonl"].map(|name| place.path().join(name));
    write(&first, &groups).unwrap();
    write(&flat, &read(&first).unwrap().groups).unwrap();
    write(&again, &read(&flat).unwrap().groups).unwrap();
    assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&again).unwrap());
    assert_eq!(read(&again).unwrap(), Groups { groups, torn: 0, replaced: 0 });
    let names: Vec<_> = std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "nothing is left aside: {names:?}");
}

#[test]
fn what_a_group_holds_beside_the_arrays_is_carried_whatever_it_is() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.safetensors");
    write(&path, &[recorded(3)]).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let rest: serde_json::Value = serde_json::from_slice(file.tensor("rest").unwrap().data()).unwrap();
    assert_eq!(rest["prompt_id"], "p3");
    assert_eq!(rest["critiques"][1]["verdicts"], serde_json::json!(["win", {"invalid": "deadline"}, "tie"]));
    assert_eq!(rest["critiques"][0]["written"]["finish"], "stop");
    assert!(rest["critiques"][0]["written"].get("log_probs").is_none());
}

#[test]
fn a_torn_last_line_is_skipped_by_who_reads_and_cut_by_who_writes() {
    let place = tempfile::tempdir().unwrap();
    append(place.path(), u64::MAX, 0..3);
    let path = place.path().join(FILE);
    let whole = std::fs::read(&path).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for length in last + 1..whole.len() - 1 {
        std::fs::write(&path, &whole[..length]).unwrap();
        let groups = read(place.path()).unwrap();
        assert_eq!((episodes(&groups), groups.torn), (vec![0, 1], 1), "{length} bytes");
    }
    append(place.path(), u64::MAX, 7..9);
    let groups = read(place.path()).unwrap();
    assert_eq!((episodes(&groups), groups.torn), (vec![0, 1, 7, 8], 0));
}

#[test]
fn a_line_that_is_no_group_is_named_unless_it_is_the_torn_one() {
    let place = tempfile::tempdir().unwrap();
    append(place.path(), u64::MAX, 0..1);
    let path = place.path().join(FILE);
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"group\": 3}\n").unwrap();
    append(place.path(), u64::MAX, 1..2);
    let error = read(place.path()).unwrap_err().to_string();
    assert!(error.contains("groups.jsonl, line 2: "), "{error}");
}

#[test]
fn a_full_file_becomes_the_earlier_one_and_the_disk_is_bounded() {
    let place = tempfile::tempdir().unwrap();
    let line = serde_json::to_string(&recorded(0)).unwrap().len() as u64 + 1;
    append(place.path(), 3 * line, 0..8);
    let kept = read(place.path()).unwrap();
    assert_eq!(episodes(&kept), [3, 4, 5, 6, 7]);
    for name in [FILE, EARLIER_FILE] {
        assert!(std::fs::metadata(place.path().join(name)).unwrap().len() <= 3 * line, "{name}");
    }
}

#[test]
fn of_an_episode_that_a_run_wrote_twice_the_last_counts() {
    let place = tempfile::tempdir().unwrap();
    append(place.path(), u64::MAX, 0..3);
    append(place.path(), u64::MAX, 1..2);
    let groups = read(place.path()).unwrap();
    assert_eq!((episodes(&groups), groups.replaced), (vec![0, 2, 1], 1));
}

#[test]
fn what_cannot_be_written_or_read_is_named() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let error = |result: Result<()>| result.unwrap_err().to_string();
    assert!(error(write(&path("a.csv"), &[])).contains(".jsonl or .safetensors"));
    assert!(error(write(&path("a.safetensors"), &[])).contains("at least one group"));
    write(&path("a.jsonl"), &[recorded(0)]).unwrap();
    assert!(error(write(&path("a.jsonl"), &[])).contains("is there already"));
    let other = RecordedGroup { model: ModelId { name: "b".into(), sha256: "1".into() }, ..recorded(1) };
    assert!(error(write(&path("a.safetensors"), &[recorded(0), other])).contains("groups of one model"));
    assert!(read(place.path()).unwrap_err().to_string().contains("holds no groups.jsonl"));
    std::fs::write(path("b.safetensors"), "no").unwrap();
    assert!(read(&path("b.safetensors")).unwrap_err().to_string().contains("b.safetensors"));
}
