//! Parses a judge's choice from its text.
//!
//! In this order: if there are marks in double brackets (`[[A]]`, `[[tie]]`), they decide; else a text that is only a
//! verdict, in any case (`b.`, `**Tie**`); else everything the prose says. In prose a capital letter names an answer,
//! unless it is an article at the start of a sentence ("A better answer is B"), follows "than" or "not", is denied ("A is
//! not better", "A is worse") or is listed with the other letter ("A and B"). "Tie", "both", "neither", "equally", "are
//! equal", "the same" and "a draw" mean tie.
//!
//! Invariant: a text with no verdict, or with two different ones, has none. Nothing is guessed.

use crate::types::Choice;

/// The verdict of `text`, if it contains exactly one.
pub(super) fn read(text: &str) -> Option<Choice> {
    let words = words(text);
    let marks: Vec<_> = marks(text).collect();
    if !marks.is_empty() {
        return agreed(marks.into_iter());
    }
    whole(&words).or_else(|| agreed((0..words.len()).filter_map(|at| said(&words, at))))
}

/// A word and its position relative to sentence borders.
#[derive(Debug)]
struct Word<'a> {
    text: &'a str,
    /// It is the first word of a sentence, of a line or after a colon.
    opens: bool,
    /// Something other than spaces separates it from the next word, or it is the last word.
    closes: bool,
}

impl Word<'_> {
    fn is(&self, word: &str) -> bool {
        self.text.eq_ignore_ascii_case(word)
    }

    fn is_one_of(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(word))
    }
}

/// Runs of letters, digits and apostrophes.
fn words(text: &str) -> Vec<Word<'_>> {
    let inside = |c: char| c.is_alphanumeric() || matches!(c, '\'' | '\u{2019}');
    let mut words: Vec<Word<'_>> = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(inside) {
        let (gap, from) = rest.split_at(start);
        let end = from.find(|c| !inside(c)).unwrap_or(from.len());
        if let Some(last) = words.last_mut() {
            last.closes = !gap.chars().all(|c| c == ' ');
        }
        let opens = words.is_empty() || gap.contains(['.', '!', '?', ':', '\n']);
        words.push(Word { text: from[..end].trim_matches(['\'', '\u{2019}']), opens, closes: true });
        rest = &from[end..];
    }
    words
}

/// The verdict, if all of `verdicts` agree.
fn agreed(mut verdicts: impl Iterator<Item = Choice>) -> Option<Choice> {
    let first = verdicts.next()?;
    verdicts.all(|verdict| verdict == first).then_some(first)
}

/// `[[A]]`, `[[B]]`, `[[tie]]` and MT-Bench's `[[C]]`, which means tie.
fn marks(text: &str) -> impl Iterator<Item = Choice> {
    text.split("[[").skip(1).filter_map(|behind| {
        let mark = behind.split_once("]]")?.0.trim().to_ascii_lowercase();
        letter(&mark).or((mark == "tie" || mark == "c").then_some(Choice::Tie))
    })
}

fn letter(word: &str) -> Option<Choice> {
    match word {
        "A" | "a" => Some(Choice::A),
        "B" | "b" => Some(Choice::B),
        _ => None,
    }
}

/// Nouns for the answers.
const NOUNS: [&str; 5] = ["answer", "option", "response", "choice", "verdict"];

/// The verdict of a text that is only a verdict: `a`, `answer B`, `equal`.
fn whole(words: &[Word<'_>]) -> Option<Choice> {
    let word = match words {
        [word] => word,
        [noun, word] if noun.is_one_of(&NOUNS) => word,
        _ => return None,
    };
    letter(word.text).or_else(|| word.is_one_of(&["tie", "tied", "equal", "same", "draw"]).then_some(Choice::Tie))
}

/// The verdict that the word at `at` expresses.
fn said(words: &[Word<'_>], at: usize) -> Option<Choice> {
    let word = &words[at];
    let before = at.checked_sub(1).map(|at| &words[at]);
    let is_behind = |list: &[&str]| before.is_some_and(|word| word.is_one_of(list));
    if word.is_one_of(&["tie", "tied", "both", "neither", "equally"]) {
        let denied = is_behind(&["not", "no"]) || (is_behind(&["a"]) && at > 1 && words[at - 2].is_one_of(&["not"]));
        return (!denied).then_some(Choice::Tie);
    }
    if word.is_one_of(&["equal", "same", "draw"]) {
        let plural = is_behind(&["are"]) || (is_behind(&["the"]) && at > 1 && words[at - 2].is_one_of(&["are"]));
        return (plural || (word.is("draw") && is_behind(&["a"]))).then_some(Choice::Tie);
    }
    if !matches!(word.text, "A" | "B") || is_behind(&["than", "not"]) || is_passed_over(words, at) {
        return None;
    }
    letter(word.text)
}

/// Whether the capital letter at `at` is no verdict: an article, listed with the other letter, or denied.
fn is_passed_over(words: &[Word<'_>], at: usize) -> bool {
    let noun_before = at > 0 && words[at - 1].is_one_of(&NOUNS);
    // For "answer A", look at the words around both.
    let start = if noun_before { at - 1 } else { at };
    let before = start.checked_sub(1).map(|at| &words[at]);
    if before.is_some_and(|word| word.is_one_of(&["than", "not"])) || is_beside_rival(words, at, start) {
        return true;
    }
    let mut behind = words[at + 1..].iter();
    let Some(next) = behind.next().filter(|_| !words[at].closes) else { return false };
    let then = behind.next();
    if next.is_one_of(&["isn't", "isn\u{2019}t", "wasn't", "loses"]) {
        return true;
    }
    if next.is_one_of(&["is", "was", "seems", "looks"]) {
        return then.is_some_and(|word| word.is_one_of(&["not", "worse", "wrong", "incorrect", "inaccurate", "false"]));
    }
    let opens_bare = words[at].text == "A" && words[at].opens && !noun_before;
    let verbs =
        ["has", "wins", "gives", "provides", "answers", "contains", "correctly", "because", "since", "as", "with"];
    (opens_bare && !next.is_one_of(&verbs)) || (words[at].text == "A" && next.is_one_of(&["tie", "draw"]))
}

/// Whether the letter is listed with the other one: "A and B", "A or answer B", "neither A nor B".
fn is_beside_rival(words: &[Word<'_>], at: usize, start: usize) -> bool {
    const LINKS: [&str; 6] = ["and", "or", "nor", "vs", "versus", "with"];
    let is_rival = |word: &Word<'_>| matches!(word.text, "A" | "B") && word.text != words[at].text;
    let skips_noun = |at: usize| at + usize::from(words.get(at).is_some_and(|word| word.is_one_of(&NOUNS)));
    let links = |at: usize| words.get(at).is_some_and(|word| word.is_one_of(&LINKS));
    let ahead = links(at + 1) && words.get(skips_noun(at + 2)).is_some_and(is_rival);
    let behind = start >= 2 && links(start - 1) && is_rival(&words[start - 2]);
    ahead || behind
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn verdicts_are_read_in_the_forms_judges_use() {
        for (text, expected) in [
            ("A", Choice::A),
            (" B\n", Choice::B),
            ("b.", Choice::B),
            ("a", Choice::A),
            ("Answer A", Choice::A),
            ("answer b", Choice::B),
            ("Answer: B", Choice::B),
            ("**B**", Choice::B),
            ("(A)", Choice::A),
            ("[[A]]", Choice::A),
            ("Both have flaws, but overall [[B]]", Choice::B),
            ("[[C]]", Choice::Tie),
            ("Tie.", Choice::Tie),
            ("TIE", Choice::Tie),
            ("It is a tie.", Choice::Tie),
            ("A tie.", Choice::Tie),
            ("A is better", Choice::A),
            ("A is better than B.", Choice::A),
            ("Answer B is better than answer A because it is right.", Choice::B),
            ("The better answer is B.", Choice::B),
            ("A better answer is B.", Choice::B),
            ("I prefer answer A.", Choice::A),
            ("A is wrong. B is right.", Choice::B),
            ("A. It gives the right sum.", Choice::A),
            ("A, because it gives a number.", Choice::A),
            ("A because it is right", Choice::A),
            ("B, not A", Choice::B),
            ("Answer A: 34", Choice::A),
            ("both are equal", Choice::Tie),
            ("Answers A and B are equally good.", Choice::Tie),
            ("Neither A nor B is right.", Choice::Tie),
            ("They are the same.", Choice::Tie),
            ("Equal", Choice::Tie),
            ("Verdict: tie", Choice::Tie),
        ] {
            assert_eq!(read(text), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn what_says_nothing_or_two_things_has_no_verdict() {
        for text in [
            "",
            "...",
            "42",
            "This is a good answer to a hard question.",
            "A good answer shows its steps.",
            "the answer a student would give",
            "A, B or tie",
            "Answer A: 34\nAnswer B: 45",
            "A is correct. B is also correct.",
            "Both are wrong, but A is closer.",
            "A or B",
            "A is not better.",
            "It is not a tie.",
            "[[A]] or [[B]]",
            "3 + 4 is equal to 7, the same as before",
            "Vitamin C",
            "I am a language model.",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "([AaBb]|tie|not|than|and|is|answer|\\[\\[|\\]\\]|[ .:'\n\u{2019}]){0,20}|\\PC{0,60}") {
            let _ = read(&text);
        }

        #[test]
        fn lowercase_prose_without_verdict_words_says_nothing(words in proptest::collection::vec("a|the|answer|better|is|of|7|cat", 3..12)) {
            prop_assert_eq!(read(&words.join(" ")), None);
        }
    }
}
