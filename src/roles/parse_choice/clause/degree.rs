//! Sentences that say the same of both answers, and of one that it is more or less so: "Both are flawed, A less so".

use super::lexicon::{PRAISED, WRONG};
use crate::types::Choice;
use crate::types::pattern::pattern;
use regex::Regex;
use std::sync::LazyLock;

/// What all sentences of this kind in `text`, which has its names marked, say; and the text without them.
pub(super) fn by_degree(text: &str) -> (Vec<Choice>, String) {
    static DEGREE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"\b((?i:both|neither)\b[^.!?\n]*?)(?:\s*[,;:\x{2013}]\s*|\s+)(?i:(?:but|though|although|yet|with|and)\s+)?§?([AB])\s+(?i:(?:is|being|does|has|even|slightly|somewhat|much|far|a bit|a little|only|marginally)\s+)*((?i:less|more|fewer))(?:\s+(?i:so|often|badly|severely|seriously)\b|\s+(\w+)\s*(?:[.!,;\n]|$)|\s*(?:[.!,;\n]|$))[^.!?\n]*",
        )
    });
    let mut votes = Vec::new();
    for found in DEGREE.captures_iter(text) {
        let more = found[3].eq_ignore_ascii_case("more");
        let (choice, other) = if &found[2] == "A" { (Choice::A, Choice::B) } else { (Choice::B, Choice::A) };
        // "A more concise" praises by its own word, "A less so" by that of both.
        if let Some(adjective) = found.get(4) {
            let blames = WRONG.contains(&adjective.as_str().to_lowercase().as_str());
            votes.push(if blames == more { other } else { choice });
            continue;
        }
        votes.extend(praises(&found[1]).map(|praise| if praise == more { choice } else { other }));
    }
    (votes, DEGREE.replace_all(text, " ").into_owned())
}

/// Whether what is said of both is praise, or else blame; `None` if that is not clear.
fn praises(said: &str) -> Option<bool> {
    let words: Vec<String> = said.split(|c: char| !c.is_alphabetic()).map(str::to_lowercase).collect();
    let has = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    let denied = has(&["neither", "not", "no", "hardly", "never"]);
    match (has(&PRAISED), has(&WRONG)) {
        (true, false) if !denied => Some(true),
        (false, true) if !denied => Some(false),
        _ => None,
    }
}

/// Whether `text` calls the answers a tie and prefers one: "A tie, with A slightly ahead".
pub(super) fn contradicts_tie(text: &str) -> bool {
    static TIE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)\b(?:tie|tied|draw|toss-?up|equal)\b[^.!?\n]*\b(?:(?-i:[AB])\b[^.!?\n]*\b(?:ahead|better|edge|stronger|preferred|preferable|wins)|(?:leaning|lean|leans|preference|prefer|favou?ring|edge|nod|advantage)\b[^.!?\n]*\b(?-i:[AB]))\b",
        )
    });
    static DENIED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)\b(?:not|no|isn't|n't|would|could|almost|nearly|never|rather than|first|break)\b[^.!?,;\n]*$")
    });
    TIE.find_iter(text).any(|found| {
        let hypothetical = text[found.end()..].trim_start().starts_with("if ");
        !DENIED.is_match(&text[..found.start()]) && !hypothetical
    })
}
