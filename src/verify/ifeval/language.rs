//! The language of a text, by the frequencies of its n-grams in each language.
//!
//! Naive Bayes over n-grams of one to three characters, after Nakatani Shuyo's language-detection, whose profiles
//! `data/languages.txt` contains in short form. The original samples n-grams at random until it is sure; here all count, so
//! that the same text always has the same language. Case matters: pass lower-case text.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Probability of an n-gram that a language's profile does not contain: language-detection's 0.5 / 10000.
const UNSEEN: f64 = 0.5e-4;

/// Maximum number of characters examined.
const CHARS_MAX: usize = 10_000;

/// All Chinese characters are replaced by this one.
const IDEOGRAPH: char = '\u{4e00}';

struct Profiles {
    languages: Vec<&'static str>,
    /// For each n-gram, the languages that contain it with its log-likelihood above that of an unseen one (nats).
    grams: HashMap<u64, Vec<(u8, f64)>>,
}

static PROFILES: LazyLock<Profiles> = LazyLock::new(|| {
    let mut profiles = Profiles { languages: vec![], grams: HashMap::new() };
    for line in include_str!("../../../data/languages.txt").lines() {
        let mut parts = line.splitn(4, ' ');
        let (Some(language), Some(length), Some(level), Some(grams)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (length, level): (usize, f64) = (length.parse().unwrap_or(1), level.parse().unwrap_or(0.0));
        if profiles.languages.last() != Some(&language) {
            profiles.languages.push(language);
        }
        let index = (profiles.languages.len() - 1) as u8;
        let gain = ((UNSEEN + (-level / 2.0).exp2()) / UNSEEN).ln();
        let grams: Vec<char> = grams.chars().collect();
        for gram in grams.chunks(length) {
            profiles.grams.entry(key(gram)).or_default().push((index, gain));
        }
    }
    profiles
});

/// At most three characters packed into one number.
fn key(gram: &[char]) -> u64 {
    gram.iter().fold(0, |key, &c| key << 21 | u64::from(u32::from(c)))
}

/// Whether the language of this code can be detected.
pub(super) fn is_known(code: &str) -> bool {
    PROFILES.languages.contains(&code)
}

/// The ISO 639-1 code of the likeliest language; `None` if the text contains no known n-gram.
pub(super) fn of(text: &str) -> Option<&'static str> {
    let profiles = &*PROFILES;
    let mut gains = vec![0.0; profiles.languages.len()];
    let mut seen = false;
    let mut last = [' '; 3];
    for c in letters(text) {
        if last[2] == ' ' {
            if c == ' ' {
                continue;
            }
            last = [' '; 3];
        }
        last = [last[1], last[2], c];
        // The space before a word counts as one character; anything before that space does not.
        let longest = if last[1] == ' ' { 2 } else { 3 };
        for length in 1..=longest {
            let gram = &last[3 - length..];
            for &(language, gain) in profiles.grams.get(&key(gram)).filter(|_| gram != [' ']).into_iter().flatten() {
                gains[usize::from(language)] += gain;
                seen = true;
            }
        }
    }
    let best = (0..gains.len()).max_by(|&a, &b| gains[a].total_cmp(&gains[b]))?;
    seen.then(|| profiles.languages[best])
}

/// The text's letters, with other characters as spaces; without Latin letters if they are a small minority.
fn letters(text: &str) -> impl Iterator<Item = char> {
    let chars: Vec<char> = without_addresses(text).chars().take(CHARS_MAX).collect();
    let latin = chars.iter().filter(|c| ('A'..='z').contains(*c)).count();
    let other = chars.iter().filter(|&&c| c >= '\u{300}' && !('\u{1e00}'..='\u{1eff}').contains(&c)).count();
    let drop_latin = 2 * latin < other;
    chars.into_iter().filter(move |c| !(drop_latin && ('A'..='z').contains(c))).map(plain)
}

/// The text without web and mail addresses.
fn without_addresses(text: &str) -> String {
    let is_address = |word: &&str| !(word.contains("://") || word.contains('@'));
    text.split(char::is_whitespace).filter(is_address).collect::<Vec<_>>().join(" ")
}

/// Maps characters that the profiles do not distinguish to one.
fn plain(c: char) -> char {
    match c {
        'A'..='Z' | 'a'..='z' => c,
        '\0'..='\u{7f}' | '\u{2000}'..='\u{206f}' => ' ',
        '\u{80}'..='\u{ff}' if !c.is_alphabetic() => ' ',
        '\u{219}' => '\u{15f}',
        '\u{21b}' => '\u{163}',
        '\u{6cc}' => '\u{64a}',
        '\u{1ea0}'..='\u{1eff}' => '\u{1ec3}',
        '\u{3040}'..='\u{309f}' => '\u{3042}',
        '\u{30a0}'..='\u{30ff}' => '\u{30a2}',
        '\u{3100}'..='\u{312f}' | '\u{31a0}'..='\u{31bf}' => '\u{3105}',
        '\u{4e00}'..='\u{9fff}' => IDEOGRAPH,
        '\u{ac00}'..='\u{d7af}' => '\u{ac00}',
        other => other,
    }
}
