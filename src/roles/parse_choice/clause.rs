//! What the clauses of a judge's prose say of the two answers.
//!
//! A capital letter names an answer, unless it is an article ("A better answer is B"), stands behind "than" or "not", or is
//! listed with the other one ("A and B"). "Answer 1" and "the second" name one too. "Tie", "both", "neither", "equally", "are
//! equal", "the same" and "a draw" mean tie.

use super::pattern;
use crate::types::Choice;
use regex::{Captures, Regex};
use std::sync::LazyLock;

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

/// Comparisons in favour of their subject.
const BETTER: [&str; 34] = [
    "better",
    "superior",
    "best",
    "stronger",
    "preferable",
    "preferred",
    "wins",
    "win",
    "won",
    "beats",
    "outperforms",
    "surpasses",
    "over",
    "closer",
    "clearer",
    "ahead",
    "winner",
    "edges",
    "besser",
    "mejor",
    "meilleur",
    "meilleure",
    "migliore",
    "melhor",
    "лучше",
    "更好",
    "更优",
    "比較好",
    "nicer",
    "preferring",
    ">",
    ">>",
    "fewer",
    "deserves",
];
/// Comparisons against it.
const WORSE: [&str; 17] = [
    "worse",
    "inferior",
    "weaker",
    "worst",
    "loses",
    "lost",
    "less",
    "schlechter",
    "peor",
    "pire",
    "peggiore",
    "pior",
    "хуже",
    "更差",
    "falls",
    "behind",
    "poorer",
];
/// Blame.
const WRONG: [&str; 37] = [
    "wrong",
    "incorrect",
    "incorrectly",
    "inaccurate",
    "false",
    "flawed",
    "fails",
    "failed",
    "fail",
    "misses",
    "missed",
    "missing",
    "lacks",
    "forgets",
    "forgot",
    "ignores",
    "error",
    "errors",
    "mistake",
    "mistakes",
    "incomplete",
    "irrelevant",
    "poor",
    "bad",
    "bug",
    "bugs",
    "flaw",
    "flaws",
    "misleading",
    "nonsense",
    "omits",
    "contradicts",
    "hallucinates",
    "falsch",
    "mal",
    "unclear",
    "confusing",
];
const NEGATIONS: [&str; 17] = [
    "not", "isn't", "wasn't", "doesn't", "didn't", "don't", "can't", "cannot", "never", "hardly", "won't", "wouldn't",
    "couldn't", "aren't", "no", "nicht", "neither",
];
/// Verbs of a decision, before what is decided for.
const DECIDED: [&str; 20] = [
    "prefer",
    "choose",
    "chose",
    "pick",
    "picked",
    "select",
    "favor",
    "favour",
    "recommend",
    "winner",
    "better",
    "best",
    "superior",
    "stronger",
    "vote",
    "go",
    "verdict",
    "preferred",
    "conclude",
    "choosing",
];
/// Behind these a name is no subject.
const OBJECTS: [&str; 14] =
    ["than", "not", "to", "against", "unlike", "versus", "vs", "als", "que", "di", "over", "with", "from", "beats"];
/// What may follow a letter that opens a clause: anything else makes "A" an article.
const VERBS: [&str; 70] = [
    "is",
    "was",
    "isn't",
    "wasn't",
    "seems",
    "looks",
    "appears",
    "remains",
    "has",
    "had",
    "does",
    "doesn't",
    "did",
    "didn't",
    "can",
    "can't",
    "cannot",
    "should",
    "must",
    "would",
    "could",
    "wins",
    "won",
    "beats",
    "loses",
    "lost",
    "fails",
    "failed",
    "misses",
    "missed",
    "lacks",
    "forgets",
    "ignores",
    "omits",
    "contains",
    "includes",
    "gives",
    "provides",
    "answers",
    "makes",
    "shows",
    "states",
    "says",
    "explains",
    "solves",
    "gets",
    "addresses",
    "follows",
    "offers",
    "uses",
    "takes",
    "edges",
    "deserves",
    "outperforms",
    "surpasses",
    "contradicts",
    "hallucinates",
    "over",
    "correctly",
    "clearly",
    "because",
    "since",
    "as",
    "with",
    "by",
    "only",
    "also",
    "ist",
    "est",
    "es",
];

/// The votes of `text`'s clauses.
pub(super) fn votes(text: &str) -> Vec<Vote> {
    static BORDER: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)[.;!?:,\n。，；！？：()]+|\b(?:but|while|whereas|however|although|though|because|since|so|yet|aber|mais|pero)\b",
        )
    });
    let named = with_names(text);
    BORDER.split(&named).filter_map(|clause| vote(&words(clause))).collect()
}

/// `text` in which `§A` and `§B` stand for what names an answer by a noun or its place, and `§AB` for both in a list.
fn with_names(text: &str) -> String {
    const NOUNS: &str = "answer|option|response|choice|assistant|model|candidate|solution|output|reply|antwort|respuesta|réponse|risposta|resposta|ответ";
    static NOUN: LazyLock<Regex> =
        LazyLock::new(|| pattern(&format!(r#"(?i:\b(?:{NOUNS})s?)\s*["'(]?([AB])\b["')]?"#)));
    static SMALL: LazyLock<Regex> =
        LazyLock::new(|| pattern(&format!(r"(?i:\b(?:{NOUNS}))\s+\(?([ab])\)?(\s*(?:[.,;:!?\n]|$))")));
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
    static LIST: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?:§|\b)([AB])\s*(?:,?\s*(?:and|or|nor|with|und|oder|et|ou)\b|/|&|\bvs\.?|\bversus\b)\s*(?:§|\b)([AB])\b|(?:§|\b)([AB])\s*,\s*(?:§|\b)([AB])\s*,?\s*(or|and)\b",
        )
    });
    let place = |found: &Captures<'_>| {
        if matches!(found[1].to_lowercase().as_str(), "first" | "former" | "1") { "A" } else { "B" }
    };
    let behind = |found: &Captures<'_>| found.get(2).map_or("", |rest| rest.as_str()).to_owned();
    let text = NOUN.replace_all(text, " §$1 ");
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
    // "A" before a noun or adjective is an article.
    let opens = matches!(words.first(), Some(Word::Answer(Choice::A, false)));
    if opens
        && matches!(words.get(1), Some(Word::Other(word)) if !VERBS.contains(&word.as_str()) && !word.starts_with(">"))
    {
        words[0] = Word::Other("a".to_owned());
    }
    words
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
    let is_subject = |at: usize| at.checked_sub(1).is_none_or(|before| !words[before].is_one_of(&OBJECTS));
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
    let wrong = has(behind, &WRONG);
    let denied = has(behind, &NEGATIONS);
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
        (false, false, false) => Some(Vote::Plain(if wrong { other(choice) } else { choice })),
    }
}

/// Whether a clause without a subject says that both are as good.
fn tie(words: &[Word]) -> Option<Vote> {
    let is_at =
        |at: Option<usize>, list: &[&str]| at.and_then(|at| words.get(at)).is_some_and(|word| word.is_one_of(list));
    let both = words.contains(&Word::Both);
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
