//! What is defined for whole numbers: factorials, binomials, remainders, divisors and multiples, rounding down and up; and extremes.

use super::Form;
use num_bigint::BigInt;
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{Signed, ToPrimitive, Zero};

/// Maximum of what a factorial is taken of.
const FACTORIAL_MAX: u32 = 170;
/// Maximum that is chosen of what is no number.
const CHOSEN_MAX: u32 = 8;
/// A value this near to a whole number may be one.
const NEAR: f64 = 1e-9;
/// Sizes from here on are no exact whole numbers.
const SIZE_MAX: f64 = 1e15;

impl Form {
    /// `self!`, or `self!!` if it is `double`.
    pub(in super::super) fn factorial(&self, double: bool) -> Option<Self> {
        let Some(value) = self.rational() else {
            return Some(Self::function(if double { "factorial2" } else { "factorial" }, std::slice::from_ref(self)));
        };
        let value = whole(&value)?.to_u32().filter(|value| *value <= FACTORIAL_MAX)?;
        let factors = (1..=value).rev().step_by(if double { 2 } else { 1 });
        Some(Self::number(BigRational::from_integer(factors.map(BigInt::from).product())))
    }

    /// The whole number below, or `up` above, `self`.
    pub(in super::super) fn rounded(&self, up: bool) -> Option<Self> {
        if let Some(value) = self.rational() {
            return Some(Self::number(if up { value.ceil() } else { value.floor() }));
        }
        if !self.is_constant() {
            return Some(Self::function(if up { "ceil" } else { "floor" }, std::slice::from_ref(self)));
        }
        let size = self.approximately().filter(|size| size.abs() < SIZE_MAX && (size - size.round()).abs() > NEAR)?;
        Some(Self::whole(if up { size.ceil() } else { size.floor() } as i64))
    }

    /// What is left of `self` when it is divided by `by`.
    pub(in super::super) fn remainder(&self, by: &Self) -> Option<Self> {
        let (Some(value), Some(by)) = (self.rational(), by.rational()) else {
            return Some(Self::function("mod", &[self.clone(), by.clone()]));
        };
        let (value, by) = (whole(&value)?, whole(&by).filter(BigInt::is_positive)?);
        Some(Self::number(BigRational::from_integer(value.mod_floor(&by))))
    }

    /// The greatest common divisor of `values`, which are whole numbers.
    pub(in super::super) fn common_divisor(values: &[Self]) -> Option<Self> {
        joined(values, |one, two| one.gcd(two))
    }

    /// The least common multiple of `values`, which are whole numbers.
    pub(in super::super) fn common_multiple(values: &[Self]) -> Option<Self> {
        joined(values, |one, two| one.lcm(two))
    }

    /// The greatest, or `least`, of `values`, which are numbers that differ.
    pub(in super::super) fn extreme(values: &[Self], least: bool) -> Option<Self> {
        let mut best = values.first()?.clone();
        for value in &values[1..] {
            let below = match (value.rational(), best.rational()) {
                (Some(one), Some(two)) => one < two,
                _ if *value == best => continue,
                _ => {
                    let (one, two) = (value.approximately()?, best.approximately()?);
                    ((one - two).abs() > NEAR * (one.abs() + two.abs())).then_some(one < two)?
                }
            };
            if below == least {
                best = value.clone();
            }
        }
        Some(best)
    }

    /// The number of ways to choose `below` of `self`: of what is no number, a product.
    pub(in super::super) fn choose(&self, below: &Self) -> Option<Self> {
        let below = whole(&below.rational()?)?.to_u32()?;
        let limit = if self.rational().is_some() { FACTORIAL_MAX } else { CHOSEN_MAX };
        let number = self.rational();
        if below > limit || number.is_some_and(|above| !above.is_integer() || above.is_negative()) {
            return None;
        }
        let mut product = Self::whole(1);
        for taken in 0..below {
            let factor = self.subtract(&Self::whole(i64::from(taken)))?;
            product = product.multiply(&factor)?.divide(&Self::whole(i64::from(taken) + 1))?;
            if product.rational().is_some_and(|value| value.is_zero()) {
                return Some(product);
            }
        }
        Some(product)
    }
}

/// What `join` makes of `values`, which are whole numbers, one after another.
fn joined(values: &[Form], join: impl Fn(&BigInt, &BigInt) -> BigInt) -> Option<Form> {
    let numbers: Option<Vec<BigInt>> = values.iter().map(|value| whole(&value.rational()?)).collect();
    let value = numbers?.into_iter().reduce(|one, two| join(&one, &two))?;
    Some(Form::number(BigRational::from_integer(value.abs())))
}

fn whole(value: &BigRational) -> Option<BigInt> {
    value.is_integer().then(|| value.to_integer())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_and_what_is_undefined_has_none() {
        let [five, two, half] = [Form::whole(5), Form::whole(2), Form::whole(1).divide(&Form::whole(2)).unwrap()];
        assert_eq!(five.factorial(false), Some(Form::whole(120)));
        assert_eq!(five.factorial(true), Some(Form::whole(15)));
        assert_eq!(half.factorial(false), None);
        assert_eq!(five.choose(&two), Some(Form::whole(10)));
        assert_eq!(two.choose(&five), Some(Form::whole(0)));
        assert_eq!(half.rounded(false), Some(Form::whole(0)));
        assert_eq!(five.root(2).unwrap().rounded(true), Some(Form::whole(3)));
        assert_eq!(Form::whole(-7).remainder(&five), Some(Form::whole(3)));
        assert_eq!(five.remainder(&Form::whole(0)), None);
        assert_eq!(Form::common_multiple(&[Form::whole(4), Form::whole(6)]), Some(Form::whole(12)));
        assert_eq!(Form::common_divisor(&[half.clone(), five.clone()]), None);
        assert_eq!(Form::extreme(&[half.clone(), five.clone()], true), Some(half));
    }
}
