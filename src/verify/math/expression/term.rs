//! The terms of a formula: numbers with what belongs to them, names, functions and other commands.

use super::super::form::{Form, whole_logarithm};
use super::super::token::{Spaced, Token};
use super::Parser;
use num_rational::BigRational;
use num_traits::{Signed, ToPrimitive};

impl Parser<'_> {
    /// A number with what belongs to it: a base, a fraction, repeating decimals.
    pub(super) fn number(&mut self, value: BigRational, written: &str) -> Option<Form> {
        if self.take('_') {
            let base = self.argument()?.rational()?.to_integer().to_u32().filter(|base| (2..=36).contains(base))?;
            let digits = num_bigint::BigInt::parse_bytes(written.as_bytes(), base)?;
            return Some(Form::number(BigRational::from_integer(digits)));
        }
        if value.is_integer()
            && let Some(part) = self.fraction_behind()
        {
            return Some(Form::number(value + part));
        }
        Some(Form::number(value))
    }

    /// The fraction of a mixed number: `\frac{5}{6}` or ` 5/6`.
    fn fraction_behind(&mut self) -> Option<BigRational> {
        let from = self.at;
        let whole = |token: Option<&Spaced>| match token.map(|spaced| &spaced.token) {
            Some(Token::Number(value, _)) if value.is_integer() => Some(value.clone()),
            _ => None,
        };
        let fraction = match self.peek()? {
            Token::Command(name) if name == "frac" => {
                self.at += 1;
                let whole = |form: Form| form.rational().filter(BigRational::is_integer);
                self.two_arguments().and_then(|(over, under)| whole(over).zip(whole(under)))
            }
            Token::Number(..) if self.is_spaced(self.at) && self.sign(self.at + 1) == Some('/') => {
                let parts = whole(self.tokens.get(self.at)).zip(whole(self.tokens.get(self.at + 2)));
                self.at += 3;
                parts.filter(|_| self.sign(self.at) != Some('/'))
            }
            _ => None,
        };
        let fraction = fraction.filter(|(over, under)| under.is_positive() && !over.is_negative());
        if fraction.is_none() {
            self.at = from;
        }
        fraction.map(|(over, under)| over / under)
    }

    pub(super) fn name(&mut self, name: String) -> Option<Form> {
        if self.take('_') {
            let from = self.at;
            self.subscript()?;
            let subscript: String = self.tokens[from..self.at].iter().map(|spaced| written(&spaced.token)).collect();
            return Some(Form::symbol(format!("{name}_{subscript}")));
        }
        if matches!(name.trim_end_matches('\''), "f" | "g" | "h" | "P") && self.sign(self.at) == Some('(') {
            self.at += 1;
            let argument = self.group(')')?;
            return Some(Form::function(&name, &[argument]));
        }
        (name != "°").then(|| Form::named(&name))
    }

    fn subscript(&mut self) -> Option<()> {
        let braced = self.take('{');
        self.at += 1;
        while braced && !self.take('}') {
            self.peek()?;
            self.at += 1;
        }
        Some(())
    }

    /// The argument of a command: a group, or one token, of a number its first digit.
    pub(super) fn argument(&mut self) -> Option<Form> {
        if self.take('{') {
            return self.group('}');
        }
        if self.take('-') {
            return Some(self.nested(Self::argument)?.negated());
        }
        match self.tokens.get(self.at)?.token.clone() {
            Token::Number(value, _) => {
                self.at += 1;
                Some(Form::number(value))
            }
            Token::Name(name) => {
                self.at += 1;
                Some(Form::named(&name))
            }
            Token::Command(name) => {
                self.at += 1;
                self.nested(|parser| parser.command(&name))
            }
            _ => None,
        }
    }

    /// Both arguments of `\frac`. The digits of `\frac12` are an argument each.
    fn two_arguments(&mut self) -> Option<(Form, Form)> {
        if let Token::Number(_, written) = self.tokens.get(self.at)?.token.clone()
            && written.len() > 1
            && written.bytes().all(|byte| byte.is_ascii_digit())
        {
            self.at += 1;
            let (first, rest) = written.split_at(1);
            let number = |text: &str| Some(Form::whole(text.parse().ok()?));
            return if self.sign(self.at) == Some('{') { None } else { number(first).zip(number(rest)) };
        }
        self.argument().zip(self.argument())
    }

    pub(super) fn command(&mut self, name: &str) -> Option<Form> {
        match name {
            "frac" => {
                let (over, under) = self.two_arguments()?;
                over.divide(&under)
            }
            "binom" => {
                let (above, below) = self.two_arguments()?;
                above.choose(&below)
            }
            "sqrt" => {
                let index = if self.take('[') { self.group(']')?.rational()?.to_integer().to_u32()? } else { 2 };
                let bracketed = self.take('(');
                let inside = if bracketed { self.group(')') } else { self.argument() }?;
                inside.root(index)
            }
            "log" => {
                let base = if self.take('_') { Some(self.argument()?) } else { None };
                let value = self.operand()?;
                let base = base.unwrap_or_else(|| Form::whole(10));
                let known = base.rational().zip(value.rational());
                match known.and_then(|(base, value)| whole_logarithm(&base, &value)) {
                    Some(power) => Some(Form::whole(power)),
                    None => value.logarithm().divide(&base.logarithm()),
                }
            }
            "ln" | "exp" if self.sign(self.at) != Some('^') => {
                let value = self.operand()?;
                if name == "ln" { Some(value.logarithm()) } else { Form::named("e").power(&value) }
            }
            "overline" => self.argument(),
            _ => self.function(name),
        }
    }

    /// What a function stands before: `(x + 1)`, `2x`.
    pub(super) fn operand(&mut self) -> Option<Form> {
        if self.take('(') {
            return self.group(')');
        }
        let mut operand = self.signed()?;
        while matches!(self.peek(), Some(Token::Name(_))) && self.begins_factor() {
            operand = operand.multiply(&self.power()?)?;
        }
        Some(operand)
    }
}

/// A token of a subscript as text, in which braces do not count.
fn written(token: &Token) -> String {
    match token {
        Token::Number(_, text) | Token::Name(text) | Token::Word(text) | Token::Text(text) | Token::Command(text) => {
            text.clone()
        }
        Token::Sign('{' | '}') => String::new(),
        Token::Sign(sign) => sign.to_string(),
    }
}
