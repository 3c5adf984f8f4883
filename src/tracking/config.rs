//! Where a run's figures go.

use serde::{Deserialize, Serialize};

/// Where a run's figures go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrackingConfig {
    /// Size limit of the run's file of figures, in MiB; 0 for no file.
    pub figures_mib: u64,
    /// The folder of TensorBoard's event files; empty for none.
    pub tensorboard: String,
}

impl TrackingConfig {
    /// Complaints about its values.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.figures_mib > FIGURES_MIB_MAX {
            let got = self.figures_mib;
            complaints.push(format!("tracking.figures_mib: expected at most {FIGURES_MIB_MAX}, got {got}"));
        }
        if !self.tensorboard.is_empty() && self.figures_mib == 0 {
            let got = &self.tensorboard;
            complaints.push(format!(
                "tracking.tensorboard: expected \"\" where tracking.figures_mib is 0, because event files are made from the file \
                 of figures, got {got:?}"
            ));
        }
        complaints
    }
}

/// The largest size limit: the file is read whole when a run is resumed.
const FIGURES_MIB_MAX: u64 = 1024;
