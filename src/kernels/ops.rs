//! Elementwise pieces of the transformer on raw rows, and the exponential they share.
//!
//! Everything here is plain safe code on slices, compiled for AVX-512, for AVX2 and for any processor.

mod activation;
mod norm;

pub use activation::Activation;

use super::thread_pool;
pub(crate) use norm::{
    add_norm, norm, norm_backward, norm_backward_part, norm_backward_with_output, norm_part, norm_weight_backward,
};

/// Elements below which waking a second thread costs more than it gives.
const PARALLEL_MIN: usize = 1 << 14;

/// `e^x` to about one unit in the last place, without a branch or a call, so that a loop over it
/// vectorises: 0 below -87, `e^88` above 88, NaN for NaN. Cody-Waite reduction by ln 2 in two parts, and
/// the polynomial of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // e^x = 2^n * e^r with |r| <= ln(2) / 2; the rounding constant leaves n in the low bits.
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let y = x.min(88.0);
    let y = if x.is_nan() { x } else { y };
    let shifted = y.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, y));
    let mut p = 1.987_569_1e-4f32;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p.mul_add(r, coefficient);
    }
    let mantissa = p.mul_add(r * r, r) + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let result = f32::from_bits((mantissa.to_bits() as i32).wrapping_add(exponent << 23) as u32);
    if x < -87.0 { 0.0 } else { result }
}

/// Compiles a loop over rows for AVX-512, for AVX2 and for any processor, and picks at run time. AVX-512, with twice
/// the registers, may have a body of its own.
macro_rules! vectorised {
    ($(#[$doc:meta])* $name:ident, $body:ident, ($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        crate::kernels::ops::vectorised!($(#[$doc])* $name, $body, $body, ($($arg: $type),*) $(-> $result)?);
    };
    ($(#[$doc:meta])* $name:ident, $body:ident, $wide:ident, ($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        $(#[$doc])*
        pub(crate) fn $name($($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn fast($($arg: $type),*) $(-> $result)? { $body($($arg),*) }
                #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
                fn wide($($arg: $type),*) $(-> $result)? { $wide($($arg),*) }
                if crate::kernels::has_avx512() {
                    #[allow(unsafe_code, reason = "rooms above compile loops of their own by this macro")]
                    // SAFETY: the processor has all of these.
                    return unsafe { wide($($arg),*) };
                }
                if crate::kernels::has_avx2_fma() {
                    #[allow(unsafe_code, reason = "as above")]
                    // SAFETY: the processor has AVX2 and FMA.
                    return unsafe { fast($($arg),*) };
                }
            }
            $body($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// `activation(gate) * up` where a row of `x` is `gate` then `up`, each `width` long, `apart` floats from the next.
#[inline(always)]
fn gated_rows(x: &[f32], apart: usize, out: &mut [f32], width: usize, activation: Activation) {
    let (a, b) = activation.coefficients();
    for (x, out) in x.chunks_exact(apart).zip(out.chunks_exact_mut(width)) {
        let (gate, up) = (&x[..width], &x[width..2 * width]);
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + exp(-gate * (a + b * gate * gate))) * up;
        }
    }
}
vectorised!(
    gated_part, gated_rows, (x: &[f32], apart: usize, out: &mut [f32], width: usize, activation: Activation)
);

/// Gradient of [`gated`]: `dx` from the input `x` and the result's gradient `dy`, which becomes the result itself: it is
/// nearly there, and wanted for the gradient of a linear behind it.
#[inline(always)]
fn gated_backward_rows(x: &[f32], apart: usize, dy: &mut [f32], dx: &mut [f32], width: usize, activation: Activation) {
    let (a, b) = activation.coefficients();
    for ((x, dy), dx) in x.chunks_exact(apart).zip(dy.chunks_exact_mut(width)).zip(dx.chunks_exact_mut(apart)) {
        let (gate, up) = (&x[..width], &x[width..2 * width]);
        let (dgate, dup) = dx[..2 * width].split_at_mut(width);
        for i in 0..width {
            let square = b * gate[i] * gate[i];
            let sigmoid = 1.0 / (1.0 + exp(-gate[i] * (a + square)));
            let value = gate[i] * sigmoid;
            dgate[i] = dy[i] * up[i] * (sigmoid + value * (1.0 - sigmoid) * (a + 3.0 * square));
            dup[i] = dy[i] * value;
            dy[i] = value * up[i];
        }
    }
}
vectorised!(
    gated_backward_part, gated_backward_rows,
    (x: &[f32], apart: usize, dy: &mut [f32], dx: &mut [f32], width: usize, activation: Activation)
);

/// Turns neighbouring halves of each head, `(x1, x2)`, by the row's angles: `(x1 c - x2 s, x2 c + x1 s)`.
/// `x` is `(rows, heads, 2 half)`, `cos` and `sin` are `(rows, half)`; `sign` is -1 for the gradient.
#[inline(always)]
fn rotate_rows(x: &[f32], out: &mut [f32], cos: &[f32], sin: &[f32], half: usize, sign: f32) {
    let rows = cos.len() / half;
    let width = x.len() / rows.max(1);
    for row in 0..rows {
        let (cos, sin) = (&cos[row * half..][..half], &sin[row * half..][..half]);
        let heads = x[row * width..][..width].chunks_exact(2 * half);
        for (x, out) in heads.zip(out[row * width..][..width].chunks_exact_mut(2 * half)) {
            let (x1, x2) = x.split_at(half);
            let (y1, y2) = out.split_at_mut(half);
            for i in 0..half {
                y1[i] = x1[i] * cos[i] - sign * x2[i] * sin[i];
                y2[i] = x2[i] * cos[i] + sign * x1[i] * sin[i];
            }
        }
    }
}
vectorised!(
    /// Rotary positions; see `rotate_rows`.
    rotate, rotate_rows, (x: &[f32], out: &mut [f32], cos: &[f32], sin: &[f32], half: usize, sign: f32)
);

#[inline(always)]
fn rotate_one(head: &mut [f32], cos: &[f32], sin: &[f32], half: usize, sign: f32) {
    let (x1, x2) = head.split_at_mut(half);
    for i in 0..half {
        let (a, b) = (x1[i], x2[i]);
        x1[i] = a * cos[i] - sign * b * sin[i];
        x2[i] = b * cos[i] + sign * a * sin[i];
    }
}
vectorised!(
    /// [`rotate`] of one head in place.
    rotate_head, rotate_one, (head: &mut [f32], cos: &[f32], sin: &[f32], half: usize, sign: f32)
);

/// The largest of `row`, whatever a NaN would be.
#[inline(always)]
fn max_of(row: &[f32]) -> f32 {
    let mut tops = [f32::NEG_INFINITY; 16];
    for chunk in row.chunks(16) {
        for (top, &x) in tops.iter_mut().zip(chunk) {
            *top = if x > *top { x } else { *top };
        }
    }
    tops.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// The largest of `row` and the sum of `e^(scale (x - largest))`, in a fixed order.
#[inline(always)]
fn max_and_sum(row: &[f32], scale: f32) -> (f32, f64) {
    let top = max_of(row);
    let mut total = 0.0f64;
    for block in row.chunks(1024) {
        let mut sums = [0.0f32; 16];
        for chunk in block.chunks(16) {
            for (sum, &x) in sums.iter_mut().zip(chunk) {
                *sum += exp(scale * (x - top));
            }
        }
        total += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
    }
    (top, total)
}
vectorised!(
    /// `(max, log-sum-exp parts)` of a row of logits: the maximum and the f64 sum of `e^(scale (x - max))`.
    softmax_parts, max_and_sum, (row: &[f32], scale: f32) -> (f32, f64)
);

/// As [`max_and_sum`]; `row` becomes the terms of the sum.
#[inline(always)]
fn terms_of(row: &mut [f32], scale: f32) -> (f32, f64) {
    let top = max_of(row);
    let mut total = 0.0f64;
    for block in row.chunks_mut(1024) {
        let mut sums = [0.0f32; 16];
        for chunk in block.chunks_mut(16) {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *x = exp(scale * (*x - top));
                *sum += *x;
            }
        }
        total += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
    }
    (top, total)
}
vectorised!(
    /// [`softmax_parts`] of a row that becomes the terms of its sum.
    softmax_terms, terms_of, (row: &mut [f32], scale: f32) -> (f32, f64)
);

/// Log-probability of `id` under softmax(scale * logits).
pub(crate) fn log_prob(logits: &[f32], id: u32, scale: f32) -> f32 {
    let (top, sum) = softmax_parts(logits, scale);
    (f64::from(scale) * f64::from(logits[id as usize] - top) - sum.ln()) as f32
}

#[inline(always)]
fn scale_row(row: &mut [f32], factor: f32) {
    row.iter_mut().for_each(|x| *x *= factor);
}
vectorised!(
    /// `x *= factor`.
    scale_part, scale_row, (row: &mut [f32], factor: f32)
);

#[inline(always)]
fn dot_row(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum()
}
vectorised!(
    /// `sum(a b)`, in a fixed order.
    dot, dot_row, (a: &[f32], b: &[f32]) -> f32
);

#[inline(always)]
fn add_row(x: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out += x);
}
vectorised!(add_part, add_row, (x: &[f32], out: &mut [f32]));

/// `out += x`.
pub(crate) fn add(x: &[f32], out: &mut [f32]) {
    by_rows(out, 1, |first, out| add_part(&x[first..][..out.len()], out));
}

/// Runs `part` on pieces of rows, on several threads where it pays.
pub(crate) fn by_rows(out: &mut [f32], width: usize, part: impl Fn(usize, &mut [f32]) + Sync) {
    let Some(rows) = rows_of_piece(out.len(), width) else { return part(0, out) };
    let mut pieces: Vec<&mut [f32]> = out.chunks_mut(rows * width).collect();
    thread_pool::each_mut(&mut pieces, |index, out| part(index * rows, out));
}

/// Runs `part` on pieces of as many rows of `x`, `a` and `b`, each given with the floats from one row to the next; on several
/// threads where it pays.
fn by_rows_of(
    (x, x_width): (&[f32], usize),
    (a, a_width): (&mut [f32], usize),
    (b, b_width): (&mut [f32], usize),
    part: impl Fn(&[f32], &mut [f32], &mut [f32]) + Sync,
) {
    let Some(rows) = rows_of_piece(a.len(), a_width) else { return part(x, a, b) };
    let pieces = x.chunks(rows * x_width).zip(a.chunks_mut(rows * a_width)).zip(b.chunks_mut(rows * b_width));
    let mut pieces: Vec<_> = pieces.collect();
    thread_pool::each_mut(&mut pieces, |_, ((x, a), b)| part(x, a, b));
}

/// Rows, `width` elements each, that a thread takes at a time of `count` elements, where it pays to share them.
fn rows_of_piece(count: usize, width: usize) -> Option<usize> {
    let pays = count >= PARALLEL_MIN && thread_pool::threads() > 1;
    pays.then(|| (count / width).div_ceil(2 * thread_pool::threads()))
}

/// Runs `part(row, values)` on each row of `rows`, `(rows, width)`, and keeps what it gives in `found`; on several
/// threads where it pays.
pub(crate) fn each_row(
    rows: &mut [f32],
    width: usize,
    found: &mut [f32],
    part: impl Fn(usize, &mut [f32]) -> f32 + Sync,
) {
    let mut rows: Vec<_> = rows.chunks_mut(width).zip(found).collect();
    thread_pool::each_mut(&mut rows, |row, (values, found)| **found = part(row, values));
}

/// A gated linear unit: `x` is `(rows, 2 width)` with the gate first, its rows perhaps further apart, `out` becomes
/// `(rows, width)`.
pub(crate) fn gated(x: &[f32], out: &mut [f32], width: usize, activation: Activation) {
    let apart = x.len() / (out.len() / width).max(1);
    by_rows(out, width, |row, out| {
        gated_part(&x[row * apart..][..out.len() / width * apart], apart, out, width, activation);
    });
}

/// Gradient of [`gated`], `dx`, which lies as `x` does, from that of its result, `d`, which becomes the result.
pub(crate) fn gated_backward(x: &[f32], d: &mut [f32], dx: &mut [f32], width: usize, activation: Activation) {
    let apart = x.len() / (d.len() / width).max(1);
    by_rows_of((x, apart), (d, width), (dx, apart), |x, d, dx| {
        gated_backward_part(x, apart, d, dx, width, activation);
    });
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

    #[test]
    fn a_sum_and_its_norm_are_what_they_are_one_by_one() {
        for rows in [3, 4000] {
            let (x, y, weight) = (wave(9 * rows, 0.7), wave(9 * rows, 0.3), wave(9, 0.4));
            let (mut sum, mut normed) = (y.clone(), vec![0.0; 9 * rows]);
            add_norm(&x, &mut sum, &mut normed, &weight, 1e-5);
            let (mut expected, mut expected_norm) = (y, vec![0.0; 9 * rows]);
            add(&x, &mut expected);
            norm(&expected, &mut expected_norm, &weight, 1e-5);
            assert_eq!((sum, normed), (expected, expected_norm), "{rows} rows");
        }
    }

    /// Central differences of `f` against the gradient `dx` for the direction of `dy`.
    fn check(x: &[f32], dy: &[f32], dx: &[f32], f: impl Fn(&[f32]) -> Vec<f32>) {
        for i in 0..x.len() {
            let at = |shift: f32| {
                let mut x = x.to_vec();
                x[i] += shift;
                f(&x).iter().zip(dy).map(|(y, dy)| f64::from(y * dy)).sum::<f64>()
            };
            let expected = (at(5e-3) - at(-5e-3)) / 1e-2;
            assert!((f64::from(dx[i]) - expected).abs() < 2e-3, "element {i}: {} against {expected}", dx[i]);
        }
    }

    fn wave(count: usize, pace: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * pace).sin() * 1.5).collect()
    }

    #[test]
    fn gradients_match_finite_differences() {
        let (x, dy, weight) = (wave(36, 0.7), wave(18, 1.3), wave(9, 0.4));
        let mut dx = vec![0.0; 36];
        // Rows of 18 that are 20 apart.
        let spread = |x: &[f32]| x.chunks(18).flat_map(|row| row.iter().copied().chain([7.0; 2])).collect::<Vec<f32>>();
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let (mut result, mut expected) = (dy.clone(), vec![0.0; 18]);
            gated_backward(&x, &mut result, &mut dx, 9, activation);
            check(&x, &dy, &dx, |x| {
                let mut out = vec![0.0; 18];
                gated(x, &mut out, 9, activation);
                out
            });
            gated(&x, &mut expected, 9, activation);
            let (mut of_spread, mut d_of_spread, mut dx_of_spread) = (vec![0.0; 18], dy.clone(), spread(&dx));
            gated(&spread(&x), &mut of_spread, 9, activation);
            gated_backward(&spread(&x), &mut d_of_spread, &mut dx_of_spread, 9, activation);
            assert_eq!((&of_spread, &d_of_spread, dx_of_spread), (&expected, &result, spread(&dx)));
            let close = result.iter().zip(&expected).all(|(got, expected)| (got - expected).abs() <= 1e-6);
            assert!(close, "{result:?}, expected {expected:?}");
        }
        let dy = wave(36, 1.1);
        dx.fill(0.0);
        norm_backward(&x, &dy, &mut dx, &weight, 1e-5);
        check(&x, &dy, &dx, |x| {
            let mut out = vec![0.0; 36];
            norm(x, &mut out, &weight, 1e-5);
            out
        });
        let (mut normed, mut again, mut expected) = (dy.clone(), vec![0.0; 36], vec![0.0; 36]);
        norm_backward_with_output(&x, &mut normed, &mut again, &weight, 1e-5);
        norm(&x, &mut expected, &weight, 1e-5);
        assert_eq!((again, normed), (dx.clone(), expected));
        let mut d_weight = vec![0.0; 9];
        norm_weight_backward(&x, &dy, &mut d_weight, 1e-5);
        check(&weight, &dy, &d_weight, |weight| {
            let mut out = vec![0.0; 36];
            norm(&x, &mut out, weight, 1e-5);
            out
        });
    }
}
