//! Packed linear layers: `y = x W^T` and its transpose `dx = dy W`, on the CPU.
//!
//! A weight is laid out once, at load, in panels of 16 output columns, input-major, so that the
//! micro-kernel reads it front to back. Every output is one chain of fused multiply-adds in the order of
//! the inputs, whatever the number of rows and the processor: a row's result does not depend on who
//! shares its batch, to the last bit. The only `unsafe` of the crate that touches weights lives here.

pub(crate) mod attention;
mod bf16;
mod full;
pub(crate) mod gemm_lora;
mod int8;
mod int8_rows;
mod isa;
pub(crate) mod ops;
mod outer;
mod packed_rows;
mod panel;
mod rhs;
mod rows;
mod strided;
pub(crate) mod thread_pool;
mod tile;
mod trained;
mod transpose16;
mod vocabulary;
mod weight;
mod weight_prefetch;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_bf16;
#[cfg(target_arch = "x86_64")]
mod x86_int8;
#[cfg(target_arch = "x86_64")]
mod x86_row8;

pub use bf16::Bf16Matrix;
pub use full::PackedMatrix;
pub use int8::Int8Matrix;
#[cfg(target_arch = "x86_64")]
pub(crate) use isa::{has_avx2_fma, has_avx512};
pub(crate) use outer::{ColumnSlice, OuterProduct};
pub(crate) use pages::advise_huge_pages;
pub(crate) use panel::Panel;
pub(crate) use rows::Rows;
pub(crate) use strided::{Accumulator, PackedOperand, Strided};
pub(crate) use trained::{add_row, add_weight_gradient, pack_rows, packed_len, unpack_rows};
pub(crate) use vocabulary::{log_probs, working_floats as log_probs_floats};
pub use weight::{Precision, Weight};

use std::ops::Range;

mod pages;
pub mod peak;

/// Output columns of one panel: one AVX-512 register of f32, or two of AVX2.
const PANEL: usize = 16;
/// Rows of the largest tile of any instruction set.
const ROWS_MAX: usize = 14;
/// Multiply-adds below which waking a second thread costs more than it gives.
const PARALLEL_MIN: usize = 1 << 17;
/// Pieces of a product for each thread.
const PIECES: usize = 8;
/// The same of a long product: who is done first waits for the end of one piece at most.
const PIECES_LONG: usize = 16;
/// Multiply-adds from which a product is long.
const LONG: usize = 1 << 26;

/// Sums of one tile, `[row][column]`; as many rows as the tile has are written.
type Sums = [Lane; ROWS_MAX];

/// Sums that no tile wrote yet.
const NO_SUMS: Sums = [NO_SUM; ROWS_MAX];

/// A sum of nothing.
const NO_SUM: Lane = Line([0.0; PANEL]);

/// 16 floats that share a row or an input, one cache line.
type Lane = Line<[f32; PANEL]>;

/// One cache line of packed weights.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Line<T>(T);

/// Whether tiles are more than loops: without them they are no faster, and round otherwise.
pub(crate) fn has_tiles() -> bool {
    isa::Isa::detect() >= isa::Isa::Avx2
}

/// Asks for `values` from memory while something else is computed. A hint, nothing on processors without it.
#[inline(always)]
pub(crate) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch_all(values);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Runs `work` for each panel of `columns` result columns, on several threads where `multiply_adds` pay for it.
fn each_panel(columns: usize, multiply_adds: usize, work: impl Fn(usize) + Send + Sync) {
    each_piece(columns, multiply_adds, |panels| panels.for_each(&work));
}

/// Runs `work` for pieces of neighbouring panels of `columns` result columns, on several threads where `multiply_adds` pay
/// for it.
fn each_piece(columns: usize, multiply_adds: usize, work: impl Fn(Range<usize>) + Send + Sync) {
    let panels = usize::div_ceil(columns, PANEL);
    if multiply_adds < PARALLEL_MIN {
        return work(0..panels);
    }
    // Several pieces a thread: enough to even out, few enough that neighbours read a row's codes from the cache.
    let pieces = if multiply_adds < LONG { PIECES } else { PIECES_LONG };
    let piece = usize::div_ceil(panels, pieces * thread_pool::threads());
    thread_pool::each(panels.div_ceil(piece), |index| work(index * piece..panels.min((index + 1) * piece)));
}

/// Splits `rows` into tiles of at most `most` rows, nearly equal ones: 32 rows are 11 + 11 + 10, not two
/// fourteens and a straggler of four.
fn tiles(rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = usize::div_ceil(rows, most);
    (0..count).map(move |tile| rows * tile / count..rows * (tile + 1) / count)
}

/// Floats from one row of `width` floats to the next where rows are met column by column: rows that all begin in the same few
/// sets of the cache would drive each other out.
pub(crate) fn padded_stride(width: usize) -> usize {
    /// Floats of half a page: 64 sets of a line each are a page.
    const HALF: usize = 512;
    if width.is_multiple_of(HALF) { width + PANEL } else { width }
}

/// A row-major result whose column ranges are written from several threads.
struct Columns<'a> {
    start: *mut f32,
    len: usize,
    width: usize,
    /// Floats from a row to the next.
    apart: usize,
    _result: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: `write` is the only access, and each panel of columns is written by one thread only.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    fn new(result: &'a mut [f32], width: usize) -> Self {
        Self::apart(result, width, width)
    }

    /// A result whose rows are `apart` floats apart.
    fn apart(result: &'a mut [f32], width: usize, apart: usize) -> Self {
        assert!(width <= apart, "rows of {width} floats that are {apart} apart");
        Self { start: result.as_mut_ptr(), len: result.len(), width, apart, _result: std::marker::PhantomData }
    }

    /// Writes `values` to row `row` from column `first` on; what lies past the last column is dropped.
    fn write(&self, row: usize, first: usize, values: &[f32; PANEL]) {
        let (to, count) = self.place(row, first);
        /// Out of line: beside the other store the compiler would make one call of both.
        ///
        /// # Safety
        /// The first `count` floats from `to` on must be there, and nobody else at them.
        #[cold]
        #[inline(never)]
        unsafe fn write_some(to: *mut f32, values: &[f32; PANEL], count: usize) {
            // SAFETY: as the caller's; `count` is at most a panel.
            unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), to, count.min(PANEL)) }
        }
        // SAFETY: the range was checked, and no other panel writes these columns.
        unsafe {
            if count == PANEL {
                to.cast::<[f32; PANEL]>().write_unaligned(*values);
            } else {
                write_some(to, values, count);
            }
        }
    }

    /// Asks for the line where row `row` has column `first`, as far as the second cache.
    fn fetch(&self, row: usize, first: usize) {
        weight_prefetch::fetch(self.place(row, first).0.cast_const());
    }

    /// Where row `row` has column `first`, and how many of a panel's columns lie in the result.
    fn place(&self, row: usize, first: usize) -> (*mut f32, usize) {
        let count = PANEL.min(self.width - first);
        let offset = row * self.apart + first;
        assert!(offset + count <= self.len, "row {row}, column {first} lies in the result");
        (self.start.wrapping_add(offset), count)
    }
}

#[cfg(test)]
mod tests;
