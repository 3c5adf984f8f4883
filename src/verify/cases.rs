//! Texts from public bug reports of graders and in the manner of models, each with the score that it deserves.

use super::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    id: String,
    answer: Option<String>,
    verifier: Option<Verifier>,
    text: String,
    want: f32,
}

/// Whether Python here has numpy, which two of the programs import.
fn has_numpy() -> bool {
    let status = std::process::Command::new("python3")
        .args(["-I", "-c", "import numpy"])
        .stderr(std::process::Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

#[test]
#[allow(clippy::print_stderr)]
fn texts_of_public_reports_get_the_scores_that_they_deserve() {
    let lines = include_str!("../../tests/golden/verifier_cases.jsonl").lines();
    let cases: Vec<Case> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(cases.len(), 260);
    let numpy = has_numpy();
    if !numpy {
        eprintln!("SKIPPED: two programs that import numpy, which is not installed");
    }
    let mut wrong = Vec::new();
    for case in cases.into_iter().filter(|case| numpy || !case.id.starts_with("code-numpy")) {
        let Case { id, answer, verifier, text, want } = case;
        let prompt = Prompt { id, task: "t".into(), text: "?".into(), turns: vec![], answer, verifier };
        let checked = Checker::open([&prompt], true).unwrap().check(&prompt, &text);
        if checked.as_ref().map(|checked| checked.score) != Ok(want) {
            wrong.push(format!("{}: {text:?} deserves {want}, got {checked:?}", prompt.id));
        }
    }
    assert!(wrong.is_empty(), "{} differ: {wrong:#?}", wrong.len());
}

#[derive(Deserialize)]
struct Reading {
    id: String,
    answer: Option<String>,
    verifier: Option<Verifier>,
    options: Option<Vec<String>>,
    text: String,
    /// None if the answer is to be refused.
    want: Option<f32>,
    letter: Option<String>,
}

#[test]
fn texts_in_the_manner_of_models_are_read_as_a_reader_would() {
    let lines = include_str!("../../tests/golden/reading_cases.jsonl").lines();
    let readings: Vec<Reading> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(readings.len(), 1279);
    let mut wrong = Vec::new();
    for Reading { id, answer, verifier, options, text, want, letter } in readings {
        if let Some(options) = options {
            let chosen =
                choice::chosen(without_thoughts(&text), &options).map(|index| choice::letter(index).to_string());
            if chosen != letter {
                wrong.push(format!("{id}: {text:?} chooses {letter:?}, got {chosen:?}"));
            }
            continue;
        }
        let prompt = Prompt { id, task: "t".into(), text: "?".into(), turns: vec![], answer, verifier };
        let got = score(&prompt, &text).ok();
        if got != want {
            wrong.push(format!("{}: {text:?} for {:?} deserves {want:?}, got {got:?}", prompt.id, prompt.answer));
        }
    }
    assert!(wrong.is_empty(), "{} differ: {wrong:#?}", wrong.len());
}
