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
            (Self::Rounded(sides), other) => sides.iter().any(|side| side.agrees(other)),
            (other, Self::Rounded(sides)) => sides.iter().any(|side| other.agrees(side)),
            (Self::Named(name, value), Self::Equation(equation))
            | (Self::Equation(equation), Self::Named(name, value)) => {
                matches!(&**value, Self::Value(form, false)
                    if name.subtract(form).is_some_and(|form| form.without_factor() == equation.without_factor()))
            }
            (Self::Named(_, value), other) => value.agrees(other),
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
            (Self::Equation(given), Self::Equation(expected)) => given.without_factor() == expected.without_factor(),
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

/// What a chain of equal sides says: its last one, or, where it is rounded, the exact one too.
fn last_side(mut sides: Vec<Answer>, signs: &[char]) -> Option<Answer> {
    const ROUNDING_MAX: f64 = 0.01;
    let size = |side: &Answer| if let Answer::Value(form, false) = side { form.approximately() } else { None };
    let sizes: Option<Vec<f64>> = sides.iter().map(size).collect();
    let near =
        sizes.is_some_and(|sizes| sizes.iter().all(|size| (size - sizes[0]).abs() <= ROUNDING_MAX * sizes[0].abs()));
    if signs.contains(&'≈') && near { Some(Answer::Rounded(sides)) } else { sides.pop() }
}

/// What `sides` with `signs` between them say.
pub(super) fn statement(mut sides: Vec<Answer>, signs: Vec<char>) -> Option<Answer> {
    if signs.is_empty() {
        return sides.pop();
    }
    // Capitals in a row name a line: `AB = 7`.
    let is_line = |form: &Form| form.to_string().chars().all(|c| c.is_ascii_uppercase() || c == '*');
    let named = |side: &Answer| matches!(side, Answer::Value(form, _) if form.is_symbol() || is_line(form));
    let known = |side: &Answer| matches!(side, Answer::Value(form, _) if form.is_constant());
    if signs == [':'] && named(&sides[0]) && known(&sides[1]) {
        return sides.pop();
    }
    if signs.iter().all(|sign| *sign == ':') {
        return Some(Answer::Sequence(':', sides, ':'));
    }
    let is_equal = |sign: &char| "=≈∈".contains(*sign);
    if signs.iter().all(is_equal) {
        if sides.len() == 2 && known(&sides[0]) && named(&sides[1]) {
            sides.reverse();
        }
        let is_structure = !matches!(sides.last()?, Answer::Value(..));
        if named(&sides[0]) {
            let Answer::Value(name, _) = sides.remove(0) else { return None };
            return Some(Answer::Named(name, Box::new(last_side(sides, &signs[1..])?)));
        }
        if is_structure || sides.iter().all(known) {
            return last_side(sides, &signs);
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
            Self::Named(_, value) => write!(f, "{value}"),
            Self::Rounded(sides) => {
                write!(f, "{}", sides.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ≈ "))
            }
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
