//! Where a text states its answer.
//!
//! A box, `####`, an answer tag, "the answer is" and bold type mark an answer; the last mark wins, whichever it is. A box that
//! is empty, a heading and a sentence without a number mark none; a box that never ends marks an answer that is not there.

use crate::types::pattern::pattern;
use regex::Regex;
use std::sync::LazyLock;

/// A marked place of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark<'a> {
    /// A box with this content; none if it never ends.
    Box(Option<&'a str>),
    /// What a tag or `"answer":` encloses.
    Tag(&'a str),
    /// The rest of a sentence behind "the answer is", or what stands before "is the answer".
    Said(&'a str),
    /// The rest of a line behind `####`.
    Hashes(&'a str),
    /// Bold type.
    Bold(&'a str),
}

/// The marks of `text`, the last one first.
pub(super) fn marks(text: &str) -> Vec<Mark<'_>> {
    let mut found: Vec<(usize, Mark<'_>)> = boxes(text).collect();
    found.extend(tags(text));
    found.extend(said(text));
    found.extend(hashes(text));
    found.extend(bold(text));
    found.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    found.into_iter().map(|(_, mark)| mark).collect()
}

fn boxes(text: &str) -> impl Iterator<Item = (usize, Mark<'_>)> {
    text.match_indices("\\boxed").filter_map(|(at, name)| {
        let behind = text[at + name.len()..].trim_start();
        if behind.starts_with('{') {
            return match braced(behind) {
                Some((inside, _)) if inside.trim().is_empty() => None,
                found => Some((at, Mark::Box(found.map(|(inside, _)| inside)))),
            };
        }
        // `\boxed 5`
        let end = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
        (end > 0).then(|| (at, Mark::Box(Some(&behind[..end]))))
    })
}

fn tags(text: &str) -> impl Iterator<Item = (usize, Mark<'_>)> {
    static TAG: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r#"(?is)<(?:final_)?answer>\s*(.*?)\s*</(?:final_)?answer>|["'](?:final_)?answer["']\s*:\s*(?:"([^"\n]+)"|'([^'\n]+)'|([^"',}\n]+))"#,
        )
    });
    TAG.captures_iter(text).filter_map(|found| {
        let inside = (1..=4).find_map(|group| found.get(group))?;
        (!inside.is_empty()).then(|| (inside.start(), Mark::Tag(inside.as_str())))
    })
}

fn said(text: &str) -> impl Iterator<Item = (usize, Mark<'_>)> {
    static SAID: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)(?:\banswer\b(?:\s+(?:to|of|for)\b[^.:\n]{0,60}?)?[*_]*\s*(?:\bis\b|\bwould be\b|\bshould be\b|\bmust be\b|:|=)|\b(?:antwort|respuesta|réponse|risposta|resposta|ответ)\b\s*(?:ist|es|est|è|é|:)|(?:答案|故|所以|应|應)\s*(?:是|为|為|选择?|選|:)+|(?:答え|正解)\s*[は:]|(?:정답|답)\s*[은는:]|(?:الإجابة|الجواب|उत्तर|cevap|jawaban|đáp án)\s*:)[*_:\s]*",
        )
    });
    static HEADING: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?im)^[#*_\s]*(?:the\s+)?(?:final\s+)?answer[*_:\s]*\n"));
    static SUBJECT: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?im)(?:^|[.:,]\s+|\b(?:so|thus|hence|therefore)\s+)((?:\(?[A-Z]\)?|\$?-?\d\S*|\$[^$\n]+\$)) is (?:the|our|my) (?:final |correct |right |best )*answer\b",
        )
    });
    let sentences = SAID.find_iter(text).map(|found| (found.start(), Mark::Said(sentence(&text[found.end()..]))));
    let lines =
        HEADING.find_iter(text).map(|found| (found.start(), Mark::Said(sentence(text[found.end()..].trim_start()))));
    let named = SUBJECT.captures_iter(text).filter_map(|found| {
        let subject = found.get(1)?;
        Some((subject.start(), Mark::Said(subject.as_str())))
    });
    sentences.chain(lines).chain(named)
}

fn hashes(text: &str) -> impl Iterator<Item = (usize, Mark<'_>)> {
    text.match_indices("####").filter_map(|(at, name)| {
        let behind = &text[at + name.len()..];
        let line = behind.trim_start_matches('#').trim_start().lines().next()?.trim();
        // What begins with words is a heading.
        let number = |c: char| c.is_ascii_digit() || "-+$€£¥₹.\\(".contains(c);
        line.starts_with(number).then_some((at, Mark::Hashes(line)))
    })
}

fn bold(text: &str) -> impl Iterator<Item = (usize, Mark<'_>)> {
    static BOLD: LazyLock<Regex> = LazyLock::new(|| pattern(r"\*\*([^*\n]+)\*\*|\b__([^_\n]+)__\b"));
    static COUNT: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\d+[.):]$"));
    BOLD.captures_iter(text).filter_map(|found| {
        let (whole, inside) = (found.get(0)?, found.get(1).or(found.get(2))?);
        // "**1.** First" counts its paragraphs.
        let opens = text[..whole.start()].lines().next_back().is_none_or(|line| line.trim().is_empty())
            || text[..whole.start()].ends_with('\n');
        let goes_on = !text[whole.end()..].lines().next().unwrap_or_default().trim().is_empty();
        let counts = opens && goes_on && COUNT.is_match(inside.as_str().trim());
        (!counts).then(|| (whole.start(), Mark::Bold(inside.as_str())))
    })
}

/// `text` to the end of its first sentence or line.
fn sentence(text: &str) -> &str {
    static END: LazyLock<Regex> = LazyLock::new(|| pattern(r"[.!?](?:\s|$)|[。！？]|\n"));
    let end = END.find_iter(text).find(|found| {
        let before = text[..found.start()].rsplit(char::is_whitespace).next().unwrap_or_default();
        // `5!` at the end of a line is a factorial or a joy: the formula decides.
        !(before.eq_ignore_ascii_case("approx") || before.eq_ignore_ascii_case("ca"))
    });
    end.map_or(text, |found| &text[..found.start()])
}

/// `text` without its questions. "How many? 7" answers one.
pub(super) fn without_questions(text: &str) -> String {
    static QUESTION: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?:[^.!?\n。！？]|\.\d)*[?？]+"));
    if text.contains(['?', '？']) { QUESTION.replace_all(text, " ").into_owned() } else { text.to_owned() }
}

/// The content of the braces that `text` begins with, and the rest.
pub(super) fn braced(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return (at > 0).then(|| (&text[1..at], &text[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_where_an_answer_is_stated() {
        for (text, expected) in [
            (r"\boxed{1} then \boxed{2}", Some(Mark::Box(Some("2")))),
            (r"\boxed{1} then \boxed{}", Some(Mark::Box(Some("1")))),
            (r"\boxed{1} then \boxed{2", Some(Mark::Box(None))),
            (r"\boxed 7", Some(Mark::Box(Some("7")))),
            ("<answer> 42 </answer> in 2 steps", Some(Mark::Tag("42"))),
            (r#"{"answer": 42, "steps": 3}"#, Some(Mark::Tag("42"))),
            ("The answer is 10. I checked it in 3 ways.", Some(Mark::Said("10"))),
            ("The answer to the question is 3.5.", Some(Mark::Said("3.5"))),
            ("## Final Answer\n\n58 people", Some(Mark::Said("58 people"))),
            ("#### 42 apples\nIn 3 days", Some(Mark::Hashes("42 apples"))),
            ("####\n42", Some(Mark::Hashes("42"))),
            ("#### Step 1: add", None),
            ("So **58** it is", Some(Mark::Bold("58"))),
            ("**1.** First we add", None),
            ("to answer this, add 3", None),
        ] {
            assert_eq!(marks(text).first().copied(), expected, "{text}");
        }
    }
}
