use super::full::tile;
use super::isa::Isa;
use super::*;
use proptest::prelude::*;

fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Weights on 16 steps a block of 32, as a file of 4 bits has them.
fn coarse(outputs: usize, inputs: usize, seed: u64) -> Vec<f32> {
    let mut weights = values(outputs * inputs, seed);
    for (row, weights) in weights.chunks_mut(inputs).enumerate() {
        for (block, weights) in weights.chunks_mut(32).enumerate() {
            let step = (1 + (row * 7 + block * 3) % 5) as f32 / 64.0;
            weights.iter_mut().for_each(|w| *w = ((*w + 1.0) * 8.0).floor().min(15.0) * step - 0.25);
        }
    }
    weights
}

/// `(rows, depth) x (depth, columns)` in f64; `b` is read through `at(depth, column)`.
fn plain(a: &[f32], rows: usize, depth: usize, columns: usize, at: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let entry = |row: usize, column: usize| {
        (0..depth).map(|k| f64::from(a[row * depth + k]) * f64::from(at(k, column))).sum::<f64>() as f32
    };
    (0..rows * columns).map(|i| entry(i / columns, i % columns)).collect()
}

fn assert_close(got: &[f32], expected: &[f32], tolerance: f32) {
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= tolerance, "element {i}: {got} against {expected}");
    }
}

fn rounding(depth: usize) -> f32 {
    1e-6 * depth as f32 + 1e-6
}

/// The matrix as its rows say it is.
fn unpacked(outputs: usize, inputs: usize, row: impl Fn(usize, &mut [f32])) -> Vec<f32> {
    let mut weights = vec![0.0; outputs * inputs];
    weights.chunks_mut(inputs).enumerate().for_each(|(index, out)| row(index, out));
    weights
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn both_products_equal_the_plain_ones(
        rows in 1usize..40, outputs in 1usize..70, inputs in 1usize..70, seed in any::<u64>(),
    ) {
        let (w, x, dy) = (values(outputs * inputs, seed), values(rows * inputs, !seed), values(rows * outputs, seed ^ 7));
        let packed = PackedMatrix::new(&[&w], inputs);
        let mut y = vec![f32::NAN; rows * outputs];
        packed.forward(&x, &mut y);
        assert_close(&y, &plain(&x, rows, inputs, outputs, |k, n| w[n * inputs + k]), rounding(inputs));
        let mut dx = vec![f32::NAN; rows * inputs];
        packed.backward(&dy, &mut dx);
        assert_close(&dx, &plain(&dy, rows, outputs, inputs, |n, k| w[n * inputs + k]), rounding(outputs));
    }

    /// bf16 is the f32 product over rounded weights, to rounding of the sums; and rounding is to the nearest.
    #[test]
    fn bf16_is_the_plain_product_of_rounded_weights(
        rows in 1usize..40, outputs in 1usize..70, inputs in 1usize..70, seed in any::<u64>(),
    ) {
        let (w, x) = (values(outputs * inputs, seed), values(rows * inputs, !seed));
        let packed = Bf16Matrix::new(&[&w], inputs);
        let rounded = unpacked(outputs, inputs, |row, out| packed.row(row, out));
        for (w, rounded) in w.iter().zip(&rounded) {
            prop_assert!((w - rounded).abs() <= w.abs() / 256.0);
        }
        for isa in Isa::all() {
            let mut y = vec![f32::NAN; rows * outputs];
            packed.forward_with(isa, &x, &mut y);
            assert_close(&y, &plain(&x, rows, inputs, outputs, |k, n| rounded[n * inputs + k]), rounding(inputs));
        }
    }

    /// The 8-bit product against the plain one over the weights it holds: what differs is that activations
    /// are rounded to 1/254 of their range, so the bound is half of that times the weights' sizes.
    #[test]
    fn int8_is_the_plain_product_of_rounded_values(
        rows in 1usize..30, outputs in 1usize..70, inputs in 1usize..140, seed in any::<u64>(), nibbles in any::<bool>(),
    ) {
        let w = if nibbles { coarse(outputs, inputs, seed) } else { values(outputs * inputs, seed) };
        let x = values(rows * inputs, !seed);
        let packed = Int8Matrix::new(&[&w], inputs);
        let held = unpacked(outputs, inputs, |row, out| packed.row(row, out));
        for (w, held) in w.iter().zip(&held) {
            // Half a step of 128 over a range of at most 2, and the rounding of step and floor to f16.
            prop_assert!((w - held).abs() <= 0.5 * 2.0 / 112.0 + 2e-3, "{} is held as {}", w, held);
        }
        if nibbles {
            prop_assert!(packed.is_in_nibbles());
            assert_close(&held, &w, 1e-3);
        }
        let expected = plain(&x, rows, inputs, outputs, |k, n| held[n * inputs + k]);
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::all() {
            let mut y = vec![f32::NAN; rows * outputs];
            packed.forward_with(isa, &x, &mut y);
            for (i, (y, expected)) in y.iter().zip(&expected).enumerate() {
                let size: f32 = held[i % outputs * inputs..][..inputs].iter().map(|w| w.abs()).sum();
                prop_assert!((y - expected).abs() <= size / 254.0 + rounding(inputs) * 4.0, "{:?}: {} against {}", isa, y, expected);
            }
            let first = first.get_or_insert_with(|| y.clone());
            prop_assert!(first.iter().zip(&y).all(|(a, b)| a.to_bits() == b.to_bits()), "{:?} differs from portable", isa);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch(rows in 2usize..70, seed in any::<u64>()) {
        let (outputs, inputs) = (200, 96);
        let x = values(rows * inputs, !seed);
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let packed = Weight::new(&[&values(outputs * inputs, seed)], inputs, precision, false);
            let (mut together, mut alone) = (vec![0.0; rows * outputs], vec![0.0; outputs]);
            packed.decode(&x, &mut together);
            for row in 0..rows {
                packed.decode(&x[row * inputs..][..inputs], &mut alone);
                prop_assert!(together[row * outputs..][..outputs].iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_tile() {
    let inputs = 77;
    let packed = PackedMatrix::new(&[&values(inputs * PANEL, 3)], inputs);
    let x = values(ROWS_MAX * inputs, 4);
    for height in 1..=ROWS_MAX {
        let tile = |isa: Isa| {
            let mut sums = NO_SUMS;
            tile(isa, height, Strided::rows(&x[..height * inputs], inputs), packed.panel(0), &mut sums);
            sums
        };
        let able: Vec<Isa> = Isa::all().into_iter().filter(|isa| height <= isa.rows()).collect();
        for pair in able.windows(2) {
            let (one, other) = (tile(pair[0]), tile(pair[1]));
            assert_close(one.as_flattened(), other.as_flattened(), rounding(inputs));
            if pair[0] != Isa::Portable {
                // Fused in the same order: the same to the last bit, so that a run does not depend on its machine.
                assert_eq!(one, other);
            }
        }
    }
}

#[test]
fn parts_lie_one_below_the_other_and_rows_come_back() {
    let (first, second) = (values(3 * 5, 1), values(20 * 5, 2));
    for (precision, tolerance) in [(Precision::F32, 0.0), (Precision::Bf16, 4e-3), (Precision::Int8, 9e-3)] {
        let packed = Weight::new(&[&first, &second], 5, precision, false);
        let mut row = [0.0; 5];
        packed.decode_row(2, &mut row);
        assert_close(&row, &first[10..15], tolerance);
        packed.decode_row(3 + 19, &mut row);
        assert_close(&row, &second[95..100], tolerance);
    }
}

#[test]
fn weights_of_any_size_keep_their_relative_error_in_int8() {
    for size in [1e-30f32, 1e-6, 1.0, 1e6, 1e30] {
        let w: Vec<f32> = values(40 * 64, 9).iter().map(|w| w * size).collect();
        let packed = Int8Matrix::new(&[&w], 64);
        let held = unpacked(40, 64, |row, out| packed.row(row, out));
        assert_close(&held, &w, 9e-3 * size);
    }
}

#[test]
fn a_weight_that_is_no_number_is_not_hidden_by_rounding() {
    let mut w = values(4 * 64, 5);
    w[64 + 40] = f32::NAN;
    let mut y = [0.0; 4];
    Int8Matrix::new(&[&w], 64).forward(&values(64, 6), &mut y);
    assert!(y[1].is_nan() && [y[0], y[2], y[3]].iter().all(|y| y.is_finite()), "{y:?}");
}
