//! Letters of options, and what stands around one: denials, names that only end in a letter.

use crate::types::pattern::pattern;
use regex::Regex;
use std::sync::LazyLock;
use unicode_normalization::UnicodeNormalization;

/// The option with this letter.
pub(super) fn at_letter(name: &str, options: &[String]) -> Option<usize> {
    let name = name.chars().next()?.to_ascii_uppercase();
    let index = (name as usize).checked_sub('A' as usize)?;
    (index < options.len().min(26)).then_some(index)
}

/// Whether what stands before a letter denies it.
pub(super) fn is_denied_before(before: &str) -> bool {
    static DENIED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)(?:\bnot|n't|\bnicht|\bno es|\bno está|n'est pas|\bnon è|\bnão é|不是|\bnever|\bcannot|\bwouldn't|\bneither|\bnor|\bso (?:is|are)|\b(?:all|any|anything|everything|everyone|everybody|anyone|every|each)(?:\s+\w+){0,4}?\s+but|\b(?:except|save)(?: for)?|\bother than|\bapart from|\bbesides)(?:\s+\w+)?[\s(*]*$",
        )
    });
    DENIED.is_match(before)
}

/// Whether a letter behind `before` is part of a name: "Plan B", "Figure A".
pub(super) fn is_label(before: &str) -> bool {
    static LABEL: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)\b(?:plan|vitamin|hepatitis|influenza|type|grade|group|class|figure|fig\.|section|team|point|set|appendix|exhibit|table|chapter|part|schedule|category|level|model|case|line|angle|vertex|event|factor|company|person|city|graph|column|row|an)\s+$",
        )
    });
    LABEL.is_match(before)
}

/// Whether what follows a letter says that it is wrong.
pub(super) fn is_denied_behind(behind: &str) -> bool {
    static DENIED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)^[)\]*:]*\s*(?:is|was|are|does|do|can|could|would|has|seems|fails)?\s*(?:the\s+)?(?:only\s+)?(?:n't|\bnot\b|\bwrong\b|\bincorrect\b|\bfalse\b|\bfails?\b|\bcannot\b|\bruled out\b|\bout\b|\bnames another\b)",
        )
    });
    DENIED.is_match(behind)
}

/// Lower case with single spaces.
pub(super) fn folded(text: &str) -> String {
    let lower = text.nfkc().collect::<String>().to_lowercase().replace('\u{2212}', "-");
    lower.split_whitespace().collect::<Vec<_>>().join(" ")
}
