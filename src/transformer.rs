//! The transformer: a model's weights on a device, and the two passes over them.
//!
//! `decode` writes tokens over a paged cache; `score` gives log-probabilities that can be differentiated. Each has two
//! implementations behind one trait, `backend::Backend`: `cpu` over this crate's kernels, and `dense` over
//! tensors, which is what a GPU runs. A model chooses one when it is loaded. Knows ids, not text, and no requests.

mod backend;
mod cpu;
pub mod decode;
pub(crate) mod dense;
pub mod device;
mod error;
pub mod full_weights;
pub(crate) mod gpu_costs;
mod heads;
pub mod load;
mod model;
mod packed_cache;
mod paging;
mod prepared;
#[doc(hidden)]
pub mod probe;
mod rope;
pub mod score;
mod stack;

pub use error::{Error, Result};
pub use model::Transformer;
