//! How an episode ends.

use crate::types::CritiqueGroup;
pub use crate::types::DropReason;
use serde::{Deserialize, Serialize};

/// How an episode ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With a scored group.
    Group(CritiqueGroup),
    /// Without one.
    Dropped(DropReason),
}
