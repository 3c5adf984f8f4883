//! What equations and inequalities say: a value with its name, a chain of equal sides, an order.
//!
//! Equal sides that contradict each other (`2 + 3 = 6`) say nothing. A side in other units (`2 h = 120 min`) is not compared.

use super::answer::{Answer, is_one_name};
use super::form::Form;
use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, Zero};

/// Maximum relative difference between two sides of `≈`.
const ROUNDING_MAX: f64 = 0.01;
/// Relative difference of sizes that are equal but for floating point.
const EQUAL: f64 = 1e-9;
/// Maximum decimal places of what a value is rounded to.
const PLACES_MAX: i32 = 12;

/// What `sides` with `signs` between them say, of which each has its unit.
pub(super) fn statement(mut sides: Vec<Answer>, signs: Vec<char>, units: &[String]) -> Option<Answer> {
    if signs.is_empty() {
        return sides.pop();
    }
    let named = |side: &Answer| matches!(side, Answer::Value(form, _) if is_one_name(form));
    let known = |side: &Answer| matches!(side, Answer::Value(form, _) if form.is_constant());
    if signs == [':'] && named(&sides[0]) && known(&sides[1]) {
        return sides.pop();
    }
    if signs.iter().all(|sign| *sign == ':') {
        return Some(Answer::Sequence(':', sides, ':'));
    }
    if signs.iter().all(|sign| "=≈∈".contains(*sign)) {
        if sides.len() == 2 && known(&sides[0]) && named(&sides[1]) {
            sides.reverse();
        }
        let is_structure = !matches!(sides.last()?, Answer::Value(..));
        let is_tail_known = sides[1..].iter().all(known);
        let is_total = || matches!(&sides[0], Answer::Value(form, false) if form.is_total());
        if named(&sides[0]) || is_tail_known && !known(&sides[0]) && (sides.len() > 2 || is_total()) {
            let Answer::Value(name, _) = sides.remove(0) else { return None };
            return Some(Answer::Named(name, Box::new(chain(sides, &signs[1..], &units[1..])?)));
        }
        if is_structure || sides.iter().all(known) {
            return chain(sides, &signs, units);
        }
        let forms = forms(sides)?;
        let [left, right] = forms.last_chunk()?;
        let is_zero = |form: &Form| form.rational().is_some_and(|value| value.is_zero());
        return Some(Answer::Equation(left.subtract(right)?, is_zero(left) || is_zero(right)));
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

/// What a chain of equal sides says: its last one, or, where that is rounded, the exact one too; nothing if two contradict each other.
fn chain(mut sides: Vec<Answer>, signs: &[char], units: &[String]) -> Option<Answer> {
    let (mut rounded, mut converted) = (false, false);
    for (place, sign) in signs.iter().enumerate() {
        let (one, two) = (&sides[place], &sides[place + 1]);
        if !is_comparable(&units[place], &units[place + 1]) {
            converted = true;
            continue;
        }
        match relation(one, two) {
            Some(Relation::Equal) => {}
            Some(Relation::Rounded) => rounded = true,
            Some(Relation::Near) if *sign == '≈' => rounded = true,
            Some(_) => return None,
            // What a function stands for is not known: `f(2) = 5`.
            None => rounded |= matches!((one, two), (Answer::Value(..), Answer::Value(..))),
        }
    }
    if rounded && !converted { Some(Answer::Rounded(sides)) } else { sides.pop() }
}

/// Whether sides with these units can be compared: with the same ones, or where one has none.
fn is_comparable(one: &str, two: &str) -> bool {
    let apart = |unit: &str| unit.contains('°') || unit.starts_with("cent");
    one == two || (one.is_empty() || two.is_empty()) && !apart(one) && !apart(two)
}

enum Relation {
    Equal,
    /// One is the other, rounded as it is written.
    Rounded,
    Near,
    Apart,
}

/// How the sizes of two sides compare, if both are known. A percentage is a share too, and the number before its sign.
fn relation(one: &Answer, two: &Answer) -> Option<Relation> {
    let (Answer::Value(first, first_percent), Answer::Value(second, second_percent)) = (one, two) else { return None };
    if first == second {
        return Some(Relation::Equal);
    }
    let compared = compared(first, second)?;
    if matches!(compared, Relation::Apart | Relation::Near) && first_percent != second_percent {
        let (whole, percent) = if *second_percent { (first, second) } else { (second, first) };
        let shared = Answer::share(percent)?;
        return if shared == *whole { Some(Relation::Equal) } else { compared_as_share(whole, percent) };
    }
    Some(compared)
}

/// How a value compares with a percentage, which may be rounded: `2/3 = 66.7%`.
fn compared_as_share(whole: &Form, percent: &Form) -> Option<Relation> {
    compared(&whole.multiply(&Form::whole(100))?, percent)
}

fn compared(first: &Form, second: &Form) -> Option<Relation> {
    let (one, two) = (first.approximately()?, second.approximately()?);
    let apart = (one - two).abs();
    let size = one.abs().max(two.abs());
    let rounds = |form: &Form| {
        form.rational().and_then(|value| unit(&value)).is_some_and(|unit| apart <= unit * 0.5 + EQUAL * size)
    };
    Some(if apart <= EQUAL * size && !(first.rational().is_some() && second.rational().is_some()) {
        Relation::Equal
    } else if rounds(first) || rounds(second) {
        Relation::Rounded
    } else if apart <= ROUNDING_MAX * size || is_round(second, apart) {
        Relation::Near
    } else {
        Relation::Apart
    })
}

/// The size of the last decimal place of `value`, if it has finitely many and at least one.
fn unit(value: &BigRational) -> Option<f64> {
    let ten = BigInt::from(10);
    let mut power = BigInt::one();
    for places in 0..=PLACES_MAX {
        if (&power % value.denom()).is_zero() {
            return (places > 0).then(|| 10f64.powi(-places));
        }
        power *= &ten;
    }
    None
}

/// Whether `form` is a whole number whose zeros at the end may be due to rounding by `apart`.
fn is_round(form: &Form, apart: f64) -> bool {
    let Some(value) = form.rational().filter(|value| value.is_integer() && !value.is_zero()) else { return false };
    let zeros = value.to_integer().abs().to_string().bytes().rev().take_while(|byte| *byte == b'0').count();
    apart <= 0.5 * 10f64.powi(i32::try_from(zeros).unwrap_or(0))
}

fn forms(sides: Vec<Answer>) -> Option<Vec<Form>> {
    let form = |side| match side {
        Answer::Value(form, false) => Some(form),
        _ => None,
    };
    sides.into_iter().map(form).collect()
}
