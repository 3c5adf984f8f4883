//! Texts from public bug reports of graders, each with the score that it deserves.

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
