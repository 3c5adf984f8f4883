//! Functions that are written before their arguments, and rounding brackets.

use super::super::form::Form;
use super::Parser;

/// Functions of one argument without a known value.
const OPAQUE: [&str; 6] = ["ln", "lg", "exp", "sinh", "cosh", "tanh"];
/// Trigonometric functions, and their inverses without `arc`.
const TRIGONOMETRIC: [&str; 6] = ["sin", "cos", "tan", "cot", "sec", "csc"];
/// Maximum arguments.
const ARGUMENTS_MAX: usize = 32;

impl Parser<'_> {
    /// The value of the function `name`, whose name is read.
    pub(super) fn function(&mut self, name: &str) -> Option<Form> {
        match name {
            "gcd" => Form::common_divisor(&self.arguments()?),
            "lcm" => Form::common_multiple(&self.arguments()?),
            "max" | "min" => Form::extreme(&self.arguments()?, name == "min"),
            name if name.starts_with("arc") => {
                let value = self.operand()?;
                Form::angle_of(name.strip_prefix("arc")?, &value)
            }
            name if TRIGONOMETRIC.contains(&name) => self.trigonometric(name),
            name if OPAQUE.contains(&name) => {
                let power = if self.take('^') { Some(self.exponent()?) } else { None };
                let value = Form::function(name, &[self.operand()?]);
                if let Some(power) = power { value.power(&power) } else { Some(value) }
            }
            _ => None,
        }
    }

    fn trigonometric(&mut self, name: &str) -> Option<Form> {
        let power = if self.take('^') { Some(self.exponent()?) } else { None };
        let outside = std::mem::take(&mut self.degrees);
        let operand = self.operand()?;
        let in_degrees = std::mem::replace(&mut self.degrees, outside);
        // `\sin^{-1}` is the inverse, `\sin^2` a square.
        if power.as_ref().is_some_and(|power| *power == Form::whole(-1)) {
            return Form::angle_of(name, &operand);
        }
        let angle = if in_degrees { operand.degrees_to_radians()? } else { operand };
        let value = Form::trigonometric(name, &angle)?;
        if let Some(power) = power { value.power(&power) } else { Some(value) }
    }

    /// The arguments in brackets or, of a set, in braces.
    fn arguments(&mut self) -> Option<Vec<Form>> {
        let open = self.take_one("(⦃[{")?;
        let close = match open {
            '(' => ')',
            '[' => ']',
            '{' => '}',
            _ => '⦄',
        };
        self.nested(|parser| {
            let mut arguments = vec![parser.sum()?];
            while parser.take_one(",;").is_some() && arguments.len() < ARGUMENTS_MAX {
                arguments.push(parser.sum()?);
            }
            parser.take(close).then_some(arguments)
        })
    }

    /// The whole number below or above what the brackets behind `open` hold.
    pub(super) fn rounded(&mut self, open: char) -> Option<Form> {
        let inside = self.group(if open == '⌊' { '⌋' } else { '⌉' })?;
        inside.rounded(open == '⌈')
    }

    /// The remainder of `value` by the modulus that follows.
    pub(super) fn remainder(&mut self, value: &Form) -> Option<Form> {
        let by = self.signed()?;
        value.remainder(&by)
    }
}
