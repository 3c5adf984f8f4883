//! One side of a statement: a value, and the unit and words behind it.

use super::super::answer::Answer;
use super::super::form::Form;
use super::super::numeral::scale;
use super::super::token::Token;
use super::Parser;
use super::words::{CONDITIONS, LETTERS, SENTENCES};
use num_rational::BigRational;

impl Parser<'_> {
    /// One side of a statement, with its unit.
    pub(super) fn side(&mut self) -> Option<Answer> {
        self.unit.clear();
        let degrees = std::mem::take(&mut self.degrees);
        let side = self.value_with_unit();
        if std::mem::replace(&mut self.degrees, degrees) {
            self.unit.push('°');
        }
        side
    }

    fn value_with_unit(&mut self) -> Option<Answer> {
        let from = self.at;
        if let Some(first) = self.structure() {
            let mut all = vec![first];
            while self.take('∪') {
                all.push(self.structure()?);
            }
            self.unit.clear();
            return if all.len() == 1 { all.pop() } else { Some(Answer::Several(all)) };
        }
        self.at = from;
        let mut value = self.sum()?;
        let mut percent = self.take('%');
        while let Some((token, spaced)) = self.tokens.get(self.at).map(|found| (found.token.clone(), found.spaced)) {
            match token {
                Token::Word(word) | Token::Text(word) => {
                    let word = word.to_lowercase();
                    let first = word.split_whitespace().next().unwrap_or_default();
                    if matches!(word.as_str(), "or" | "and") {
                        break;
                    }
                    if SENTENCES.contains(&first) {
                        return None;
                    }
                    if CONDITIONS.contains(&first) {
                        self.at = self.tokens.len();
                        break;
                    }
                    let is_percent = first.starts_with("percent") || word.starts_with("per cent") || first == "%";
                    if let Some(scale) = scale(&word) {
                        value = value.multiply(&Form::number(BigRational::from_integer(scale)))?;
                    } else if !is_percent {
                        self.unit.push_str(first);
                    }
                    percent |= is_percent;
                    self.at += 1;
                    self.unit_power();
                }
                Token::Sign('*') if matches!(self.tokens.get(self.at + 1)?.token, Token::Text(_)) => {
                    self.at += 2;
                    self.unit_power();
                }
                Token::Sign('/')
                    if matches!(
                        self.tokens.get(self.at + 1)?.token,
                        Token::Word(_) | Token::Text(_) | Token::Name(_)
                    ) =>
                {
                    self.at += 2;
                    self.unit_power();
                }
                Token::Name(letter) if spaced && LETTERS.contains(&letter) => {
                    self.unit.push_str(&letter);
                    self.at += 1;
                    self.unit_power();
                }
                _ => break,
            }
        }
        Some(Answer::Value(value, percent))
    }

    /// The power of a unit: `cm^2`.
    fn unit_power(&mut self) {
        let from = self.at;
        if self.take('^') {
            let braced = self.take('{');
            self.take('-');
            let power = matches!(self.peek(), Some(Token::Number(..)));
            self.at += usize::from(power);
            if !power || braced && !self.take('}') {
                self.at = from;
            }
        }
    }
}
