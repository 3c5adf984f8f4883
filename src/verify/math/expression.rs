//! Reads a formula: its value, or what it says of one (an inequality, a pair, a set, a matrix).
//!
//! The formula is read whole or not at all. Units and words behind a value are left out, so is what names it (`x =`).

use super::answer::Answer;
use super::form::Form;
use super::numeral::Comma;
use super::statement::statement;
use super::token::{Spaced, Token, tokens};
use crate::types::pattern::pattern;
use num_traits::Signed;
use regex::Regex;
use std::sync::LazyLock;
use words::{CONDITIONS_APART, HEDGES, LETTERS, SMALL_WORDS, UNITS, is_letter_unit};

mod bracket;
mod function;
mod side;
mod term;
mod words;

/// Maximum nesting.
const DEPTH_MAX: usize = 24;
/// What `formula` says, with every comma as `comma` has it; `None` if it cannot be read whole.
pub(super) fn read(formula: &str, comma: Comma) -> Option<Answer> {
    static DATE: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?:^|[^\d/-])(?:\d{4}-\d{2}-\d{2}|\d{1,2}/\d{1,2}/\d{4})(?:[^\d/-]|$)"));
    let formula = formula.trim().trim_end_matches("\\\\");
    let formula = formula.strip_suffix('.').filter(|rest| !rest.ends_with('.')).unwrap_or(formula);
    if DATE.is_match(formula) {
        return None;
    }
    let tokens = tokens(formula, comma)?;
    let has_two_signs = tokens.iter().any(|spaced| spaced.token == Token::Sign('±'));
    let read = |minus| Parser { tokens: &tokens, at: 0, depth: 0, minus, unit: String::new(), degrees: false }.whole();
    if has_two_signs { Some(Answer::Several(vec![read(false)?, read(true)?])) } else { read(false) }
}

struct Parser<'a> {
    tokens: &'a [Spaced],
    at: usize,
    depth: usize,
    /// Whether `±` is read as minus.
    minus: bool,
    /// The unit of the side that was read last.
    unit: String,
    /// Whether a degree sign was read.
    degrees: bool,
}

impl Parser<'_> {
    fn whole(mut self) -> Option<Answer> {
        let answer = self.list()?;
        (self.at == self.tokens.len()).then_some(answer)
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|spaced| &spaced.token)
    }

    fn is_spaced(&self, at: usize) -> bool {
        self.tokens.get(at).is_some_and(|spaced| spaced.spaced)
    }

    fn sign(&self, at: usize) -> Option<char> {
        match self.tokens.get(at)?.token {
            Token::Sign(sign) => Some(sign),
            _ => None,
        }
    }

    fn take(&mut self, sign: char) -> bool {
        let found = self.sign(self.at) == Some(sign);
        self.at += usize::from(found);
        found
    }

    fn take_one(&mut self, signs: &str) -> Option<char> {
        let sign = self.sign(self.at).filter(|sign| signs.contains(*sign))?;
        self.at += 1;
        Some(sign)
    }

    fn is_word(&self, at: usize, words: &[&str]) -> bool {
        match self.tokens.get(at).map(|spaced| &spaced.token) {
            Some(Token::Word(word) | Token::Text(word)) => {
                words.contains(&word.to_lowercase().trim_matches(',').trim())
            }
            _ => false,
        }
    }

    fn nested<T>(&mut self, inside: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.depth += 1;
        let value = if self.depth > DEPTH_MAX { None } else { inside(self) };
        self.depth -= 1;
        value
    }

    /// Parts between commas and "or".
    fn list(&mut self) -> Option<Answer> {
        let mut parts = self.parts()?;
        if parts.len() == 1 { parts.pop() } else { Some(Answer::Several(parts)) }
    }

    fn parts(&mut self) -> Option<Vec<Answer>> {
        let mut parts = vec![self.part()?];
        loop {
            let comma = self.take_one(",;").is_some();
            let word = self.is_word(self.at, &["or", "and"]);
            self.at += usize::from(word);
            if !comma && !word {
                return Some(parts);
            }
            if comma && self.is_word(self.at, &CONDITIONS_APART) {
                self.at = self.tokens.len();
                return Some(parts);
            }
            parts.push(self.part()?);
        }
    }

    /// One statement: a value, an equation, an inequality.
    fn part(&mut self) -> Option<Answer> {
        while matches!(self.peek(), Some(Token::Text(_))) || self.is_word(self.at, &HEDGES) {
            self.at += 1;
        }
        let from = self.at;
        let first = self.side().or_else(|| {
            // What an equation's left side says in words is its name.
            self.at = from;
            let names = |token: &Token| matches!(token, Token::Word(_) | Token::Text(_) | Token::Name(_));
            while self.peek().is_some_and(names) {
                self.at += 1;
            }
            self.take_one("=≈:∈")?;
            self.side()
        })?;
        let (mut sides, mut signs, mut units) = (vec![first], Vec::new(), vec![self.unit.clone()]);
        while let Some(sign) = self.take_one("=≈<>≤≥≠∈:") {
            signs.push(sign);
            sides.push(self.side()?);
            units.push(self.unit.clone());
        }
        statement(sides, signs, &units)
    }

    fn sum(&mut self) -> Option<Form> {
        let mut sum = self.product()?;
        while let Some(sign) = self.take_one("+-±") {
            let product = self.product()?;
            let minus = sign == '-' || sign == '±' && self.minus;
            sum = if minus { sum.subtract(&product) } else { sum.add(&product) }?;
        }
        Some(sum)
    }

    fn product(&mut self) -> Option<Form> {
        let mut product = self.signed()?;
        loop {
            // A unit goes on: `m/s`, `kg \cdot m`.
            let next = self.tokens.get(self.at + 1).map(|spaced| &spaced.token);
            match (self.sign(self.at), next) {
                (Some('/'), Some(Token::Word(_) | Token::Text(_))) | (Some('*'), Some(Token::Text(_))) => {
                    return Some(product);
                }
                _ => {}
            }
            if let Some(sign) = self.take_one("*/") {
                let factor = self.signed()?;
                product = if sign == '*' { product.multiply(&factor) } else { product.divide(&factor) }?;
            } else if matches!(self.peek(), Some(Token::Name(name) | Token::Word(name)) if matches!(name.as_str(), "mod" | "bmod"))
            {
                self.at += 1;
                product = self.remainder(&product)?;
            } else if self.begins_factor() {
                product = product.multiply(&self.power()?)?;
            } else {
                return Some(product);
            }
        }
    }

    /// Whether a factor follows that no sign parts from the last one.
    fn begins_factor(&self) -> bool {
        let Some(Spaced { token, spaced }) = self.tokens.get(self.at) else { return false };
        let before = self.at.checked_sub(1).map(|at| &self.tokens[at].token);
        match token {
            Token::Name(name) => {
                let next = self.tokens.get(self.at + 1);
                let last = next.is_none_or(|next| matches!(next.token, Token::Sign(',' | ';' | '^' | '/')))
                    || next.is_some_and(|next| next.spaced && is_letter_unit(&next.token));
                let number = matches!(before, Some(Token::Number(..)));
                // A letter behind a space is a unit: `5 m`.
                !(*spaced && number && last && LETTERS.contains(name.as_str())) && name != "°"
            }
            Token::Word(word) => !spaced && !UNITS.contains(&word.as_str()) && word.chars().count() <= 3,
            Token::Command(name) => {
                !matches!(name.as_str(), "over" | "choose") && !name.starts_with("end ") && !name.starts_with("begin ")
            }
            Token::Sign(sign) => "({[⌊⌈".contains(*sign),
            // `3!2!`, `2^x 3^x`
            Token::Number(..) if before == Some(&Token::Sign('!')) => !spaced || self.sign(self.at + 1) == Some('!'),
            Token::Number(..) => {
                let is_power = |at: Option<usize>| at.and_then(|at| self.sign(at)) == Some('^');
                *spaced
                    && matches!(before, Some(Token::Name(_)))
                    && is_power(self.at.checked_sub(2))
                    && is_power(Some(self.at + 1))
            }
            Token::Text(_) => false,
        }
    }

    fn signed(&mut self) -> Option<Form> {
        match self.take_one("+-±") {
            Some('+') => self.nested(Self::signed),
            Some(sign) => {
                let value = self.nested(Self::signed)?;
                Some(if sign == '-' || self.minus { value.negated() } else { value })
            }
            None => self.power(),
        }
    }

    fn power(&mut self) -> Option<Form> {
        let mut base = self.postfix()?;
        if !self.take('^') {
            return Some(base);
        }
        if self.is_degree() {
            let is_scale = |token: &Token| matches!(token, Token::Name(name) if matches!(name.as_str(), "C" | "F"));
            self.at += usize::from(self.peek().is_some_and(is_scale));
            return Some(base);
        }
        let exponent = self.exponent()?;
        base = base.power(&exponent)?;
        Some(base)
    }

    fn exponent(&mut self) -> Option<Form> {
        self.nested(|parser| if parser.take('-') { Some(parser.power()?.negated()) } else { parser.power() })
    }

    /// Consumes the degree sign of `90^\circ`, or the ending of `7^{th}`.
    fn is_degree(&mut self) -> bool {
        let braced = usize::from(self.sign(self.at) == Some('{'));
        let found = match self.tokens.get(self.at + braced).map(|spaced| &spaced.token) {
            Some(Token::Name(name)) => name == "°",
            Some(Token::Word(word) | Token::Text(word)) => matches!(word.as_str(), "st" | "nd" | "rd" | "th"),
            _ => false,
        };
        if found {
            self.degrees |= matches!(&self.tokens[self.at + braced].token, Token::Name(_));
            self.at += 1 + 2 * braced;
        }
        found
    }

    fn postfix(&mut self) -> Option<Form> {
        let mut value = self.atom()?;
        loop {
            if self.take('!') {
                let double = self.take('!');
                value = value.factorial(double)?;
            } else if self.sign(self.at) == Some('%')
                && self.tokens.get(self.at + 1).is_some()
                && self.is_operand(self.at + 1)
            {
                self.at += 1;
                value = Answer::share(&value)?;
            } else {
                return Some(value);
            }
        }
    }

    /// Whether arithmetic goes on at `at`, so that a percent sign before it is part of a term.
    fn is_operand(&self, at: usize) -> bool {
        matches!(self.sign(at), Some('+' | '-' | '*'))
    }

    fn atom(&mut self) -> Option<Form> {
        let Spaced { token, .. } = self.tokens.get(self.at)?.clone();
        self.at += 1;
        match token {
            Token::Number(value, written) => self.number(value, &written),
            Token::Name(name) => self.name(name),
            Token::Word(word) if word.chars().count() <= 2 && !SMALL_WORDS.contains(&word.to_lowercase().as_str()) => {
                // Letters in a row are a product.
                word.chars()
                    .try_fold(Form::whole(1), |product, letter| product.multiply(&Form::named(&letter.to_string())))
            }
            Token::Command(name) => self.nested(|parser| parser.command(&name)),
            Token::Sign('(') => self.group(')'),
            Token::Sign('[') => self.group(']'),
            Token::Sign('{') => self.group('}'),
            Token::Sign(open @ ('⌊' | '⌈')) => self.rounded(open),
            Token::Sign('|') => {
                let inside = self.group('|')?;
                Some(match inside.rational() {
                    Some(value) => Form::number(value.abs()),
                    None => Form::function("abs", &[inside]),
                })
            }
            Token::Word(_) | Token::Text(_) | Token::Sign(_) => None,
        }
    }

    fn group(&mut self, close: char) -> Option<Form> {
        let mut inside = self.nested(Self::sum)?;
        if let Some(Token::Command(name)) = self.peek().filter(|_| close == '}')
            && matches!(name.as_str(), "over" | "choose")
        {
            let divides = name == "over";
            self.at += 1;
            let below = self.nested(Self::sum)?;
            inside = if divides { inside.divide(&below) } else { inside.choose(&below) }?;
        }
        self.take(close).then_some(inside)
    }
}
