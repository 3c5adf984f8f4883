//! Tiles of the 8-bit product. The instructions are chosen at run time.

use super::layout::{Int8Panel, Row8, RowBlock, WeightCodes};
use crate::kernels::isa::Isa;
use crate::kernels::layout::{Lane, PANEL};
use half::f16;

/// Groups of eight rows in the largest tile.
pub(super) const ROW8S_MAX: usize = 4;

/// The code of one weight in the lines of its block.
pub(super) fn code(lines: &[WeightCodes], output: usize, input: usize) -> u8 {
    match lines.len() {
        4 => lines[input / 8].0[output * 4 + input % 4] >> (input / 4 % 2 * 4) & 15,
        _ => lines[input / 4].0[output * 4 + input % 4],
    }
}

/// `count` groups of eight rows times a panel of as many blocks: two neighbouring groups are the columns of a square of
/// outputs.
pub(super) fn row8_tile(count: usize, a: &[Row8], panel: Int8Panel<'_>, squares: &mut [[Lane; PANEL]; 2]) {
    let (depth, lines) = (panel.scales.len(), panel.lines());
    assert!((1..=ROW8S_MAX).contains(&count) && a.len() == count * depth, "a tile of {count} times eight rows");
    #[cfg(target_arch = "x86_64")]
    {
        use super::x86_row8::tile_avx2;
        macro_rules! by_count {
            ($($c:literal)+) => {
                match (count, lines) {
                    $(
                        // SAFETY: rows are interleaved only where the processor has AVX2, FMA and F16C; `a` has `count`
                        // groups of as many blocks as the panel, and the panel 4 lines of nibbles a block, as just
                        // checked.
                        ($c, 4) => unsafe { tile_avx2::<$c, true>(a, panel, squares) },
                        // SAFETY: as above, with 8 lines of bytes a block.
                        ($c, _) => unsafe { tile_avx2::<$c, false>(a, panel, squares) },
                    )+
                    _ => unreachable!("the count was just checked"),
                }
            };
        }
        by_count!(1 2 3 4);
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("interleaved rows on a processor without their tile: {lines} lines, {squares:?}");
}

/// `height` rows times a panel of as many blocks.
pub(super) fn tile(isa: Isa, height: usize, a: &[RowBlock], panel: Int8Panel<'_>, sums: &mut [Lane]) {
    let depth = panel.scales.len();
    assert!((1..=isa.int8_rows()).contains(&height) && a.len() == height * depth, "a tile of {height} rows");
    let lines = panel.lines();
    #[cfg(target_arch = "x86_64")]
    {
        use super::x86::{tile_avx2, tile_vnni};
        macro_rules! by_height {
            ($tile:ident: $($h:literal)+) => {
                match (height, lines) {
                    $(
                        // SAFETY: the processor has the instructions; `a` has `height` rows of as many blocks as the
                        // panel, and the panel 4 lines of nibbles a block, as just checked.
                        ($h, 4) => unsafe { $tile::<$h, true>(a, panel, sums) },
                        // SAFETY: as above, with 8 lines of bytes a block.
                        ($h, _) => unsafe { $tile::<$h, false>(a, panel, sums) },
                    )+
                    _ => unreachable!("the height was just checked"),
                }
            };
        }
        if isa == Isa::Vnni {
            by_height!(tile_vnni: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            return;
        }
        if isa != Isa::Portable {
            by_height!(tile_avx2: 1 2 3 4 5 6);
            return;
        }
    }
    portable_tile(height, a, panel, sums);
}

/// The same product without intrinsics, fused alike.
fn portable_tile(height: usize, a: &[RowBlock], panel: Int8Panel<'_>, sums: &mut [Lane]) {
    let depth = panel.scales.len();
    let lines = panel.codes.len() / depth;
    for (row, sums) in sums.iter_mut().enumerate().take(height) {
        let sums = &mut sums.0;
        sums.fill(0.0);
        for (block, (a, scales)) in a[row * depth..][..depth].iter().zip(panel.scales).enumerate() {
            let codes = &panel.codes[block * lines..][..lines];
            for (output, sum) in sums.iter_mut().enumerate() {
                let product = |(input, &a): (usize, &i8)| i32::from(code(codes, output, input)) * i32::from(a);
                let integer: i32 = a.codes.iter().enumerate().map(product).sum();
                let [step, floor] = [scales.step, scales.floor].map(|bits| f16::from_bits(bits[output]).to_f32());
                *sum = a.step.mul_add(floor.mul_add(a.sum, integer as f32 * step), *sum);
            }
        }
        for sum in sums.iter_mut() {
            *sum *= panel.unit;
        }
    }
}
