//! Whether a critique says that the criticised text is right or wrong: a rule over its words, the same for every critic.
//!
//! 1. *Explicit.* `incorrect`, `wrong`, `false`, `inaccurate`, `mistaken`, `mistake(s)` and `error(s)` mean wrong;
//!    `correct`, `right`, `accurate` and `true` mean right; negation inverts them ("not quite right", "no errors"). A leading
//!    "yes" or "no" counts too. `right` etc. before a noun ("the correct answer is", "to correct the sum") mean nothing
//!    unless after "is" ("this is the correct answer"). Nothing counts after "if" or "whether".
//! 2. *By another answer.* Otherwise the first "answer is X" (or "result", "sum", ...; "should be X") means wrong, unless
//!    the criticised text ends with the same number or, without numbers, contains X.
//!
//! Invariant: a critique that says neither, or explicitly both, has no stance.

/// What a critique says about the criticised text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    /// It is right.
    Right,
    /// It is wrong.
    Wrong,
}

impl Stance {
    fn denied(self) -> Self {
        match self {
            Self::Right => Self::Wrong,
            Self::Wrong => Self::Right,
        }
    }
}

const RIGHT: [&str; 5] = ["correct", "right", "accurate", "true", "correctly"];
const WRONG: [&str; 6] = ["incorrect", "wrong", "false", "inaccurate", "mistaken", "incorrectly"];
const ERROR_WORDS: [&str; 4] = ["mistake", "mistakes", "error", "errors"];
/// Nouns for an answer.
const ANSWERS: [&str; 12] = [
    "answer",
    "answers",
    "result",
    "response",
    "solution",
    "number",
    "value",
    "sum",
    "product",
    "difference",
    "total",
    "count",
];
const BE: [&str; 5] = ["is", "was", "be", "are", "equals"];
const DENIALS: [&str; 9] = ["not", "no", "never", "nothing", "without", "cannot", "hardly", "almost", "nearly"];
/// How many words before a word can negate it: "is not quite right".
const REACH: usize = 2;

/// The stance of `critique` on `text`; `None` if it has none.
pub fn stance(critique: &str, text: &str) -> Option<Stance> {
    let words = words(critique);
    let mut said = (0..words.len()).filter_map(|at| outright(&words, at));
    if let Some(first) = said.next() {
        return said.all(|other| other == first).then_some(first);
    }
    let stated = stated(critique, &words)?;
    // In "85 - 23 = 62" the answer follows the equals sign.
    let stated = stated.rsplit_once('=').map_or(stated, |(_, value)| value);
    let same = match (number(stated, false), number(text, true)) {
        (Some(stated), given) => given == Some(stated),
        (None, _) => holds(text, stated)?,
    };
    Some(if same { Stance::Right } else { Stance::Wrong })
}

/// A word in lower case, and where it ends.
struct Word {
    text: String,
    end: usize,
    /// A sentence, a line or a clause ends after it.
    closes: bool,
    /// A colon follows.
    announces: bool,
}

impl Word {
    fn is_one_of(&self, list: &[&str]) -> bool {
        list.contains(&self.text.as_str())
    }

    fn denies(&self) -> bool {
        self.is_one_of(&DENIALS) || self.text.ends_with("n't") || self.text.ends_with("n\u{2019}t")
    }
}

/// Runs of letters, digits and apostrophes.
fn words(text: &str) -> Vec<Word> {
    let inside = |c: char| c.is_alphanumeric() || matches!(c, '\'' | '\u{2019}');
    let (mut words, mut from) = (Vec::new(), 0);
    while let Some(start) = text[from..].find(inside).map(|at| from + at) {
        let end = text[start..].find(|c| !inside(c)).map_or(text.len(), |at| start + at);
        let behind = text[end..].find(inside).map_or(&text[end..], |at| &text[end..end + at]);
        let word = text[start..end].trim_matches(['\'', '\u{2019}']).to_lowercase();
        if !word.is_empty() {
            let closes = behind.contains(['.', '!', '?', ':', ';', ',', '\n']);
            words.push(Word { text: word, end, closes, announces: behind.starts_with(':') });
        }
        from = end;
    }
    words
}

/// The explicit stance of the word at `at`.
fn outright(words: &[Word], at: usize) -> Option<Stance> {
    let word = &words[at];
    if at == 0 && word.closes && word.is_one_of(&["yes", "no"]) {
        return Some(if word.text == "yes" { Stance::Right } else { Stance::Wrong });
    }
    let clause = words[..at].iter().rev().take(REACH).take_while(|word| !word.closes);
    if words[..at].iter().rev().take_while(|word| !word.closes).any(|word| word.is_one_of(&["if", "whether"])) {
        return None;
    }
    let denied = clause.into_iter().any(Word::denies);
    let stance = if word.is_one_of(&ERROR_WORDS) || word.is_one_of(&WRONG) {
        Stance::Wrong
    } else if word.is_one_of(&RIGHT) && (is_behind_be(words, at) || !is_before_noun(words, at)) {
        Stance::Right
    } else {
        return None;
    };
    Some(if denied { stance.denied() } else { stance })
}

/// Whether the word at `at` modifies what follows ("the correct answer") or is a verb ("correct the sum").
fn is_before_noun(words: &[Word], at: usize) -> bool {
    let glues = ["and", "or", "but", "because", "since", "as", "for", "in", "to"];
    !words[at].closes && words.get(at + 1).is_some_and(|next| !next.is_one_of(&glues) && !next.is_one_of(&BE))
}

/// Whether it follows "is": "is the correct answer", "is not a right answer".
fn is_behind_be(words: &[Word], at: usize) -> bool {
    let before = words[..at].iter().rev().take_while(|word| !word.closes);
    let mut before = before.skip_while(|word| word.is_one_of(&["the", "a", "an"]) || word.denies());
    before.next().is_some_and(|word| word.is_one_of(&["is", "was", "isn't", "wasn't"]))
}

/// The answer that the critique gives: the rest of the sentence after "answer is" or "should be".
fn stated<'a>(critique: &'a str, words: &[Word]) -> Option<&'a str> {
    let gives = |at: &usize| {
        let pair = [&words[*at], &words[*at + 1]];
        pair[1].is_one_of(&BE) && (pair[0].is_one_of(&ANSWERS) || pair[0].is_one_of(&["should", "would"]))
            || pair[0].is_one_of(&ANSWERS) && pair[0].announces
    };
    let at = (0..words.len().saturating_sub(1)).find(gives)?;
    let last = if words[at + 1].is_one_of(&BE) { at + 1 } else { at };
    // "if the answer is correct" gives no other answer.
    if words.get(last + 1).is_some_and(|next| next.is_one_of(&RIGHT) || next.is_one_of(&WRONG)) {
        return None;
    }
    // In "answer should be X" the verb ends later.
    let rest = &critique[words[last].end..];
    let end = rest.find(". ").or_else(|| rest.find('\n')).unwrap_or(rest.len());
    Some(&rest[..end])
}

/// The first number of `text`, or its last.
fn number(text: &str, last: bool) -> Option<f64> {
    let inside = |c: char| c.is_ascii_digit() || matches!(c, ',' | '.');
    let parse = |run: &str| run.trim_matches([',', '.']).replace(',', "").parse().ok();
    let mut numbers = text.split(|c| !inside(c)).filter(|run| run.contains(|c: char| c.is_ascii_digit()));
    if last { numbers.next_back().and_then(parse) } else { numbers.next().and_then(parse) }
}

/// Whether `text` contains the words of `stated`; `None` if there are none.
fn holds(text: &str, stated: &str) -> Option<bool> {
    let joined = |text: &str| words(text).into_iter().map(|word| word.text).collect::<Vec<_>>().join(" ");
    let (text, stated) = (format!(" {} ", joined(text)), joined(stated));
    (!stated.is_empty()).then(|| text.contains(&format!(" {stated} ")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct LabelledCritique {
        response: String,
        critique: String,
        label: Option<String>,
        seen: bool,
    }

    #[test]
    fn people_read_most_critiques_alike_and_hardly_any_the_other_way_round() {
        let lines = include_str!("../../tests/golden/critiques_labelled.jsonl").lines();
        let labelled: Vec<LabelledCritique> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        // Those that the rule was made with in view, and those that were labelled when it stood.
        for (seen, count, alike_min, opposite_max) in [(true, 68, 60, 1), (false, 30, 21, 0)] {
            let part: Vec<_> = labelled.iter().filter(|one| one.seen == seen).collect();
            let (mut alike, mut opposite) = (0, 0);
            for LabelledCritique { response, critique, label, .. } in &part {
                let label = label.as_deref().map(|label| if label == "right" { Stance::Right } else { Stance::Wrong });
                let read = stance(critique, response);
                alike += usize::from(read == label);
                opposite += usize::from(read.is_some() && label.is_some() && read != label);
            }
            assert!(part.len() == count && alike >= alike_min && opposite <= opposite_max, "{seen} {alike} {opposite}");
        }
    }

    #[test]
    fn what_is_said_outright_counts_and_its_denial_turns_it_round() {
        for (critique, expected) in [
            ("The answer is wrong.", Some(Stance::Wrong)),
            ("Yes, it is correct.", Some(Stance::Right)),
            ("No, it isn't right.", Some(Stance::Wrong)),
            ("That is not quite right: check the carry.", Some(Stance::Wrong)),
            ("There are no errors.", Some(Stance::Right)),
            ("This is the correct answer.", Some(Stance::Right)),
            ("That is not the right answer.", Some(Stance::Wrong)),
            ("It is incorrect because the correct answer is 12.", Some(Stance::Wrong)),
            ("Correct.", Some(Stance::Right)),
            ("It is right, and it is wrong.", None),
            ("Use the right method next time", None),
            ("A poem about the sea", None),
            ("", None),
        ] {
            assert_eq!(stance(critique, "12"), expected, "{critique}");
        }
    }

    #[test]
    fn another_answer_says_wrong_and_the_same_one_right() {
        for (critique, text, expected) in [
            ("The correct answer is 1,234.", "It is 1234.", Some(Stance::Right)),
            ("The correct answer is 12.", "3 + 8 = 11", Some(Stance::Wrong)),
            ("The answer should be 12", "12", Some(Stance::Right)),
            ("It should be 12.", "I cannot say.", Some(Stance::Wrong)),
            ("Correct answer: Paris", "The city is paris, of course.", Some(Stance::Right)),
            ("The correct answer is Rome. Paris is in France.", "Paris", Some(Stance::Wrong)),
            ("The correct answer is", "Paris", None),
        ] {
            assert_eq!(stance(critique, text), expected, "{critique} of {text}");
        }
    }
}
