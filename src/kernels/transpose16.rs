//! Transposition of 16 by 16 floats: how rows become panels, and panels rows.

#[cfg(target_arch = "x86_64")]
mod x86;

use super::isa::Isa;
use super::layout::{Lane, NO_SUM, PANEL, copy, floats, floats_mut};
use super::prefetch::prefetch;

/// Floats between the square that is transposed and the one that is prefetched.
const PREFETCH_FLOATS: usize = 4 * PANEL;

/// Transposes the first 16 by 16 floats of `from`, with rows `from_width` apart, to `to`, with rows `to_width` apart.
///
/// # Panics
/// Where `from` or `to` does not hold it.
pub(super) fn transpose16(isa: Isa, (from, from_width): (&[f32], usize), (to, to_width): (&mut [f32], usize)) {
    let holds = |len: usize, width: usize| len >= (PANEL - 1) * width + PANEL;
    assert!(holds(from.len(), from_width) && holds(to.len(), to_width), "a square of {} and {}", from.len(), to.len());
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx2 {
        // SAFETY: the processor has AVX2, and both hold a square.
        return unsafe { x86::transpose_avx2((from.as_ptr(), from_width), (to.as_mut_ptr(), to_width)) };
    }
    let _ = isa;
    for row in 0..PANEL {
        for column in 0..PANEL {
            to[column * to_width + row] = from[row * from_width + column];
        }
    }
}

/// Prefetches the square [`PREFETCH_FLOATS`] behind the beginning of `values`, with rows `width` apart.
#[inline(always)]
pub(super) fn prefetch16(values: &[f32], width: usize) {
    for row in 0..PANEL {
        prefetch(values.get(row * width + PREFETCH_FLOATS..).map_or(&[], |values| &values[..values.len().min(1)]));
    }
}

/// Packs rows that are `width` apart in panels of 16 rows, each `(depth, 16)`; rows past the last become zero.
pub(super) fn rows_to_panels<'p>(
    isa: Isa,
    (values, width): (&[f32], usize),
    rows: usize,
    panels: impl Iterator<Item = &'p mut [Lane]>,
) {
    for (lanes, first_row) in panels.zip((0..).step_by(PANEL)) {
        let (count, depth) = (PANEL.min(rows - first_row), lanes.len());
        for (lanes, first) in lanes.chunks_mut(PANEL).zip((0..).step_by(PANEL)) {
            // A panel's last squares are followed by the first ones of the next panel.
            let next =
                if first + PREFETCH_FLOATS < depth { first } else { (PANEL * width + first).saturating_sub(depth) };
            let next = values.get(first_row * width + next..).unwrap_or_default();
            let values = &values[first_row * width + first..];
            if count == PANEL && lanes.len() == PANEL {
                prefetch16(next, width);
                transpose16(isa, (values, width), (floats_mut(lanes), PANEL));
                continue;
            }
            let (mut square, mut transposed) = ([NO_SUM; PANEL], [NO_SUM; PANEL]);
            for (lane, row) in square.iter_mut().zip(values.chunks(width)).take(count) {
                copy(&row[..lanes.len()], &mut lane.0[..lanes.len()]);
            }
            transpose16(isa, (floats(&square), PANEL), (floats_mut(&mut transposed), PANEL));
            lanes.copy_from_slice(&transposed[..lanes.len()]);
        }
    }
}

/// Transposes up to 16 lanes; missing ones count as zero.
pub(super) fn transpose_lanes(isa: Isa, lanes: &[Lane], to: &mut [Lane; PANEL]) {
    if lanes.len() == PANEL {
        return transpose16(isa, (floats(lanes), PANEL), (floats_mut(to), PANEL));
    }
    let mut square = [NO_SUM; PANEL];
    square[..lanes.len()].copy_from_slice(lanes);
    transpose16(isa, (floats(&square), PANEL), (floats_mut(to), PANEL));
}

/// Writes up to 16 lanes, a column each, as `rows` rows of `to` that are `width` apart.
pub(super) fn panel_to_rows(isa: Isa, lanes: &[Lane], rows: usize, (to, width): (&mut [f32], usize)) {
    if lanes.len() == PANEL && rows == PANEL {
        return transpose16(isa, (floats(lanes), PANEL), (to, width));
    }
    let mut transposed = [NO_SUM; PANEL];
    transpose_lanes(isa, lanes, &mut transposed);
    for (row, to) in transposed.iter().zip(to.chunks_mut(width)).take(rows) {
        copy(&row.0[..lanes.len()], &mut to[..lanes.len()]);
    }
}
