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
    /// A value with its name: `x = 5`.
    Named(Form, Box<Answer>),
    /// An exact value and what it is rounded to.
    Rounded(Vec<Answer>),
    /// An equation in which nothing is solved for: the difference of its sides, and whether one of them is zero.
    Equation(Form, bool),
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
            (Self::Rounded(sides), other) => sides.iter().any(|side| side.agrees(other)),
            (other, Self::Rounded(sides)) => sides.iter().any(|side| other.agrees(side)),
            (Self::Named(name, value), Self::Equation(equation, zero))
            | (Self::Equation(equation, zero), Self::Named(name, value)) => {
                matches!(&**value, Self::Value(form, false) if solves(name, form, equation, *zero))
            }
            (Self::Named(name, value), Self::Named(other, expected)) if !(name.is_symbol() && other.is_symbol()) => {
                value.agrees(expected) && (is_one_name(name) || is_one_name(other) || name == other)
            }
            (Self::Named(_, value), other) => value.agrees(other),
            // `x + y = 5` asks for more than 5.
            (_, Self::Named(name, _)) if !is_one_name(name) => false,
            (other, Self::Named(_, value)) => other.agrees(value),
            (Self::Value(given, false), Self::Value(expected, true)) => {
                let below_one = expected.rational().is_some_and(|value| value.abs() < BigRational::one());
                !below_one && given == expected || Self::share(expected).is_some_and(|share| *given == share)
            }
            (Self::Value(given, true), Self::Value(expected, false)) => {
                let below_one = given.rational().is_some_and(|value| value.abs() < BigRational::one());
                !below_one && given == expected || Self::share(given).is_some_and(|share| share == *expected)
            }
            (Self::Value(given, _), Self::Value(expected, _)) => given == expected,
            (Self::Equation(given, _), Self::Equation(expected, _)) => {
                given.without_factor() == expected.without_factor()
            }
            (Self::Order(sides, signs), Self::Order(others, other_signs)) => {
                let turned: Vec<Form> = sides.iter().rev().cloned().collect();
                signs == other_signs && (sides == others || signs == &['≠'] && turned == *others)
            }
            (Self::Order(..), Self::Sequence(..)) => self.interval().is_some_and(|interval| interval.agrees(expected)),
            (Self::Sequence(..), Self::Order(..)) => expected.interval().is_some_and(|interval| self.agrees(&interval)),
            (Self::Several(named), Self::Sequence('(', items, ')'))
            | (Self::Sequence('(', items, ')'), Self::Several(named))
                if are_coordinates(named) =>
            {
                named.len() == items.len() && named.iter().zip(items).all(|(named, item)| named.agrees(item))
            }
            (Self::Value(given, false), Self::Sequence(':', items, ':')) => {
                lowest_ratio(items).is_some_and(|ratio| *given == ratio)
            }
            (Self::Sequence(':', items, ':'), Self::Sequence(':', others, ':'))
                if items.len() == 2 && others.len() == 2 =>
            {
                items.iter().zip(others).all(|(given, expected)| given.agrees(expected))
                    || ratio(items).zip(lowest_ratio(others)).is_some_and(|(given, expected)| given == expected)
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

impl Answer {
    /// The values that an inequality allows its variable: `-2 < x < 2` is (-2, 2).
    fn interval(&self) -> Option<Self> {
        let Self::Order(sides, signs) = self else { return None };
        let infinity = Form::constant("∞");
        // `|x|` is no variable.
        let is_variable = |form: &Form| form.is_symbol() && !form.to_string().contains('(');
        let (low, high) = match &sides[..] {
            [variable, high] if is_variable(variable) && high.is_constant() => (None, Some(high)),
            [low, variable] if is_variable(variable) && low.is_constant() => (Some(low), None),
            [low, variable, high] if is_variable(variable) && low.is_constant() && high.is_constant() => {
                (Some(low), Some(high))
            }
            _ => return None,
        };
        if signs.contains(&'≠') {
            return None;
        }
        let open = if low.is_some() && signs[0] == '≤' { '[' } else { '(' };
        let close = if high.is_some() && signs.last() == Some(&'≤') { ']' } else { ')' };
        let low = low.cloned().unwrap_or_else(|| infinity.negated());
        let high = high.cloned().unwrap_or(infinity);
        Some(Self::Sequence(open, vec![Self::Value(low, false), Self::Value(high, false)], close))
    }
}

/// Whether `equation`, a difference that is zero, says that `name` is `value`. What is not solved for a number does not: `2x = 8`.
fn solves(name: &Form, value: &Form, equation: &Form, has_zero: bool) -> bool {
    let Some(difference) = name.subtract(value) else { return false };
    if value.is_constant() && name.is_symbol() {
        return has_zero && (difference == *equation || difference.negated() == *equation);
    }
    difference.without_factor() == equation.without_factor()
}

/// Whether `form` names one thing: a symbol, a line (`AB`), an angle.
pub(super) fn is_one_name(form: &Form) -> bool {
    let text = form.to_string();
    // Capitals in a row name a line.
    form.is_symbol()
        || text.chars().all(|c| c.is_ascii_uppercase() || c == '*')
        || text.split('*').any(|part| part == "angle")
}

/// Whether `items` name the coordinates of a point in their order: `x = 2, y = 4`.
fn are_coordinates(items: &[Answer]) -> bool {
    let names: Vec<String> = items
        .iter()
        .filter_map(|item| if let Answer::Named(name, _) = item { Some(name.to_string()) } else { None })
        .collect();
    names.len() == items.len() && names.len() > 1 && names.is_sorted_by(|one, two| one < two)
}

/// The first of two things over the second.
fn ratio(items: &[Answer]) -> Option<Form> {
    match items {
        [Answer::Value(over, false), Answer::Value(under, false)] => over.divide(under),
        _ => None,
    }
}

/// The ratio of `items`, if no whole number divides both: `10:30` may be a time.
fn lowest_ratio(items: &[Answer]) -> Option<Form> {
    let ratio = ratio(items)?;
    let Some(Answer::Value(first, _)) = items.first() else { return None };
    let (over, first) = (ratio.rational()?.numer().clone(), first.rational()?);
    (BigRational::from_integer(over) == first).then_some(ratio)
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: &[Self]| items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::Value(form, percent) => write!(f, "{form}{}", if *percent { "%" } else { "" }),
            Self::Named(_, value) => write!(f, "{value}"),
            Self::Rounded(sides) => {
                write!(f, "{}", sides.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ≈ "))
            }
            Self::Equation(form, _) => write!(f, "{form} = 0"),
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
