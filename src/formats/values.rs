//! The values of tensors: finite, or refused.

use super::error::{Error, Result};
use std::path::Path;

/// `values` of the tensor `name` in the file `path`, if all are finite. One NaN makes every output NaN, and a critic that
/// learns from it is lost.
///
/// # Errors
/// With the first value that is not finite.
pub(crate) fn finite(values: Vec<f32>, name: &str, path: &Path) -> Result<Vec<f32>> {
    match complaint(&values, 0, name) {
        None => Ok(values),
        Some(why) => Err(Error::Malformed { path: path.to_owned(), why }),
    }
}

/// The first of `values`, the first of which is the one at `first` in the tensor `name`, that is not finite, if there is
/// one, as what is wrong with the tensor.
pub(crate) fn complaint(values: &[f32], first: usize, name: &str) -> Option<String> {
    let at = values.iter().position(|value| !value.is_finite())?;
    Some(format!("tensor {name}: expected finite values, got {} at {}", values[at], first + at))
}
