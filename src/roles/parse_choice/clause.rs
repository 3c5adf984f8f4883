//! What the clauses of a judge's prose say of the two answers.
//!
//! A capital letter names an answer, unless it is an article ("A better answer is B"), stands behind "than" or "not", or is
//! listed with the other one ("A and B"). "Answer 1" and "the second" name one too. "Tie", "both", "neither", "equally", "are
//! equal", "the same" and "a draw" mean tie.
//!
//! A question says nothing, nor does what the text goes back on ("at first A seems better") or supposes ("would be better if").
//! A verb or adjective that is not known is no praise.

use crate::types::Choice;
use crate::types::pattern::pattern;
use lexicon::{
    BEATEN, BETTER, BLAME, COPULAS, DECIDED, GIVEN, NEGATIONS, OBJECTS, PRAISE, PRAISED, RETRACTED, VERBS, WORSE, WRONG,
};
use regex::{Captures, Regex};
use std::sync::LazyLock;

mod lexicon;

/// What a clause says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vote {
    /// By a comparison or a decision.
    Strong(Choice),
    /// By praise, blame or a bare letter.
    Plain(Choice),
}

impl Vote {
    pub(super) fn choice(self) -> Choice {
        match self {
            Self::Strong(choice) | Self::Plain(choice) => choice,
        }
    }

    pub(super) fn strong(self) -> Option<Choice> {
        match self {
            Self::Strong(choice) => Some(choice),
            Self::Plain(_) => None,
        }
    }
}

/// A word of a clause, or the answer that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    /// An answer, and whether a noun before it says so.
    Answer(Choice, bool),
    /// Both in a list.
    Both,
    /// Another word, in lower case.
    Other(String),
}

impl Word {
    fn is_one_of(&self, words: &[&str]) -> bool {
        matches!(self, Self::Other(word) if words.contains(&word.as_str()))
    }
}

/// The votes of `text`'s clauses.
pub(super) fn votes(text: &str) -> Vec<Vote> {
    static BORDER: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)[.;!?:,\n。，；！？：()]+|\b(?:but|while|whereas|however|although|though|because|since|so|yet|aber|mais|pero)\b",
        )
    });
    let named = with_names(text);
    // Questions say nothing, and "A is right and B is wrong" is two clauses.
    static QUESTION: LazyLock<Regex> = LazyLock::new(|| pattern(r"[^.!?\n]*\?"));
    static AND: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"\band\s+(§?[AB]\s+(?:is|was|isn't|seems|has|fails|loses|lacks|gives|does|doesn't|answers)\b)")
    });
    let named = QUESTION.replace_all(&named, " ");
    let named = AND.replace_all(&named, "; $1");
    BORDER.split(&named).filter_map(|clause| vote(&words(clause))).collect()
}

/// `text` in which `§A` and `§B` stand for what names an answer by a noun or its place, and `§AB` for both in a list.
fn with_names(text: &str) -> String {
    const NOUNS: &str = "answer|option|response|choice|assistant|model|candidate|solution|output|reply|antwort|respuesta|réponse|risposta|resposta|ответ";
    static NOUN: LazyLock<Regex> =
        LazyLock::new(|| pattern(&format!(r#"(?i:\b(?:{NOUNS})s?)\s*["'(]?([AB])\b["')]?"#)));
    static SMALL: LazyLock<Regex> = LazyLock::new(|| {
        pattern(&format!(
            r"(?i:\b(?:{NOUNS}))\s+\(?([ab])\)?(\s*(?:[.,;:!?\n]|$)|\s+(?:wins|loses|(?:is|was|seems)\s+(?:\w+ly\s+|much\s+)?(?:better|worse|best|right|wrong|correct|incorrect|superior))\b)"
        ))
    });
    static COUNT: LazyLock<Regex> =
        LazyLock::new(|| pattern(&format!(r"(?i:\b(?:{NOUNS}))\s*(?:#|no\.?\s|number\s)?\s*([12])\b")));
    static PLACE: LazyLock<Regex> =
        LazyLock::new(|| pattern(&format!(r"(?i)\b(first|second|former|latter)\s+(?:one\b|(?:{NOUNS})\b)")));
    static BARE_PLACE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)\bthe (first|second|former|latter)(\s+(?:is|was|wins|has|seems|gives|fails|misses|does|doesn't|isn't)\b|\s*(?:[.,;!?\n]|$))",
        )
    });
    static CHINESE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?:答案|回答|选项|選項|答え)\s*([AB])"));
    static INSTEAD: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)\b(?:instead of|in place of|rather than)\b"));
    static THAN: LazyLock<Regex> = LazyLock::new(|| pattern(r"([AB])\s*(?:より|보다)"));
    static POSSESSIVE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b([AB])'s\b"));
    static TIES: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)\bno (?:clear |real |significant |meaningful )?(?:difference|winner|preference)\b|\btoss-?up\b|\btoo close to call\b|\bon (?:a )?par\b|\bthey're (?:about )?the same\b|一样好|同样好|差不多|不相上下|两者相当",
        )
    });
    // Marks at school: "A+", "an A".
    static GRADE: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"\b[AB][+-](?:[\s.,]|$)|\b(?i:grade|an|vitamin|plan)\s+[AB]\b"));
    const CJK: &str = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]";
    static GLUED: LazyLock<Regex> = LazyLock::new(|| pattern(&format!(r"([AB])({CJK})|({CJK})([AB])\b")));
    static LIST: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?:§|\b)([AB])\s*(?:,?\s*(?:and|or maybe|or perhaps|or|nor|with|und|oder|et|ou)\b|/|&|\bvs\.?|\bversus\b|[和与跟と])\s*(?:§|\b)?([AB])\b|(?:§|\b)([AB])\s*,\s*(?:§|\b)([AB])\s*,?\s*(or|and)\b",
        )
    });
    let place = |found: &Captures<'_>| {
        if matches!(found[1].to_lowercase().as_str(), "first" | "former" | "1") { "A" } else { "B" }
    };
    let behind = |found: &Captures<'_>| found.get(2).map_or("", |rest| rest.as_str()).to_owned();
    let text = INSTEAD.replace_all(text, "than");
    let text = THAN.replace_all(&text, " than §$1 ");
    let text = POSSESSIVE.replace_all(&text, "§$1 ");
    let text = TIES.replace_all(&text, " tie ");
    let text = GRADE.replace_all(&text, " ");
    let text = GLUED.replace_all(&text, |found: &Captures<'_>| {
        if found.get(1).is_some() {
            format!("§{} {}", &found[1], &found[2])
        } else {
            format!("{} §{} ", &found[3], &found[4])
        }
    });
    let text = NOUN.replace_all(&text, " §$1 ");
    let text =
        SMALL.replace_all(&text, |found: &Captures<'_>| format!(" §{}{}", found[1].to_uppercase(), behind(found)));
    let text = COUNT.replace_all(&text, |found: &Captures<'_>| format!(" §{} ", place(found)));
    let text = PLACE.replace_all(&text, |found: &Captures<'_>| format!(" §{} ", place(found)));
    let text = BARE_PLACE.replace_all(&text, |found: &Captures<'_>| format!(" §{}{}", place(found), behind(found)));
    let text = CHINESE.replace_all(&text, " §$1 ");
    let list = |found: &Captures<'_>| {
        let group = |one: usize, two: usize| found.get(one).or(found.get(two)).map_or("", |letter| letter.as_str());
        let link = found.get(5).map_or("", |link| link.as_str());
        if group(1, 3) == group(2, 4) { found[0].to_owned() } else { format!(" §AB {link}") }
    };
    LIST.replace_all(&text, list).into_owned()
}

fn words(clause: &str) -> Vec<Word> {
    static WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"§AB|§[AB]|[\p{L}\d]+(?:'\p{L}+)?|>+|更好|更优|更差"));
    let mut words: Vec<Word> = Vec::new();
    for found in WORD.find_iter(clause) {
        words.push(match found.as_str() {
            "§AB" => Word::Both,
            "§A" => Word::Answer(Choice::A, true),
            "§B" => Word::Answer(Choice::B, true),
            "A" => Word::Answer(Choice::A, false),
            "B" => Word::Answer(Choice::B, false),
            word => Word::Other(word.to_lowercase()),
        });
    }
    if opens_with_article(&words) {
        words[0] = Word::Other("a".to_owned());
    }
    words
}

/// Whether the first word is an "A" before a noun or adjective: no verb, no "better than", no "A defeats B".
fn opens_with_article(words: &[Word]) -> bool {
    let [Word::Answer(Choice::A, false), Word::Other(next), ..] = words else { return false };
    let goes_on = VERBS.contains(&next.as_str()) || next.starts_with('>') || !next.is_ascii();
    let than = words.get(2).is_some_and(|word| word.is_one_of(&["than"]) || matches!(word, Word::Answer(Choice::B, _)));
    !goes_on && !than
}

fn other(choice: Choice) -> Choice {
    match choice {
        Choice::A => Choice::B,
        Choice::B => Choice::A,
        Choice::Tie => Choice::Tie,
    }
}

/// What the clause of `words` says.
fn vote(words: &[Word]) -> Option<Vote> {
    let given = |before: usize| before.checked_sub(1).is_some_and(|ahead| words[ahead].is_one_of(&GIVEN));
    let is_subject =
        |at: usize| at.checked_sub(1).is_none_or(|before| !words[before].is_one_of(&OBJECTS) || given(before));
    let subject = words.iter().enumerate().find_map(|(at, word)| match word {
        Word::Answer(choice, _) if is_subject(at) => Some((at, *choice)),
        _ => None,
    });
    let Some((at, choice)) = subject else { return tie(words) };
    if words.contains(&Word::Both) && !words[..at].contains(&Word::Both) {
        return None;
    }
    let (before, behind) = (&words[..at], &words[at + 1..]);
    let has = |part: &[Word], list: &[&str]| part.iter().any(|word| word.is_one_of(list));
    let at_first = before.windows(2).any(|pair| pair[0].is_one_of(&["at"]) && pair[1].is_one_of(&["first"]));
    let supposed = has(behind, &["would", "might"]) && has(behind, &["if"]);
    if at_first || supposed || has(before, &RETRACTED) || has(behind, &["glance", "sight", "initially"]) {
        return None;
    }
    if has(behind, &["ties", "tied"]) {
        return (!has(behind, &NEGATIONS)).then_some(Vote::Plain(Choice::Tie));
    }
    if let Some(vote) = compared_as_equal(choice, behind) {
        return vote;
    }
    if let Some(vote) = unspaced(choice, before, behind) {
        return vote;
    }
    // What "A resembles B" says is not known.
    if let [.., Word::Answer(..)] = behind
        && behind.len() <= 2
        && ![&OBJECTS[..], &BETTER, &WORSE].iter().any(|known| has(behind, known))
    {
        return None;
    }
    let beaten = behind.windows(2).any(|pair| pair[0].is_one_of(&BEATEN) && pair[1].is_one_of(&["by"]));
    let without = behind.windows(2).any(|pair| pair[0].is_one_of(&["no", "without"]) && pair[1].is_one_of(&WRONG));
    let wrong = has(behind, &WRONG) && !without;
    let denied = has(behind, &NEGATIONS) && !without;
    if beaten {
        return (!denied).then_some(Vote::Strong(other(choice)));
    }
    if has(before, &["if", "whether", "unless"]) {
        return None;
    }
    if has(before, &WORSE) && !denied {
        return Some(Vote::Strong(other(choice)));
    }
    if has(before, &DECIDED) {
        return (!has(before, &NEGATIONS)).then_some(Vote::Strong(choice));
    }
    if has(before, &NEGATIONS) {
        return None;
    }
    let (more, less) = (has(behind, &["more"]), has(behind, &["less", "fewer"]));
    let (better, worse) =
        (has(behind, &BETTER) || more || less && wrong, has(behind, &WORSE) && !(less && wrong) || more && wrong);
    match (denied, worse, better) {
        (true, false, false) => Some(Vote::Plain(if wrong { return None } else { other(choice) })),
        (true, ..) => None,
        (false, true, _) => Some(Vote::Strong(other(choice))),
        (false, false, true) => Some(Vote::Strong(choice)),
        (false, false, false) if wrong => Some(Vote::Plain(other(choice))),
        (false, false, false) => is_praise(behind).then_some(Vote::Plain(choice)),
    }
}

/// Whether what a clause says of its subject is praise: a known word behind "is", or what no unknown verb begins.
fn is_praise(behind: &[Word]) -> bool {
    let Some(Word::Other(first)) = behind.first() else { return true };
    let praised = || behind.iter().any(|word| word.is_one_of(&PRAISED));
    if COPULAS.contains(&first.as_str()) {
        return behind.len() == 1 || praised();
    }
    VERBS.contains(&first.as_str()) || !first.ends_with(['s', 'd']) || praised()
}

/// What "A is as good as B" says, and "not as good as".
fn compared_as_equal(choice: Choice, behind: &[Word]) -> Option<Option<Vote>> {
    let is_as = |word: &Word| word.is_one_of(&["as"]);
    let first = behind.iter().position(is_as)?;
    let second = first + 2 + behind.get(first + 2..)?.iter().position(is_as)?;
    let Some(Word::Answer(..)) = behind.get(second + 1) else { return None };
    let denied = behind[..first].iter().any(|word| word.is_one_of(&NEGATIONS));
    Some(Some(Vote::Strong(if denied { other(choice) } else { Choice::Tie })))
}

/// What a clause says whose language leaves no spaces; `None` if it is another one, `Some(None)` if it says nothing known.
fn unspaced(choice: Choice, before: &[Word], behind: &[Word]) -> Option<Option<Vote>> {
    let text = |words: &[Word]| -> String {
        let cjk = |word: &Word| matches!(word, Word::Other(word) if word.chars().any(|c| ('\u{3040}'..='\u{d7a3}').contains(&c)));
        words
            .iter()
            .filter(|word| cjk(word))
            .map(|word| if let Word::Other(word) = word { word.as_str() } else { "" })
            .collect()
    };
    let (ahead, rest) = (text(before), text(behind));
    let says = |list: &[&str], text: &str| list.iter().any(|part| text.contains(part));
    if says(&["不", "没", "如果"], &ahead) {
        return Some(None);
    }
    if rest.is_empty() {
        return None;
    }
    let vote = match (says(&BLAME, &rest), says(&PRAISE, &rest)) {
        (true, _) if rest.contains("不差") || rest.contains("不错") => None,
        (true, _) => Some(Vote::Strong(other(choice))),
        (false, true) => Some(Vote::Strong(choice)),
        (false, false) => None,
    };
    Some(vote)
}

/// Whether a clause without a subject says that both are as good.
fn tie(words: &[Word]) -> Option<Vote> {
    let is_at =
        |at: Option<usize>, list: &[&str]| at.and_then(|at| words.get(at)).is_some_and(|word| word.is_one_of(list));
    let both = words.contains(&Word::Both);
    if let Some(words) = words.iter().position(|word| word.is_one_of(&["empate", "unentschieden", "pareggio", "ничья"]))
    {
        let denied = words.checked_sub(1).is_some();
        return (!denied).then_some(Vote::Plain(Choice::Tie));
    }
    let says = |(at, word): (usize, &Word)| {
        let (one, two) = (at.checked_sub(1), at.checked_sub(2));
        let denied = is_at(one, &NEGATIONS)
            || is_at(one, &["a", "or"]) && is_at(two, &["not", "no", "isn't", "or"])
            || is_at(one, &["or"]);
        if word.is_one_of(&["tie", "tied", "both", "neither", "equally", "equivalent", "tied"]) {
            return !denied;
        }
        let plural = is_at(one, &["are", "equally"])
            || is_at(one, &["the", "about", "roughly"]) && is_at(two, &["are", "about"]);
        let draw = word.is_one_of(&["draw"]) && is_at(one, &["a"]) && !denied;
        draw || word.is_one_of(&["equal", "same", "comparable", "identical"]) && (plural || both) && !denied
    };
    words.iter().enumerate().any(says).then_some(Vote::Plain(Choice::Tie))
}
