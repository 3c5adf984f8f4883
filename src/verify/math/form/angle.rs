//! Exact values of the trigonometric functions and their inverses at the multiples of π/12.

use super::{Atom, Form, Polynomial};
use num_bigint::BigInt;
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{ToPrimitive, Zero};

/// Twelfths of π in a circle.
const CIRCLE: i64 = 24;

impl Form {
    /// `name` of `angle` in radians: exact at the multiples of π/12, else standing for itself; `None` where it is undefined.
    pub(in super::super) fn trigonometric(name: &str, angle: &Self) -> Option<Self> {
        let Some(twelfths) = angle.twelfths() else { return Some(Self::function(name, std::slice::from_ref(angle))) };
        let (sine, cosine) = (sine(twelfths)?, sine(twelfths + CIRCLE / 4)?);
        match name {
            "sin" => Some(sine),
            "cos" => Some(cosine),
            "tan" => sine.divide(&cosine),
            "cot" => cosine.divide(&sine),
            "sec" => Self::whole(1).divide(&cosine),
            "csc" => Self::whole(1).divide(&sine),
            _ => Some(Self::function(name, std::slice::from_ref(angle))),
        }
    }

    /// The angle in radians whose `name` (`sin`, `cos` or `tan`) is `value`.
    pub(in super::super) fn angle_of(name: &str, value: &Self) -> Option<Self> {
        let range = match name {
            "sin" => -6..=6,
            "cos" => 0..=12,
            "tan" => -5..=5,
            _ => return None,
        };
        let pi = Self::constant("π");
        for twelfths in range {
            let angle = pi.multiply(&Self::number(BigRational::new(twelfths.into(), 12.into())))?;
            if Self::trigonometric(name, &angle).is_some_and(|found| found == *value) {
                return Some(angle);
            }
        }
        Some(Self::function(&format!("arc{name}"), std::slice::from_ref(value)))
    }

    /// An angle in degrees in radians.
    pub(in super::super) fn degrees_to_radians(&self) -> Option<Self> {
        self.multiply(&Self::constant("π"))?.divide(&Self::whole(180))
    }

    /// How many twelfths of π it is, within a circle, if that is a whole number.
    fn twelfths(&self) -> Option<i64> {
        let one = Polynomial::one();
        let share = match self.over.0.iter().next() {
            None => BigRational::zero(),
            Some((monomial, factor)) => {
                let pi = monomial.len() == 1 && monomial.get(&Atom::Constant("π".to_owned())) == Some(&1);
                (pi && self.over.0.len() == 1 && self.under == one).then(|| factor.clone())?
            }
        };
        let twelfths = share * BigRational::from_integer(BigInt::from(12));
        if !twelfths.is_integer() {
            return None;
        }
        twelfths.to_integer().mod_floor(&CIRCLE.into()).to_i64()
    }
}

/// The sine of so many twelfths of π.
fn sine(twelfths: i64) -> Option<Form> {
    let twelfths = twelfths.mod_floor(&CIRCLE);
    let (place, negative) = if twelfths > CIRCLE / 2 { (twelfths - CIRCLE / 2, true) } else { (twelfths, false) };
    let place = place.min(CIRCLE / 2 - place);
    let root = |value: i64| Form::whole(value).root(2);
    let quarter = |form: Form| form.divide(&Form::whole(4));
    let half = |form: Form| form.divide(&Form::whole(2));
    let value = match place {
        0 => Form::whole(0),
        1 => quarter(root(6)?.subtract(&root(2)?)?)?,
        2 => half(Form::whole(1))?,
        3 => half(root(2)?)?,
        4 => half(root(3)?)?,
        5 => quarter(root(6)?.add(&root(2)?)?)?,
        _ => Form::whole(1),
    };
    Some(if negative { value.negated() } else { value })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::cast_precision_loss)]
mod tests {
    use super::*;

    #[test]
    fn exact_values_are_near_those_of_floating_point() {
        for twelfths in -30i64..30 {
            let angle = Form::constant("π").multiply(&Form::whole(twelfths)).unwrap().divide(&Form::whole(12)).unwrap();
            let radians = twelfths as f64 * std::f64::consts::PI / 12.0;
            for (name, size) in [("sin", radians.sin()), ("cos", radians.cos())] {
                let found = Form::trigonometric(name, &angle).unwrap().approximately().unwrap();
                assert!((found - size).abs() < 1e-9, "{name} of {twelfths}: {found}, not {size}");
            }
            match Form::trigonometric("tan", &angle) {
                Some(tangent) => assert!((tangent.approximately().unwrap() - radians.tan()).abs() < 1e-9, "{twelfths}"),
                None => assert_eq!(twelfths.rem_euclid(12), 6),
            }
        }
        let seventh = Form::constant("π").divide(&Form::whole(7)).unwrap();
        assert_eq!(Form::trigonometric("sin", &seventh).unwrap().rational(), None);
    }
}
