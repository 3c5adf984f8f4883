//! Verifiers: how correct a text is, by what its prompt carries.
//!
//! A prompt names its verifier ([`Verifier`]); one with an answer and no verifier is checked as a number. One file per
//! family: numbers and expressions (`math`), words (`text`), multiple choice (`choice`), IFEval's
//! instructions (`ifeval`), Python functions ([`code`], in a [`sandbox`]), the user's own programs and servers (`program`). Texts are compared with an answer, never with
//! each other.
//!
//! Invariants: a text without an answer is wrong; a failed check gives a reason and no score, and is never a loss; each
//! check takes bounded text and linear time.

use crate::types::thoughts::without_thoughts;
use crate::types::verifier::Verifier;
use crate::types::{Invalid, Prompt, Verdict};
use agreed::AgreedScores;
use code::{CodeTask, ProgramFailure};
pub use explanation::Explanation;
use instructions::share;
use math::MathAnswer;
use program::Programs;
pub use result::{CheckError, CheckResult, TEXT_BYTES_MAX};
use sandbox::{Limits, Sandbox};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::time::Duration;

mod agreed;
mod choice;
pub mod code;
mod explanation;
mod ifeval;
mod instructions;
mod marker;
mod math;
mod program;
mod result;
pub mod sandbox;
mod text;

/// Sends a question to a verifier's server, within a deadline, and returns its reply.
pub type AskServer = fn(&str, &Value, Duration) -> Result<String, String>;

/// Checks texts of every kind. Has a sandbox if there is code to run, and the user's programs if there are any.
#[derive(Debug)]
pub struct Checker {
    sandbox: Option<Sandbox>,
    programs: Option<Programs>,
    ask_server: Option<AskServer>,
    agreed: AgreedScores<Result<CheckResult, CheckError>>,
}

impl Checker {
    /// A checker for `prompts`, with a sandbox if any of them needs code to be run.
    ///
    /// # Errors
    /// If code must be run and cannot be, or not in isolation while `allow_unsandboxed` is false.
    pub fn open<'a>(
        prompts: impl IntoIterator<Item = &'a Prompt>,
        allow_unsandboxed: bool,
    ) -> Result<Self, sandbox::Error> {
        let (mut code, mut command) = (false, false);
        for prompt in prompts {
            code |= matches!(prompt.verifier, Some(Verifier::Code { .. }));
            command |= matches!(prompt.verifier, Some(Verifier::Command { .. }));
        }
        let open = || Sandbox::open(code::PARTIES, Limits::default(), allow_unsandboxed);
        let sandbox = code.then(open).transpose()?;
        sandbox.iter().for_each(tell_protections);
        let programs = command.then(|| Programs::open(allow_unsandboxed)).transpose()?;
        Ok(Self { sandbox, programs, ask_server: None, agreed: AgreedScores::default() })
    }

    /// The same checker, which asks verifiers' servers through `ask_server`.
    pub fn with_servers(self, ask_server: AskServer) -> Self {
        Self { ask_server: Some(ask_server), ..self }
    }

    /// The sandbox, if there is one.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandbox.as_ref()
    }

    /// Checks `text` as an answer to `prompt`. Code takes as long as its limits allow; everything else is fast.
    ///
    /// # Errors
    /// If the prompt has nothing to check by, or the check fails; there is no score then.
    pub fn check(&self, prompt: &Prompt, text: &str) -> Result<CheckResult, CheckError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(CheckError::TooLong(text.len()));
        }
        let (entry_point, test, preamble) = match &prompt.verifier {
            Some(Verifier::Code { entry_point, test, preamble }) => (entry_point, test, preamble),
            Some(Verifier::Command { argv, timeout_seconds }) => {
                let programs =
                    self.programs.as_ref().ok_or_else(|| CheckError::Own("no programs were opened".to_owned()))?;
                return own_score(programs.ask(argv, &question(prompt, text), Duration::from_secs(*timeout_seconds)));
            }
            Some(Verifier::Http { url, timeout_seconds }) => {
                let ask = self.ask_server.ok_or_else(|| CheckError::Own("no server can be asked here".to_owned()))?;
                return own_score(ask(url, &question(prompt, text), Duration::from_secs(*timeout_seconds)));
            }
            _ => return Ok(CheckResult { score: score(prompt, text)?, failure: None }),
        };
        let none = || sandbox::Error::NoIsolation("a checker opened without code".to_owned());
        let sandbox = self.sandbox.as_ref().ok_or_else(none)?;
        let task = CodeTask { entry_point, test, preamble };
        // A failure of the sandbox says nothing about the text.
        let keep = |result: &Result<_, _>| !matches!(result, Err(CheckError::Sandbox(_)));
        self.agreed.get_or_check(&key(task, text), || run_twice(sandbox, task, text), keep)
    }

    /// What `text` is read as, what was expected, and its score.
    pub fn explain(&self, prompt: &Prompt, text: &str) -> Explanation {
        let result = self.check(prompt, text);
        Explanation { expected: explanation::expected(prompt), extracted: explanation::extracted(prompt, text), result }
    }

    /// The verdict on each of `refinements` against `response`, by the verifier of `prompt`; `seen` is shown each check.
    pub fn compare(
        &self,
        prompt: &Prompt,
        response: &str,
        refinements: &[&str],
        seen: impl Fn(&Result<CheckResult, CheckError>),
    ) -> Vec<Verdict> {
        let score = |text: &str| {
            let checked = self.check(prompt, text);
            seen(&checked);
            if let Ok(CheckResult { failure: Some(failure), .. }) = &checked {
                tracing::debug!(prompt = prompt.id, %failure, "program failed its tests");
            }
            checked
                .map(|checked| checked.score)
                .inspect_err(|error| tracing::warn!(prompt = prompt.id, %error, "check failed"))
        };
        let before = score(response);
        refinements.iter().map(|text| prefer(before.clone(), score(text))).collect()
    }
}

/// What a verifier of the user's is asked.
fn question(prompt: &Prompt, text: &str) -> Value {
    let Prompt { id, task, text: asked, answer, .. } = prompt;
    serde_json::json!({ "id": id, "task": task, "prompt": asked, "answer": answer, "text": text })
}

fn own_score(reply: Result<String, String>) -> Result<CheckResult, CheckError> {
    let score = reply.and_then(|reply| program::score(&reply)).map_err(CheckError::Own)?;
    Ok(CheckResult { score, failure: None })
}

/// The agreed result of two runs of the program in `text`. A lucky program is not a right one.
fn run_twice(sandbox: &Sandbox, task: CodeTask<'_>, text: &str) -> Result<CheckResult, CheckError> {
    let [first, second] = [0, 1].map(|turn| code::run_tests(sandbox, task, text, true, turn));
    let (first, second) = (first?, second?);
    if first.is_none() != second.is_none() {
        let told = |failure: Option<ProgramFailure>| failure.map_or("right".to_owned(), |failure| failure.to_string());
        return Err(CheckError::Unstable(told(first), told(second)));
    }
    Ok(CheckResult { score: f32::from(u8::from(first.is_none())), failure: first })
}

/// What identifies a check: the task and the text.
fn key(task: CodeTask<'_>, text: &str) -> String {
    let parts = [task.entry_point, task.test, task.preamble, text];
    const_hex::encode(Sha256::digest(serde_json::json!(parts).to_string()))
}

/// One line on what protects the machine, and a warning for what does not.
fn tell_protections(sandbox: &Sandbox) {
    let names = |held: bool, needed: bool| {
        let chosen = sandbox.protections().iter().filter(|p| p.holds == held && (p.needed || !needed));
        chosen.map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    tracing::info!(holds = names(true, false), missing = names(false, false), "opened the sandbox for code");
    let missing = names(false, true);
    if !missing.is_empty() {
        tracing::warn!(missing, "code runs without these protections, as judge.allow_unsandboxed allows");
    }
}

/// What is wrong with the answer or verifier of `prompt`; `None` if it can be checked.
pub fn complaint(prompt: &Prompt) -> Option<String> {
    let answer = prompt.answer.as_deref();
    let needs_text = || match answer {
        Some(answer) if !answer.trim().is_empty() => None,
        _ => Some("expected a text in \"answer\", got none".to_owned()),
    };
    match &prompt.verifier {
        None | Some(Verifier::Number {}) => match answer {
            Some(answer) if MathAnswer::expected(answer).is_some() => None,
            Some(answer) => {
                Some(format!("expected a number or an expression that can be read whole in \"answer\", got {answer:?}"))
            }
            None => Some("expected an \"answer\" or a \"verifier\" to check by, got neither".to_owned()),
        },
        Some(Verifier::Exact { .. } | Verifier::Text { .. }) => needs_text(),
        Some(Verifier::Choice { options }) => match (options.len(), answer) {
            (2..=26, Some(answer)) if choice::named(answer, options).is_some() => None,
            (2..=26, _) => Some(format!(
                "expected in \"answer\" a letter from A to {} or an option, got {answer:?}",
                choice::letter(options.len() - 1)
            )),
            (count, _) => Some(format!("expected 2 to 26 \"options\", got {count}")),
        },
        Some(Verifier::Ifeval { instructions, .. }) if instructions.is_empty() => {
            Some("expected at least one of \"instructions\", got none".to_owned())
        }
        Some(Verifier::Ifeval { instructions, .. }) => instructions.iter().find_map(ifeval::complaint),
        Some(Verifier::Command { argv, .. }) => {
            let named = argv.first().is_some_and(|program| !program.trim().is_empty());
            (!named).then(|| format!("expected a program in \"argv\", got {argv:?}"))
        }
        Some(Verifier::Http { url, .. }) => {
            let web = ["http://", "https://"].iter().any(|scheme| url.len() > scheme.len() && url.starts_with(scheme));
            (!web)
                .then(|| format!("expected an address such as \"http://127.0.0.1:9000/score\" in \"url\", got {url:?}"))
        }
        Some(Verifier::Code { entry_point, test, .. }) => {
            let is_name = entry_point.chars().all(|c| c.is_alphanumeric() || c == '_')
                && entry_point.starts_with(|c: char| !c.is_numeric());
            match (is_name, test.contains("def check(")) {
                (false, _) => Some(format!("expected a function's name in \"entry_point\", got {entry_point:?}")),
                (_, false) => Some("expected \"test\" to define check(candidate)".to_owned()),
                _ => None,
            }
        }
    }
}

/// Whether `prompt` can be checked.
pub fn can_check(prompt: &Prompt) -> bool {
    complaint(prompt).is_none()
}

/// The score of a text for any verifier but code.
fn score(prompt: &Prompt, text: &str) -> Result<f32, CheckError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(CheckError::TooLong(text.len()));
    }
    let text = without_thoughts(text);
    let unfit = || CheckError::Prompt(complaint(prompt).unwrap_or_default());
    let answer = || prompt.answer.as_deref().filter(|answer| !answer.trim().is_empty()).ok_or_else(unfit);
    let right = match &prompt.verifier {
        None | Some(Verifier::Number {}) => {
            let expected = MathAnswer::expected(answer()?).ok_or_else(unfit)?;
            MathAnswer::of(text).is_some_and(|given| given.agrees(&expected))
        }
        Some(Verifier::Exact { accept }) => text::matches_exactly(text, accepted(answer()?, accept)),
        Some(Verifier::Text { accept }) => text::matches_normalised(text, accepted(answer()?, accept)),
        Some(Verifier::Choice { options }) => {
            let expected = choice::named(answer()?, options).ok_or_else(unfit)?;
            choice::chosen(text, options) == Some(expected)
        }
        Some(Verifier::Ifeval { instructions, repaired }) => {
            return share(instructions, *repaired, text).ok_or_else(unfit);
        }
        Some(Verifier::Code { .. } | Verifier::Command { .. } | Verifier::Http { .. }) => return Err(unfit()),
    };
    Ok(f32::from(u8::from(right)))
}

fn accepted<'a>(answer: &'a str, accept: &'a [String]) -> impl Iterator<Item = &'a str> {
    std::iter::once(answer).chain(accept.iter().map(String::as_str))
}

/// The verdict by the scores of a response and its refinement: a win if the refinement's is higher, a loss if it is lower,
/// else a tie; invalid if either has no score.
pub fn prefer(response: Result<f32, CheckError>, refinement: Result<f32, CheckError>) -> Verdict {
    match (response, refinement) {
        (Ok(before), Ok(after)) if after > before => Verdict::Win,
        (Ok(before), Ok(after)) if after < before => Verdict::Loss,
        (Ok(_), Ok(_)) => Verdict::Tie,
        _ => Verdict::Invalid(Invalid::Checker),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod cases;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn compare(prompt: &Prompt, response: &str, refinement: &str) -> Verdict {
        Checker::open([prompt], false).unwrap().compare(prompt, response, &[refinement], |_| ())[0]
    }

    fn prompt(answer: Option<&str>) -> Prompt {
        Prompt {
            id: "p".into(),
            task: "t".into(),
            text: "What is 3 + 4?".into(),
            turns: Vec::new(),
            answer: answer.map(Into::into),
            verifier: None,
        }
    }

    #[test]
    fn better_wins_equal_ties_and_worse_loses() {
        let seven = prompt(Some("7"));
        let (right, wrong) = ("3 + 4 = 7.", "It is 8.");
        assert_eq!(compare(&seven, wrong, right), Verdict::Win);
        assert_eq!(compare(&seven, right, wrong), Verdict::Loss);
        assert_eq!(compare(&seven, right, "7"), Verdict::Tie);
        assert_eq!(compare(&seven, wrong, "9"), Verdict::Tie);
    }

    #[test]
    fn a_text_without_a_number_is_a_wrong_answer() {
        let seven = prompt(Some("7"));
        assert_eq!(score(&seven, "I do not know."), Ok(0.0));
        assert_eq!(score(&seven, ""), Ok(0.0));
        assert_eq!(compare(&seven, "some", "7"), Verdict::Win);
    }

    #[test]
    fn a_prompt_without_a_usable_answer_gives_no_judgement() {
        for answer in [None, Some(""), Some("none of these"), Some("12 of 40")] {
            let prompt = prompt(answer);
            assert!(!can_check(&prompt), "{answer:?}");
            assert!(score(&prompt, "7").is_err());
            assert_eq!(compare(&prompt, "7", "8"), Verdict::Invalid(Invalid::Checker));
        }
        assert!(can_check(&prompt(Some("$1,234.50"))));
    }

    fn line(text: &str) -> Prompt {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn each_kind_of_verifier_is_named_by_the_prompts_line() {
        for (more, right, wrong) in [
            (r#""answer": "3/4", "verifier": {"kind": "number"}"#, r"\boxed{0.75}", "0.7"),
            (r#""answer": "cba", "verifier": {"kind": "exact"}"#, " cba", "CBA"),
            (r#""answer": "The Moon", "verifier": {"kind": "text", "accept": ["Luna"]}"#, "luna!", "Mars"),
            (r#""answer": "B", "verifier": {"kind": "choice", "options": ["one", "two"]}"#, "(B)", "one"),
        ] {
            let prompt = line(&format!(r#"{{"id": "p", "task": "t", "prompt": "?", {more}}}"#));
            assert_eq!(complaint(&prompt), None);
            assert_eq!((score(&prompt, right), score(&prompt, wrong)), (Ok(1.0), Ok(0.0)), "{more}");
            assert_eq!(compare(&prompt, wrong, right), Verdict::Win);
        }
    }

    #[test]
    fn instructions_score_the_share_that_is_followed() {
        let prompt = line(
            r#"{"id": "p", "task": "t", "prompt": "?", "verifier": {"kind": "ifeval", "instructions": [
                {"id": "punctuation:no_comma"}, {"id": "detectable_format:title"},
                {"id": "length_constraints:number_words", "num_words": 3, "relation": "at least"}]}}"#,
        );
        assert_eq!(score(&prompt, "<<one two>> three"), Ok(1.0));
        assert_eq!(score(&prompt, "one, two three"), Ok(1.0 / 3.0));
        assert_eq!(score(&prompt, ""), Ok(0.0));
        assert_eq!(compare(&prompt, "one, two", "one two"), Verdict::Win);
        assert_eq!(compare(&prompt, "one two three", "one, two three"), Verdict::Loss);
    }

    #[test]
    fn what_cannot_be_checked_is_named_and_never_scored() {
        for (more, part) in [
            (r#""verifier": {"kind": "text"}"#, "answer"),
            (r#""answer": "C", "verifier": {"kind": "choice", "options": ["one", "two"]}"#, "from A to B"),
            (r#""answer": "A", "verifier": {"kind": "choice", "options": ["one"]}"#, "2 to 26"),
            (r#""verifier": {"kind": "ifeval", "instructions": []}"#, "instructions"),
            (r#""verifier": {"kind": "code", "entry_point": "f", "test": "assert f()"}"#, "check(candidate)"),
            (r#""verifier": {"kind": "code", "entry_point": "f()", "test": "def check(f): f()"}"#, "entry_point"),
        ] {
            let prompt = line(&format!(r#"{{"id": "p", "task": "t", "prompt": "?", {more}}}"#));
            assert!(complaint(&prompt).unwrap().contains(part), "{more}");
            assert!(score(&prompt, "B").is_err(), "{more}");
            assert_eq!(prefer(Ok(1.0), score(&prompt, "B")), Verdict::Invalid(Invalid::Checker));
        }
        let long = "7 ".repeat(TEXT_BYTES_MAX);
        assert_eq!(score(&prompt(Some("7")), &long), Err(CheckError::TooLong(long.len())));
        for more in [r#""verifier": {"kind": "vibes"}"#, r#""verifier": {"kind": "number", "tolerance": 1}"#] {
            let line = format!(r#"{{"id": "p", "task": "t", "prompt": "?", "answer": "1", {more}}}"#);
            assert!(serde_json::from_str::<Prompt>(&line).is_err(), "{more}");
        }
    }

    #[test]
    fn the_bundled_prompts_are_checkable_balanced_and_disjoint() {
        let train = crate::prompts::load("bundled:arithmetic-train").unwrap();
        let heldout = crate::prompts::load("bundled:arithmetic-heldout").unwrap();
        assert_eq!((train.len(), heldout.len()), (360, 100));
        let kinds = |prompts: &[Prompt]| {
            let mut counts = BTreeMap::new();
            prompts.iter().for_each(|prompt| *counts.entry(prompt.task.clone()).or_insert(0) += 1);
            counts.into_iter().collect::<Vec<_>>()
        };
        let tasks = ["largest", "letter_count", "product", "sum_difference", "word_problem"];
        assert_eq!(kinds(&train), tasks.map(|task| (task.to_owned(), 72)));
        assert_eq!(kinds(&heldout), tasks.map(|task| (task.to_owned(), 20)));
        for held in &heldout {
            assert!(train.iter().all(|learned| learned.id != held.id && learned.text != held.text), "{held:?}");
        }
        for prompt in train.iter().chain(&heldout) {
            let answer = prompt.answer.as_deref().unwrap();
            assert_eq!(score(prompt, &format!("The answer is {answer}.")), Ok(1.0), "{prompt:?}");
            assert_eq!(score(prompt, &format!("{answer}1")), Ok(0.0), "{prompt:?}");
        }
    }

    #[test]
    fn every_bundled_prompt_can_be_used_and_none_that_is_held_out_is_learned() {
        for (set, counts) in [
            ("arithmetic", [360, 100]),
            ("ifeval", [398, 141]),
            ("reasoning", [240, 90]),
            ("qa", [300, 100]),
            ("summarization", [216, 80]),
            ("dialog", [64, 21]),
        ] {
            let [train, heldout] =
                ["train", "heldout"].map(|split| crate::prompts::load(&format!("bundled:{set}-{split}")).unwrap());
            assert_eq!([train.len(), heldout.len()], counts, "{set}");
            for prompt in train.iter().chain(&heldout) {
                let judged = ["summarization", "dialog"].contains(&set);
                assert_eq!(prompt.verifier.is_none() && prompt.answer.is_none(), judged, "{prompt:?}");
                assert!(judged || can_check(prompt), "{prompt:?}: {:?}", complaint(prompt));
            }
            let learned: std::collections::BTreeSet<_> = train.iter().map(|prompt| &prompt.text).collect();
            assert!(heldout.iter().all(|prompt| !learned.contains(&prompt.text)), "{set}");
        }
        assert!(crate::prompts::load("bundled:humaneval").unwrap().iter().all(can_check));
        for set in ["reasoning-train", "reasoning-heldout", "qa-train", "qa-heldout"] {
            for prompt in crate::prompts::load(&format!("bundled:{set}")).unwrap() {
                let answer = prompt.answer.as_deref().unwrap();
                for text in [answer.to_owned(), format!("The answer is {answer}")] {
                    assert_eq!(score(&prompt, &text), Ok(1.0), "{prompt:?}");
                }
                assert_eq!(score(&prompt, "I do not know."), Ok(0.0), "{prompt:?}");
            }
        }
    }

    #[test]
    fn the_bundled_answers_are_right() {
        let integers = |text: &str| -> Vec<i64> {
            text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
        };
        let bundles = ["bundled:arithmetic-train", "bundled:arithmetic-heldout"];
        let mut checked = 0;
        for prompt in bundles.iter().flat_map(|bundle| crate::prompts::load(bundle).unwrap()) {
            let numbers = integers(&prompt.text);
            let expected = match prompt.task.as_str() {
                "sum_difference" if prompt.text.contains('+') || prompt.text.starts_with("Add") => {
                    numbers[0] + numbers[1]
                }
                "sum_difference" => (numbers[0] - numbers[1]).abs(),
                "largest" => *numbers.iter().max().unwrap(),
                "product" => numbers[0] * numbers[1],
                "letter_count" => {
                    let quoted: Vec<_> = prompt.text.split('"').skip(1).step_by(2).collect();
                    quoted[1].matches(quoted[0]).count() as i64
                }
                _ => continue,
            };
            assert_eq!(prompt.answer.as_deref(), Some(expected.to_string().as_str()), "{prompt:?}");
            checked += 1;
        }
        assert_eq!(checked, 4 * 92);
    }
}
