//! What a formula says, and when two formulas say the same.

use super::form::Form;
use num_rational::BigRational;
use num_traits::{One, Signed};
use std::fmt;

/// What a formula says.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// A value; whether a percent sign follows it.
    Value(Form, bool),
    /// An equation in which nothing is solved for: the difference of its sides.
    Equation(Form),
    /// Sides, each with the sign to the next, in the order of `<` and `≤`; or `≠`.
    Order(Vec<Form>, Vec<char>),
    /// Things in an order, with their brackets: a pair, an interval, a ratio.
    Sequence(char, Vec<Answer>, char),
    /// Things in no order: a list of solutions, a set, a union.
    Several(Vec<Answer>),
    /// The rows of a matrix.
    Matrix(Vec<Vec<Form>>),
}

impl Answer {
    /// The value of a percentage as a share.
    pub(super) fn share(form: &Form) -> Option<Form> {
        form.divide(&Form::whole(100))
    }

    /// Whether both say the same. A percentage is a share too, and, from 1 on, the number before its sign.
    pub(super) fn agrees(&self, expected: &Self) -> bool {
        match (self, expected) {
            (Self::Value(given, false), Self::Value(expected, true)) => {
                given == expected || Self::share(expected).is_some_and(|share| *given == share)
            }
            (Self::Value(given, true), Self::Value(expected, false)) => {
                let below_one = given.rational().is_some_and(|value| value.abs() < BigRational::one());
                !below_one && given == expected || Self::share(given).is_some_and(|share| share == *expected)
            }
            (Self::Value(given, _), Self::Value(expected, _)) => given == expected,
            (Self::Equation(given), Self::Equation(expected)) => given.without_factor() == expected.without_factor(),
            (Self::Order(sides, signs), Self::Order(others, other_signs)) => {
                let turned: Vec<Form> = sides.iter().rev().cloned().collect();
                signs == other_signs && (sides == others || signs == &['≠'] && turned == *others)
            }
            (Self::Sequence(open, items, close), Self::Sequence(other_open, others, other_close)) => {
                let all = || items.iter().zip(others).all(|(given, expected)| given.agrees(expected));
                (open, close, items.len()) == (other_open, other_close, others.len()) && all()
            }
            (Self::Several(given), Self::Several(expected)) => {
                let mut left: Vec<&Self> = expected.iter().collect();
                let mut take = |given: &Self| {
                    let place = left.iter().position(|expected| given.agrees(expected));
                    place.map(|place| left.swap_remove(place)).is_some()
                };
                given.len() == expected.len() && given.iter().all(&mut take)
            }
            (Self::Matrix(given), Self::Matrix(expected)) => given == expected,
            _ => false,
        }
    }
}

/// What `sides` with `signs` between them say.
pub(super) fn statement(mut sides: Vec<Answer>, signs: Vec<char>) -> Option<Answer> {
    if signs.is_empty() {
        return sides.pop();
    }
    if signs.iter().all(|sign| *sign == ':') {
        return Some(Answer::Sequence(':', sides, ':'));
    }
    let is_equal = |sign: &char| "=≈∈".contains(*sign);
    if signs.iter().all(is_equal) {
        let named = |side: &Answer| matches!(side, Answer::Value(form, _) if form.is_symbol());
        let known = |side: &Answer| matches!(side, Answer::Value(form, _) if form.is_constant());
        let structure = !matches!(sides.last()?, Answer::Value(..));
        if structure || named(&sides[0]) || sides.iter().all(known) {
            return sides.pop();
        }
        let forms = forms(sides)?;
        let [left, right] = forms.last_chunk()?;
        return Some(Answer::Equation(left.subtract(right)?));
    }
    let mut forms = forms(sides)?;
    let mut signs = signs;
    if signs.iter().all(|sign| "<≤".contains(*sign)) || signs == ['≠'] {
        return Some(Answer::Order(forms, signs));
    }
    if signs.iter().all(|sign| ">≥".contains(*sign)) {
        forms.reverse();
        signs.reverse();
        let turned = signs.iter().map(|sign| if *sign == '>' { '<' } else { '≤' }).collect();
        return Some(Answer::Order(forms, turned));
    }
    None
}

fn forms(sides: Vec<Answer>) -> Option<Vec<Form>> {
    let form = |side| match side {
        Answer::Value(form, false) => Some(form),
        _ => None,
    };
    sides.into_iter().map(form).collect()
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: &[Self]| items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::Value(form, percent) => write!(f, "{form}{}", if *percent { "%" } else { "" }),
            Self::Equation(form) => write!(f, "{form} = 0"),
            Self::Order(sides, signs) => {
                let signs = signs.iter().map(|sign| format!(" {sign} ")).chain([String::new()]);
                sides.iter().zip(signs).try_for_each(|(side, sign)| write!(f, "{side}{sign}"))
            }
            Self::Sequence(open, items, close) => write!(f, "{open}{}{close}", list(items)),
            Self::Several(items) => write!(f, "{{{}}}", list(items)),
            Self::Matrix(rows) => {
                let row = |row: &Vec<Form>| row.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                write!(f, "[{}]", rows.iter().map(row).collect::<Vec<_>>().join("; "))
            }
        }
    }
}
