//! The house rules: the source tree, and the documents.

mod docs;
pub mod tidy;
