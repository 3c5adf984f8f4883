//! Sums, products and scaling of rows.

use super::rows::by_rows;
use super::vectorised::vectorised;

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
