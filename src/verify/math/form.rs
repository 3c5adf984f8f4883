//! Exact values: fractions of polynomials in symbols, roots and what cannot be computed further.
//!
//! Two forms are equal if their cross products are the same polynomial: `1/\sqrt 2` equals `\sqrt 2/2`, `(x + 1)^2` equals
//! `x^2 + 2x + 1`, and no floating point decides. What grows beyond the limits has no form.

use num_bigint::BigUint;
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};
use std::collections::BTreeMap;
use std::fmt;

mod angle;
mod counting;
mod power;

/// Maximum size of a numerator or denominator.
const BITS_MAX: u64 = 4096;
/// Maximum terms of a polynomial.
const TERMS_MAX: usize = 64;
/// Maximum exponent of what is not a number.
const EXPONENT_MAX: u32 = 64;
/// Maximum index of a root.
const INDEX_MAX: u32 = 12;
/// Factors below this are drawn out of a root.
const FACTOR_MAX: u32 = 2_000;

/// A factor of a term that is not a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Atom {
    /// The imaginary unit.
    Imaginary,
    /// The root of this index of a positive whole number without a factor to draw out.
    Root(u32, BigUint),
    /// A constant such as `π`, or a function of constants, by its canonical text.
    Constant(String),
    /// A variable, or a function of one, by its canonical text.
    Symbol(String),
}

/// The product of these atoms to these powers, from 1.
type Monomial = BTreeMap<Atom, u32>;

/// A sum of monomials with their coefficients, none of which is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Polynomial(BTreeMap<Monomial, BigRational>);

/// An exact value: one polynomial over another that is not zero.
#[derive(Clone, Debug)]
pub(super) struct Form {
    over: Polynomial,
    under: Polynomial,
}

impl Form {
    pub(super) fn number(value: BigRational) -> Self {
        Self { over: Polynomial::constant(value), under: Polynomial::one() }
    }

    pub(super) fn whole(value: i64) -> Self {
        Self::number(BigRational::from_integer(value.into()))
    }

    /// What `name` stands for: a constant that everybody knows, else a variable.
    pub(super) fn named(name: &str) -> Self {
        match name {
            "i" => Self::imaginary(),
            "π" | "e" | "∞" => Self::constant(name),
            name => Self::symbol(name),
        }
    }

    /// A variable.
    pub(super) fn symbol(name: impl Into<String>) -> Self {
        Self::atom(Atom::Symbol(name.into()))
    }

    /// A constant that is no rational number.
    pub(super) fn constant(name: impl Into<String>) -> Self {
        Self::atom(Atom::Constant(name.into()))
    }

    /// The imaginary unit.
    pub(super) fn imaginary() -> Self {
        Self::atom(Atom::Imaginary)
    }

    /// `name` of `arguments`, where it has no value that could be computed.
    pub(super) fn function(name: &str, arguments: &[Self]) -> Self {
        let texts: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let text = format!("{name}({})", texts.join(","));
        if arguments.iter().all(Self::is_constant) { Self::constant(text) } else { Self::symbol(text) }
    }

    fn atom(atom: Atom) -> Self {
        Self { over: Polynomial::atom(atom), under: Polynomial::one() }
    }

    /// Its value, if it is a rational number.
    pub(super) fn rational(&self) -> Option<BigRational> {
        Some(self.over.value()? / self.under.value()?)
    }

    /// Whether it has no variable.
    pub(super) fn is_constant(&self) -> bool {
        let mut atoms = self.over.0.keys().chain(self.under.0.keys()).flat_map(Monomial::keys);
        !atoms.any(|atom| matches!(atom, Atom::Symbol(_)))
    }

    /// Whether it is one symbol alone.
    pub(super) fn is_symbol(&self) -> bool {
        let one = |monomial: &Monomial| {
            monomial.len() == 1 && monomial.iter().all(|(atom, power)| matches!(atom, Atom::Symbol(_)) && *power == 1)
        };
        self.under == Polynomial::one()
            && self.over.0.len() == 1
            && self.over.0.iter().all(|(monomial, factor)| factor.is_one() && one(monomial))
    }

    /// Whether it is a sum or product of variables without factors, which names what an answer puts together: `m + n`.
    pub(super) fn is_total(&self) -> bool {
        let letters = |monomial: &Monomial| {
            monomial
                .iter()
                .all(|(atom, power)| matches!(atom, Atom::Symbol(name) if name.chars().count() == 1) && *power == 1)
        };
        self.under == Polynomial::one()
            && self.over.0.iter().all(|(monomial, factor)| factor.is_one() && letters(monomial) && !monomial.is_empty())
    }

    pub(super) fn add(&self, other: &Self) -> Option<Self> {
        if self.under == other.under {
            return Self::new(self.over.add(&other.over)?, self.under.clone());
        }
        let over = self.over.multiply(&other.under)?.add(&other.over.multiply(&self.under)?)?;
        Self::new(over, self.under.multiply(&other.under)?)
    }

    pub(super) fn negated(&self) -> Self {
        let over = self.over.0.iter().map(|(monomial, factor)| (monomial.clone(), -factor)).collect();
        Self { over: Polynomial(over), under: self.under.clone() }
    }

    pub(super) fn subtract(&self, other: &Self) -> Option<Self> {
        self.add(&other.negated())
    }

    pub(super) fn multiply(&self, other: &Self) -> Option<Self> {
        Self::new(self.over.multiply(&other.over)?, self.under.multiply(&other.under)?)
    }

    /// `self` / `other`; `None` if `other` is zero.
    pub(super) fn divide(&self, other: &Self) -> Option<Self> {
        Self::new(self.over.multiply(&other.under)?, self.under.multiply(&other.over)?)
    }

    /// `self` to the power of `exponent`.
    pub(super) fn power(&self, exponent: &Self) -> Option<Self> {
        let Some(exact) = exponent.rational() else { return self.power_of_terms(exponent) };
        let (over, index) = (exact.numer().to_i64()?, exact.denom().to_u32().filter(|index| *index <= INDEX_MAX));
        let Some(index) = index else { return Some(self.opaque_power(exponent)) };
        let base = if index == 1 { self.clone() } else { self.root(index)? };
        let count = u32::try_from(over.unsigned_abs()).ok()?;
        let raised = base.whole_power(count)?;
        if over < 0 { Self::whole(1).divide(&raised) } else { Some(raised) }
    }

    /// The root of `index`, from 2, of `self`: drawn out where `self` is a rational number.
    pub(super) fn root(&self, index: u32) -> Option<Self> {
        let index = Some(index).filter(|index| (2..=INDEX_MAX).contains(index))?;
        let Some(value) = self.rational() else {
            let exponent = Self::whole(1).divide(&Self::whole(i64::from(index)))?;
            return Some(self.opaque_power(&exponent));
        };
        // The root of p/q is that of p q^(n-1), over q.
        let under = value.denom().magnitude().clone();
        let inside = value.numer().magnitude() * under.pow(index - 1);
        let (outside, rest) = draw_out(index, inside)?;
        let coefficient = BigRational::new(outside.into(), under.into());
        let mut root = Self::number(coefficient);
        if !rest.is_one() {
            root = root.multiply(&Self::atom(Atom::Root(index, rest)))?;
        }
        match (value.is_negative(), index) {
            (false, _) => Some(root),
            (true, 2) => root.multiply(&Self::imaginary()),
            (true, odd) if odd % 2 == 1 => Some(root.negated()),
            (true, _) => None,
        }
    }

    /// `self` times a factor that makes forms equal which differ by a number alone: its first coefficient is 1.
    pub(super) fn without_factor(&self) -> Self {
        let Some(first) = self.over.0.values().next().cloned() else { return self.clone() };
        let over = self.over.0.iter().map(|(monomial, factor)| (monomial.clone(), factor / &first)).collect();
        Self { over: Polynomial(over), under: self.under.clone() }
    }

    fn new(over: Polynomial, under: Polynomial) -> Option<Self> {
        // Numbers below are taken above, so that equal numbers have equal texts.
        match under.value() {
            Some(value) if value.is_zero() => None,
            Some(value) if !value.is_one() => {
                let over = over.0.into_iter().map(|(monomial, factor)| (monomial, factor / &value)).collect();
                Some(Self { over: Polynomial(over), under: Polynomial::one() })
            }
            _ => Some(Self { over, under }),
        }
    }

    fn whole_power(&self, count: u32) -> Option<Self> {
        if let Some(value) = self.rational() {
            let bits = value.numer().bits().max(value.denom().bits());
            let fits = bits.checked_mul(u64::from(count)).is_some_and(|bits| bits <= BITS_MAX)
                || value.is_zero()
                || value.numer().magnitude().is_one() && value.denom().is_one();
            return fits.then(|| Self::number(value.pow((count % (1 << 30)) as i32)));
        }
        let count = Some(count).filter(|count| *count <= EXPONENT_MAX)?;
        (0..count).try_fold(Self::whole(1), |product, _| product.multiply(self))
    }
}

impl PartialEq for Form {
    fn eq(&self, other: &Self) -> bool {
        let products = || Some((self.over.multiply(&other.under)?, other.over.multiply(&self.under)?));
        products().is_some_and(|(one, two)| one == two)
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.under == Polynomial::one() {
            return write!(f, "{}", self.over);
        }
        write!(f, "({})/({})", self.over, self.under)
    }
}

impl Polynomial {
    fn constant(value: BigRational) -> Self {
        if value.is_zero() { Self::default() } else { Self(BTreeMap::from([(Monomial::new(), value)])) }
    }

    fn one() -> Self {
        Self::constant(BigRational::one())
    }

    fn atom(atom: Atom) -> Self {
        Self(BTreeMap::from([(Monomial::from([(atom, 1)]), BigRational::one())]))
    }

    /// Its value, if it is a number.
    fn value(&self) -> Option<BigRational> {
        match self.0.iter().next() {
            None => Some(BigRational::zero()),
            Some((monomial, factor)) => (self.0.len() == 1 && monomial.is_empty()).then(|| factor.clone()),
        }
    }

    fn add(&self, other: &Self) -> Option<Self> {
        let mut sum = self.clone();
        other.0.iter().for_each(|(monomial, factor)| sum.put(monomial.clone(), factor));
        sum.bounded()
    }

    fn multiply(&self, other: &Self) -> Option<Self> {
        let mut product = Self::default();
        for (one, factor) in &self.0 {
            for (two, other) in &other.0 {
                let (coefficient, monomial) = join(one, two)?;
                product.put(monomial, &(factor * other * coefficient));
            }
        }
        product.bounded()
    }

    fn put(&mut self, monomial: Monomial, factor: &BigRational) {
        let sum = self.0.get(&monomial).map_or_else(|| factor.clone(), |before| before + factor);
        if sum.is_zero() {
            self.0.remove(&monomial);
        } else {
            self.0.insert(monomial, sum);
        }
    }

    fn bounded(self) -> Option<Self> {
        let fits = |value: &BigRational| value.numer().bits() <= BITS_MAX && value.denom().bits() <= BITS_MAX;
        (self.0.len() <= TERMS_MAX && self.0.values().all(fits)).then_some(self)
    }
}

impl fmt::Display for Polynomial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "0");
        }
        for (index, (monomial, factor)) in self.0.iter().enumerate() {
            let sign = if index == 0 { "" } else { "+" };
            let one = factor.is_one() && !monomial.is_empty();
            write!(f, "{sign}{}", if one { String::new() } else { factor.to_string() })?;
            for (place, (atom, power)) in monomial.iter().enumerate() {
                if !one || place > 0 {
                    write!(f, "*")?;
                }
                match atom {
                    Atom::Imaginary => write!(f, "i")?,
                    Atom::Root(index, inside) => write!(f, "root{index}({inside})")?,
                    Atom::Constant(name) | Atom::Symbol(name) => write!(f, "{name}")?,
                }
                if *power > 1 {
                    write!(f, "^{power}")?;
                }
            }
        }
        Ok(())
    }
}

/// The product of two monomials and the number that comes out of it: `i^2` is -1, `\sqrt 2 \sqrt 6` is `2 \sqrt 3`.
fn join(one: &Monomial, two: &Monomial) -> Option<(BigRational, Monomial)> {
    let mut product = Monomial::new();
    // Of each index, what is under the root.
    let mut inside: BTreeMap<u32, BigUint> = BTreeMap::new();
    for (atom, power) in one.iter().chain(two) {
        match atom {
            Atom::Root(index, value) => {
                let value = value.pow(*power);
                inside.entry(*index).and_modify(|before| *before *= &value).or_insert(value);
            }
            Atom::Imaginary | Atom::Constant(_) | Atom::Symbol(_) => *product.entry(atom.clone()).or_default() += power,
        }
    }
    let mut coefficient = BigRational::one();
    if let Some(power) = product.remove(&Atom::Imaginary) {
        if power % 4 >= 2 {
            coefficient = -coefficient;
        }
        if power % 2 == 1 {
            product.insert(Atom::Imaginary, 1);
        }
    }
    for (index, value) in inside {
        let (outside, rest) = draw_out(index, value)?;
        coefficient *= BigRational::from_integer(outside.into());
        if !rest.is_one() {
            product.insert(Atom::Root(index, rest), 1);
        }
    }
    product.values().all(|power| *power <= EXPONENT_MAX).then_some((coefficient, product))
}

/// The root of `index` of `inside` as a whole number times the root of another. A factor above [`FACTOR_MAX`] is drawn out only
/// if it is all that is left.
fn draw_out(index: u32, inside: BigUint) -> Option<(BigUint, BigUint)> {
    if inside.bits() > BITS_MAX / 4 {
        return None;
    }
    let (mut outside, mut rest, mut left) = (BigUint::one(), BigUint::one(), inside);
    if left.is_zero() {
        return Some((left, rest));
    }
    for factor in 2..FACTOR_MAX {
        let mut count = 0;
        while left.is_multiple_of(&factor.into()) {
            (left, count) = (left / factor, count + 1);
        }
        outside *= BigUint::from(factor).pow(count / index);
        rest *= BigUint::from(factor).pow(count % index);
        if left.is_one() {
            break;
        }
    }
    let root = left.nth_root(index);
    if root.pow(index) == left {
        outside *= root;
    } else {
        rest *= left;
    }
    Some((outside, rest))
}

/// The logarithm of `value` to the base of `base`, if it is a whole number.
pub(super) fn whole_logarithm(base: &BigRational, value: &BigRational) -> Option<i64> {
    let one = BigRational::one();
    if !base.is_positive() || !value.is_positive() || *base == one {
        return None;
    }
    let step = if (*base > one) == (*value >= one) { base.clone() } else { base.recip() };
    let sign = if step == *base { 1 } else { -1 };
    let mut power = one;
    for exponent in 0..=i64::from(EXPONENT_MAX) {
        if power == *value {
            return Some(sign * exponent);
        }
        power *= &step;
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn root(value: i64) -> Form {
        Form::whole(value).root(2).unwrap()
    }

    #[test]
    fn roots_are_drawn_out_and_multiplied() {
        assert_eq!(root(12), Form::whole(2).multiply(&root(3)).unwrap());
        assert_eq!(root(2).multiply(&root(6)).unwrap(), root(12));
        assert_eq!(Form::whole(1).divide(&root(2)).unwrap(), root(2).divide(&Form::whole(2)).unwrap());
        assert_eq!(root(-4), Form::whole(2).multiply(&Form::imaginary()).unwrap());
        assert_eq!(Form::whole(-27).root(3).unwrap(), Form::whole(-3));
        assert_ne!(root(2), root(3));
        assert!(Form::whole(-4).root(4).is_none());
    }

    #[test]
    fn what_is_too_big_or_undefined_has_no_form() {
        assert!(Form::whole(1).divide(&Form::whole(0)).is_none());
        assert!(Form::whole(9).power(&Form::whole(387_420_489)).is_none());
        assert!(Form::symbol("x").power(&Form::whole(1_000)).is_none());
        assert!(Form::whole(0).power(&Form::whole(-1)).is_none());
    }

    proptest! {
        #[test]
        fn a_square_is_multiplied_out(a in -9i64..9, b in -9i64..9) {
            let x = Form::symbol("x");
            let sum = x.multiply(&Form::whole(a)).unwrap().add(&Form::whole(b)).unwrap();
            let square = sum.power(&Form::whole(2)).unwrap();
            let terms = [(a * a, 2), (2 * a * b, 1), (b * b, 0)];
            let expected = terms.iter().fold(Form::whole(0), |all, (factor, power)| {
                let term = x.power(&Form::whole(*power)).unwrap().multiply(&Form::whole(*factor)).unwrap();
                all.add(&term).unwrap()
            });
            prop_assert_eq!(square, expected);
        }

        #[test]
        fn a_power_and_its_root_are_each_others_inverse(value in 1i64..500, index in 2u32..5) {
            let raised = Form::whole(value).power(&Form::whole(i64::from(index))).unwrap();
            prop_assert_eq!(raised.root(index).unwrap(), Form::whole(value));
            let back = Form::whole(value).root(index).unwrap().power(&Form::whole(i64::from(index))).unwrap();
            prop_assert_eq!(back, Form::whole(value));
        }
    }
}
