//! Packed linear layers, attention and elementwise loops, on the CPU.
//!
//! A weight is laid out once, at load, in panels of 16 output columns, input-major, so that a tile reads it front to
//! back. Every output is one chain of fused multiply-adds in the order of the inputs, whatever the number of rows and
//! the processor: a row's result does not depend on its batch, to the last bit. Knows no model, no file format and no
//! tensor library. The room with `unsafe`, so the allocator's limits and the loading of CUDA's libraries are here too.

mod activation_rows;
pub(crate) mod attention;
pub mod bandwidth;
mod bf16;
#[cfg(target_arch = "x86_64")]
mod bf16_dots;
#[cfg(target_arch = "x86_64")]
mod bf16_gemm;
mod column_writer;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod cuda;
mod cut_cross_entropy;
mod gemm;
pub(crate) mod gemm_lora;
mod heap_limit;
mod huge_pages;
mod int8;
mod isa;
mod layout;
mod lazy_zeros;
mod matmul;
mod matmul_precision;
mod matrix_rows;
mod operands;
pub(crate) mod ops;
mod outer_product;
mod packed_matrix;
mod packed_rows;
mod panel_buffer;
mod parallel;
pub mod peak;
mod precision;
mod prefetch;
mod rhs;
pub(crate) mod thread_pool;
mod tile;
mod transpose16;
mod weight;
mod weight_gradient;
mod weight_prefetch;

pub(crate) use activation_rows::ActivationRows;
pub use bf16::Bf16Matrix;
pub(crate) use cut_cross_entropy::{
    block_floats as log_probs_block_floats, log_probs, working_floats as log_probs_floats,
};
pub use heap_limit::{HeapLimit, LimitedAllocator};
pub(crate) use huge_pages::advise_huge_pages;
pub use int8::{Int8Matrix, StoredInt8};
pub(crate) use isa::has_tiles;
#[cfg(target_arch = "x86_64")]
pub(crate) use isa::{has_avx2_fma, has_avx512};
pub(crate) use layout::padded_stride;
pub(crate) use lazy_zeros::LazyZeros;
pub(crate) use matmul::{Accumulator, PackedOperand};
pub use matmul_precision::MatmulPrecision;
pub(crate) use matrix_rows::CODED_INPUTS;
pub use matrix_rows::{CodedBlock, MatrixRows};
pub(crate) use operands::Strided;
pub(crate) use outer_product::{ColumnSlice, OuterProduct};
pub use packed_matrix::PackedMatrix;
pub(crate) use packed_matrix::{add_row, pack_rows, packed_len, unpack_rows};
pub(crate) use panel_buffer::PanelBuffer;
pub use precision::{KvKind, KvPrecision, PassPrecisions, Precision};
pub(crate) use prefetch::prefetch;
pub use weight::Weight;
pub(crate) use weight_gradient::add_weight_gradient;

/// The instruction set that the kernels of this process use: `portable`, `avx2`, `avx512` or `avx512-vnni`.
pub fn path() -> &'static str {
    isa::Isa::detect().name()
}

#[cfg(test)]
mod tests;
