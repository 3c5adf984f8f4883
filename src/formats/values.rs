//! The values of tensors: finite, or refused.

use super::error::{Error, Result};
use std::path::Path;

/// `values` of the tensor `name` in the file `path`, if all are finite. One NaN makes every output NaN, and a critic that
/// learns from it is lost.
///
/// # Errors
/// With the first value that is not finite.
pub(crate) fn finite(values: Vec<f32>, name: &str, path: &Path) -> Result<Vec<f32>> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(at) => {
            let why = format!("tensor {name}: expected finite values, got {} at {at}", values[at]);
            Err(Error::Malformed { path: path.to_owned(), why })
        }
    }
}
