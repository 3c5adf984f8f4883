//! Products in bf16 against sums in double precision of the same rounded values.

use super::*;
use crate::kernels::isa::has_bf16_dots;
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| draw()).collect()
}

fn rounded(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| half::bf16::from_f32(*value).to_f64()).collect()
}

/// `a b^T + ...` of `(rows, depth)` and `(outputs, depth)`.
fn plain(a: &[f64], b: &[f64], depth: usize) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
    a.chunks_exact(depth).flat_map(|a| b.chunks_exact(depth).map(move |b| dot(a, b))).collect()
}

fn transposed(values: &[f32], width: usize) -> Vec<f32> {
    (0..width).flat_map(|column| values.iter().skip(column).step_by(width).copied()).collect()
}

fn assert_near(got: &[f32], expected: &[f64], depth: usize) -> Result<(), TestCaseError> {
    prop_assert_eq!(got.len(), expected.len());
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let off = (f64::from(*got) - expected).abs();
        prop_assert!(off < 2e-6 * depth as f64, "{}: {} instead of {}", at, got, expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Tiles, panels and pairs that are whole and that are not, rows of one chunk and of several, two blocks of a branch.
    #[test]
    fn both_directions_are_the_products_of_rounded_values(
        rows in prop::sample::select(vec![1usize, 7, 8, 65, 200]),
        inputs in prop::sample::select(vec![1usize, 31, 48, 300, 576]),
        outputs in prop::sample::select(vec![2usize, 16, 33, 49, 290]),
        rank in prop::sample::select(vec![0usize, 3, 16]),
        padding in prop::sample::select(vec![0usize, 5]),
        seed in any::<u64>(),
    ) {
        if !has_bf16_dots() {
            return Ok(());
        }
        let width = 2 * rank;
        let (w, x, dy) = (values(outputs * inputs, seed), values(rows * inputs, !seed), values(rows * outputs, seed ^ 7));
        let (a, mut b) = (values(width * inputs, seed ^ 5), values(outputs * width, seed ^ 6));
        // The first half of the outputs reads the first inner columns alone.
        let half = outputs / 2;
        for (output, row) in b.chunks_exact_mut(width.max(1)).enumerate() {
            if output < half { row[rank..].fill(0.0) } else { row[..rank].fill(0.0) }
        }
        let (packed, packed_a) = (PackedMatrix::new(&[&w], inputs), PackedMatrix::new(&[&a], inputs));
        let packed_b = if width > 0 { PackedMatrix::new(&[&b], width) } else { PackedMatrix::default() };
        let blocks = [(0..half, 0..rank), (half..outputs, rank..width)];
        let branch = (width > 0).then_some(LoraBranch { a: &packed_a, b: &packed_b, blocks: &blocks });

        let stride = outputs + padding;
        let (mut u, mut y) = (vec![f32::NAN; rows * width], vec![7.0; rows * stride]);
        forward(&packed, branch, &x, &mut u, &mut y);
        assert_near(&u, &if width > 0 { plain(&rounded(&x), &rounded(&a), inputs) } else { vec![] }, inputs)?;
        let added = if width > 0 { plain(&rounded(&u), &rounded(&b), width) } else { vec![0.0; rows * outputs] };
        let expected = plain(&rounded(&x), &rounded(&w), inputs).into_iter().zip(added).map(|(y, added)| y + added);
        let got: Vec<f32> = y.chunks_exact(stride).flat_map(|row| row[..outputs].to_vec()).collect();
        assert_near(&got, &expected.collect::<Vec<_>>(), inputs + width)?;
        prop_assert!(y.chunks_exact(stride).all(|row| row[outputs..].iter().all(|padding| *padding == 7.0)));

        let padded: Vec<f32> = dy.chunks_exact(outputs).flat_map(|row| [row, &vec![9.0; padding]].concat()).collect();
        let (mut du, mut dx) = (vec![f32::NAN; rows * width], vec![f32::NAN; rows * inputs]);
        let pieces = AtomicUsize::new(0);
        let piece = |_| {
            pieces.fetch_add(1, Ordering::Relaxed);
        };
        backward(&packed, branch, &padded, [&mut du, &mut dx], Overlap { pieces: 5, piece: &piece });
        prop_assert_eq!(pieces.into_inner(), 5);
        let of_b = if width > 0 { plain(&rounded(&dy), &rounded(&transposed(&b, width)), outputs) } else { vec![] };
        assert_near(&du, &of_b, outputs)?;
        let added = if width > 0 {
            plain(&rounded(&du), &rounded(&transposed(&a, inputs)), width)
        } else {
            vec![0.0; rows * inputs]
        };
        let expected = plain(&rounded(&dy), &rounded(&transposed(&w, inputs)), outputs).into_iter().zip(added);
        assert_near(&dx, &expected.map(|(dx, added)| dx + added).collect::<Vec<_>>(), outputs + width)?;
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    if !has_bf16_dots() {
        return;
    }
    let (rows, inputs, outputs) = (150, 576, 100);
    let (packed, x) = (PackedMatrix::new(&[&values(outputs * inputs, 1)], inputs), values(rows * inputs, 2));
    let mut together = vec![0.0; rows * outputs];
    forward(&packed, None, &x, &mut [], &mut together);
    for row in [0, 77, 149] {
        let mut alone = vec![0.0; outputs];
        forward(&packed, None, &x[row * inputs..][..inputs], &mut [], &mut alone);
        assert_eq!(alone, together[row * outputs..][..outputs]);
    }
}

#[test]
fn what_is_no_number_is_not_hidden() {
    if !has_bf16_dots() {
        return;
    }
    let (mut w, x) = (values(20 * 40, 3), values(10 * 40, 4));
    w[3 * 40 + 5] = f32::NAN;
    let (packed, mut y, mut dx) = (PackedMatrix::new(&[&w], 40), vec![0.0; 10 * 20], vec![0.0; 10 * 40]);
    forward(&packed, None, &x, &mut [], &mut y);
    assert!(y.iter().enumerate().all(|(at, y)| y.is_nan() == (at % 20 == 3)));
    backward(&packed, None, &y.iter().map(|_| 1.0).collect::<Vec<f32>>(), [&mut [], &mut dx], Overlap::NONE);
    assert!(dx.iter().enumerate().all(|(at, dx)| dx.is_nan() == (at % 40 == 5)));
}
