//! Parses a judge's choice from its text.
//!
//! Thoughts are left out. In this order: what the text marks as its verdict (`[[A]]`, `[[A>B]]`, `"winner": "A"`,
//! `\boxed{A}`, "verdict: B"); a text that is only a verdict, in any case (`b.`, `**Tie**`, `2`); JSON that ranks or scores both
//! ([`json`]); the verdict that it ends on, or a ranking; scores for both; else all that its clauses say ([`clause`]). A
//! comparison beats praise: "A is good, but B is better" is B.
//!
//! Invariant: a text with no verdict, or with two different ones, has none, and so has one that was cut before its verdict.
//! Nothing is guessed.

use crate::types::Choice;
use crate::types::pattern::pattern;
use crate::types::thoughts::without_thoughts;
use clause::{Vote, contradicts_tie, votes};
use regex::Regex;
use std::sync::LazyLock;
use unicode_normalization::UnicodeNormalization;

mod clause;
mod json;

/// The verdict of `text`, if it contains exactly one. Of a text that was cut, only a mark or a bare verdict counts.
pub(super) fn read(text: &str, is_cut: bool) -> Option<Choice> {
    let answer = without_thoughts(text);
    let text = plain(answer);
    if is_cut && text.rfind("[[") > text.rfind("]]") {
        return None;
    }
    if let Some(marked) = marked(&text) {
        return marked;
    }
    // What is cut behind "verdict: A" may go on with "is worse".
    if is_cut && text.split_whitespace().nth(1).is_some() {
        return None;
    }
    if let Some(whole) = whole(&text).or_else(|| compared(&format!("answer {}", text.trim()))) {
        return Some(whole);
    }
    if let Some(stated) = stated(&text) {
        return stated;
    }
    if let Some(ranked) = json::ranked(answer) {
        return ranked;
    }
    if let Some(ended) = ended(&text).or_else(|| listed(&text)) {
        return Some(ended);
    }
    if contradicts_tie(&text) {
        return None;
    }
    scored(&text).or_else(|| agreed_votes(&votes(&text)))
}

/// `text` with letters that look alike made equal, and without emphasis.
fn plain(text: &str) -> String {
    static CYRILLIC: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b([АВ])\b"));
    static JOINED: LazyLock<Regex> = LazyLock::new(|| pattern(r"([A-Za-z])_([ABab12])\b"));
    let text: String = text.nfkc().filter(|c| !"*`\u{feff}".contains(*c)).collect();
    let text = JOINED.replace_all(&text, "$1 $2").replace('_', "").replace('\u{2019}', "'");
    let latin = |found: &regex::Captures<'_>| if &found[1] == "А" { "A" } else { "B" };
    CYRILLIC.replace_all(&text, latin).into_owned()
}

/// The verdict, if all of `verdicts` agree and there is one.
fn agreed(mut verdicts: impl Iterator<Item = Choice>) -> Option<Choice> {
    let first = verdicts.next()?;
    verdicts.all(|verdict| verdict == first).then_some(first)
}

/// What comparisons say; without any, what all clauses say.
fn agreed_votes(votes: &[Vote]) -> Option<Choice> {
    let strong: Vec<Choice> = votes.iter().filter_map(|vote| vote.strong()).collect();
    if strong.is_empty() { agreed(votes.iter().map(|vote| vote.choice())) } else { agreed(strong.into_iter()) }
}

/// The verdict in double brackets; `None` if there are no brackets, `Some(None)` if they disagree. Those that the text introduces as
/// its verdict beat others, and the last of them wins; quoted ones do not count.
fn marked(text: &str) -> Option<Option<Choice>> {
    static LEAD: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)(?:verdict|final|conclusion|winner|decision|judge?ment|therefore|overall)[^\[\]\n.]{0,40}$")
    });
    // "[[A]] or [[B]]" are the verdicts that there are.
    static LISTED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r#"\[\[[^\[\]]*\]\]["']?(?:(?:\s*,\s*|\s+)(?:or\s+)?["']?\[\[[^\[\]]*\]\]["']?)*,?\s+or\s+["']?\[\[[^\[\]]*\]\]"#,
        )
    });
    let lists: Vec<_> = LISTED.find_iter(text).map(|list| list.range()).collect();
    let listed =
        |at: usize| lists.get(lists.partition_point(|list| list.end <= at)).is_some_and(|list| list.contains(&at));
    let all = text.match_indices("[[").count();
    let found: Vec<(bool, Option<Choice>)> = text
        .match_indices("[[")
        .filter(|(at, _)| !listed(*at))
        .filter(|(at, _)| !text[..*at].ends_with(['"', '\'', '\u{201c}']))
        .filter_map(|(at, open)| {
            let (inside, _) = text[at + open.len()..].split_once("]]")?;
            Some((LEAD.is_match(&text[..at]), bracketed(inside)))
        })
        .collect();
    if let Some((_, choice)) = found.iter().rev().find(|(leads, _)| *leads) {
        return Some(*choice);
    }
    let known: Vec<Choice> = found.iter().filter_map(|(_, choice)| *choice).collect();
    if known.is_empty() {
        return (all > found.len() && !lists.is_empty()).then_some(None);
    }
    Some(agreed(known.into_iter()))
}

/// What stands in double brackets: a verdict, MT-Bench's `C`, which means tie, or a comparison.
fn bracketed(inside: &str) -> Option<Choice> {
    let inside = inside.trim();
    if inside.eq_ignore_ascii_case("c") { Some(Choice::Tie) } else { compared(inside).or_else(|| whole(inside)) }
}

/// `A>B`, `B >> A`, `A=B`.
fn compared(text: &str) -> Option<Choice> {
    static COMPARED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"^(?:(?i:answer |response |assistant |model |output |option )?([AB])|(?i:answer |response |assistant |model |output |option )([12]))\s*([>≥]+|[<≤]+|=+|[≈~]|≫|≪)\s*(?i:answer |response |assistant |model |output |option )?([AB12])\.?$",
        )
    });
    let found = COMPARED.captures(text.trim())?;
    let (first, second) = (letter(found.get(1).or(found.get(2))?.as_str())?, letter(&found[4])?);
    match &found[3] {
        _ if first == second => None,
        sign if sign.starts_with(['=', '≈', '~']) => Some(Choice::Tie),
        sign if sign.starts_with(['>', '≥', '≫']) => Some(first),
        _ => Some(second),
    }
}

/// The verdict that the text states as such; the last one wins. `Some(None)` if it is none of A, B and tie.
fn stated(text: &str) -> Option<Option<Choice>> {
    static STATED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r#"(?i)<(?:answer|verdict|winner|choice)>\s*([^<\n]{1,30}?)\s*</|\\boxed\s*\{\s*(?:\\text\{)?([^{}]{1,30})\}|"(?:winner|verdict|choice|answer|(?:better|best|preferred|chosen) ?(?:answer|response|output|assistant|model|option)?|preference|decision|result|judge?ment)"\s*:\s*"?([^",}\n]{1,30})|\b(?:(?:final|my)\s+(?:verdict|answer|decision|choice|judge?ment)|verdict|winner|decision|conclusion|preference|(?:better|preferred|best) (?:answer|response|output|one)|preferred(?:\s*:)?)\s*(?:is|:|=|->|→)+\s*:?\s*\(?((?:(?:answer|response|option|assistant|model|the)\s+)*(?:[A-Za-z]+|[12]))\)?(\s+(?:or|and)\b)?"#,
        )
    });
    static GOES_ON: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^\)?\s+(?:is|was|isn't|seems|looks|has|loses|fails|lacks)\b"));
    static LOSER: LazyLock<Regex> = LazyLock::new(|| pattern(r#"(?i)"(?:loser|worse|worst)"\s*:\s*"([^"\n]{1,30})""#));
    let mut last = None;
    for found in STATED.captures_iter(text) {
        let Some(said) = (1..=4).find_map(|group| found.get(group)) else { continue };
        // What goes on as a clause is read as one: "verdict: A is worse".
        if found.get(4).is_some() && GOES_ON.is_match(&text[said.end()..]) {
            continue;
        }
        // "verdict is A or B" states none.
        let inside = || agreed_votes(&votes(said.as_str())).filter(|_| found.get(4).is_none());
        let choice = bracketed(said.as_str()).or_else(inside).filter(|_| found.get(5).is_none());
        // Prose goes on behind words that are no verdict: "the verdict is hard".
        if found.get(4).is_none() || choice.is_some() || found.get(5).is_some() {
            last = Some(choice);
        }
    }
    let loser = || match bracketed(LOSER.captures(text)?.get(1)?.as_str())? {
        Choice::A => Some(Choice::B),
        Choice::B => Some(Choice::A),
        Choice::Tie => None,
    };
    last.or_else(|| loser().map(Some)).or_else(|| text.lines().rev().find_map(compared).map(Some))
}

fn letter(word: &str) -> Option<Choice> {
    match word {
        "A" | "a" | "1" => Some(Choice::A),
        "B" | "b" | "2" => Some(Choice::B),
        _ => None,
    }
}

/// The verdict of a text that is only a verdict: `a`, `answer B`, `equal`, `the second one`.
fn whole(text: &str) -> Option<Choice> {
    static WHOLE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)^\W*(?:(?:i (?:choose|pick|prefer|say)|(?:it|this) is|the)\s+)?(?:(?:answer|option|response|choice|verdict|assistant|model|candidate|winner|output|solution|antwort|respuesta|réponse|risposta|resposta|答案|回答|选项)\s*(?:is|:|是)?\W*)?([ab12]|(?:first|second|former|latter)(?:\s+(?:one|answer|response))?|tie|tied|equal|same|draw|neither|both|empate|égalité|unentschieden|pareggio|ничья|平局|平手|引き分け|무승부)(?:[^\w+-][^\w+]*)?$",
        )
    });
    let found = WHOLE.captures(text)?;
    match found[1].to_lowercase().split_whitespace().next().unwrap_or_default() {
        "a" | "1" | "first" | "former" => Some(Choice::A),
        "b" | "2" | "second" | "latter" => Some(Choice::B),
        _ => Some(Choice::Tie),
    }
}

/// The verdict that a text ends on: "Overall A.", "so B wins".
fn ended(text: &str) -> Option<Choice> {
    static ENDED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?:^|[.;,!\n])\s*(?i:so|overall|in (?:conclusion|summary|short|the end)|on balance|all in all|ultimately|finally|thus|therefore|hence)[,:]?\s+(?i:i (?:choose|prefer|pick|favor|favour|go with) )?(?i:(?:the |a )?(?:answer|response|assistant|model|output|option) )?([AB]|(?i:tie))(?i: wins| is (?:better|the winner|preferred|the better (?:answer|response|one)))?[.!\s]*$",
        )
    });
    whole(&ENDED.captures(text)?[1])
}

/// The first of a list of both: `1. B` and `2. A`, `Ranking: B, A`.
fn listed(text: &str) -> Option<Choice> {
    static LISTED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"^\W*(?i:(?:rank(?:ing)?\s*)?(?:#?1|1st|first)(?:\s+place)?\s*[.:)])\s*(?i:(?:answer|response|assistant|model)\s+)?([AB])[\s,;.]+(?i:(?:rank\s*)?(?:#?2|2nd|second)(?:\s+place)?\s*[.:)])\s*(?i:(?:answer|response|assistant|model)\s+)?([AB])\W*$|^\W*(?i:ranking|order|(?:from )?best to worst)\s*:\s*([AB])\s*(?:,|then|>)\s*([AB])\W*$",
        )
    });
    let found = LISTED.captures(text)?;
    let group = |one: usize, two: usize| letter(found.get(one).or(found.get(two))?.as_str());
    let (first, second) = (group(1, 3)?, group(2, 4)?);
    (first != second).then_some(first)
}

/// The verdict by scores for both: `A: 4/10, B: 9/10`.
fn scored(text: &str) -> Option<Choice> {
    const SCORE: &str = r"(?i:scores?|scored|rating|rated|grade|points)";
    static NAMED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(&format!(
            r#"{SCORE}\s*(?:(?i:for|of)\s*)?(?:(?i:answer|response|assistant|model)\s*)?\b([AaBb])\b["']?\s*(?i:[:=]|is)\s*["'\[]*(\d{{1,3}}(?:\.\d+)?)|\b([AB])\s+(?i:gets\s+a\s+|has\s+a\s+)?{SCORE}\s*(?:(?i:of|at)\s*)?(\d{{1,3}}(?:\.\d+)?)|"([AB])"\s*:\s*(\d{{1,3}}(?:\.\d+)?)"#
        ))
    });
    static SCORED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"\b([AB])\b[^\dAB\n]{0,20}?(\d{1,3}(?:\.\d+)?)\s*(?:/\s*\d{1,3}|(?i:out of)\s+\d{1,3}|(?i:points?)\b|%)",
        )
    });
    let mut best: [Option<f64>; 2] = [None; 2];
    let scores = if SCORED.is_match(text) { SCORED.captures_iter(text) } else { NAMED.captures_iter(text) };
    for found in scores {
        let (name, score) = [1, 3, 5].iter().find_map(|group| found.get(*group).zip(found.get(group + 1)))?;
        let place = usize::from(name.as_str().eq_ignore_ascii_case("b"));
        let score = score.as_str().parse::<f64>().ok()?;
        if best[place].is_some_and(|known| known != score) {
            return None;
        }
        best[place] = Some(score);
    }
    let [a, b] = [best[0]?, best[1]?];
    Some(if a > b {
        Choice::A
    } else if b > a {
        Choice::B
    } else {
        Choice::Tie
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
