use super::isa::Isa;
use super::layout::{Lane, Line, NO_SUMS, PANEL, ROWS_MAX, Sums, tiles};
use super::operands::{Beta, Lhs, RhsPanels};
use super::tile::tile;
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

/// Weights on 16 steps for each block of 32, as in a file with 4 bits a weight.
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

/// The matrix that `row` reads row by row.
fn unpacked(outputs: usize, inputs: usize, row: impl Fn(usize, &mut [f32])) -> Vec<f32> {
    let mut weights = vec![0.0; outputs * inputs];
    weights.chunks_mut(inputs).enumerate().for_each(|(index, out)| row(index, out));
    weights
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn both_products_equal_the_plain_ones(
        rows in 1usize..140, outputs in 1usize..70, inputs in 1usize..70, seed in any::<u64>(),
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

    /// The bf16 product is the f32 product over rounded weights, up to rounding of the sums; weights round to the
    /// nearest.
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

    /// The 8-bit product against the plain one over the dequantised weights. Activations are rounded to 1/254 of their
    /// range, so the bound is half of that times the weights' sizes.
    #[test]
    fn int8_is_the_plain_product_of_rounded_values(
        rows in 1usize..75, outputs in 1usize..70, inputs in 1usize..140, seed in any::<u64>(), nibbles in any::<bool>(),
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
            let packed = Weight::new(&[&values(outputs * inputs, seed)], inputs, PassPrecisions::decode_only(precision));
            let (mut joint, mut alone) = (vec![0.0; rows * outputs], vec![0.0; outputs]);
            packed.decode(&x, &mut joint);
            for row in 0..rows {
                packed.decode(&x[row * inputs..][..inputs], &mut alone);
                prop_assert!(joint[row * outputs..][..outputs].iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }
}

fn floats(sums: &Sums) -> Vec<f32> {
    sums.iter().flat_map(|lane| lane.0).collect()
}

#[test]
fn every_instruction_set_gives_the_same_tile() {
    let inputs = 77;
    let packed = PackedMatrix::new(&[&values(inputs * PANEL, 3)], inputs);
    let x = values(ROWS_MAX * inputs, 4);
    for height in 1..=ROWS_MAX {
        let rows_packed: Vec<f32> = (0..height * inputs).map(|i| x[i % height * inputs + i / height]).collect();
        let tile = |isa: Isa, a: Lhs<'_>| {
            let mut sums = NO_SUMS;
            tile(isa, height, a, RhsPanels::one(packed.panel(0)), (&mut sums, 0), Beta::One);
            let mut stored = [Line([7.0; PANEL]); ROWS_MAX];
            tile(isa, height, a, RhsPanels::one(packed.panel(0)), (&mut stored, 0), Beta::Zero);
            assert_eq!(stored[..height], sums[..height], "{isa:?}, {height} rows");
            sums
        };
        let rows = Strided::rows(&x[..height * inputs], inputs);
        let strided = Lhs::Strided(rows);
        let able: Vec<Isa> = Isa::all().into_iter().filter(|isa| height <= isa.single_panel_rows()).collect();
        for pair in able.windows(2) {
            let (one, other) = (tile(pair[0], strided), tile(pair[1], strided));
            assert_close(&floats(&one), &floats(&other), rounding(inputs));
            if pair[0] != Isa::Portable {
                // Fused in the same order: equal to the last bit, so that a run does not depend on the processor.
                assert_eq!(one, other);
            }
        }
        for isa in able {
            for other in [Lhs::Cached(rows), Lhs::PackedRows { rows: &rows_packed, next: packed.panel(0) }] {
                assert_eq!(tile(isa, strided), tile(isa, other), "{isa:?}, {height} rows");
            }
        }
    }
}

#[test]
fn rows_and_columns_are_packed_in_the_order_of_tiles() {
    // One row or column; tiles and depths that are not multiples of four; depths longer than one piece of packing.
    for (rows, depth) in [(1, 1), (96, 1), (1, 96), (7, 5), (13, 64), (31, 131)] {
        let values = values(rows * depth, 3);
        for (a, isa) in Isa::all()
            .into_iter()
            .flat_map(|isa| [(Strided::rows(&values, depth), isa), (Strided::columns(&values, rows), isa)])
        {
            let mut got = vec![];
            packed_rows::pack_tiles(isa, a, rows, depth, &mut got);
            let in_tile = |tile: std::ops::Range<usize>| {
                (0..depth).flat_map(move |k| tile.clone().map(move |row| a.values[row * a.row + k * a.step]))
            };
            let expected: Vec<f32> = tiles(rows, isa.rows()).flat_map(in_tile).collect();
            assert_eq!(got, expected, "{isa:?}, {rows} rows of {depth}, {} apart", a.row);
        }
    }
}

#[test]
fn a_tile_of_several_panels_is_a_tile_of_each() {
    let (inputs, stride) = (77, ROWS_MAX + 1);
    let packed = PackedMatrix::new(&[&values(3 * PANEL * inputs, 3)], inputs);
    let x = values(ROWS_MAX * inputs, 4);
    for isa in Isa::all() {
        for (height, count) in (1..=isa.rows()).flat_map(|height| (1..=isa.panels()).map(move |count| (height, count)))
        {
            let rows = Strided::rows(&x[..height * inputs], inputs);
            let transposed = Lhs::Transposed { weights: packed.panel(0), inputs: 5, next: &[] };
            let rows_packed = Lhs::PackedRows { rows: &x[..height * inputs], next: packed.panel(1) };
            for a in [Lhs::Strided(rows), Lhs::Cached(rows), rows_packed, transposed] {
                for beta in [Beta::One, Beta::Zero] {
                    let mut joint: Vec<Lane> = (0..3 * stride).map(|lane| Line([lane as f32; PANEL])).collect();
                    let mut alone = joint.clone();
                    let panels = packed.panels(&(0..count), &(0..inputs));
                    tile(isa, height, a, panels, (&mut joint, stride), beta);
                    for (panel, sums) in alone.chunks_exact_mut(stride).take(count).enumerate() {
                        tile(isa, height, a, RhsPanels::one(packed.panel(panel)), (sums, 0), beta);
                    }
                    assert_eq!(joint, alone, "{isa:?}, {height} rows and {count} panels");
                }
            }
        }
    }
}

#[test]
fn inputs_of_packed_weights_are_rows_of_a_tile() {
    let (outputs, inputs) = (75, 40);
    let w = values(outputs * inputs, 3);
    let packed = PackedMatrix::new(&[&w], inputs);
    let lanes: Vec<_> = values(outputs * PANEL, 4).chunks(PANEL).map(|lane| Line(lane.try_into().unwrap())).collect();
    for (height, first, from) in [(1, 0, 0), (6, 33, 16), (12, 28, 64)] {
        for isa in Isa::all().into_iter().filter(|isa| height <= isa.single_panel_rows()) {
            let (mut sums, lanes) = (NO_SUMS, &lanes[from..]);
            let weights = packed.lanes_from(from / PANEL, first);
            let transposed = Lhs::Transposed { weights, inputs, next: lanes };
            tile(isa, height, transposed, RhsPanels::one(lanes), (&mut sums, 0), Beta::One);
            let transposed: Vec<f32> = (0..height * lanes.len())
                .map(|i| w[(from + i % lanes.len()) * inputs + first + i / lanes.len()])
                .collect();
            let expected = plain(&transposed, height, lanes.len(), PANEL, |k, column| lanes[k].0[column]);
            assert_close(&floats(&sums)[..height * PANEL], &expected, rounding(outputs));
        }
    }
}

#[test]
fn a_gradient_of_factors_is_the_sum_of_outer_products() {
    // Columns that begin within a panel, a partial last panel, and enough work for several threads.
    for (rows, width, columns, u_width, u_columns) in
        [(1, 3, 0..2, 2, 1..2), (70, 90, 10..90, 21, 5..21), (9, 40, 3..40, 1, 0..1), (600, 150, 7..150, 40, 3..40)]
    {
        let (x, u) = (values(rows * width, 1), values(rows * u_width, 2));
        let of_x = ColumnSlice { values: &x, width, columns: columns.clone() };
        let of_u = ColumnSlice { values: &u, width: u_width, columns: u_columns.clone() };
        let [mut found, mut other] =
            [vec![f32::NAN; columns.len() * u_columns.len()], vec![f32::NAN; columns.len() * u_columns.len()]];
        OuterProduct::new(&of_x, &of_u, &mut found).run();
        let share = if u_columns.len().is_multiple_of(2) { other.len() / 2 } else { other.len() };
        let mut shares: Vec<Vec<f32>> = other.chunks(share).map(<[f32]>::to_vec).collect();
        OuterProduct::transposed(&of_x, &of_u, &mut shares).run();
        other = shares.concat();
        let transposed: Vec<f32> =
            columns.clone().flat_map(|c| (0..rows).map(move |row| row * width + c)).map(|i| x[i]).collect();
        let expected =
            plain(&transposed, columns.len(), rows, u_columns.len(), |row, c| u[row * u_width + u_columns.start + c]);
        assert_close(&found, &expected, rounding(rows));
        let count = u_columns.len();
        let back: Vec<f32> = (0..found.len()).map(|i| other[i % count * columns.len() + i / count]).collect();
        assert_eq!(found, back);
    }
}

#[test]
fn a_branch_adds_to_its_linear_forward_and_backward() {
    // Rows that do not fill chunks evenly, a depth of two steps, widths that end within a panel.
    let (rows, outputs, inputs, width) = (203, 1103, 37, 21);
    let blocks = [(0..510, 0..9), (510..1103, 9..21)];
    let [w, a, mut b] =
        [(outputs * inputs, 1), (width * inputs, 2), (outputs * width, 3)].map(|(len, seed)| values(len, seed));
    for (outputs, inner) in &blocks {
        for row in outputs.clone() {
            (0..width).filter(|k| !inner.contains(k)).for_each(|k| b[row * width + k] = 0.0);
        }
    }
    let packed = [(&w, inputs), (&a, inputs), (&b, width)].map(|(values, inputs)| PackedMatrix::new(&[values], inputs));
    let branch = Some(gemm_lora::LoraBranch { a: &packed[1], b: &packed[2], blocks: &blocks });
    let (x, dy) = (values(rows * inputs, 4), values(rows * outputs, 5));
    let (mut u, mut y) = (vec![f32::NAN; rows * width], vec![f32::NAN; rows * outputs]);
    gemm_lora::forward(&packed[0], branch, &x, &mut u, &mut y);
    assert_close(&u, &plain(&x, rows, inputs, width, |k, n| a[n * inputs + k]), rounding(inputs));
    let (base, addend) = (
        plain(&x, rows, inputs, outputs, |k, n| w[n * inputs + k]),
        plain(&u, rows, width, outputs, |k, n| b[n * width + k]),
    );
    let expected: Vec<f32> = base.iter().zip(&addend).map(|(base, addend)| base + addend).collect();
    assert_close(&y, &expected, 2.0 * rounding(inputs));
    let (mut du, mut dx) = (vec![f32::NAN; rows * width], vec![f32::NAN; rows * inputs]);
    gemm_lora::backward(&packed[0], branch, &dy, [&mut du, &mut dx], thread_pool::Overlap::NONE);
    assert_close(&du, &plain(&dy, rows, outputs, width, |n, k| b[n * width + k]), rounding(outputs));
    let (base, addend) = (
        plain(&dy, rows, outputs, inputs, |n, k| w[n * inputs + k]),
        plain(&du, rows, width, inputs, |n, k| a[n * inputs + k]),
    );
    let expected: Vec<f32> = base.iter().zip(&addend).map(|(base, addend)| base + addend).collect();
    assert_close(&dx, &expected, 2.0 * rounding(outputs) * width as f32);
}

#[test]
fn matrices_are_stacked_and_rows_come_back() {
    let (first, second) = (values(3 * 5, 1), values(20 * 5, 2));
    for (precision, tolerance) in [(Precision::F32, 0.0), (Precision::Bf16, 4e-3), (Precision::Int8, 9e-3)] {
        let packed = Weight::new(&[&first, &second], 5, PassPrecisions::decode_only(precision));
        let mut row = [0.0; 5];
        packed.decode_row(2, &mut row);
        assert_close(&row, &first[10..15], tolerance);
        packed.decode_row(3 + 19, &mut row);
        assert_close(&row, &second[95..100], tolerance);
    }
}

#[test]
fn the_score_pass_reads_a_narrow_form_as_it_is_held_in_each_block() {
    // 43 outputs end within a panel, 70 inputs within a block; the second matrix is on 16 steps.
    let (outputs, inputs) = (43, 70);
    let coarse: Vec<f32> = values(outputs * inputs, 7).iter().map(|w| (w * 7.0).round() / 8.0).collect();
    for w in [values(outputs * inputs, 6), coarse] {
        for precision in Precision::ALL {
            let weight = Weight::new(&[&w], inputs, PassPrecisions::both(Precision::Int8, precision));
            let mut scratch = PackedMatrix::default();
            let held = unpacked(outputs, inputs, |row, out| weight.score_row(row, out));
            let whole = weight.score_in(&mut scratch).clone();
            assert_eq!(whole.values(), PackedMatrix::new(&[&held], inputs).values(), "{precision}: padding is 0");
            let (block, first) = weight.score_panels(&(1..3), &mut scratch);
            for output in 16..outputs {
                let mut row = vec![0.0; inputs];
                block.row(output - first * PANEL, &mut row);
                assert_eq!(row, held[output * inputs..][..inputs], "{precision}: output {output}");
            }
        }
    }
}

#[test]
fn passes_of_one_precision_share_their_weights() {
    let w = values(64 * 64, 3);
    for (decode, score) in Precision::ALL.into_iter().flat_map(|one| Precision::ALL.map(|other| (one, other))) {
        let alone = |precision| Weight::new(&[&w], 64, PassPrecisions::decode_only(precision)).bytes();
        let both = PassPrecisions::both(decode, score);
        let held = Weight::new(&[&w], 64, both);
        assert_eq!(held.bytes(), Weight::planned_bytes(64, 64, both, false), "{both:?}");
        assert_eq!(held.decode_bytes(), alone(decode));
        assert_eq!(held.bytes(), alone(decode) + if decode == score { 0 } else { alone(score) }, "{both:?}");
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
fn a_nan_weight_is_not_hidden_by_rounding() {
    let mut w = values(4 * 64, 5);
    w[64 + 40] = f32::NAN;
    let mut y = [0.0; 4];
    Int8Matrix::new(&[&w], 64).forward(&values(64, 6), &mut y);
    assert!(y[1].is_nan() && [y[0], y[2], y[3]].iter().all(|y| y.is_finite()), "{y:?}");
}

#[test]
fn steps_of_outputs_are_whole_panels_and_nearly_equal() {
    for outputs in [1, 16, 40, 288, 289, 576, 960, 1103, 3072] {
        let steps: Vec<_> = rhs::steps(outputs).collect();
        let panels: Vec<usize> = steps.iter().map(|step| step.len().div_ceil(PANEL)).collect();
        assert_eq!((steps[0].start, steps[steps.len() - 1].end), (0, outputs));
        assert!(steps.windows(2).all(|pair| pair[0].end == pair[1].start && pair[1].start.is_multiple_of(PANEL)));
        let (least, most) = (panels.iter().min().unwrap(), panels.iter().max().unwrap());
        assert!(most - least <= 1 && most * PANEL <= rhs::OUTPUTS, "{outputs} outputs in {panels:?} panels");
    }
}

#[test]
fn next_weights_are_prefetched_once() {
    let packed = PackedMatrix::new(&[&values(5 * PANEL * 30, 3)], 30);
    for (panels, inputs, steps) in
        [(1..2, 0..30, 7), (1..3, 0..30, 40), (2..5, 4..25, 3), (3..9, 0..30, 8), (5..6, 0..30, 4)]
    {
        let mut prefetch = weight_prefetch::WeightPrefetch::new(&packed, panels.clone(), inputs.clone(), steps);
        let asked: Vec<*const Lane> = (0..steps).flat_map(|_| prefetch.step()).map(std::ptr::from_ref).collect();
        let there = panels.start..panels.end.min(5);
        let expected = there.flat_map(|panel| &packed.panel(panel)[inputs.clone()]).map(std::ptr::from_ref);
        assert_eq!(asked, Vec::from_iter(expected), "{panels:?}, {inputs:?} in {steps} steps");
    }
}
