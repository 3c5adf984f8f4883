//! Agreement with the published checker, and what that comparison cannot see.

use super::*;
use crate::types::verifier::Instruction;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Line {
    instructions: Vec<Instruction>,
    text: String,
    followed: Vec<bool>,
    #[serde(default)]
    unsettled: Vec<usize>,
}

fn name(instruction: &Instruction) -> String {
    serde_json::to_value(instruction).unwrap()["id"].as_str().unwrap().to_owned()
}

#[test]
fn every_verdict_is_the_published_checkers_but_for_a_stated_few() {
    let golden = include_str!("../../../tests/golden/ifeval_verdicts.jsonl");
    let lines: Vec<Line> = golden.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1000);
    let mut counts: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let mut differing: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for line in &lines {
        for (index, (instruction, followed)) in line.instructions.iter().zip(&line.followed).enumerate() {
            assert_eq!(complaint(instruction), None);
            let ours = follows(instruction, &line.text).unwrap();
            let count = counts.entry(name(instruction)).or_default();
            count[usize::from(*followed)] += 1;
            if ours != *followed && !line.unsettled.contains(&index) {
                count[2] += 1;
                differing.entry(name(instruction)).or_default().push(&line.text);
            }
        }
    }
    assert_eq!(counts.len(), 25);
    assert!(counts.values().all(|[no, yes, _]| *no > 0 && *yes > 0), "both verdicts of each are tried: {counts:?}");
    let may_differ = |name: &str| match name {
        // Names before full stops that no list of ours has.
        "length_constraints:number_sentences" => 2,
        // Texts of a few words, or in two languages; capitals, of which the reference reads first letters only.
        "language:response_language" | "change_case:english_capital" | "change_case:english_lowercase" => 2,
        _ => 0,
    };
    for (name, [_, _, differ]) in &counts {
        assert!(*differ <= may_differ(name), "{name} differs on {differ}: {:#?}", differing[name]);
    }
    let unsettled: usize = lines.iter().map(|line| line.unsettled.len()).sum();
    assert!(unsettled <= 5, "{unsettled} verdicts that the reference itself is unsure of");
}

fn read(text: &str) -> Instruction {
    serde_json::from_str(text).unwrap()
}

#[test]
fn what_an_instruction_cannot_be_is_said_beforehand() {
    for (text, part) in [
        (r#"{"id": "keywords:existence", "keywords": []}"#, "keywords"),
        (
            r#"{"id": "keywords:frequency", "keyword": "(", "frequency": 1, "relation": "at least"}"#,
            "regular expression",
        ),
        (r#"{"id": "language:response_language", "language": "english"}"#, "ISO 639-1"),
        (
            r#"{"id": "length_constraints:nth_paragraph_first_word", "num_paragraphs": 2, "nth_paragraph": 3, "first_word": "x"}"#,
            "from 1 to 2",
        ),
    ] {
        let said = complaint(&read(text)).unwrap();
        assert!(said.contains(part), "{said}");
    }
    for text in [
        r#"{"id": "keywords:existense", "keywords": ["a"]}"#,
        r#"{"id": "punctuation:no_comma", "comma": 1}"#,
        r#"{"id": "length_constraints:number_words", "num_words": 5, "relation": "at most"}"#,
        r#"{"id": "length_constraints:number_words", "num_words": 5}"#,
    ] {
        assert!(serde_json::from_str::<Instruction>(text).is_err(), "{text}");
    }
}

#[test]
fn a_hostile_pattern_is_matched_in_linear_time() {
    let keyword = read(r#"{"id": "keywords:existence", "keywords": ["(a+)+(a+)+(a+)+$"]}"#);
    let began = std::time::Instant::now();
    assert_eq!(follows(&keyword, &format!("{}b", "a".repeat(100_000))), Some(false));
    assert!(began.elapsed().as_secs() < 5);
}

#[test]
fn long_texts_of_signs_are_read_in_linear_time() {
    let began = std::time::Instant::now();
    for sign in [".", "*", "\"", "'", "- ", "[", "<", "a.", "\n", "A'S "] {
        let text = sign.repeat(100_000 / sign.len());
        for instruction in [
            r#"{"id": "length_constraints:number_sentences", "num_sentences": 5, "relation": "at least"}"#,
            r#"{"id": "change_case:capital_word_frequency", "capital_frequency": 1, "capital_relation": "at least"}"#,
            r#"{"id": "detectable_format:number_bullet_lists", "num_bullets": 1}"#,
            r#"{"id": "detectable_content:number_placeholders", "num_placeholders": 1}"#,
            r#"{"id": "detectable_format:title"}"#,
            r#"{"id": "language:response_language", "language": "en"}"#,
        ] {
            let _ = follows(&read(instruction), &text);
        }
    }
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
}
