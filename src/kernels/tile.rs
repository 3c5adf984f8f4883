//! Tiles: a few rows times a few panels, with the sums in registers. The instructions are chosen at run time.

#[cfg(target_arch = "x86_64")]
pub(super) mod x86;

use super::isa::Isa;
use super::layout::{Lane, NO_SUM, PANEL};
use super::operands::{Beta, Lhs, RhsPanels};

/// Multiplies `height` rows by panels as deep: `sums[p * stride + r][c] = beta * sums[..][c] + sum_k a[r][k] *
/// panel[p][k][c]`.
#[inline(always)]
pub(super) fn tile(
    isa: Isa,
    height: usize,
    a: Lhs<'_>,
    panels: RhsPanels<'_>,
    (sums, stride): (&mut [Lane], usize),
    beta: Beta,
) {
    let most = if panels.count == 1 { isa.single_panel_rows() } else { isa.rows() };
    let fits = (1..=most).contains(&height) && (1..=isa.panels()).contains(&panels.count);
    let fits = fits && (panels.count - 1) * stride + height <= sums.len();
    assert!(
        fits && panels.is_complete() && a.holds(height, panels.depth),
        "a tile of {height} rows and {} panels",
        panels.count
    );
    // Nearly all tiles have the largest size: choosing among all sizes would take longer than some tiles.
    #[cfg(target_arch = "x86_64")]
    {
        if isa == Isa::Avx2 && height == 6 {
            // SAFETY: the processor has the instructions, and rows, panels and sums were checked.
            return unsafe { x86::tile_avx2::<6, 1>(a, panels, (sums, stride), beta) };
        }
        if isa.is_wide() && height == 8 && panels.count == 3 {
            // SAFETY: as above.
            return unsafe { x86::tile_avx512::<8, 3>(a, panels, (sums, stride), beta) };
        }
        if isa.is_wide() && height == 12 {
            // SAFETY: as above; the check allows so many rows with one panel only.
            return unsafe { x86::tile_avx512::<12, 1>(a, panels, (sums, stride), beta) };
        }
    }
    smaller_tile(isa, height, a, panels, (sums, stride), beta);
}

/// Calls a tile of a height that is known when it runs.
#[cfg(target_arch = "x86_64")]
macro_rules! by_height {
    ($height:ident, $tile:ident<$count:literal>: $($h:literal)+, $a:expr, $panels:expr, $sums:expr, $beta:expr) => {
        match $height {
            // SAFETY: the processor has the instructions, and rows, panels and sums were checked.
            $($h => unsafe { x86::$tile::<$h, $count>($a, $panels, $sums, $beta) },)+
            _ => unreachable!("the height was just checked"),
        }
    };
}

/// A [`tile`] of less than the largest size, or of any size without intrinsics; sizes are checked.
#[inline(never)]
fn smaller_tile(
    isa: Isa,
    height: usize,
    a: Lhs<'_>,
    panels: RhsPanels<'_>,
    (sums, stride): (&mut [Lane], usize),
    beta: Beta,
) {
    #[cfg(target_arch = "x86_64")]
    {
        let to = (&mut *sums, stride);
        match (isa.is_wide(), panels.count) {
            (true, 1) => {
                return by_height!(height, tile_avx512<1>: 1 2 3 4 5 6 7 8 9 10 11, a, panels, to, beta);
            }
            (true, 2) => return by_height!(height, tile_avx512<2>: 1 2 3 4 5 6 7 8, a, panels, to, beta),
            (true, _) => return by_height!(height, tile_avx512<3>: 1 2 3 4 5 6 7, a, panels, to, beta),
            _ if isa == Isa::Avx2 => return by_height!(height, tile_avx2<1>: 1 2 3 4 5, a, panels, to, beta),
            _ => {}
        }
    }
    for panel in 0..panels.count {
        let (lanes, sums) =
            (&panels.lanes[panel * panels.stride..][..panels.depth], &mut sums[panel * stride..][..height]);
        if beta == Beta::Zero {
            sums.fill(NO_SUM);
        }
        match a {
            Lhs::Strided(a) | Lhs::Cached(a) => {
                portable_tile(lanes, sums, |row, k| a.values[row * a.row + k * a.step]);
            }
            Lhs::PackedRows { rows, .. } => portable_tile(lanes, sums, |row, k| rows[k * height + row]),
            Lhs::Transposed { weights, inputs, .. } => {
                portable_tile(lanes, sums, |row, k| weights[k / PANEL * inputs + row].0[k % PANEL]);
            }
        }
    }
}

/// The same product without intrinsics, of one panel and elements `at(row, k)`.
fn portable_tile(lanes: &[Lane], sums: &mut [Lane], at: impl Fn(usize, usize) -> f32) {
    for (k, lane) in lanes.iter().enumerate() {
        for (row, sums) in sums.iter_mut().enumerate() {
            let factor = at(row, k);
            for (sum, weight) in sums.0.iter_mut().zip(lane.0) {
                *sum += factor * weight;
            }
        }
    }
}
