//! Training prompts that leave no room in the context for an answer: left out, refused or cut, as `prompts.too_long` says.
//!
//! A prompt fits if its conversation, as the chat template renders it, and `generator.sampling.max_tokens` are at most
//! `engine.context_tokens_max` tokens. It does not know what the other roles add.

use super::error::Error;
use crate::config::Config;
use crate::formats;
use crate::formats::{conversation, template::ChatTemplate, tokenizer::Tokenizer};
use crate::prompts::TooLong;
use crate::roles::generator::Generator;
use crate::types::{ChatRole, Prompt, Turn};

/// Tokens that a template adds to a text, at most; a guess that only saves work.
const TEMPLATE_TOKENS: usize = 512;

/// Measures prompts in tokens.
pub(crate) struct Ruler<'a> {
    generator: Generator,
    template: &'a ChatTemplate,
    tokenizer: &'a Tokenizer,
    /// The longest conversation, in tokens.
    room: usize,
}

impl<'a> Ruler<'a> {
    /// A ruler for the generator of `config`.
    ///
    /// # Errors
    /// If the generator's template cannot be used.
    pub(crate) fn new(config: &Config, template: &'a ChatTemplate, tokenizer: &'a Tokenizer) -> Result<Self, Error> {
        let generator = Generator::new(&config.generator.role)?;
        let room = config.engine.context_tokens_max.saturating_sub(config.generator.sampling.max_tokens);
        Ok(Self { generator, template, tokenizer, room })
    }

    /// Whether `prompt` leaves room for an answer.
    ///
    /// # Errors
    /// If template or tokenizer refuse it.
    pub(crate) fn fits(&self, prompt: &Prompt) -> formats::Result<bool> {
        // No token is shorter than a byte.
        if prompt.text.len() + TEMPLATE_TOKENS <= self.room {
            return Ok(true);
        }
        Ok(self.tokens(prompt)? <= self.room)
    }

    /// The length of the generator's conversation in tokens.
    ///
    /// # Errors
    /// As [`Ruler::fits`].
    pub(crate) fn tokens(&self, prompt: &Prompt) -> formats::Result<usize> {
        Ok(conversation::ids(self.template, self.tokenizer, &self.generator.conversation(prompt))?.len())
    }

    /// `prompt` without its oldest turns, and then without the beginning of its last one, until it fits; none if not even its end
    /// fits.
    fn cut(&self, prompt: &Prompt) -> formats::Result<Option<Prompt>> {
        let mut cut = prompt.clone();
        while let Some(turns) = without_oldest(&cut.turns) {
            cut = Prompt { text: prompt.text.clone(), turns, ..cut };
            if self.tokens(&cut)? <= self.room {
                return Ok(Some(cut));
            }
        }
        let last = cut.turns.last().map_or(cut.text.as_str(), |turn| turn.content.as_str()).to_owned();
        // The longest end that fits: the length is monotonous enough in the number of characters to halve.
        let starts: Vec<usize> = last.char_indices().map(|(at, _)| at).collect();
        let (mut fits, mut too_long) = (starts.len(), 0);
        while fits - too_long > 1 {
            let middle = usize::midpoint(fits, too_long);
            let shorter = with_last(&cut, &last[starts[middle]..]);
            *if self.tokens(&shorter)? <= self.room { &mut fits } else { &mut too_long } = middle;
        }
        let shortest = starts.get(fits).map(|start| with_last(&cut, &last[*start..]));
        Ok(shortest.filter(|prompt| !prompt.text.trim().is_empty()))
    }
}

/// A conversation without its oldest exchange, its system text kept; none if only the last turn is left.
fn without_oldest(turns: &[Turn]) -> Option<Vec<Turn>> {
    let first = usize::from(turns.first().is_some_and(|turn| turn.role == ChatRole::System));
    if turns.len() <= first + 1 {
        return None;
    }
    let next_user = turns[first + 1..].iter().position(|turn| turn.role == ChatRole::User)?;
    Some([&turns[..first], &turns[first + 1 + next_user..]].concat())
}

fn with_last(prompt: &Prompt, text: &str) -> Prompt {
    let mut cut = prompt.clone();
    match cut.turns.last_mut() {
        Some(last) => last.content = text.to_owned(),
        None => cut.text = text.to_owned(),
    }
    cut
}

/// The prompts that a run uses; says once how many were too long.
///
/// # Errors
/// If there is one and they are refused, or a text cannot be measured.
pub(super) fn fitted(prompts: &[Prompt], how: TooLong, ruler: &Ruler<'_>, file: &str) -> Result<Vec<Prompt>, Error> {
    let (mut kept, mut long) = (Vec::with_capacity(prompts.len()), Vec::new());
    for prompt in prompts {
        // A text that template or tokenizer refuse is its episode's to report.
        if ruler.fits(prompt).unwrap_or(true) {
            kept.push(prompt.clone());
            continue;
        }
        long.push(prompt.id.as_str());
        if how == TooLong::TruncateLeft {
            kept.extend(ruler.cut(prompt)?);
        }
    }
    let Some(first) = long.first() else { return Ok(kept) };
    let (count, of, room) = (long.len(), prompts.len(), ruler.room);
    if how == TooLong::Refuse {
        return Err(Error::TooLong { file: file.to_owned(), count, of, id: (*first).to_owned(), room });
    }
    let done = if how == TooLong::Drop { "left out" } else { "cut from the left" };
    tracing::warn!(
        file,
        "{count} of {of} prompts are longer than {room} tokens and were {done} (prompts.too_long), such as {first:?}"
    );
    Ok(kept)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::Path;

    fn prompt(id: &str, text: &str, turns: Vec<Turn>) -> Prompt {
        Prompt { id: id.into(), task: "t".into(), text: text.into(), turns, answer: None, verifier: None }
    }

    #[test]
    fn prompts_that_do_not_fit_are_left_out_refused_or_cut_from_the_left() {
        let opened = formats::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny_llama")).unwrap();
        let sets = ["engine.context_tokens_max=900".to_owned(), "generator.sampling.max_tokens=100".to_owned()];
        let config = Config::resolve(None, &sets).unwrap();
        let ruler = Ruler::new(&config, &opened.template, &opened.tokenizer).unwrap();
        assert_eq!(ruler.room, 800);
        // Its tokenizer has one token per byte.
        let long = format!("{}the end", "word ".repeat(300));
        let prompts = [prompt("short", "1 + 1?", vec![]), prompt("long", &long, vec![])];
        let ids = |prompts: &[Prompt]| prompts.iter().map(|prompt| prompt.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&fitted(&prompts, TooLong::Drop, &ruler, "f").unwrap()), ["short"]);
        let refused = fitted(&prompts, TooLong::Refuse, &ruler, "f").unwrap_err().to_string();
        assert!(refused.contains("1 of the 2 prompts of f") && refused.contains("\"long\""), "{refused}");
        let cut = fitted(&prompts, TooLong::TruncateLeft, &ruler, "f").unwrap();
        let tokens = ruler.tokens(&cut[1]).unwrap();
        assert!(cut[1].text.ends_with("the end") && tokens <= 800 && tokens > 790, "{tokens}");
        let turn = |role, text: &str| Turn::new(role, text);
        let talk = [
            turn(ChatRole::System, "s"),
            turn(ChatRole::User, &long),
            turn(ChatRole::Assistant, "b"),
            turn(ChatRole::User, "c"),
        ];
        let cut = fitted(&[prompt("talk", &long, talk.to_vec())], TooLong::TruncateLeft, &ruler, "f").unwrap();
        assert_eq!(cut[0].turns, [turn(ChatRole::System, "s"), turn(ChatRole::User, "c")]);
    }
}
