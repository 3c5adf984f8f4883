//! An adapter prepared for the score pass of one backend.

use crate::transformer::error::Result;
use crate::transformer::prepared::Prepared;
use std::any::Any;

/// An adapter in the layout of the score pass over one model's weights.
#[derive(Debug)]
pub struct ScoreAdapter(Prepared);

impl ScoreAdapter {
    /// An adapter in a backend's layout.
    pub(in crate::transformer) fn new_for<T: Any + Send + Sync>(layout: T) -> Self {
        Self(Prepared::new(layout))
    }

    /// The adapter as a backend laid it out; an error where it was prepared for another backend.
    pub(in crate::transformer) fn layout<T: Any>(&self) -> Result<&T> {
        self.0.get()
    }

    /// The same, to be refilled; `None` where it was prepared for another backend.
    pub(in crate::transformer) fn layout_mut<T: Any>(&mut self) -> Option<&mut T> {
        self.0.get_mut()
    }
}
