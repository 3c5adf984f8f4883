//! Checkers of verifiable tasks: whether a text gives the answer that its prompt carries.
//!
//! Here there is one family, a number ([`number`]): the last number of the text is what it answers. This
//! file compares texts with an answer and never with each other; it knows no model and no judge's words.
//!
//! Invariants: a text without a number is a wrong answer; a prompt without a usable answer gives no
//! judgement at all, which is never a loss.

use crate::episode::{Invalid, Prompt, Verdict};
use number::Number;

pub mod number;

/// Whether `prompt` carries an answer that can be checked: a text with exactly one number in it.
pub fn can_check(prompt: &Prompt) -> bool {
    expected(prompt).is_some()
}

/// Whether `text` answers `prompt` rightly; none where the prompt carries no answer that can be checked.
pub fn check(prompt: &Prompt, text: &str) -> Option<bool> {
    let expected = expected(prompt)?;
    Some(Number::last_in(text).is_some_and(|given| given == expected))
}

/// Preference of `refinement` over `response` by the prompt's own answer: a win where only the refinement
/// is right, a loss where only the response is, else a tie.
pub fn compare(prompt: &Prompt, response: &str, refinement: &str) -> Verdict {
    match (check(prompt, response), check(prompt, refinement)) {
        (Some(before), Some(after)) if before == after => Verdict::Tie,
        (Some(_), Some(true)) => Verdict::Win,
        (Some(_), Some(false)) => Verdict::Loss,
        _ => Verdict::Invalid(Invalid::Checker),
    }
}

fn expected(prompt: &Prompt) -> Option<Number> {
    Number::only_in(prompt.answer.as_deref()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn prompt(answer: Option<&str>) -> Prompt {
        Prompt { id: "p".into(), task: "t".into(), text: "What is 3 + 4?".into(), answer: answer.map(Into::into) }
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
        assert_eq!(check(&seven, "I do not know."), Some(false));
        assert_eq!(check(&seven, ""), Some(false));
        assert_eq!(compare(&seven, "seven", "7"), Verdict::Win);
    }

    #[test]
    fn a_prompt_without_a_usable_answer_gives_no_judgement() {
        for answer in [None, Some(""), Some("seven"), Some("3 or 4")] {
            let prompt = prompt(answer);
            assert!(!can_check(&prompt), "{answer:?}");
            assert_eq!(check(&prompt, "7"), None);
            assert_eq!(compare(&prompt, "7", "8"), Verdict::Invalid(Invalid::Checker));
        }
        assert!(can_check(&prompt(Some("$1,234.50"))));
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
            assert_eq!(check(prompt, &format!("The answer is {answer}.")), Some(true), "{prompt:?}");
            assert_eq!(check(prompt, &format!("{answer}1")), Some(false), "{prompt:?}");
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
