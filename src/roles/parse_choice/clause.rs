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
use degree::by_degree;
use grammar::{
    BEATEN, CALLED, CONCESSIONS, CONDITIONS, COPULAS, DOUBTS, GOOD_VERBS, LEADS, MODALS, OBJECTS_OF_BOTH, PLACED,
    REASONS, SHARED, VERBS,
};
use lexicon::{BETTER, BLAME, DECIDED, GIVEN, NEGATIONS, OBJECTS, PRAISE, PRAISED, RETRACTED, WORSE, WRONG};
use names::with_names;
use regex::{Captures, Regex};
use std::sync::LazyLock;

mod degree;
mod grammar;
mod lexicon;
mod names;

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

/// Whether `text` calls the answers a tie and prefers one.
pub(super) fn contradicts_tie(text: &str) -> bool {
    degree::contradicts_tie(text)
}

/// `text` without sentences of what would follow if something were so. "If I had to choose, A" is no such sentence.
fn without_conditions(text: &str) -> String {
    static CONDITION: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(^|[.!?;\n]\s*)(?:If|Unless|Were|Had)\b([^.!?\n]*)"));
    static CHOOSING: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)\bI\b.{0,30}\b(?:choose|pick|decide|select|judge|say|rank)\b|\bforced\b|\bpressed\b|\banything\b")
    });
    let kept = |found: &Captures<'_>| {
        if CHOOSING.is_match(&found[2]) { found[0].to_owned() } else { found[1].to_owned() }
    };
    CONDITION.replace_all(text, kept).into_owned()
}

/// The votes of `text`'s clauses.
pub(super) fn votes(text: &str) -> Vec<Vote> {
    static BORDER: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)[.;!?:,\n。，；！？：()]+|\b(?:but|while|whereas|however|although|though|because|since|so|yet|aber|mais|pero)\b",
        )
    });
    let (degrees, named) = by_degree(&with_names(text));
    // Questions say nothing, and "A is right and B is wrong" is two clauses.
    static QUESTION: LazyLock<Regex> = LazyLock::new(|| pattern(r"[^.!?\n]*\?"));
    // "A: correct, B: incorrect"
    static LABELLED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(§[AB]|\b[AB])\s*:\s*((?:in)?(?:correct|accurate|complete)|right|wrong|better|worse|good|bad|(?:un)?(?:clear|helpful))\b",
        )
    });
    static AND: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"\band\s+(§?[AB]\s+(?:is|was|isn't|seems|has|fails|loses|lacks|gives|does|doesn't|answers)\b)")
    });
    let named = QUESTION.replace_all(&named, " ");
    let named = LABELLED.replace_all(&without_conditions(&named), "$1 is $2").into_owned();
    let named = AND.replace_all(&named, "; $1");
    let clauses = BORDER.split(&named).filter_map(|clause| vote(&words(clause)));
    degrees.into_iter().map(Vote::Strong).chain(clauses).collect()
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
    let goes_on = VERBS.contains(&next.as_str())
        || next.starts_with(|c: char| c == '>' || c.is_ascii_digit())
        || !next.is_ascii();
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
    let given = |before: usize| {
        let is_at = |back: usize, list: &[&str]| before.checked_sub(back).is_some_and(|at| words[at].is_one_of(list));
        is_at(1, &GIVEN) || is_at(1, &["it"]) && is_at(2, &["give", "gives", "giving"])
    };
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
    // "but not as good as B"
    if let [Word::Other(not), Word::Other(first), Word::Other(quality), Word::Other(last)] = before
        && NEGATIONS.contains(&not.as_str())
        && [first, last].iter().all(|word| *word == "as")
    {
        return Some(Vote::Strong(if WRONG.contains(&quality.as_str()) { other(choice) } else { choice }));
    }
    if says_nothing(choice, before, behind) {
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
    compared(choice, before, behind)
}

/// What the words around `choice` say of it.
fn compared(choice: Choice, before: &[Word], behind: &[Word]) -> Option<Vote> {
    let has = |part: &[Word], list: &[&str]| part.iter().any(|word| word.is_one_of(list));
    let beaten = behind.windows(2).any(|pair| pair[0].is_one_of(&BEATEN) && pair[1].is_one_of(&["by"]));
    let without = behind.windows(2).any(|pair| pair[0].is_one_of(&["no", "without"]) && pair[1].is_one_of(&WRONG));
    let second = behind.windows(2).any(|pair| pair[0].is_one_of(&PLACED) && pair[1].is_one_of(&["second", "last"]));
    if second || behind.len() == 1 && has(behind, &["second", "last"]) {
        return Some(Vote::Strong(other(choice)));
    }
    let is_first = behind.len() == 1 && has(behind, &["first"]) && before.iter().all(|word| word.is_one_of(&LEADS));
    if (is_first || is_on_top(behind)) && !has(behind, &NEGATIONS) && !has(before, &NEGATIONS) {
        return Some(Vote::Strong(choice));
    }
    let wrong = has(behind, &WRONG) && !without;
    let denied = has(behind, &NEGATIONS) && !without;
    if beaten {
        return (!denied).then_some(Vote::Strong(other(choice)));
    }
    if has(before, &["if", "whether", "unless", "otherwise"]) {
        return None;
    }
    if has(before, &WORSE) && !denied {
        return Some(Vote::Strong(other(choice)));
    }
    if has(before, &DECIDED) {
        return (!has(before, &NEGATIONS) && !has(before, &DOUBTS)).then_some(Vote::Strong(choice));
    }
    if has(before, &NEGATIONS) || has(before, &DOUBTS) {
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
        (false, false, false) => (without || is_praise(before, behind)).then_some(Vote::Plain(choice)),
    }
}

/// Whether the words around `choice` suppose, list or go back on something.
fn says_nothing(choice: Choice, before: &[Word], behind: &[Word]) -> bool {
    let has = |part: &[Word], list: &[&str]| part.iter().any(|word| word.is_one_of(list));
    let at_first = before.windows(2).any(|pair| pair[0].is_one_of(&["at"]) && pair[1].is_one_of(&["first"]));
    let condition = behind.windows(2).any(|pair| pair[0].is_one_of(&CONDITIONS) && !pair[1].is_one_of(&CONCESSIONS));
    let supposed = condition || has(behind, &["might", "may", "could", "until"]);
    // "A B test", "better in some ways and B in others".
    let listed = matches!(behind.first(), Some(Word::Answer(next, _)) if *next != choice)
        || behind.windows(2).any(|pair| {
            pair[0].is_one_of(&["some", "certain"])
                && pair[1].is_one_of(&["ways", "respects", "aspects", "cases", "areas"])
        });
    listed || at_first || supposed || has(before, &RETRACTED) || has(behind, &["glance", "sight", "initially"])
}

/// Whether what a clause says of its subject is praise: a known word, or nothing behind a name that the text leads to.
fn is_praise(before: &[Word], behind: &[Word]) -> bool {
    let leads = || {
        before.iter().all(|word| {
            word.is_one_of(&LEADS) || word.is_one_of(&GIVEN) || matches!(word, Word::Both | Word::Answer(..))
        })
    };
    let Some(Word::Other(first)) = behind.first() else { return leads() };
    let praised = || behind.iter().any(|word| word.is_one_of(&PRAISED));
    if COPULAS.contains(&first.as_str()) {
        return behind.len() == 1 && leads() || praised() || behind.iter().skip(1).any(|word| word.is_one_of(&CALLED));
    }
    let is_called = || behind.last().is_some_and(|word| word.is_one_of(&CALLED));
    MODALS.contains(&first.as_str()) && is_called()
        || GOOD_VERBS.contains(&first.as_str())
        || REASONS.contains(&first.as_str()) && leads()
        || praised()
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
        let decided = says(&["选", "選", "倾向", "偏好", "推荐", "推薦", "胜者", "勝者"], &ahead);
        return decided.then_some(Some(Vote::Strong(choice)));
    }
    let vote = match (says(&BLAME, &rest), says(&PRAISE, &rest)) {
        (true, _) if rest.contains("不差") || rest.contains("不错") => None,
        (true, _) => Some(Vote::Strong(other(choice))),
        (false, true) => Some(Vote::Strong(choice)),
        (false, false) => None,
    };
    Some(vote)
}

/// Whether an idiom says that the subject wins: "has the edge", "comes out on top", "gets my vote".
fn is_on_top(behind: &[Word]) -> bool {
    let Some(first) = behind.first() else { return false };
    let held = first.is_one_of(&["has", "have", "holds", "gets", "takes", "gains"]);
    let is_prize = |pair: &[Word]| {
        pair[0].is_one_of(&["edge", "advantage", "vote", "win"]) && !pair[1].is_one_of(&["case", "cases"])
    };
    let ends = |list: &[&str]| behind.last().is_some_and(|word| word.is_one_of(list));
    held && (ends(&["edge", "advantage", "vote", "win"]) || behind.windows(2).any(is_prize))
        || behind.windows(2).any(|pair| pair[0].is_one_of(&["on"]) && pair[1].is_one_of(&["top"]))
        || first.is_one_of(&["takes"]) && behind.len() == 2 && ends(&["it"])
}

/// Whether a clause goes on to praise or blame both, or says no more than "both".
fn is_said_of_both(before: &[Word], behind: &[Word]) -> bool {
    let nouns = ["answers", "responses", "of", "them", "assistants"];
    let behind = &behind[behind.iter().take_while(|word| word.is_one_of(&nouns)).count()..];
    let has = |list: &[&str]| behind.iter().any(|word| word.is_one_of(list));
    let bare = behind.iter().all(|word| word.is_one_of(&["are"]));
    let tries = behind.first().is_some_and(|word| word.is_one_of(&["try", "attempt", "tried", "attempted"]));
    before.iter().all(|word| word.is_one_of(&LEADS) && !word.is_one_of(&OBJECTS_OF_BOTH) || *word == Word::Both)
        && !tries
        && (bare || has(&PRAISED) || has(&WRONG) || has(&GOOD_VERBS) || has(&BETTER) || has(&SHARED))
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
    let is_tied = |word: &Word| word.is_one_of(&["tie", "tied"]);
    let supposed = words
        .iter()
        .any(|word| word.is_one_of(&["would", "could", "almost", "nearly", "first", "initially", "thought"]));
    let says = |(at, word): (usize, &Word)| {
        let (one, two) = (at.checked_sub(1), at.checked_sub(2));
        let denied = is_at(one, &NEGATIONS)
            || is_at(one, &["a", "or"]) && is_at(two, &["not", "no", "isn't", "or"])
            || is_at(one, &["or"]);
        if is_tied(word) && words[..at].iter().any(|word| word.is_one_of(&NEGATIONS)) {
            return false;
        }
        if is_tied(word) || word.is_one_of(&["equally", "equivalent"]) {
            return !denied && !supposed;
        }
        if word.is_one_of(&["both", "neither"]) {
            return !denied && is_said_of_both(&words[..at], &words[at + 1..]);
        }
        let plural = is_at(one, &["are", "equally"])
            || is_at(one, &["the", "about", "roughly"]) && is_at(two, &["are", "about"]);
        let draw = word.is_one_of(&["draw"]) && is_at(one, &["a"]) && !denied;
        draw || word.is_one_of(&["equal", "same", "comparable", "identical"]) && (plural || both) && !denied
    };
    let declared = words.iter().enumerate().any(|(at, word)| is_tied(word) && says((at, word)));
    let vote = if declared { Vote::Strong(Choice::Tie) } else { Vote::Plain(Choice::Tie) };
    words.iter().enumerate().any(says).then_some(vote)
}
