//! Multiple choice: which option a text chooses, by its letter or its words.
//!
//! In this order: a box or an answer tag; the last "the answer is B" or "I choose B"; the option that it ends on ("so B") or
//! calls right; a text that begins with a letter ("B) ..."); letters in brackets, the one option whose words occur, single
//! letters, if all that the text does not deny are the same; a place ("the second option"); the one option whose value is the
//! text's. Outside boxes and tags, questions and lists of the options are left out. `A` and `I` count as letters only where they
//! cannot be words. A text that does not choose is wrong.

use super::marker::{Mark, marks, without_questions};
use super::math::MathAnswer;
use super::text::normalised;
use crate::types::pattern::pattern;
use letter::{at_letter, folded, is_denied_before, is_denied_behind, is_label};
use lines::{by_verdicts, lists_letters, without_list};
use place::{by_place, is_another_place};
use regex::Regex;
use std::sync::LazyLock;
use unicode_normalization::UnicodeNormalization;

mod letter;
mod lines;
mod place;

/// The letter of the option at `index`; 0 is A.
pub(super) fn letter(index: usize) -> char {
    char::from(b'A' + index.min(25) as u8)
}

/// The option that `answer` names: by its letter, else by its words to the letter, else by the only option with its words.
pub(super) fn named(answer: &str, options: &[String]) -> Option<usize> {
    if !(2..=26).contains(&options.len()) {
        return None;
    }
    let bare = answer.trim().trim_matches(['(', ')', '.']);
    let by_letter = (0..options.len()).find(|&index| bare.eq_ignore_ascii_case(&letter(index).to_string()));
    let only = |equal: &dyn Fn(&String) -> bool| {
        let mut found = options.iter().enumerate().filter(|(_, option)| equal(option)).map(|(index, _)| index);
        found.next().filter(|_| found.next().is_none())
    };
    by_letter
        .or_else(|| only(&|option| folded(option) == folded(answer)))
        .or_else(|| only(&|option| normalised(option) == normalised(answer) && has_words_alone(option)))
}

/// The option that `text` chooses.
pub(super) fn chosen(text: &str, options: &[String]) -> Option<usize> {
    let text: String = text.nfkc().collect();
    let text = text.as_str();
    let found = marks(text);
    let decisive = found.iter().find_map(|mark| match mark {
        Mark::Box(inside) => Some(inside.unwrap_or_default()),
        Mark::Tag(inside) => Some(*inside),
        Mark::Said(_) | Mark::Hashes(_) | Mark::Bold(_) => None,
    });
    if let Some(inside) = decisive {
        let inside = without_faces(inside);
        if clashes(&inside, options) {
            return None;
        }
        return stated(&inside, options).or_else(|| said(&marks(&inside), options));
    }
    let asks = options.iter().any(|option| option.contains('?'));
    let text = if asks { text.to_owned() } else { without_questions(text) };
    let text = without_list(&text, options);
    in_prose(&text, options)
}

/// The option that a text without boxes and tags chooses.
fn in_prose(text: &str, options: &[String]) -> Option<usize> {
    static CORRECTED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)(?:\bactually|\bno,? wait|\bwait,? no|\bi mean|\bor rather|\bmake that)[,:]?\s+\(?[a-z]\)?[.!\s]*$",
        )
    });
    let found = marks(text);
    let statement = found.iter().find_map(|mark| if let Mark::Said(inside) = mark { Some(*inside) } else { None });
    let clashing = clashes(text, options) || statement.is_some_and(|inside| clashes(inside, options));
    if clashing || CORRECTED.is_match(text) {
        return None;
    }
    if let Some(index) = said(&found, options).or_else(|| picked(text, options)) {
        return Some(index);
    }
    if let Some(right) = by_verdicts(text, options) {
        return right;
    }
    first(text, options)
        .or_else(|| only(&BRACKETED, text, options))
        .or_else(|| by_words(text, options).filter(|index| !is_another_place(text, *index)))
        .or_else(|| only(&ALONE, text, options).filter(|_| !BRACKETED.is_match(text)))
        .or_else(|| by_place(text, options))
        .or_else(|| by_value(text, options).filter(|index| !is_another_place(text, *index)))
}

/// Whether all of `text` is a letter and the words of another option: `B) Rome`, where B is London.
fn clashes(text: &str, options: &[String]) -> bool {
    static WITH_LETTER: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?s)^[\s*_(\[]*([A-Z])[)\].:,*_\s-]+(.+?)[)\]\s.*_]*$|^[\s*_]*(.+?)[\s*_,]*(?:(?i:option|choice|answer)\s+)?\(([A-Z])\)[\s.*_]*$|^[\s*_]*(.+?)[\s*_,]+(?i:option|choice|answer)\s+([A-Z])[\s.*_]*$",
        )
    });
    let Some(found) = WITH_LETTER.captures(text) else { return false };
    let group =
        |places: [usize; 3]| places.into_iter().find_map(|place| found.get(place)).map_or("", |group| group.as_str());
    let Some(index) = at_letter(group([1, 4, 6]), options) else { return false };
    let words = folded(group([2, 3, 5]));
    let equal = |option: &String| folded(option) == words;
    options.iter().any(equal) && !equal(&options[index])
}

/// The option that the last of `marks` says in words such as "the answer is".
fn said(marks: &[Mark<'_>], options: &[String]) -> Option<usize> {
    marks.iter().find_map(|mark| match mark {
        Mark::Said(inside) => stated(inside, options),
        _ => None,
    })
}

/// The only option whose value is that of `text`: `1/2` for `\\frac{1}{2}`. All options are values without units then, and a percent
/// sign counts.
fn by_value(text: &str, options: &[String]) -> Option<usize> {
    if !text.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    static COMMAND: LazyLock<Regex> = LazyLock::new(|| pattern(r"\\[A-Za-z]+"));
    let has_letters = |text: &str| text.contains(char::is_alphabetic);
    let value = |option: &String| {
        let value = MathAnswer::expected(option)?;
        let has_unit = has_letters(&COMMAND.replace_all(option.rsplit('=').next().unwrap_or_default(), ""))
            && !has_letters(&value.shown());
        (!has_unit).then_some(value)
    };
    let values: Option<Vec<MathAnswer>> = options.iter().map(value).collect();
    let (values, given) = (values?, MathAnswer::of(text)?);
    let is_same =
        |value: &MathAnswer| given.agrees(value) && given.shown().contains('%') == value.shown().contains('%');
    let mut equal = values.iter().enumerate().filter(|(_, value)| is_same(value)).map(|(index, _)| index);
    equal.next().filter(|_| equal.next().is_none())
}

static BRACKETED: LazyLock<Regex> = LazyLock::new(|| pattern(r"\(([A-Za-z])\)"));
static ALONE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b([A-Z])\b"));

/// `\text{(C) a salmon}` without its face.
fn without_faces(inside: &str) -> String {
    static FACE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}"));
    FACE.replace_all(inside, "$1").replace("\\ ", " ")
}

/// The option that a statement of the answer names: its letter at the start, else its words.
fn stated(text: &str, options: &[String]) -> Option<usize> {
    static LETTER: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r#"^(?i:(?:option|choice|letter|clearly|definitely|not\s+\(?[a-z]\)?,?\s+but)\s+)*[\s*_"'`(\[{$:]*([A-Za-z])((?:[^\p{L}\d+#]|[\p{Han}\p{Hiragana}\p{Hangul}])[^\n]*)?$"#,
        )
    });
    static LISTED: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^[)\].*\s]*(?:,|/|&|or\b|and\b)\s*(?:option\s+)?\(?[A-Z](?:[^\p{L}]|$)"));
    let text = text.trim_matches(|c: char| c.is_whitespace() || "*_:\"'`".contains(c));
    if let Some(found) = LETTER.captures(text) {
        let behind = found.get(2).map_or("", |rest| rest.as_str());
        if LISTED.is_match(behind) {
            return None;
        }
        if !is_article(&found[1], behind) {
            return at_letter(&found[1], options);
        }
    }
    if text.to_lowercase().starts_with("not ") {
        return None;
    }
    by_words(text, options).or_else(|| by_value(text, options))
}

/// Whether a letter before `behind` is a word: "A dog", "I think".
fn is_article(letter: &str, behind: &str) -> bool {
    static REASON: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^ (?:as|because|since|is|and|or|for|by|with|due|if)\b"));
    let word = behind.starts_with(' ') && behind[1..].starts_with(|c: char| c.is_alphabetic());
    match letter {
        "A" | "I" => word && !REASON.is_match(behind),
        "a" | "i" => word,
        _ => false,
    }
}

/// The last option that the text says it takes: "I choose B", "it must be (D)".
fn picked(text: &str, options: &[String]) -> Option<usize> {
    static PICKED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i:(?:\b(?:choice|option)\s+(?:is|would be|must be|should be)|\b(?:choose|chose|pick|picked|select|go with|going with|say)|\b(?:it|this|that)(?:\s+(?:is|must be|has to be|would be|should be)|'s))\s*(?:option|choice|answer)?)\s*:?[\s*(]*([A-Z])\b([^\n]{0,40})",
        )
    });
    let picks = |found: &regex::Captures<'_>| {
        let start = found.get(0).map_or(0, |whole| whole.start());
        !is_denied_before(&text[..start]) && !is_article(&found[1], &found[2]) && !is_denied_behind(&found[2])
    };
    let picked = PICKED.captures_iter(text).filter(picks).filter_map(|found| at_letter(&found[1], options)).last();
    picked.or_else(|| concluded(text, options))
}

/// The option that the text ends on, or says to be right: "A and C are wrong, so B."
fn concluded(text: &str, options: &[String]) -> Option<usize> {
    static END: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?:(?i:\b(?:so|hence|thus|therefore|leaves|leaving|but|ultimately|on reflection)\b,?\s*(?:it's|it is|it must be|only|option|just)?)\s*\(?([A-Z])\)?|(?i:\b(?:it is|it's|i choose|i pick|i select|option|choice))\s+\(?([b-hj-z])\)?)[\s.!*]*$",
        )
    });
    static RIGHT: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"\b([B-HJ-Z])\)?\s+(?:is|must be)\s+(?:clearly\s+)?(?:the\s+)?(?:only\s+)?(?:right|correct|best)\b")
    });
    static CHOSEN: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?:故选|所以选|选择|选项|选)\s*[:为為是]?\s*\(?([A-Z])"));
    let denied = |at: usize| is_denied_before(&text[..at]) || text[..at].ends_with('不');
    let ends =
        END.captures(text).and_then(|found| found.get(1).or(found.get(2))).filter(|found| !denied(found.start()));
    let right =
        || RIGHT.captures_iter(text).filter_map(|found| found.get(1)).filter(|found| !denied(found.start())).last();
    let chosen = || {
        let starts =
            CHOSEN.captures_iter(text).filter(|found| found.get(0).is_some_and(|whole| !denied(whole.start())));
        let wrong =
            |found: &regex::Match<'_>| text[found.end()..].trim_start_matches(')').starts_with(['错', '不', '錯']);
        starts.filter_map(|found| found.get(1)).filter(|found| !wrong(found)).last()
    };
    at_letter(ends.or_else(right).or_else(chosen)?.as_str(), options)
}

/// The letter that the text begins with. "(A) or (B)" begins with a letter but does not choose, nor does "(A) is wrong".
fn first(text: &str, options: &[String]) -> Option<usize> {
    static FIRST: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[\s*(`\[]*([A-Za-z])([).:,*`\]\n][^\n]*|\s*$)"));
    let found = FIRST.captures(text)?;
    let whole = stated(text.lines().find(|line| !line.trim().is_empty())?, options);
    let index = at_letter(&found[1], options).filter(|index| whole == Some(*index))?;
    let denied = is_denied_behind(&found[2]) || lists_letters(text, &letter(index).to_string());
    let others = BRACKETED.is_match(text) && only(&BRACKETED, text, options).is_none_or(|only| only != index);
    (!denied && !others).then_some(index)
}

/// The one option whose letter `mention` finds, denied ones left out.
fn only(mention: &Regex, text: &str, options: &[String]) -> Option<usize> {
    let kept = |found: &regex::Captures<'_>| {
        let letter = found.get(1)?;
        let (before, behind) = (&text[..letter.start()], &text[letter.end()..]);
        let passed_over = is_denied_before(before)
            || is_label(before)
            || is_denied_behind(behind)
            || is_article(letter.as_str(), behind);
        at_letter(letter.as_str(), options).filter(|_| !passed_over)
    };
    let mut found: Vec<usize> = mention.captures_iter(text).filter_map(|found| kept(&found)).collect();
    found.sort_unstable();
    found.dedup();
    found.first().copied().filter(|_| found.len() == 1)
}

/// The one option whose words occur in the text; if one option contains another, the longer one.
fn by_words(text: &str, options: &[String]) -> Option<usize> {
    let occurring: Vec<usize> = (0..options.len()).filter(|&index| occurs(&options[index], text)).collect();
    let longest = *occurring.iter().max_by_key(|index| options[**index].len())?;
    let apart = |index: &&usize| **index == longest || !occurs(&options[**index], &options[longest]);
    (occurring.iter().filter(apart).count() == 1).then_some(longest)
}

/// Whether `option` consists of words, so that its punctuation says nothing.
fn has_words_alone(option: &str) -> bool {
    option.chars().all(|c| c.is_alphabetic() || c.is_whitespace() || ",.;:!?'\"-()‘’“”".contains(c))
        && option.chars().any(char::is_alphabetic)
        && !option.trim().starts_with('-')
}

/// Whether `option` occurs in `text`: its words, or, where it has signs or digits, all of it.
fn occurs(option: &str, text: &str) -> bool {
    let denied = |before: &str| before.trim_end().ends_with(" not") || before.trim_end().ends_with("n't");
    if has_words_alone(option) {
        let (text, words) = (format!(" {} ", normalised(text)), format!(" {} ", normalised(option)));
        return text.match_indices(&words).any(|(at, _)| !is_denied_before(&text[..at]));
    }
    let (option, text) = (folded(option), folded(text));
    let inside = |c: char| c.is_alphanumeric() || "+#<>=*/^".contains(c);
    let apart = |at: usize| {
        let before = text[..at].trim_end_matches(['$', '(']).chars().next_back();
        let mut behind = text[at + option.len()..].trim_start_matches(')').chars();
        let (next, then) = (behind.next(), behind.next());
        let number = option.starts_with(|c: char| c.is_ascii_digit());
        let opens = !before.is_some_and(|c| inside(c) || number && "-.,".contains(c));
        let goes_on = next.is_some_and(|c| inside(c) || "%!".contains(c) && !option.ends_with(c))
            || next.is_some_and(|c| ".,".contains(c)) && then.is_some_and(|c| c.is_ascii_digit());
        opens && !goes_on && !denied(&text[..at])
    };
    !option.is_empty() && text.match_indices(&option).any(|(at, _)| apart(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Vec<String> {
        ["a red apple", "blue", "dark blue", "it depends"].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_choice_is_read_by_letter_or_words() {
        for (text, index) in [
            ("B", 1),
            ("b", 1),
            ("(B)", 1),
            ("B.", 1),
            ("**B**", 1),
            ("B) blue", 1),
            ("The answer is B", 1),
            ("the answer is d", 3),
            ("The answer is (C).", 2),
            ("The correct answer is: **D**", 3),
            ("Answer: A", 0),
            ("Answer: A, because it is red", 0),
            ("The answer is A, as option B is no fruit.", 0),
            ("A or B? It is not (A) by far, so the answer is B.", 1),
            ("(A) does not fit. So it is (D).", 3),
            ("(A) is wrong and (B) cannot be meant, which leaves (C).", 2),
            ("The correct choice is A. I did not pick C.", 0),
            ("The answer is not A but B.", 1),
            (r"so \boxed{C}", 2),
            (r"\boxed{\text{D}}", 3),
            (r"\boxed{\text{(C) dark blue}}", 2),
            (r"\boxed{dark blue}", 2),
            ("I would go with the red apple.", 0),
            ("It is dark blue.", 2),
            ("blue", 1),
            ("Well, it depends!", 3),
            ("It must be (D).", 3),
            ("I believe C fits best", 2),
            (r#"{"answer": "C", "why": "option A is no colour"}"#, 2),
            ("\u{ff22}", 1),
            ("option b", 1),
            ("A, C and D are wrong, so it's B.", 1),
            ("Eliminating A, C, and D leaves B.", 1),
            ("First I thought A. On reflection, B.", 1),
            ("Neither A nor C. B is right.", 1),
            ("A: false, B: true, C: false, D: false", 1),
            ("<answer>The answer is B</answer>", 1),
            ("故选B．", 1),
            ("答えはBです", 1),
            ("the second option", 1),
            ("Is it A? No, C.", 2),
            ("A. Wrong.\nB. Wrong.\nC. Correct.\nD. Wrong.", 2),
            ("A. a red apple\nB. blue\nC. dark blue\nD. it depends\n\nB", 1),
        ] {
            assert_eq!(chosen(text, &options()), Some(index), "{text:?}");
        }
    }

    #[test]
    fn a_text_that_does_not_choose_chooses_nothing() {
        for text in [
            "",
            "I do not know.",
            "A dog",
            "A is wrong, but so is B",
            "不选B",
            "选项B错误",
            "Everything except A is right",
            "A is the only wrong one",
            "E",
            "(A) or (B)",
            "All but A.",
            "Is the answer A?",
            "Plan B is what I'd do",
            "B\nC",
            "A. a red apple\nB. blue\nC. dark blue",
            "A) yes\nB) yes\nC) no",
            "B) dark blue",
            "The answer is C: blue",
            "The first or the second option",
            "a red apple or blue",
            "B or C",
            "A and C",
            r"\boxed{AD}",
            r"The answer is B, or \boxed{",
            "The answer is not A.",
            "The answer is A or B.",
        ] {
            assert_eq!(chosen(text, &options()), None, "{text:?}");
        }
    }

    #[test]
    fn an_answer_is_a_letter_or_an_options_words() {
        assert_eq!(named("c", &options()), Some(2));
        assert_eq!(named("(A)", &options()), Some(0));
        assert_eq!(named("Dark blue", &options()), Some(2));
        assert_eq!(named("E", &options()), None);
    }

    #[test]
    fn options_that_differ_in_signs_alone_are_different() {
        for (options, answer, text, index) in [
            (["1", "-1", "0"], "-1", "It is -1.", 1),
            (["x > 0", "x < 0", "x = 0"], "x < 0", "so x < 0 holds", 1),
            (["15", "1.5", "150"], "1.5", "about 1.5 m", 1),
            (["Java", "C", "C++"], "C++", "I would use C++ here", 2),
            (["5", "50%", "0.5%"], "50%", "50% of them", 1),
        ] {
            let options = options.map(str::to_owned);
            assert_eq!(named(answer, &options), Some(index), "{answer}");
            assert_eq!(by_words(text, &options), Some(index), "{text}");
        }
        for (text, index) in [("1/2", Some(0)), (r"\boxed{\frac{1}{3}}", Some(1)), ("3/6 or 1/3", None), ("0.25", None)]
        {
            assert_eq!(chosen(text, &[r"\frac{1}{2}", r"\frac{1}{3}"].map(str::to_owned)), index, "{text}");
        }
        let lengths = ["20 m", "200 m"].map(str::to_owned);
        assert_eq!(chosen("20 km", &lengths), None, "units are not compared");
        assert_eq!(chosen("6%", &["3", "6"].map(str::to_owned)), None);
        let twice = ["Yes!", "yes?"].map(str::to_owned);
        assert_eq!(named("yes", &twice), None, "two options have these words");
    }
}
