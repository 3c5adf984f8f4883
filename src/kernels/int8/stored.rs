//! The bytes of a packed matrix, as a file keeps them: the same for every instruction set.
//!
//! Codes and scales are integers and bits of f16, so that any bytes are a matrix, if not the right one.

use super::layout::{BLOCK_INPUTS, Scales, WeightCodes};
use crate::kernels::layout::PANEL;
use serde::{Deserialize, Serialize};

/// What a matrix is beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredInt8 {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) nibbles: bool,
    pub(super) unit: f32,
}

impl StoredInt8 {
    /// The layout: panels of 16 outputs, blocks of 32 inputs, the processor's order of bytes. Another is another name.
    pub(crate) const LAYOUT: &str = if cfg!(target_endian = "little") { "int8 16x32 little" } else { "int8 16x32 big" };

    /// Rows and columns of the matrix.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.outputs, self.inputs]
    }

    /// Lengths of its codes and of its scales, in bytes.
    pub(crate) fn bytes(&self) -> [usize; 2] {
        let blocks = self.blocks();
        [blocks * self.lines() * size_of::<WeightCodes>(), blocks * size_of::<Scales>()]
    }

    pub(super) fn lines(&self) -> usize {
        if self.nibbles { 4 } else { 8 }
    }

    pub(super) fn blocks(&self) -> usize {
        self.outputs.div_ceil(PANEL) * self.inputs.div_ceil(BLOCK_INPUTS)
    }
}

/// Types without padding, of which all bit patterns are values.
pub(super) trait Plain {}
impl Plain for WeightCodes {}
impl Plain for Scales {}

const _: () = assert!(size_of::<Scales>() == 2 * PANEL * size_of::<u16>(), "scales have no padding");

/// The bytes of `values`.
pub(super) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: the values have no padding; the length is theirs, and the borrow is the result's.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// [`bytes_of`], mutable.
pub(super) fn bytes_of_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as above; the borrow is exclusive, and whatever is written are values.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}
