use super::*;
use crate::types::{Completion, CriticVersion, EpisodeId, FinishReason, Preference};

fn group(utilities: &[f32]) -> CritiqueGroup {
    let critique = |(index, utility): (usize, &f32)| ScoredCritique {
        completion: Completion {
            text: format!("critique {index}"),
            ids: vec![1],
            log_probs: vec![-1.0],
            version: CriticVersion(1),
            finish: FinishReason::Stop,
        },
        utility: *utility,
        verdicts: vec![],
    };
    CritiqueGroup {
        episode: EpisodeId(7),
        prompt_id: "p".into(),
        task: "t".into(),
        prefix_ids: vec![1],
        critiques: utilities.iter().enumerate().map(critique).collect(),
        preferences: vec![Preference { chosen: 2, rejected: 1 }],
    }
}

/// The texts of a column, without "critique".
fn column(rows: &[Cells], name: &str) -> Vec<String> {
    let cell = |row: &Cells| row.iter().find(|(column, _)| *column == name).unwrap().1.clone().plain();
    let text = |row| match cell(row) {
        Cell::Text(text) => text.trim_start_matches("critique ").to_owned(),
        other => format!("{other:?}"),
    };
    rows.iter().map(text).collect()
}

#[test]
fn a_pair_is_of_two_critiques_of_different_worth() {
    let group = group(&[0.5, 1.0, 0.0, 1.0, 0.0]);
    let pairs = |pairs| {
        let rows = preferences(&group, pairs);
        column(&rows, "chosen").into_iter().zip(column(&rows, "rejected")).collect::<Vec<_>>()
    };
    let pair = |chosen: &str, rejected: &str| (chosen.to_owned(), rejected.to_owned());
    assert_eq!(pairs(Pairs::BestWorst), [pair("1", "2")]);
    assert_eq!(pairs(Pairs::All).len(), 2 + 3 + 3);
    assert_eq!(pairs(Pairs::Judge), [pair("2", "1")]);
    assert_eq!(preferences(&super::tests::group(&[0.5, 0.5]), Pairs::All).len(), 0);
    let mut twins = super::tests::group(&[1.0, 0.0]);
    twins.critiques[1].completion.text = "critique 0".into();
    assert_eq!(preferences(&twins, Pairs::BestWorst).len(), 0, "nothing to prefer between equal texts");
}

#[test]
fn a_label_says_whether_responses_got_better_and_ties_have_none() {
    let rows = labelled(&group(&[0.5, 1.0, 0.25]));
    assert_eq!(column(&rows, "completion"), ["1", "2"]);
    assert_eq!(column(&rows, "label"), ["Bool(true)", "Bool(false)"]);
    assert_eq!(column(&completions(&group(&[0.5, 0.75, 1.0, 1.0])), "completion"), ["2"]);
    assert_eq!(completions(&group(&[0.5, 0.25])).len(), 0);
}

#[test]
fn a_line_has_the_columns_in_order_and_parquet_is_read_back() {
    let prompt = Cell::Turns(vec![Turn::new(ChatRole::System, "s"), Turn::new(ChatRole::User, "u \u{e9}")]);
    let rows: Vec<Row> = labelled(&group(&[0.0, 1.0]))
        .into_iter()
        .map(|cells| Row(std::iter::once(("prompt", prompt.clone())).chain(cells).collect()))
        .collect();
    let line = String::from_utf8(jsonl::render(&rows[..1])).unwrap();
    let turns = r#"{"prompt":[{"role":"system","content":"s"},{"role":"user","content":"u é"}],"#;
    let rest = r#""completion":[{"role":"assistant","content":"critique 0"}],"label":false,"score":0.0,"#;
    assert_eq!(line, format!("{turns}{rest}\"episode\":7,\"prompt_id\":\"p\",\"task\":\"t\"}}\n"));

    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    let bytes = super::parquet::render(&rows).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    std::fs::write(&path, bytes).unwrap();
    let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
    let read: Vec<String> = reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
    assert_eq!(read.len(), 2);
    assert!(
        read[1].contains("u \u{e9}") && read[1].contains("critique 1") && read[1].contains("label: true"),
        "{read:?}"
    );
}
