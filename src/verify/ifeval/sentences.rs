//! Sentences as Punkt counts them (Kiss and Strunk, Computational Linguistics 32, 2006): a full stop ends a sentence unless
//! it belongs to an abbreviation, a number or an initial; `?` and `!` always do.
//!
//! Punkt learns abbreviations, frequent sentence starters and each word's usual case from newspapers. Here they are lists of
//! common English ones, and a lower-case word starts no sentence. With rarer abbreviations before capitals, counts can
//! differ by one.

/// Abbreviations, without the final full stop.
const ABBREVIATIONS: &str = "a.m p.m a.d b.c u.s u.k u.n u.s.a u.s.s.r d.c n.y n.j n.c s.c l.a ph.d m.b.a mr mrs ms messrs dr prof \
    gen sen rep reps st sr jr maj lt col adm bros co corp inc ltd cie cos vs v va vt ill pa ga ala ariz calif colo conn fla kan ky \
    mich minn nev okla ore tenn wash wis jan feb aug sep sept oct nov dec tues wed fri yr ft mg ave ct";

/// Words that often start sentences: capitalised after an abbreviation or dots, they start one.
const STARTERS: &str = "according although among both but despite even he however i if in indeed instead it many meanwhile \
    moreover most nevertheless nonetheless nor similarly since so some the there these they this though thus under when while \
    yet here without your her which finally yes please thank thanks such";

/// Characters that cannot be inside a word, except the full stop.
const NOT_IN_WORDS: &str = ")\";}]*:@'({[‘’“”«»?!";

/// Characters that begin no word.
const NOT_FIRST: &str = "(\"`{[:;&#*@)}]-,";

/// Number of sentences; a blank text has none.
pub(super) fn count(text: &str) -> usize {
    let text: Vec<char> = text.trim_end().chars().collect();
    if text.is_empty() {
        return 0;
    }
    let breaks: Vec<usize> =
        candidates(&text).into_iter().filter(|&(at, from)| is_break(&text, from, at)).map(|(at, _)| at).collect();
    1 + breaks
        .iter()
        .enumerate()
        .filter(|&(index, &at)| {
            // Closing quotes and brackets belong to the sentence before, so they are no sentence alone.
            let end = breaks.get(index + 1).map_or(text.len(), |next| next + 1);
            begins_below(&text, at + 1, end)
        })
        .count()
}

/// Whether `text[from..end]` contains more than closing quotes and brackets.
fn begins_below(text: &[char], from: usize, end: usize) -> bool {
    let skipped = text[from..end].iter().take_while(|c| c.is_whitespace()).count();
    let rest = &text[from + skipped..end];
    let closing = rest.iter().take_while(|c| "\"')]}‘’“”«»".contains(**c)).count();
    rest.iter().skip(closing).any(|c| !c.is_whitespace()) && !rest.is_empty()
}

/// Possible sentence ends: the index of the sign, and of the start of its word. Of several in one word, the last.
fn candidates(text: &[char]) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = vec![];
    let mut word = 0;
    let mut blank = None;
    for (at, c) in text.iter().enumerate() {
        if c.is_whitespace() {
            blank = Some(at);
            continue;
        }
        let next = text.get(at + 1);
        let ends = ".?!".contains(*c) && next.is_some_and(|next| next.is_whitespace() || NOT_IN_WORDS.contains(*next));
        if !ends {
            continue;
        }
        if let Some(blank) = blank.take() {
            word = blank + 1;
        } else {
            // Same word as the previous candidate.
            found.pop();
        }
        found.push((at, word));
    }
    found
}

/// Whether a sentence ends at the sign `text[at]` of the word that begins at `from`.
fn is_break(text: &[char], from: usize, at: usize) -> bool {
    let next = text[at + 1];
    let mut end = at + 2;
    if next.is_whitespace() {
        let from_next = at + 1 + text[at + 1..].iter().take_while(|c| c.is_whitespace()).count();
        end = from_next + text[from_next..].iter().take_while(|c| !c.is_whitespace()).count();
    }
    let tokens = tokens(&text[from..end]);
    // A sentence end is followed by another token.
    tokens.windows(2).any(|pair| ends_sentence(&pair[0], &pair[1]))
}

fn ends_sentence(token: &str, next: &str) -> bool {
    if matches!(token, "." | "?" | "!") {
        return true;
    }
    if !token.ends_with('.') {
        return false;
    }
    let upper = next.chars().next().is_some_and(char::is_uppercase);
    let next = next.strip_suffix('.').filter(|bare| !bare.is_empty()).unwrap_or(next).to_lowercase();
    let starts = upper && STARTERS.split_whitespace().any(|word| word == next);
    let bare = token[..token.len() - 1].to_lowercase();
    let letters = bare.chars().count();
    let initial = letters == 1 && bare.chars().all(char::is_alphabetic);
    let known = |word: &str| ABBREVIATIONS.split_whitespace().any(|known| known == word);
    let shortened =
        known(&bare) || bare.rsplit('-').next().is_some_and(known) || initial && "cdefghklmnprstvw".contains(&*bare);
    if token.ends_with("..") || shortened && !initial {
        return starts;
    }
    if initial {
        // An initial before a name does not end a sentence, unless a frequent starter follows.
        return !shortened && starts;
    }
    // After a number, a lower-case word or punctuation continues the sentence.
    let number = bare.starts_with(|c: char| c.is_numeric() || "-.,".contains(c))
        && bare.contains(char::is_numeric)
        && bare.chars().all(|c| c.is_numeric() || "-.,".contains(c));
    let goes_on =
        next.starts_with(char::is_lowercase) && !upper || matches!(next.as_str(), ";" | ":" | "," | "." | "!" | "?");
    !(number && goes_on)
}

/// Punkt's tokens: runs of dots or dashes, words with a final full stop, and single characters.
fn tokens(text: &[char]) -> Vec<String> {
    let mut found = vec![];
    let mut at = 0;
    while at < text.len() {
        if text[at].is_whitespace() {
            at += 1;
            continue;
        }
        let mut end = at + several(&text[at..]).max(1);
        if end == at + 1 && !NOT_FIRST.contains(text[at]) {
            while end < text.len() && !ends_word(&text[end..]) {
                end += 1;
            }
        }
        found.push(text[at..end].iter().collect());
        at = end;
    }
    found
}

/// Length of the run of dashes or dots at the start, if longer than one, else 0.
fn several(text: &[char]) -> usize {
    if !starts_several(text) {
        return 0;
    }
    text.iter().take_while(|&&c| c == text[0]).count()
}

fn starts_several(text: &[char]) -> bool {
    "-.".contains(text[0]) && text.get(1) == Some(&text[0])
}

fn ends_word(text: &[char]) -> bool {
    let stops = |rest: &[char]| match rest.first() {
        None => true,
        Some(c) => c.is_whitespace() || NOT_IN_WORDS.contains(*c) || starts_several(rest),
    };
    stops(text) || text[0] == ',' && stops(&text[1..])
}
