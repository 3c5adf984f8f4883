//! Powers and logarithms whose value is no fraction, in one form each: `2^{n+1}` is `2 \\cdot 2^n`, `\\ln 4` is `2 \\ln 2`.

use super::{Atom, EXPONENT_MAX, FACTOR_MAX, Form, Polynomial};
use num_bigint::BigUint;
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

impl Form {
    /// `self` to a power that is not a number: the product of its powers to the exponent's terms.
    pub(super) fn power_of_terms(&self, exponent: &Self) -> Option<Self> {
        if exponent.under != Polynomial::one() {
            return Some(self.opaque_power(exponent));
        }
        let mut product = Self::whole(1);
        for (monomial, factor) in &exponent.over.0 {
            if monomial.is_empty() {
                product = product.multiply(&self.power(&Self::number(factor.clone()))?)?;
                continue;
            }
            let count = factor.numer().to_i64().filter(|count| count.unsigned_abs() <= u64::from(EXPONENT_MAX));
            let (count, part) = match count {
                Some(count) => (count, BigRational::new(One::one(), factor.denom().clone())),
                None => (1, factor.clone()),
            };
            let term = Self { over: Polynomial([(monomial.clone(), part)].into()), under: Polynomial::one() };
            let raised = self.opaque_power(&term).power(&Self::whole(count))?;
            product = product.multiply(&raised)?;
        }
        Some(product)
    }

    /// A power that stands for itself; of a whole number, that of its prime factors.
    pub(super) fn opaque_power(&self, exponent: &Self) -> Self {
        let opaque = |base: Self| Self::function("power", &[base, exponent.clone()]);
        let whole = self.rational().filter(|value| value.is_integer() && value.is_positive());
        let product = whole.and_then(|value| {
            let primes = primes(value.numer().magnitude().clone());
            primes.into_iter().try_fold(Self::whole(1), |product, (prime, count)| {
                let prime = opaque(Self::number(BigRational::from_integer(prime.into())));
                product.multiply(&prime.power(&Self::whole(count.into()))?)
            })
        });
        product.unwrap_or_else(|| opaque(self.clone()))
    }

    /// The natural logarithm: that of a positive fraction is the sum of those of its prime factors.
    pub(in super::super) fn logarithm(&self) -> Self {
        let opaque = |value: Self| Self::function("ln", &[value]);
        let value = self.rational().filter(BigRational::is_positive);
        let sum = value.and_then(|value| {
            let sides = [(value.numer(), 1), (value.denom(), -1)];
            let terms = sides.into_iter().flat_map(|(side, sign)| {
                primes(side.magnitude().clone()).into_iter().map(move |(prime, count)| (prime, sign * i64::from(count)))
            });
            let mut sum = Self::whole(0);
            for (prime, count) in terms {
                let prime = opaque(Self::number(BigRational::from_integer(prime.into())));
                sum = sum.add(&prime.multiply(&Self::whole(count))?)?;
            }
            Some(sum)
        });
        sum.unwrap_or_else(|| opaque(self.clone()))
    }

    /// Its size, rounded, if it consists of numbers, roots, π and e.
    pub(in super::super) fn approximately(&self) -> Option<f64> {
        Some(self.over.approximately()? / self.under.approximately()?).filter(|size| size.is_finite())
    }
}

impl Polynomial {
    fn approximately(&self) -> Option<f64> {
        let size = |atom: &Atom| match atom {
            Atom::Root(index, inside) => Some(inside.to_f64()?.powf(1.0 / f64::from(*index))),
            Atom::Constant(name) if name == "π" => Some(std::f64::consts::PI),
            Atom::Constant(name) if name == "e" => Some(std::f64::consts::E),
            Atom::Imaginary | Atom::Constant(_) | Atom::Symbol(_) => None,
        };
        self.0.iter().try_fold(0.0, |sum, (monomial, factor)| {
            let product = monomial.iter().try_fold(factor.to_f64()?, |product, (atom, power)| {
                Some(product * size(atom)?.powi(i32::try_from(*power).ok()?))
            });
            Some(sum + product?)
        })
    }
}

/// The prime factors of `value`, from 1, and how often each occurs. What is left above the square of [`FACTOR_MAX`] is one factor.
fn primes(value: BigUint) -> Vec<(BigUint, u32)> {
    let (mut found, mut left) = (Vec::new(), value);
    for factor in 2..FACTOR_MAX {
        let mut count = 0;
        while !left.is_zero() && left.is_multiple_of(&factor.into()) {
            (left, count) = (left / factor, count + 1);
        }
        found.extend((count > 0).then(|| (factor.into(), count)));
        if left.is_one() {
            return found;
        }
    }
    found.push((left, 1));
    found
}
