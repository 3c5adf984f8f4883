//! Units and words that may stand beside a value.

use super::super::token::Token;

/// Units that may follow a number without a space.
pub(super) const UNITS: [&str; 35] = [
    "cm", "mm", "km", "dm", "nm", "kg", "mg", "ml", "mL", "cl", "dl", "ft", "in", "yd", "mi", "lb", "lbs", "oz", "hr",
    "hrs", "min", "mins", "sec", "secs", "ms", "mph", "kmh", "kph", "Hz", "kW", "kWh", "st", "nd", "rd", "th",
];
/// Units of one letter, which a space parts from their number.
pub(super) const LETTERS: &str = "mgshLJNWVAKCF";
/// Words behind a value that make it a part of a sentence: `8 is not the answer`.
pub(super) const SENTENCES: [&str; 7] = ["is", "isn", "are", "was", "were", "not", "does"];
/// Words that begin a condition behind a value.
pub(super) const CONDITIONS: [&str; 9] = ["for", "if", "where", "when", "with", "since", "as", "because", "so"];
/// English words of two letters, which are no products.
pub(super) const SMALL_WORDS: [&str; 22] = [
    "so", "is", "we", "it", "to", "of", "by", "an", "at", "be", "on", "no", "he", "my", "me", "us", "up", "do", "go",
    "if", "as", "in",
];
/// Words that begin one behind a comma.
pub(super) const CONDITIONS_APART: [&str; 5] = ["for", "if", "where", "when", "with"];
/// Words before a value that say nothing of it.
pub(super) const HEDGES: [&str; 12] = [
    "about",
    "approximately",
    "approx",
    "around",
    "roughly",
    "exactly",
    "nearly",
    "only",
    "just",
    "therefore",
    "thus",
    "hence",
];

/// Whether a token behind a space is a unit of one letter.
pub(super) fn is_letter_unit(token: &Token) -> bool {
    matches!(token, Token::Name(name) if name.chars().count() == 1 && LETTERS.contains(name.as_str()))
}
