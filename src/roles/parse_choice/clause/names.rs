//! What names an answer in prose: a noun and a letter, a place, a list of both.

use crate::types::pattern::pattern;
use regex::{Captures, Regex};
use std::borrow::Cow;
use std::sync::LazyLock;

/// `text` in which `§A` and `§B` stand for what names an answer by a noun or its place, and `§AB` for both in a list.
pub(super) fn with_names(text: &str) -> String {
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
    static CHINESE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?:答案|回答|选项|選項|答え)\s*([AB12])"));
    static INSTEAD: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)\b(?:instead of|in place of|rather than)\b"));
    static THAN: LazyLock<Regex> = LazyLock::new(|| pattern(r"([AB])\s*(?:より|보다)"));
    static POSSESSIVE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b([AB])'s\b"));
    static TIES: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)\bno (?:clear |real |significant |meaningful )?(?:difference|winner|preference)\b|\btoss-?up\b|\btoo close to call\b|\bon (?:a )?par\b|\bthey're (?:about )?the same\b|一样好|同样好|差不多|不相上下|两者相当|\bgleich gut\b|\bson iguales\b|\bse valent\b",
        )
    });
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
    let text = without_labels(&text);
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
    let text = CHINESE.replace_all(&text, |found: &Captures<'_>| match &found[1] {
        "1" => " §A ".to_owned(),
        "2" => " §B ".to_owned(),
        name => format!(" §{name} "),
    });
    let list = |found: &Captures<'_>| {
        let group = |one: usize, two: usize| found.get(one).or(found.get(two)).map_or("", |letter| letter.as_str());
        let link = found.get(5).map_or("", |link| link.as_str());
        if group(1, 3) == group(2, 4) { found[0].to_owned() } else { format!(" §AB {link}") }
    };
    LIST.replace_all(&text, list).into_owned()
}

/// `text` without marks at school and other names with a letter: "A+", "an A", "Section B", "give A a B".
fn without_labels(text: &str) -> Cow<'_, str> {
    static GRADE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"\b(?i:gives?|giving)\s+[AB]\s+an?\s+[A-F](?:[+-]|\b)|\b[AB][+-](?:[\s.,]|$)|\b(?i:grade|an|vitamin|plan|section|part|figure|table|group|class|type|point|step|appendix|team|exhibit|chapter|scenario|category|level|column|row)\s*:?\s+[AB]\b|\bA for effort\b|\b[AB]\s*[:=]?\s*\d+(?:\.\d+)?\s*%|\bP\([AB]\)",
        )
    });
    GRADE.replace_all(text, " ")
}
