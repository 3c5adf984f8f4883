//! A record that is its own number.

use crate::types::CritiqueGroup;

#[derive(Clone, Debug, PartialEq)]
pub struct Record(pub u64);

impl Record {
    pub(crate) fn group(&self) -> Option<&CritiqueGroup> {
        None
    }
}
