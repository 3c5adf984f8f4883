//! Why the learner refuses a config, a saved state or a step.

use super::config::Mode;
use crate::formats::spec::Projection;

/// Why the learner refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The step was abandoned; nothing changed.
    #[error("the learner step was abandoned")]
    Abandoned,
    /// A trainable tensor got no gradient.
    #[error("trainable tensor {name} received no gradient")]
    NoGradient {
        /// Its name.
        name: String,
    },
    /// A saved state lacks one of the learner's tensors, or holds it in another size.
    #[error("tensor {name} is missing from the saved learner or has another size")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A saved adapter does not have the factors that the config asks for.
    #[error("saved adapter: expected rank {rank} on {targets:?} in every layer; change the config back or start anew")]
    OtherAdapter {
        /// The rank asked for.
        rank: usize,
        /// The targets asked for.
        targets: Vec<Projection>,
    },
    /// A saved critic was trained in another mode.
    #[error("saved critic: expected one of learner.mode {mode}; change the config back or start anew")]
    OtherMode {
        /// The mode asked for.
        mode: Mode,
    },
    /// Saved weights are those of another model.
    #[error("saved critic: expected weights of the base's names and shapes; name the model that it began as")]
    OtherModel,
    /// Loss or gradient is not finite; nothing changed.
    #[error("step {step}: {what} is {value}; the step was not taken")]
    NotFinite {
        /// The step that was not taken.
        step: u64,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// Its value.
        value: f32,
    },
    /// The gradient is larger than allowed; nothing changed.
    #[error(
        "step {step}: expected a gradient norm of at most {most} (learner.gradient_norm_max), got {norm}; the step was not taken"
    )]
    Exploded {
        /// The step that was not taken.
        step: u64,
        /// The gradient's norm.
        norm: f32,
        /// The largest allowed.
        most: f64,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] crate::transformer::Error),
}

impl Error {
    /// Whether a batch was refused and the learner's state is unchanged.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::NotFinite { .. } | Self::Exploded { .. })
    }
}
