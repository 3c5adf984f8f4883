//! The exponential that all kernels share.

pub(in crate::kernels) const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// 1.5 * 2^23: added and subtracted, it rounds to the nearest integer.
pub(in crate::kernels) const ROUND: f32 = 12_582_912.0;
pub(in crate::kernels) const LN2_HIGH: f32 = 0.693_359_4;
pub(in crate::kernels) const LN2_LOW: f32 = -2.121_944_4e-4;
/// Of the polynomial, the highest power first.
pub(in crate::kernels) const COEFFICIENTS: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
/// Below it the result is 0.
pub(in crate::kernels) const LEAST: f32 = -87.0;

/// `e^x` to about one unit in the last place, without a branch or a call, so that a loop over it
/// vectorises: 0 below -87, `e^88` above 88, NaN for NaN. Cody-Waite reduction by ln 2 in two parts, and
/// the polynomial of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // e^x = 2^n * e^r with |r| <= ln(2) / 2; the rounding constant leaves n in the low bits.
    let y = x.min(88.0);
    let y = if x.is_nan() { x } else { y };
    let shifted = y.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, y));
    let mut p = COEFFICIENTS[0];
    for &coefficient in &COEFFICIENTS[1..] {
        p = p.mul_add(r, coefficient);
    }
    let mantissa = p.mul_add(r * r, r) + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let result = f32::from_bits((mantissa.to_bits() as i32).wrapping_add(exponent << 23) as u32);
    if x < LEAST { 0.0 } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_exact_to_a_few_parts_in_ten_million() {
        for step in -870_000..880_000 {
            let x = step as f32 * 1e-4;
            let (got, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got - expected).abs() <= 3e-7 * expected, "exp({x}) = {got}, expected {expected}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) == 0.0 && exp(f32::NEG_INFINITY) == 0.0 && exp(1e30).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }
}
