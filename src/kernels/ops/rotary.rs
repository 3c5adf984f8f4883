//! Rotation of heads by their positions' angles (arXiv 2104.09864).

use super::vectorised::vectorised;

/// Rotates the halves of the first `2 half` values of each head, `(x1, x2)`, by the row's angles:
/// `(x1 c - x2 s, x2 c + x1 s)`; the rest of a head stays as it is. `x` is `(rows, heads, dim)`, `cos` and `sin` are
/// `(rows, half)`; `sign` is -1 for the gradient.
#[inline(always)]
fn rotate_rows(x: &[f32], out: &mut [f32], cos: &[f32], sin: &[f32], (dim, half): (usize, usize), sign: f32) {
    let rows = cos.len() / half;
    let width = x.len() / rows.max(1);
    for row in 0..rows {
        let (cos, sin) = (&cos[row * half..][..half], &sin[row * half..][..half]);
        let heads = x[row * width..][..width].chunks_exact(dim);
        for (x, out) in heads.zip(out[row * width..][..width].chunks_exact_mut(dim)) {
            let ((x1, x2), (y1, y2)) = (x.split_at(half), out.split_at_mut(half));
            let ((x2, rest), (y2, out)) = (x2.split_at(half), y2.split_at_mut(half));
            for i in 0..half {
                y1[i] = x1[i] * cos[i] - sign * x2[i] * sin[i];
                y2[i] = x2[i] * cos[i] + sign * x1[i] * sin[i];
            }
            out.copy_from_slice(rest);
        }
    }
}
vectorised!(
    /// Rotary positions; see `rotate_rows`.
    rotate, rotate_rows, (x: &[f32], out: &mut [f32], cos: &[f32], sin: &[f32], sizes: (usize, usize), sign: f32)
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
