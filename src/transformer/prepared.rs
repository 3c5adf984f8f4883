//! A value in the layout of one backend, which only that backend can read.

use crate::transformer::error::{Error, Result};
use std::any::Any;

/// An adapter or weights as one backend's pass reads them.
#[derive(Debug)]
pub(super) struct Prepared(Box<dyn Any + Send + Sync>);

impl Prepared {
    pub(super) fn new<T: Any + Send + Sync>(value: T) -> Self {
        Self(Box::new(value))
    }

    /// The value.
    ///
    /// # Errors
    /// [`Error::OtherBackend`] where it was prepared for another backend.
    pub(super) fn get<T: Any>(&self) -> Result<&T> {
        self.0.downcast_ref().ok_or(Error::OtherBackend)
    }

    /// The value, to be changed; `None` where it was prepared for another backend.
    pub(super) fn get_mut<T: Any>(&mut self) -> Option<&mut T> {
        self.0.downcast_mut()
    }
}
